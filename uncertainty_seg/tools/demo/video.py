# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The dive as a video: camera, classes over it, uncertainty; the flag above, the score below.

It has the rate of the dive, so that it plays in the dive's own time. How it becomes a file is
`demo_encoder`'s.

"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
import logging
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import overlay
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.tools.demo import plot as draw
from uncertainty_seg.tools.demo.plot import Box, ScorePlot
from uncertainty_seg.tools.demo.timeline import DemoFrame, Moment, Timeline

# -------------------------------------------------------------------------------------------------
# Write pictures as an mp4.
# H.264 through PyAV where it is installed, since every player and browser shows it. Otherwise
# OpenCV's MPEG-4, which VLC and mpv show and browsers do not: its wheels carry no H.264 encoder.

_LOG = logging.getLogger(__name__)


class Encoder(Protocol):
    """An open video file."""

    codec: str

    def add(self, image_bgr: ImageU8) -> None:
        """Append a picture (H, W, 3) of the size the file was opened with."""

    def close(self) -> None:
        """Finish the file."""


def open_encoder(path: Path, width: int, height: int, rate_hz: float) -> Encoder:
    """
    Open the best encoder there is.

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

    Raises
    ------
    UncertaintySegError
        If no encoder can write the file.

    """
    try:
        return _H264(path, width, height, rate_hz)
    except ImportError:
        _LOG.warning('PyAV is not installed: %s is MPEG-4, which browsers do not play '
                     '(pip install av)', path)
    return _Mpeg4(path, width, height, rate_hz)


class _H264:
    """Encodes through PyAV."""

    codec = 'H.264'

    def __init__(self, path: Path, width: int, height: int, rate_hz: float) -> None:
        import av

        self._frame_class = av.VideoFrame
        # The index in front lets a browser play before all is loaded.
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
                f'no encoder can write {path}', 'OpenCV with FFmpeg', 'pip install av'
            )

    def add(self, image_bgr: ImageU8) -> None:
        self._file.write(image_bgr)

    def close(self) -> None:
        self._file.release()


# -------------------------------------------------------------------------------------------------

PANEL_WIDTH = 512
OVERLAY_ALPHA = 0.5
_MARGIN, _BANNER, _LABELS, _PLOT, _LEGEND, _GUTTER = 16, 76, 34, 230, 44, 50


class DiveVideo:
    """
    A video under construction; use it with `with`.

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
        """Nothing to do: the encoder is open."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        """Finish the file."""
        self._encoder.close()
        return False

    def add(self, frame: DemoFrame) -> None:
        """Append a frame; where the node dropped it, the outputs before it stay and say so."""
        shown = self._last if frame.label is None else frame
        self._encoder.add(self.draw(frame, shown))
        self._last = shown

    def draw(self, frame: DemoFrame, shown: DemoFrame | None) -> ImageU8:
        """
        Draw a frame.

        Parameters
        ----------
        frame : DemoFrame
            Camera image and time.
        shown : DemoFrame or None
            The frame whose outputs are shown.

        Returns
        -------
        ndarray of uint8, shape (H, W, 3)
            BGR.

        """
        canvas = self._base.copy()
        verdict = shown.moment if shown is not None else frame.moment
        self._draw_banner(canvas, frame.moment, verdict)
        pictures = [frame.image, None, None]
        if shown is not None and shown.label is not None:
            pictures[1] = overlay(frame.image, shown.label, self._card.palette, OVERLAY_ALPHA)
            pictures[2] = shown.heatmap
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
        for k, name in enumerate(('camera', 'classes', 'uncertainty (warm is unsure)')):
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


def write_video(video: DiveVideo, frames: Iterable[DemoFrame]) -> None:
    """Append every frame and finish."""
    with video:
        for frame in frames:
            video.add(frame)
