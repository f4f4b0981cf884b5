# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the CPU's runtimes share: trunk once, head in chunks of passes, each reduced as it comes.

Neither a tensor of all passes nor the probabilities exist at any time, so that memory does not
grow with T. Each runtime's file says how a graph is opened and run; this file imports no runtime.

"""

from __future__ import annotations

import abc
from collections.abc import Mapping
import logging
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.reduction import CoarseReduction, Reduction
from uncertainty_seg.backends.runner import (
    choose_chunk,
    GraphNames,
    head_bytes_a_pass,
    require_graphs,
    require_inputs,
    Runner,
    usable_threads,
)
from uncertainty_seg.core.arrays import FloatMap, ImageU8
from uncertainty_seg.core.bundle import ModelBundle, reduction_of
from uncertainty_seg.core.dropout_masks import Masks, PassInputs
from uncertainty_seg.core.model_card import FEATURE_MAP
from uncertainty_seg.core.settings import precision_of, Settings
from uncertainty_seg.core.uncertainty import MapRequest, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import BackendError, BackendUnavailableError, UncertaintySegError

_log = logging.getLogger(__name__)


GPU_ONLY = 'tf32 is of GPUs: set precision to fp32, or backend to tensorrt'


class StreamingBackend(Runner):
    """
    Run a bundle's two graphs on the CPU; a subclass opens and runs them in its runtime.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives threads, memory budget, precision and reduction.

    Raises
    ------
    BackendUnavailableError
        If the runtime is not installed or cannot compute in the precision asked for, or numba is
        not installed and the reduction is exact.
    ConfigError
        If the graphs cannot be computed in it.
    ModelBundleError
        If a graph cannot be opened or does not fit the card.

    """

    # Precision that the runtime cannot compute in -> what to do instead.
    refused: Mapping[str, str] = {}
    # The head always gets chunks of one size.
    is_padded = False

    def __init__(self, bundle: ModelBundle, settings: Settings) -> None:
        self._card = bundle.card
        self.precision = precision_of(self._card, settings.precision)
        self.reduction = reduction_of(bundle, settings)
        self._threads = usable_threads(settings.threads)
        self._budget_mb = settings.memory_budget_mb
        self._import()
        self._require_precision()
        self._open(bundle)
        self._names: GraphNames = require_graphs(bundle)
        self._reduction = self._new_reduction()
        self._bytes_a_pass = head_bytes_a_pass(bundle.head_path)
        self._chunks: dict[int, int] = {}
        self._is_open, self._has_run = True, False

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """Compute the maps of one image; see `Runner.run`."""
        if not self._is_open:
            raise BackendError('run of a closed backend', fix='open it again')
        passes = require_inputs(self._card, image, masks)
        try:
            maps = self._run(np.ascontiguousarray(image)[None], masks, passes, 1 / temperature,
                             request)
        except UncertaintySegError:
            raise
        except Exception as err:  # the runtime's own errors derive from nothing narrower
            raise BackendError(
                f'{self.name} failed on {passes} passes of {self._card.name!r} '
                f'({type(err).__name__}: {err})'
            ) from err
        self._has_run = True
        return maps

    def close(self) -> None:
        """Free graphs and threads; may be called twice."""
        if self._is_open:
            self._is_open = False
            self._free()
            self._reduction.close()

    @abc.abstractmethod
    def _import(self) -> None:
        """Import the runtime, or raise BackendUnavailableError."""

    @abc.abstractmethod
    def _open(self, bundle: ModelBundle) -> None:
        """Open both graphs, or raise ModelBundleError."""

    @abc.abstractmethod
    def _run_trunk(self, batch: ImageU8) -> None:
        """Run the trunk on (1, h, w, 3) and keep its outputs for the head."""

    @abc.abstractmethod
    def _run_head(self, parts: PassInputs, passes: int) -> NDArray[np.float32]:
        """Return the logits of some passes, in a buffer that the next call overwrites."""

    @abc.abstractmethod
    def _trunk_output(self, name: str) -> NDArray[np.float32]:
        """Return an output of the trunk of the last image, in an array of its own."""

    @abc.abstractmethod
    def _free(self) -> None:
        """Release the graphs."""

    def _new_reduction(self) -> Reduction | CoarseReduction:
        card, size = self._card, (self._card.input.height, self._card.input.width)
        if self.reduction == 'coarse':
            return CoarseReduction(card.logits_shape, *size, self._threads, card.upsampling)
        return Reduction(card.num_classes, *size, self._threads, card.upsampling)

    def _require_precision(self) -> None:
        if self.precision in self.refused:
            raise BackendUnavailableError(
                f'{self.name} does not compute {self._card.name!r} in {self.precision}',
                fix=self.refused[self.precision],
            )

    def _run(
        self, batch: ImageU8, masks: Masks, passes: int, inv_temperature: float,
        request: MapRequest,
    ) -> UncertaintyMaps:
        start_s = time.perf_counter()
        self._run_trunk(batch)
        trunk_s = time.perf_counter()
        head_s = reduction_s = 0.0
        self._reduction.reset(request)
        chunk = self._chunk(passes)
        for first in range(0, passes, chunk):
            before_s = time.perf_counter()
            stop = min(first + chunk, passes)
            logits = self._logits(masks, first, stop, chunk)
            between_s = time.perf_counter()
            if stop == passes:
                maps = self._reduction.finish(logits, inv_temperature)
            else:
                self._reduction.add(logits, inv_temperature)
            head_s += between_s - before_s
            reduction_s += time.perf_counter() - between_s
        self._timings_ms = {'trunk': (trunk_s - start_s) * 1e3, 'head': head_s * 1e3,
                            'reduction': reduction_s * 1e3}
        return maps.with_features(self._trunk_output(FEATURE_MAP)) if self._names.features \
            else maps

    def last_features(self) -> FloatMap | None:
        """Return what the trunk made of the last image; see `Runner.last_features`."""
        if not (self._is_open and self._has_run):
            return None
        if self._names.features:
            return self._trunk_output(FEATURE_MAP)
        planes = [plane for plane in map(self._trunk_output, self._names.frontier)
                  if plane.ndim == 4 and plane.shape[0] == 1 and plane.dtype.kind == 'f']
        coarsest = min(planes, key=lambda plane: plane[0, 0].size, default=None)
        return None if coarsest is None else coarsest.astype(np.float32, copy=False)

    def _logits(self, masks: Masks, first: int, stop: int, chunk: int) -> NDArray[np.float32]:
        """
        Run the head on some passes; where it needs more, drop the surplus logits.

        Masks of elements are drawn here, for these passes only.
        """
        wanted = chunk if self.is_padded else stop - first
        parts = {name: _padded(mask[first:stop], wanted) for name, mask in masks.items()}
        return self._run_head(parts, wanted)[:stop - first]

    def _chunk(self, passes: int) -> int:
        """Return how many passes run at once, chosen once for each T."""
        if passes not in self._chunks:
            found = choose_chunk(passes, self._bytes_a_pass, self._budget_mb)
            self._chunks[passes] = found.passes
            _log.info('T=%d in chunks of %d: %s', passes, found.passes, found.reason)
        return self._chunks[passes]


def _padded(part: NDArray[np.float32], passes: int) -> NDArray[np.float32]:
    """Repeat the last pass up to the number wanted."""
    missing = passes - len(part)
    if missing:
        part = np.concatenate([part, np.repeat(part[-1:], missing, 0)])
    return np.ascontiguousarray(part)
