# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far the scores of the first passes lie from those of all T, and when that settles a verdict.

A frame far from every limit needs no more passes: its verdict will not change. How far is far was
measured on frames: after each *step*, a number of passes below T, the logarithm of a score over
that of all T passes has a centre, which corrects the bias (that of mutual information is about
1 - 1/t), and a spread. One radius, in spreads, holds for all scores at all steps at once, so that
looking at each step costs nothing of the stated error.

"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import CalibrationError

# Of the limit of a score, added before the logarithm: a score of 0 has none.
OFFSET_SHARE = 0.05
# Of a logarithm. A score of the features hardly ever moves, and then by a jump: without a least
# spread one such frame would make the radius of all scores endless.
LEAST_SPREAD = 0.01
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
    offsets : mapping of str to float
        Of each score, what is added before the logarithm, above 0.
    centres, spreads : mapping of str to tuple of float
        Of each score, one number a step.
    radius : float
        In spreads: with a probability of at least 1 - `error`, all scores of a frame lie within,
        at all steps.
    error : float
        Stated probability that they do not, and so the largest with which a verdict that is
        settled early is another than that of T passes; for frames that are like those it was
        measured on, and exchangeable with them.
    num_frames : int
        Frames of the radius; as many again gave centres and spreads.

    References
    ----------
    Split conformal prediction: Lei et al., 2018, doi:10.1080/01621459.2017.1307116.

    """

    steps: tuple[int, ...]
    passes: int
    offsets: Mapping[str, float]
    centres: Mapping[str, tuple[float, ...]]
    spreads: Mapping[str, tuple[float, ...]]
    radius: float
    error: float
    num_frames: int

    def __post_init__(self) -> None:
        """Refuse what cannot have been measured."""
        grows = [*self.steps, self.passes]
        if not self.steps or grows[0] < 1 or any(a >= b for a, b in zip(grows, grows[1:],
                                                                       strict=False)):
            raise CalibrationError(f'steps of {grows} passes', 'growing numbers of 1 or more',
                                   _FIX)
        numbers = [self.radius, *self.offsets.values(),
                   *(v for of in (*self.centres.values(), *self.spreads.values()) for v in of)]
        fits = all(len(of.get(name, ())) == len(self.steps) for name in self.offsets
                   for of in (self.centres, self.spreads))
        is_positive = self.radius > 0 and all(
            v > 0 for v in (*self.offsets.values(),
                            *(v for of in self.spreads.values() for v in of)))
        if not fits or not is_positive or not all(map(math.isfinite, numbers)) \
                or not 0 < self.error < 1:
            raise CalibrationError('steps of passes whose numbers do not fit together',
                                   'what calibrate-passes wrote', _FIX)

    @classmethod
    def fit(
        cls, table: Mapping[str, NDArray[np.float64]], steps: Sequence[int], passes: int,
        limits: Mapping[str, float], error: float,
    ) -> PassSteps:
        """
        Measure centres and spreads on every second frame, and the radius on the others.

        Parameters
        ----------
        table : mapping of str to ndarray of float64, shape (n, k + 1)
            Of each score, its value in each frame after each step, and after all passes.
        steps : sequence of int
            The k steps.
        passes : int
            T.
        limits : mapping of str to float
            Of each score in the table.
        error : float
            Stated error, in (0, 1).

        Returns
        -------
        PassSteps
            With as many steps.

        Raises
        ------
        CalibrationError
            If there are too few frames for the error, or a value is not finite.

        """
        if not all(np.isfinite(values).all() for values in table.values()):
            raise CalibrationError('scores that are not finite', 'finite scores of every frame',
                                   'leave such frames out')
        num_frames = min(map(len, table.values()))
        half = num_frames // 2
        rank = math.ceil(round((half + 1) * (1 - error), 9))
        if rank > half:
            raise CalibrationError(
                f'{num_frames} frames for an error of {error:g}',
                f'at least {frames_needed(error)}', 'take more frames, or a larger --error')
        offsets = {name: OFFSET_SHARE * limits[name] for name in table}
        moves = {name: _moves(values, offsets[name]) for name, values in table.items()}
        centres = {name: np.median(of[::2], axis=0) for name, of in moves.items()}
        distances = {name: np.abs(of - centres[name]) for name, of in moves.items()}
        spreads = {name: np.maximum(np.quantile(of[::2], 1 - error, axis=0), LEAST_SPREAD)
                   for name, of in distances.items()}
        joint = np.max([of[1::2] / spreads[name] for name, of in distances.items()], axis=(0, 2))
        radius = max(float(np.sort(joint)[rank - 1]), LEAST_SPREAD)
        return cls(tuple(steps), passes, offsets, _tuples(centres), _tuples(spreads), radius,
                   error, len(joint))

    def expected(self, scores: Mapping[str, float], step: int) -> dict[str, float]:
        """
        Return the scores with the bias of a step taken out, where it was measured.

        `scores` are those after ``steps[step]`` passes; NaN stays NaN, and none is below 0.
        """
        found = dict(scores)
        for name, offset in self.offsets.items():
            if name in found:
                grown = (found[name] + offset) * math.exp(self.centres[name][step]) - offset
                found[name] = max(grown, 0.0) if not math.isnan(grown) else grown
        return found

    def is_settled(
        self, expected: Mapping[str, float], step: int, limits: Mapping[str, float],
        rise_ratio: float,
    ) -> bool:
        """
        Say whether more passes would change what the gate makes of a frame.

        Settled is a frame of which one score stays above its limit, or all stay below `rise_ratio`
        of it, wherever within the radius they lie. Never so if a score has no limit that was
        measured, or is not finite, or there is no limit.

        Parameters
        ----------
        expected : mapping of str to float
            From `expected`.
        step : int
            Index of the step.
        limits : mapping of str to float
            In force; of each gated score.
        rise_ratio : float
            In (0, 1]: the part of its limit below which a score counts towards the flag.

        Returns
        -------
        bool
            True if not.

        """
        if not limits or not set(limits) <= set(self.offsets) or not all(
                math.isfinite(expected.get(name, math.nan)) for name in limits):
            return False
        ranges = {name: self._range(name, expected[name], step) for name in limits}
        stays_bad = any(low > limits[name] for name, (low, _) in ranges.items())
        stays_good = all(high <= rise_ratio * limits[name] for name, (_, high) in ranges.items())
        return stays_bad or stays_good

    def _range(self, name: str, value: float, step: int) -> tuple[float, float]:
        offset, reach = self.offsets[name], self.radius * self.spreads[name][step]
        return ((value + offset) * math.exp(-reach) - offset,
                (value + offset) * math.exp(min(reach, 700.0)) - offset)


def _moves(values: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    logs = np.log(values + offset)
    return np.asarray(logs[:, -1:] - logs[:, :-1])


def _tuples(of: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values.tolist()) for name, values in of.items()}


def frames_needed(error: float) -> int:
    """Return the least number of frames for a stated error in (0, 1)."""
    return 2 * math.ceil(round(1 / error - 1, 9))


def default_steps(passes: int) -> tuple[int, ...]:
    """Return where a verdict of T passes is looked at: after a quarter and half of them."""
    return tuple(sorted({step for step in (passes // 4, passes // 2) if 0 < step < passes}))


def steps_from_facts(facts: Mapping[str, Any]) -> PassSteps:
    """Build steps from what JSON gives; raises CalibrationError, KeyError or TypeError."""
    rows = {key: {name: tuple(map(float, of)) for name, of in facts[key].items()}
            for key in ('centres', 'spreads')}
    return PassSteps(**{**facts, 'steps': tuple(facts['steps']), **rows})


def covers(steps: PassSteps, names: Collection[str]) -> bool:
    """Say whether all these scores were measured."""
    return set(names) <= set(steps.offsets)
