# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How good a mask and its uncertainty are, against a mask that a person drew.

Each measure takes image after image and keeps sums only, so that a data set of any size fits. Of a
confidence only that of the most likely class is looked at: the maps keep no other.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, require_shape

Floats = NDArray[np.float64]
_BINS = 4096
_PAVPU_BINS = 1024
PATCH_PX = 4


def _zeros(count: int) -> Floats:
    return field(default_factory=lambda: np.zeros(count))


# -------------------------------------------------------------------------------------------------
# Whether a confidence means what it states. In every `add`, `confidence` and `is_right` have the
# same shape, and a confidence of NaN counts as 0.


@dataclass(frozen=True)
class ReliabilityDiagram:
    """
    Confidence against accuracy, n bins.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape (n,)
        Mean confidence and share of right pixels of each bin, 0..1; NaN in an empty one.
    share : ndarray of float64, shape (n,)
        Share of all pixels in it.

    """

    confidence: Floats
    accuracy: Floats
    share: Floats


@dataclass
class ExpectedCalibrationError:
    """
    Expected calibration error in 15 equal bins of confidence, over any number of images.

    Attributes
    ----------
    count, hits, confidence : ndarray of float64, shape (15,)
        Pixels, right pixels, and summed confidence a bin.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, 2017, arXiv:1706.04599.

    """

    count: Floats = _zeros(15)
    hits: Floats = _zeros(15)
    confidence: Floats = _zeros(15)

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels."""
        values = np.nan_to_num(confidence, nan=0.0).ravel()
        bins = np.clip((values * 15).astype(np.int64), 0, 14)
        self.count += np.bincount(bins, minlength=15)
        self.hits += np.bincount(bins, weights=is_right.ravel(), minlength=15)
        self.confidence += np.bincount(bins, weights=values.astype(np.float64), minlength=15)

    def value(self) -> float:
        """Return the mean gap between confidence and accuracy, 0..1."""
        return float(np.abs(self.confidence - self.hits).sum() / max(self.count.sum(), 1.0))

    def diagram(self) -> ReliabilityDiagram:
        """Return what a reliability diagram draws."""
        known = np.where(self.count > 0, self.count, np.nan)
        share = self.count / max(self.count.sum(), 1.0)
        return ReliabilityDiagram(self.confidence / known, self.hits / known, share)


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

    count: Floats = _zeros(_BINS + 1)
    hits: Floats = _zeros(_BINS + 1)
    confidence: Floats = _zeros(_BINS + 1)

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels."""
        values = np.clip(np.nan_to_num(confidence, nan=0.0), 0, 1).astype(np.float64).ravel()
        # The square root puts more bins near 1, where most pixels of a sure network are.
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

    This is the squared error of that one statement, not the sum over all classes that some papers
    call by the same name. A confidence of 0.5 throughout has a score of 0.25.

    Attributes
    ----------
    total, count : float
        Summed squared error, and pixels.

    """

    total: float = 0.0
    count: int = 0

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels."""
        gap = np.nan_to_num(confidence, nan=0.0).astype(np.float64) - is_right
        self.total += float((gap * gap).sum())
        self.count += gap.size

    def value(self) -> float:
        """Return the mean squared error, 0..1, smaller is better; NaN without a pixel."""
        return self.total / self.count if self.count else float('nan')


# -------------------------------------------------------------------------------------------------
# Patch accuracy against patch uncertainty: is what is wrong unsure, and what is sure right.
# The value depends on where "unsure" begins, so it is kept as a curve over that limit.


@dataclass(frozen=True)
class PavpuCurve:
    """
    One point a limit; a patch is uncertain above it.

    Attributes
    ----------
    limits : ndarray of float64, shape (1024,)
        Growing, 0..1.
    accurate_if_certain : ndarray of float64, shape (1024,)
        p(accurate | certain); NaN where no patch is certain.
    uncertain_if_inaccurate : ndarray of float64, shape (1024,)
        p(uncertain | inaccurate); NaN without an inaccurate patch.
    pavpu : ndarray of float64, shape (1024,)
        Share of patches that are accurate and certain, or neither.
    median : int
        Index of the limit at the median uncertainty of the patches, a default that needs no
        choice.

    """

    limits: Floats
    accurate_if_certain: Floats
    uncertain_if_inaccurate: Floats
    pavpu: Floats
    median: int


@dataclass
class PatchUncertainty:
    """
    Patches of 4 x 4 pixels over any number of images.

    A patch is accurate if more than half of its known pixels are right, and its uncertainty is
    their mean. Patches at the right and lower edge may be smaller; one without a known pixel is
    left out.

    Attributes
    ----------
    accurate, inaccurate : ndarray of float64, shape (1024,)
        Histograms of the uncertainty.

    References
    ----------
    Mukhoti and Gal, 2018, arXiv:1811.12709.

    """

    accurate: Floats = _zeros(_PAVPU_BINS)
    inaccurate: Floats = _zeros(_PAVPU_BINS)

    def add(
        self, uncertainty: FloatMap, is_right: NDArray[np.bool_], known: NDArray[np.bool_]
    ) -> None:
        """
        Count the patches of one image.

        Raises ShapeError if the three differ in size.

        Parameters
        ----------
        uncertainty : ndarray of float32, shape (H, W)
            0..1; NaN counts as 1.
        is_right : ndarray of bool, shape (H, W)
            Whether the predicted class is the true one.
        known : ndarray of bool, shape (H, W)
            Whether the true class is known.

        """
        require_shape('is_right', is_right, uncertainty.shape, np.bool_)
        require_shape('known', known, uncertainty.shape, np.bool_)
        counts = _patch_sums(known)
        kept = counts > 0
        counts = counts[kept]
        values = np.where(known, np.nan_to_num(uncertainty, nan=1.0), 0.0)
        mean = np.clip(_patch_sums(values)[kept] / counts, 0, 1)
        is_accurate = _patch_sums(is_right & known)[kept] > 0.5 * counts
        # Bin k holds what is above limit k - 1 and at or below limit k; limits are squares.
        bins = np.clip(
            np.ceil(np.sqrt(mean) * (_PAVPU_BINS - 1)).astype(np.int64), 0, _PAVPU_BINS - 1
        )
        self.accurate += np.bincount(bins[is_accurate], minlength=_PAVPU_BINS)
        self.inaccurate += np.bincount(bins[~is_accurate], minlength=_PAVPU_BINS)

    def curve(self) -> PavpuCurve:
        """Return the three measures at every limit; all NaN without a patch."""
        sure_right, sure_wrong = np.cumsum(self.accurate), np.cumsum(self.inaccurate)
        unsure_wrong = sure_wrong[-1] - sure_wrong
        total = sure_right[-1] + sure_wrong[-1]
        sure = sure_right + sure_wrong
        return PavpuCurve(
            np.linspace(0, 1, _PAVPU_BINS) ** 2, _share(sure_right, sure),
            _share(unsure_wrong, sure_wrong[-1:]), _share(sure_right + unsure_wrong, total),
            int(np.searchsorted(sure, total / 2)),
        )


def _patch_sums(values: NDArray[np.bool_] | Floats) -> Floats:
    rows, columns = (np.arange(0, size, PATCH_PX) for size in values.shape)
    summed = np.add.reduceat(values.astype(np.float64), rows, axis=0)
    return np.add.reduceat(summed, columns, axis=1)


def _share(part: Floats, whole: Floats) -> Floats:
    return part / np.where(whole > 0, whole, np.nan)


# -------------------------------------------------------------------------------------------------
# How well a score tells yes from no.


@dataclass
class Ranking:
    """
    How well a score in 0..1 tells yes from no, over any number of pixels.

    Kept as two histograms; scores of one bin count as equal, and NaN as the largest score. For
    errors, yes is "this pixel is wrong".

    Attributes
    ----------
    positive, negative : ndarray of float64, shape (4097,)
        Histogram of the score where the answer is yes, and no.

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

    def is_above(self, score: float) -> bool:
        """Say whether any pixel has a larger score, up to the width of a bin."""
        first = int(np.sqrt(score) * _BINS) + 1
        return bool(self.positive[first:].any() or self.negative[first:].any())

    def auroc(self) -> float:
        """Return the chance that a yes outranks a no, ties half; NaN if either is missing."""
        if not self.positive.sum() or not self.negative.sum():
            return float('nan')
        below = np.cumsum(self.negative) - self.negative
        wins = (self.positive * (below + 0.5 * self.negative)).sum()
        return float(wins / (self.positive.sum() * self.negative.sum()))

    def average_precision(self) -> float:
        """
        Return the area under the precision-recall curve (AUPR), by steps; NaN without a yes.

        Of a random score it is the share of yes, `prevalence`.
        """
        if not self.positive.sum():
            return float('nan')
        found, alarms = self._from_the_top()
        precision = found / np.maximum(found + alarms, 1)
        return float((np.diff(found, prepend=0) * precision).sum() / found[-1])

    def prevalence(self) -> float:
        """Return the share of yes; NaN without a pixel."""
        yes, total = self.positive.sum(), self.positive.sum() + self.negative.sum()
        return float(yes / total) if total else float('nan')

    def fpr_at_tpr(self, tpr: float = 0.95) -> float:
        """Return the share of no that is alarmed when `tpr` of the yes are (FPR95); or NaN."""
        if not self.positive.sum() or not self.negative.sum():
            return float('nan')
        found, alarms = self._from_the_top()
        first = np.searchsorted(found, tpr * found[-1] - 1e-6)
        return float(alarms[first] / alarms[-1])

    def _from_the_top(self) -> tuple[Floats, Floats]:
        """Return yes and no at or above each bin, from the highest bin down."""
        return np.cumsum(self.positive[::-1]), np.cumsum(self.negative[::-1])


def auroc(scores_yes: NDArray[np.floating], scores_no: NDArray[np.floating]) -> float:
    """
    Return the chance that a score of the first group outranks one of the second, ties half.

    Both have one axis. NaN counts as infinite; the result is NaN if a group is empty.
    """
    if scores_yes.size == 0 or scores_no.size == 0:
        return float('nan')
    yes = np.nan_to_num(scores_yes, nan=np.inf)[:, None]
    no = np.nan_to_num(scores_no, nan=np.inf)[None]
    return float(((yes > no) + 0.5 * (yes == no)).mean())
