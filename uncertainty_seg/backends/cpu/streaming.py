# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Common base of the CPU runtimes: run the trunk once, then chunks of passes, and add their sums.

No tensor of all passes exists at any time, so memory does not grow with T. Each runtime's file
opens and runs graphs; this file imports no runtime.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import replace
import logging
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.strips import in_strips
from uncertainty_seg.backends.runner import (
    added_sums,
    bytes_a_pass,
    choose_chunk,
    GraphNames,
    INV_TEMPERATURE,
    MEGABYTE,
    require_graphs,
    require_inputs,
    Runner,
    usable_threads,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import Masks, PassInputs
from uncertainty_seg.core.model_card import FEATURE_MAP
from uncertainty_seg.core.settings import precision_of, Settings
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import BackendError, BackendUnavailableError, UncertaintySegError

_log = logging.getLogger(__name__)


GPU_ONLY = 'tf32 is of GPUs: set precision to fp32, or backend to tensorrt'


class StreamingBackend(Runner):
    """
    Run a bundle's two graphs on the CPU; a subclass opens and runs them in its runtime.

    The settings give threads, memory budget and precision. Raises BackendUnavailableError if the
    runtime is not installed or cannot compute in that precision, ConfigError if the graphs cannot
    be computed in it, ModelBundleError if one cannot be opened or does not fit the card.
    """

    # Precision that the runtime does not support -> remedy for the error message.
    refused: Mapping[str, str] = {}

    def __init__(self, bundle: ModelBundle, settings: Settings) -> None:
        self._card = bundle.card
        self.precision = precision_of(self._card, settings.precision)
        self._threads = usable_threads(settings.threads)
        self._budget_mb = settings.memory_budget_mb
        self._import()
        self._require_precision()
        self._names: GraphNames = require_graphs(bundle)
        passes, self._bytes_a_pass = self._in_strips(bundle.passes_path.read_bytes())
        self._open(bundle, passes)
        self._chunks: dict[int, int] = {}
        self._is_open = True

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """Return the sums over the passes of one image; see `Runner.run`."""
        if not self._is_open:
            raise BackendError('run of a closed backend', fix='open it again')
        passes = require_inputs(self._card, image, masks)
        try:
            sums = self._run(np.ascontiguousarray(image)[None], masks, passes, temperature)
        except UncertaintySegError:
            raise
        except Exception as err:  # the runtimes' errors have no narrower base class
            raise BackendError(
                f'{self.name} failed on {passes} passes of {self._card.name!r} '
                f'({type(err).__name__}: {err})'
            ) from err
        return sums

    def close(self) -> None:
        """Free graphs and threads; may be called twice."""
        if self._is_open:
            self._is_open = False
            self._free()

    @abc.abstractmethod
    def _import(self) -> None:
        """Import the runtime, or raise BackendUnavailableError."""

    @abc.abstractmethod
    def _open(self, bundle: ModelBundle, passes: bytes) -> None:
        """Open both graphs, or raise ModelBundleError."""

    @abc.abstractmethod
    def _run_trunk(self, batch: ImageU8) -> None:
        """Run the trunk on an image (1, h, w, 3) and keep its outputs for the passes."""

    @abc.abstractmethod
    def _run_passes(
        self, parts: PassInputs, passes: int
    ) -> Mapping[str, NDArray[np.float32]]:
        """Return the sums over some passes, keyed by `runner.SUMS`, in new arrays."""

    @abc.abstractmethod
    def _trunk_output(self, name: str) -> NDArray[np.float32]:
        """Return a copy of a trunk output for the last image."""

    @abc.abstractmethod
    def _free(self) -> None:
        """Release the graphs."""

    def _in_strips(self, content: bytes) -> tuple[bytes, int]:
        """Return passes.onnx in strips, which CPUs compute faster, and its bytes per pass."""
        # Strips need less memory, so more passes fit into a chunk; large chunks are fastest.
        size = bytes_a_pass(in_strips(content, self._card.passes))
        chunk = choose_chunk(self._card.passes, size, self._budget_mb)
        return in_strips(content, chunk), size

    def _require_precision(self) -> None:
        if self.precision in self.refused:
            raise BackendUnavailableError(
                f'{self.name} does not compute {self._card.name!r} in {self.precision}',
                fix=self.refused[self.precision],
            )

    def _run(
        self, batch: ImageU8, masks: Masks, passes: int, temperature: float
    ) -> PassSums:
        start_s = time.perf_counter()
        self._run_trunk(batch)
        trunk_s = time.perf_counter()
        size, scale = self._chunk(passes), np.array([1 / temperature], np.float32)
        # Element masks are drawn here, chunk by chunk.
        sums = added_sums((self._run_passes(
            {INV_TEMPERATURE: scale, **{name: np.ascontiguousarray(mask[first:first + size])
                                        for name, mask in masks.items()}},
            min(size, passes - first)) for first in range(0, passes, size)), passes, temperature)
        self._timings_ms = {'trunk': (trunk_s - start_s) * 1e3,
                            'passes': (time.perf_counter() - trunk_s) * 1e3}
        if not self._names.features:
            return sums
        return replace(sums, features=self._trunk_output(FEATURE_MAP))

    def _chunk(self, passes: int) -> int:
        """Return the number of passes per chunk, chosen once for each T."""
        if passes not in self._chunks:
            found = choose_chunk(passes, self._bytes_a_pass, self._budget_mb)
            self._chunks[passes] = found
            _log.info('T=%d in chunks of %d: %.1f MB a pass, budget %d MB', passes, found,
                      self._bytes_a_pass / MEGABYTE, self._budget_mb)
        return self._chunks[passes]
