# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the camera's size to the network's, and the way back for every map.

Normalisation is not here: it is part of the graph, which takes bytes.

"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import ImageError

# Grey padding: neutral after normalisation, and what the networks are trained with.
PADDING_VALUE = 114
# Side of a tile of the image whose pattern of weights repeats; OpenCV takes larger ones.
_LARGEST_TILE = 32
# Products of one call: with more, BLAS would start threads of its own.
_MOST_PRODUCTS = 200_000


@dataclass(frozen=True)
class Geometry:
    """
    Where the image lies inside the network's input.

    Attributes
    ----------
    source_height, source_width : int
        H, W of the camera image.
    rows, columns : slice
        The part of the (h, w) input that holds the image; the rest is padding.

    """

    source_height: int
    source_width: int
    rows: slice
    columns: slice

    @classmethod
    def of(cls, height: int, width: int, spec: InputSpec) -> Geometry:
        """
        Place an image of a size into the network's input.

        The image takes the whole input for 'stretch', a centred part for 'letterbox'. Raises
        ImageError if a side is zero, or so thin that nothing of it would be left.
        """
        if height < 1 or width < 1:
            raise ImageError(f'image of {width}x{height} pixels', 'at least 1x1')
        if spec.fit == 'stretch':
            return cls(height, width, slice(0, spec.height), slice(0, spec.width))
        scale = min(spec.width / width, spec.height / height)
        inner_w, inner_h = round(width * scale), round(height * scale)
        if min(inner_w, inner_h) < 1:
            raise ImageError(
                f'image of {width}x{height} pixels', f'one that is seen at {spec.width}x'
                f'{spec.height}', 'use a bundle with the fit rule stretch',
            )
        top, left = (spec.height - inner_h) // 2, (spec.width - inner_w) // 2
        return cls(height, width, slice(top, top + inner_h), slice(left, left + inner_w))


def fit_image(image_bgr: ImageU8, geometry: Geometry, spec: InputSpec) -> ImageU8:
    """
    Resize and pad a camera image (H, W, 3), BGR, that `geometry` was made for.

    Returns uint8 (h, w, 3) in the network's size and colour order.
    """
    inner_h = geometry.rows.stop - geometry.rows.start
    inner_w = geometry.columns.stop - geometry.columns.start
    inner = _resized(image_bgr, inner_h, inner_w)
    if spec.color_order == 'rgb':
        inner = cv2.cvtColor(inner, cv2.COLOR_BGR2RGB)
    if (inner_h, inner_w) == (spec.height, spec.width):
        return np.ascontiguousarray(inner)
    padded = np.full((spec.height, spec.width, 3), PADDING_VALUE, np.uint8)
    padded[geometry.rows, geometry.columns] = inner
    return padded


def _resized(image_bgr: ImageU8, inner_h: int, inner_w: int) -> ImageU8:
    height, width = image_bgr.shape[:2]
    size, resized = (inner_w, inner_h), image_bgr
    # Area averaging when shrinking far: linear would skip pixels and alias the texture. A side
    # that grows waits, for there it would move edges by up to a third of a pixel.
    if inner_w * 2 < width or inner_h * 2 < height - 1:
        smaller = min(inner_w, width), min(inner_h, height)
        resized = _averaged(image_bgr, smaller)
        if smaller == size:
            return resized
    return np.asarray(cv2.resize(resized, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _averaged(image_bgr: ImageU8, size: tuple[int, int]) -> ImageU8:
    """Average the area of each pixel of a smaller image of a size (w, h), rounded once."""
    down, right = (Fraction(*sides) for sides in zip(image_bgr.shape, size[::-1], strict=False))
    tall, wide = down.numerator, right.numerator
    pixels = tall * wide
    # OpenCV rounds halves by chance: the result is its own where there are none, or all is exact.
    is_same = pixels % 2 == 1 or pixels & (pixels - 1) == 0
    # By whole numbers it averages as fast as memory is read.
    is_whole = down.denominator == right.denominator == 1
    if is_whole or not is_same or max(tall, wide) > _LARGEST_TILE:
        return np.asarray(cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
    lines = np.ascontiguousarray(image_bgr).reshape(-1, tall, 3 * image_bgr.shape[1])
    sums = _tile_sums(lines, _area_weights(down),
                      np.kron(_area_weights(right).T, np.eye(3, dtype=np.float32)))
    rounded = cv2.convertScaleAbs(sums.reshape(size[1], -1), alpha=1 / pixels)
    return np.asarray(rounded, np.uint8).reshape(*size[::-1], 3)


def _tile_sums(
    lines: NDArray[np.uint8], upper: NDArray[np.float32], side: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply every tile in rows of tiles, (k, n, N m), by matrices (d, n) and (m, e)."""
    num_tiles = lines.shape[2] // len(side)
    sums = np.empty((len(lines), len(upper), num_tiles * side.shape[1]), np.float32)
    # Tiles at once: parts of a row, or some rows.
    room = max(1, _MOST_PRODUCTS // (len(upper) * len(side) * max(upper.shape[1], side.shape[1])))
    num_parts, num_rows = -(-num_tiles // room), max(1, room // num_tiles)
    floats = np.empty((num_rows, *lines.shape[1:]), np.float32)
    for top in range(0, len(lines), num_rows):
        block = floats[:len(lines) - top]
        block[...] = lines[top:top + num_rows]
        for part in range(num_parts):
            first, stop = (num_tiles * edge // num_parts for edge in (part, part + 1))
            source, target = (slice(first * step, stop * step) for step in side.shape)
            strip = np.matmul(upper, block[:, :, source])
            sums[top:top + num_rows, :, target] = np.matmul(
                strip.reshape(-1, len(side)), side).reshape(*strip.shape[:2], -1)
    return sums


@functools.lru_cache(maxsize=8)
def _area_weights(shrink: Fraction) -> NDArray[np.float32]:
    """Return how much of each pixel n/d of a tile lies in each pixel of the result, (d, n)."""
    length, count = shrink.as_integer_ratio()
    edges = np.arange(length) * count  # in parts of which a pixel of the result has `length`
    first = np.arange(count)[:, None] * length
    overlap = np.minimum(edges + count, first + length) - np.maximum(edges, first)
    return np.maximum(overlap, 0).astype(np.float32)


def fit_ignore(ignore: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """
    Fit a mask of pixels to leave out, bool of any size, to the part of the input with the image.

    The result, bool of the shape of that part, is True where any of a pixel is to be left out.
    """
    size = (geometry.columns.stop - geometry.columns.start,
            geometry.rows.stop - geometry.rows.start)
    shares = cv2.resize(ignore.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(shares) > 0


def unfit_label(label: LabelMap, geometry: Geometry) -> LabelMap:
    """Return class ids (H, W) at the source size; nearest, so that no id is invented."""
    inner = np.ascontiguousarray(label[geometry.rows, geometry.columns])
    size = (geometry.source_width, geometry.source_height)
    # INTER_NEAREST shifts by up to half a pixel; the exact form keeps half-pixel centres.
    return np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def unfit_map(values: FloatMap, geometry: Geometry) -> FloatMap:
    """Return a map (H, W) at the source size, bilinear; NaN spreads to what it touches."""
    inner = np.ascontiguousarray(values[geometry.rows, geometry.columns])
    size = (geometry.source_width, geometry.source_height)
    return np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR), np.float32)


def unfit_bytes(values: FloatMap, geometry: Geometry) -> NDArray[np.uint8]:
    """Return a map of 0..1 as 0..255 (H, W), `unfit_map` rounded; 0 where it is NaN."""
    full = cv2.patchNaNs(unfit_map(values, geometry), 0.0)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255.0), np.uint8)
