# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A limit with a promise: on a new block of frames, at most alpha is accepted and bad, on average.

Conformal risk control asks for exchangeable samples, and neighbouring frames of a dive are not:
they share water, light and place. A *block* (a dive, a track, a minute of video, a site) is the
sample here, and its loss is the share of its frames that are accepted although they are bad. The
promise is over the drawing of the calibration blocks and the new one together. It says nothing of
the bad among the accepted (`bad_share` bounds that), of one block, or of another water, and it is
void for blocks that the scores or their thresholds were chosen on.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.calibration.statistics.frame_table import FrameTable, split_blocks
from uncertainty_seg.core.calibration import Column, Promise, RankFamily
from uncertainty_seg.errors import (
    BackendUnavailableError,
    CalibrationError,
    ConfigError,
    install_command,
    ShapeError,
)

_ROUNDING = 1e-12
_NOTE_ALL_GOOD = ('no calibration frame is bad, so nothing is known of how bad frames score: the '
                  'limit is the largest ratio seen')


@dataclass(frozen=True)
class PromisedLimit:
    """
    What was promised, and on what it stands.

    Attributes
    ----------
    limit : float
        A frame is accepted when its ratio is at or below; 0 or more, a ratio that was seen.
    alpha : float
        The promise: expected share of a new block that is accepted and bad.
    num_blocks : int
        n.
    bound : float
        n/(n+1) times the share seen, plus 1/(n+1); at most alpha.
    accepted_share, accepted_and_bad_share : float
        Means over the calibration blocks at the limit.
    note : str
        What a reader must know besides; empty if nothing.

    """

    limit: float
    alpha: float
    num_blocks: int
    bound: float
    accepted_share: float
    accepted_and_bad_share: float
    note: str


def blocks_needed(alpha: float) -> int:
    """
    Return the fewest blocks that can carry a promise: 19 for 0.05, 9 for 0.10.

    Raises ConfigError if `alpha` is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f'alpha is {alpha}', 'a share above 0 and below 1, such as 0.05')
    return math.ceil(1 / alpha - 1e-9) - 1


def smallest_alpha(num_blocks: int) -> float:
    """Return the least alpha that so many blocks can carry, if no accepted one is bad."""
    return math.ceil(1e4 / (num_blocks + 1) - 1e-9) / 1e4


def blocks_buy(num_blocks: int) -> str:
    """Say what so many blocks can promise, and what more would."""
    more = ', '.join(f'{blocks_needed(alpha)} for {alpha:g}' for alpha in (0.1, 0.05, 0.02)
                     if blocks_needed(alpha) > num_blocks)
    mine = f'{num_blocks} blocks promise alpha {smallest_alpha(num_blocks):g} at best, if no ' \
        'bad frame is accepted' if num_blocks else 'no block promises anything'
    return f'{mine}; it takes {more}' if more else mine


def block_shares(
    chosen: ArrayLike, blocks: ArrayLike
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Return the names of the blocks, and the share of each one's frames that are chosen, 0..1."""
    names, (index, sizes) = np.unique(np.asarray(blocks)), _index(blocks)
    return names, np.bincount(index, np.asarray(chosen, np.float64)) / sizes


def mean_block_share(chosen: ArrayLike, blocks: ArrayLike) -> float:
    """Return the mean over blocks of the share of a block's frames that are chosen, 0..1."""
    return float(block_shares(chosen, blocks)[1].mean())


def promised_limit(
    ratios: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike, alpha: float
) -> PromisedLimit:
    """
    Find the loosest limit that keeps the promise.

    Raises ConfigError if `alpha` is not between 0 and 1; ShapeError if the three differ in length,
    or there is no frame; CalibrationError if there are too few blocks for this alpha, all frames
    are bad, or none may be accepted.

    Parameters
    ----------
    ratios : array of float, shape (n,)
        Largest score over threshold of each frame; NaN and infinity are never accepted.
    is_bad : array of bool, shape (n,)
        Whether its mask is bad.
    blocks : array of int or str, shape (n,)
        The block of each frame; blocks of any size count alike.
    alpha : float
        The promise, in (0, 1).

    Returns
    -------
    PromisedLimit
        A seen ratio: what lies between two seen ones was not tried.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei and Schuster, 2022, arXiv:2208.02814: the rule, with the
    bound 1 of the loss.

    """
    ratio, bad = np.asarray(ratios, np.float64), np.asarray(is_bad, bool)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if not ratio.shape == bad.shape == np.shape(blocks) or ratio.ndim != 1 or not ratio.size:
        raise ShapeError(f'ratios {ratio.shape}, is_bad {bad.shape}, blocks {np.shape(blocks)}',
                         'one of each a frame, and at least one frame')
    _, sizes = _index(blocks)
    _refuse_hopeless(bad, len(sizes), alpha)
    limit = _largest_limit(ratio, bad, blocks, alpha)
    accepted = ratio <= limit
    lost = mean_block_share(accepted & bad, blocks)
    return PromisedLimit(
        limit, alpha, len(sizes), float(_bound(lost, len(sizes))),
        mean_block_share(accepted, blocks), lost, '' if bad.any() else _NOTE_ALL_GOOD,
    )


def _refuse_hopeless(bad: NDArray[np.bool_], num_blocks: int, alpha: float) -> None:
    needed = blocks_needed(alpha)
    if num_blocks < needed:
        raise CalibrationError(
            f'{num_blocks} blocks for alpha {alpha:g}', f'at least {needed} blocks',
            f'add blocks, or ask for alpha {smallest_alpha(num_blocks):g} or more: '
            f'{blocks_buy(num_blocks)}',
        )
    if bad.all():
        raise CalibrationError('every calibration frame is bad', 'a network that is often right',
                               'nothing can be accepted: look at the rule and the masks')


def _largest_limit(
    ratio: NDArray[np.float64], bad: NDArray[np.bool_], blocks: ArrayLike, alpha: float
) -> float:
    index, sizes = _index(blocks)
    # Ordered by ratio: what each frame adds to the mean share, if accepted.
    order = np.argsort(ratio, kind='stable')
    ranked = ratio[order]
    lost = np.cumsum(np.where(bad, 1 / sizes[index], 0.0)[order]) / len(sizes)
    # Frames of equal ratio come in together: only the last of them is a limit.
    is_last = np.append(ranked[1:] > ranked[:-1], True) & np.isfinite(ranked)
    fits = is_last & (_bound(lost, len(sizes)) <= alpha + _ROUNDING)
    if not fits.any():
        raise CalibrationError(
            f'no frame can be accepted at alpha {alpha:g}: bad frames have the smallest scores',
            fix='take a larger alpha, other scores or a better network',
        )
    return float(ranked[fits].max())


def _bound(lost: NDArray[np.float64] | float, num_blocks: int) -> NDArray[np.float64] | float:
    return (num_blocks * lost + 1) / (num_blocks + 1)


def _index(blocks: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    _, index = np.unique(np.asarray(blocks), return_inverse=True)
    return index, np.bincount(index)


# -------------------------------------------------------------------------------------------------
# From measured frames to limits with a promise, and the rehearsal that shows what it is worth.
# The family of limits and the choice of scores are given; here the one number that is left, the
# rank, is set by conformal risk control on frames that neither of them was fitted to.

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

    Raises CalibrationError if there are too few blocks, or no frame can be accepted.

    Parameters
    ----------
    family : RankFamily
        Fitted on other frames.
    frames : FrameTable
        Calibration frames.
    names : sequence of str
        Scores of the gate.
    alpha : float
        Promised share.
    bad : str
        The rule by which `frames.is_bad` was found.
    bound : callable
        Gives the upper bound of P(bad | accepted), whatever limit was chosen.

    Returns
    -------
    Promise
        Its shares are those of the limits as they are written down.

    """
    limits = family.limits(_rank(family, frames, names, alpha), names)
    num_blocks = len(np.unique(frames.blocks))
    for factor in (1.0, 1 - 1e-9):  # the second where the last digits of a limit break the promise
        limits = {name: value * factor for name, value in limits.items()}
        accepted = frames.accepted(limits)
        lost = mean_block_share(accepted & frames.is_bad, frames.blocks)
        reached = float(_bound(lost, num_blocks))
        if reached <= alpha:
            break
    return Promise(
        alpha, limits, bad, num_blocks, len(frames), reached,
        mean_block_share(accepted, frames.blocks), lost,
        bound(accepted, frames.is_bad, frames.blocks))


def rehearse(
    family: RankFamily, frames: FrameTable, names: Sequence[str], alpha: float,
    num_splits: int = 200, share: float = 0.5,
) -> Rehearsal | None:
    """
    Make the promise on half of the blocks and hold it against the other half, `num_splits` times.

    The other parameters are those of `fit_promise`; `share` of the blocks may be another one than
    a half. None if they are too few for the promise, or leave no block. Blocks on which no frame
    could be accepted count as ones that accept none.
    """
    count = len(np.unique(frames.blocks))
    if not 0 < round(share * count) < count or round(share * count) < blocks_needed(alpha):
        return None
    lost, taken = [], []
    for seed in range(num_splits):
        fitted, held_out = (frames.select(rows)
                            for rows in split_blocks(frames.blocks, share, seed))
        try:
            limit = _rank(family, fitted, names, alpha)
        except CalibrationError:
            limit = -np.inf  # bad frames come first in this half: it would accept nothing
        accepted = family.frame_ranks(held_out.scores, names) <= limit
        lost.append(mean_block_share(accepted & held_out.is_bad, held_out.blocks))
        taken.append(mean_block_share(accepted, held_out.blocks))
    return Rehearsal(alpha, num_splits, float(np.mean(lost)), float(np.mean(taken)),
                     float(np.mean(np.array(lost) > alpha)))


@dataclass(frozen=True)
class BlocksBuy:
    """
    What a number of blocks would have given.

    Attributes
    ----------
    num_blocks : int
        So many of the blocks, drawn many times.
    alpha : float
        Promised on them.
    accepted : float
        Mean share accepted of the blocks that were not drawn.

    """

    num_blocks: int
    alpha: float
    accepted: float


_CURVE = (0.125, 0.25, 0.5, 0.75)


def what_more_buys(
    family: RankFamily, frames: FrameTable, names: Sequence[str], alphas: Sequence[float],
    num_splits: int = 50,
) -> tuple[BlocksBuy, ...]:
    """
    Rehearse on parts of the blocks: how the accepted share grows with their number.

    Parameters are those of `fit_promise`; parts that are too few for an alpha are left out.
    """
    count, found = len(np.unique(frames.blocks)), []
    for alpha in alphas:
        for share in _CURVE:
            rehearsed = rehearse(family, frames, names, alpha, num_splits, share)
            if rehearsed is not None:
                found.append(BlocksBuy(round(share * count), alpha, rehearsed.accepted))
    return tuple(found)


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


def quantile_limits(frames: FrameTable, quantile: float, highest: float) -> Mapping[str, float]:
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


# -------------------------------------------------------------------------------------------------
# How many of the accepted are bad, at most: the bound of Clopper and Pearson.
# It answers "when the flag is true, how often is the mask bad?", which the promise does not. It is
# exact for independent units drawn after everything was fitted.


@dataclass(frozen=True)
class BadShare:
    """
    Bad ones among the accepted.

    Attributes
    ----------
    num_accepted, num_bad : int
        Units: frames, or blocks with an accepted frame.
    share : float
        Seen, 0..1; NaN if nothing was accepted.
    upper : float
        Not above this, with the confidence; 1 if nothing was accepted.
    confidence : float
        In (0, 1).
    unit : str
        'frame' or 'block'.

    """

    num_accepted: int
    num_bad: int
    share: float
    upper: float
    confidence: float
    unit: str


def upper_bound(num_bad: int, num: int, confidence: float = 0.95, num_tries: int = 1) -> float:
    """
    Bound a share from above.

    Raises ConfigError if the numbers contradict each other or the confidence is not between 0 and
    1; BackendUnavailableError if scipy is not installed.

    Parameters
    ----------
    num_bad, num : int
        Bad units among all.
    confidence : float
        In (0, 1).
    num_tries : int
        How many limits or scores the same units were used for; the error is shared among them
        (Bonferroni).

    Returns
    -------
    float
        0..1, one-sided; 1 if `num` is 0.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934), by the quantile of a beta distribution.

    """
    if not (0 <= num_bad <= num and 0 < confidence < 1 and num_tries >= 1):
        raise ConfigError(
            f'{num_bad} bad of {num} at confidence {confidence:g} in {num_tries} tries',
            'at most all bad, a confidence between 0 and 1, and a try',
        )
    if num_bad == num:
        return 1.0
    try:
        from scipy.stats import beta
    except ImportError as err:
        raise BackendUnavailableError('scipy is not installed', 'it, for the bound of a share',
                                      install_command('scipy')) from err

    return float(beta.ppf(1 - (1 - confidence) / num_tries, num_bad + 1, num - num_bad))


def bad_share(
    accepted: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike | None = None,
    confidence: float = 0.95, num_tries: int = 1,
) -> BadShare:
    """
    Bound P(bad | accepted) by the frames, or by blocks of them; see `upper_bound`.

    Parameters
    ----------
    accepted, is_bad : array of bool, shape (n,)
        Of each frame.
    blocks : array of int or str, shape (n,), optional
        The block of each frame. Frames of one block are alike, and n of them prove less than n
        others do: with blocks, a unit is a block with an accepted frame, bad if any accepted one
        is. The bound is of "a block has a bad accepted frame", and so of "an accepted frame is
        bad" where each block with an accepted frame counts alike, however many it has.
    confidence, num_tries : float, int
        See there.

    Raises
    ------
    ShapeError
        If the arrays differ in length.
    ConfigError
        See `upper_bound`.

    """
    taken, bad = np.asarray(accepted, bool), np.asarray(is_bad, bool)
    names = np.arange(taken.size) if blocks is None else np.asarray(blocks)
    if not taken.shape == bad.shape == names.shape or taken.ndim != 1:
        raise ShapeError(f'accepted {taken.shape}, is_bad {bad.shape}, blocks {names.shape}',
                         'one of each a frame')
    num, num_bad = len(np.unique(names[taken])), len(np.unique(names[taken & bad]))
    return BadShare(
        num, num_bad, num_bad / num if num else float('nan'),
        upper_bound(num_bad, num, confidence, num_tries), confidence,
        'frame' if blocks is None else 'block',
    )
