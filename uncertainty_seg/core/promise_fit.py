# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From measured frames to limits with a promise, and the rehearsal that shows what it is worth.

The family of limits and the choice of scores are given; here the one number that is left, the
rank, is set by conformal risk control on frames that neither has seen.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.calibration import Promise
from uncertainty_seg.core.conformal import blocks_needed, mean_block_share, promised_limit
from uncertainty_seg.core.frame_table import Column, FrameTable, split_blocks
from uncertainty_seg.core.gate_choice import RankFamily
from uncertainty_seg.errors import CalibrationError

# That of the most uncertain reference frame.
HIGHEST_RANK = 1.0
# From accepted, bad and blocks, (n,) each, to an upper bound of P(bad | accepted).
Bound = Callable[[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.str_]], float]


@dataclass(frozen=True)
class Rehearsal:
    """
    The promise made on one half of the blocks and held against the other, many times.

    Attributes
    ----------
    alpha : float
        Promised.
    num_splits : int
        Draws of the halves.
    accepted_and_bad, accepted : float
        Mean over the draws of the shares on the half that was not fitted on.
    share_above : float
        Part of the draws in which accepted-and-bad exceeded alpha; near a half is expected, since
        the promise is about the mean.

    """

    alpha: float
    num_splits: int
    accepted_and_bad: float
    accepted: float
    share_above: float


def fit_promise(
    family: RankFamily, frames: FrameTable, names: Sequence[str], alpha: float, bad: str,
    bound: Bound,
) -> Promise:
    """
    Set the limits of some scores.

    Parameters
    ----------
    family : RankFamily
        Fitted on other frames.
    frames : FrameTable
        Calibration frames.
    names : sequence of str
        Scores of the gate.
    alpha : float
        To promise.
    bad : str
        The rule by which `frames.is_bad` was found.
    bound : callable
        Gives the upper bound of P(bad | accepted), whatever limit was chosen.

    Returns
    -------
    Promise
        Its shares are those of the limits as they are written down.

    Raises
    ------
    CalibrationError
        If there are too few blocks, or no frame can be accepted.

    """
    limits = family.limits(_rank(family, frames, names, alpha), names)
    accepted = frames.accepted(limits)
    wrong = accepted & frames.is_bad
    num_blocks = len(np.unique(frames.blocks))
    lost = mean_block_share(wrong, frames.blocks)
    reached = (num_blocks * lost + 1) / (num_blocks + 1)
    if reached > alpha:  # by the last digits of a limit
        limits = {name: value * (1 - 1e-9) for name, value in limits.items()}
        accepted = frames.accepted(limits)
        wrong = accepted & frames.is_bad
        reached = (num_blocks * mean_block_share(wrong, frames.blocks) + 1) / (num_blocks + 1)
    return Promise(
        alpha, limits, bad, num_blocks, len(frames), float(reached),
        mean_block_share(accepted, frames.blocks), mean_block_share(wrong, frames.blocks),
        bound(accepted, frames.is_bad, frames.blocks))


def rehearse(
    family: RankFamily, frames: FrameTable, names: Sequence[str], alpha: float,
    num_splits: int = 200,
) -> Rehearsal | None:
    """
    Make the promise on half of the blocks, hold it against the other half, and again.

    Parameters
    ----------
    family, frames, names, alpha
        As `fit_promise` takes them.
    num_splits : int
        How often, each time with other halves.

    Returns
    -------
    Rehearsal or None
        None if half of the blocks are too few for the promise. A half on which no frame could be
        accepted counts as one that accepts none.

    """
    count = len(np.unique(frames.blocks))
    if count < 2 or round(count / 2) < blocks_needed(alpha):
        return None
    lost, taken = [], []
    for seed in range(num_splits):
        fitted, held_out = (frames.select(rows) for rows in split_blocks(frames.blocks, 0.5, seed))
        try:
            limit = _rank(family, fitted, names, alpha)
        except CalibrationError:
            limit = -np.inf  # bad frames come first in this half: it would accept nothing
        accepted = family.frame_ranks(held_out.scores, names) <= limit
        lost.append(mean_block_share(accepted & held_out.is_bad, held_out.blocks))
        taken.append(mean_block_share(accepted, held_out.blocks))
    return Rehearsal(alpha, num_splits, float(np.mean(lost)), float(np.mean(taken)),
                     float(np.mean(np.array(lost) > alpha)))


def _rank(family: RankFamily, frames: FrameTable, names: Sequence[str], alpha: float) -> float:
    ranks = family.frame_ranks(frames.scores, names)
    limit = promised_limit(ranks, frames.is_bad, frames.blocks, alpha).limit
    # Where few frames are bad the promise alone would let everything pass; but of what exceeds
    # all reference frames nothing is known.
    return min(limit, HIGHEST_RANK)


def ks_distance(one: Column, other: Column) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, 0..1; values not finite left out."""
    one, other = (np.sort(values[np.isfinite(values)]) for values in (one, other))
    if not one.size or not other.size:
        return float('nan')
    at = np.concatenate([one, other])
    shares = [np.searchsorted(values, at, side='right') / values.size for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def quantile_limits(
    frames: FrameTable, quantile: float, highest: float
) -> Mapping[str, float]:
    """
    Return for each score the value that a share of the frames does not exceed.

    A score that is 0 there, or at `highest` or above, or not finite, has no limit.

    """
    limits = {}
    for name, column in frames.scores.items():
        values = np.sort(np.where(np.isfinite(column), column, np.inf))
        limit = float(values[max(int(np.ceil(quantile * len(values))) - 1, 0)])
        if 0 < limit < highest:
            limits[name] = limit
    return limits
