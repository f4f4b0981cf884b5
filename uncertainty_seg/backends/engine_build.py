# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From an ONNX graph to a TensorRT engine, with any version of TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from uncertainty_seg.backends.tensorrt_api import TensorRt

Shape: TypeAlias = tuple[int, ...]
# Share of the work that is done, 0..1, never falling, and what is being done.
Progress: TypeAlias = Callable[[float, str], None]


@dataclass(frozen=True)
class EngineSpec:
    """
    What an engine is built for, beside its graph.

    Attributes
    ----------
    precision : str
        What the graph computes in, one of `core.model_card.PRECISIONS`.
    profiles : mapping of str to (min, opt, max)
        Shapes of each input that has a symbolic axis; the others are left out.
    is_strongly_typed : bool
        Types of the graph are kept. False is for TensorRT 8.6, which cannot.
    is_tf32 : bool
        Products of float32 may round their factors to 10 bits, as TensorRT does by itself.
    compute_capabilities : tuple of str
        What TensorRT-RTX builds for where no such GPU is, as ('8.6', '8.9'); empty for any.

    """

    precision: str
    profiles: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    is_strongly_typed: bool = True
    is_tf32: bool = True
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltEngine:
    """
    A serialised engine.

    Attributes
    ----------
    plan : bytes
        What `Runtime.deserialize_cuda_engine` takes.
    timing_cache : bytes
        What the build measured, the given cache included; empty if there is none.
    build_s : float
        How long it took.

    """

    plan: bytes
    timing_cache: bytes
    build_s: float


def build_engine(
    trt: TensorRt, graph: Path | bytes, spec: EngineSpec, progress: Progress | None = None,
    timing_cache: bytes = b'',
) -> BuiltEngine:
    """Build an engine."""
    raise NotImplementedError


def merge_timing_caches(trt: TensorRt, first: bytes, second: bytes) -> bytes:
    """Join what two builds measured; what does not fit this TensorRT and GPU is dropped."""
    raise NotImplementedError
