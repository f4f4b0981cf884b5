# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is known of a JPEG or PNG file before it is decoded.

A decoder allocates what a header claims, a thousand million pixels from a few bytes; OpenCV 4.14
does so for every chunk of a PNG, 4 GB and 9 s for a file of 260 bytes; and older ones paint what
is missing of a JPEG grey and say nothing. So sizes and the end are looked at first.

"""

from __future__ import annotations

from dataclasses import dataclass
import struct

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import ImageError

# Twice an 8K frame; 200 MB as BGR.
MAX_PIXELS = 2**26
# No file of these kinds holds more: deflate packs 1032 bytes into one, and a JPEG spends a bit at
# least on each block of 8x8 pixels. More than that was cut off, or never there.
_PNG_MAX_RATIO, _JPEG_MAX_PIXELS_A_BYTE = 1032, 512
_PNG_START = b'\x89PNG\r\n\x1a\n'
_PNG_ANIMATED = (b'acTL', b'fcTL', b'fdAT')
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Start of frame: baseline, extended and progressive; and those no usual decoder knows.
_SOF_KNOWN, _SOF_OTHER = (0xC0, 0xC1, 0xC2), (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                                              *range(0xCD, 0xD0))


@dataclass(frozen=True)
class ImageFile:
    """
    An image as a compressed message carries it.

    Attributes
    ----------
    data : buffer of bytes
        The whole file.
    format : str
        As in sensor_msgs/CompressedImage: 'jpeg', or 'rgb8; jpeg compressed bgr8'.

    """

    data: bytes | bytearray | memoryview | NDArray[np.uint8]
    format: str = ''  # noqa: A003

    @property
    def original(self) -> str:
        """Return the encoding before the image was compressed; empty where it is not told."""
        return self.format.partition(';')[0].strip() if ';' in self.format else ''

    @property
    def packing(self) -> str:
        """How it was compressed, in small letters."""
        return self.format.rpartition(';')[2].strip().lower()


def check_file(file: ImageFile) -> tuple[int, int]:
    """
    Find out whether a file may be decoded.

    Parameters
    ----------
    file : ImageFile
        As received; what it is is told by its first bytes, not by its format field.

    Returns
    -------
    int, int
        H, W that the header claims.

    Raises
    ------
    ImageError
        If it is no JPEG or PNG, is cut off, or claims more pixels than are allowed or than its
        bytes can hold.

    """
    data = bytes(file.data)
    if 'compresseddepth' in file.packing:
        raise ImageError(f'compressed image of format {file.format!r}', 'a camera image',
                         'depth is no picture; subscribe to the colour camera')
    if data.startswith(_PNG_START):
        height, width = _png_size(data)
    elif data.startswith(bytes((0xFF, _SOI))):
        height, width = _jpeg_size(data)
    else:
        raise ImageError(
            f'compressed image of format {file.format!r} that begins with {data[:4].hex(" ")!r}',
            'a jpeg or png file', 'set the format of the camera to jpeg or png, or '
            'image_transport to raw')
    if height < 1 or width < 1:
        raise ImageError(f'compressed image of {width}x{height} pixels', 'at least 1x1')
    if height * width > MAX_PIXELS:
        raise ImageError(f'compressed image of {width}x{height} pixels',
                         f'at most {MAX_PIXELS} pixels')
    return height, width


def _png_size(data: bytes) -> tuple[int, int]:
    """Walk from chunk to chunk to the end; each tells its own length, which is allocated too."""
    at = len(_PNG_START)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at:at + 4], 'big'), data[at + 4:at + 8]
        if (kind == b'IHDR') != (at == len(_PNG_START)) or at + 12 + length > len(data):
            break
        if kind in _PNG_ANIMATED:
            raise ImageError('animated png image', 'one of a single picture')
        if kind == b'IEND':
            return _png_header(data)
        at += 12 + length
    raise ImageError(f'png image of {len(data)} bytes that breaks off at byte {at}',
                     'a whole file', 'the message was cut or is damaged')


def _png_header(data: bytes) -> tuple[int, int]:
    width, height, depth, color = struct.unpack_from('>IIBB', data, 16)
    row_bits = width * depth * _PNG_CHANNELS.get(color, 1)
    if height * (row_bits // 8 + 1) > len(data) * _PNG_MAX_RATIO:
        raise _too_short('png', height, width, len(data))
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk from marker to marker to the pixels; each there tells its own length."""
    at, size = 2, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], 'big')
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _SOF_OTHER:
            raise ImageError(f'jpeg image of kind SOF{marker - 0xC0}', 'baseline or progressive')
        elif marker in (_SOI, _EOI) or length < 2:
            break
        elif marker == _SOS and size is not None:
            return _whole_jpeg(data, at, size)
        else:
            if marker in _SOF_KNOWN and at + 9 <= len(data):
                size = struct.unpack_from('>HH', data, at + 5)
            at += 2 + length
    raise ImageError(f'jpeg image of {len(data)} bytes whose header breaks off at byte {at}',
                     'a whole file', 'the message was cut or is damaged')


def _whole_jpeg(data: bytes, start: int, size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    if height * width > len(data) * _JPEG_MAX_PIXELS_A_BYTE:
        raise _too_short('jpeg', height, width, len(data))
    # Within the pixels this pair cannot occur; after the end cameras put padding.
    if data.rfind(bytes((0xFF, _EOI)), start) < 0:
        raise ImageError(f'jpeg image of {len(data)} bytes without its end', 'a whole file',
                         'the message was cut')
    return height, width


def _too_short(kind: str, height: int, width: int, length: int) -> ImageError:
    return ImageError(f'{kind} image of {width}x{height} pixels in {length} bytes',
                      'a whole file', 'the message was cut or its header is damaged')
