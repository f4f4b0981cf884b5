# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the bytes of an image message to a BGR array, or one sentence why not.

No message type is known here: the node and the bag reader fill the same `RawImage`, so both see
the same pixels. OpenCV converts colours; own code only undoes row padding and byte order, which
cv_bridge misreads without an error.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.errors import ImageError


@dataclass(frozen=True)
class RawImage:
    """
    An image as a message carries it.

    Attributes
    ----------
    data : buffer of bytes
        Rows from the top, `step` bytes each.
    height, width : int
        In pixels.
    encoding : str
        As in sensor_msgs/image_encodings.
    step : int
        Bytes a row, padding included.
    is_bigendian : bool
        Byte order of values of more than one byte.

    """

    data: bytes | bytearray | memoryview | NDArray[np.uint8]
    height: int
    width: int
    encoding: str
    step: int
    is_bigendian: bool = False


@dataclass(frozen=True)
class _Encoding:
    dtype: str
    channels: int
    to_bgr: int | None  # an OpenCV conversion code; None where the values are BGR already


# ROS names a Bayer pattern by its first two pixels, OpenCV by the second row's: RGGB is BayerBG.
_ENCODINGS = {
    'bgr8': _Encoding('u1', 3, None),
    'rgb8': _Encoding('u1', 3, cv2.COLOR_RGB2BGR),
    'bgra8': _Encoding('u1', 4, cv2.COLOR_BGRA2BGR),
    'rgba8': _Encoding('u1', 4, cv2.COLOR_RGBA2BGR),
    '8UC3': _Encoding('u1', 3, None),
    'mono8': _Encoding('u1', 1, cv2.COLOR_GRAY2BGR),
    '8UC1': _Encoding('u1', 1, cv2.COLOR_GRAY2BGR),
    'mono16': _Encoding('u2', 1, cv2.COLOR_GRAY2BGR),
    '16UC1': _Encoding('u2', 1, cv2.COLOR_GRAY2BGR),
    'bgr16': _Encoding('u2', 3, None),
    'rgb16': _Encoding('u2', 3, cv2.COLOR_RGB2BGR),
    'bayer_rggb8': _Encoding('u1', 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr8': _Encoding('u1', 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg8': _Encoding('u1', 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg8': _Encoding('u1', 1, cv2.COLOR_BayerGB2BGR),
    'yuv422': _Encoding('u1', 2, cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': _Encoding('u1', 2, cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': _Encoding('u1', 2, cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': _Encoding('u1', 2, cv2.COLOR_YUV2BGR_YUY2),
    '32FC1': _Encoding('f4', 1, cv2.COLOR_GRAY2BGR),
    '32FC3': _Encoding('f4', 3, None),
}
KNOWN_ENCODINGS = tuple(_ENCODINGS)


def decode(raw: RawImage) -> ImageU8:
    """
    Turn a raw image into what the pipeline takes.

    Parameters
    ----------
    raw : RawImage
        As received.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR. 16-bit values keep their upper byte; float values are taken as 0..1.

    Raises
    ------
    ImageError
        If the size is zero, the encoding unknown, the step or the data too short, or a float
        value is not finite or outside 0..1.

    """
    kind = _ENCODINGS.get(raw.encoding)
    if kind is None:
        raise ImageError(
            f'image encoding {raw.encoding!r}', f'one of {", ".join(KNOWN_ENCODINGS)}',
            'set the camera driver to bgr8 or rgb8',
        )
    pixels = _rows(raw, kind)
    if kind.dtype == 'f4':
        pixels = _bytes_of_floats(pixels)
    elif kind.dtype == 'u2':
        pixels = (pixels >> 8).astype(np.uint8)
    if raw.encoding.startswith(('bayer', 'yuv', 'uyvy', 'yuyv')) and (raw.width | raw.height) % 2:
        raise ImageError(f'{raw.encoding} image of {raw.width}x{raw.height}', 'even sides')
    if kind.to_bgr is None:
        return np.ascontiguousarray(pixels, np.uint8)
    # OpenCV copies strided rows only where it must; Bayer and grey want two axes.
    flat = pixels[..., 0] if kind.channels == 1 else pixels
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(flat), kind.to_bgr), np.uint8)


def _rows(raw: RawImage, kind: _Encoding) -> NDArray[Any]:
    if raw.height < 1 or raw.width < 1:
        raise ImageError(f'image of {raw.width}x{raw.height} pixels', 'at least 1x1')
    item = np.dtype(kind.dtype).itemsize
    row_bytes = raw.width * kind.channels * item
    if raw.step < row_bytes:
        raise ImageError(
            f'image step {raw.step} for {raw.width} pixels of {raw.encoding}',
            f'at least {row_bytes} bytes', 'mend the camera driver',
        )
    buffer = np.frombuffer(raw.data, np.uint8)
    needed = raw.step * (raw.height - 1) + row_bytes
    if buffer.size < needed:
        raise ImageError(
            f'image with {buffer.size} bytes', f'at least {needed} '
            f'({raw.height} rows of step {raw.step})', 'the message was cut or its step is wrong',
        )
    order = '>' if raw.is_bigendian else '<'
    values = np.lib.stride_tricks.as_strided(
        buffer, (raw.height, row_bytes), (raw.step, 1), writeable=False
    )
    if item > 1:
        values = np.ascontiguousarray(values).view(np.dtype(f'{order}{kind.dtype}'))
    return values.reshape(raw.height, raw.width, kind.channels)


def _bytes_of_floats(pixels: NDArray[Any]) -> NDArray[Any]:
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ImageError(f'float image with {count} values that are NaN or infinite', '0 to 1')
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ImageError(f'float image with values from {low:g} to {high:g}', '0 to 1')
    return np.rint(values * 255).astype(np.uint8)
