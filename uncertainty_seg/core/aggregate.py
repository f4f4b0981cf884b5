# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a map to a few numbers a frame: mean, top-q mean and worst window.

A mean sees that the whole image is unsure and hides a small region; the worst window sees the
region and hides the haze; the mean of the top q lies between. Each score is named
``<map>.<aggregate>`` and grows with uncertainty.

"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from uncertainty_seg.core.arrays import FloatMap
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ShapeError

SCORED_MAPS = ('entropy', 'mutual_information')
TOP_SHARE = 0.05
WINDOW_SHARE = 0.15
# Every scored map is normalised, so that a limit of 1 or more would judge nothing.
HIGHEST_SCORE = 1.0


def mean_score(values: FloatMap) -> float:
    """Return the mean of a map; NaN if any pixel is NaN."""
    return float(values.mean(dtype=np.float64))


def top_score(values: FloatMap, share: float = TOP_SHARE) -> float:
    """
    Average the most uncertain pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Part of the pixels that counts, in (0, 1].

    Returns
    -------
    float
        Their mean, NaN if any pixel is NaN.

    """
    flat = values.ravel()
    count = max(1, round(share * flat.size))
    # NaN sorts above every number, so that it is among the top and makes their mean NaN.
    return float(np.partition(flat, flat.size - count)[-count:].mean(dtype=np.float64))


def worst_window_score(values: FloatMap, share: float = WINDOW_SHARE) -> float:
    """
    Find the square window with the largest mean.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Side of the window as part of the shorter side.

    Returns
    -------
    float
        The largest box mean, NaN if any pixel is NaN. By an integral image, so that its cost
        does not depend on the window.

    """
    side = max(1, round(share * min(values.shape)))
    integral = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(values, axis=0, dtype=np.float64, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
    boxes = integral[side:, side:] - integral[:-side, side:]
    boxes -= integral[side:, :-side] - integral[:-side, :-side]
    # A NaN makes every later sum of the integral image NaN, and max passes it on.
    return float(boxes.max() / side**2)


_AGGREGATES: dict[str, Callable[[FloatMap], float]] = {
    'mean': mean_score,
    'top': top_score,
    'worst_window': worst_window_score,
}


def score_names() -> tuple[str, ...]:
    """Return the name of every score, in a fixed order."""
    return tuple(f'{name}.{aggregate}' for name in SCORED_MAPS for aggregate in _AGGREGATES)


def frame_scores(maps: UncertaintyMaps) -> dict[str, float]:
    """
    Compute every score of a frame.

    Parameters
    ----------
    maps : UncertaintyMaps
        Already cut to the image, without padding.

    Returns
    -------
    dict of str to float
        In the order of `score_names`; NaN where a map holds one.

    Raises
    ------
    ShapeError
        If the maps are empty.

    """
    if maps.entropy.size == 0:
        raise ShapeError('maps without a pixel', 'at least 1x1')
    return {
        f'{name}.{aggregate}': function(getattr(maps, name))
        for name in SCORED_MAPS
        for aggregate, function in _AGGREGATES.items()
    }
