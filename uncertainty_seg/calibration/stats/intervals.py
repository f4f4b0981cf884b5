# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Confidence intervals by the percentile bootstrap over blocks of frames.

Frames of one block are drawn together because they are similar; drawing single frames would give
intervals that are too narrow. A draw is a row of weights, the number of times each frame occurs in
it; the first row is the original data. A figure is an array with one value per draw. All methods
share the draws, so that common variation cancels in the difference of two figures.

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
    A figure, `value`, and its 95 % confidence interval over `num_blocks` blocks.

    Ends of `Draws.interval` are NaN if fewer than half of the draws have a value, or there is only
    one block, so that all draws are equal. Below about 50 blocks they are a rough indication.
    """

    value: float
    lower: float
    upper: float
    num_blocks: int


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of blocks."""

    block: NDArray[np.intp]  # Index of each frame's block, (n,).
    counts: Floats  # Number of times each block is in each draw, (d, b); the first row is ones.

    @classmethod
    def of(cls, blocks: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Draws:
        """Draw as many blocks as there are, with replacement; `blocks` (n,) are the frames'."""
        _, block = np.unique(np.asarray(blocks), return_inverse=True)
        count = int(block.max()) + 1
        chosen = np.random.default_rng(seed).integers(0, count, (draws, count))
        counted = np.stack([np.bincount(row, minlength=count) for row in chosen])
        return cls(block, np.concatenate([np.ones((1, count)), counted]))

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks."""
        return self.counts.shape[1]

    @property
    def weights(self) -> Floats:
        """Return the number of times each frame is in each draw, (d, n)."""
        return self.counts[:, self.block]

    def interval(self, figures: Floats) -> Interval:
        """Return the central 95 % of a figure, float64 (d,), whose first value is the data's."""
        drawn = figures[1:]
        known = drawn[~np.isnan(drawn)]
        if 2 * len(known) < len(drawn) or self.num_blocks < 2:
            return Interval(float(figures[0]), float('nan'), float('nan'), self.num_blocks)
        tail = (1 - CONFIDENCE) / 2
        lower, upper = np.quantile(known, [tail, 1 - tail])
        return Interval(float(figures[0]), float(lower), float(upper), self.num_blocks)


def weighted_auroc(yes: Column, no: Column, yes_weights: Floats, no_weights: Floats) -> Floats:
    """
    Return the AUROC of a score in each draw, (d,), ties half; NaN where a class is missing.

    `yes` (n,) and `no` (m,) are scores of positives and negatives, larger for positives; NaN
    counts as infinite. The weights, (d, n) and (d, m), are the numbers of times each is drawn.
    """
    above, below = (np.where(np.isnan(v), np.inf, v) for v in (yes, no))
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    pairs = yes_weights.sum(1) * no_weights.sum(1)
    return ((yes_weights @ wins) * no_weights).sum(1) / np.where(pairs > 0, pairs, np.nan)


def weighted_excess_aurc(scores: Column, losses: Column, weights: Floats) -> Floats:
    """
    Return the E-AURC of each draw, (d,): `weighted_aurc` minus that of the perfect order.

    It is 0 for the perfect order. It compares scores of one network, not different networks. After
    Geifman, Uziel and El-Yaniv, 2019, arXiv:1805.08206.
    """
    return weighted_aurc(scores, losses, weights) - weighted_aurc(losses, losses, weights)


def weighted_aurc(scores: Column, losses: Column, weights: Floats) -> Floats:
    """
    Return the area under the risk-coverage curve of each draw, (d,); smaller is better.

    It is the mean risk over the coverages 1/n .. 1. Scores and losses are float64 (n,), the
    weights integers of shape (d, n); a NaN score is refused first. For equal scores it is the mean
    over all orders of those frames, so that the order of the data has no effect.
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
    Return the AUROC of pixels in each draw, (d,), ties half; NaN where a class is missing.

    `yes` and `no` (n, bins) are each frame's histograms of a map over positive and negative
    pixels, from low to high; `weights` are (d, n).
    """
    found, alarms = (weights @ counts.astype(np.float64) for counts in (yes, no))
    pairs = found.sum(1) * alarms.sum(1)
    below = np.cumsum(alarms, 1) - alarms
    return (found * (below + 0.5 * alarms)).sum(1) / np.where(pairs > 0, pairs, np.nan)


def weighted_totals(totals: Floats, num_classes: int, weights: Floats) -> dict[str, Floats]:
    """
    Return mean IoU, accuracy and expected calibration error of each draw, (d,) by name.

    Pixels of one image are not independent, so images are drawn, and each figure is computed over
    all pixels of the drawn images. A class that occurs in the truth of the data but not of a draw
    is left out of that draw's mean; otherwise a few false pixels of it would decide between two
    bundles. Chance can only increase a calibration error, so its interval extends upwards.
    `totals` are those of `evaluation.Evaluation`, (n, C * C + 45).
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
