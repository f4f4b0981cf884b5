# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The contact sheet and the video of a dive, drawn with OpenCV: no font file, no plotting library.

A column of the sheet is a moment, in order of time, with camera, classes, uncertainty and flag;
the score over the whole dive is below, with the same letters. Colours are BGR.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
import logging
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import color_mask, overlay
from uncertainty_seg.errors import install_command, UncertaintySegError
from uncertainty_seg.sim.demo.timeline import (
    Accuracy,
    DemoFrame,
    FlagEvent,
    iter_frames,
    Moment,
    PLAIN_EVENT,
    read_timeline,
    Timeline,
)
from uncertainty_seg.storage.progress import progress

_LOG = logging.getLogger(__name__)
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
    """Write a line of ASCII with capitals `cap_px` high, to the 'left', 'centre' or 'right'."""
    shift = {'left': 0.0, 'centre': 0.5, 'right': 1.0}[align]
    x = left - round(shift * text_width(text, cap_px, weight))
    origin = (x, middle + round(cap_px / 2))
    cv2.putText(canvas, text, origin, _FONT, cap_px / _CAP_PX, color, weight, cv2.LINE_AA)


def draw_legend(
    canvas: ImageU8, card: ModelCard, left: int, middle: int, cap_px: float, room: int
) -> None:
    """Draw a row of class colours with their names, cut to the room that each has."""
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
        points = [(self.x_of(m.time_s), self.y_of(m.ratio)) for m in self._timeline.taken]
        if points:
            polyline = np.array(points, np.int32).reshape(-1, 1, 2)
            cv2.polylines(canvas, [polyline], False, LINE, 2, cv2.LINE_AA)

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
            # After a dropped frame the flag before it is still in force.
            kind = kind if moment.kind == 'dropped' else moment.kind
            left = self.x_of(moment.time_s)
            right = self.x_of(later.time_s) if later else self._band.right
            box = Box(left, self._band.top, max(right - left, 1), self._band.height)
            fill(canvas, box, FLAG_COLORS[kind])


def make_pictures(
    dive: Path, outputs: Path, card: ModelCard, subtitle: str, sheet_path: Path, video_path: Path
) -> tuple[Timeline, Accuracy]:
    """
    Draw the contact sheet (.png) and the video (.mp4) of a dive in one pass through its bags.

    Raises UncertaintySegError if a bag cannot be read or a file cannot be written.
    """
    timeline = read_timeline(dive, outputs)
    accuracy = Accuracy(card.num_classes, card.ignore_index)
    wanted = {moment.stamp_ns for moment in choose_moments(timeline)}
    chosen: list[DemoFrame] = []
    frames = iter_frames(dive, outputs, timeline)
    first = next(frames)
    size = first.image.shape[0], first.image.shape[1]
    with DiveVideo(video_path, timeline, card, size) as video:
        for frame in progress(chain([first], frames), total=len(timeline.moments), desc='video'):
            video.add(frame)
            accuracy.add(frame)
            if frame.moment.stamp_ns in wanted:
                chosen.append(frame)
    if not cv2.imwrite(str(sheet_path), draw_sheet(chosen, timeline, card, subtitle)):
        raise UncertaintySegError(f'{sheet_path} cannot be written', 'a folder with room')
    return timeline, accuracy


# -------------------------------------------------------------------------------------------------
# The contact sheet.

CELL_WIDTH = 400
MAX_COLUMNS = 6
_NUM_REASONS = 3
# In pixels: the edge, between columns, for the names of the rows; heights from top to bottom.
_EDGE, _GAP, _NAMES = 28, 10, 150
_HEADER, _TITLE, _PLATE, _REASON, _CURVE, _KEY = 96, 44, 48, 84, 420, 56


def choose_moments(timeline: Timeline) -> list[Moment]:
    """Choose a plain moment, the worst of each event, and two after it, in order of time."""
    plain = [m for m in timeline.taken if m.event == PLAIN_EVENT and m.is_confident]
    chosen = plain[len(plain) // 8:][:1]
    for event in timeline.events:
        inside = [m for m in timeline.taken if event.start_s <= m.time_s < event.stop_s
                  and not math.isnan(m.ratio)]
        chosen += sorted(inside, key=lambda m: m.ratio)[-1:]
    chosen += plain[len(plain) // 2:][:1] + plain[-1:]
    unique = {m.stamp_ns: m for m in chosen[:MAX_COLUMNS]}
    return sorted(unique.values(), key=lambda m: m.stamp_ns)


def draw_sheet(
    frames: Sequence[DemoFrame], timeline: Timeline, card: ModelCard, subtitle: str
) -> ImageU8:
    """Draw the sheet of the chosen moments, BGR (H, W, 3)."""
    first = frames[0].image if frames else np.zeros((3, 4, 3), np.uint8)
    cell_height = round(CELL_WIDTH * first.shape[0] / first.shape[1])
    columns_width = MAX_COLUMNS * (CELL_WIDTH + _GAP) - _GAP
    width = 2 * _EDGE + _NAMES + columns_width
    rows_height = _TITLE + 3 * (cell_height + _GAP) + _PLATE + _REASON
    canvas = blank(width, _HEADER + rows_height + _CURVE + _KEY + _EDGE)
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
        frame.uncertainty,
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
    for line, reason in enumerate(moment.reason.split('; ')[:_NUM_REASONS]):
        text = fit_text(reason, 9, CELL_WIDTH)
        write(canvas, text, left, top + _PLATE + 18 + 22 * line, 9, INK)


def _draw_row_names(canvas: ImageU8, height: int) -> None:
    top = _HEADER + _TITLE
    for name, more in (('camera', ''), ('classes', ''), ('unsure', 'blue: unknown')):
        write(canvas, name, _EDGE, top + height // 2, 16)
        write(canvas, more, _EDGE, top + height // 2 + 26, 11, DIM)
        top += height + _GAP
    write(canvas, 'flag', _EDGE, top + _PLATE // 2, 16)
    write(canvas, 'why', _EDGE, top + _PLATE + 18, 16)


# -------------------------------------------------------------------------------------------------
# The video.

PANEL_WIDTH = 512
# In pixels: heights from top to bottom, and the room for the numbers left of the plot.
_MARGIN, _BANNER, _LABELS, _PLOT, _LEGEND, _GUTTER = 16, 76, 34, 230, 44, 50


class DiveVideo:
    """
    The video of a dive at its rate, H.264, written frame by frame inside a `with` block.

    Side by side: camera, classes over it, uncertainty; the flag above, the score below. Without
    PyAV there is none, and a warning.
    """

    def __init__(
        self, path: Path, timeline: Timeline, card: ModelCard, size: tuple[int, int]
    ) -> None:
        self._card = card
        self._panel_height = round(PANEL_WIDTH * size[0] / size[1])
        width = 3 * PANEL_WIDTH + 4 * _MARGIN
        height = _MARGIN + _BANNER + _LABELS + self._panel_height + _PLOT + _LEGEND
        # Both sides even: H.264 stores colour at half the size.
        self._base = blank(width, height + height % 2)
        self._plot = ScorePlot(
            Box(_MARGIN + _GUTTER, self._base.shape[0] - _LEGEND - _PLOT,
                width - 2 * _MARGIN - _GUTTER, _PLOT), timeline, 11,
        )
        self._draw_base()
        rate_hz = (len(timeline.moments) - 1) / max(timeline.duration_s, 1e-6)
        self._file: Any = None
        self._last: DemoFrame | None = None
        if find_spec('av') is None:
            _LOG.warning('PyAV is not installed: there is no %s (%s)', path, install_command('av'))
        else:
            self._open(path, Fraction(rate_hz).limit_denominator(1000))

    def _open(self, path: Path, rate_hz: Fraction) -> None:
        import av

        # With its index in front, the file is played before all of it is loaded.
        self._file = av.open(str(path), 'w', options={'movflags': 'faststart'})
        self._frame_class = av.VideoFrame
        self._stream = self._file.add_stream('libx264', rate=rate_hz,
                                             options={'crf': '21', 'preset': 'veryfast'})
        self._stream.height, self._stream.width = self._base.shape[:2]
        self._stream.pix_fmt = 'yuv420p'

    def __enter__(self) -> DiveVideo:
        """Return itself; the file is open."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.mux(self._stream.encode(None))
            self._file.close()

    def add(self, frame: DemoFrame) -> None:
        """Append a frame; a dropped one is shown with the outputs of the frame before."""
        shown = self._last if frame.label is None else frame
        if self._file is not None:
            picture = self._frame_class.from_ndarray(
                np.ascontiguousarray(self.draw(frame, shown)), format='bgr24')
            self._file.mux(self._stream.encode(picture))
        self._last = shown

    def draw(self, frame: DemoFrame, shown: DemoFrame | None) -> ImageU8:
        """Draw a frame beside the outputs of the frame `shown`, if any; BGR, uint8 (H, W, 3)."""
        canvas = self._base.copy()
        verdict = shown.moment if shown is not None else frame.moment
        self._draw_banner(canvas, frame.moment, verdict)
        pictures = [frame.image, None, None]
        if shown is not None and shown.label is not None:
            pictures[1] = overlay(frame.image, shown.label, self._card.palette)
            pictures[2] = shown.uncertainty
        for k, picture in enumerate(pictures):
            if picture is not None:
                paste(canvas, self._panel(k), picture)
        self._plot.mark(canvas, frame.moment.time_s)
        return canvas

    def _panel(self, k: int) -> Box:
        left = _MARGIN + k * (PANEL_WIDTH + _MARGIN)
        return Box(left, _MARGIN + _BANNER + _LABELS, PANEL_WIDTH, self._panel_height)

    def _draw_base(self) -> None:
        for k, name in enumerate(('camera', 'classes', 'amber: unsure, blue: never shown')):
            box = self._panel(k)
            fill(self._base, box, PANEL)
            write(self._base, name, box.left, box.top - _LABELS // 2, 12)
        self._plot.draw(self._base)
        draw_legend(self._base, self._card, _MARGIN + _GUTTER,
                    self._base.shape[0] - _LEGEND // 2 - 4, 11, 3 * PANEL_WIDTH)

    def _draw_banner(self, canvas: ImageU8, now: Moment, verdict: Moment) -> None:
        box = Box(_MARGIN, _MARGIN, canvas.shape[1] - 2 * _MARGIN, _BANNER)
        fill(canvas, box, FLAG_COLORS[verdict.kind])
        middle, white = box.top + box.height // 2, (255, 255, 255)
        write(canvas, FLAG_WORDS[verdict.kind], box.left + 24, middle, 24, white, 2)
        reasons = verdict.reason.split('; ')
        if now.kind == 'dropped':
            reasons = ['(this frame was dropped)', *reasons]
        for k, reason in enumerate(reasons[:2]):
            row = middle + (24 * k - 12 if len(reasons) > 1 else 0)
            text = fit_text(reason, 13, box.width - 840)
            write(canvas, text, box.left + 400, row, 13, white)
        words = f'{now.event.replace("_", " ")}   {now.time_s:5.1f} s'
        write(canvas, words, box.right - 24, middle, 16, white, 1, 'right')
