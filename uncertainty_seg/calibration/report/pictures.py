# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Pictures as text that a page holds, and the frames of a report as such pictures.

Photographs and heatmaps are JPEG, masks PNG, whose edges stay sharp. The frames of a report are
made smaller together until they fit into a budget.

"""

from __future__ import annotations

import base64
from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.report.data import FrameGroup, Legend, MAX_FRAMES, ReportFrame
from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.render import color_mask
from uncertainty_seg.errors import ShapeError


def data_address(kind: str, content: bytes) -> str:
    """Return content of a media type as an address that a page can hold."""
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'


def jpeg_address(picture_bgr: ImageU8, quality: int) -> str:
    """Return a picture as the address of a JPEG."""
    _, content = cv2.imencode('.jpg', picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data_address('image/jpeg', content.tobytes())


def png_address(picture_bgr: ImageU8) -> str:
    """Return a picture as the address of a PNG."""
    _, content = cv2.imencode('.png', picture_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return data_address('image/png', content.tobytes())


def fitted_size(image: ImageU8, width_px: int, height_px: float) -> tuple[int, int]:
    """Fit an image into a box without making it larger; (width, height) for OpenCV."""
    height, width = image.shape[:2]
    scale = min(width_px / width, height_px / height, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


# -------------------------------------------------------------------------------------------------
# The frames of a report.

# Of all pictures of frames, as they stand in the page.
BUDGET_BYTES = 3_000_000
IGNORED_RGB = (150, 150, 150)
NAN_COLOR_BGR = (255, 255, 0)
# Width in px and JPEG quality; the last is taken however large it is.
_SIZES = ((360, 85), (300, 80), (240, 75), (180, 65), (120, 55))
_ASPECT = 0.75


class Tile(NamedTuple):
    """A picture's caption and its ``data:`` address; no address where nothing is known."""

    caption: str
    address: str | None


def frame_tiles(
    groups: Sequence[FrameGroup], legend: Legend, budget_bytes: int = BUDGET_BYTES
) -> list[list[tuple[Tile, ...]]]:
    """
    Encode the frames of all groups at the largest size that fits.

    Raises ShapeError if a mask or map has not the size of its image.

    Parameters
    ----------
    groups : sequence of FrameGroup
        The first `MAX_FRAMES` of each are shown.
    legend : Legend
        Colours and range.
    budget_bytes : int
        Of all addresses together.

    Returns
    -------
    list of list of tuple of Tile
        By group and frame: image, truth, prediction, heatmap.

    """
    for group in groups:
        for frame in group.frames:
            _require_fit(frame)
    for width_px, quality in _SIZES[:-1]:
        tiles = _encode(groups, legend, width_px, quality, budget_bytes)
        if tiles is not None:
            return tiles
    return _encode(groups, legend, *_SIZES[-1], math.inf) or []


def _encode(
    groups: Sequence[FrameGroup], legend: Legend, width_px: int, quality: int, budget: float
) -> list[list[tuple[Tile, ...]]] | None:
    """Encode all frames at one size; None as soon as they are too large."""
    tiles: list[list[tuple[Tile, ...]]] = []
    for group in groups:
        tiles.append([])
        for frame in group.frames[:MAX_FRAMES]:
            row = _tiles(frame, legend, width_px, quality)
            budget -= sum(len(tile.address or '') for tile in row)
            if budget < 0:
                return None
            tiles[-1].append(row)
    return tiles


def _require_fit(frame: ReportFrame) -> None:
    height, width = frame.image_bgr.shape[:2]
    maps: tuple[NDArray[Any] | None, ...] = (frame.truth, frame.predicted, frame.heat)
    for name, array in zip(('truth', 'prediction', 'heatmap'), maps, strict=True):
        if array is not None and array.shape != (height, width):
            raise ShapeError(f'{name} of {frame.source!r} has shape {array.shape}',
                             f'({height}, {width}) as its image')


def _tiles(
    frame: ReportFrame, legend: Legend, width_px: int, quality: int
) -> tuple[Tile, ...]:
    size = fitted_size(frame.image_bgr, width_px, width_px * _ASPECT)
    small = np.asarray(cv2.resize(frame.image_bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
    heat = cv2.resize(frame.heat, size, interpolation=cv2.INTER_AREA)
    truth, predicted = (
        None if label is None else
        png_address(paint_mask(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), legend))
        for label in (frame.truth, frame.predicted))
    return (
        Tile('image', jpeg_address(small, quality)), Tile('truth', truth),
        Tile('prediction', predicted),
        Tile(legend.heat_name, jpeg_address(paint_heat(heat, legend.heat_upper), quality)),
    )


def paint_mask(label: LabelMap, legend: Legend) -> ImageU8:
    """Paint class ids in the legend's colours, and unknown pixels in grey."""
    painted = color_mask(label, legend.palette)
    painted[label == legend.ignore_index] = IGNORED_RGB[::-1]
    return painted


def paint_heat(values: FloatMap, upper: float) -> ImageU8:
    """
    Paint a map from dark to bright; bright is uncertain, and cyan is NaN.

    Brightness grows with the value all along, so that it is read alike with any colour vision and
    in grey print; the heatmap of the node (`core.render`) is made for a screen at sea.
    """
    broken = np.isnan(values)
    level = np.clip(np.where(broken, 0, values) * (255.0 / upper), 0, 255).astype(np.uint8)
    painted = np.asarray(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), np.uint8)
    painted[broken] = NAN_COLOR_BGR
    return painted


def heat_bar(width_px: int = 160, height_px: int = 12) -> str:
    """Return the colours of the heatmap from nothing to its upper end, as an address."""
    ramp = np.tile(np.linspace(0, 1, width_px, dtype=np.float32), (height_px, 1))
    return png_address(paint_heat(ramp, 1.0))
