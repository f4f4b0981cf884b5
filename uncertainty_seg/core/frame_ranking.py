# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How well scores rank whole frames: bad ones above good ones, foreign ones above familiar ones.

Every figure has an interval over the blocks. Two orders are compared on the same draws, so that
the interval of their difference is not widened by what both have in common.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.bootstrap import block_interval, Interval
from uncertainty_seg.core.frame_table import Column, FrameTable
from uncertainty_seg.core.metrics import auroc
from uncertainty_seg.core.selective import aurc, excess_aurc

DRAWS = 500
_FOREIGN = 'foreign '


@dataclass(frozen=True)
class FrameRanking:
    """
    What one order of the frames is worth.

    Attributes
    ----------
    aurc : float
        Area under the curve of risk over coverage, smaller is better.
    excess_aurc : Interval
        That less the area of the best possible order.
    ood_auroc : Interval or None
        Chance that a foreign frame is above a familiar one; None without foreign frames.

    """

    aurc: float
    excess_aurc: Interval
    ood_auroc: Interval | None


@dataclass(frozen=True)
class RankingGain:
    """
    One order against another, on the same draws.

    Attributes
    ----------
    excess_aurc : Interval
        The other's less the one's: above 0 the one is better.
    ood_auroc : Interval or None
        The one's less the other's: above 0 the one is better.

    """

    excess_aurc: Interval
    ood_auroc: Interval | None


def rank_frames(
    values: Column, frames: FrameTable, foreign: Column | None = None, draws: int = DRAWS
) -> FrameRanking:
    """
    Measure an order of frames.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Grows with uncertainty; NaN counts as the largest.
    frames : FrameTable
        Gives blocks and which frames are bad.
    foreign : ndarray of float64, shape (m,), optional
        The same of frames the network was not made for, each its own block.
    draws : int
        Of the bootstrap.

    Returns
    -------
    FrameRanking
        With 95 % intervals.

    """
    losses = frames.is_bad.astype(np.float64)
    excess = block_interval(lambda rows: excess_aurc(rows[:, 0], rows[:, 1]),
                            np.stack([values, losses], 1), frames.blocks, draws=draws)
    ood = None
    if foreign is not None:
        rows, blocks = _with_foreign([values], [foreign], frames)
        ood = block_interval(_auroc(0), rows, blocks, draws=draws)
    return FrameRanking(aurc(values, losses), excess, ood)


def compare_rankings(
    one: Column, other: Column, frames: FrameTable,
    foreign: tuple[Column, Column] | None = None, draws: int = DRAWS,
) -> RankingGain:
    """
    Measure how much better one order is than another.

    Parameters
    ----------
    one, other : ndarray of float64, shape (n,)
        As `rank_frames` takes them.
    frames : FrameTable
        Gives blocks and which frames are bad.
    foreign : pair of ndarray of float64, shape (m,), optional
        Both orders' values of foreign frames.
    draws : int
        Of the bootstrap.

    Returns
    -------
    RankingGain
        With 95 % intervals.

    """
    losses = frames.is_bad.astype(np.float64)
    excess = block_interval(
        lambda rows: excess_aurc(rows[:, 1], rows[:, 2]) - excess_aurc(rows[:, 0], rows[:, 2]),
        np.stack([one, other, losses], 1), frames.blocks, draws=draws)
    if foreign is None:
        return RankingGain(excess, None)
    rows, blocks = _with_foreign([one, other], list(foreign), frames)
    first, second = _auroc(0), _auroc(1)
    return RankingGain(excess, block_interval(lambda r: first(r) - second(r), rows, blocks,
                                              draws=draws))


def _with_foreign(
    familiar: list[Column], foreign: list[Column], frames: FrameTable
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return rows (n + m, k + 1) of values and whether foreign, and their blocks."""
    count = len(foreign[0])
    is_foreign = np.concatenate([np.zeros(len(frames)), np.ones(count)])
    columns = [np.concatenate(pair) for pair in zip(familiar, foreign, strict=True)]
    names = np.array([f'{_FOREIGN}{i}' for i in range(count)], dtype=np.str_)
    return np.stack([*columns, is_foreign], 1), np.concatenate([frames.blocks, names])


def _auroc(column: int) -> Callable[[NDArray[np.float64]], float]:
    def measured(rows: NDArray[np.float64]) -> float:
        is_foreign = rows[:, -1] > 0
        return auroc(rows[is_foreign, column], rows[~is_foreign, column])

    return measured
