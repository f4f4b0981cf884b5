# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where the sums over the passes lie in the image: the grid of the logits, and the way to pixels.

A network that ends in a bilinear upsampling makes its logits at a coarser size than its image,
and the sums over its passes are taken there. Where all pixels of a pass share one mask this gives
the network's own maps. Where the mask of each pixel is its own, an upsampled pixel is a mean of
four independent ones and varies less than any of them: measured at the centres of the logits,
mutual information and variance come out twice as large as they are in the image.

So the grid may lie beside the centres, by a share of a cell that makes the weights' mean square
that of the image's pixels. As in Gauss' quadrature with two points, which for many pixels a cell
this is (``(1 - 1 / sqrt(3)) / 2``, 0.211), the mean over the plane of what is quadratic in the
logits is then the image's own, and the mean of the other maps nearly so, at no cost.

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
    The cells (rows, columns) that sums are taken at, in an image (height, width).

    `upsampling`, one of `UPSAMPLINGS`, says how the network's logits of this size become the
    image's. `offset` (down, right), 0 or more and below 0.5, is how far the grid lies beside their
    centres, in cells.
    """

    rows: int
    columns: int
    height: int
    width: int
    upsampling: str = 'half_pixel'
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def is_image(self) -> bool:
        """Say whether each cell is a pixel."""
        return (self.rows, self.columns) == (self.height, self.width)

    def spread(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """
        Interpolate values (..., rows, columns) to the pixels (..., height, width), edges held.

        The dtype stays. NaN spreads to the pixels that touch it. Raises ShapeError if the values
        have another size.
        """
        require_shape('values at the grid', values,
                      (*values.shape[:-2], self.rows, self.columns), values.dtype)
        if self.is_image:
            return values
        if values.dtype == np.float32 and self.upsampling == 'half_pixel' and not any(self.offset):
            return self._spread_by_opencv(values)
        # Columns first, where there are few rows: rows are then copied as wholes.
        low, high, share = bilinear_taps(
            self.columns, self.width, self.upsampling, self.offset[1])
        wide = _between(values[..., low], values[..., high], share)
        low, high, share = bilinear_taps(self.rows, self.height, self.upsampling, self.offset[0])
        return _between(wide[..., low, :], wide[..., high, :], share[:, None])

    def _spread_by_opencv(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Do the same in a twentieth of the time."""
        import cv2  # not at the top: the help of a verb reads settings, and needs no OpenCV

        planes = np.ascontiguousarray(values).reshape(-1, self.rows, self.columns)
        spread = np.empty((len(planes), self.height, self.width), np.float32)
        for plane, wide in zip(planes, spread, strict=True):
            cv2.resize(plane, (self.width, self.height), wide, interpolation=cv2.INTER_LINEAR)
        return spread.reshape(*values.shape[:-2], self.height, self.width)

    def part(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Return the cells, one or more, whose centres lie in a part of the image."""
        return (cells(rows, self.height, self.rows), cells(columns, self.width, self.columns))


def _between(
    first: NDArray[np.floating], second: NDArray[np.floating], share: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Return ``first + share * (second - first)``; both are overwritten, the result is a third."""
    weight = share.astype(first.dtype)
    second *= weight
    first *= 1 - weight
    first += second
    return first


def cells(pixels: slice, size: int, count: int) -> slice:
    """Return those of `count` cells along `size` pixels whose centres lie in a part; 1 or more."""
    first, stop, _ = pixels.indices(size)
    low = min(math.ceil(first * count / size - 0.5), count - 1)
    return slice(low, max(math.ceil(stop * count / size - 0.5), low + 1))


def at_cells(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask (h, w) that lie at the centres of (rows, columns) cells."""
    if mask.shape == (rows, columns):
        return mask
    down, across = (((np.arange(count) + 0.5) * size / count).astype(np.intp)
                    for count, size in zip((rows, columns), mask.shape, strict=True))
    return mask[down[:, None], across]


def bilinear_taps(
    old: int, new: int, upsampling: str, offset: float = 0.0
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """
    Return where each of `new` pixels of a line comes from: both sources, share of the second.

    These are int, int and float64 of shape (new,); `upsampling` is one of `UPSAMPLINGS`, and the
    `old` sources lie `offset` cells beside their centres.
    """
    if upsampling == 'align_corners':
        centre = np.arange(new, dtype=np.float64) * ((old - 1) / max(new - 1, 1))
    else:
        centre = (np.arange(new, dtype=np.float64) + 0.5) * old / new - 0.5
    centre = np.clip(centre - offset, 0.0, old - 1)
    low = np.minimum(centre.astype(np.intp), old - 1)
    # What counts nothing is not looked at: it may be NaN.
    return low, low + (centre > low), centre - low


def upsample_bilinear(
    values: NDArray[np.floating], height: int, width: int, upsampling: str = 'half_pixel'
) -> NDArray[np.float64]:
    """
    Resize the last two axes to (height, width), edges held, in float64.

    As torch's interpolate(mode='bilinear'); 'align_corners' is its align_corners.
    """
    rows, columns = values.shape[-2:]
    grid = Grid(rows, columns, height, width, upsampling)
    return np.asarray(grid.spread(values.astype(np.float64)), np.float64)


def offset_like_pixels(old: int, new: int, upsampling: str) -> float:
    """
    Return the offset of a line at which cells vary as much as pixels do, where neighbours do not.

    That is where the mean over the cells of the sum of squared weights is that over the pixels,
    the last cell counted as it is, at the edge; 0 where nothing is upsampled.
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
    """Return values (..., rows, columns) at an offset (down, right) in cells, edges held."""
    for axis, share in zip((-2, -1), offset, strict=True):
        if share:
            count = values.shape[axis]
            after = np.take(values, np.minimum(np.arange(count) + 1, count - 1), axis)
            values = values * (1 - share) + after * share
    return values
