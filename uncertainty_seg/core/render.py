# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Maps as pictures for people: class colours, a heatmap with a fixed range, an overlay.

Ranges are fixed by the caller: a picture must not depend on the frame it was made from alone.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import FrameResult
from uncertainty_seg.core.settings import Settings

# Not a colour of the map, so that a missing number is recognised.
NAN_COLOR_BGR = (255, 0, 255)
# Where no threshold of the map's top score is known.
DEFAULT_HEATMAP_UPPER = 0.5
GREEN_BGR, AMBER_BGR, RED_BGR = (60, 200, 60), (0, 170, 255), (50, 50, 230)
# Of the second map beside amber: orange and blue are told apart with any colour vision.
BLUE_BGR = (255, 120, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# The second map: where something may be that the network was never shown, drawn from 0.6 to 1.
UNKNOWN_MAP, UNKNOWN_UPPER = 'unknown', 1.0
# Share of the class colour in the overlay, and the quality of its JPEG.
OVERLAY_ALPHA, OVERLAY_JPEG_QUALITY = 0.45, 80
# Energy alone is far from 0 on anything but the surest pixels.
UNKNOWN_BEGIN = 0.6
_LEGEND_SHARE = 0.09  # of the height of the picture
_SMALLEST_LEGEND_PX = 12
_BAND_ROWS = 32  # whose planes stay in the caches


def heatmap_upper(settings: Settings, thresholds: Mapping[str, float]) -> float:
    """
    Return the value of the warmest colour, in (0, 1], the same for every frame of a run.

    It is twice the calibrated threshold of the map's top score.
    """
    return min(2 * thresholds.get(f'{settings.map}.top', DEFAULT_HEATMAP_UPPER / 2), 1.0)


def color_mask(label: LabelMap, palette: Sequence[tuple[int, int, int]]) -> ImageU8:
    """Paint class ids (H, W) in the RGB colours of a palette, those beyond it black; BGR."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = np.asarray(palette, np.uint8)[:, ::-1]
    return np.asarray(cv2.applyColorMap(label, table), np.uint8)


def heatmap(values: FloatMap, upper: float) -> ImageU8:
    """
    Paint a map (H, W) from cold to warm over a fixed range, so that two frames can be compared.

    Parameters
    ----------
    values : ndarray of float32, shape (H, W)
        The map.
    upper : float
        Value of the warmest colour; values above it look the same.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR, magenta where the map is NaN.

    """
    is_whole = not np.isnan(values.max(initial=0.0))
    filled = values if is_whole else np.nan_to_num(values, nan=0.0)
    level = np.multiply(filled, np.float32(255.0 / upper))
    np.clip(level, 0, 255, out=level)
    picture = np.asarray(cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_TURBO), np.uint8)
    if not is_whole:
        picture[np.isnan(values)] = NAN_COLOR_BGR
    return picture


def two_maps(
    image_bgr: ImageU8, unsure: FloatMap, unknown: FloatMap, uppers: tuple[float, float]
) -> ImageU8:
    """
    Lay two maps (H, W) in two colours over the image in grey: amber is unsure, blue is unknown.

    `uppers` are the values drawn in full colour; the second begins at `UNKNOWN_BEGIN` of it. Where
    both are high the colours mix; magenta where a map is NaN.
    """
    picture = np.empty_like(image_bgr)
    for first in range(0, len(picture), _BAND_ROWS):
        rows = slice(first, first + _BAND_ROWS)
        planes = [np.divide(values[rows], np.float32(upper))
                  for values, upper in zip((unsure, unknown), uppers, strict=True)]
        picture[rows] = _two_colours(image_bgr[rows], *planes)
    if np.isnan(unsure.max(initial=0.0) + unknown.max(initial=0.0)):
        picture[np.isnan(unsure) | np.isnan(unknown)] = NAN_COLOR_BGR
    return picture


def _two_colours(image_bgr: ImageU8, first: FloatMap, second: FloatMap) -> ImageU8:
    """Mix amber and blue into a part of a grey image, where 1 is their full colour."""
    for plane in (first, second):
        np.clip(cv2.patchNaNs(plane, 0.0), 0, 1, out=plane)
    second -= np.float32(UNKNOWN_BEGIN)
    np.maximum(second, 0, out=second)
    second /= np.float32(1 - UNKNOWN_BEGIN)
    share = np.maximum(first, second)
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY) * np.float32(0.6)
    grey -= grey * share
    # Where both are high each has its part of the share.
    part = share / np.maximum(first + second, np.float32(1e-6))
    first *= part
    second *= part
    return np.asarray(cv2.merge([
        (grey + first * np.float32(amber) + second * np.float32(blue)).astype(np.uint8)
        for amber, blue in zip(AMBER_BGR, BLUE_BGR, strict=True)]), np.uint8)


def draw_legend(
    picture_bgr: ImageU8, names: tuple[str, str], uppers: tuple[float, float]
) -> ImageU8:
    """
    Draw what amber and blue mean at the lower edge of a picture of `two_maps`, in place.

    `names` and `uppers` are those of the maps. A picture too small for words is left as it is.
    """
    height, width = picture_bgr.shape[:2]
    band = round(height * _LEGEND_SHARE)
    if band < _SMALLEST_LEGEND_PX:
        return picture_bgr
    half = width // 2
    for index, color in enumerate((AMBER_BGR, BLUE_BGR)):
        left = index * half
        ramp = np.linspace(0, 1, half, dtype=np.float32)[:, None] * np.array(color, np.float32)
        picture_bgr[-band:, left:left + half] = ramp.astype(np.uint8)
        begin = uppers[index] * (0, UNKNOWN_BEGIN)[index]
        text = f'{("unsure", "unknown")[index]}: {names[index]} {begin:.2g}..{uppers[index]:.2g}'
        _write(picture_bgr, text, (left + 4, height - band // 3), half - 8, (255, 255, 255))
    return picture_bgr


def overlay(
    image_bgr: ImageU8, label: LabelMap, palette: Sequence[tuple[int, int, int]]
) -> ImageU8:
    """
    Lay class colours over an image; class 0 stays clear.

    Parameters
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        The image.
    label : ndarray of uint8, shape (H, W)
        Class ids.
    palette : sequence of (int, int, int)
        RGB colour of each class.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR.

    """
    mixed = cv2.addWeighted(
        image_bgr, 1 - OVERLAY_ALPHA, color_mask(label, palette), OVERLAY_ALPHA, 0)
    return np.asarray(cv2.copyTo(mixed, label, image_bgr.copy()), np.uint8)


def draw_flag(picture_bgr: ImageU8, verdict: Verdict) -> ImageU8:
    """
    Draw the flag into a BGR picture, in place: a coloured border and words.

    Green is confident, amber uncertain or recovering, red a fault.
    """
    height, width = picture_bgr.shape[:2]
    color = GREEN_BGR if verdict.is_confident else AMBER_BGR
    if verdict.kind in ('fault', 'unknown'):
        color = RED_BGR
    border = max(2, min(height, width) // 60)
    for edge in (np.s_[:border], np.s_[-border:], np.s_[:, :border], np.s_[:, -border:]):
        picture_bgr[edge] = color
    text = 'CONFIDENT'
    if not verdict.is_confident:
        text = f'NOT CONFIDENT: {verdict.reasons[0] if verdict.reasons else verdict.kind}'
    (_, text_height), _ = cv2.getTextSize(text, _FONT, _font_scale(picture_bgr), 1)
    _write(picture_bgr, text, (2 * border, 2 * border + text_height), width - 4 * border, color)
    return picture_bgr


def _font_scale(picture_bgr: ImageU8) -> float:
    return max(0.35, picture_bgr.shape[0] / 900)


def _write(
    picture_bgr: ImageU8, text: str, corner: tuple[int, int], room: int,
    color: tuple[int, int, int],
) -> None:
    """Write from a lower left corner, shown whole or cut, never wider than the room."""
    scale = _font_scale(picture_bgr)
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    if text_width > room:
        text = text[: max(9, len(text) * room // text_width)]
    # A dark outline keeps the words legible on any image.
    cv2.putText(picture_bgr, text, corner, _FONT, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture_bgr, text, corner, _FONT, scale, color, 1, cv2.LINE_AA)


class FrameView:
    """
    The pictures of one frame at the size of its image, each rendered on first use and only once.

    `result` is what the pipeline made of the BGR image, with the verdict that was published;
    `thresholds` are the calibrated ones, for the heatmap's range.
    """

    def __init__(
        self, image_bgr: ImageU8, result: FrameResult, card: ModelCard, settings: Settings,
        thresholds: Mapping[str, float],
    ) -> None:
        self._image_bgr, self._result = image_bgr, result
        self._card, self._settings, self._thresholds = card, settings, thresholds

    @property
    def size(self) -> tuple[int, int]:
        """H, W of every picture."""
        return self._image_bgr.shape[0], self._image_bgr.shape[1]

    @cached_property
    def mask(self) -> LabelMap:
        """Class ids (H, W)."""
        return self._result.label

    @cached_property
    def confidence(self) -> NDArray[np.uint8]:
        """Largest mean probability (H, W) as 0..255."""
        return self._result.confidence_at_source()

    @cached_property
    def uncertainty(self) -> FloatMap:
        """Return the chosen map (H, W), 0..1, NaN kept."""
        return self._result.map_at_source(self._settings.map)

    @cached_property
    def heatmap(self) -> ImageU8:
        """Return the chosen map in colours (H, W, 3); warm is uncertain."""
        return heatmap(self.uncertainty, heatmap_upper(self._settings, self._thresholds))

    @cached_property
    def unknown(self) -> FloatMap:
        """Return the second map (H, W), 0..1, NaN kept."""
        return self._result.map_at_source(UNKNOWN_MAP)

    @cached_property
    def uncertainty_overlay(self) -> ImageU8:
        """Both maps in two colours over the grey image (H, W, 3), with a legend."""
        uppers = heatmap_upper(self._settings, self._thresholds), UNKNOWN_UPPER
        picture = two_maps(self._image_bgr, self.uncertainty, self.unknown, uppers)
        return draw_legend(picture, (self._settings.map, UNKNOWN_MAP), uppers)

    @cached_property
    def mask_color(self) -> ImageU8:
        """Class colours (H, W, 3)."""
        return color_mask(self.mask, self._card.palette)

    @cached_property
    def overlay(self) -> ImageU8:
        """Class colours over the image (H, W, 3), with the flag as border and words."""
        picture = overlay(self._image_bgr, self.mask, self._card.palette)
        return draw_flag(picture, self._result.verdict)

    @cached_property
    def overlay_jpeg(self) -> bytes:
        """Return the overlay as a JPEG file, for a thin line to the operator."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_JPEG_QUALITY]
        return bytes(cv2.imencode('.jpg', self.overlay, quality)[1])
