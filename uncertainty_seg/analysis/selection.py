# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames that are worth a label, and give the reason for each.

First the pool is thinned: of frames that look alike the most uncertain one stays. Then comes what
could not be scored, since its content is unknown; then the strategy. The same frames and the
same seed give the same choice, in whatever order the rows come.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.analysis.near_duplicates import Rows, stand_ins
from uncertainty_seg.analysis.selection_pool import (
    Candidates,
    lots,
    percentiles,
    Quota,
    SelectionRequest,
)
from uncertainty_seg.analysis.selection_strategies import (
    ALL,
    Choice,
    falling,
    nearest_before,
    reason,
)
from uncertainty_seg.core.calibration import Column
from uncertainty_seg.errors import ConfigError

_SPREAD = ('k-centre', 'uncertainty-diversity')


@dataclass(frozen=True)
class Selection:
    """
    What was chosen.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Of the candidates, the first choice first.
    reasons : tuple of str
        A sentence for each.
    stands_for : ndarray of int64, shape (m,)
        How many near duplicates each represents.
    num_candidates : int
        Rows there were.
    num_duplicates : int
        Of them, those left out since they look like another candidate or a labelled frame.
    num_unscored : int
        Of those that stayed, the ones that could not be scored.
    num_over_limit : int or None
        Of those that stayed, the ones above the limit; None for another strategy.
    is_capped : bool
        Whether a dive gave all that one may.

    """

    rows: Rows
    reasons: tuple[str, ...]
    stands_for: Rows
    num_candidates: int
    num_duplicates: int
    num_unscored: int
    num_over_limit: int | None
    is_capped: bool


def select(
    candidates: Candidates, request: SelectionRequest, labelled: Candidates | None = None
) -> Selection:
    """
    Choose frames.

    Parameters
    ----------
    candidates : Candidates
        Frames of any number of dives.
    request : SelectionRequest
        Strategy and numbers.
    labelled : Candidates or None
        Frames that have labels already: they are not chosen, nor what looks like them, and the
        strategies that spread or balance go on from them. Their dives' share is not counted.

    Returns
    -------
    Selection
        At most `request.count` frames; fewer, even none, if there are no more to offer.

    Raises
    ------
    ConfigError
        If the strategy needs what the candidates do not have (features, shares, scores from 0
        up), or frames that look alike are to be found without hashes.

    """
    drawn = lots(candidates.keys, request.seed)
    order = np.argsort(drawn, kind='stable')
    pool, drawn = candidates.cut(order), drawn[order]
    names = set(labelled.keys) if labelled is not None else set()
    is_known = np.array([key in names for key in pool.keys], np.bool_)
    owners = _owners(pool, request, is_known, labelled)
    stays = np.flatnonzero((owners == np.arange(len(pool))) & ~is_known)
    counts = np.bincount(owners[owners >= 0], minlength=len(pool))[stays] - 1
    order, pool, drawn = order[stays], pool.cut(stays), drawn[stays]
    quota = Quota(pool, request)
    unscored = _unscored(pool, request)
    _take_unscored(unscored, request, quota)
    ALL[request.strategy](Choice(pool, request, quota, drawn, labelled))
    chosen = np.array(quota.chosen, np.int64)
    return Selection(
        rows=order[chosen], reasons=_reasons(pool, quota, counts, request),
        stands_for=counts[chosen], num_candidates=len(candidates),
        num_duplicates=int(len(candidates) - is_known.sum() - len(pool)),
        num_unscored=int(unscored.sum()),
        num_over_limit=None if request.limit is None else
        int((pool.scores > request.limit).sum()),
        is_capped=quota.is_capped)


def _owners(
    pool: Candidates,
    request: SelectionRequest,
    is_known: NDArray[np.bool_],
    labelled: Candidates | None,
) -> Rows:
    """Return the row that represents each; -1 if a labelled frame does."""
    if not request.min_distance:
        return np.arange(len(pool))
    if pool.hashes is None:
        raise ConfigError('the table has no hashes', 'a column phash to find near duplicates',
                          'score the frames again, or give --min-distance 0')
    # By lot, the one that stays is a fair draw from those that look like it.
    order = np.arange(len(pool)) if request.strategy == 'random' else falling(
        np.where(np.isfinite(pool.scores), pool.scores, np.nan))
    order = order[~is_known[order]]
    hashes, before = pool.hashes, 0
    if labelled is not None and labelled.hashes is not None:
        before = len(labelled)
        hashes = np.concatenate([labelled.hashes, hashes])
    places = np.concatenate([np.arange(before), order + before,
                             np.flatnonzero(is_known) + before])
    owners = stand_ins(hashes, places, request.min_distance)[before:] - before
    return np.maximum(owners, -1)


def _unscored(pool: Candidates, request: SelectionRequest) -> NDArray[np.bool_]:
    unscored = ~np.isfinite(pool.scores)
    if request.strategy in _SPREAD and pool.features is not None:
        unscored |= ~np.isfinite(pool.features).all(1)
    return unscored


def _take_unscored(unscored: NDArray[np.bool_], request: SelectionRequest, quota: Quota) -> None:
    if request.skips_unscored:
        quota.is_open[unscored] = False
    elif request.strategy != 'random':
        quota.take_in_order(np.flatnonzero(unscored),
                            'it could not be scored, which counts as most uncertain')
        quota.is_open[unscored] = False


def _reasons(
    pool: Candidates, quota: Quota, counts: Rows, request: SelectionRequest
) -> tuple[str, ...]:
    chosen = np.array(quota.chosen, np.int64)
    is_scored = np.isfinite(pool.scores)
    ranks: Column = percentiles(np.where(is_scored, pool.scores, np.nan))
    apart = nearest_before(pool.cut(chosen))
    return tuple(
        reason(f'{request.strategy}: {why}', request.score_name, float(pool.scores[row]),
               float(ranks[row]), int(is_scored.sum()), gap, int(counts[row]))
        for row, why, gap in zip(chosen, quota.whys, apart, strict=True))
