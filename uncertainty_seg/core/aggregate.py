# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a map to a number a frame, by the values alone: where they lie is `region_scores`'.

A mean sees that the whole image is unsure and hides a small region; the mean of the top share
sees the region and says nothing of the rest. Each score is named ``<map>.<aggregate>``, grows
with uncertainty and, since the maps do, lies in 0..1.

Every function takes an optional ``ignore`` (h, w), True where a pixel is left out: a hull in
view, a vignette. NaN in a pixel that is left out does no harm; in any other it makes the score
NaN. A frame of which everything is left out has NaN for a score: nothing is known of it.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, require_shape
from uncertainty_seg.core.region_scores import worst_window_score
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ShapeError

SCORED_MAPS = ('entropy', 'mutual_information')
TOP_SHARE = 0.05
QUANTILE = 0.95

Ignore = NDArray[np.bool_] | None


def kept_values(values: FloatMap, ignore: Ignore = None) -> FloatMap:
    """
    Return the pixels that count, as one line (n,).

    Raises
    ------
    ShapeError
        If the mask is not of the map's size.

    """
    if ignore is None:
        return values.ravel()
    require_shape('ignore mask', ignore, values.shape, np.bool_)
    return values[~ignore]


def value_sum(flat: FloatMap) -> float:
    """Add the values of a line in float64; not finite if one is not, NaN if there is none."""
    # Several times as fast as numpy, which converts first.
    return float(cv2.sumElems(flat.reshape(1, -1))[0]) if flat.size else float('nan')


def mean_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the mean of the pixels that count; NaN if any is NaN, or none counts."""
    kept = kept_values(values, ignore)
    return value_sum(kept) / kept.size if kept.size else float('nan')


def sum_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the sum over the pixels that count, as a share of the pixels of the frame."""
    kept = kept_values(values, ignore)
    return value_sum(kept) / values.size if kept.size else float('nan')


def max_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the largest value that counts; NaN if any is NaN, or none counts."""
    kept = kept_values(values, ignore)
    return float(kept.max()) if kept.size else float('nan')


def quantile_score(values: FloatMap, share: float = QUANTILE, ignore: Ignore = None) -> float:
    """
    Find the value that a share of the pixels does not exceed.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        In (0, 1].
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        A value of the map, the smallest of its top; NaN if any pixel that counts is NaN.

    """
    kept = kept_values(values, ignore)
    return top_values(kept, [top_count(round(1 - share, 9), kept.size)])[0][1]


def top_score(values: FloatMap, share: float = TOP_SHARE, ignore: Ignore = None) -> float:
    """
    Average the most uncertain pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Part of the pixels that counts, in (0, 1].
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        Their mean, NaN if any pixel that counts is NaN.

    """
    kept = kept_values(values, ignore)
    return top_values(kept, [top_count(share, kept.size)])[0][0]


def foreground_top_score(values: FloatMap, share: float, ignore: Ignore = None) -> float:
    """Average as many of the top pixels as the share of foreground says; 0 if there is none."""
    kept = kept_values(values, ignore)
    count = round(share * kept.size)
    if count < 1:
        return 0.0 * max_score(values, ignore)
    return top_values(kept, [count])[0][0]


def area_above_score(values: FloatMap, limit: float, ignore: Ignore = None) -> float:
    """Return the share of the pixels that count that lie above a limit; NaN if any is NaN."""
    kept = kept_values(values, ignore)
    if not kept.size or np.isnan(kept.max()):
        return float('nan')
    return int(np.count_nonzero(kept > np.float32(limit))) / kept.size


def top_count(share: float, size: int) -> int:
    """Return how many of `size` pixels are a share, at least 1."""
    return max(1, round(share * size))


def top_values(flat: FloatMap, counts: Sequence[int]) -> list[tuple[float, float]]:
    """
    Average the largest values of a line without sorting it, for several counts at once.

    Parameters
    ----------
    flat : ndarray of float32, shape (n,)
        Values.
    counts : sequence of int
        How many, 1..n each.

    Returns
    -------
    list of (float, float)
        For each count the mean of so many largest, and the smallest of these; NaN if any value
        is NaN, or there is none.

    """
    if not flat.size or np.isnan(flat.max()):
        return [(float('nan'), float('nan'))] * len(counts)
    found, rest = {}, flat
    # One at a time, each among the rest of the one before: numpy selects several slowly.
    for count in sorted(set(counts), reverse=True):
        rest = np.partition(rest, rest.size - count)[rest.size - count:]
        found[count] = value_sum(rest) / count, float(rest[0])
    return [found[count] for count in counts]


_AGGREGATES: dict[str, Callable[[FloatMap], float]] = {
    'mean': mean_score,
    'top': top_score,
    'worst_window': worst_window_score,
}


def score_names() -> tuple[str, ...]:
    """Return the names of the six scores that every frame has, in a fixed order."""
    return tuple(f'{name}.{aggregate}' for name in SCORED_MAPS for aggregate in _AGGREGATES)


def frame_scores(maps: UncertaintyMaps) -> dict[str, float]:
    """
    Compute the scores that need nothing but the maps.

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
