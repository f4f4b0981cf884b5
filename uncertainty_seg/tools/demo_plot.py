# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The score over time with the flag as a coloured band and the events by name.

The vertical axis is a square root: it has to show a threshold at 1 and peaks far above it.

"""

from __future__ import annotations

import math

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.tools.demo_canvas import (
    Box,
    Color,
    DIM,
    fill,
    FLAG_COLORS,
    GRID,
    INK,
    LINE,
    PANEL,
    write,
)
from uncertainty_seg.tools.demo_timeline import FlagEvent, Timeline

EVENT_TINT: Color = (190, 150, 120)
_TICKS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


class ScorePlot:
    """
    A plot made once, on which marks can be set.

    Parameters
    ----------
    box : Box
        Where it lies on the canvas, without the numbers left of it.
    timeline : Timeline
        What it shows.
    cap_px : float
        Height of its letters.

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
        """Return the row of a ratio; what is too large or infinite lies on the upper edge."""
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
        """Set a vertical mark at a time, with a letter on top."""
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
            # Where the node dropped a frame, the flag it gave before is still in force.
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
