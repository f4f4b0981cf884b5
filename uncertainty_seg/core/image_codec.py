# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the bytes of an image message to a BGR array, or one sentence why not.

No message type is known here: the node and the bag reader fill the same `RawImage`, so both see
the same pixels. OpenCV converts colours and decodes files; own code only undoes row padding and
byte order, which cv_bridge misreads without an error, and looks at sizes before anything is
allocated.

"""

from __future__ import annotations

from dataclasses import dataclass
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_encodings import Encoding, ENCODINGS
from uncertainty_seg.core.image_files import check_file, ImageFile
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


# OpenCV makes smaller mosaics black without a word.
MIN_BAYER_PX = 3
KNOWN_ENCODINGS = tuple(ENCODINGS)


def decode(raw: RawImage | ImageFile) -> ImageU8:
    """
    Turn an image into what the pipeline takes.

    Parameters
    ----------
    raw : RawImage or ImageFile
        As received.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR. 16-bit values keep their upper byte; float values are taken as 0..1; YUV is BT.601
        of limited range, as OpenCV takes it.

    Raises
    ------
    ImageError
        If the size is zero, the encoding unknown, the step or the data too short, a float value
        is not finite or outside 0..1, or a file is no whole JPEG or PNG.

    """
    return _decode_file(raw) if isinstance(raw, ImageFile) else _decode_raw(raw)


def _decode_raw(raw: RawImage) -> ImageU8:
    kind = ENCODINGS.get(raw.encoding)
    if kind is None:
        raise ImageError(
            f'image encoding {raw.encoding!r}', f'one of {", ".join(KNOWN_ENCODINGS)}',
            'set the camera driver to bgr8 or rgb8',
        )
    buffer = _checked(raw, kind)
    if kind.family in ('yuv420', 'yuv444'):
        return _decode_planes(buffer, raw, kind)
    pixels = _rows(buffer, raw, kind)
    if kind.dtype == 'f4':
        pixels = _bytes_of_floats(pixels)
    elif kind.dtype == 'u2' and kind.family != 'bayer':
        pixels = (pixels >> 8).astype(np.uint8)
    # OpenCV wants packed rows in the machine's byte order; Bayer and grey want two axes.
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder('='))
    flat = pixels[..., 0] if kind.channels == 1 else pixels
    bgr = cv2.cvtColor(flat, _code(kind)) if kind.conversion else flat
    # A 16-bit mosaic is interpolated in full depth first.
    return np.asarray(bgr >> 8 if bgr.dtype == np.uint16 else bgr, np.uint8)


def _code(kind: Encoding) -> int:
    return int(getattr(cv2, f'COLOR_{kind.conversion}'))


def _checked(raw: RawImage, kind: Encoding) -> NDArray[np.uint8]:
    """Return the bytes of an image that holds what its header claims."""
    size, row_bytes = f'{raw.width}x{raw.height}', kind.row_bytes(raw.width)
    if raw.height < 1 or raw.width < 1:
        raise ImageError(f'image of {size} pixels', 'at least 1x1')
    if raw.step < row_bytes:
        raise ImageError(
            f'image step {raw.step} for {raw.width} pixels of {raw.encoding}',
            f'at least {row_bytes} bytes', 'mend the camera driver',
        )
    buffer = np.frombuffer(raw.data, np.uint8)
    needed = kind.needed_bytes(raw.height, raw.width, raw.step)
    if buffer.size < needed:
        raise ImageError(
            f'image with {buffer.size} bytes', f'at least {needed} '
            f'({raw.height} rows of step {raw.step})', 'the message was cut or its step is wrong',
        )
    if kind.family == 'yuv422' and raw.width % 2:
        raise ImageError(f'{raw.encoding} image of {size}', 'an even width')
    if kind.family == 'yuv420' and (raw.width | raw.height) % 2:
        raise ImageError(f'{raw.encoding} image of {size}', 'even sides')
    if kind.family == 'bayer' and min(raw.width, raw.height) < MIN_BAYER_PX:
        raise ImageError(f'{raw.encoding} image of {size}', f'at least {MIN_BAYER_PX} pixels a '
                         'side', 'a smaller mosaic has no neighbours to take colours from')
    return buffer


def _rows(buffer: NDArray[np.uint8], raw: RawImage, kind: Encoding) -> NDArray[Any]:
    """Return the values (H, W, channels) without padding, in the byte order of the message."""
    values: NDArray[Any] = _strided(buffer, raw.height, kind.row_bytes(raw.width), raw.step)
    if kind.itemsize > 1:
        order = '>' if raw.is_bigendian else '<'
        values = np.ascontiguousarray(values).view(np.dtype(f'{order}{kind.dtype}'))
    return values.reshape(raw.height, raw.width, kind.channels)


def _strided(
    buffer: NDArray[np.uint8], rows: int, row_bytes: int, step: int
) -> NDArray[np.uint8]:
    return np.lib.stride_tricks.as_strided(buffer, (rows, row_bytes), (step, 1), writeable=False)


def _decode_planes(buffer: NDArray[np.uint8], raw: RawImage, kind: Encoding) -> ImageU8:
    height, width, step = raw.height, raw.width, raw.step
    if kind.family == 'yuv420':
        planes = np.ascontiguousarray(_strided(buffer, height + height // 2, width, step))
        return np.asarray(cv2.cvtColor(planes, _code(kind)), np.uint8)
    # Chroma as dense as luma is what an image twice as large has in NV12, so OpenCV converts
    # that, and each second pixel is kept.
    luma = np.repeat(np.repeat(_strided(buffer, height, width, step), 2, 0), 2, 1)
    chroma = _strided(buffer[step * height:], height, 2 * width, 2 * step)
    large = cv2.cvtColor(np.ascontiguousarray(np.vstack([luma, chroma])), _code(kind))
    return np.ascontiguousarray(large[::2, ::2], np.uint8)


def _decode_file(file: ImageFile) -> ImageU8:
    size = check_file(file)
    try:
        # Unchanged: an orientation in the metadata must not turn the image away from its
        # CameraInfo.
        pixels = cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        raise ImageError(f'compressed image that cannot be decoded ({err.err})') from err
    if pixels is None or pixels.shape[:2] != size or pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'compressed image of {len(file.data)} bytes that cannot be decoded',
                         'a whole jpeg or png file', 'the message was cut or is damaged')
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    encoding = _encoding_in(file, channels, pixels.dtype)
    rows = np.ascontiguousarray(pixels)
    return _decode_raw(RawImage(rows.reshape(-1).view(np.uint8), *size, encoding,
                                rows.strides[0], sys.byteorder == 'big'))


def _encoding_in(file: ImageFile, channels: int, dtype: np.dtype[Any]) -> str:
    """Return what the values in a file are, as image_transport takes them."""
    bits = 8 * dtype.itemsize
    if channels == 1:
        # A mosaic is packed as it is, unless the publisher says that it made it grey.
        is_mosaic = file.original.startswith('bayer_') and 'mono' not in file.packing
        mosaic = f'{file.original.rstrip("0123456789")}{bits}'
        return mosaic if is_mosaic and mosaic in ENCODINGS else f'mono{bits}'
    # A publisher that packed red first, though files hold what OpenCV takes for blue first.
    order = 'rgb' if 'compressed rgb' in file.packing else 'bgr'
    return f'{order}a{bits}' if channels == 4 else f'{order}{bits}'


def _bytes_of_floats(pixels: NDArray[Any]) -> NDArray[Any]:
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ImageError(f'float image with {count} values that are NaN or infinite', '0 to 1')
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ImageError(f'float image with values from {low:g} to {high:g}', '0 to 1')
    return np.rint(values * 255).astype(np.uint8)
