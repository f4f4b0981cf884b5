# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Scores that know where in the image the uncertain pixels lie.

The worst window sees a compact region that a mean dilutes. The largest region above a limit sees
how far one thing reaches, whatever its form. Both take an ``ignore`` mask as `aggregate` does.

"""

from __future__ import annotations

from dataclasses import dataclass

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
    return Windows.of(values.shape, share, ignore).worst(values)


@dataclass(frozen=True)
class Windows:
    """
    Where the windows of a frame lie, for any map of it.

    Attributes
    ----------
    side : int
        Of the square, in pixels.
    ignore : ndarray of bool, shape (h, w), or None
        True where a pixel is left out.
    scale : ndarray of float32, shape (h - side + 1, w - side + 1), or None
        One over the share of the window's pixels that count; 0 where too few do.

    """

    side: int
    ignore: NDArray[np.bool_] | None
    scale: FloatMap | None

    @classmethod
    def of(
        cls, shape: tuple[int, ...], share: float = WINDOW_SHARE,
        ignore: NDArray[np.bool_] | None = None,
    ) -> Windows:
        """Lay the windows over a frame (h, w); see `worst_window_score`."""
        side = max(1, round(share * min(shape)))
        if ignore is None:
            return cls(side, None, None)
        require_shape('ignore mask', ignore, shape, np.bool_)
        kept = _box_means((~ignore).view(np.uint8), side)
        # Rounding is less than one pixel of a window.
        pixel = 1 / side**2
        least = max(min(SMALLEST_KEPT, float(kept.max())) - 0.25 * pixel, 0.5 * pixel)
        scale = (kept >= least) / np.maximum(kept, np.float32(least))
        return cls(side, ignore, scale)

    def worst(self, values: FloatMap) -> float:
        """Return the largest mean of a window of a map (h, w) of 0 or more."""
        if self.ignore is None or self.scale is None:
            return float(_box_means(values, self.side).max())
        if not self.scale.any():
            return _NAN
        filled = cv2.copyTo(values, (~self.ignore).view(np.uint8))  # 0 elsewhere
        means = _box_means(np.asarray(filled, np.float32), self.side)
        means *= self.scale
        return float(means.max())


def _box_means(values: FloatMap | NDArray[np.uint8], side: int) -> FloatMap:
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
    above, unknown = values > np.float32(limit), np.isnan(values)
    num_kept = values.size
    if ignore is not None:
        require_shape('ignore mask', ignore, values.shape, np.bool_)
        above &= ~ignore
        unknown &= ~ignore
        num_kept -= int(np.count_nonzero(ignore))
    if not num_kept or unknown.any():
        return _NAN
    _, region = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    sizes = np.bincount(region[above])
    return int(sizes.max()) / num_kept if len(sizes) else 0.0


def boundary_mask(
    label: LabelMap, width_px: int = BOUNDARY_PX, ignore: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """
    Mark the pixels near a border between two classes.

    Parameters
    ----------
    label : ndarray of uint8, shape (h, w)
        Class ids.
    width_px : int
        How far from the border, at least 1.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out: its class makes no border. What is returned there says
        nothing.

    Returns
    -------
    ndarray of bool, shape (h, w)
        True where another class lies within `width_px` rows or columns.

    """
    square = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    low, high = label, label
    if ignore is not None:
        require_shape('ignore mask', ignore, label.shape, np.bool_)
        # Highest where the least is looked for, lowest where the most is.
        high = label * (~ignore).view(np.uint8)
        low = label | (ignore.view(np.uint8) * np.uint8(255))
    return np.asarray(cv2.dilate(high, square) != cv2.erode(low, square), np.bool_)
