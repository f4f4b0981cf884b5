# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A limit with a promise: on a new block of frames, at most alpha is accepted and bad, on average.

Conformal risk control asks for exchangeable samples, and neighbouring frames of a dive are not:
they share water, light and place. A *block* (a dive, a track, a minute of video, a site) is the
sample here, and its loss is the share of its frames that are accepted although they are bad. The
promise is over the drawing of the calibration blocks and the new one together. It says nothing of
the bad among the accepted (`tools.binomial` bounds that), of one block, or of another water, and
it is void for blocks that the scores or their thresholds were chosen on.

"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.errors import CalibrationError, ConfigError, ShapeError

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

    Raises
    ------
    ConfigError
        If `alpha` is not between 0 and 1.

    """
    if not 0 < alpha < 1:
        raise ConfigError(f'alpha is {alpha}', 'a share above 0 and below 1, such as 0.05')
    return math.ceil(1 / alpha - 1e-9) - 1


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

    Raises
    ------
    ConfigError
        If `alpha` is not between 0 and 1.
    ShapeError
        If the three differ in length, or there is no frame.
    CalibrationError
        If there are too few blocks for this alpha, all frames are bad, or none may be accepted.

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
            f'add blocks, or ask for alpha {math.ceil(1e4 / (num_blocks + 1)) / 1e4:g} or more',
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
