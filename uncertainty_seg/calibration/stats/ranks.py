# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Many thresholds controlled by one number, the rank.

A promise needs one parameter that makes the gate stricter. This parameter is the rank: the share
of the reference frames that a score exceeds. All thresholds have the same rank, each in its score,
so that no score dominates because of its unit; a frame's rank is the largest of its scores' ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import Column, Columns
from uncertainty_seg.errors import CalibrationError

# A threshold on a nearly constant score would not control anything.
FEWEST_VALUES = 20
MOST_KNOTS = 101
# A guard detects what bad reference frames do not show, so a promise about these must not loosen
# it: frames above this share of the reference frames are refused at every alpha.
GUARD_CEILING = 0.98
# The largest limit that a score in 0..1 can still exceed, and the smallest above 0.
HIGHEST_LIMIT, LOWEST_LIMIT = 1 - 2.0**-24, 2.0**-126


@dataclass(frozen=True)
class RankFamily:
    """
    The ranks of scores among reference frames.

    `knots` (k,) of each score are its values at increasing `shares` (k,) of the reference frames;
    the last share is 1. A *guard* is a score that is informative only for few frames, where it is
    high. Its rank is raised to a power, which makes it small except in the tail; the power is 1
    for all other scores. Its last knot is at `GUARD_CEILING` of the frames, so that no promise
    raises its limit beyond that.
    """

    knots: Columns
    shares: Columns
    powers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, reference: Columns, powers: Mapping[str, float] | None = None) -> RankFamily:
        """
        Fit ranks to reference frames, float64 (n,) by score; NaN and inf are left out.

        `powers` are those of guards; a score gets at most `MOST_KNOTS` knots. Raises
        CalibrationError if a score has fewer than `FEWEST_VALUES` different values above 0.
        """
        guards = powers or {}
        pairs = {name: _knots(name, values, GUARD_CEILING if name in guards else 1.0)
                 for name, values in reference.items()}
        return cls({name: pair[0] for name, pair in pairs.items()},
                   {name: pair[1] for name, pair in pairs.items()}, dict(powers or {}))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that have ranks."""
        return tuple(self.knots)

    def ranks(self, name: str, values: Column) -> Column:
        """
        Return the ranks of values of a score, both float64 (n,); they grow with the values.

        A rank is the share of reference frames below, linear between knots, raised to the score's
        power. Beyond the last knot it is the value divided by that knot, above 1. It is infinite
        for a value that is not finite.
        """
        knots = self.knots[name]
        inside = np.interp(values, [0.0, *knots], [0.0, *self.shares[name]])
        ranks = np.where(values > knots[-1], values / knots[-1], inside ** self._power(name))
        return np.where(np.isfinite(values), ranks, np.inf)

    def frame_ranks(self, scores: Columns, names: Collection[str]) -> Column:
        """Return the largest rank of each frame among some scores, (n,)."""
        return np.max([self.ranks(name, scores[name]) for name in names], axis=0)

    def limits(self, rank: float, names: Collection[str]) -> dict[str, float]:
        """
        Return the threshold of each of these scores, in (0, 1), at a rank above 0.

        Up to rounding, a frame is within all of them if its rank is at most `rank`.
        """
        return {name: self._limit(rank, name) for name in names}

    def only(self, names: Collection[str]) -> RankFamily:
        """Return the family restricted to some scores."""
        return RankFamily({n: self.knots[n] for n in names}, {n: self.shares[n] for n in names},
                          {n: p for n, p in self.powers.items() if n in names})

    def to_facts(self) -> dict[str, object]:
        """Return the family as plain lists, for `from_facts`."""
        return {'knots': {n: v.tolist() for n, v in self.knots.items()},
                'shares': {n: v.tolist() for n, v in self.shares.items()},
                'powers': dict(self.powers)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> RankFamily:
        """Build a family from lists; CalibrationError if they do not increase or do not match."""
        knots, shares = ({n: np.array(v, np.float64) for n, v in facts[key].items()}
                         for key in ('knots', 'shares'))
        for name, values in knots.items():
            given = shares.get(name, np.empty(0))
            if values.shape != given.shape or not values.size or (np.diff(values) <= 0).any() \
                    or (np.diff(given) <= 0).any() or not values[0] > 0 or given[-1] != 1:
                raise CalibrationError(f'the ranks of {name!r} are not increasing',
                                       'what calibrate wrote', 'calibrate the bundle again')
        return cls(knots, shares, {n: float(p) for n, p in facts['powers'].items()})

    def _power(self, name: str) -> float:
        return self.powers.get(name, 1.0)

    def _limit(self, rank: float, name: str) -> float:
        knots = self.knots[name]
        if rank > 1:
            return min(rank * float(knots[-1]), HIGHEST_LIMIT)
        share = rank ** (1 / self._power(name))
        inside = float(np.interp(share, [0.0, *self.shares[name]], [0.0, *knots]))
        return min(max(inside, LOWEST_LIMIT), HIGHEST_LIMIT)


def _knots(name: str, values: Column, ceiling: float) -> tuple[Column, Column]:
    if not has_ranks(values):
        raise CalibrationError(f'score {name!r} hardly ever changes',
                               f'at least {FEWEST_VALUES} different values above 0',
                               'leave it out, or take more frames')
    finite = np.sort(values[np.isfinite(values)])
    knots, counts = np.unique(finite, return_counts=True)
    shares = np.cumsum(counts) / len(finite)
    picked = np.unique(np.searchsorted(shares, np.linspace(0, 1, MOST_KNOTS) - 1e-12))
    # A knot at 0 would give frames with the score 0 a rank above 0.
    picked = picked[knots[picked] > 0]
    knots, shares = knots[picked], shares[picked]
    if ceiling == 1:
        return knots, shares
    last = float(np.interp(ceiling, shares, knots))
    below = (knots < last) & (shares < ceiling)
    return np.append(knots[below], last), np.append(shares[below] / ceiling, 1.0)


def has_ranks(values: Column) -> bool:
    """Return whether a score varies enough to have a threshold; see `RankFamily`."""
    return len(np.unique(values[np.isfinite(values) & (values > 0)])) >= FEWEST_VALUES
