# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose which scores are worth a threshold in the gate.

The choice is made on data that the promise is not made on.

"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uncertainty_seg.analysis.selective import aurc
from uncertainty_seg.core.calibration import Column, Columns, RankFamily
from uncertainty_seg.errors import CalibrationError

# A score has to take this share off the area under risk and coverage to be added.
SMALLEST_GAIN = 0.02


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
