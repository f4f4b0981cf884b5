# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far the scores of the first passes lie from those of all T, and when that settles a verdict.

A frame far from every limit needs no more passes: its verdict will not change. How far is far was
measured on frames: after each *step*, a number of passes below T, the logarithm of a score over
that of all T passes has a centre, which corrects the bias (that of mutual information is about
1 - 1/t), and a spread. A verdict counts as settled where no score within one radius, in spreads,
would give another. The radius is the smallest at which the verdicts of new frames differ from
those of T passes at most as often as stated.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import CalibrationError

Values = NDArray[np.float64]

# Of the limit of a score, added before the logarithm: a score of 0 has none.
OFFSET_SHARE = 0.05
# Of a step and score, the share of frames whose distance is one spread; and the least, as a
# logarithm: a score that hardly ever moves, and then by a jump, has none.
SPREAD_QUANTILE, LEAST_SPREAD = 0.9, 0.01
# Tried one after the other; at the last nothing is ever settled.
_RADII = (*np.arange(0, 10, 0.05).tolist(), 1e6)
_LARGEST_LOG = 700.0  # of a float64
_FIX = 'run uncertainty_seg calibrate-passes again'


@dataclass(frozen=True)
class PassSteps:
    """
    What scores after some of the passes say of those after all of them.

    Attributes
    ----------
    steps : tuple of int
        Passes after which a verdict may be settled; growing, below T.
    passes : int
        T.
    limits : mapping of str to float
        Of each gated score, the limit that all of this was measured for.
    rise_ratio : float
        The part of the way to its limit below which a score counts towards the flag, in (0, 1].
    centres, spreads : mapping of str to tuple of float
        Of each score, one number a step.
    radius : float
        In spreads.
    error : float
        Stated probability that a frame gets another verdict than T passes would give it (over a
        limit, good enough to raise the flag, or between), for frames that are like those it was
        measured on, and exchangeable with them.
    num_frames : int
        Frames that the radius was chosen on; as many others gave centres and spreads.
    floors : mapping of str to float
        Of each score, where that way begins; 0 for one that has none.

    References
    ----------
    Conformal risk control: Angelopoulos et al., 2022, arXiv:2208.02814, with the loss made
    monotone in the radius.

    """

    steps: tuple[int, ...]
    passes: int
    limits: Mapping[str, float]
    rise_ratio: float
    centres: Mapping[str, tuple[float, ...]]
    spreads: Mapping[str, tuple[float, ...]]
    radius: float
    error: float
    num_frames: int
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot have been measured."""
        if not self.steps or not grow([0, *self.steps, self.passes]):
            raise CalibrationError(f'steps of {[*self.steps, self.passes]} passes',
                                   'growing numbers of 1 or more', _FIX)
        rows = [of.get(name, ()) for name in self.limits for of in (self.centres, self.spreads)]
        positive = [*self.limits.values(), *(v for of in self.spreads.values() for v in of)]
        numbers = [self.radius, *positive, *(v for of in self.centres.values() for v in of),
                   *self.floors.values()]
        is_fit = (bool(self.limits) and all(len(row) == len(self.steps) for row in rows)
                  and all(map(math.isfinite, numbers)) and all(v > 0 for v in positive)
                  and self.radius >= 0 and 0 < self.error < 1 and 0 < self.rise_ratio <= 1)
        if not is_fit:
            raise CalibrationError('steps of passes whose numbers do not fit together',
                                   'what calibrate-passes wrote', _FIX)

    @classmethod
    def fit(
        cls, table: Mapping[str, Values], steps: Sequence[int], passes: int,
        limits: Mapping[str, float], rise_ratio: float, error: float,
        floors: Mapping[str, float] | None = None,
    ) -> PassSteps:
        """
        Measure centres and spreads on every second frame, and choose the radius on the others.

        Parameters
        ----------
        table : mapping of str to ndarray of float64, shape (n, k + 1)
            Of each gated score, its value in each frame after each step, and after all passes.
        steps : sequence of int
            The k steps.
        passes : int
            T.
        limits : mapping of str to float
            Of each score in the table.
        rise_ratio : float
            As the gate has it.
        error : float
            Stated error, in (0, 1).
        floors : mapping of str to float, optional
            As the gate has them; those of other scores are left out.

        Returns
        -------
        PassSteps
            With as many steps.

        Raises
        ------
        CalibrationError
            If there are too few frames for the error, or a value is not finite.

        """
        num_frames = min(map(len, table.values()))
        if num_frames < frames_needed(error):
            raise CalibrationError(f'{num_frames} frames for an error of {error:g}',
                                   f'at least {frames_needed(error)}',
                                   'take more frames, or a larger --error')
        if not all(np.isfinite(values).all() for values in table.values()):
            raise CalibrationError('scores that are not finite', 'finite scores of every frame',
                                   'leave such frames out')
        moves = {name: _moves(of[::2], OFFSET_SHARE * limits[name]) for name, of in table.items()}
        centres = {name: np.median(of, axis=0) for name, of in moves.items()}
        spreads = {name: np.maximum(np.quantile(np.abs(of - centres[name]), SPREAD_QUANTILE,
                                                axis=0), LEAST_SPREAD)
                   for name, of in moves.items()}
        found = cls(tuple(steps), passes, dict(limits), rise_ratio, _tuples(centres),
                    _tuples(spreads), _RADII[-1], error, num_frames // 2,
                    _of_these(floors or {}, limits))
        return replace(found, radius=found._chosen({n: of[1::2] for n, of in table.items()}))

    def _chosen(self, table: Mapping[str, Values]) -> float:
        """Return the smallest radius that keeps the error on these and one more frame."""
        chosen, ever_wrong = _RADII[-1], np.zeros(len(next(iter(table.values()))), np.bool_)
        for radius in reversed(_RADII):
            ever_wrong |= ~replace(self, radius=radius).simulated(table)[0]
            if (np.count_nonzero(ever_wrong) + 1) / (len(ever_wrong) + 1) > self.error + 1e-12:
                break
            chosen = radius
        return chosen

    def simulated(self, table: Mapping[str, Values]) -> tuple[NDArray[np.bool_], Values]:
        """
        Say of each frame of a table whether its verdict is that of T passes, and what it takes.

        `table` is as for `fit`; both results have the shape (n,).
        """
        last = self._kinds({name: of[:, -1] for name, of in table.items()})
        taken, kinds = np.full(len(last), float(self.passes)), last.copy()
        for step in reversed(range(len(self.steps))):  # the first that settles it counts
            scores = {name: self._without_bias(name, of[:, step], step)
                      for name, of in table.items()}
            settled = self._settled(scores, step)
            kinds[settled] = self._kinds(scores)[settled]
            taken[settled] = self.steps[step]
        return kinds == last, taken

    def expected(self, scores: Mapping[str, float], step: int) -> dict[str, float]:
        """
        Return the scores with the bias of a step taken out, where it was measured.

        `scores` are those after ``steps[step]`` passes; NaN stays NaN, and none is below 0.
        """
        return {name: float(self._without_bias(name, np.float64(value), step))
                if name in self.limits else value for name, value in scores.items()}

    def is_settled(self, expected: Mapping[str, float], step: int) -> bool:
        """
        Say whether more passes would change what the gate makes of a frame; True if not.

        Settled is a frame of which one score stays above its limit, or all stay below
        `rise_ratio` of the way to it, wherever within the radius they lie. Never so if a score is
        missing or not finite. `expected` is from the method of that name.
        """
        values = {name: np.float64(expected.get(name, math.nan)) for name in self.limits}
        if not all(map(math.isfinite, values.values())):
            return False
        return bool(self._settled(values, step))

    def is_for(
        self, limits: Mapping[str, float], rise_ratio: float, floors: Mapping[str, float]
    ) -> bool:
        """Say whether it was measured for these limits of the gate and what makes it rise."""
        return (rise_ratio == self.rise_ratio and set(limits) == set(self.limits)
                and _of_these(floors, limits) == self.floors
                and all(math.isclose(limit, self.limits[name], rel_tol=1e-9)
                        for name, limit in limits.items()))

    def _without_bias(self, name: str, value: Any, step: int) -> Any:
        offset = OFFSET_SHARE * self.limits[name]
        return np.maximum((value + offset) * math.exp(self.centres[name][step]) - offset, 0.0)

    def _settled(self, scores: Mapping[str, Any], step: int) -> Any:
        stays_good, stays_bad = True, False
        for name, limit in self.limits.items():
            offset, reach = OFFSET_SHARE * limit, self.radius * self.spreads[name][step]
            value = scores[name] + offset
            high = value * math.exp(min(reach, _LARGEST_LOG)) - offset
            stays_good = stays_good & (self._way(name, high) <= self.rise_ratio)
            stays_bad = stays_bad | (value * math.exp(-reach) - offset > limit)
        return stays_good | stays_bad

    def _kinds(self, scores: Mapping[str, Values]) -> NDArray[np.int64]:
        """Return 2 for a frame over a limit, 0 for one that is good, and 1 between."""
        ways = np.max([self._way(name, scores[name]) for name in self.limits], axis=0)
        over = np.any([scores[name] > limit for name, limit in self.limits.items()], axis=0)
        return np.asarray(np.where(over, 2, (ways > self.rise_ratio).astype(np.int64)))

    def _way(self, name: str, value: Any) -> Any:
        return way_to(value, self.limits[name], self.floors.get(name, 0.0))


def way_to(value: Any, limit: float, floor: float) -> Any:
    """
    Return how far a score has gone from a floor to its limit: 0 at the one and 1 at the other.

    A floor that is not below the limit counts as 0. `value` is a float or an array of them. For
    the same value and floor a larger limit is never nearer.
    """
    return (value - floor) / (limit - floor) if floor < limit else value / limit


def _of_these(floors: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    return {name: floors[name] for name in limits if name in floors}


def _moves(values: Values, offset: float) -> Values:
    logs = np.log(values + offset)
    return np.asarray(logs[:, -1:] - logs[:, :-1])


def _tuples(of: Mapping[str, Values]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values.tolist()) for name, values in of.items()}


def grow(numbers: Sequence[int]) -> bool:
    """Say whether each number is above the one before."""
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


def frames_needed(error: float) -> int:
    """Return the least number of frames for a stated error in (0, 1)."""
    return 2 * math.ceil(round(1 / error - 1, 9))


def default_steps(passes: int) -> tuple[int, ...]:
    """Return where a verdict of T passes is looked at: after a quarter and half of them."""
    return tuple(sorted({step for step in (passes // 4, passes // 2) if 0 < step < passes}))


def steps_to_facts(steps: PassSteps) -> dict[str, Any]:
    """Return what `steps_from_facts` reads; floors only where there are any."""
    facts = asdict(steps)
    return facts if steps.floors else {k: v for k, v in facts.items() if k != 'floors'}


def steps_from_facts(facts: Mapping[str, Any]) -> PassSteps:
    """Build steps from what JSON gives; raises CalibrationError, KeyError or TypeError."""
    rows = {key: {name: tuple(map(float, of)) for name, of in facts[key].items()}
            for key in ('centres', 'spreads')}
    floors = {name: float(of) for name, of in facts.get('floors', {}).items()}
    return PassSteps(**{**facts, 'steps': tuple(facts['steps']), **rows, 'floors': floors})
