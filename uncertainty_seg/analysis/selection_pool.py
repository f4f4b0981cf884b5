# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The frames that a selection chooses from, the request, the drawing of lots, and the quota."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.analysis.near_duplicates import Rows
from uncertainty_seg.core.calibration import Column
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

    """

    keys: NDArray[np.object_]
    dives: NDArray[np.object_]
    scores: Column
    hashes: NDArray[np.uint64] | None = None
    features: NDArray[np.float32] | None = None
    shares: Column | None = None
    times_s: Column | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self)[:-1]:
            array = getattr(self, field.name)
            if array is not None and len(array) != len(self.keys):
                raise ShapeError(f'{len(array)} {field.name} of {len(self.keys)} frames',
                                 'one a frame')

    def __len__(self) -> int:
        return len(self.keys)

    def cut(self, rows: Rows | NDArray[np.bool_]) -> Candidates:
        """Return some of the rows, in the order given."""
        def part(array: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
            return None if array is None else array[rows]

        arrays = {field.name: part(getattr(self, field.name)) for field in fields(self)[:-1]}
        return Candidates(**arrays, class_names=self.class_names)  # type: ignore[arg-type]


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
    min_gap_s : float
        Frames of one dive are chosen at least so far apart in time; 0 for any.
    min_distance : int
        Frames whose hashes differ in fewer bits are one; 0 leaves them all.
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
    min_gap_s: float = 0.0
    min_distance: int = 0
    skips_unscored: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(f'the strategy {self.strategy!r}', f'one of {", ".join(STRATEGIES)}')
        if self.count < 1 or (self.per_dive is not None and self.per_dive < 1):
            raise ConfigError(f'{self.count} frames, {self.per_dive} a dive', 'at least 1')
        for name in ('beta', 'min_gap_s'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
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


class Quota:
    """
    What was chosen so far, and what may still be.

    The pool gives the dive of every row, and its time if there is a gap to keep; the request how
    many rows are wanted, how many may come from a dive, and how far apart. Raises ConfigError if
    there is a gap to keep and no time.
    """

    def __init__(self, pool: Candidates, request: SelectionRequest) -> None:
        if request.min_gap_s and pool.times_s is None:
            raise ConfigError(f'a gap of {request.min_gap_s:g} s and frames without a time',
                              'stamps for the gap')
        self.is_open = np.ones(len(pool), np.bool_)
        self.chosen: list[int] = []
        self.whys: list[str] = []
        self._request = request
        self._times_s = pool.times_s if request.min_gap_s else None
        names = {name: code for code, name in enumerate(dict.fromkeys(pool.dives))}
        self._codes = np.array([names[name] for name in pool.dives], np.int64)
        self._taken = np.zeros(len(names), np.int64)

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
        elif self._times_s is not None:
            near = np.abs(self._times_s - self._times_s[row]) < self._request.min_gap_s
            self.is_open[near & (self._codes == code)] = False

    def take_in_order(self, order: Rows, why: str) -> None:
        """Choose rows that are open, the first first, until nothing more is wanted."""
        for row in order:
            if self.is_full:
                return
            if self.is_open[row]:
                self.take(row, why)
