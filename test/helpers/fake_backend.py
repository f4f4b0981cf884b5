# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A backend without a runtime: arithmetic on colours whose answer can be worked out by hand.

It applies the card and the masks and sums with the reference implementation, so that pipeline,
node and tools are tested with known answers. It runs no graph, and its labels mean nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.runner import require_inputs, Runner
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import PassSums, sums_of_logits
from uncertainty_seg.errors import BackendError

GAIN = 8.0
NUM_COLORS = 3


class FakeBackend(Runner):
    """
    The logit of class c follows colour channel c modulo 3, scaled by its mask.

    The runs of these numbers, counted from 1, raise `BackendError` (`fail_on_run`) or have a first
    logit of NaN (`nan_on_run`); 0 is none. `delay_s` is added to every run.

    The logit of class c in pass t, at a block of the image with mean colour x in 0..1, is
    ``8 x[c % 3] / (1 + c // 3) * m[t, c]``. The factor m is the product over all sites of the
    mean of the mask's elements c, c + C, c + 2C and so on (of element c modulo their number
    where there are fewer than C): 1 for a mask of ones.
    """

    name = 'fake'

    def __init__(
        self, card: ModelCard, fail_on_run: int = 0, nan_on_run: int = 0, delay_s: float = 0.0,
    ) -> None:
        self._card = card
        self._fail_on_run, self._nan_on_run, self._delay_s = fail_on_run, nan_on_run, delay_s
        self._num_runs = 0
        self._is_closed = False

    def run(
        self, image: ImageU8, masks: Mapping[str, NDArray[np.float32]], temperature: float,
    ) -> PassSums:
        if self._is_closed:
            raise BackendError('run of a closed backend', fix='open it again')
        passes = require_inputs(self._card, image, masks)
        self._num_runs += 1
        start_s = time.perf_counter()
        time.sleep(self._delay_s)
        if self._num_runs == self._fail_on_run:
            raise BackendError(f'the fake backend failed on run {self._num_runs} as it was told')
        features = self._features(image)
        trunk_s = time.perf_counter()
        logits = features[None] * self._factors(masks, passes)[:, :, None, None]
        if self._num_runs == self._nan_on_run:
            logits[0, 0, 0, 0] = np.nan
        sums = sums_of_logits(logits, temperature, self._card.grid_offset)
        self._timings_ms = {'trunk': (trunk_s - start_s) * 1e3,
                            'passes': (time.perf_counter() - trunk_s) * 1e3}
        names = ('p', 'entropy_nats', 'p_squared', 'votes', 'logits')
        return replace(sums, **{name: getattr(sums, name).astype(np.float32) for name in names})

    def close(self) -> None:
        self._is_closed = True

    def _features(self, image: ImageU8) -> NDArray[np.float64]:
        """Return the logits (C, hl, wl) before dropout."""
        num_classes, rows, columns = self._card.logits_shape
        blocks = _block_means(_block_means(image / 255.0, rows, 0), columns, 1)
        classes = np.arange(num_classes)
        gains = GAIN / (1 + classes // NUM_COLORS)
        return blocks.transpose(2, 0, 1)[classes % NUM_COLORS] * gains[:, None, None]

    def _factors(
        self, masks: Mapping[str, NDArray[np.float32]], passes: int
    ) -> NDArray[np.float64]:
        """Return the factor that each pass applies to the logit of each class, (T, C)."""
        num_classes = self._card.num_classes
        factors = np.ones((passes, num_classes))
        for mask in masks.values():
            flat = mask.reshape(passes, -1).astype(np.float64)
            for c in range(num_classes):
                factors[:, c] *= flat[:, c % flat.shape[1]::num_classes].mean(1)
        return factors


def _block_means(values: NDArray[np.float64], count: int, axis: int) -> NDArray[np.float64]:
    """Average an axis in `count` blocks of nearly the same length."""
    size = values.shape[axis]
    starts = np.arange(count) * size // count
    lengths = np.diff(np.append(starts, size))
    sums = np.add.reduceat(values, starts, axis)
    return np.moveaxis(np.moveaxis(sums, axis, -1) / lengths, -1, axis)
