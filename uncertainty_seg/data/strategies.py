# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames that are worth a label, and give the reason for each.

First the pool is thinned: of frames that look alike the most uncertain one stays. Then frames that
could not be scored are taken, since their content is unknown; then the strategy chooses. The same
frames and seed give the same choice, whatever the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import Column
from uncertainty_seg.data.likeness import bits_apart, Hashes, Rows, stand_ins, Vectors
from uncertainty_seg.errors import ConfigError

# Automatic gap as a share of an even spread in time; with a share of 1 there would be no choice.
_GAP_SHARE = 0.5
# The frames of a folder are a video if neighbours are nearer than this share of any two.
_VIDEO_SHARE = 0.6
_FEWEST_OF_A_VIDEO = 8
# How many frames, the most uncertain ones, are compared with all others before the choice: 4 s for
# 200 000 that all differ. Frames that look like one of the rest are left out when it is chosen.
MOST_COMPARED = 20_000


@dataclass(frozen=True)
class Candidates:
    """
    Frames to choose from, a row each; all arrays have the shape (n,), features (n, D).

    `keys` identify the frames, and the lots are drawn from these. `scores` are larger for more
    uncertainty, and NaN for a frame that could not be scored. `hashes` are perceptual hashes,
    `features` those of `likeness.frame_features`, NaN where there are none. `times_s` is when each
    was taken, in seconds of its dive's clock. `is_video` says whether each is of a video, in which
    neighbours look alike; None if all are.
    """

    keys: NDArray[np.object_]
    dives: NDArray[np.object_]
    scores: Column
    hashes: Hashes | None = None
    features: Vectors | None = None
    times_s: Column | None = None
    is_video: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def cut(self, rows: Rows | NDArray[np.bool_]) -> Candidates:
        """Return the given rows, in their order."""
        def part(array: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
            return None if array is None else array[rows]

        arrays = {name: part(getattr(self, name)) for name in _ARRAYS}
        return Candidates(**arrays)  # type: ignore[arg-type]


_ARRAYS = tuple(entry.name for entry in fields(Candidates))


def joined(one: Candidates, other: Candidates | None) -> Candidates:
    """Return the keys, dives, scores and, if both have them, hashes and features of two pools."""
    if other is None:
        return one
    pairs = {name: (getattr(one, name), getattr(other, name))
             for name in ('keys', 'dives', 'scores', 'hashes', 'features')}
    return Candidates(**{name: np.concatenate(pair) for name, pair in pairs.items()
                         if pair[0] is not None and pair[1] is not None})


@dataclass(frozen=True)
class SelectionRequest:
    """
    How to choose; `selection.select` describes all but `score_name`, the score in a reason.

    Without `min_gap_s` the gap is half of that of an even spread of the wanted frames over all
    videos, see `auto_gaps`.
    """

    strategy: str
    count: int
    score_name: str = 'score_ratio'
    seed: int = 0
    limit: float | None = None
    per_dive: int | None = None
    min_gap_s: float | None = 0.0
    min_distance: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(f'the strategy {self.strategy!r}', f'one of {", ".join(STRATEGIES)}')
        if self.count < 1 or (self.per_dive is not None and self.per_dive < 1):
            raise ConfigError(f'{self.count} frames, {self.per_dive} a dive', 'at least 1')
        gap_s = self.min_gap_s
        if gap_s is not None and not (math.isfinite(gap_s) and gap_s >= 0):
            raise ConfigError(f'min_gap_s {gap_s:g}', 'a number from 0 up')
        if self.strategy == 'threshold' and (self.limit is None or math.isnan(self.limit)):
            raise ConfigError('the strategy threshold has no limit', 'a number')


def lots(keys: Iterable[str], seed: int) -> Column:
    """
    Draw a number for every frame, float64 (n,), uniform in (0, 1) without the ends.

    It depends only on the seed and the frame's key: in another order of the rows, or beside other
    frames, a frame draws the same number.
    """
    salt = str(seed).encode()
    drawn = b''.join(hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=8,
                                     key=salt).digest() for key in keys)
    # 52 bits plus one half, so that the largest is still below 1.
    return ((np.frombuffer(drawn, '<u8') >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def percentiles(scores: Column) -> Column:
    """Return the share of frames below each score, with equal ones as half; NaN stays NaN."""
    known = np.sort(scores[~np.isnan(scores)])
    below = np.searchsorted(known, scores, 'left') + np.searchsorted(known, scores, 'right')
    return np.where(np.isnan(scores), np.nan, below / (2.0 * max(1, len(known))))


def auto_gaps(pool: Candidates, count: int) -> dict[str, float]:
    """
    Return the gap of each dive that spreads a choice over its time, in seconds; 0 if no video.

    Without a gap one long event of high scores would take the whole choice. The gap is half of
    the time per frame if a dive's share of the frames were spread evenly: every event of that
    length is then seen, and there is still room for twice as many frames, which leaves a choice.
    """
    if pool.times_s is None:
        return {}
    gaps = {}
    for name in dict.fromkeys(pool.dives):
        rows = pool.dives == name
        if pool.is_video is not None:
            rows &= pool.is_video
        num = int(rows.sum())
        span_s = float(np.ptp(pool.times_s[rows])) if num > 1 else 0.0
        share = max(1.0, count * num / len(pool))
        gaps[name] = _GAP_SHARE * span_s / share if math.isfinite(span_s) else 0.0
    return gaps


def looks_like_video(features: NDArray[np.float32] | None) -> bool:
    """
    Return whether ordered frames, with features of shape (n, D), are of a video.

    Neighbours are then much nearer than any two frames: the ratio of their distances is 0.25 to
    0.45 at 2 to 4 frames a second of the synthetic dives, and about 1 for photographs. False if
    there are no features or too few frames.
    """
    if features is None or len(features) < _FEWEST_OF_A_VIDEO:
        return False
    one, other = np.random.default_rng(0).integers(0, len(features), (2, 1000))
    near = np.linalg.norm(features[1:] - features[:-1], axis=1)
    far = np.linalg.norm(features[one] - features[other], axis=1)[one != other]
    return bool(np.nanmedian(near) < _VIDEO_SHARE * np.nanmedian(far))


class Quota:
    """
    The rows chosen so far, and those that may still be chosen.

    The pool gives the dive of every row, and its time if there is a gap to keep; the request how
    many rows are wanted, how many may come from a dive, and how far apart. Raises ConfigError if
    there is a gap to keep and no time.
    """

    def __init__(self, pool: Candidates, request: SelectionRequest) -> None:
        gaps = auto_gaps(pool, request.count) if request.min_gap_s is None else {}
        if request.min_gap_s and pool.times_s is None:
            raise ConfigError(f'a gap of {request.min_gap_s:g} s, and frames without a stamp',
                              'frames with stamps')
        self.is_open = np.ones(len(pool), np.bool_)
        self.chosen: list[int] = []
        self.whys: list[str] = []
        self._request = request
        self._times_s = pool.times_s if request.min_gap_s or any(gaps.values()) else None
        names = {name: code for code, name in enumerate(dict.fromkeys(pool.dives))}
        self._codes = np.array([names[name] for name in pool.dives], np.int64)
        self._taken = np.zeros(len(names), np.int64)
        self._gaps_s = np.array([gaps.get(name, request.min_gap_s or 0.0) for name in names])
        self._can_loosen = any(gaps.values())
        self._closed = np.zeros(len(pool), np.bool_)
        self._hashes = pool.hashes
        # Chosen row -> number of rows that look like it and were open until then.
        self.alike: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        """Return whether as many rows as wanted are chosen."""
        return len(self.chosen) >= self._request.count

    def take(self, row: int, why: str) -> None:
        """Choose a row for a reason, and close the rows that may then no longer be chosen."""
        self.chosen.append(int(row))
        self.whys.append(why)
        self.is_open[row] = False
        self._close_alike(int(row))
        code = self._codes[row]
        self._taken[code] += 1
        if self._taken[code] == self._request.per_dive:
            self.is_open[self._codes == code] = False
        else:
            self._close_near(row)

    def _close_alike(self, row: int) -> None:
        if self._hashes is not None and self._request.min_distance:
            alike = bits_apart(self._hashes[row], self._hashes) < self._request.min_distance
            alike[self.chosen] = False
            alike &= ~self._closed
            self.alike[row] = int(alike.sum())
            self.close(alike)

    def _close_near(self, row: int) -> None:
        if self._times_s is not None:
            code = self._codes[row]
            near = np.abs(self._times_s - self._times_s[row]) < self._gaps_s[code]
            self.is_open[near & (self._codes == code)] = False

    def close(self, rows: NDArray[np.bool_]) -> None:
        """Close rows for good, whatever the gap."""
        self._closed |= rows
        self.is_open[rows] = False

    def loosen(self) -> bool:
        """Halve automatic gaps, then remove them, until a row opens; return whether one did."""
        while self._can_loosen and not self.is_full:
            smallest = self._smallest_step()
            self._gaps_s = np.where(self._gaps_s > smallest, self._gaps_s / 2, 0.0)
            self._can_loosen = bool(self._gaps_s.any())
            cap = self._request.per_dive
            is_used_up = np.zeros(len(self._taken), np.bool_) if cap is None else \
                self._taken >= cap
            self.is_open = ~self._closed & ~is_used_up[self._codes]
            self.is_open[self.chosen] = False
            for row in self.chosen:
                self._close_near(row)
            if self.is_open.any():
                return True
        return False

    def _smallest_step(self) -> float:
        assert self._times_s is not None
        steps = np.diff(np.unique(self._times_s[np.isfinite(self._times_s)]))
        return float(steps.min()) if steps.size else math.inf

    def take_in_order(self, order: Rows, why: str) -> None:
        """Choose open rows in this order until no more are wanted."""
        for row in order:
            if self.is_full:
                return
            if self.is_open[row]:
                self.take(row, why)


# -------------------------------------------------------------------------------------------------
# The strategies. Rows that could not be scored are taken before them or closed, except for
# `random`, which ignores the score.


def falling(values: Column) -> Rows:
    """Return the rows from the largest to the smallest value; NaN first, equals in row order."""
    return np.argsort(np.where(np.isnan(values), -np.inf, -values), kind='stable')


@dataclass(frozen=True)
class Choice:
    """The input of a strategy: the pool in the order of its lots, and the quota to fill."""

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


def uniform(choice: Choice) -> None:
    """Draw at random, whatever the score."""
    choice.quota.take_in_order(np.argsort(choice.drawn, kind='stable'),
                               f'drawn at random, seed {choice.request.seed}')


def k_centre(choice: Choice) -> None:
    """
    Take the frame whose features are farthest from all chosen, again and again.

    It begins with the labelled or already chosen frames, else with the most uncertain frame.
    Sources: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", ICLR 2018; Gonzalez, "Clustering to minimize the maximum intercluster distance",
    1985: the largest distance to a chosen frame is at most twice the optimum.
    """
    _spread(choice, np.ones(len(choice.pool)), 'farthest from all chosen')


def uncertainty_diversity(choice: Choice) -> None:
    """
    Take the frame of the largest ``score * distance to the nearest chosen``, again and again.

    Source: Dyer and Frieze, "A simple heuristic for the p-centre problem", Operations Research
    Letters 3, 1985: with weights w the largest w * distance is at most min(3, 1 + max w / min w)
    times the optimum.
    """
    if (choice.pool.scores < 0).any():
        raise ConfigError(
            f'{choice.request.score_name} has values down to {np.nanmin(choice.pool.scores):.6g}',
            f'scores of at least 0, the weights of {choice.request.strategy}',
            'choose another score or strategy')
    _spread(choice, choice.pool.scores, 'largest score times the distance to all chosen')


# Strategy -> function that takes rows from the pool until the quota is full; the first is default.
STRATEGIES: dict[str, Callable[[Choice], None]] = {
    'uncertainty-diversity': uncertainty_diversity, 'k-centre': k_centre, 'top-k': top_k,
    'threshold': threshold, 'random': uniform,
}
_SPREAD = ('k-centre', 'uncertainty-diversity')


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
    # Squares have the same order.
    squares = np.square(weights)
    while not quota.is_full and quota.is_open.any():
        with np.errstate(invalid='ignore'):  # closed rows may give NaN
            worth = pool.scores if nearest.is_empty else squares * nearest.squared
        row = int(np.argmax(np.where(quota.is_open, worth, -np.inf)))
        quota.take(row, 'the most uncertain frame, to start with' if nearest.is_empty else why)
        nearest.add(pool.features[row])


class Nearest:
    """The squared distance of every row to its nearest centre, as centres are added."""

    def __init__(self, features: Vectors) -> None:
        self.squared = np.full(len(features), np.inf)
        self.is_empty = True
        self._features = features
        self._norms = np.einsum('ij,ij->i', features, features)

    def add(self, centre: Vectors) -> None:
        """Add a centre, shape (D,); a row that is not finite keeps its distance."""
        apart = self._norms - 2 * (self._features @ centre) + centre @ centre
        np.fmin(self.squared, np.maximum(apart, 0), out=self.squared)
        self.is_empty = False


# -------------------------------------------------------------------------------------------------
# Control frames: a fair sample of the pool, and the frames that it excludes from training.


def draw_control(
    pool: Candidates, control: int, hard: int, seed: int
) -> tuple[Rows, NDArray[np.bool_]]:
    """
    Draw about `control` rows at random, and return which rows are set aside for them, bool (n,).

    Every frame has the same chance, whatever its score. Photographs are drawn one by one. Frames
    of a video reveal their neighbours, so whole videos are set aside at random, and frames are
    drawn from these. The share of the videos is that of control frames in all wanted frames,
    which are `control` + `hard`. Raises ConfigError if there is only one video.
    """
    drawn = lots((f'control {key}' for key in pool.keys), seed)
    order = np.argsort(drawn, kind='stable')
    is_video = np.ones(len(pool), np.bool_) if pool.is_video is None else pool.is_video
    num_video = round(control * float(is_video.mean()))
    rows = order[~is_video[order]][:control - num_video]
    is_held = np.zeros(len(pool), np.bool_)
    is_held[rows] = True
    if num_video:
        dives = np.unique(pool.dives[is_video])
        if len(dives) < 2:
            raise ConfigError(f'control frames were requested from the single video {dives[0]!r}',
                              'at least two, one of which is not trained on, since neighbours of '
                              'training frames are known',
                              'score another dive, or request no control frames')
        num_held = min(math.ceil(len(dives) * control / (control + hard)), len(dives) - 1)
        held = dives[np.argsort(lots((f'control {name}' for name in dives), seed))[:num_held]]
        inside = is_video & np.isin(pool.dives, held)
        rate = min(1.0, num_video * len(dives) / num_held / int(is_video.sum()))
        of_videos = order[inside[order]][:max(1, round(rate * int(inside.sum())))]
        rows, is_held = np.concatenate([rows, of_videos]), is_held | inside
    return rows, is_held


# -------------------------------------------------------------------------------------------------
# The sentence about why a frame was chosen.


def reason(
    why: str, score_name: str, score: float, rank: float, count: int, stands_for: int
) -> str:
    """Join the facts of a chosen frame into one sentence."""
    value = f'{score_name} {score:.4g}' if math.isfinite(score) else f'no {score_name}'
    # Rounded down: no frame is above all frames, since it is one of them.
    above = '' if math.isnan(rank) else \
        f', above {math.floor(1e4 * rank) / 100:g} % of {count} frames'
    alike = 'no other frame looks like it' if not stands_for else \
        f'it stands for {stands_for} near duplicate{"s" if stands_for > 1 else ""}'
    return f'{why}; {value}{above}; {alike}.'


@dataclass(frozen=True)
class Selection:
    """
    The chosen rows of the candidates, the first choice first, with a reason for each.

    `stands_for` is the number of near duplicates of each. `num_duplicates` of the candidates were
    left out since they look like another one or a labelled frame; `num_unscored` of the others
    could not be scored.
    """

    rows: Rows
    reasons: tuple[str, ...]
    stands_for: Rows
    num_candidates: int
    num_duplicates: int
    num_unscored: int


def select(
    candidates: Candidates, request: SelectionRequest, labelled: Candidates | None = None
) -> Selection:
    """
    Choose at most `request.count` frames; fewer, even none, if no more are eligible.

    `labelled` frames and frames that look like them are not chosen, and the strategies that spread
    measure distances to them. Raises ConfigError if the candidates lack what the strategy needs
    (features, scores from 0 up), or lack hashes and near duplicates are to be found.
    """
    drawn = lots(candidates.keys, request.seed)
    order = np.argsort(drawn, kind='stable')
    # Features take most of the memory, and only hashes decide which frames stay.
    pool = replace(candidates, features=None).cut(order)
    names = set(labelled.keys) if labelled is not None else set()
    is_known = np.array([key in names for key in pool.keys], np.bool_)
    owners = _owners(pool, request, is_known, labelled)
    stays = np.flatnonzero((owners == np.arange(len(pool))) & ~is_known)
    counts = np.bincount(owners[owners >= 0], minlength=len(pool))[stays] - 1
    order = order[stays]
    pool, drawn = candidates.cut(order), drawn[order]
    if request.min_gap_s is None and request.strategy not in _SPREAD:
        request = replace(request, min_gap_s=0.0)
    quota = Quota(pool, request)
    unscored = _unscored(pool, request)
    _take_unscored(unscored, request, quota)
    choice = Choice(pool, request, quota, drawn, labelled)
    STRATEGIES[request.strategy](choice)
    while quota.loosen():
        STRATEGIES[request.strategy](choice)
    chosen = np.array(quota.chosen, np.int64)
    counts[list(quota.alike)] += np.array([*quota.alike.values()], np.int64)
    return Selection(
        rows=order[chosen], reasons=_reasons(pool, quota, counts, request),
        stands_for=counts[chosen], num_candidates=len(candidates),
        num_duplicates=int(len(candidates) - is_known.sum() - len(pool))
        + sum(quota.alike.values()),
        num_unscored=int(unscored.sum()))


def _owners(
    pool: Candidates,
    request: SelectionRequest,
    is_known: NDArray[np.bool_],
    labelled: Candidates | None,
) -> Rows:
    """Return the row that represents each row; -1 if a labelled frame does."""
    if not request.min_distance:
        return np.arange(len(pool))
    if pool.hashes is None:
        raise ConfigError('the table has no hashes', 'a column phash to find near duplicates',
                          'score the frames again, or look for none (0 bits)')
    # In the order of the lots, the frame that stays is a fair draw from those that look alike.
    order = np.arange(len(pool)) if request.strategy == 'random' else falling(
        np.where(np.isfinite(pool.scores), pool.scores, np.nan))
    order = order[~is_known[order]]
    hashes, before = pool.hashes, 0
    if labelled is not None and labelled.hashes is not None:
        before = len(labelled)
        hashes = np.concatenate([labelled.hashes, hashes])
    places = np.concatenate([np.arange(before), order + before,
                             np.flatnonzero(is_known) + before])
    owners = stand_ins(hashes, places, request.min_distance,
                       before + MOST_COMPARED)[before:] - before
    return np.maximum(owners, -1)


def _unscored(pool: Candidates, request: SelectionRequest) -> NDArray[np.bool_]:
    unscored = ~np.isfinite(pool.scores)
    if request.strategy in _SPREAD and pool.features is not None:
        unscored |= ~np.isfinite(pool.features).all(1)
    return unscored


def _take_unscored(unscored: NDArray[np.bool_], request: SelectionRequest, quota: Quota) -> None:
    if request.strategy != 'random':
        quota.take_in_order(np.flatnonzero(unscored),
                            'it could not be scored, which counts as most uncertain')
        quota.close(unscored)


def _reasons(
    pool: Candidates, quota: Quota, counts: Rows, request: SelectionRequest
) -> tuple[str, ...]:
    is_scored = np.isfinite(pool.scores)
    ranks: Column = percentiles(np.where(is_scored, pool.scores, np.nan))
    return tuple(
        reason(f'{request.strategy}: {why}', request.score_name, float(pool.scores[row]),
               float(ranks[row]), int(is_scored.sum()), int(counts[row]))
        for row, why in zip(quota.chosen, quota.whys, strict=True))
