# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A threshold with a promise: on a new block of frames, at most alpha is accepted and bad on average.

Conformal risk control requires exchangeable samples, and neighbouring frames of a dive are not:
they share water, light and place. So the sample is a *block* (a dive, a track, a minute of video,
a site), and its loss is the share of its frames that are accepted although they are bad. The
promise is an average over draws of the calibration blocks and the new block. It does not bound the
share of bad frames among the accepted (`bad_share` does), nor does it hold for a single block or
other water, and it is void for blocks that were used to choose the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.gate_scale import GateScale, HIGHEST_RANK
from uncertainty_seg.calibration.stats.intervals import CONFIDENCE, Draws
from uncertainty_seg.calibration.stats.metrics import Floats
from uncertainty_seg.core.arrays import Column
from uncertainty_seg.core.calibration import Promise
from uncertainty_seg.errors import CalibrationError, ConfigError

_ROUNDING = 1e-12
_HALVINGS = 100


def blocks_needed(alpha: float) -> int:
    """Return the fewest blocks for a promise (0.05: 19); ConfigError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ConfigError(f'alpha is {alpha}', 'a share above 0 and below 1, such as 0.05')
    return math.ceil(1 / alpha - 1e-9) - 1


def mean_block_share(chosen: ArrayLike, blocks: ArrayLike) -> float:
    """Return the mean over blocks of the share of a block's frames that are chosen, 0..1."""
    index, sizes = _index(blocks)
    return float((np.bincount(index, np.asarray(chosen, np.float64)) / sizes).mean())


def promised_limit(
    ranks: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike, alpha: float
) -> float:
    """
    Return the loosest threshold that satisfies the promise; it is one of the given ranks.

    With n blocks, n/(n+1) times the share accepted and bad, plus 1/(n+1), is at most `alpha`.
    Ranks, one per frame, grow with uncertainty; NaN and infinity are never accepted. All blocks
    have equal weight. Raises ConfigError if `alpha` is not between 0 and 1; CalibrationError if
    there are too few blocks for this alpha, all frames are bad, or no frame can be accepted. The
    rule is that of Angelopoulos, Bates, Fisch, Lei and Schuster, 2022, arXiv:2208.02814, with a
    loss bounded by 1.
    """
    rank, bad = np.asarray(ranks, np.float64), np.asarray(is_bad, bool)
    rank = np.where(np.isnan(rank), np.inf, rank)
    index, sizes = _index(blocks)
    _refuse_hopeless(bad, len(sizes), alpha)
    # In the order of ranks: the mean share accepted and bad if all frames so far are accepted.
    order = np.argsort(rank, kind='stable')
    ranked = rank[order]
    lost = np.cumsum(np.where(bad, 1 / sizes[index], 0.0)[order]) / len(sizes)
    # Frames of equal rank are accepted together, so only the last of them is a threshold.
    is_last = np.append(ranked[1:] > ranked[:-1], True) & np.isfinite(ranked)
    fits = is_last & (_bound(lost, len(sizes)) <= alpha + _ROUNDING)
    if not is_last.any():
        raise CalibrationError(
            'no frame can be accepted: all scores are no numbers, or a guard refuses every frame',
            'frames like those of the training', 'look at the images, or name other scores')
    if not fits.any():
        raise CalibrationError(
            f'no frame can be accepted at alpha {alpha:g}: the lowest scores are of bad frames',
            fix='take a larger alpha, other scores or a better network')
    return float(ranked[fits].max())


def _refuse_hopeless(bad: NDArray[np.bool_], num_blocks: int, alpha: float) -> None:
    needed = blocks_needed(alpha)
    if num_blocks < needed:
        raise CalibrationError(f'{num_blocks} blocks for alpha {alpha:g}',
                               f'at least {needed} blocks',
                               'add blocks, or promise a larger alpha')
    if bad.all():
        raise CalibrationError('every calibration frame is bad', 'some good frames',
                               'check the rule for bad masks, and the masks')


def _bound(lost: Floats | float, num_blocks: Floats | int) -> Floats | float:
    return (num_blocks * lost + 1) / (num_blocks + 1)


def _index(blocks: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    _, index = np.unique(np.asarray(blocks), return_inverse=True)
    return index, np.bincount(index)


# -------------------------------------------------------------------------------------------------
# Thresholds with a promise from measured frames.


def fit_promise(
    scale: GateScale, frames: FrameTable, alpha: float, bad: str
) -> Promise:
    """
    Fit the thresholds of a gate on calibration frames, for the rule `bad`.

    The scale must have been fitted on other frames. The shares in the promise are those of the
    final thresholds. Raises CalibrationError if there are too few blocks, or no frame can be
    accepted.
    """
    ranks = scale.ranks(frames.scores)
    # If few frames are bad, the promise alone would accept every frame; but nothing is known about
    # frames that exceed all reference frames.
    rank = min(promised_limit(ranks, frames.is_bad, frames.blocks, alpha), HIGHEST_RANK)
    limits = scale.limits(rank)
    num_blocks = len(np.unique(frames.blocks))
    for factor in (1.0, 1 - 1e-9):  # the second if rounding of a threshold breaks the promise
        limits = {name: value * factor for name, value in limits.items()}
        accepted = frames.accepted(limits)
        lost = mean_block_share(accepted & frames.is_bad, frames.blocks)
        reached = float(_bound(lost, num_blocks))
        if reached <= alpha + _ROUNDING:
            reached = min(reached, alpha)
            break
    # Any frame's rank could have become the threshold, hence the number of tries.
    upper = bad_share(accepted, frames.is_bad, frames.blocks, num_tries=len(frames)).upper
    return Promise(alpha, limits, bad, num_blocks, len(frames), int(frames.is_bad.sum()), reached,
                   mean_block_share(accepted, frames.blocks), lost, upper)


def quantile_limits(frames: FrameTable, quantile: float, highest: float) -> Mapping[str, float]:
    """
    Return the quantile of each score over the frames.

    A score is left out if its quantile is 0, not below `highest`, or not finite.
    """
    limits = {}
    for name, column in frames.scores.items():
        values = np.where(np.isfinite(column), column, np.inf)
        limit = float(np.quantile(values, quantile, method='inverted_cdf'))
        if 0 < limit < highest:
            limits[name] = limit
    return limits


# -------------------------------------------------------------------------------------------------
# "When the flag is true, how often is the mask bad?", which the promise does not answer.


@dataclass(frozen=True)
class BadShare:
    """
    Share of bad units among the accepted ones.

    Units are frames, or blocks with an accepted frame. With 95 % confidence the share is at most
    `upper`. If nothing was accepted, the share is NaN and `upper` is 1.
    """

    num_accepted: int
    num_bad: int
    share: float
    upper: float
    unit: str


def upper_bound(num_bad: float, num: int, num_tries: int = 1) -> float:
    """
    Return a one-sided upper bound for the share of bad units; 1 if all are. Requires scipy.

    It is exact for independent units drawn after everything was fitted. The error is divided among
    the `num_tries` thresholds tried on the same units (Bonferroni). After Clopper and Pearson,
    Biometrika 26 (1934), by the quantile of a beta distribution.
    """
    if num_bad >= num:
        return 1.0
    from scipy.stats import beta

    return float(beta.ppf(1 - (1 - CONFIDENCE) / num_tries, num_bad + 1, num - num_bad))


def bad_share(
    accepted: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike | None = None, num_tries: int = 1
) -> BadShare:
    """
    Bound P(bad | accepted) from frames, (n,), or from blocks of them; see `upper_bound`.

    Frames of one block are similar and prove less than independent ones. So with blocks, a unit is
    a block with an accepted frame, and is bad if any of its accepted frames is. The bound is for
    "a block has a bad accepted frame", and so also for "an accepted frame is bad" if each block
    with an accepted frame has equal weight.
    """
    taken, bad = np.asarray(accepted, bool), np.asarray(is_bad, bool)
    names = np.arange(taken.size) if blocks is None else np.asarray(blocks)
    num, num_bad = len(np.unique(names[taken])), len(np.unique(names[taken & bad]))
    return BadShare(num, num_bad, num_bad / num if num else float('nan'),
                    upper_bound(num_bad, num, num_tries=num_tries),
                    'frame' if blocks is None else 'block')


# -------------------------------------------------------------------------------------------------
# The share of frames that a promise accepts, for many draws of the blocks at once.


def promised_coverage(
    ranks: Column, is_bad: NDArray[np.bool_], draws: Draws, alpha: float, halvings: int,
    seed: int, highest: float = np.inf,
) -> tuple[Floats, Floats]:
    """
    Return the share of frames that a promised threshold accepts, and the share accepted and bad.

    In each draw the blocks are split into halves, `halvings` times. One half sets the threshold by
    conformal risk control (`promised_limit`) and the other half is judged by it, and vice versa;
    copies of a block stay in one half.

    Ranks are float64 (n,), growing with uncertainty; those not finite are never accepted, and no
    threshold exceeds `highest`. The splits depend on the seed and not on the ranks, so that
    methods share them. Returns means over all halves, (d,) both, with equal weight for every
    block. They are NaN where a half has too few blocks for this alpha, and zero where no frame can
    be accepted.
    """
    rng, count = np.random.default_rng(seed), draws.num_blocks
    known = np.where(np.isnan(ranks), np.inf, ranks)
    order = np.argsort(known, kind='stable')
    ranked, block = known[order], draws.block[order]
    # Frames of equal rank are accepted together, so only the last of them is a threshold.
    last = np.flatnonzero(np.append(ranked[1:] > ranked[:-1], True) & np.isfinite(ranked))
    shares = draws.counts[:, block] / np.bincount(draws.block)[block]
    most = int(np.searchsorted(ranked[last], highest, side='right'))
    found = []
    for _ in range(halvings):
        first = np.isin(np.arange(count), rng.permutation(count)[:count // 2])
        one, other = (_half(shares, is_bad[order], last, block, draws.counts, part)
                      for part in (first, ~first))
        found += [_judged(one, other, alpha, most), _judged(other, one, alpha, most)]
    accepted, bad = np.mean(found, axis=0)
    return accepted, bad


def held_out_shares(
    ranks: Column, is_bad: NDArray[np.bool_], blocks: NDArray[np.str_], alpha: float
) -> tuple[float, float]:
    """
    Return the shares accepted, and accepted and bad, by thresholds from the other half of blocks.

    They are means over random halves, on frames that were not used for the threshold, which is at
    most `HIGHEST_RANK` as in `fit_promise`. Thresholds from half of the blocks accept slightly
    fewer frames than those from all. Both shares are NaN if a half has too few blocks.
    """
    accepted, bad = promised_coverage(ranks, is_bad, Draws.of(blocks, draws=1), alpha, _HALVINGS,
                                      seed=0, highest=HIGHEST_RANK)
    return float(accepted[0]), float(bad[0])


# One half of the blocks: their number (d, 1), and their mean shares accepted, and accepted and
# bad, at each threshold (d, k).
_HalfShares = tuple[Floats, Floats, Floats]


def _half(
    shares: Floats, is_bad: NDArray[np.bool_], last: NDArray[np.intp], block: NDArray[np.intp],
    counts: Floats, part: NDArray[np.bool_],
) -> _HalfShares:
    number = counts[:, part].sum(1, keepdims=True)
    kept = shares * part[block] / np.maximum(number, 1)
    return number, np.cumsum(kept, 1)[:, last], np.cumsum(kept * is_bad, 1)[:, last]


def _judged(
    fitted: _HalfShares, judged: _HalfShares, alpha: float, most: int
) -> tuple[Floats, Floats]:
    """Return shares of `judged` at the threshold of `fitted`, one of the `most` lowest."""
    number, taken, lost = fitted
    # A threshold must be a rank that occurs in the half.
    fits = (np.diff(taken, prepend=0.0) > 0) & (_bound(lost, number) <= alpha + _ROUNDING)
    # Index 0 means that nothing is accepted.
    place = np.where(fits.any(1), fits.shape[1] - np.argmax(fits[:, ::-1], axis=1), 0) \
        if fits.size else np.zeros(len(fits), np.intp)
    place = np.minimum(place, most)
    missing = (number[:, 0] < blocks_needed(alpha)) | (judged[0][:, 0] < 1)
    accepted, bad = (np.where(missing, np.nan, np.pad(part, ((0, 0), (1, 0)))[
        np.arange(len(fits)), place]) for part in judged[1:])
    return accepted, bad
