# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How good a mask and its uncertainty are, against a mask that a person drew.

Each measure takes image after image and keeps sums only, so that a data set of any size fits.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.reliability import ReliabilityDiagram

_BINS = 4096


@dataclass
class ConfusionMatrix:
    """
    Counts of (true, predicted) class over any number of images.

    Attributes
    ----------
    num_classes : int
        C.
    counts : ndarray of int64, shape (C, C)
        Rows are true classes.

    """

    num_classes: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Start from zero."""
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, truth: LabelMap, predicted: LabelMap, ignore_index: int) -> None:
        """Count one image; pixels of `ignore_index` are left out."""
        known = (truth != ignore_index) & (truth < self.num_classes)
        pairs = truth[known].astype(np.int64) * self.num_classes + predicted[known]
        square = np.bincount(pairs, minlength=self.num_classes**2)
        self.counts += square.reshape(self.num_classes, self.num_classes)

    def iou(self) -> NDArray[np.float64]:
        """Return (C,) intersection over union, NaN for a class never seen nor predicted."""
        inter = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - inter
        return np.where(union > 0, inter / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Return the mean over the classes that occur."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of pixels that are right."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))


@dataclass
class CalibrationError15:
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

    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(15))
    hits: NDArray[np.float64] = field(default_factory=lambda: np.zeros(15))
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(15))

    def add(self, confidence: FloatMap, is_right: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape, and NaN claims nothing: 0."""
        confidence = np.nan_to_num(confidence, nan=0.0)
        bins = np.clip((confidence * 15).astype(np.int64), 0, 14).ravel()
        self.count += np.bincount(bins, minlength=15)
        self.hits += np.bincount(bins, weights=is_right.ravel(), minlength=15)
        self.confidence += np.bincount(
            bins, weights=confidence.ravel().astype(np.float64), minlength=15
        )

    def value(self) -> float:
        """Return the mean gap between confidence and accuracy, 0..1."""
        return float(np.abs(self.confidence - self.hits).sum() / max(self.count.sum(), 1.0))

    def diagram(self) -> ReliabilityDiagram:
        """Return what a reliability diagram draws."""
        known = np.where(self.count > 0, self.count, np.nan)
        share = self.count / max(self.count.sum(), 1.0)
        return ReliabilityDiagram(self.confidence / known, self.hits / known, share)


@dataclass
class Ranking:
    """
    How well a score in 0..1 tells yes from no, over any number of pixels.

    Kept as two histograms, so that millions of pixels cost nothing; scores of one bin are taken
    for equal. NaN is taken as the largest score. For errors, yes is "this pixel is wrong".

    Attributes
    ----------
    positive, negative : ndarray of float64, shape (4097,)
        Histogram of the score where the answer is yes, and no.

    """

    positive: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS + 1))
    negative: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS + 1))

    def add(self, score: FloatMap, is_positive: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape."""
        # The square root spends the bins on small scores, where mutual information lives.
        scaled = np.sqrt(np.clip(np.nan_to_num(score, nan=1.0), 0, 1)) * _BINS
        bins = scaled.astype(np.int64)
        self.positive += np.bincount(bins[is_positive], minlength=_BINS + 1)
        self.negative += np.bincount(bins[~is_positive], minlength=_BINS + 1)

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

        A score that knows nothing has the share of yes, `prevalence`.

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

    def _from_the_top(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Yes and no at or above each bin, from the highest bin down.
        return np.cumsum(self.positive[::-1]), np.cumsum(self.negative[::-1])


def auroc(scores_yes: NDArray[np.floating], scores_no: NDArray[np.floating]) -> float:
    """
    Return the chance that a score of the first group outranks one of the second.

    Parameters
    ----------
    scores_yes, scores_no : ndarray of float, one axis
        A score a frame; NaN is taken as infinite.

    Returns
    -------
    float
        0..1; NaN if a group is empty.

    """
    if scores_yes.size == 0 or scores_no.size == 0:
        return float('nan')
    yes = np.nan_to_num(scores_yes, nan=np.inf)[:, None]
    no = np.nan_to_num(scores_no, nan=np.inf)[None]
    return float(((yes > no) + 0.5 * (yes == no)).mean())
