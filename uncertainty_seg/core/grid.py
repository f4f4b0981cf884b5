# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The grid at which sums over passes are taken, and the interpolation from it to pixels.

A network that ends in a bilinear upsampling computes its logits at a lower resolution than its
image, and the sums over its passes are taken there. If all pixels of a pass share one mask, this
gives the network's own maps. If each pixel has its own mask, an upsampled pixel is a mean of four
independent values and varies less than each of them: at the centres of the logits, mutual
information and variance are twice as large as in the image.

So the grid may be offset from the centres by a share of a cell, at which the mean square of the
interpolation weights equals that of the image's pixels: for many pixels per cell ``(1 - 1 /
sqrt(3)) / 2``, 0.211, as in Gauss quadrature with two points. The mean over the plane of anything
quadratic in the logits is then the image's own, that of other maps nearly so, at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import require_shape

UPSAMPLINGS = ('half_pixel', 'align_corners')


@dataclass(frozen=True)
class Grid:
    """
    The cells (rows, columns) at which sums are taken, in an image (height, width).

    `upsampling`, one of `UPSAMPLINGS`, is how the network upsamples logits of this size to the
    image. `offset` (down, right), 0 or more and below 0.5, is the distance of the grid from the
    centres of the logits, in cells.
    """

    rows: int
    columns: int
    height: int
    width: int
    upsampling: str = 'half_pixel'
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def is_image(self) -> bool:
        """Return whether each cell is a pixel."""
        return (self.rows, self.columns) == (self.height, self.width)

    def spread(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """
        Interpolate values (..., rows, columns) to the pixels (..., height, width), edges held.

        The dtype is kept. A NaN spreads to the pixels that it has a weight in. Raises ShapeError
        if the values have another size.
        """
        require_shape('values at the grid', values,
                      (*values.shape[:-2], self.rows, self.columns), values.dtype)
        if self.is_image:
            return values
        if values.dtype == np.float32 and self.upsampling == 'half_pixel' and not any(self.offset):
            return self._spread_by_opencv(values)
        # Columns first, while there are few rows; after that, whole rows are copied.
        low, high, share = bilinear_taps(
            self.columns, self.width, self.upsampling, self.offset[1])
        wide = _between(values[..., low], values[..., high], share)
        low, high, share = bilinear_taps(self.rows, self.height, self.upsampling, self.offset[0])
        return _between(wide[..., low, :], wide[..., high, :], share[:, None])

    def _spread_by_opencv(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Interpolate as `spread` does, in a twentieth of the time."""
        import cv2  # not at the top: the help of a command imports this, and must not load OpenCV

        planes = np.ascontiguousarray(values).reshape(-1, self.rows, self.columns)
        spread = np.empty((len(planes), self.height, self.width), np.float32)
        for plane, wide in zip(planes, spread, strict=True):
            cv2.resize(plane, (self.width, self.height), wide, interpolation=cv2.INTER_LINEAR)
        return spread.reshape(*values.shape[:-2], self.height, self.width)

    def part(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Return the cells, at least one, whose centres lie in a part of the image."""
        return (cells(rows, self.height, self.rows), cells(columns, self.width, self.columns))


def _between(
    first: NDArray[np.floating], second: NDArray[np.floating], share: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Return ``first + share * (second - first)``; the result is `first`, both are overwritten."""
    weight = share.astype(first.dtype)
    second *= weight
    first *= 1 - weight
    first += second
    return first


def cells(pixels: slice, size: int, count: int) -> slice:
    """Return which of `count` cells along `size` pixels have centres in a part; at least one."""
    first, stop, _ = pixels.indices(size)
    low = min(math.ceil(first * count / size - 0.5), count - 1)
    return slice(low, max(math.ceil(stop * count / size - 0.5), low + 1))


def at_cells(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the values of a mask (h, w) at the centres of (rows, columns) cells."""
    if mask.shape == (rows, columns):
        return mask
    down, across = (((np.arange(count) + 0.5) * size / count).astype(np.intp)
                    for count, size in zip((rows, columns), mask.shape, strict=True))
    return mask[down[:, None], across]


def bilinear_taps(
    old: int, new: int, upsampling: str, offset: float = 0.0
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """
    Return the two sources of each of `new` pixels of a line, and the weight of the second.

    They are int, int and float64 of shape (new,). `upsampling` is one of `UPSAMPLINGS`; the `old`
    sources lie `offset` cells from their centres.
    """
    if upsampling == 'align_corners':
        centre = np.arange(new, dtype=np.float64) * ((old - 1) / max(new - 1, 1))
    else:
        centre = (np.arange(new, dtype=np.float64) + 0.5) * old / new - 0.5
    centre = np.clip(centre - offset, 0.0, old - 1)
    low = np.minimum(centre.astype(np.intp), old - 1)
    # A second source of weight 0 is replaced by the first: it may be NaN.
    return low, low + (centre > low), centre - low


def upsample_bilinear(
    values: NDArray[np.floating], height: int, width: int, upsampling: str = 'half_pixel'
) -> NDArray[np.float64]:
    """
    Resize the last two axes to (height, width), edges held, in float64.

    It equals torch's interpolate(mode='bilinear'), with align_corners for 'align_corners'.
    """
    rows, columns = values.shape[-2:]
    grid = Grid(rows, columns, height, width, upsampling)
    return np.asarray(grid.spread(values.astype(np.float64)), np.float64)


def offset_like_pixels(old: int, new: int, upsampling: str) -> float:
    """
    Return the offset of a line at which cells vary as much as pixels, for independent neighbours.

    There the mean over cells of the sum of squared weights equals that over pixels, with 1 for the
    last cell, at the edge. It is 0 if nothing is upsampled.
    """
    if new <= old or old < 2:
        return 0.0
    _, _, share = bilinear_taps(old, new, upsampling)
    wanted = float((share**2 + (1 - share)**2).mean())
    square = (wanted * old - 1) / (old - 1)
    return 0.5 * (1 - math.sqrt(max(2 * square - 1, 0.0)))


def sample_beside(
    values: NDArray[np.floating], offset: tuple[float, float]
) -> NDArray[np.floating]:
    """Interpolate values (..., rows, columns) at an offset (down, right), in cells, edges held."""
    for axis, share in zip((-2, -1), offset, strict=True):
        if share:
            count = values.shape[axis]
            after = np.take(values, np.minimum(np.arange(count) + 1, count - 1), axis)
            values = values * (1 - share) + after * share
    return values
