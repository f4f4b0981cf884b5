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
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.arrays import FloatMap
from uncertainty_seg.errors import ShapeError

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

    def auroc(self) -> float:
        """Return the chance that a yes outranks a no, ties half; NaN if either is missing."""
        if not self.positive.sum() or not self.negative.sum():
            return float('nan')
        below = np.cumsum(self.negative) - self.negative
        wins = (self.positive * (below + 0.5 * self.negative)).sum()
        return float(wins / (self.positive.sum() * self.negative.sum()))

    def merged(self, bins: int = 1024) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return both histograms in fewer bins, which take less room; `bins` divides 4096."""
        both = []
        for fine in (self.positive, self.negative):
            whole = fine[:-1].copy()
            whole[-1] += fine[-1]  # the last fine bin, of the value 1 alone
            both.append(whole.reshape(bins, -1).sum(1).astype(np.uint32))
        return both[0], both[1]


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


# -------------------------------------------------------------------------------------------------
# One frame is one sample, with a score that grows with uncertainty and a loss in 0..1 (bad or not,
# or one minus its IoU). Frames of equal score are accepted together: no threshold separates them.
# Scores and losses have the shape (n,); a score of NaN is refused first, with infinity.


def risk_coverage(scores: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    """
    Refuse frames from the most uncertain on; return shares accepted and mean losses of those.

    One point, of 1 to n, a threshold, from strict to loose; the last accepts all. Raises
    ShapeError if there is no frame, or scores and losses differ in length.

    References
    ----------
    Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    """
    ranks, loss = _checked(scores, losses)
    _, index = np.unique(ranks, return_inverse=True)
    counts = np.cumsum(np.bincount(index))
    return counts / len(loss), np.cumsum(np.bincount(index, loss)) / counts


def aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return the area under the curve, the mean risk over the coverages 1/n .. 1; smaller is better.

    Where scores are equal it is the mean over every order of those frames, so that the order of
    the data never counts. Errors are those of `risk_coverage`.
    """
    ranks, loss = _checked(scores, losses)
    _, index = np.unique(ranks, return_inverse=True)
    of_tie = np.bincount(index, loss) / np.bincount(index)
    return _mean_risk(of_tie[np.sort(index)])


def excess_aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return E-AURC: `aurc` less that of a score that knew the losses; 0 for a perfect order.

    It compares scores of one network, not networks. Errors are those of `risk_coverage`.

    References
    ----------
    Geifman, Uziel and El-Yaniv, 2019, arXiv:1805.08206.

    """
    return aurc(scores, losses) - _mean_risk(np.sort(_checked(scores, losses)[1]))


def _mean_risk(losses: Floats) -> float:
    return float((np.cumsum(losses) / np.arange(1, len(losses) + 1)).mean())


def _checked(scores: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    ranks, loss = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if ranks.shape != loss.shape or ranks.ndim != 1 or not ranks.size:
        raise ShapeError(f'scores of shape {ranks.shape} and losses of {loss.shape}',
                         'one of each a frame, and at least one frame')
    return np.where(np.isnan(ranks), np.inf, ranks), loss
