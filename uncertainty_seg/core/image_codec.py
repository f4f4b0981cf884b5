# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the bytes of an image message to a BGR array, or to an error of one sentence.

No message type is used here: the node and the bag reader fill the same `RawImage`, so both get
the same pixels. OpenCV converts colours and decodes files; this module only removes row padding,
corrects the byte order, which cv_bridge misreads without an error, and checks sizes before
anything is allocated. Rows that cv_bridge has read already (`RawImage.values`) are reused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from reprlib import Repr
import struct
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.settings import DecodeLimits, MAX_PIXELS, WIDEST
from uncertainty_seg.errors import ImageError

# -------------------------------------------------------------------------------------------------
# The encodings of sensor_msgs/image_encodings, as one table, with OpenCV's names of the colour
# conversions. Encodings without a defined colour (8UC2, signed or double values, 32FC2) are not
# listed and raise ImageError.


@dataclass(frozen=True)
class Encoding:
    """
    The memory layout of one encoding.

    `dtype` is 'u1', 'u2' or 'f4'; `channels` the values per pixel in a row, without chroma in a
    separate plane; `conversion` OpenCV's conversion to BGR, empty if the values are BGR already;
    `family` 'plain', or 'bayer', 'yuv422' or 'yuv420', which need more steps.
    """

    dtype: str
    channels: int
    conversion: str = ''
    family: str = 'plain'

    @property
    def itemsize(self) -> int:
        """Return the bytes per value."""
        return np.dtype(self.dtype).itemsize

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row without padding."""
        return width * self.channels * self.itemsize

    def needed_bytes(self, height: int, width: int, step: int) -> int:
        """
        Return the least number of bytes of the data of an image (H and W at least 1).

        `step` is the bytes from one row to the next, of luma if chroma has a separate plane.
        The padding of the last row is not counted, since some drivers leave it out.
        """
        if self.family == 'yuv420':
            return step * (height + height // 2 - 1) + width
        return step * (height - 1) + self.row_bytes(width)


# ROS names a Bayer pattern by its first two pixels, OpenCV by the second row's: RGGB is BayerBG.
_BAYER = {'rggb': 'BayerBG2BGR', 'bggr': 'BayerRG2BGR', 'gbrg': 'BayerGR2BGR',
          'grbg': 'BayerGB2BGR'}
_UYVY = Encoding('u1', 2, 'YUV2BGR_UYVY', 'yuv422')
_YUYV = Encoding('u1', 2, 'YUV2BGR_YUY2', 'yuv422')

ENCODINGS = {
    'bgr8': Encoding('u1', 3),
    'rgb8': Encoding('u1', 3, 'RGB2BGR'),
    'bgra8': Encoding('u1', 4, 'BGRA2BGR'),
    'rgba8': Encoding('u1', 4, 'RGBA2BGR'),
    'mono8': Encoding('u1', 1, 'GRAY2BGR'),
    '8UC1': Encoding('u1', 1, 'GRAY2BGR'),
    '8UC3': Encoding('u1', 3),
    '8UC4': Encoding('u1', 4, 'BGRA2BGR'),
    'bgr16': Encoding('u2', 3),
    'rgb16': Encoding('u2', 3, 'RGB2BGR'),
    'bgra16': Encoding('u2', 4, 'BGRA2BGR'),
    'rgba16': Encoding('u2', 4, 'RGBA2BGR'),
    'mono16': Encoding('u2', 1, 'GRAY2BGR'),
    '16UC1': Encoding('u2', 1, 'GRAY2BGR'),
    '16UC3': Encoding('u2', 3),
    '16UC4': Encoding('u2', 4, 'BGRA2BGR'),
    '32FC1': Encoding('f4', 1, 'GRAY2BGR'),
    '32FC3': Encoding('f4', 3),
    **{f'bayer_{pattern}8': Encoding('u1', 1, code, 'bayer') for pattern, code in _BAYER.items()},
    **{f'bayer_{pattern}16': Encoding('u2', 1, code, 'bayer')
       for pattern, code in _BAYER.items()},
    'uyvy': _UYVY,
    'yuv422': _UYVY,  # the older name
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,  # the older name
    'nv12': Encoding('u1', 1, 'YUV2BGR_NV12', 'yuv420'),
    'nv21': Encoding('u1', 1, 'YUV2BGR_NV21', 'yuv420'),
}


# -------------------------------------------------------------------------------------------------
# Checks of a JPEG or PNG file before it is decoded.
# A decoder allocates what a header claims: a thousand million pixels for a few bytes. OpenCV 4.14
# does so for every chunk of a PNG: 4 GB and 9 s for a file of 260 bytes. Older versions fill the
# missing part of a JPEG with grey and report no error. A progressive JPEG of 430 kB took two
# minutes, since every scan visits every pixel, and a PNG with 1000 compressed texts 20 s. So size,
# scans and end are checked first, and only the chunks that define a PNG's pixels are decoded.

# Upper bounds: deflate packs at most 1032 bytes into one, and a JPEG spends at least one bit on
# each block of 8x8 pixels. If a header claims more, the file is truncated or the claim is false.
_PNG_MAX_RATIO, _JPEG_MAX_PIXELS_A_BYTE = 1032, 512
# Encoders write 1 to 13 scans, and fewer than 50 segments before the first; a PNG of the largest
# size has 33 000 chunks of 8 kB.
MAX_SCANS, MAX_SEGMENTS, MAX_CHUNKS = 16, 1000, 2**16
# A pixel with more bytes counts as several.
_PIXEL_BYTES = 4
_PNG_START = b'\x89PNG\r\n\x1a\n'
_PNG_ANIMATED = (b'acTL', b'fcTL', b'fdAT')
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Start of frame: baseline, extended and progressive; and those that common decoders do not read.
_SOF_KNOWN, _SOF_OTHER = (0xC0, 0xC1, 0xC2), (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                                              *range(0xCD, 0xD0))
# Ignore the orientation in the metadata: a rotated image would not match its CameraInfo.
_AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION
_TO_BGR = cv2.IMREAD_COLOR | _AS_STORED
# Shortens fields of a message for errors.
_shown = Repr()
_shown.maxstring = _shown.maxother = 60


@dataclass(frozen=True)
class ImageFile:
    """
    An image file as a compressed message carries it.

    `format` is that of sensor_msgs/CompressedImage: 'jpeg', or 'rgb8; jpeg compressed bgr8'.
    """

    data: bytes | bytearray | memoryview | NDArray[np.uint8]
    format: str = ''  # noqa: A003

    @property
    def original(self) -> str:
        """Return the encoding before the image was compressed; empty where it is not given."""
        return self.format.partition(';')[0].strip() if ';' in self.format else ''

    @property
    def packing(self) -> str:
        """Return how the image was compressed, in lower case."""
        return self.format.rpartition(';')[2].strip().lower()

    @property
    def mosaic(self) -> str:
        """Return the pattern, as 'bayer_rggb', of a mosaic compressed as it is; else empty."""
        # If the packing names a mono encoding, the publisher has converted the mosaic to grey.
        is_mosaic = self.original.startswith('bayer_') and 'mono' not in self.packing
        return self.original.rstrip('0123456789') if is_mosaic else ''


@dataclass(frozen=True)
class FileHeader:
    """
    The checked header of a JPEG or PNG file.

    `pixel_bytes` is the size of an uncompressed pixel; `num_scans` is how often a decoder visits
    the pixels; `data` is the input of the decoder: of a PNG only the chunks that define its
    pixels.
    """

    kind: str
    height: int
    width: int
    pixel_bytes: float
    is_grey: bool
    num_scans: int = 1
    data: bytes = field(default=b'', repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W)."""
        return self.height, self.width

    @property
    def cost_px(self) -> int:
        """Return the number of pixels; those with more than 4 bytes count as several."""
        return math.ceil(self.height * self.width * max(1, self.pixel_bytes / _PIXEL_BYTES))

    def __str__(self) -> str:
        deep = f' of {self.pixel_bytes:g} bytes' if self.pixel_bytes > _PIXEL_BYTES else ''
        return f'{self.kind} image of {self.width}x{self.height} pixels{deep}'


def check_file(file: ImageFile) -> FileHeader:
    """
    Check a file without decoding it.

    The format is recognised by the first bytes, not by the format field. Raises ImageError if it
    is no JPEG or PNG, is truncated or empty, claims more pixels than are ever allowed or than its
    bytes can hold, or has more scans, segments or chunks than cameras write.
    """
    data = bytes(file.data)
    if 'compresseddepth' in file.packing:
        raise ImageError(f'compressed image of format {_shown.repr(file.format)}',
                         'a camera image', 'depth is no picture; subscribe to the colour camera')
    if data.startswith(_PNG_START):
        header = _png_header(data)
    elif data.startswith(bytes((0xFF, _SOI))):
        header = _jpeg_header(data)
    else:
        raise ImageError(
            f'compressed image of format {_shown.repr(file.format)} that begins with '
            f'{data[:4].hex(" ")!r}', 'a jpeg or png file', 'set the format of the camera to jpeg '
            'or png, or image_transport to raw')
    if min(header.size) < 1:
        raise ImageError(str(header), 'at least 1x1')
    if header.cost_px > MAX_PIXELS:
        raise ImageError(str(header), f'at most {MAX_PIXELS} pixels of {_PIXEL_BYTES} bytes')
    if header.num_scans > MAX_SCANS:
        raise ImageError(f'{header} in {header.num_scans} scans', f'at most {MAX_SCANS} scans',
                         'set the camera to baseline jpeg')
    return header


def _too_large(image: str, limits: DecodeLimits) -> ImageError:
    return ImageError(image, f'at most {limits.max_px} pixels (max_image_px)',
                      'set the camera to a smaller image, or max_image_px higher')


def _png_header(data: bytes) -> FileHeader:
    """Check all chunks to the end: a decoder allocates the length that each one states."""
    at, view, kept = len(_PNG_START), memoryview(data), [memoryview(_PNG_START)]
    for number in range(1, MAX_CHUNKS + 1):
        length, kind = int.from_bytes(data[at:at + 4], 'big'), data[at + 4:at + 8]
        end = at + 12 + length
        if (kind == b'IHDR') != (at == len(_PNG_START)) or end > len(data):
            raise ImageError(f'png image of {len(data)} bytes that breaks off at byte {at}',
                             'a whole file', 'the message was cut or is damaged')
        if kind in _PNG_ANIMATED:
            raise ImageError('animated png image', 'one of a single picture')
        # Texts and profiles, which may be compressed, do not change any pixel.
        if not kind[0] & 0x20 or kind == b'tRNS':
            kept.append(view[at:end])
        if kind == b'IEND':
            return _png_size(data, data if len(kept) == number + 1 else b''.join(kept))
        at = end
    raise ImageError(f'png image of more than {MAX_CHUNKS} chunks', 'fewer, as cameras write them')


def _png_size(data: bytes, kept: bytes) -> FileHeader:
    width, height, depth, color = struct.unpack_from('>IIBB', data, 16)
    pixel_bits = depth * _PNG_CHANNELS.get(color, 1)
    header = FileHeader('png', height, width, pixel_bits / 8, color == 0, data=kept)
    if height * (width * pixel_bits // 8 + 1) > len(data) * _PNG_MAX_RATIO:
        raise _too_short(header, data)
    return header


def _jpeg_header(data: bytes) -> FileHeader:
    """Walk from marker to marker, by the length that each segment states, to the pixels."""
    at, frame = 2, None
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            raise _broken_header(data, at)
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], 'big')
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _SOF_OTHER:
            raise ImageError(f'jpeg image of kind SOF{marker - 0xC0}', 'baseline or progressive')
        elif marker in (_SOI, _EOI) or length < 2:
            raise _broken_header(data, at)
        elif marker == _SOS and frame is not None:
            return _jpeg_size(data, at, frame)
        else:
            if marker in _SOF_KNOWN and at + 10 <= len(data):
                frame = struct.unpack_from('>HHB', data, at + 5)
            at += 2 + length
    raise ImageError(f'jpeg image of more than {MAX_SEGMENTS} segments before its pixels',
                     'fewer, as cameras write them')


def _broken_header(data: bytes, at: int) -> ImageError:
    return ImageError(f'jpeg image of {len(data)} bytes whose header breaks off at byte {at}',
                      'a whole file', 'the message was cut or is damaged')


def _jpeg_size(data: bytes, start: int, frame: tuple[int, ...]) -> FileHeader:
    height, width, channels = frame
    # FF is escaped in coded pixels, so this is the largest number of scans a decoder can find.
    num_scans = data.count(bytes((0xFF, _SOS)), start)
    header = FileHeader('jpeg', height, width, channels, channels == 1, num_scans, data)
    if height * width > len(data) * _JPEG_MAX_PIXELS_A_BYTE:
        raise _too_short(header, data)
    # The end need not be last: cameras append padding.
    if data.rfind(bytes((0xFF, _EOI)), start) < 0:
        raise ImageError(f'jpeg image of {len(data)} bytes without its end', 'a whole file',
                         'the message was cut')
    return header


def _too_short(header: FileHeader, data: bytes) -> ImageError:
    return ImageError(f'{header} in {len(data)} bytes', 'a whole file',
                      'the message was cut or its header is damaged')


@dataclass(frozen=True)
class RawImage:
    """
    An image as a message carries it: rows from the top, `step` bytes each, padding included.

    `encoding` is one of sensor_msgs/image_encodings. `values` (H, W, channels) is the content of
    `data` if cv_bridge has read it already, in this machine's byte order and of the encoding's
    type.
    """

    data: bytes | bytearray | memoryview | NDArray[np.uint8]
    height: int
    width: int
    encoding: str
    step: int
    is_bigendian: bool = False
    values: NDArray[Any] | None = field(default=None, repr=False)


# OpenCV converts smaller mosaics to black images, without an error.
MIN_BAYER_PX = 3


def decode(raw: RawImage | ImageFile, limits: DecodeLimits = WIDEST) -> ImageU8:
    """
    Decode an image to the input of the pipeline: BGR, uint8 (H, W, 3).

    16-bit values keep their upper byte; float values range from 0 to 1; YUV is BT.601 with limited
    range, as in OpenCV. Raises ImageError if the size is zero or above the limits, the encoding is
    unknown, step or data are too short, a float value is not finite or outside 0..1, or a file is
    not a complete JPEG or PNG.
    """
    if isinstance(raw, RawImage):
        if raw.height * raw.width > limits.max_px and raw.encoding in ENCODINGS:
            _checked(raw, ENCODINGS[raw.encoding])  # damage is reported first
            raise _too_large(f'image of {raw.width}x{raw.height} pixels', limits)
        return _decode_raw(raw)
    header = check_file(raw)
    if header.cost_px > limits.max_px:
        raise _too_large(str(header), limits)
    pixels = _unpacked(raw, header, cv2.IMREAD_UNCHANGED if header.is_grey else _TO_BGR)
    encoding = _encoding_in(raw, pixels.shape[2] if pixels.ndim == 3 else 1, pixels.dtype)
    if encoding == 'bgr8':
        return np.asarray(pixels, np.uint8)
    rows = np.ascontiguousarray(pixels)
    return _decode_raw(RawImage(rows.reshape(-1).view(np.uint8), *header.size, encoding,
                                rows.strides[0], sys.byteorder == 'big'))


def decode_unchanged(file: ImageFile) -> NDArray[Any]:
    """
    Decode a JPEG or PNG to its stored values, such as class ids or 16-bit numbers.

    Returns uint8 or uint16, (H, W) or (H, W, channels). Raises ImageError as `decode` does.
    """
    header = check_file(file)
    return _unpacked(file, header, cv2.IMREAD_UNCHANGED)


def _unpacked(file: ImageFile, header: FileHeader, flags: int) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(header.data, np.uint8), flags)
    except cv2.error as err:
        raise ImageError(f'compressed image that cannot be decoded ({err.err})') from err
    if pixels is None or pixels.shape[:2] != header.size \
            or pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'compressed image of {len(file.data)} bytes that cannot be decoded',
                         'a whole jpeg or png file', 'the message was cut or is damaged')
    return np.asarray(pixels)


def _decode_raw(raw: RawImage) -> ImageU8:
    kind = ENCODINGS.get(raw.encoding)
    if kind is None:
        raise ImageError(
            f'image encoding {_shown.repr(raw.encoding)}', f'one of {", ".join(ENCODINGS)}',
            'set the camera driver to bgr8 or rgb8',
        )
    buffer = _checked(raw, kind)
    if kind.family == 'yuv420':
        planes = _strided(buffer, raw.height + raw.height // 2, raw.width, raw.step)
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(planes), _code(kind)), np.uint8)
    pixels = _rows(buffer, raw, kind) if raw.values is None else raw.values
    if kind.dtype == 'f4':
        pixels = _bytes_of_floats(pixels)
    elif kind.dtype == 'u2' and kind.family != 'bayer':
        pixels = (pixels >> 8).astype(np.uint8)
    # OpenCV needs packed rows in the machine's byte order, and two axes for Bayer and grey.
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder('='))
    flat = pixels[..., 0] if kind.channels == 1 else pixels
    bgr = cv2.cvtColor(flat, _code(kind)) if kind.conversion else flat
    # A 16-bit mosaic was interpolated at full depth.
    return np.asarray(bgr >> 8 if bgr.dtype == np.uint16 else bgr, np.uint8)


def _code(kind: Encoding) -> int:
    return int(getattr(cv2, f'COLOR_{kind.conversion}'))


def _checked(raw: RawImage, kind: Encoding) -> NDArray[np.uint8]:
    """Return the bytes of an image after checking that they match its header."""
    size, row_bytes = f'{raw.width}x{raw.height}', kind.row_bytes(raw.width)
    if raw.height < 1 or raw.width < 1:
        raise ImageError(f'image of {size} pixels', 'at least 1x1')
    if raw.step < row_bytes:
        raise ImageError(
            f'image step {raw.step} for {raw.width} pixels of {raw.encoding}',
            f'at least {row_bytes} bytes', 'repair the camera driver',
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


def _encoding_in(file: ImageFile, channels: int, dtype: np.dtype[Any]) -> str:
    """Return the encoding of the values in a file, by the conventions of image_transport."""
    bits = 8 * dtype.itemsize
    if channels == 1:
        mosaic = f'{file.mosaic}{bits}'
        return mosaic if mosaic in ENCODINGS else f'mono{bits}'
    # With 'compressed rgb' the publisher has stored red where OpenCV returns blue.
    order = 'rgb' if 'compressed rgb' in file.packing else 'bgr'
    return f'{order}a{bits}' if channels == 4 else f'{order}{bits}'


def _bytes_of_floats(pixels: NDArray[Any]) -> NDArray[Any]:
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not (low >= 0 and high <= 1):
        raise ImageError(f'float image with values from {low:g} to {high:g}', '0 to 1')
    return np.rint(values * 255).astype(np.uint8)
