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

from collections.abc import Callable

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
_BINS = 1024
_SMALL = 20_000

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


def mean_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the mean of the pixels that count; NaN if any is NaN, or none counts."""
    kept = kept_values(values, ignore)
    return float(kept.mean(dtype=np.float64)) if kept.size else float('nan')


def sum_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the sum over the pixels that count, as a share of the pixels of the frame."""
    kept = kept_values(values, ignore)
    return float(kept.sum(dtype=np.float64)) / values.size if kept.size else float('nan')


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
    return float(top_values(kept, _count(1 - share, kept.size))[1])


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
    return top_values(kept, _count(share, kept.size))[0]


def foreground_top_score(values: FloatMap, share: float, ignore: Ignore = None) -> float:
    """Average as many of the top pixels as the share of foreground says; 0 if there is none."""
    kept = kept_values(values, ignore)
    count = round(share * kept.size)
    if count < 1:
        return 0.0 * max_score(values, ignore)
    return top_values(kept, count)[0]


def area_above_score(values: FloatMap, limit: float, ignore: Ignore = None) -> float:
    """Return the share of the pixels that count that lie above a limit; NaN if any is NaN."""
    kept = kept_values(values, ignore)
    if not kept.size or np.isnan(kept.max()):
        return float('nan')
    return int(np.count_nonzero(kept > np.float32(limit))) / kept.size


def _count(share: float, size: int) -> int:
    return max(1, round(share * size))


def top_values(flat: FloatMap, count: int) -> tuple[float, float]:
    """
    Average the largest values of a line without sorting it.

    Parameters
    ----------
    flat : ndarray of float32, shape (n,)
        Values.
    count : int
        How many, 1..n.

    Returns
    -------
    mean : float
        Of the `count` largest; NaN if any value is NaN, or there is none.
    smallest : float
        Of these.

    """
    highest = float(flat.max()) if flat.size else float('nan')
    if not np.isfinite(highest):
        return (float('nan'), float('nan')) if np.isnan(highest) else (highest, highest)
    low, high = _bracket(flat, count, highest)
    above = flat >= high
    num_above = int(np.count_nonzero(above))
    between = flat[(flat >= low) & ~above]
    need = count - num_above
    if not 0 < need <= between.size:  # a value on the edge of a bin, by rounding
        between, need, num_above = flat, count, 0
    rest = np.partition(between, between.size - need)[-need:]
    total = float(rest.sum(dtype=np.float64))
    if num_above:
        total += float(flat[above].sum(dtype=np.float64))
    return total / count, float(rest.min())


def _bracket(flat: FloatMap, count: int, highest: float) -> tuple[np.float32, np.float32]:
    """Return two values between which the `count`-th largest lies."""
    lowest = float(flat.min())
    everything = np.float32(lowest), np.float32(np.inf)
    width = (highest - lowest) / _BINS
    if flat.size < _SMALL or not np.isfinite(width) or width < 1e-7:
        return everything
    column = np.ascontiguousarray(flat)[:, None]
    counts = cv2.calcHist([column], [0], None, [_BINS], [lowest, highest + width / 2]).ravel()
    step = (highest + width / 2 - lowest) / _BINS
    at_least = np.cumsum(counts[::-1])[::-1]
    index = int(np.searchsorted(-at_least, -count, side='right')) - 1
    if index < 0:
        return everything
    # Half a bin of room on both sides, for the rounding of edges.
    return np.float32(lowest + (index - 0.5) * step), np.float32(lowest + (index + 1.5) * step)


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
