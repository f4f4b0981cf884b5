# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The frames that a selection chooses from, the request, the drawing of lots, and the quota."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.calibration import Column
from uncertainty_seg.data.selection.near_duplicates import Rows
from uncertainty_seg.errors import ConfigError, ShapeError

STRATEGIES = ('threshold', 'top-k', 'power-bald', 'k-centre', 'uncertainty-diversity',
              'class-balanced', 'random')


@dataclass(frozen=True)
class Candidates:
    """
    Frames to choose from, a row each.

    Attributes
    ----------
    keys : ndarray of str, shape (n,)
        What each frame is known by; the lots are drawn from them.
    dives : ndarray of str, shape (n,)
        The dive of each.
    scores : ndarray of float64, shape (n,)
        Grow with uncertainty; NaN where a frame could not be scored.
    hashes : ndarray of uint64, shape (n,), or None
        Perceptual hashes.
    features : ndarray of float32, shape (n, D), or None
        Of the network's trunk; NaN where there are none.
    shares : ndarray of float64, shape (n, C), or None
        Share of the pixels that each class was predicted on, 0..1.
    times_s : ndarray of float64, shape (n,), or None
        When each was taken, in seconds of its dive's clock.
    class_names : tuple of str
        C names.
    is_video : ndarray of bool, shape (n,), or None
        Whether it is of a video, in which neighbours look alike; None where all are.
    embeddings : ndarray of float32, shape (n, E), or None
        Of unit length, by which near duplicates are found beside the hashes; NaN where unknown.

    """

    keys: NDArray[np.object_]
    dives: NDArray[np.object_]
    scores: Column
    hashes: NDArray[np.uint64] | None = None
    features: NDArray[np.float32] | None = None
    shares: Column | None = None
    times_s: Column | None = None
    class_names: tuple[str, ...] = ()
    is_video: NDArray[np.bool_] | None = None
    embeddings: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None and len(array) != len(self.keys):
                raise ShapeError(f'{len(array)} {name} of {len(self.keys)} frames',
                                 'one a frame')

    def __len__(self) -> int:
        return len(self.keys)

    def cut(self, rows: Rows | NDArray[np.bool_]) -> Candidates:
        """Return some of the rows, in the order given."""
        def part(array: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
            return None if array is None else array[rows]

        arrays = {name: part(getattr(self, name)) for name in _ARRAYS}
        return Candidates(**arrays, class_names=self.class_names)  # type: ignore[arg-type]


_ARRAYS = tuple(entry.name for entry in fields(Candidates) if entry.name != 'class_names')


@dataclass(frozen=True)
class SelectionRequest:
    """
    How to choose.

    Attributes
    ----------
    strategy : str
        One of `STRATEGIES`.
    count : int
        Frames wanted; at least 1.
    score_name : str
        What to call the score in a reason.
    seed : int
        Of the lots.
    beta : float
        Power of the score as a weight; 0 makes all alike.
    limit : float or None
        Of the strategy threshold: frames above it are chosen.
    per_dive : int or None
        Frames that a dive may give; at least 1.
    min_gap_s : float or None
        Frames of one dive are chosen at least so far apart in time; 0 for any. None: half of what
        an even spread of the frames wanted over all videos would have, see `auto_gaps`.
    min_distance : int
        Frames whose hashes differ in fewer bits are one; 0 leaves them all.
    min_feature_distance : float
        Frames whose embeddings have a smaller cosine distance are one too; 0 leaves them all.
    skips_unscored : bool
        Leave out what could not be scored, instead of taking it first.

    """

    strategy: str
    count: int
    score_name: str = 'score_ratio'
    seed: int = 0
    beta: float = 1.0
    limit: float | None = None
    per_dive: int | None = None
    min_gap_s: float | None = 0.0
    min_distance: int = 0
    skips_unscored: bool = False
    min_feature_distance: float = 0.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(f'the strategy {self.strategy!r}', f'one of {", ".join(STRATEGIES)}')
        if self.count < 1 or (self.per_dive is not None and self.per_dive < 1):
            raise ConfigError(f'{self.count} frames, {self.per_dive} a dive', 'at least 1')
        for name in ('beta', 'min_gap_s'):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f'{name} {value:g}', 'a number from 0 up')
        if self.strategy == 'threshold' and (self.limit is None or math.isnan(self.limit)):
            raise ConfigError('the strategy threshold has no limit', 'a number, as --limit')


def lots(keys: Iterable[str], seed: int) -> Column:
    """
    Draw a number for every frame, float64 (n,), uniform in (0, 1) without the ends.

    It depends on the seed and the frame's own key, and on nothing else: in another order of the
    rows, or beside other frames, a frame draws the same.
    """
    salt = str(seed).encode()
    drawn = b''.join(hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=8,
                                     key=salt).digest() for key in keys)
    # 52 bits and a half: the largest is still below 1.
    return ((np.frombuffer(drawn, '<u8') >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def percentiles(scores: Column) -> Column:
    """
    Return the share of frames that each score exceeds, equals counted half.

    From (n,) to (n,), in (0, 1); NaN is left out and stays NaN.
    """
    known = np.sort(scores[~np.isnan(scores)])
    below = np.searchsorted(known, scores, 'left') + np.searchsorted(known, scores, 'right')
    return np.where(np.isnan(scores), np.nan, below / (2.0 * max(1, len(known))))


# Of an even spread in time; with a whole one the strategy would have no choice.
_GAP_SHARE = 0.5
# Of frames of a folder: neighbours in a video are nearer than this share of any two.
_VIDEO_SHARE = 0.6
_FEWEST_OF_A_VIDEO = 8


def auto_gaps(pool: Candidates, count: int) -> dict[str, float]:
    """
    Return the gap of each dive that spreads a choice over its time, in seconds; 0 if no video.

    One long event of high scores would take the whole choice. With a gap of half the time that a
    dive has for each of its frames, if these were spread evenly, every event of that length is
    seen, and the strategy still has as many times to choose from as frames to choose.
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
    Say whether frames, in their order, are of a video, shape (n, D).

    Their neighbours are then much nearer than any two of them: 0.25 to 0.45 of it at 2 to 4 frames
    a second of the synthetic dives, and about 1 of photographs. False if it cannot be known.
    """
    if features is None or len(features) < _FEWEST_OF_A_VIDEO:
        return False
    one, other = np.random.default_rng(0).integers(0, len(features), (2, 1000))
    near = np.linalg.norm(features[1:] - features[:-1], axis=1)
    far = np.linalg.norm(features[one] - features[other], axis=1)[one != other]
    return bool(np.nanmedian(near) < _VIDEO_SHARE * np.nanmedian(far))


class Quota:
    """
    What was chosen so far, and what may still be.

    The pool gives the dive of every row, and its time if there is a gap to keep; the request how
    many rows are wanted, how many may come from a dive, and how far apart. Raises ConfigError if
    there is a gap to keep and no time.
    """

    def __init__(self, pool: Candidates, request: SelectionRequest) -> None:
        gaps = auto_gaps(pool, request.count) if request.min_gap_s is None else {}
        if request.min_gap_s and pool.times_s is None:
            raise ConfigError(f'a gap of {request.min_gap_s:g} s and frames without a time',
                              'stamps for the gap')
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

    @property
    def is_full(self) -> bool:
        """Whether nothing more is wanted."""
        return len(self.chosen) >= self._request.count

    @property
    def is_capped(self) -> bool:
        """Whether a dive had to give less than it could have."""
        cap = self._request.per_dive
        return cap is not None and bool((self._taken >= cap).any())

    def take(self, row: int, why: str) -> None:
        """Choose a row for a reason, and close the rows that may not be chosen after it."""
        self.chosen.append(int(row))
        self.whys.append(why)
        self.is_open[row] = False
        code = self._codes[row]
        self._taken[code] += 1
        if self._taken[code] == self._request.per_dive:
            self.is_open[self._codes == code] = False
        else:
            self._close_near(row)

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
        """
        Halve the gaps that nobody asked for; return whether that opened a row.

        The last time there is none.
        """
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

    @property
    def gaps_s(self) -> Column:
        """Return the gap that is kept now around each row, float64 (n,)."""
        return self._gaps_s[self._codes]

    def take_in_order(self, order: Rows, why: str) -> None:
        """Choose rows that are open, the first first, until nothing more is wanted."""
        for row in order:
            if self.is_full:
                return
            if self.is_open[row]:
                self.take(row, why)
