# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report's frames as small pictures that a page holds: image, truth, prediction, heatmap.

Photographs and heatmaps are JPEG, masks PNG, whose edges stay sharp. All are made smaller
together until they fit into a budget.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.render import color_mask
from uncertainty_seg.errors import ShapeError
from uncertainty_seg.tools.report.data import FrameGroup, Legend, MAX_FRAMES, ReportFrame
from uncertainty_seg.tools.report.plots import data_address

# Of all pictures of frames, as they stand in the page.
BUDGET_BYTES = 3_000_000
IGNORED_RGB = (150, 150, 150)
NAN_COLOR_BGR = (255, 255, 0)
# Width in px and JPEG quality; the last is taken however large it is.
_SIZES = ((360, 85), (300, 80), (240, 75), (180, 65), (120, 55))
_ASPECT = 0.75


@dataclass(frozen=True)
class Tile:
    """A picture, its caption, and its ``data:`` address; no address where nothing is known."""

    caption: str
    address: str | None


def frame_tiles(
    groups: Sequence[FrameGroup], legend: Legend, budget_bytes: int = BUDGET_BYTES
) -> list[list[tuple[Tile, ...]]]:
    """
    Encode the frames of all groups at the largest size that fits.

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

    Raises
    ------
    ShapeError
        If a mask or map has not the size of its image.

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
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality]
    png = [cv2.IMWRITE_PNG_COMPRESSION, 6]
    size = _size(frame.image_bgr, width_px)
    small = cv2.resize(frame.image_bgr, size, interpolation=cv2.INTER_AREA)
    truth = None if frame.truth is None else paint_mask(_nearest(frame.truth, size), legend)
    predicted = paint_mask(_nearest(frame.predicted, size), legend)
    heat = paint_heat(cv2.resize(frame.heat, size, interpolation=cv2.INTER_AREA),
                      legend.heat_upper)
    return (
        Tile('image', _address('.jpg', small, jpeg)),
        Tile('truth', None if truth is None else _address('.png', truth, png)),
        Tile('prediction', _address('.png', predicted, png)),
        Tile(legend.heat_name, _address('.jpg', heat, jpeg)),
    )


def _size(image: ImageU8, width_px: int) -> tuple[int, int]:
    """Fit an image into a box of 4:3 without making it larger; (width, height) for OpenCV."""
    height, width = image.shape[:2]
    scale = min(width_px / width, width_px * _ASPECT / height, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _nearest(label: LabelMap, size: tuple[int, int]) -> LabelMap:
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _address(suffix: str, picture_bgr: ImageU8, options: Sequence[int]) -> str:
    _, content = cv2.imencode(suffix, picture_bgr, options)
    kind = {'.jpg': 'image/jpeg', '.png': 'image/png'}[suffix]
    return data_address(kind, content.tobytes())


def paint_mask(label: LabelMap, legend: Legend) -> ImageU8:
    """Paint class ids in the legend's colours, and what nobody knows in grey."""
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
    return _address('.png', paint_heat(ramp, 1.0), [cv2.IMWRITE_PNG_COMPRESSION, 9])
