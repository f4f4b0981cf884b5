# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Figures over many draws of the same frames at once, so that two methods share every draw.

A draw of blocks with replacement is a row of weights: how often each frame is in it. The first row
is the data as they are, with each frame once. A figure is then an array with one value a draw, and
the difference of two methods is the difference of two such arrays, in which what both have in
common cancels. Every function agrees with the one that looks at plain rows (`selective`,
`metrics`, `conformal`) on the frames of each draw.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.calibration.statistics.bootstrap import Interval, percentiles
from uncertainty_seg.calibration.statistics.conformal import blocks_needed
from uncertainty_seg.calibration.statistics.metrics import Floats
from uncertainty_seg.core.calibration import Column
from uncertainty_seg.errors import ConfigError, ShapeError

CONFIDENCE = 0.95
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Draws:
    """
    Draws of blocks.

    Attributes
    ----------
    block : ndarray of int, shape (n,)
        Index of each frame's block.
    counts : ndarray of float64, shape (d, b)
        How often each block is in each draw; all ones in the first row.

    """

    block: NDArray[np.intp]
    counts: Floats

    @classmethod
    def of(cls, blocks: ArrayLike, draws: int, seed: int) -> Draws:
        """
        Draw blocks with replacement, as many as there are.

        Raises ConfigError if there is no draw; ShapeError if there is no frame.

        Parameters
        ----------
        blocks : array of int or str, shape (n,)
            The block of each frame.
        draws : int
            At least 1, beside the data as they are.
        seed : int
            The same seed, the same draws.

        """
        _, block = np.unique(np.asarray(blocks), return_inverse=True)
        if draws < 1:
            raise ConfigError(f'{draws} draws', 'at least 1')
        if not block.size:
            raise ShapeError('no frame to draw', 'at least one')
        count = int(block.max()) + 1
        chosen = np.random.default_rng(seed).integers(0, count, (draws, count))
        counted = np.stack([np.bincount(row, minlength=count) for row in chosen])
        return cls(block, np.concatenate([np.ones((1, count)), counted]))

    @property
    def weights(self) -> Floats:
        """Return how often each frame is in each draw, (d, n)."""
        return self.counts[:, self.block]

    def interval(self, figures: Floats) -> Interval:
        """
        Return a figure and where it may lie; NaN if fewer than half of the draws have one.

        `figures` is float64 (d,), that of the data first.
        """
        lower, upper = percentiles(figures[1:], CONFIDENCE)
        return Interval(float(figures[0]), lower, upper, CONFIDENCE, self.counts.shape[1])


def weighted_auroc(yes: Column, no: Column, yes_weights: Floats, no_weights: Floats) -> Floats:
    """
    Return the chance that a yes outranks a no in each draw, (d,); NaN where one is missing.

    Parameters
    ----------
    yes, no : ndarray of float64, shape (n,) and (m,)
        Scores that grow with "yes"; NaN counts as infinite.
    yes_weights, no_weights : ndarray of float64, shape (d, n) and (d, m)
        How often each is in a draw.

    """
    above, below = (np.where(np.isnan(v), np.inf, v) for v in (yes, no))
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    pairs = yes_weights.sum(1) * no_weights.sum(1)
    return ((yes_weights @ wins) * no_weights).sum(1) / np.where(pairs > 0, pairs, np.nan)


def weighted_excess_aurc(scores: Column, losses: Column, weights: Floats) -> Floats:
    """
    Return E-AURC, as `selective.excess_aurc` has it, of each draw, (d,); smaller is better.

    Scores and losses are float64 (n,), the weights whole numbers of shape (d, n).
    """
    ranks = np.where(np.isnan(scores), np.inf, scores)
    return _aurc(ranks, losses, weights) - _aurc(losses, losses, weights)


def _aurc(ranks: Column, losses: Column, weights: Floats) -> Floats:
    (count, loss), _ = _by_rank(ranks, weights, weights * losses)
    ends, lost = np.cumsum(count, 1), np.cumsum(loss, 1)
    starts, before = ends - count, lost - loss
    mean = loss / np.maximum(count, 1)
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, ends.max() + 1)))
    steps = harmonic[ends.astype(np.intp)] - harmonic[starts.astype(np.intp)]
    # Within frames of equal rank the k-th accepted adds (before + mean (k - starts)) / k.
    return (mean * count + (before - mean * starts) * steps).sum(1) / ends[:, -1]


def _by_rank(ranks: Column, *columns: Floats) -> tuple[list[Floats], Column]:
    """Sum the columns, (d, n) each, of frames with the same rank; return the ranks, growing."""
    order = np.argsort(ranks, kind='stable')
    values, first = np.unique(ranks[order], return_index=True)
    return [np.add.reduceat(column[:, order], first, axis=1) for column in columns], values


def weighted_pixels(
    yes: NDArray[np.number], no: NDArray[np.number], weights: Floats
) -> tuple[Floats, Floats]:
    """
    Return AUROC and area under the precision-recall curve of pixels in each draw, (d,) both.

    Parameters
    ----------
    yes, no : ndarray, shape (n, bins)
        Of each frame, how many pixels of either kind a map has in each bin, from low to high.
    weights : ndarray of float64, shape (d, n)
        How often each frame is in a draw.

    Returns
    -------
    tuple of ndarray of float64
        NaN where a kind is missing.

    """
    found, alarms = (weights @ counts.astype(np.float64) for counts in (yes, no))
    pairs = found.sum(1) * alarms.sum(1)
    pairs = np.where(pairs > 0, pairs, np.nan)
    below = np.cumsum(alarms, 1) - alarms
    chance = (found * (below + 0.5 * alarms)).sum(1) / pairs
    hits, all_alarms = (np.cumsum(part[:, ::-1], 1) for part in (found, alarms))
    precision = hits / np.maximum(hits + all_alarms, 1)
    area = (found[:, ::-1] * precision).sum(1) / np.maximum(hits[:, -1], 1)
    return chance, np.where(np.isnan(pairs), np.nan, area)


def weighted_totals(totals: Floats, num_classes: int, weights: Floats) -> tuple[Floats, Floats]:
    """
    Return mean IoU and expected calibration error of each draw, (d,) both.

    `totals` are those of `evaluation.PixelMeasures`, (n, C * C + 45).
    """
    summed = weights @ totals
    counts = summed[:, :num_classes**2].reshape(-1, num_classes, num_classes)
    inter = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(1) + counts.sum(2) - inter
    iou = np.where(union > 0, inter / np.maximum(union, 1), np.nan)
    number, hits, confidence = summed[:, num_classes**2:].reshape(len(summed), 3, -1) \
        .transpose(1, 0, 2)
    error = np.abs(confidence - hits).sum(1) / np.maximum(number.sum(1), 1)
    return np.nanmean(iou, axis=1), error


def promised_coverage(
    ranks: Column, is_bad: NDArray[np.bool_], draws: Draws, alpha: float, halvings: int, seed: int
) -> tuple[Floats, Floats]:
    """
    Return which share of frames a promised limit accepts, and which is accepted and bad.

    In each draw the blocks are cut in two halves, again and again. One half sets the limit by
    conformal risk control (`conformal.promised_limit`), the other is judged by it, then the other
    way round; copies of a block stay in one half.

    Parameters
    ----------
    ranks : ndarray of float64, shape (n,)
        Growing with uncertainty; what is not finite is never accepted.
    is_bad : ndarray of bool, shape (n,)
        Whether the mask is bad.
    draws : Draws
        Of the frames' blocks.
    alpha : float
        The promise, in (0, 1).
    halvings : int
        How often the blocks are cut in halves.
    seed : int
        Of the cuts, which do not depend on the ranks: methods share them.

    Returns
    -------
    tuple of ndarray of float64
        Means over all halves, (d,) both; every block counts alike. NaN where a half has too few
        blocks for this alpha. Zero where no frame can be accepted.

    """
    rng, count = np.random.default_rng(seed), draws.counts.shape[1]
    shares = draws.weights / np.bincount(draws.block)[draws.block]
    (taken, lost), values = _by_rank(np.where(np.isnan(ranks), np.inf, ranks),
                                     np.eye(len(ranks)), np.diag(is_bad.astype(np.float64)))
    taken, lost = taken[:, np.isfinite(values)], lost[:, np.isfinite(values)]
    found = []
    for _ in range(halvings):
        is_first = np.isin(np.arange(count), rng.permutation(count)[:count // 2])
        for fits in (is_first, ~is_first):
            on = [_half(shares, draws, part, taken, lost) for part in (fits, ~fits)]
            found.append(_accepted(on[0], on[1], alpha))
    accepted, bad = np.mean(found, axis=0)
    return accepted, bad


@dataclass(frozen=True)
class _Half:
    """Of one half of the blocks, (d, k) each: seen at a rank, and shares up to it; blocks (d,)."""

    seen: NDArray[np.bool_]
    accepted: Floats
    bad: Floats
    num_blocks: Floats


def _half(shares: Floats, draws: Draws, part: NDArray[np.bool_], taken: Floats, lost: Floats
          ) -> _Half:
    kept = shares * part[draws.block]
    number = draws.counts[:, part].sum(1)
    at_rank = kept @ taken
    safe = np.maximum(number, 1)[:, None]
    return _Half(at_rank > 0, np.cumsum(at_rank, 1) / safe, np.cumsum(kept @ lost, 1) / safe,
                 number)


def _accepted(fitted: _Half, judged: _Half, alpha: float) -> tuple[Floats, Floats]:
    number = fitted.num_blocks[:, None]
    fits = fitted.seen & ((number * fitted.bad + 1) / (number + 1) <= alpha + _ROUNDING)
    last = fits.shape[1] - 1 - np.argmax(fits[:, ::-1], axis=1) if fits.shape[1] else 0
    rows = np.arange(len(fits))
    any_fits = fits.any(1)
    missing = (fitted.num_blocks < blocks_needed(alpha)) | (judged.num_blocks < 1)
    pair = (np.where(any_fits, part[rows, last] if fits.shape[1] else 0.0, 0.0)
            for part in (judged.accepted, judged.bad))
    accepted, bad = (np.where(missing, np.nan, values) for values in pair)
    return accepted, bad
