# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The contact sheet of a dive, drawn with OpenCV: no font file, no plotting library.

Each column of the sheet is a moment, in order of time, with camera, classes, uncertainty and flag.
The plot of the score over the whole dive is below, with the same letters. Colours are BGR.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
import math
from pathlib import Path

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import color_mask
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.sim.demo.timeline import (
    DemoFrame,
    FlagEvent,
    iter_frames,
    Moment,
    PLAIN_EVENT,
    read_timeline,
    stamps_of_heatmaps,
    Timeline,
)

Color = tuple[int, int, int]

BACKGROUND: Color = (33, 27, 23)
PANEL: Color = (52, 44, 38)
INK: Color = (240, 240, 240)
DIM: Color = (170, 160, 152)
GRID: Color = (84, 74, 66)
LINE: Color = (255, 205, 120)
FLAG_COLORS: dict[str, Color] = {
    'confident': (88, 160, 40), 'uncertain': (0, 122, 230), 'recovering': (40, 170, 235),
    'fault': (50, 50, 205), 'dropped': (95, 88, 80)}
FLAG_WORDS = {'confident': 'CONFIDENT', 'uncertain': 'NOT CONFIDENT', 'recovering': 'RECOVERING',
              'fault': 'FAULT', 'dropped': 'NOT PROCESSED'}
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
        """Return the first column to its right."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """Return the first row below it."""
        return self.top + self.height


def fill(canvas: ImageU8, box: Box, color: Color, alpha: float = 1.0) -> None:
    """Fill a rectangle; with `alpha` below 1 mix the colour with the canvas."""
    area = canvas[box.top:box.bottom, box.left:box.right]
    area[:] = np.rint(area * (1 - alpha) + np.asarray(color) * alpha)


def paste(canvas: ImageU8, box: Box, picture: ImageU8) -> None:
    """Put a picture into a rectangle, scaled to it."""
    how = cv2.INTER_AREA if picture.shape[1] > box.width else cv2.INTER_NEAREST
    canvas[box.top:box.bottom, box.left:box.right] = cv2.resize(
        picture, (box.width, box.height), interpolation=how)


def text_width(text: str, cap_px: float, weight: int = 1) -> int:
    """Return the width in pixels of a line with capitals `cap_px` high."""
    return int(cv2.getTextSize(text, _FONT, cap_px / _CAP_PX, weight)[0][0])


def fit_text(text: str, cap_px: float, room: int) -> str:
    """Cut a line with an ellipsis so that it is not wider than `room` pixels."""
    if text_width(text, cap_px) <= room:
        return text
    while text and text_width(f'{text}...', cap_px) > room:
        text = text[:-1]
    return f'{text.rstrip()}...'


def write(
    canvas: ImageU8, text: str, left: int, middle: int, cap_px: float = 12, color: Color = INK,
    weight: int = 1, align: str = 'left',
) -> None:
    """Write a line of ASCII with capitals `cap_px` high, aligned 'left', 'centre' or 'right'."""
    shift = {'left': 0.0, 'centre': 0.5, 'right': 1.0}[align]
    x = left - round(shift * text_width(text, cap_px, weight))
    origin = (x, middle + round(cap_px / 2))
    cv2.putText(canvas, text, origin, _FONT, cap_px / _CAP_PX, color, weight, cv2.LINE_AA)


def draw_legend(
    canvas: ImageU8, card: ModelCard, left: int, middle: int, cap_px: float, room: int
) -> None:
    """Draw a row of class colours with their names, cut to the available width."""
    side, step = round(cap_px * 1.7), room // card.num_classes
    for name, (red, green, blue) in zip(card.class_names, card.palette, strict=True):
        swatch = Box(left, middle - side // 2, side, side)
        fill(canvas, swatch, (blue, green, red))
        cv2.rectangle(canvas, (swatch.left, swatch.top), (swatch.right, swatch.bottom), DIM, 1)
        words = fit_text(name.replace('_', ' '), cap_px, max(step - 3 * side, 0))
        write(canvas, words, swatch.right + side // 2, middle, cap_px)
        left += step


EVENT_TINT: Color = (190, 150, 120)
_TICKS, _STEPS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), (0.5, 1, 2, 5, 10, 20, 60, 120)


class ScorePlot:
    """
    Score over time, with the flag as a coloured band below and the events by name above.

    The vertical axis is a square root, to show both the threshold at 1 and peaks far above it.
    """

    def __init__(self, box: Box, timeline: Timeline, cap_px: float) -> None:
        self._timeline, self._cap_px = timeline, cap_px
        unit = round(cap_px)
        self._band = Box(box.left, box.bottom - 5 * unit, box.width, 2 * unit)
        top = box.top + 3 * unit
        self._area = Box(box.left, top, box.width, self._band.top - unit // 2 - top)
        self._span_s = max(timeline.duration_s, 1e-6)
        ratios = [m.ratio for m in timeline.moments if math.isfinite(m.ratio)]
        self._upper = max(2.0, min(1.1 * max(ratios, default=0.0), 9.0))

    def x_of(self, time_s: float) -> int:
        """Return the column of a time."""
        share = min(max(time_s / self._span_s, 0.0), 1.0)
        return self._area.left + round(share * (self._area.width - 1))

    def y_of(self, ratio: float) -> int:
        """Return the row of a ratio; too large ones are on the upper edge."""
        share = math.sqrt(min(max(ratio, 0.0) / self._upper, 1.0))
        return self._area.bottom - 1 - round(share * (self._area.height - 1))

    def draw(self, canvas: ImageU8) -> None:
        """Draw everything except the marks."""
        fill(canvas, self._area, PANEL)
        for event in self._timeline.events:
            self._draw_event(canvas, event)
        self._draw_axes(canvas)
        self._draw_band(canvas)
        points = [(self.x_of(m.time_s), self.y_of(m.ratio)) for m in self._timeline.taken]
        if points:
            polyline = np.array(points, np.int32).reshape(-1, 1, 2)
            cv2.polylines(canvas, [polyline], False, LINE, 2, cv2.LINE_AA)

    def mark(self, canvas: ImageU8, time_s: float, name: str) -> None:
        """Draw a vertical mark at a time, with a letter on top."""
        x, unit = self.x_of(time_s), round(self._cap_px)
        cv2.line(canvas, (x, self._area.top), (x, self._band.bottom), INK, 2)
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
        step_s = next((s for s in _STEPS_S if s >= self._span_s / 8), _STEPS_S[-1])
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
            # A dropped frame keeps the flag of the frame before it.
            kind = kind if moment.kind == 'dropped' else moment.kind
            left = self.x_of(moment.time_s)
            right = self.x_of(later.time_s) if later else self._band.right
            box = Box(left, self._band.top, max(right - left, 1), self._band.height)
            fill(canvas, box, FLAG_COLORS[kind])


def make_pictures(
    dive: Path, outputs: Path, card: ModelCard, subtitle: str, sheet_path: Path
) -> Timeline:
    """Draw the contact sheet (.png); UncertaintySegError if a file cannot be read or written."""
    timeline = read_timeline(dive, outputs)
    moments = choose_moments(timeline, stamps_of_heatmaps(outputs))
    chosen = list(iter_frames(dive, outputs, moments))
    if not cv2.imwrite(str(sheet_path), draw_sheet(chosen, timeline, card, subtitle)):
        raise UncertaintySegError(f'{sheet_path} cannot be written', 'a writable folder')
    return timeline


# -------------------------------------------------------------------------------------------------
# The contact sheet.

CELL_WIDTH = 400
MAX_COLUMNS = 6
_NUM_REASONS = 2
# Meaning of a score over its threshold, by the start of its name; the first match is written.
_MEANINGS = {
    'density': 'unlike anything it was trained on',
    'features': 'unlike anything it was trained on',
    'energy': 'unlike the training images', 'mutual_information': 'the passes disagree',
    'margin': 'two classes are equally likely', 'image': 'a poor image',
    'all scores': 'as in training, and the classes are clear',
}
# Pixels: outer edge, gap between columns, width of row names; then heights from top to bottom.
_EDGE, _GAP, _NAMES = 28, 10, 150
_HEADER, _TITLE, _PLATE, _REASON, _CURVE, _KEY = 96, 44, 48, 84, 420, 56


def choose_moments(timeline: Timeline, drawn: Collection[int]) -> list[Moment]:
    """
    Choose the worst moment of each event and up to three plain ones, in order of time.

    On a busy computer pictures are missing: moments whose stamp is in `drawn` are preferred.
    """
    plain = _drawn_first(
        [m for m in timeline.taken if m.event == PLAIN_EVENT and m.is_confident], drawn)
    chosen = plain[len(plain) // 8:][:1]
    for event in timeline.events:
        inside = [m for m in timeline.taken if event.start_s <= m.time_s < event.stop_s
                  and not math.isnan(m.ratio)]
        chosen += sorted(_drawn_first(inside, drawn), key=lambda m: m.ratio)[-1:]
    chosen += plain[len(plain) // 2:][:1] + plain[-1:]
    unique = {m.stamp_ns: m for m in chosen[:MAX_COLUMNS]}
    return sorted(unique.values(), key=lambda m: m.stamp_ns)


def _drawn_first(moments: list[Moment], drawn: Collection[int]) -> list[Moment]:
    return [m for m in moments if m.stamp_ns in drawn] or moments


def draw_sheet(
    frames: Sequence[DemoFrame], timeline: Timeline, card: ModelCard, subtitle: str
) -> ImageU8:
    """Draw the sheet of the chosen moments, BGR (H, W, 3)."""
    first = frames[0].image if frames else np.zeros((3, 4, 3), np.uint8)
    cell_height = round(CELL_WIDTH * first.shape[0] / first.shape[1])
    columns_width = MAX_COLUMNS * (CELL_WIDTH + _GAP) - _GAP
    width = 2 * _EDGE + _NAMES + columns_width
    rows_height = _TITLE + 3 * (cell_height + _GAP) + _PLATE + _REASON
    height = _HEADER + rows_height + _CURVE + _KEY + _EDGE
    canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
    write(canvas, 'What the vehicle sees, and how far to trust it', _EDGE, 38, 24, weight=2)
    write(canvas, subtitle, _EDGE, 76, 14, DIM)
    for k, frame in enumerate(frames):
        left = _EDGE + _NAMES + k * (CELL_WIDTH + _GAP)
        _draw_column(canvas, left, cell_height, chr(ord('A') + k), frame, card)
    _draw_row_names(canvas, cell_height)
    plot_top = _HEADER + rows_height
    plot = ScorePlot(Box(_EDGE + _NAMES, plot_top, columns_width, _CURVE), timeline, 15)
    plot.draw(canvas)
    for k, name in enumerate(('score', '/ threshold')):
        write(canvas, name, _EDGE, plot_top + 70 + 26 * k, 13, DIM)
    for k, frame in enumerate(frames):
        plot.mark(canvas, frame.moment.time_s, chr(ord('A') + k))
    draw_legend(canvas, card, _EDGE + _NAMES, plot_top + _CURVE + _KEY // 2, 14, columns_width)
    return canvas


def _draw_column(
    canvas: ImageU8, left: int, height: int, letter: str, frame: DemoFrame, card: ModelCard
) -> None:
    moment = frame.moment
    words = moment.event.replace('_', ' ')
    write(canvas, f'{letter}  {moment.time_s:.1f} s  {words}', left, _HEADER + 20, 15, weight=2)
    pictures = (
        frame.image,
        None if frame.label is None else color_mask(frame.label, card.palette),
        frame.heatmap,
    )
    top = _HEADER + _TITLE
    for picture in pictures:
        box = Box(left, top, CELL_WIDTH, height)
        fill(canvas, box, PANEL)
        if picture is not None:
            paste(canvas, box, picture)
        top += height + _GAP
    fill(canvas, Box(left, top, CELL_WIDTH, _PLATE), FLAG_COLORS[moment.kind])
    write(canvas, FLAG_WORDS[moment.kind], left + CELL_WIDTH // 2, top + _PLATE // 2, 17,
          (255, 255, 255), 2, 'centre')
    write(canvas, fit_text(in_words(moment.reason), 11, CELL_WIDTH), left, top + _PLATE + 18, 11)
    for line, reason in enumerate(moment.reason.split('; ')[:_NUM_REASONS], 1):
        text = fit_text(reason, 9, CELL_WIDTH)
        write(canvas, text, left, top + _PLATE + 18 + 22 * line, 9, DIM)


def in_words(reason: str) -> str:
    """Return the meaning of a verdict's reason in a few words; empty if it names no score."""
    parts = reason.split('; ')
    return next((words for start, words in _MEANINGS.items()
                 if any(part.startswith(start) for part in parts)), '')


def _draw_row_names(canvas: ImageU8, height: int) -> None:
    top = _HEADER + _TITLE
    for name, more in (('camera', ''), ('classes', ''), ('heatmap', 'bright: unsure')):
        write(canvas, name, _EDGE, top + height // 2, 16)
        write(canvas, more, _EDGE, top + height // 2 + 26, 11, DIM)
        top += height + _GAP
    write(canvas, 'flag', _EDGE, top + _PLATE // 2, 16)
    write(canvas, 'why', _EDGE, top + _PLATE + 18, 16)
