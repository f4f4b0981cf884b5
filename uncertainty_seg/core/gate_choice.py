# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Many thresholds moved by one number, and which scores are worth a threshold.

A promise needs one knob that makes the gate stricter. Here it is the rank: how large a share of
the reference frames a score exceeds. Each threshold is the same rank of its own score, so that no
score counts for more because its unit is larger; a frame's rank is the largest of its scores'.
Reference frames and choice come from data that the promise is not made on.

"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.selective import aurc
from uncertainty_seg.errors import CalibrationError

Column = NDArray[np.float64]
Columns = Mapping[str, Column]
# A threshold on a score that hardly ever moves would be no knob.
FEWEST_VALUES = 20
# A score has to take this share off the area under risk and coverage to be added.
SMALLEST_GAIN = 0.02
MOST_KNOTS = 101
# A guard watches for what bad reference frames do not show, so that a promise about these must not
# loosen it: what exceeds this share of the reference frames is refused at every alpha.
GUARD_CEILING = 0.98
# The largest limit that a score in 0..1 can still exceed, and the least that is above 0.
HIGHEST_LIMIT, LOWEST_LIMIT = 1 - 2.0**-24, 2.0**-126


@dataclass(frozen=True)
class RankFamily:
    """
    The ranks of scores among reference frames.

    Attributes
    ----------
    knots : mapping of str to ndarray of float64, shape (k,)
        Of each score, its values at growing shares of the reference frames, strictly growing.
    shares : mapping of str to ndarray of float64, shape (k,)
        These shares; the last is 1.
    powers : mapping of str to float
        A *guard* is a score that says nothing of most frames and a lot of a few. Its rank is
        raised to this power, which leaves it small but in the tail; 1 for all others. Its last
        knot is at `GUARD_CEILING` of the frames, so that no promise lifts its limit above.

    """

    knots: Columns
    shares: Columns
    powers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, reference: Columns, powers: Mapping[str, float] | None = None) -> RankFamily:
        """
        Take the ranks among frames.

        Parameters
        ----------
        reference : mapping of str to ndarray of float64, shape (n,)
            Scores of frames the network was made for. Values that are not finite are left out.
        powers : mapping of str to float, optional
            Of guards.

        Returns
        -------
        RankFamily
            With at most `MOST_KNOTS` knots a score.

        Raises
        ------
        CalibrationError
            If a score has fewer than `FEWEST_VALUES` different values above 0.

        """
        guards = powers or {}
        pairs = {name: _knots(name, values, GUARD_CEILING if name in guards else 1.0)
                 for name, values in reference.items()}
        return cls({name: pair[0] for name, pair in pairs.items()},
                   {name: pair[1] for name, pair in pairs.items()}, dict(powers or {}))

    @property
    def names(self) -> tuple[str, ...]:
        """Scores that have ranks."""
        return tuple(self.knots)

    def ranks(self, name: str, values: Column) -> Column:
        """
        Return the rank of each value.

        Parameters
        ----------
        name : str
            A score.
        values : ndarray of float64, shape (n,)
            Its values; growing, and so are the ranks.

        Returns
        -------
        ndarray of float64, shape (n,)
            The share of reference frames below, linear between knots, to the score's power;
            beyond the last knot the ratio to it, above 1. Infinite for what is not finite.

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
        Return the threshold of each score at a rank.

        Parameters
        ----------
        rank : float
            Above 0.
        names : collection of str
            Which scores.

        Returns
        -------
        dict of str to float
            Above 0 and below 1. A frame is within all of them if its rank is at most `rank`, but
            for the last digits of a float.

        """
        return {name: self._limit(rank, name) for name in names}

    def only(self, names: Collection[str]) -> RankFamily:
        """Return the family of some of the scores."""
        return RankFamily({n: self.knots[n] for n in names}, {n: self.shares[n] for n in names},
                          {n: p for n, p in self.powers.items() if n in names})

    def to_facts(self) -> dict[str, object]:
        """Return what `from_facts` reads, as plain lists."""
        return {'knots': {n: v.tolist() for n, v in self.knots.items()},
                'shares': {n: v.tolist() for n, v in self.shares.items()},
                'powers': dict(self.powers)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> RankFamily:
        """
        Build a family from plain lists.

        Raises
        ------
        CalibrationError
            If knots or shares do not grow, or do not belong together.

        """
        knots, shares = ({n: np.array(v, np.float64) for n, v in facts[key].items()}
                         for key in ('knots', 'shares'))
        for name, values in knots.items():
            given = shares.get(name, np.empty(0))
            if values.shape != given.shape or not values.size or (np.diff(values) <= 0).any() \
                    or (np.diff(given) <= 0).any() or not values[0] > 0 or given[-1] != 1:
                raise CalibrationError(f'the ranks of {name!r} do not grow',
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
    # A knot at 0 would give every frame of 0 a rank of its own.
    picked = picked[knots[picked] > 0]
    knots, shares = knots[picked], shares[picked]
    if ceiling == 1:
        return knots, shares
    last = float(np.interp(ceiling, shares, knots))
    below = (knots < last) & (shares < ceiling)
    return np.append(knots[below], last), np.append(shares[below] / ceiling, 1.0)


def has_ranks(values: Column) -> bool:
    """Say whether a score moves enough to have a threshold; see `RankFamily`."""
    return len(np.unique(values[np.isfinite(values) & (values > 0)])) >= FEWEST_VALUES


def choose_scores(
    family: RankFamily, scores: Columns, losses: Column, required: Sequence[str] = (),
    most: int = 4,
) -> tuple[str, ...]:
    """
    Choose the scores of a gate by the area under its curve of risk and coverage.

    Parameters
    ----------
    family : RankFamily
        Its names are the candidates.
    scores : mapping of str to ndarray, shape (n,)
        Frames that nothing else is promised on.
    losses : ndarray of float64, shape (n,)
        What it costs to accept each frame, 0..1.
    required : sequence of str
        Scores that are taken in any case, first.
    most : int
        Scores, at most.

    Returns
    -------
    tuple of str
        The required ones, then one after the other that which lowers the area most, as long as
        it takes `SMALLEST_GAIN` of it away.

    Raises
    ------
    CalibrationError
        If all losses are equal: no score is then better than another.

    """
    if np.ptp(losses) == 0:
        raise CalibrationError(
            f'all {len(losses)} frames to choose scores on are '
            f'{"bad" if losses[:1].any() else "good"}', 'some of each',
            'give --bad a rule that some frames break, or name the scores with --scores')
    columns = {name: family.ranks(name, scores[name]) for name in family.names}
    chosen = list(required)
    while len(chosen) < most:
        areas = {
            name: aurc(np.max([columns[n] for n in (*chosen, name)], axis=0), losses)
            for name in columns if name not in chosen
        }
        if not areas:
            break
        best = min(areas, key=lambda name: areas[name])
        now = aurc(np.max([columns[n] for n in chosen], axis=0), losses) if chosen else np.inf
        if areas[best] > now * (1 - SMALLEST_GAIN):
            break
        chosen.append(best)
    return tuple(chosen)
