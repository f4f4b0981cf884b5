# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the package takes out of a module of TensorRT, for the type checker.

TensorRT ships no types, and its classes are named in annotations only. test_tensorrt_types makes
stubs of the real modules and checks every call of the package against them.

"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt


class TensorRtModule(Protocol):
    """The names of `tensorrt`, `tensorrt_rtx` or `tensorrt_rtx_bindings` that are used."""

    __name__: str
    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    ComputeCapability: type[tensorrt.ComputeCapability]  # TensorRT-RTX only
    DataType: type[tensorrt.DataType]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]  # from 10 on
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    Runtime: type[tensorrt.Runtime]
    TensorIOMode: type[tensorrt.TensorIOMode]
