# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU; a file called onnxruntime.py would hide the package."""

from __future__ import annotations

from collections.abc import Mapping
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.streaming import GPU_ONLY, StreamingBackend
from uncertainty_seg.backends.runner import (
    COMPILE,
    IMAGE,
    rounding_half,
    SUMS,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import PassInputs
from uncertainty_seg.errors import BackendUnavailableError, install_command, ModelBundleError

# Releases without this option spin for their own default time.
SPIN_US = 20
_log = logging.getLogger(__name__)


class OnnxRuntimeBackend(StreamingBackend):
    """
    Run a bundle's two graphs with ONNX Runtime; parameters and errors are those of its base.

    An int8 trunk runs in int8. fp16 graphs are simulated: computed in float32 with each result
    rounded to fp16, so that a calibration holds for a device that computes in fp16. bf16 is not
    supported.
    """

    name = 'onnxruntime'
    refused = {'bf16': 'use backend openvino', 'tf32': GPU_ONLY}

    def _import(self) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise BackendUnavailableError(
                f'onnxruntime cannot be imported ({err})', fix=install_command('onnxruntime')
            ) from err
        self._ort: Any = onnxruntime

    def _open(self, bundle: ModelBundle, passes: bytes) -> None:
        self._trunk: Any = self._open_session(bundle.trunk_path, bundle.trunk_path.read_bytes())
        self._passes: Any = self._open_session(bundle.passes_path, passes)
        self._tensors: dict[str, Any] = {}
        _log.info('onnxruntime %s, %d threads%s', self._ort.__version__, self._threads,
                  ', fp16 simulated' if self.precision == 'fp16' else '')

    def _open_session(self, path: Path, content: bytes) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning between operators avoids waking the threads (trunk 14 -> 11 ms on two cores);
        # after the last operator it would keep the cores from the rest of the frame.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        # Spin only as long as the gap between operators: if other programs use the cores, threads
        # that spin for a millisecond delay the very work that they wait for.
        options.add_session_config_entry('session.intra_op.spin_duration_us', str(SPIN_US))
        try:
            return self._ort.InferenceSession(
                rounding_half(content) if self.precision == 'fp16' else content, options,
                providers=['CPUExecutionProvider'])
        except Exception as err:  # ONNX Runtime's errors have no narrower base class
            raise ModelBundleError(f'onnxruntime cannot open {path} ({err})', fix=COMPILE) from err

    def _run_trunk(self, batch: ImageU8) -> None:
        image = self._ort.OrtValue.ortvalue_from_numpy(batch)
        features = self._trunk.run_with_ort_values(self._names.trunk_outputs, {IMAGE: image})
        self._tensors = {
            IMAGE: image, **dict(zip(self._names.trunk_outputs, features, strict=True))}

    def _run_passes(
        self, parts: PassInputs, passes: int
    ) -> Mapping[str, NDArray[np.float32]]:
        values = {name: self._ort.OrtValue.ortvalue_from_numpy(part)
                  for name, part in parts.items()}
        values |= {name: self._tensors[name] for name in self._names.inputs if name not in parts}
        found = self._passes.run_with_ort_values(SUMS, values)
        return {name: value.numpy() for name, value in zip(SUMS, found, strict=True)}

    def _trunk_output(self, name: str) -> NDArray[np.float32]:
        return np.array(self._tensors[name].numpy())

    def _free(self) -> None:
        self._trunk = self._passes = None
        self._tensors = {}
