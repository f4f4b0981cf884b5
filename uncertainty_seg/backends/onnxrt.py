# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
ONNX Runtime on the CPU: trunk once, head in chunks of passes, each reduced as it comes.

Neither a tensor of all passes nor the probabilities exist at any time, so that memory does not
grow with T. The file is not called onnxruntime, lest it hide the package of that name.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import logging
from pathlib import Path
import time
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu_reduction import Reduction
from uncertainty_seg.backends.inputs import require_inputs
from uncertainty_seg.backends.resources import (
    choose_chunk,
    Chunking,
    head_bytes_a_pass,
    usable_threads,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import BackendError, BackendUnavailableError, ModelBundleError

_IMAGE, _LOGITS = 'image', 'logits'
_FLOAT, _BYTE = 'tensor(float)', 'tensor(uint8)'
_COMPILE = 'compile the bundle again'
_Tensors: TypeAlias = dict[str, tuple[str, list[int | None]]]
_log = logging.getLogger(__name__)


class OnnxRuntimeBackend:
    """
    Run a bundle's two graphs with ONNX Runtime.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives threads and memory budget.

    Raises
    ------
    BackendUnavailableError
        If onnxruntime or numba is not installed.
    ModelBundleError
        If a graph cannot be opened or does not fit the card.

    """

    name = 'onnxruntime'

    def __init__(self, bundle: ModelBundle, settings: Settings) -> None:
        self._ort = _import_onnxruntime()
        self._card = card = bundle.card
        threads = usable_threads(settings.threads)
        self._trunk: Any = self._open(bundle.trunk_path, threads)
        self._head: Any = self._open(bundle.head_path, threads)
        self._frontier = [output.name for output in self._trunk.get_outputs()]
        require_graphs(card, self._trunk, self._head)
        self._head_inputs = {info.name for info in self._head.get_inputs()}
        self._reduction = Reduction(card.num_classes, card.input.height, card.input.width, threads)
        self._bytes_a_pass = head_bytes_a_pass(bundle.head_path)
        self._budget_mb = settings.memory_budget_mb
        self._chunkings: dict[int, Chunking] = {}
        self._logits = np.empty((0, *card.logits_shape), np.float32)
        self._timings_ms: dict[str, float] = {}
        _log.info('onnxruntime %s, %d threads', self._ort.__version__, threads)

    def run(
        self, image: ImageU8, masks: Mapping[str, NDArray[np.float32]], temperature: float
    ) -> UncertaintyMaps:
        """
        Compute the maps of one image.

        Parameters
        ----------
        image : ndarray of uint8, shape (h, w, 3)
            In the card's size and colour order.
        masks : mapping of str to ndarray of float32, shape (T, *site.shape)
            One array for each dropout site.
        temperature : float
            The logits are divided by it.

        Returns
        -------
        UncertaintyMaps
            Of shape (h, w).

        Raises
        ------
        ShapeError
            If image or masks do not fit the card.
        BackendError
            If the runtime fails, or the backend is closed.

        """
        if self._trunk is None:
            raise BackendError('run of a closed backend', fix='open it again')
        passes = require_inputs(self._card, image, masks)
        try:
            return self._run(np.ascontiguousarray(image)[None], masks, passes, 1 / temperature)
        except Exception as err:  # the runtime's own errors derive from nothing narrower
            raise BackendError(
                f'onnxruntime failed on {passes} passes of {self._card.name!r} '
                f'({type(err).__name__}: {err})'
            ) from err

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Time of each stage of the last run: 'trunk', 'head', 'reduction'."""
        return self._timings_ms

    def close(self) -> None:
        """Free sessions and threads; may be called twice."""
        self._trunk = self._head = None
        self._reduction.close()

    def _open(self, path: Path, threads: int) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Between operators spinning saves waking the threads (trunk 14 -> 11 ms on two); after the
        # last it would take the cores from the reduction (5.5 -> 9 ms).
        options.add_session_config_entry('session.force_spinning_stop', '1')
        try:
            return self._ort.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider']
            )
        except Exception as err:  # as in run
            raise ModelBundleError(
                f'onnxruntime cannot open {path} ({err})', fix=_COMPILE
            ) from err

    def _run(
        self, batch: ImageU8, masks: Mapping[str, NDArray[np.float32]], passes: int,
        inv_temperature: float,
    ) -> UncertaintyMaps:
        start_s = time.perf_counter()
        image = self._ort.OrtValue.ortvalue_from_numpy(batch)
        features = self._trunk.run_with_ort_values(self._frontier, {_IMAGE: image})
        tensors = {_IMAGE: image, **dict(zip(self._frontier, features, strict=True))}
        trunk_s = time.perf_counter()
        binding = self._head.io_binding()
        for name in self._head_inputs & set(tensors):
            binding.bind_ortvalue_input(name, tensors[name])
        head_s = reduction_s = 0.0
        self._reduction.reset()
        chunk = self._chunk(passes)
        for first in range(0, passes, chunk):
            before_s = time.perf_counter()
            logits = self._run_head(binding, masks, first, min(first + chunk, passes))
            between_s = time.perf_counter()
            if first + chunk < passes:
                self._reduction.add(logits, inv_temperature)
            else:
                maps = self._reduction.finish(logits, inv_temperature)
            head_s += between_s - before_s
            reduction_s += time.perf_counter() - between_s
        self._timings_ms = {
            'trunk': (trunk_s - start_s) * 1e3, 'head': head_s * 1e3,
            'reduction': reduction_s * 1e3,
        }
        return maps

    def _run_head(
        self, binding: Any, masks: Mapping[str, NDArray[np.float32]], first: int, stop: int
    ) -> NDArray[np.float32]:
        """Return the logits of some passes, in a buffer that the next call overwrites."""
        parts = {name: np.ascontiguousarray(mask[first:stop]) for name, mask in masks.items()}
        for name, part in parts.items():
            binding.bind_cpu_input(name, part)
        logits = self._logits[:stop - first]
        binding.bind_ortvalue_output(_LOGITS, self._ort.OrtValue.ortvalue_from_numpy(logits))
        self._head.run_with_iobinding(binding)
        return logits

    def _chunk(self, passes: int) -> int:
        """Choose how many passes run at once; once for each T."""
        if passes not in self._chunkings:
            chunking = choose_chunk(passes, self._bytes_a_pass, self._budget_mb)
            self._chunkings[passes] = chunking
            _log.info('T=%d in chunks of %d: %s', passes, chunking.passes, chunking.reason)
        chunk = self._chunkings[passes].passes
        if len(self._logits) < chunk:
            self._logits = np.empty((chunk, *self._card.logits_shape), np.float32)
        return chunk


def require_graphs(card: ModelCard, trunk: Any, head: Any) -> None:
    """
    Refuse graphs whose inputs and outputs are not what the card says.

    Parameters
    ----------
    card : ModelCard
        Input size, dropout sites and logits.
    trunk, head : InferenceSession
        Opened graphs.

    Raises
    ------
    ModelBundleError
        With the first tensor that is missing, unknown, or of another type or shape.

    """
    spec = card.input
    image: _Tensors = {_IMAGE: (_BYTE, [1, spec.height, spec.width, 3])}
    features = _tensors(trunk.get_outputs())
    sites: _Tensors = {site.name: (_FLOAT, [None, *site.shape]) for site in card.dropout_sites}
    _require_tensors('trunk.onnx takes', _tensors(trunk.get_inputs()), image)
    inputs = _tensors(head.get_inputs())
    direct = image if _IMAGE in inputs else {}
    _require_tensors('head.onnx takes', inputs, {**direct, **features, **sites})
    _require_tensors('head.onnx gives', _tensors(head.get_outputs()),
                     {_LOGITS: (_FLOAT, [None, *card.logits_shape])})


def _tensors(infos: Sequence[Any]) -> _Tensors:
    """Return type and shape by name; a symbolic axis is None."""
    return {
        info.name: (info.type, [n if isinstance(n, int) else None for n in info.shape])
        for info in infos
    }


def _require_tensors(what: str, found: _Tensors, wanted: _Tensors) -> None:
    if set(found) != set(wanted):
        raise ModelBundleError(f'{what} {sorted(found)}', f'{sorted(wanted)} as the card says',
                               _COMPILE)
    for name, (kind, shape) in wanted.items():
        if found[name] != (kind, shape):
            raise ModelBundleError(
                f'{what} {name!r} as {found[name][0]} {found[name][1]}',
                f'{kind} {shape} as the card says', _COMPILE,
            )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnxruntime cannot be imported ({err})', fix='pip install onnxruntime'
        ) from err
    return onnxruntime
