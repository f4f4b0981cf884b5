# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Whether a confidence means what it says, over any number of images.

Only the confidence of the most likely class is looked at: the maps keep no other.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap

_BINS = 4096


@dataclass(frozen=True)
class ReliabilityDiagram:
    """
    What is claimed against what is true.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape (n,)
        Mean confidence and share of right pixels of each bin, 0..1; NaN in an empty one.
    share : ndarray of float64, shape (n,)
        Share of all pixels in it.

    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass
class AdaptiveCalibrationError:
    """
    Calibration error in bins that hold equally many pixels, over any number of images.

    Equal bins of confidence put most pixels of a sure network into the last one. Kept as a fine
    histogram; a fine bin that two coarse ones share is divided between them.

    Attributes
    ----------
    count, hits, confidence : ndarray of float64, shape (4097,)
        Pixels, right pixels, and summed confidence of each fine bin.

    References
    ----------
    Nguyen and O'Connor, 2015, arXiv:1508.05154; Nixon et al., 2019, arXiv:1904.01685.

    """

    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS + 1))
    hits: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS + 1))
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS + 1))

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape, and NaN claims nothing: 0."""
        values = np.clip(np.nan_to_num(confidence, nan=0.0), 0, 1).astype(np.float64).ravel()
        # The square root spends the bins near 1, where most pixels of a sure network are.
        bins = _BINS - (np.sqrt(1 - values) * _BINS).astype(np.int64)
        self.count += np.bincount(bins, minlength=_BINS + 1)
        self.hits += np.bincount(bins, weights=is_right.ravel(), minlength=_BINS + 1)
        self.confidence += np.bincount(bins, weights=values, minlength=_BINS + 1)

    def diagram(self, num_bins: int = 15) -> ReliabilityDiagram:
        """Return the coarse bins, from the least confident pixels to the most."""
        total = self.count.sum()
        before = np.append(0, np.cumsum(self.count))
        edges = np.linspace(0, total, num_bins + 1)
        hits, confidence = (
            np.diff(np.interp(edges, before, np.append(0, np.cumsum(sums))))
            for sums in (self.hits, self.confidence)
        )
        size = total / num_bins if total else np.nan
        return ReliabilityDiagram(confidence / size, hits / size, np.full(num_bins, 1 / num_bins))

    def value(self, num_bins: int = 15) -> float:
        """Return the mean gap between confidence and accuracy, 0..1; NaN without a pixel."""
        found = self.diagram(num_bins)
        return float(np.abs(found.confidence - found.accuracy).mean())


@dataclass
class TopLabelBrier:
    """
    Brier score of "the most likely class is right", over any number of images.

    The maps keep the mean probability of the most likely class only, so this is the squared error
    of that one statement, not the sum over all classes that some papers call by the same name. A
    score of 0.25 is what "one in two" earns.

    Attributes
    ----------
    total, count : float
        Summed squared error, and pixels.

    """

    total: float = 0.0
    count: int = 0

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape, and NaN claims nothing: 0."""
        gap = np.nan_to_num(confidence, nan=0.0).astype(np.float64) - is_right
        self.total += float((gap * gap).sum())
        self.count += gap.size

    def value(self) -> float:
        """Return the mean squared error, 0..1, smaller is better; NaN without a pixel."""
        return self.total / self.count if self.count else float('nan')
