# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds of several scores controlled by one number, the rank.

A promise needs one parameter that makes the gate stricter. The rank of a frame is its score over
the largest of the training frames; with several scores, the largest such ratio. A guard (see
`core.gate.GUARDS`) detects what bad frames of the calibration do not show, so no promise about
these may loosen it: its threshold is fixed by the training frames, and a frame above it has an
infinite rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uncertainty_seg.core.arrays import Column, Columns
from uncertainty_seg.core.gate import GUARDS
from uncertainty_seg.errors import CalibrationError

# The rank of the training frame with the largest score.
HIGHEST_RANK = 1.0
# The largest limit that a score in 0..1 can still exceed, and the smallest above 0.
HIGHEST_LIMIT, LOWEST_LIMIT = 1 - 2.0**-24, 2.0**-126


@dataclass(frozen=True)
class GateScale:
    """
    The unit of each score of a gate: its largest value among training frames.

    For the scores in `guards` it is their fixed threshold. If a gate has only guards, none is
    treated as one.
    """

    units: Mapping[str, float]
    guards: frozenset[str]

    @classmethod
    def fit(cls, train: Columns, names: Sequence[str]) -> GateScale:
        """
        Fit the scale of some scores to training frames, float64 (n,) by score.

        Frames whose score is not finite are left out. Raises CalibrationError if none is finite
        and above 0.
        """
        guards = frozenset(name for name in names if name in GUARDS)
        guards = guards if len(guards) < len(names) else frozenset()
        return cls({name: _unit(name, train[name], name in guards) for name in names}, guards)

    def ranks(self, scores: Columns) -> Column:
        """Return the rank of each frame, (n,); infinite if a guard refuses it or for NaN."""
        ratios = [np.where(scores[name] <= unit, 0.0, np.inf) if name in self.guards
                  else scores[name] / unit for name, unit in self.units.items()]
        found = np.max(ratios, axis=0)
        return np.where(np.isfinite(found), found, np.inf)

    def limits(self, rank: float) -> dict[str, float]:
        """
        Return the threshold of each score, in (0, 1), at a rank above 0.

        Up to rounding, a frame is within all of them if its rank is at most `rank`.
        """
        return {name: min(max(unit * (1.0 if name in self.guards else rank), LOWEST_LIMIT),
                          HIGHEST_LIMIT)
                for name, unit in self.units.items()}


def _unit(name: str, values: Column, is_guarding: bool) -> float:
    finite = values[np.isfinite(values)]
    if not (finite > 0).any():
        raise CalibrationError(
            f'the score {name!r} is 0 or no number in all {len(values)} training frames',
            'a score that varies', 'name other scores, or look at the training frames')
    if is_guarding:
        return float(np.quantile(finite, GUARDS[name], method='higher'))
    return float(finite.max())
