# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames that are worth a label, and give the reason for each.

First the pool is thinned: of frames that look alike the most uncertain one stays. Then comes what
could not be scored, since its content is unknown; then the strategy. The same frames and the
same seed give the same choice, in whatever order the rows come.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.calibration import Column
from uncertainty_seg.data.selection.near_duplicates import bits_apart, Rows, stand_ins
from uncertainty_seg.data.selection.pool import (
    Candidates,
    lots,
    percentiles,
    Quota,
    SelectionRequest,
)
from uncertainty_seg.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# The strategies, which take rows from a pool until the quota is full, and the reasons they give.
# Rows come in the order of their lots, so that the first of equals is chosen by lot. A row that
# could not be scored is taken before or closed, but for `random`, which ignores the score.

# Rows whose distance is computed at once: they stay in the processor's cache.
_BLOCK = 4096


def falling(values: Column) -> Rows:
    """Return the rows from the largest to the smallest value; NaN first, equals as they stand."""
    return np.argsort(np.where(np.isnan(values), -np.inf, -values), kind='stable')


@dataclass(frozen=True)
class Choice:
    """
    What a strategy works on.

    Attributes
    ----------
    pool : Candidates
        In the order of their lots.
    request : SelectionRequest
        What was asked for.
    quota : Quota
        Takes what is chosen.
    drawn : ndarray of float64, shape (n,)
        The lots of the pool.
    labelled : Candidates or None
        Frames that have labels already.

    """

    pool: Candidates
    request: SelectionRequest
    quota: Quota
    drawn: Column
    labelled: Candidates | None


def threshold(choice: Choice) -> None:
    """
    Take every frame above a limit, the most uncertain first.

    Source: Ribeiro Marnet et al., "Uncertainty Driven Active Learning for Image Segmentation in
    Underwater Inspection", ROBOVIS 2024 (arXiv 2403.14002): a limit, not a number of frames,
    decides what is labelled.
    """
    limit = np.inf if choice.request.limit is None else choice.request.limit
    scores = choice.pool.scores
    order = falling(scores)
    choice.quota.take_in_order(order[scores[order] > limit], f'above the limit {limit:.6g}')


def top_k(choice: Choice) -> None:
    """Take the most uncertain frames."""
    choice.quota.take_in_order(falling(choice.pool.scores), 'one of the most uncertain')


def power_bald(choice: Choice) -> None:
    """
    Draw without replacement, each frame with a weight of score ** beta.

    The largest of ``beta ln(score) + Gumbel noise`` are such a draw. A score of 0 comes last.
    Source: Kirsch et al., "Stochastic Batch Acquisition: A Simple Baseline for Deep Active
    Learning" (arXiv 2106.12059), the power acquisition.
    """
    _require_weights(choice)
    with np.errstate(divide='ignore'):
        logs = np.log(choice.pool.scores)
    beta = choice.request.beta
    weights = beta * logs if beta else np.zeros(len(logs))  # 0 ** 0 is 1: all are alike
    choice.quota.take_in_order(falling(weights - np.log(-np.log(choice.drawn))),
                               f'drawn with the weight {_weight(choice.request)}')


def uniform(choice: Choice) -> None:
    """Draw by lot, whatever the score."""
    choice.quota.take_in_order(np.argsort(choice.drawn, kind='stable'),
                               f'drawn by lot, seed {choice.request.seed}')


def k_centre(choice: Choice) -> None:
    """
    Take the frame whose features are farthest from all chosen, again and again.

    It begins with what is labelled or chosen already, or else with the most uncertain frame.
    Sources: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", ICLR 2018; Gonzalez, "Clustering to minimize the maximum intercluster distance",
    1985: no frame is farther from a chosen one than twice what is possible.
    """
    _spread(choice, np.ones(len(choice.pool)), 'farthest from all chosen')


def uncertainty_diversity(choice: Choice) -> None:
    """
    Take the frame of the largest ``score ** beta * distance to the nearest chosen``.

    Source: Dyer and Frieze, "A simple heuristic for the p-centre problem", Operations Research
    Letters 3, 1985: with weights w the largest w * distance is at most min(3, 1 + max w / min w)
    times what is possible.
    """
    _require_weights(choice)
    _spread(choice, choice.pool.scores ** choice.request.beta,
            f'largest {_weight(choice.request)} times the distance to all chosen')


def class_balanced(choice: Choice) -> None:
    """
    Fill the class that has least so far, again and again.

    A frame fills every class by its share of the predicted pixels. The next frame is, for the
    class with the least sum of shares among the chosen (of equals: in the pool), the one with the
    largest share times percentile of the score. Frames without any share come last, the most
    uncertain first.
    """
    pool, quota, labelled = choice.pool, choice.quota, choice.labelled
    if pool.shares is None:
        raise ConfigError('the table has no shares of classes',
                          'columns share.<class> for the strategy class-balanced')
    shares = np.nan_to_num(pool.shares)
    filled = np.nan_to_num(shares[quota.chosen]).sum(0)
    if labelled is not None and labelled.shares is not None:
        filled += np.nan_to_num(labelled.shares).sum(0)
    queues = _queues(shares, percentiles(pool.scores))
    rare_first = np.argsort(shares.sum(0), kind='stable')
    while not quota.is_full:
        for column in rare_first[np.argsort(filled[rare_first], kind='stable')]:
            row = _next_open(queues[column], quota)
            if row is not None:
                break
        else:
            break
        filled += shares[row]
        quota.take(row, f'{100 * shares[row, column]:.3g} % {pool.class_names[column]}, the class '
                        'with least so far')
    quota.take_in_order(falling(pool.scores), 'one of the most uncertain, no class left to fill')


ALL: dict[str, Callable[[Choice], None]] = {
    'threshold': threshold, 'top-k': top_k, 'power-bald': power_bald, 'k-centre': k_centre,
    'uncertainty-diversity': uncertainty_diversity, 'class-balanced': class_balanced,
    'random': uniform,
}


def _queues(shares: Column, worth: Column) -> list[list[int]]:
    """Return for each class the rows that have it, the best last."""
    queues = []
    for share in shares.T:
        rows = np.flatnonzero(share > 0)
        queues.append(rows[falling(share[rows] * worth[rows])][::-1].tolist())
    return queues


def _next_open(queue: list[int], quota: Quota) -> int | None:
    while queue:
        row = queue.pop()
        if quota.is_open[row]:
            return row
    return None


def _weight(request: SelectionRequest) -> str:
    return 'score' if request.beta == 1 else f'score^{request.beta:g}'


def _require_weights(choice: Choice) -> None:
    if (choice.pool.scores < 0).any():
        raise ConfigError(
            f'{choice.request.score_name} goes down to {np.nanmin(choice.pool.scores):.6g}',
            f'scores from 0 up as the weights of {choice.request.strategy}',
            'choose another --score or strategy')


def _spread(choice: Choice, weights: Column, why: str) -> None:
    pool, quota, labelled = choice.pool, choice.quota, choice.labelled
    if pool.features is None:
        raise ConfigError('the table has no features', 'a column of them for the distances',
                          'choose a strategy without distances, or score the frames again')
    nearest = Nearest(pool.features)
    if labelled is not None and labelled.features is not None:
        for centre in labelled.features[np.isfinite(labelled.features).all(1)]:
            nearest.add(centre)
    for row in quota.chosen:
        if np.isfinite(pool.features[row]).all():
            nearest.add(pool.features[row])
    # As squares, which are in the same order.
    squares = np.square(weights)
    while not quota.is_full and quota.is_open.any():
        with np.errstate(invalid='ignore'):  # of rows that are closed
            worth = pool.scores if nearest.is_empty else squares * nearest.squared
        row = int(np.argmax(np.where(quota.is_open, worth, -np.inf)))
        quota.take(row, 'the most uncertain, as a start' if nearest.is_empty else why)
        nearest.add(pool.features[row])


class Nearest:
    """
    The distance of every row to the nearest of the centres, while centres are added.

    A row closer to its centre than half the distance of that centre to the new one cannot be
    closer to the new one (triangle inequality) and is not looked at.

    Parameters
    ----------
    features : ndarray of float32, shape (n, D)
        Finite, except in rows that are never chosen.

    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.squared = np.full(len(features), np.inf)
        self._features = features
        self._owners = np.zeros(len(features), np.int64)
        self._centres = np.empty((0, features.shape[1]), np.float32)
        self._num_centres = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no centre yet."""
        return self._num_centres == 0

    def add(self, centre: NDArray[np.float32]) -> None:
        """Add a centre, shape (D,)."""
        if self._num_centres == len(self._centres):
            room = np.empty((max(16, 2 * self._num_centres), len(centre)), np.float32)
            room[:self._num_centres] = self._centres
            self._centres = room
        apart = _squared(self._centres[:self._num_centres], centre)
        rows = np.arange(len(self.squared)) if self.is_empty else \
            np.flatnonzero(4 * self.squared > apart[self._owners])
        self._centres[self._num_centres] = centre
        for start in range(0, len(rows), _BLOCK):
            block = rows[start:start + _BLOCK]
            found = _squared(self._features[block], centre)
            closer = found < self.squared[block]
            self.squared[block[closer]] = found[closer]
            self._owners[block[closer]] = self._num_centres
        self._num_centres += 1


def _squared(rows: NDArray[np.float32], centre: NDArray[np.float32]) -> Column:
    apart = rows - centre
    return np.einsum('ij,ij->i', apart, apart).astype(np.float64)


# -------------------------------------------------------------------------------------------------
# The sentence that says why a frame was chosen.

# Rows compared with all before them at once.
_REASONS_BLOCK = 256


def reason(
    why: str, score_name: str, score: float, rank: float, count: int, gap: str, stands_for: int
) -> str:
    """
    Join what is known of a chosen frame to one sentence.

    `rank` is the share of `count` frames that its score exceeds, `gap` how far it is from those
    chosen before (may be empty), `stands_for` the number of frames that look like it.
    """
    value = f'{score_name} {score:.4g}' if math.isfinite(score) else f'no {score_name}'
    # Rounded down: nothing is above all frames, itself among them.
    above = '' if math.isnan(rank) else \
        f', above {math.floor(1e4 * rank) / 100:g} % of {count} frames'
    alike = 'no other frame looks like it' if not stands_for else \
        f'it stands for {stands_for} near duplicate{"s" if stands_for > 1 else ""}'
    return '; '.join(part for part in (why, value + above, gap, alike) if part) + '.'


# Neighbours in time that are farther away say nothing about a frame.
_NEXT_S = 10.0


def neighbour_text(pool: Candidates, row: int, score_name: str, alike: Rows) -> str:
    """
    Say what is next to a frame: its neighbours in time, and the frames that it stands for.

    Parameters
    ----------
    pool : Candidates
        All frames, chosen or not.
    row : int
        The frame.
    score_name : str
        What to call the score.
    alike : ndarray of int64, shape (k,)
        The near duplicates that it stands for.

    Returns
    -------
    str
        Score and distance of each, in the unit of the features or in bits; may be empty.

    """
    parts = []
    for other, word in _next_in_time(pool, row):
        assert pool.times_s is not None
        apart_s = abs(float(pool.times_s[other] - pool.times_s[row]))
        parts.append(f'{apart_s:.3g} s {word}: {score_name} {pool.scores[other]:.4g}'
                     f'{_distance(pool, row, other)}')
    if len(alike):
        scores = pool.scores[alike]
        top = int(alike[int(np.argmax(np.where(np.isfinite(scores), scores, -np.inf)))])
        parts.append(f'of {len(alike)} near duplicates the most uncertain: {score_name} '
                     f'{pool.scores[top]:.4g}{_distance(pool, row, top)}')
    return '; '.join(parts)


def _next_in_time(pool: Candidates, row: int) -> list[tuple[int, str]]:
    if pool.times_s is None:
        return []
    mine = np.flatnonzero(pool.dives == pool.dives[row])
    apart = pool.times_s[mine] - pool.times_s[row]
    found = []
    for sign, word in ((-1, 'before'), (1, 'after')):
        is_there = (sign * apart > 0) & (sign * apart <= _NEXT_S)
        if is_there.any():
            near = np.where(is_there, np.abs(apart), np.inf)
            found.append((int(mine[int(np.argmin(near))]), word))
    return found


def _distance(pool: Candidates, one: int, other: int) -> str:
    if pool.features is not None:
        apart = float(np.linalg.norm(pool.features[one] - pool.features[other]))
        return f', {apart:.3g} away' if math.isfinite(apart) else ''
    if pool.hashes is not None:
        return f', {int(bits_apart(pool.hashes[one], pool.hashes[other]))} bits away'
    return ''


def nearest_before(chosen: Candidates) -> list[str]:
    """
    Say of every chosen frame how far it is from the nearest one that was chosen before it.

    In the unit of the features, else in bits of the hash; empty for the first one and where there
    is neither.
    """
    if chosen.features is not None:
        return [f'{math.sqrt(gap):.4g} from the nearest chosen before it' if math.isfinite(gap)
                else '' for gap in _feature_gaps(chosen.features)]
    if chosen.hashes is not None:
        return [f'{gap} bits from the nearest chosen before it' if gap <= 64 else ''
                for gap in _bit_gaps(chosen.hashes)]
    return [''] * len(chosen)


def _feature_gaps(features: NDArray[np.float32]) -> list[float]:
    # In float64: the difference of squares loses half of the digits.
    rows = features.astype(np.float64)
    squares = np.square(rows).sum(1)
    gaps = []
    for start in range(0, len(rows), _REASONS_BLOCK):
        part = slice(start, start + _REASONS_BLOCK)
        apart = squares[part, None] + squares - 2 * rows[part] @ rows.T
        gaps += _smallest_before(np.where(np.isnan(apart), np.inf, np.maximum(apart, 0)), start)
    return gaps


def _bit_gaps(hashes: NDArray[np.uint64]) -> list[int]:
    gaps: list[float] = []
    for start in range(0, len(hashes), _REASONS_BLOCK):
        apart = bits_apart(hashes[start:start + _REASONS_BLOCK, None], hashes).astype(np.float64)
        gaps += _smallest_before(apart, start)
    return [int(min(gap, 65)) for gap in gaps]


def _smallest_before(apart: NDArray[np.float64], start: int) -> list[float]:
    """Return the smallest of each row left of the diagonal; inf if there is none."""
    rows, columns = np.arange(len(apart))[:, None] + start, np.arange(apart.shape[1])
    return np.where(columns < rows, apart, np.inf).min(1).tolist()


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
    neighbours : tuple of str
        Of each, what is next to it and was not chosen in its place, with score and distance.
    gaps_s : ndarray of float64, shape (m,)
        The gap that was kept around each at the end.

    """

    rows: Rows
    reasons: tuple[str, ...]
    stands_for: Rows
    num_candidates: int
    num_duplicates: int
    num_unscored: int
    num_over_limit: int | None
    is_capped: bool
    neighbours: tuple[str, ...] = ()
    gaps_s: Column | None = None


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
    everybody = order

    def looking_alike(chosen: Rows) -> list[Rows]:
        """Return the candidates that each chosen row stands for."""
        return [everybody[np.flatnonzero((owners == stays[row]) & (places != stays[row]))]
                for row in chosen]

    places = np.arange(len(owners))
    order, pool, drawn = order[stays], pool.cut(stays), drawn[stays]
    if request.min_gap_s is None and request.strategy not in _SPREAD:
        request = replace(request, min_gap_s=0.0)
    quota = Quota(pool, request)
    unscored = _unscored(pool, request)
    _take_unscored(unscored, request, quota)
    choice = Choice(pool, request, quota, drawn, labelled)
    ALL[request.strategy](choice)
    while quota.loosen():
        ALL[request.strategy](choice)
    chosen = np.array(quota.chosen, np.int64)
    return Selection(
        rows=order[chosen], reasons=_reasons(pool, quota, counts, request),
        stands_for=counts[chosen], num_candidates=len(candidates),
        num_duplicates=int(len(candidates) - is_known.sum() - len(pool)),
        num_unscored=int(unscored.sum()),
        num_over_limit=None if request.limit is None else
        int((pool.scores > request.limit).sum()),
        is_capped=quota.is_capped,
        neighbours=tuple(neighbour_text(candidates, int(order[row]), request.score_name, alike)
                         for row, alike in zip(chosen, looking_alike(chosen), strict=True)),
        gaps_s=quota.gaps_s[chosen])


def _owners(
    pool: Candidates,
    request: SelectionRequest,
    is_known: NDArray[np.bool_],
    labelled: Candidates | None,
) -> Rows:
    """Return the row that represents each; -1 if a labelled frame does."""
    if not request.min_distance and not request.min_feature_distance:
        return np.arange(len(pool))
    if request.min_distance and pool.hashes is None:
        raise ConfigError('the table has no hashes', 'a column phash to find near duplicates',
                          'score the frames again, or give --min-distance 0')
    if request.min_feature_distance and pool.embeddings is None:
        raise ConfigError('the table has no embeddings of the network', 'a column embedding to '
                          'find near duplicates', 'score the frames again on the processor, or '
                          'leave --min-feature-distance out')
    # By lot, the one that stays is a fair draw from those that look like it.
    order = np.arange(len(pool)) if request.strategy == 'random' else falling(
        np.where(np.isfinite(pool.scores), pool.scores, np.nan))
    order = order[~is_known[order]]
    hashes, vectors, before = _hashes_of(pool), pool.embeddings, 0
    if labelled is not None and (labelled.hashes is not None or not request.min_distance):
        before = len(labelled)
        hashes = np.concatenate([_hashes_of(labelled), hashes])
        vectors = None if vectors is None else np.concatenate(
            [_embeddings_of(labelled, vectors.shape[1]), vectors])
    places = np.concatenate([np.arange(before), order + before,
                             np.flatnonzero(is_known) + before])
    owners = stand_ins(hashes, places, request.min_distance, vectors,
                       request.min_feature_distance)[before:] - before
    return np.maximum(owners, -1)


def _hashes_of(frames: Candidates) -> NDArray[np.uint64]:
    return np.zeros(len(frames), np.uint64) if frames.hashes is None else frames.hashes


def _embeddings_of(labelled: Candidates, length: int) -> NDArray[np.float32]:
    """Return those of labelled frames; of another model they say nothing."""
    if labelled.embeddings is None or labelled.embeddings.shape[1] != length:
        return np.full((len(labelled), length), np.nan, np.float32)
    return labelled.embeddings


def _unscored(pool: Candidates, request: SelectionRequest) -> NDArray[np.bool_]:
    unscored = ~np.isfinite(pool.scores)
    if request.strategy in _SPREAD and pool.features is not None:
        unscored |= ~np.isfinite(pool.features).all(1)
    return unscored


def _take_unscored(unscored: NDArray[np.bool_], request: SelectionRequest, quota: Quota) -> None:
    if request.skips_unscored:
        quota.close(unscored)
    elif request.strategy != 'random':
        quota.take_in_order(np.flatnonzero(unscored),
                            'it could not be scored, which counts as most uncertain')
        quota.close(unscored)


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
