# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
OpenVINO on the CPU, the fastest of the runtimes on x86.

It computes in bf16 by itself on processors that have it, so the precision is always asked for by
name. A head with a fixed number of passes takes a quarter less time and half the memory of one
that takes any, so one is compiled for each size of chunk. Nothing is written to disk, and nothing
is sent: `import openvino` does both unless it is kept from it.

"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
from pathlib import Path
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.graph_files import COMPILE, IMAGE, LOGITS, with_masks
from uncertainty_seg.backends.openvino_graph import (
    channels_last,
    planes_between,
    transpose_upsampled,
)
from uncertainty_seg.backends.streaming import Masks, StreamingBackend
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.errors import BackendUnavailableError, ModelBundleError

_DEVICE = 'CPU'
_TELEMETRY = 'openvino_telemetry'
# That of the frames, and that of the two passes which prove the masks before the first frame.
_MAX_HEADS = 2
_log = logging.getLogger(__name__)


class OpenVinoBackend(StreamingBackend):
    """
    Run a bundle's two graphs with OpenVINO; parameters and errors as its base.

    Notes
    -----
    All computes in float32 unless the precision is bf16. Graphs of fp16 are read as they are and
    computed in float32; an int8 trunk runs in int8 where it is quantised.

    """

    name = 'openvino'
    is_padded = True

    def _import(self) -> None:
        self._ov: Any = import_openvino()
        self._core: Any = self._ov.Core()
        if not has_bf16(self._core):
            # It would quietly compute in float32, for which no bf16 calibration holds.
            self.refused = {'bf16': 'this processor has no bf16: set precision to fp32'}

    def _open(self, bundle: ModelBundle) -> None:
        self._head_path = bundle.head_path
        trunk, self._head = (self._read(path) for path in (bundle.trunk_path, bundle.head_path))
        self._planes = planes_between(trunk, self._head)
        self._trunk: Any = self._compile(bundle.trunk_path, trunk)
        self._trunk_call: Any = self._trunk.create_infer_request()
        self._head_calls: dict[int, Any] = {}
        self._bank_calls: dict[int, Any] = {}
        _log.info('openvino %s, %d threads, %s', self._ov.__version__, self._threads,
                  self.precision)

    def _read(self, path: Path) -> Any:
        with _named(path):
            return self._core.read_model(path)

    def _compile(self, path: Path, model: Any) -> Any:
        with _named(path):
            transpose_upsampled(self._ov, model)
            model = channels_last(self._ov, model, self._planes)
            return self._core.compile_model(
                model, _DEVICE, cpu_options(self.precision, self._threads))

    def _run_trunk(self, batch: ImageU8) -> None:
        self._batch = self._shared(batch)
        self._trunk_call.set_tensor(IMAGE, self._batch)
        self._trunk_call.infer()

    def _run_head(self, parts: Masks, passes: int, bank: int | None) -> NDArray[np.float32]:
        call = self._head_call(passes) if bank is None else self._bank_call(parts, bank)
        for name in self._names.head_inputs:
            if name in parts:
                if bank is not None:
                    continue
                tensor = self._shared(parts[name])
            else:
                tensor = self._batch if name == IMAGE else self._trunk_call.get_tensor(name)
            call.set_tensor(name, tensor)
        call.infer()
        return call.get_tensor(LOGITS).data

    def _head_call(self, passes: int) -> Any:
        """Return the call of a head that takes so many passes; compile it when first needed."""
        if passes not in self._head_calls:
            while len(self._head_calls) >= _MAX_HEADS:
                del self._head_calls[next(iter(self._head_calls))]
            model = self._head.clone()
            if not self._card.chunk:
                model.reshape({site.name: [passes, *site.shape]
                               for site in self._card.dropout_sites})
            self._head_calls[passes] = self._compile(self._head_path, model).create_infer_request()
        return self._head_calls[passes]

    def _bank_call(self, parts: Masks, bank: int) -> Any:
        """Return the call of the head with a chunk of masks in it."""
        if bank not in self._bank_calls:
            model = self._core.read_model(with_masks(self._head_path, parts))
            self._bank_calls[bank] = self._compile(self._head_path, model).create_infer_request()
        return self._bank_calls[bank]

    def _forget_bank(self) -> None:
        self._bank_calls = {}

    def _shared(self, values: NDArray[Any]) -> Any:
        """Return a tensor over the memory of an array, which the tensor keeps alive."""
        return self._ov.Tensor(values, shared_memory=True)

    def _free(self) -> None:
        self._trunk = self._trunk_call = self._head = self._batch = None
        self._head_calls = {}


def import_openvino() -> Any:
    """Return the package, without its report of having been imported."""
    try:
        with _no_telemetry():
            import openvino
            import openvino.passes
            import openvino.preprocess
    except ImportError as err:
        raise BackendUnavailableError(
            f'openvino cannot be imported ({err})', fix='pip install "openvino>=2025.0"'
        ) from err
    return openvino


def cpu_options(precision: str, threads: int) -> dict[str, Any]:
    """Return what a graph is compiled with."""
    return {
        'INFERENCE_PRECISION_HINT': 'bf16' if precision == 'bf16' else 'f32',
        'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1, 'PERFORMANCE_HINT': 'LATENCY',
        # Two processes that pin their threads take the same cores.
        'ENABLE_CPU_PINNING': False,
    }


def has_bf16(core: Any) -> bool:
    """Say whether this processor computes in bf16."""
    return 'BF16' in core.get_property(_DEVICE, 'OPTIMIZATION_CAPABILITIES')


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide the package that would write to the home folder and report the import."""
    loaded = sys.modules.pop(_TELEMETRY, None)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if loaded is not None:
            sys.modules[_TELEMETRY] = loaded


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file of a graph that the runtime refuses."""
    try:
        yield
    except Exception as err:  # the runtime's own errors derive from nothing narrower
        raise ModelBundleError(f'openvino cannot open {path} ({err})', fix=COMPILE) from err
