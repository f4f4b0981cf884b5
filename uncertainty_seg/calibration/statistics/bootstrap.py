# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a figure would move on other data: the percentile bootstrap over blocks of frames.

Frames of one block are drawn together, since they are alike: drawing frame by frame would give an
interval that is too narrow. A difference of two figures is bootstrapped as one statistic of the
same rows, so that what both share cancels.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError, Floats
from uncertainty_seg.core.arrays import ConfusionMatrix
from uncertainty_seg.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class Interval:
    """
    A figure and where it may lie.

    Attributes
    ----------
    value : float
        Over all rows.
    lower, upper : float
        Percentiles over the draws; NaN if fewer than half of the draws have a value, or there is
        one block, of which every draw is the same.
    confidence : float
        Share of the draws between them.
    num_blocks : int
        What was drawn from; below about 20 an interval is a hint at best.

    """

    value: float
    lower: float
    upper: float
    confidence: float
    num_blocks: int


def block_interval(
    statistic: Callable[[Floats], float],
    rows: ArrayLike,
    blocks: ArrayLike,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """
    Compute a figure over blocks drawn with replacement.

    Raises ShapeError if there is no row, or not one block name a row; ConfigError if the
    confidence is not between 0 and 1, or there is no draw.

    Parameters
    ----------
    statistic : callable
        From rows (m, ...) to a number; NaN where it has none, such as a ranking without a bad
        frame. Such draws are left out.
    rows : array of float, shape (n, ...)
        What is known of each frame: a loss, scores, counts of a confusion matrix.
    blocks : array of int or str, shape (n,)
        The block of each frame; the frames' own numbers where they are independent.
    confidence : float
        In (0, 1).
    draws : int
        At least 1.
    seed : int
        The same seed, the same interval.

    Returns
    -------
    Interval
        Of the statistic.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    """
    table, names = np.asarray(rows, np.float64), np.asarray(blocks)
    if not len(table) or names.shape != table.shape[:1]:
        raise ShapeError(f'rows {table.shape} and blocks {names.shape}', 'one block name a row')
    if not 0 < confidence < 1 or draws < 1:
        raise ConfigError(f'confidence {confidence:g} and {draws} draws',
                          'a confidence between 0 and 1, and a draw')
    _, index = np.unique(names, return_inverse=True)
    members = [np.flatnonzero(index == block) for block in range(int(index.max()) + 1)]
    if len(members) < 2:
        return Interval(float(statistic(table)), float('nan'), float('nan'), confidence, 1)
    rng = np.random.default_rng(seed)
    drawn = np.array([
        statistic(table[np.concatenate([members[block] for block in chosen])])
        for chosen in rng.integers(0, len(members), (draws, len(members)))
    ])
    lower, upper = percentiles(drawn, confidence)
    return Interval(float(statistic(table)), lower, upper, confidence, len(members))


def percentiles(drawn: Floats, confidence: float) -> tuple[float, float]:
    """Return the ends of an interval of drawn values, (d,); NaN if fewer than half are known."""
    known = drawn[~np.isnan(drawn)]
    if 2 * len(known) < len(drawn):
        return float('nan'), float('nan')
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(known, [tail, 1 - tail])
    return float(lower), float(upper)


def pixel_intervals(
    totals: Floats, blocks: ArrayLike, num_classes: int, draws: int = 500
) -> dict[str, Interval]:
    """
    Return mean IoU, accuracy and expected calibration error with their intervals.

    A million pixels of one image are not a million samples: images are drawn, by block, and each
    figure is computed anew over all pixels of those that were drawn. Raises ShapeError if there is
    no image, or not one block an image.

    Parameters
    ----------
    totals : ndarray of float64, shape (n, C * C + 45)
        Of each image, as `evaluation.Evaluation` has them.
    blocks : array of str, shape (n,)
        The block of each image.
    num_classes : int
        C.
    draws : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Interval
        'mean_iou', 'accuracy' and 'ece', 0..1, with 95 % intervals. A class that a draw does not
        have is left out of its mean. Chance alone adds to a calibration error and never takes
        from it, so that its interval lies to the upper side.

    """
    figures: dict[str, Callable[[Floats], float]] = {
        'mean_iou': lambda rows: _confusion(rows, num_classes).mean_iou(),
        'accuracy': lambda rows: _confusion(rows, num_classes).accuracy(),
        'ece': lambda rows: ExpectedCalibrationError(
            *rows.sum(0)[num_classes**2:].reshape(3, -1)).value(),
    }
    return {name: block_interval(figure, totals, blocks, draws=draws)
            for name, figure in figures.items()}


def _confusion(rows: Floats, num_classes: int) -> ConfusionMatrix:
    found = ConfusionMatrix(num_classes)
    summed = rows.sum(0)[:num_classes**2].reshape(num_classes, num_classes)
    found.counts += summed.astype(found.counts.dtype)
    return found
