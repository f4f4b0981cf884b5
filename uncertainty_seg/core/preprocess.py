# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Resize images to the network's size, and maps back; its graph takes bytes and normalises."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import ImageError

# Grey padding: neutral after normalisation, and the same as in training.
PADDING_VALUE = 114


@dataclass(frozen=True)
class Geometry:
    """
    Where a camera image (source_height, source_width) lies inside the network's input.

    `rows` and `columns` are the part of the (h, w) input that holds it; the rest is padding.
    """

    source_height: int
    source_width: int
    rows: slice
    columns: slice

    @classmethod
    def of(cls, height: int, width: int, spec: InputSpec) -> Geometry:
        """
        Place an image of this size in the network's input.

        The image fills the whole input for 'stretch', a centred part for 'letterbox'. Raises
        ImageError if a side is zero, or would be less than a pixel after resizing.
        """
        if height < 1 or width < 1:
            raise ImageError(f'image of {width}x{height} pixels', 'at least 1x1')
        if spec.fit == 'stretch':
            return cls(height, width, slice(0, spec.height), slice(0, spec.width))
        scale = min(spec.width / width, spec.height / height)
        inner_w, inner_h = round(width * scale), round(height * scale)
        if min(inner_w, inner_h) < 1:
            raise ImageError(
                f'image of {width}x{height} pixels', 'an image that is at least a pixel wide and '
                f'high at {spec.width}x{spec.height}', 'use a bundle with the fit rule stretch',
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
    # Area averaging to shrink by more than half: linear interpolation would skip pixels and alias
    # texture. A side that grows is left to linear interpolation, since area averaging would move
    # its edges by up to a third of a pixel.
    if inner_w * 2 < width or inner_h * 2 < height - 1:
        smaller = min(inner_w, width), min(inner_h, height)
        resized = np.asarray(
            cv2.resize(image_bgr, smaller, interpolation=cv2.INTER_AREA), np.uint8)
        if smaller == size:
            return resized
    return np.asarray(cv2.resize(resized, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def fit_ignore(ignore: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """
    Fit a mask of pixels to leave out, bool of any size, to the part of the input with the image.

    The result, bool of the shape of that part, is True where any part of a pixel is left out.
    """
    size = (geometry.columns.stop - geometry.columns.start,
            geometry.rows.stop - geometry.rows.start)
    shares = cv2.resize(ignore.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(shares) > 0


def unfit_label(label: LabelMap, geometry: Geometry) -> LabelMap:
    """Return class ids (H, W) at the source size, by the nearest pixel: ids do not mix."""
    inner = np.ascontiguousarray(label[geometry.rows, geometry.columns])
    size = (geometry.source_width, geometry.source_height)
    # INTER_NEAREST shifts by up to half a pixel; the exact form keeps half-pixel centres.
    return np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def unfit_map(values: FloatMap, geometry: Geometry) -> FloatMap:
    """Return a map (H, W) at the source size, bilinear; NaN spreads to neighbouring pixels."""
    inner = np.ascontiguousarray(values[geometry.rows, geometry.columns])
    size = (geometry.source_width, geometry.source_height)
    return np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR), np.float32)


def unfit_bytes(values: FloatMap, geometry: Geometry) -> NDArray[np.uint8]:
    """Return a map of 0..1 as 0..255 (H, W), `unfit_map` rounded; 0 where it is NaN."""
    full = cv2.patchNaNs(unfit_map(values, geometry), 0.0)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255.0), np.uint8)
