# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Maps as pictures for viewing: class colours, the heatmap over the darkened image, an overlay.

The caller sets the ranges of values, so that pictures of different frames can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import FrameResult
from uncertainty_seg.core.settings import Settings

# Not a colour of the heatmap, so that NaN can be recognised.
NAN_COLOR_BGR = (255, 0, 255)
GREEN_BGR, AMBER_BGR, RED_BGR = (60, 200, 60), (0, 170, 255), (50, 50, 230)
# Not a colour of the heatmap either: outlines regions unlike the training images.
OUTLINE_BGR = (255, 255, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
UNKNOWN_MAP, UNKNOWN_SCORE = 'unknown', 'unknown.top'
# Share of the class colour in the overlay, and the quality of its JPEG.
OVERLAY_ALPHA, OVERLAY_JPEG_QUALITY = 0.45, 80
# Range of the colours if the map has no calibrated thresholds.
DEFAULT_SPAN = (0.25, 0.75)
# The same for maps of the disagreement between passes, whose values are far smaller.
_SMALL_SPAN, _SMALL_MAPS = (0.02, 0.2), ('mutual_information', 'total_variance')
# Brightness of the image below the colours, and their opacity at the range's upper end.
_DARKENED, _HEAT_ALPHA = 0.5, 0.9
# Share of the range over which the colours fade in, and of the colour map that is skipped: its
# beginning is a purple that looks like shadow.
_FADE_IN, _FIRST_COLOR = 0.4, 0.4
# Shares of the height: of the smoothing of outlines, which removes thin parts, and of their width.
_SMOOTHED_SHARE, _OUTLINE_SHARE = 1 / 30, 1 / 160
# Height of the legend as a share of the picture's, and the smallest height that can be read.
_LEGEND_SHARE, _SMALLEST_LEGEND_PX = 0.055, 12
_LEGEND_BGR = (24, 24, 24)


class HeatScale(NamedTuple):
    """
    The scale of the heatmap of a map, the same in every frame of a run.

    Values at or below `lower` show the image, those at or above `upper` are brightest. Regions
    where the map `unknown` is above `unknown_above` are outlined; none are if that is None.
    """

    name: str
    lower: float
    upper: float
    unknown_above: float | None = None


def heat_scale(
    name: str, thresholds: Mapping[str, float], frames: Mapping[str, ArrayLike] | None = None
) -> HeatScale:
    """
    Return the scale of a map by the calibrated thresholds of its scores.

    It ranges from half the threshold of the map's mean, which is above most frames, to the
    threshold of its top score, which the most uncertain pixels of nearly every frame are below on
    average. Without any threshold it ranges from the median of the means of `frames`, scores (n,)
    of all frames to be shown, to the 98 % quantile of their top scores; else it is a default.
    """
    lower = thresholds.get(f'{name}.mean', np.nan) / 2
    upper = thresholds.get(f'{name}.top', np.nan)
    if not thresholds and frames is not None:
        lower, upper = (_quantile(frames.get(f'{name}.{kind}', ()), share)
                        for kind, share in (('mean', 0.5), ('top', 0.98)))
    if not lower < upper:
        lower, upper = _SMALL_SPAN if name in _SMALL_MAPS else DEFAULT_SPAN
    return HeatScale(name, lower, upper, thresholds.get(UNKNOWN_SCORE))


def _quantile(values: ArrayLike, share: float) -> float:
    """Return a quantile of the finite values; NaN if there is none."""
    given = np.asarray(values, np.float64)
    finite = given[np.isfinite(given)]
    return float(np.quantile(finite, share)) if len(finite) else float('nan')


def color_mask(label: LabelMap, palette: Sequence[tuple[int, int, int]]) -> ImageU8:
    """Return class ids (H, W) in the RGB colours of a palette, as BGR; ids beyond it are black."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = np.asarray(palette, np.uint8)[:, ::-1]
    return np.asarray(cv2.applyColorMap(label, table), np.uint8)


def _heat_tables() -> tuple[ImageU8, NDArray[np.uint8]]:
    """Return for 256 levels the colour times its opacity (256, 1, 3), and the image's factor."""
    level = np.linspace(0, 1, 256)
    ramp = np.rint(255 * (_FIRST_COLOR + (1 - _FIRST_COLOR) * level)).astype(np.uint8)
    share = _HEAT_ALPHA * np.minimum(level / _FADE_IN, 1)
    colors = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO) * share[:, None, None]
    below = np.rint(255 * _DARKENED * (1 - share))
    return np.rint(colors).astype(np.uint8), below.astype(np.uint8)


_HEAT_COLORS, _IMAGE_SHARES = _heat_tables()


def heatmap(
    image_bgr: ImageU8, values: FloatMap, span: tuple[float, float] = DEFAULT_SPAN,
    outlined: NDArray[np.bool_] | None = None,
) -> ImageU8:
    """
    Draw a map in warm colours over the darkened grey image; bright pixels are uncertain.

    Parameters
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        The image.
    values : ndarray of float32, shape (H, W)
        The map.
    span : (float, float)
        Values at or below the first show the image, those at or above the second are brightest.
        Use the same span for all frames, so that they can be compared.
    outlined : ndarray of bool, shape (H, W), optional
        Regions outlined in cyan after smoothing by a thirtieth of the height, which removes specks
        and thin lines.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR, magenta where the map is NaN.

    """
    lower, upper = span
    scale = 255.0 / (upper - lower)
    level = cv2.convertScaleAbs(np.clip(values, lower, upper), alpha=scale, beta=-lower * scale)
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    grey = cv2.multiply(grey, cv2.LUT(level, _IMAGE_SHARES), scale=1 / 255)
    below = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    picture = cv2.add(cv2.applyColorMap(level, _HEAT_COLORS), below)
    if outlined is not None:
        _outline(picture, outlined)
    if np.isnan(values.max(initial=0.0)):
        picture[np.isnan(values)] = NAN_COLOR_BGR
    return np.asarray(picture, np.uint8)


def _outline(picture: cv2.typing.MatLike, regions: NDArray[np.bool_]) -> None:
    """Outline the regions, in place; a dark edge separates the line from bright colours."""
    height = regions.shape[0]
    size, width = round(height * _SMOOTHED_SHARE) + 1, max(1, round(height * _OUTLINE_SHARE))
    # More than half of the square around a pixel has to be in the region.
    share = cv2.blur(regions.astype(np.uint8) * np.uint8(255), (size, size))
    _, smooth = cv2.threshold(share, 127, 255, cv2.THRESH_BINARY)
    found, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, found, -1, (0, 0, 0), width + 2, cv2.LINE_AA)
    cv2.drawContours(picture, found, -1, OUTLINE_BGR, width, cv2.LINE_AA)


@lru_cache(maxsize=8)
def heat_legend(scale: HeatScale, height: int) -> ImageU8:
    """Return the legend of a heatmap, of the given height and as wide as its text."""
    room, size, gap = 50 * height, height / 62, height // 2
    picture = np.full((height, room, 3), _LEGEND_BGR, np.uint8)

    def write(words: str, left: int) -> int:
        _write(picture, words, (left, height - height // 3), room, size)
        return left + cv2.getTextSize(words, _FONT, size, 1)[0][0] + gap

    left = write(f'{scale.name} {scale.lower:.2g}', gap)
    ramp = picture[height // 7:height - height // 7, left:left + 5 * height]
    ramp[:] = heatmap(np.full_like(ramp, 128), np.tile(
        np.linspace(0, 1, 5 * height, dtype=np.float32), (len(ramp), 1)), (0.0, 1.0))
    left = write(f'{scale.upper:.2g} do not trust', left + 5 * height + gap)
    if scale.unknown_above is not None:
        corner = left + height, height - height // 4
        cv2.rectangle(picture, (left, height // 4), corner, OUTLINE_BGR, max(1, height // 12))
        left = write('unlike training', left + height + gap)
    return picture[:, :left]


def overlay(
    image_bgr: ImageU8, label: LabelMap, palette: Sequence[tuple[int, int, int]]
) -> ImageU8:
    """
    Draw class colours over an image; class 0 stays transparent.

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

    Green is confident, amber uncertain or recovering, red a fault or unknown.
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
    scale = max(0.35, height / 900)
    (_, text_height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    corner = 2 * border, 2 * border + text_height
    _write(picture_bgr, text, corner, width - 4 * border, scale, color)
    return picture_bgr


def _write(
    picture_bgr: ImageU8, text: str, corner: tuple[int, int], room: int, scale: float,
    color: tuple[int, int, int] = (255, 255, 255),
) -> None:
    """Write text from its lower left corner, cut to fit `room` pixels or to 9 characters."""
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    if text_width > room:
        text = text[: max(9, len(text) * room // text_width)]
    # A dark outline keeps the words legible on any image.
    cv2.putText(picture_bgr, text, corner, _FONT, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture_bgr, text, corner, _FONT, scale, color, 1, cv2.LINE_AA)


class FrameView:
    """
    The pictures of one frame at the size of its image, each rendered on first use and only once.

    `result` is that of the pipeline for the BGR image, with the published verdict; `thresholds`
    are the calibrated ones, for the heatmap's `scale`.
    """

    def __init__(
        self, image_bgr: ImageU8, result: FrameResult, card: ModelCard, settings: Settings,
        thresholds: Mapping[str, float],
    ) -> None:
        self._image_bgr, self._result = image_bgr, result
        self._card, self._settings = card, settings
        self.scale = heat_scale(settings.map, thresholds)

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W) of every picture."""
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
    def unknown(self) -> FloatMap:
        """Return the second map (H, W), 0..1, NaN kept."""
        return self._result.map_at_source(UNKNOWN_MAP)

    def plain_heatmap(self, scale: HeatScale) -> ImageU8:
        """Return the chosen map in colours of a scale over the image (H, W, 3), no legend."""
        above = scale.unknown_above
        outlined = None if above is None else self.unknown > above
        return heatmap(self._image_bgr, self.uncertainty, scale[1:3], outlined)

    @cached_property
    def heatmap(self) -> ImageU8:
        """Draw the chosen map in colours over the image (H, W, 3), with a legend if it fits."""
        picture = self.plain_heatmap(self.scale)
        height, width = self.size
        legend = heat_legend(self.scale, max(round(height * _LEGEND_SHARE), 1))
        band = min(len(legend), len(legend) * width // legend.shape[1])
        if band >= _SMALLEST_LEGEND_PX:
            legend = heat_legend(self.scale, band)[:, :width]
            picture[-band:] = _LEGEND_BGR
            picture[-band:, :legend.shape[1]] = legend
        return picture

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
        """Return the overlay as a JPEG file, for a slow link to the operator."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_JPEG_QUALITY]
        return bytes(cv2.imencode('.jpg', self.overlay, quality)[1])
