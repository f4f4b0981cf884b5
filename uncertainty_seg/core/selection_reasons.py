# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The sentence that says why a frame was chosen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.near_duplicates import bits_apart
from uncertainty_seg.core.selection_pool import Candidates

# Rows compared with all before them at once.
_REASONS_BLOCK = 256


def reason(
    why: str, score_name: str, score: float, rank: float, count: int, gap: str, stands_for: int
) -> str:
    """
    Join what is known of a chosen frame to one sentence.

    Parameters
    ----------
    why : str
        What the strategy says.
    score_name : str
        What the score is called.
    score, rank : float
        Its value, and the share of the frames that it exceeds.
    count : int
        Frames it was compared with.
    gap : str
        How far it is from what was chosen before; empty for nothing to say.
    stands_for : int
        Frames that look like it.

    Returns
    -------
    str
        With a full stop.

    """
    value = f'{score_name} {score:.4g}' if math.isfinite(score) else f'no {score_name}'
    # Rounded down: nothing is above all frames, itself among them.
    above = '' if math.isnan(rank) else \
        f', above {math.floor(1e4 * rank) / 100:g} % of {count} frames'
    alike = 'no other frame looks like it' if not stands_for else \
        f'it stands for {stands_for} near duplicate{"s" if stands_for > 1 else ""}'
    return '; '.join(part for part in (why, value + above, gap, alike) if part) + '.'


def nearest_before(chosen: Candidates) -> list[str]:
    """
    Say of every chosen frame how far it is from the nearest one that was chosen before it.

    Parameters
    ----------
    chosen : Candidates
        In the order they were chosen, n of them.

    Returns
    -------
    list of str
        n texts: in the unit of the features, else in bits of the hash; empty for the first one
        and where there is neither.

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
