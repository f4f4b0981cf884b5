# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Text, flags and the plot of the score, drawn with OpenCV alone: no font file, no plotting library.

Colours are BGR. The flag is a coloured band under the score, and the events are named above it.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.sim.demo.timeline import FlagEvent, Timeline

Color = tuple[int, int, int]

BACKGROUND: Color = (33, 27, 23)
PANEL: Color = (52, 44, 38)
INK: Color = (240, 240, 240)
DIM: Color = (170, 160, 152)
GRID: Color = (84, 74, 66)
LINE: Color = (255, 205, 120)
FLAG_COLORS: dict[str, Color] = {
    'confident': (88, 160, 40),
    'uncertain': (0, 122, 230),
    'recovering': (40, 170, 235),
    'fault': (50, 50, 205),
    'dropped': (95, 88, 80),
}
FLAG_WORDS = {
    'confident': 'CONFIDENT',
    'uncertain': 'NOT CONFIDENT',
    'recovering': 'RECOVERING',
    'fault': 'FAULT',
    'dropped': 'NOT PROCESSED',
}
_FONT = cv2.FONT_HERSHEY_DUPLEX
# Height of a capital letter of the font at scale 1.
_CAP_PX = 21.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column right of it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.top + self.height


def blank(width: int, height: int) -> ImageU8:
    """Return an empty canvas (height, width, 3)."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def fill(canvas: ImageU8, box: Box, color: Color, alpha: float = 1.0) -> None:
    """Fill a rectangle; below an `alpha` of 1 the colour is mixed with the canvas."""
    area = canvas[box.top:box.bottom, box.left:box.right]
    if alpha >= 1:
        area[:] = color
    else:
        area[:] = np.rint(area * (1 - alpha) + np.asarray(color) * alpha).astype(np.uint8)


def paste(canvas: ImageU8, box: Box, picture: ImageU8) -> None:
    """Put a picture into a rectangle, scaled to it."""
    is_shrinking = picture.shape[1] > box.width
    scaled = cv2.resize(
        picture, (box.width, box.height),
        interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_NEAREST,
    )
    canvas[box.top:box.bottom, box.left:box.right] = scaled


def text_width(text: str, cap_px: float, weight: int = 1) -> int:
    """Return the width in pixels of a line with capitals `cap_px` high."""
    return int(cv2.getTextSize(text, _FONT, cap_px / _CAP_PX, weight)[0][0])


def fit_text(text: str, cap_px: float, room: int, weight: int = 1) -> str:
    """Cut a line with an ellipsis so that it is not wider than `room` pixels."""
    if text_width(text, cap_px, weight) <= room:
        return text
    while text and text_width(f'{text}...', cap_px, weight) > room:
        text = text[:-1]
    return f'{text.rstrip()}...'


def write(
    canvas: ImageU8,
    text: str,
    left: int,
    middle: int,
    cap_px: float = 12,
    color: Color = INK,
    weight: int = 1,
    align: str = 'left',
) -> None:
    """
    Write a line of text.

    Parameters
    ----------
    canvas : ndarray of uint8, shape (H, W, 3)
        Changed in place.
    text : str
        ASCII; the font has no other letters.
    left, middle : int
        Where the line begins (or is centred, or ends), and the row of its middle.
    cap_px : float
        Height of its capitals.
    color : tuple of int
        BGR.
    weight : int
        Stroke width in pixels.
    align : str
        'left', 'centre' or 'right' of `left`.

    """
    shift = {'left': 0.0, 'centre': 0.5, 'right': 1.0}[align]
    x = left - round(shift * text_width(text, cap_px, weight))
    origin = (x, middle + round(cap_px / 2))
    cv2.putText(canvas, text, origin, _FONT, cap_px / _CAP_PX, color, weight, cv2.LINE_AA)


def plate(canvas: ImageU8, box: Box, kind: str, cap_px: float, weight: int = 2) -> None:
    """Draw the flag as its name on its colour."""
    fill(canvas, box, FLAG_COLORS[kind])
    middle = (box.left + box.right) // 2, (box.top + box.bottom) // 2
    write(canvas, FLAG_WORDS[kind], *middle, cap_px, (255, 255, 255), weight, 'centre')


def legend(
    canvas: ImageU8,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    left: int,
    middle: int,
    cap_px: float,
) -> int:
    """Draw a row of class colours with their names; return the column where it ends."""
    side = round(cap_px * 1.7)
    for name, (red, green, blue) in zip(names, palette, strict=True):
        swatch = Box(left, middle - side // 2, side, side)
        fill(canvas, swatch, (blue, green, red))
        cv2.rectangle(canvas, (swatch.left, swatch.top), (swatch.right, swatch.bottom), DIM, 1)
        words = name.replace('_', ' ')
        write(canvas, words, swatch.right + side // 2, middle, cap_px)
        left = swatch.right + side // 2 + text_width(words, cap_px) + side * 3 // 2
    return left


EVENT_TINT: Color = (190, 150, 120)
_TICKS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


class ScorePlot:
    """
    Score over time, with the flag as a coloured band below and the events by name above.

    The vertical axis is a square root, to show both the threshold at 1 and peaks far above it.

    Parameters
    ----------
    box : Box
        Its place on the canvas, without the numbers left of it.
    timeline : Timeline
        The dive.
    cap_px : float
        Height of its capitals.

    """

    def __init__(self, box: Box, timeline: Timeline, cap_px: float) -> None:
        self._timeline, self._cap_px = timeline, cap_px
        unit = round(cap_px)
        self._band = Box(box.left, box.bottom - 5 * unit, box.width, 2 * unit)
        top = box.top + 3 * unit
        self._area = Box(
            self._band.left, top, self._band.width, self._band.top - unit // 2 - top
        )
        self._span_s = max(timeline.duration_s, 1e-6)
        ratios = [m.ratio for m in timeline.moments if math.isfinite(m.ratio)]
        self._upper = max(2.0, min(1.1 * max(ratios, default=0.0), 9.0))

    def x_of(self, time_s: float) -> int:
        """Return the column of a time."""
        share = min(max(time_s / self._span_s, 0.0), 1.0)
        return self._area.left + round(share * (self._area.width - 1))

    def y_of(self, ratio: float) -> int:
        """Return the row of a ratio; one that is too large is on the upper edge."""
        share = math.sqrt(min(max(ratio, 0.0) / self._upper, 1.0))
        return self._area.bottom - 1 - round(share * (self._area.height - 1))

    def draw(self, canvas: ImageU8) -> None:
        """Draw everything but the marks."""
        fill(canvas, self._area, PANEL)
        for event in self._timeline.events:
            self._draw_event(canvas, event)
        self._draw_axes(canvas)
        self._draw_band(canvas)
        self._draw_line(canvas)

    def mark(self, canvas: ImageU8, time_s: float, name: str = '') -> None:
        """Draw a vertical mark at a time, with a letter on top."""
        x, unit = self.x_of(time_s), round(self._cap_px)
        cv2.line(canvas, (x, self._area.top), (x, self._band.bottom), INK, 2)
        if name:
            centre = (x, self._area.top)
            cv2.circle(canvas, centre, unit, INK, -1, cv2.LINE_AA)
            write(canvas, name, *centre, self._cap_px, (0, 0, 0), 2, 'centre')

    def _draw_event(self, canvas: ImageU8, event: FlagEvent) -> None:
        left, right = self.x_of(event.start_s), self.x_of(event.stop_s)
        box = Box(left, self._area.top, max(right - left, 2), self._band.bottom - self._area.top)
        fill(canvas, box, EVENT_TINT, 0.35)
        name_row = self._area.top - round(1.9 * self._cap_px)
        write(canvas, event.title, (left + right) // 2, name_row, self._cap_px, INK, 1, 'centre')

    def _draw_axes(self, canvas: ImageU8) -> None:
        area, unit = self._area, round(self._cap_px)
        for tick in _TICKS:
            if tick <= self._upper:
                y = self.y_of(tick)
                color = INK if tick == 1 else GRID
                cv2.line(canvas, (area.left, y), (area.right, y), color, 2 if tick == 1 else 1)
                write(canvas, f'{tick:g}', area.left - unit // 2, y, self._cap_px, INK, 1, 'right')
        write(canvas, 'threshold', area.right - unit // 2, self.y_of(1) - unit, self._cap_px, INK,
              1, 'right')
        row = self._band.bottom + round(1.2 * self._cap_px)
        step_s = _round_step(self._span_s / 8)
        for k in range(int(self._span_s / step_s) + 1):
            x = self.x_of(k * step_s)
            write(canvas, f'{k * step_s:g} s', x, row, self._cap_px, DIM, 1, 'centre')
        middle = (self._band.top + self._band.bottom) // 2
        write(canvas, 'flag', area.left - unit // 2, middle, self._cap_px, INK, 1, 'right')

    def _draw_band(self, canvas: ImageU8) -> None:
        moments = self._timeline.moments
        fill(canvas, self._band, FLAG_COLORS['dropped'])
        kind = 'dropped'
        for moment, later in zip(moments, [*moments[1:], None], strict=True):
            # After a dropped frame the flag before it is still in force.
            kind = kind if moment.kind == 'dropped' else moment.kind
            left = self.x_of(moment.time_s)
            right = self.x_of(later.time_s) if later else self._band.right
            box = Box(left, self._band.top, max(right - left, 1), self._band.height)
            fill(canvas, box, FLAG_COLORS[kind])

    def _draw_line(self, canvas: ImageU8) -> None:
        points = [(self.x_of(m.time_s), self.y_of(m.ratio)) for m in self._timeline.taken]
        if points:
            polyline = np.array(points, np.int32).reshape(-1, 1, 2)
            cv2.polylines(canvas, [polyline], False, LINE, 2, cv2.LINE_AA)


def _round_step(wanted_s: float) -> float:
    for step_s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300):
        if step_s >= wanted_s:
            return step_s
    return 600.0
