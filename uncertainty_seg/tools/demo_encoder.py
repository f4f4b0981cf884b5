# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write pictures as an mp4.

H.264 through PyAV where it is installed, since every player and browser shows it. Otherwise
OpenCV's MPEG-4, which VLC and mpv show and browsers do not: its wheels carry no H.264 encoder.

"""

from __future__ import annotations

from fractions import Fraction
import logging
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.errors import UncertaintySegError

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
