# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The contact sheet and the video of a dive.

A column of the sheet is a moment, in order of time, with camera, classes, uncertainty and flag;
the score over the whole dive is below, with the same letters.

"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
import logging
import math
from pathlib import Path
import sys
from typing import Protocol

import cv2
import numpy as np
from tqdm import tqdm

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import AMBER_BGR, BLUE_BGR, color_mask, overlay
from uncertainty_seg.errors import install_command, UncertaintySegError
from uncertainty_seg.sim.demo import drawing as draw
from uncertainty_seg.sim.demo.drawing import Box, ScorePlot
from uncertainty_seg.sim.demo.report import Accuracy
from uncertainty_seg.sim.demo.timeline import (
    DemoFrame,
    iter_frames,
    Moment,
    PLAIN_EVENT,
    read_timeline,
    Timeline,
)

_LOG = logging.getLogger(__name__)


def make_pictures(
    dive: Path, outputs: Path, card: ModelCard, subtitle: str, sheet_path: Path, video_path: Path
) -> tuple[Timeline, Accuracy]:
    """
    Draw the contact sheet and the video of a dive in one pass through its bags.

    Raises UncertaintySegError if a bag cannot be read or a file cannot be written.

    Parameters
    ----------
    dive, outputs : Path
        Bag of the dive; bag of the outputs of the node.
    card : ModelCard
        Of the model of the node.
    subtitle : str
        For the sheet.
    sheet_path, video_path : Path
        A .png and an .mp4; replaced if they are there.

    Returns
    -------
    Timeline, Accuracy
        Events and verdicts; accuracy of the masks.

    """
    timeline = read_timeline(dive, outputs)
    accuracy = Accuracy(card.num_classes, card.ignore_index)
    wanted = {moment.stamp_ns for moment in choose_moments(timeline)}
    chosen: list[DemoFrame] = []
    frames = iter_frames(dive, outputs, timeline)
    first = next(frames)
    size = first.image.shape[0], first.image.shape[1]
    with DiveVideo(video_path, timeline, card, size) as video:
        for frame in tqdm(chain([first], frames), total=len(timeline.moments), desc='video',
                          unit='frame', file=sys.stderr, disable=None):
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
# Of the legend: both scales with their words, and what a class takes beside its name.
_SCALES, _SWATCH = 540, 72
_EDGE, _GAP, _NAMES = 28, 10, 150
_HEADER, _TITLE, _PLATE, _REASON, _CURVE, _KEY = 96, 44, 48, 84, 420, 56


def choose_moments(timeline: Timeline) -> list[Moment]:
    """
    Choose a plain moment, the most uncertain one of each event, and the recovery.

    These are at most `MAX_COLUMNS` processed frames, in order of time.
    """
    taken = timeline.taken
    plain = [m for m in taken if m.event == PLAIN_EVENT and m.is_confident]
    chosen = plain[len(plain) // 8:][:1]
    for event in timeline.events:
        inside = [m for m in taken if event.start_s <= m.time_s < event.stop_s]
        chosen += sorted(inside, key=_uncertainty)[-1:]
    fallen = [event.stop_s for event in timeline.events if math.isfinite(event.fell_after_s)]
    # Between the first fall and the next event, to show that the flag recovers.
    later = [e.start_s for e in timeline.events if fallen and e.start_s > fallen[0]]
    calm = [m for m in plain if fallen and fallen[0] <= m.time_s < (later or [math.inf])[0]]
    chosen += calm[len(calm) // 2:][:1]
    if len(chosen) < MAX_COLUMNS:
        chosen += plain[-1:]
    unique = {m.stamp_ns: m for m in chosen[:MAX_COLUMNS]}
    return sorted(unique.values(), key=lambda m: m.stamp_ns)


def _uncertainty(moment: Moment) -> float:
    return -math.inf if math.isnan(moment.ratio) else moment.ratio


def draw_sheet(
    frames: Sequence[DemoFrame], timeline: Timeline, card: ModelCard, subtitle: str
) -> ImageU8:
    """
    Draw the sheet.

    Parameters
    ----------
    frames : sequence of DemoFrame
        The chosen moments with their pictures.
    timeline : Timeline
        The whole dive.
    card : ModelCard
        Classes and colours.
    subtitle : str
        One line under the title.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR.

    """
    first = frames[0].image if frames else np.zeros((3, 4, 3), np.uint8)
    cell_height = round(CELL_WIDTH * first.shape[0] / first.shape[1])
    columns_width = MAX_COLUMNS * (CELL_WIDTH + _GAP) - _GAP
    width = 2 * _EDGE + _NAMES + columns_width
    rows_height = _TITLE + 3 * (cell_height + _GAP) + _PLATE + _REASON
    canvas = draw.blank(width, _HEADER + rows_height + _CURVE + _KEY + _EDGE)
    _draw_header(canvas, subtitle)
    for k, frame in enumerate(frames):
        left = _EDGE + _NAMES + k * (CELL_WIDTH + _GAP)
        _draw_column(canvas, left, cell_height, chr(ord('A') + k), frame, card)
    _draw_row_names(canvas, cell_height)
    plot_top = _HEADER + rows_height
    plot = ScorePlot(Box(_EDGE + _NAMES, plot_top, columns_width, _CURVE), timeline, 15)
    plot.draw(canvas)
    for k, name in enumerate(('score', '/ threshold')):
        draw.write(canvas, name, _EDGE, plot_top + 70 + 26 * k, 13, draw.DIM)
    for k, frame in enumerate(frames):
        plot.mark(canvas, frame.moment.time_s, chr(ord('A') + k))
    _draw_legend(canvas, plot_top + _CURVE + _KEY // 2, card)
    return canvas


def _draw_header(canvas: ImageU8, subtitle: str) -> None:
    draw.write(canvas, 'What the vehicle sees, and how far to trust it', _EDGE, 38, 24, weight=2)
    draw.write(canvas, subtitle, _EDGE, 76, 14, draw.DIM)


def _draw_column(
    canvas: ImageU8, left: int, height: int, letter: str, frame: DemoFrame, card: ModelCard
) -> None:
    moment = frame.moment
    words = moment.event.replace('_', ' ')
    draw.write(canvas, f'{letter}  {moment.time_s:.1f} s  {words}', left, _HEADER + 20, 15,
               weight=2)
    pictures = (
        frame.image,
        None if frame.label is None else color_mask(frame.label, card.palette),
        frame.uncertainty,
    )
    top = _HEADER + _TITLE
    for picture in pictures:
        box = Box(left, top, CELL_WIDTH, height)
        draw.fill(canvas, box, draw.PANEL)
        if picture is not None:
            draw.paste(canvas, box, picture)
        top += height + _GAP
    draw.plate(canvas, Box(left, top, CELL_WIDTH, _PLATE), moment.kind, 17)
    for line, reason in enumerate(moment.reason.split('; ')[:_NUM_REASONS]):
        text = draw.fit_text(reason, 9, CELL_WIDTH)
        draw.write(canvas, text, left, top + _PLATE + 18 + 22 * line, 9, draw.INK)


def _draw_row_names(canvas: ImageU8, height: int) -> None:
    top = _HEADER + _TITLE
    for name, more in (('camera', ''), ('classes', ''), ('uncertain', 'amber, blue')):
        draw.write(canvas, name, _EDGE, top + height // 2, 16, weight=1)
        draw.write(canvas, more, _EDGE, top + height // 2 + 26, 11, draw.DIM)
        top += height + _GAP
    draw.write(canvas, 'flag', _EDGE, top + _PLATE // 2, 16)
    draw.write(canvas, 'why', _EDGE, top + _PLATE + 18, 16)


def _is_tight(canvas: ImageU8, card: ModelCard) -> bool:
    whole = sum(draw.text_width(name.replace('_', ' '), 14) + _SWATCH for name in card.class_names)
    return whole > canvas.shape[1] - 2 * _EDGE - _NAMES - _SCALES


def _draw_legend(canvas: ImageU8, middle: int, card: ModelCard) -> None:
    # Of the width that two scales leave, each class has the same for swatch and name.
    room = (canvas.shape[1] - 2 * _EDGE - _NAMES - _SCALES) // card.num_classes - _SWATCH
    names = [draw.fit_text(name.replace('_', ' '), 14, max(room, 0)) if _is_tight(canvas, card)
             else name for name in card.class_names]
    left = draw.legend(canvas, names, card.palette, _EDGE + _NAMES, middle, 14) + 60
    for color, words in ((AMBER_BGR, 'unsure'), (BLUE_BGR, 'never shown')):
        scale = Box(left, middle - 12, 110, 24)
        shares = np.linspace(0, 1, scale.width, dtype=np.float32)[:, None]
        ramp = shares * np.array(color, np.float32)
        draw.paste(canvas, scale, np.tile(ramp.astype(np.uint8), (scale.height, 1, 1)))
        draw.write(canvas, words, scale.right + 12, middle, 14)
        left = scale.right + 130


# -------------------------------------------------------------------------------------------------
# The video.

PANEL_WIDTH = 512
OVERLAY_ALPHA = 0.5
# In pixels: heights from top to bottom, and the room for the numbers left of the plot.
_MARGIN, _BANNER, _LABELS, _PLOT, _LEGEND, _GUTTER = 16, 76, 34, 230, 44, 50


class DiveVideo:
    """
    The video of a dive at the rate of the dive, written frame by frame inside a `with` block.

    Side by side: camera, classes over it, uncertainty; the flag above, the score below.

    Parameters
    ----------
    path : Path
        The .mp4 file.
    timeline : Timeline
        The dive.
    card : ModelCard
        Classes and colours.
    size : tuple of int
        Height and width of the camera image.

    """

    def __init__(
        self, path: Path, timeline: Timeline, card: ModelCard, size: tuple[int, int]
    ) -> None:
        self._card = card
        self._panel_height = round(PANEL_WIDTH * size[0] / size[1])
        width = 3 * PANEL_WIDTH + 4 * _MARGIN
        height = _MARGIN + _BANNER + _LABELS + self._panel_height + _PLOT + _LEGEND
        # Both sides even: H.264 stores colour at half the size.
        self._base = draw.blank(width, height + height % 2)
        self._plot = ScorePlot(
            Box(_MARGIN + _GUTTER, self._base.shape[0] - _LEGEND - _PLOT,
                width - 2 * _MARGIN - _GUTTER, _PLOT), timeline, 11,
        )
        self._draw_base()
        rate_hz = (len(timeline.moments) - 1) / max(timeline.duration_s, 1e-6)
        self._encoder = open_encoder(path, self._base.shape[1], self._base.shape[0], rate_hz)
        self._last: DemoFrame | None = None

    def __enter__(self) -> DiveVideo:
        """Return itself; the encoder is open."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Finish the file."""
        self._encoder.close()

    def add(self, frame: DemoFrame) -> None:
        """Append a frame; a dropped one is shown with the outputs of the frame before."""
        shown = self._last if frame.label is None else frame
        self._encoder.add(self.draw(frame, shown))
        self._last = shown

    def draw(self, frame: DemoFrame, shown: DemoFrame | None) -> ImageU8:
        """Draw a frame beside the outputs of the frame `shown`, if any; BGR, uint8 (H, W, 3)."""
        canvas = self._base.copy()
        verdict = shown.moment if shown is not None else frame.moment
        self._draw_banner(canvas, frame.moment, verdict)
        pictures = [frame.image, None, None]
        if shown is not None and shown.label is not None:
            pictures[1] = overlay(frame.image, shown.label, self._card.palette, OVERLAY_ALPHA)
            pictures[2] = shown.uncertainty
        for k, picture in enumerate(pictures):
            if picture is not None:
                draw.paste(canvas, self._panel(k), picture)
        for k in range(3):
            self._draw_edge(canvas, self._panel(k), verdict.kind)
        self._plot.mark(canvas, frame.moment.time_s)
        return canvas

    def _panel(self, k: int) -> Box:
        left = _MARGIN + k * (PANEL_WIDTH + _MARGIN)
        return Box(left, _MARGIN + _BANNER + _LABELS, PANEL_WIDTH, self._panel_height)

    def _draw_base(self) -> None:
        for k, name in enumerate(('camera', 'classes', 'amber: unsure, blue: never shown')):
            box = self._panel(k)
            draw.fill(self._base, box, draw.PANEL)
            draw.write(self._base, name, box.left, box.top - _LABELS // 2, 12)
        self._plot.draw(self._base)
        draw.legend(self._base, self._card.class_names, self._card.palette, _MARGIN + _GUTTER,
                    self._base.shape[0] - _LEGEND // 2 - 4, 11)

    def _draw_banner(self, canvas: ImageU8, now: Moment, verdict: Moment) -> None:
        box = Box(_MARGIN, _MARGIN, canvas.shape[1] - 2 * _MARGIN, _BANNER)
        draw.fill(canvas, box, draw.FLAG_COLORS[verdict.kind])
        middle, white = box.top + box.height // 2, (255, 255, 255)
        draw.write(canvas, draw.FLAG_WORDS[verdict.kind], box.left + 24, middle, 24, white, 2)
        reasons = verdict.reason.split('; ')
        if now.kind == 'dropped':
            reasons = ['(this frame was dropped)', *reasons]
        for k, reason in enumerate(reasons[:2]):
            row = middle + (24 * k - 12 if len(reasons) > 1 else 0)
            text = draw.fit_text(reason, 13, box.width - 840)
            draw.write(canvas, text, box.left + 400, row, 13, white)
        words = f'{now.event.replace("_", " ")}   {now.time_s:5.1f} s'
        draw.write(canvas, words, box.right - 24, middle, 16, white, 1, 'right')

    def _draw_edge(self, canvas: ImageU8, box: Box, kind: str) -> None:
        color = draw.FLAG_COLORS[kind]
        cv2.rectangle(canvas, (box.left, box.top), (box.right - 1, box.bottom - 1), color, 3)


class Encoder(Protocol):
    """An open video file."""

    codec: str

    def add(self, image_bgr: ImageU8) -> None:
        """Append a picture (H, W, 3) of the size the file was opened with."""

    def close(self) -> None:
        """Finish the file."""


def open_encoder(path: Path, width: int, height: int, rate_hz: float) -> Encoder:
    """
    Open an encoder: H.264 if PyAV is installed, MPEG-4 of OpenCV if not.

    Every player and browser shows H.264. VLC and mpv show MPEG-4 and browsers do not; the wheels
    of OpenCV have no H.264 encoder. Raises UncertaintySegError if no encoder can write the file.

    Parameters
    ----------
    path : Path
        The .mp4 file.
    width, height : int
        Even.
    rate_hz : float
        Frames a second.

    Returns
    -------
    Encoder
        To be closed.

    """
    try:
        return _H264(path, width, height, rate_hz)
    except ImportError:
        _LOG.warning('PyAV is not installed: %s is MPEG-4, which browsers do not play '
                     '(%s)', path, install_command('av'))
    return _Mpeg4(path, width, height, rate_hz)


class _H264:
    """Encodes through PyAV."""

    codec = 'H.264'

    def __init__(self, path: Path, width: int, height: int, rate_hz: float) -> None:
        import av

        self._frame_class = av.VideoFrame
        # With its index in front, the file is played before all of it is loaded.
        self._file = av.open(str(path), 'w', options={'movflags': 'faststart'})
        rate = Fraction(rate_hz).limit_denominator(1000)
        self._stream = self._file.add_stream('libx264', rate=rate,
                                             options={'crf': '21', 'preset': 'veryfast'})
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = 'yuv420p'

    def add(self, image_bgr: ImageU8) -> None:
        frame = self._frame_class.from_ndarray(np.ascontiguousarray(image_bgr), format='bgr24')
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._file.mux(self._stream.encode(None))
        self._file.close()


class _Mpeg4:
    """Encodes through OpenCV."""

    codec = 'MPEG-4'

    def __init__(self, path: Path, width: int, height: int, rate_hz: float) -> None:
        code = cv2.VideoWriter.fourcc(*'mp4v')
        self._file = cv2.VideoWriter(str(path), code, rate_hz, (width, height))
        if not self._file.isOpened():
            raise UncertaintySegError(
                f'no encoder can write {path}', 'OpenCV with FFmpeg', install_command('av')
            )

    def add(self, image_bgr: ImageU8) -> None:
        self._file.write(image_bgr)

    def close(self) -> None:
        self._file.release()
