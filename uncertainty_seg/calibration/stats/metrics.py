# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How good a mask and its uncertainty are, against a mask that a person drew.

Measures of pixels take image after image and keep sums only, so that a data set of any size fits.
Of a confidence only that of the most likely class is looked at: the maps keep no other. For whole
frames, risk over coverage says how much is still bad when the most uncertain ones are refused.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import Column, FloatMap

Floats = NDArray[np.float64]
_BINS = 4096


def _zeros(count: int) -> Floats:
    return field(default_factory=lambda: np.zeros(count))


@dataclass
class ExpectedCalibrationError:
    """
    Expected calibration error in 15 equal bins of confidence, over any number of images.

    Kept are pixels, right pixels and summed confidence a bin, (15,) each.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, 2017, arXiv:1706.04599.

    """

    count: Floats = _zeros(15)
    hits: Floats = _zeros(15)
    confidence: Floats = _zeros(15)

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape, and a confidence of NaN counts as 0."""
        values = np.nan_to_num(confidence, nan=0.0).ravel()
        bins = np.clip((values * 15).astype(np.int64), 0, 14)
        self.count += np.bincount(bins, minlength=15)
        self.hits += np.bincount(bins, weights=is_right.ravel(), minlength=15)
        self.confidence += np.bincount(bins, weights=values.astype(np.float64), minlength=15)

    def value(self) -> float:
        """Return the mean gap between confidence and accuracy, 0..1."""
        return float(np.abs(self.confidence - self.hits).sum() / max(self.count.sum(), 1.0))

    def diagram(self) -> tuple[Floats, Floats, Floats]:
        """
        Return mean confidence, share of right pixels, and share of all pixels of each bin, (15,).

        The first two are NaN in an empty bin.
        """
        known = np.where(self.count > 0, self.count, np.nan)
        share = self.count / max(self.count.sum(), 1.0)
        return self.confidence / known, self.hits / known, share


@dataclass
class Ranking:
    """
    How well a score in 0..1 tells yes from no, over any number of pixels.

    Kept as two histograms, (4097,) each, of the score where the answer is yes, and no; scores of
    one bin count as equal, and NaN as the largest score. For errors, yes is "this pixel is wrong".
    """

    positive: Floats = _zeros(_BINS + 1)
    negative: Floats = _zeros(_BINS + 1)

    def add(self, score: FloatMap, is_positive: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape."""
        # The square root gives small scores more bins: mutual information is small.
        scaled = np.sqrt(np.clip(np.nan_to_num(score, nan=1.0), 0, 1)) * _BINS
        bins = scaled.astype(np.int64)
        self.positive += np.bincount(bins[is_positive], minlength=_BINS + 1)
        self.negative += np.bincount(bins[~is_positive], minlength=_BINS + 1)

    def merged(self, bins: int = 1024) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return both histograms in fewer bins, which take less room; `bins` divides 4096."""
        both = []
        for fine in (self.positive, self.negative):
            whole = fine[:-1].copy()
            whole[-1] += fine[-1]  # the last fine bin, of the value 1 alone
            both.append(whole.reshape(bins, -1).sum(1).astype(np.uint32))
        return both[0], both[1]


# -------------------------------------------------------------------------------------------------
# One frame is one sample, with a score that grows with uncertainty and a loss in 0..1 (bad or not,
# or one minus its IoU).


def risk_coverage(scores: Column, losses: Column) -> tuple[Floats, Floats]:
    """
    Return the share of accepted frames, and their mean loss, for every threshold of a score.

    There are 1 to n points, from strict to loose; the last accepts all frames. Frames of equal
    score are accepted together, since no threshold separates them.

    Parameters
    ----------
    scores, losses : ndarray of float64, shape (n,)
        Grow with uncertainty, NaN is refused first, with infinity; 0..1, 1 for a bad frame.

    References
    ----------
    Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    """
    ranks = np.where(np.isnan(scores), np.inf, scores)
    _, index = np.unique(ranks, return_inverse=True)
    counts = np.cumsum(np.bincount(index))
    return counts / len(losses), np.cumsum(np.bincount(index, losses)) / counts
