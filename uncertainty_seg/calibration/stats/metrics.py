# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measures of masks and their uncertainty against labelled masks.

Pixel measures accumulate only sums, image by image, so the data set may have any size. They use
only the confidence of the most likely class, since the maps store no other. For whole frames, the
risk-coverage curve shows how many frames are bad among the accepted ones.
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

    Its state is the number of pixels, of right pixels and the summed confidence per bin, (15,).

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
    How well a score in 0..1 separates positive from negative pixels, over any number of pixels.

    Its state is two histograms of the score, (4097,) each, for positive and negative pixels;
    scores of one bin count as equal, and NaN as the largest score. For errors, positive means
    "this pixel is wrong".
    """

    positive: Floats = _zeros(_BINS + 1)
    negative: Floats = _zeros(_BINS + 1)

    def add(self, score: FloatMap, is_positive: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape."""
        # The square root gives small scores more bins, since mutual information is small.
        scaled = np.sqrt(np.clip(np.nan_to_num(score, nan=1.0), 0, 1)) * _BINS
        bins = scaled.astype(np.int64)
        self.positive += np.bincount(bins[is_positive], minlength=_BINS + 1)
        self.negative += np.bincount(bins[~is_positive], minlength=_BINS + 1)

    def merged(self, bins: int = 1024) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return both histograms in fewer bins to save memory; `bins` must divide 4096."""
        both = []
        for fine in (self.positive, self.negative):
            whole = fine[:-1].copy()
            whole[-1] += fine[-1]  # the last fine bin holds only the value 1
            both.append(whole.reshape(bins, -1).sum(1).astype(np.uint32))
        return both[0], both[1]


# -------------------------------------------------------------------------------------------------
# Each frame is one sample with a score that grows with uncertainty and a loss in 0..1 (bad or not,
# or one minus its IoU).


def risk_coverage(scores: Column, losses: Column) -> tuple[Floats, Floats]:
    """
    Return the share of accepted frames, and their mean loss, for every threshold of a score.

    There are 1 to n points, from strict to loose; the last accepts all frames. Frames of equal
    score are accepted together, since no threshold separates them.

    Parameters
    ----------
    scores, losses : ndarray of float64, shape (n,)
        Scores grow with uncertainty; NaN counts as infinity and is refused first. Losses are 0..1.

    References
    ----------
    Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    """
    ranks = np.where(np.isnan(scores), np.inf, scores)
    _, index = np.unique(ranks, return_inverse=True)
    counts = np.cumsum(np.bincount(index))
    return counts / len(losses), np.cumsum(np.bincount(index, losses)) / counts
