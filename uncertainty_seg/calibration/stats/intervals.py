# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a figure would move on other data: the percentile bootstrap over blocks of frames.

Frames of one block are drawn together, since they are alike: drawing frame by frame would give an
interval that is too narrow. A draw is a row of weights, how often each frame is in it; the first
row is the data as they are. A figure is then an array with one value a draw. All methods share the
draws, so that in the difference of two figures what both have in common cancels.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.calibration.stats.metrics import Floats
from uncertainty_seg.core.arrays import Column

CONFIDENCE = 0.95
DRAWS = 500


@dataclass(frozen=True)
class Interval:
    """
    A figure and where it may lie.

    Attributes
    ----------
    value : float
        Over all rows.
    lower, upper : float
        The middle 95 % of the draws; NaN if fewer than half of the draws have a value, or there is
        one block, of which every draw is the same.
    num_blocks : int
        What was drawn from; below about 20 an interval is a hint at best.

    """

    value: float
    lower: float
    upper: float
    num_blocks: int


@dataclass(frozen=True)
class Draws:
    """Draws of blocks."""

    block: NDArray[np.intp]  # Index of each frame's block, (n,).
    counts: Floats  # How often each block is in each draw, (d, b); all ones in the first row.

    @classmethod
    def of(cls, blocks: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Draws:
        """Draw the blocks of n frames, (n,), with replacement, as many as there are."""
        _, block = np.unique(np.asarray(blocks), return_inverse=True)
        count = int(block.max()) + 1
        chosen = np.random.default_rng(seed).integers(0, count, (draws, count))
        counted = np.stack([np.bincount(row, minlength=count) for row in chosen])
        return cls(block, np.concatenate([np.ones((1, count)), counted]))

    @property
    def num_blocks(self) -> int:
        """Return how many blocks there are."""
        return self.counts.shape[1]

    @property
    def weights(self) -> Floats:
        """Return how often each frame is in each draw, (d, n)."""
        return self.counts[:, self.block]

    def interval(self, figures: Floats) -> Interval:
        """Return the interval of a figure, float64 (d,), that of the data first."""
        drawn = figures[1:]
        known = drawn[~np.isnan(drawn)]
        if 2 * len(known) < len(drawn) or self.num_blocks < 2:
            return Interval(float(figures[0]), float('nan'), float('nan'), self.num_blocks)
        tail = (1 - CONFIDENCE) / 2
        lower, upper = np.quantile(known, [tail, 1 - tail])
        return Interval(float(figures[0]), float(lower), float(upper), self.num_blocks)

    def share(self, chosen: ArrayLike) -> Interval:
        """Return the mean over blocks of the share of a block's frames that are chosen."""
        sizes = np.bincount(self.block)
        shares = np.bincount(self.block, np.asarray(chosen, np.float64)) / sizes
        return self.interval(self.counts @ shares / self.num_blocks)


def weighted_auroc(yes: Column, no: Column, yes_weights: Floats, no_weights: Floats) -> Floats:
    """
    Return the chance that a yes outranks a no in each draw, (d,); NaN where one is missing.

    `yes` (n,) and `no` (m,) are scores that grow with "yes", NaN counts as infinite; the weights,
    (d, n) and (d, m), say how often each is in a draw.
    """
    above, below = (np.where(np.isnan(v), np.inf, v) for v in (yes, no))
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    pairs = yes_weights.sum(1) * no_weights.sum(1)
    return ((yes_weights @ wins) * no_weights).sum(1) / np.where(pairs > 0, pairs, np.nan)


def weighted_excess_aurc(scores: Column, losses: Column, weights: Floats) -> Floats:
    """
    Return E-AURC: `weighted_aurc` less that of a score that knew the losses, of each draw, (d,).

    It is 0 for a perfect order, and compares scores of one network, not networks. After Geifman,
    Uziel and El-Yaniv, 2019, arXiv:1805.08206.
    """
    return weighted_aurc(scores, losses, weights) - weighted_aurc(losses, losses, weights)


def weighted_aurc(scores: Column, losses: Column, weights: Floats) -> Floats:
    """
    Return the area under risk and coverage of each draw, (d,); smaller is better.

    It is the mean risk over the coverages 1/n .. 1. Scores and losses are float64 (n,), the
    weights whole numbers of shape (d, n); a score of NaN is refused first. Where scores are equal
    it is the mean over every order of those frames, so that the order of the data never counts.
    """
    ranks = np.where(np.isnan(scores), np.inf, scores)
    order = np.argsort(ranks, kind='stable')
    _, first = np.unique(ranks[order], return_index=True)
    count, loss = (np.add.reduceat(column[:, order], first, axis=1)
                   for column in (weights, weights * losses))
    ends, lost = np.cumsum(count, 1), np.cumsum(loss, 1)
    starts, before = ends - count, lost - loss
    mean = loss / np.maximum(count, 1)
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, ends.max() + 1)))
    steps = harmonic[ends.astype(np.intp)] - harmonic[starts.astype(np.intp)]
    # Within frames of equal rank the k-th accepted adds (before + mean (k - starts)) / k.
    return (mean * count + (before - mean * starts) * steps).sum(1) / ends[:, -1]


def weighted_pixel_auroc(
    yes: NDArray[np.number], no: NDArray[np.number], weights: Floats
) -> Floats:
    """
    Return AUROC of pixels in each draw, (d,), ties half; NaN where a kind is missing.

    `yes` and `no` are (n, bins): of each frame, how many pixels of either kind a map has in each
    bin, from low to high; `weights` are (d, n).
    """
    found, alarms = (weights @ counts.astype(np.float64) for counts in (yes, no))
    pairs = found.sum(1) * alarms.sum(1)
    below = np.cumsum(alarms, 1) - alarms
    return (found * (below + 0.5 * alarms)).sum(1) / np.where(pairs > 0, pairs, np.nan)


def weighted_totals(totals: Floats, num_classes: int, weights: Floats) -> dict[str, Floats]:
    """
    Return mean IoU, accuracy and expected calibration error of each draw, (d,) by name.

    A million pixels of one image are not a million samples: images are drawn, and each figure is
    computed over all pixels of those. A class that some image has and a draw has not is left out
    of its mean: a few pixels that one bundle takes for it would decide between two bundles.
    Chance alone adds to a calibration error and never takes from it, so that its interval lies to
    the upper side. `totals` are those of `evaluation.Evaluation`, (n, C * C + 45).
    """
    summed = weights @ totals
    counts = summed[:, :num_classes**2].reshape(-1, num_classes, num_classes)
    inter, true = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2)
    union = counts.sum(1) + true - inter
    of_all = totals[:, :num_classes**2].reshape(-1, num_classes, num_classes).sum((0, 2))
    counts_here = (union > 0) & ((true > 0) | (of_all == 0))
    iou = np.where(counts_here, inter / np.maximum(union, 1), np.nan)
    number, hits, confidence = summed[:, num_classes**2:].reshape(len(summed), 3, -1) \
        .transpose(1, 0, 2)
    error = np.abs(confidence - hits).sum(1) / np.maximum(number.sum(1), 1)
    return {'mean_iou': np.nanmean(iou, axis=1),
            'accuracy': inter.sum(1) / np.maximum(counts.sum((1, 2)), 1), 'ece': error}
