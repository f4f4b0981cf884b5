# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Scores that know where in the image the uncertain pixels lie.

The worst window sees a compact region that a mean dilutes. The largest region above a limit sees
how far one thing reaches, whatever its form. Both take an ``ignore`` mask as `aggregate` does.

"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape

WINDOW_SHARE = 0.15
# A window that is mostly left out would stand for a few pixels.
SMALLEST_KEPT = 0.5
# Pixels on each side of a border between two classes that belong to it.
BOUNDARY_PX = 2
_NAN = float('nan')


def worst_window_score(
    values: FloatMap, share: float = WINDOW_SHARE, ignore: NDArray[np.bool_] | None = None
) -> float:
    """
    Find the square window with the largest mean.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Side of the window as part of the shorter side.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        The largest mean over the pixels that count, of the windows of which at least half does;
        if there is none, of the fullest. NaN if any pixel that counts is NaN, or none counts. Its
        cost does not depend on the window.

    """
    side = max(1, round(share * min(values.shape)))
    if ignore is None:
        return float(_box_means(values, side).max())
    require_shape('ignore mask', ignore, values.shape, np.bool_)
    kept = _box_means((~ignore).astype(np.float32), side)
    fullest = float(kept.max())
    # Less than one pixel of a window is rounding.
    if fullest * side**2 < 0.5:
        return _NAN
    means = _box_means(np.where(ignore, np.float32(0), values), side)
    counts = kept >= min(SMALLEST_KEPT, fullest) - 0.25 / side**2
    return float((means[counts] / kept[counts]).max())


def _box_means(values: FloatMap, side: int) -> FloatMap:
    """Return the mean of every square that lies inside the map."""
    # Running sums in float64: a NaN stays in all that follow, and max passes it on.
    boxes = cv2.boxFilter(
        np.ascontiguousarray(values), cv2.CV_32F, (side, side), anchor=(0, 0),
        borderType=cv2.BORDER_CONSTANT,
    )
    rows, columns = values.shape
    return np.asarray(boxes[: rows - side + 1, : columns - side + 1], np.float32)


def largest_region_score(
    values: FloatMap, limit: float, ignore: NDArray[np.bool_] | None = None
) -> float:
    """
    Measure the largest connected region above a limit.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    limit : float
        A pixel belongs to a region if it lies above.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out; it connects nothing.

    Returns
    -------
    float
        Its share of the pixels that count, corners connect; NaN if any of these is NaN, or none
        counts.

    """
    above = values > np.float32(limit)
    num_kept = values.size
    if ignore is not None:
        require_shape('ignore mask', ignore, values.shape, np.bool_)
        above &= ~ignore
        values = values[~ignore]
        num_kept = values.size
    if not num_kept or np.isnan(values.max()):
        return _NAN
    _, region = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    sizes = np.bincount(region[above])
    return int(sizes.max()) / num_kept if len(sizes) else 0.0


def boundary_mask(label: LabelMap, width_px: int = BOUNDARY_PX) -> NDArray[np.bool_]:
    """
    Mark the pixels near a border between two classes.

    Parameters
    ----------
    label : ndarray of uint8, shape (h, w)
        Class ids.
    width_px : int
        How far from the border, at least 1.

    Returns
    -------
    ndarray of bool, shape (h, w)
        True where another class lies within `width_px` rows or columns.

    """
    square = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    return np.asarray(cv2.dilate(label, square) != cv2.erode(label, square), np.bool_)
