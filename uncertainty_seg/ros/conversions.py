# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From messages to what the core takes, and back.

cv_bridge, where it is installed and right, reads the values of a message as they lie there. What
it does not know or would misread is read by the package's own codec, which also converts colours,
so that node and `replay` see the same pixels, and writes: some cv_bridge take 60 times as long.

"""

from __future__ import annotations

import array
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
import functools
import io
import math
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, ENCODINGS, ImageFile, RawImage
from uncertainty_seg.core.settings import DecodeLimits

AnyImage: TypeAlias = Image | CompressedImage

# Which images cv_bridge reads; docs/guides/cameras.md has the same table.
BRIDGE_READS = tuple(name for name, kind in ENCODINGS.items()
                     if kind.family in ('plain', 'bayer', 'yuv422'))
_INSTEAD = "images are read by the package's own codec"


@dataclass(frozen=True)
class ImageBridge:
    """
    What a cv_bridge is used for: the encodings that it reads; none where `bridge` is None.

    The sentence is for the log; it is a fault if an installed cv_bridge is unusable.
    """

    sentence: str
    is_fault: bool = False
    reads: frozenset[str] = frozenset()
    bridge: Any = None

    @property
    def name(self) -> str:
        """Return what reads most images, for diagnostics."""
        return 'own codec' if self.bridge is None else 'cv_bridge'

    def read(self, msg: Image) -> NDArray[Any] | None:
        """Return the values of a message, (H, W, channels); None where the codec must read it."""
        if msg.encoding not in self.reads:
            return None
        kind = ENCODINGS[msg.encoding]
        # Padded or short rows, another machine's byte order, no pixels: cv_bridge misreads them.
        if (msg.step != kind.row_bytes(msg.width)
                or msg.is_bigendian != (sys.byteorder == 'big')
                or not 0 < msg.height * msg.step <= len(msg.data)):
            return None
        values = np.asarray(self.bridge.imgmsg_to_cv2(msg, 'passthrough'))
        values = values.reshape(msg.height, msg.width, kind.channels)
        values.flags.writeable = False
        return values if values.dtype == kind.dtype else None


@functools.cache
def image_bridge() -> ImageBridge:
    """Look for cv_bridge and check it with known pixels, once a process; never raises."""
    try:
        # A cv_bridge that was built for numpy 1 prints a page beside numpy 2.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return _checked_bridge()
    except (Exception, SystemExit) as err:
        if isinstance(err, ModuleNotFoundError) and err.name == 'cv_bridge':
            return ImageBridge(f'cv_bridge is not installed: {_INSTEAD}')
        reason = ' '.join(f'{type(err).__name__}: {err}'.split())[:300]
        return ImageBridge(f'cv_bridge is not used ({reason}): {_INSTEAD}', True)


def _checked_bridge() -> ImageBridge:
    """Read known pixels of each encoding; those that cv_bridge does not know are left out."""
    from cv_bridge import CvBridge, CvBridgeError

    bridge, reads = CvBridge(), []
    for encoding in BRIDGE_READS:
        kind = ENCODINGS[encoding]
        # All different, in each of their bytes where they are whole.
        numbers = np.arange(1, 1 + 24 * kind.channels).reshape(4, 6, kind.channels)
        values = (numbers / numbers.size if kind.dtype == 'f4' else
                  numbers * 0x0101 + 0x0100 * (kind.dtype == 'u2')).astype(kind.dtype)
        msg = _message(Header(), values, encoding)
        msg.is_bigendian = sys.byteorder == 'big'
        try:
            read = bridge.imgmsg_to_cv2(msg, 'passthrough')
        except CvBridgeError:  # what it raises for an encoding it does not know
            continue
        if read.dtype != values.dtype or not np.array_equal(
                read, values if kind.channels > 1 else values[..., 0]):
            raise ValueError(f'it reads {encoding} with wrong pixels')
        reads.append(encoding)
    if not reads:
        raise ValueError('it knows none of the encodings')
    unknown = [name for name in BRIDGE_READS if name not in reads]
    rest = f"; it does not know {', '.join(unknown)}, read by our codec" if unknown else ''
    return ImageBridge(f'images are read by cv_bridge{rest}', False, frozenset(reads), bridge)


def image_from_msg(msg: AnyImage) -> RawImage | ImageFile:
    """Look at an image message as the codec wants it: a view, whose bytes are not copied."""
    data = np.frombuffer(msg.data, np.uint8)
    if isinstance(msg, CompressedImage):
        return ImageFile(data, msg.format)
    return RawImage(
        data=data, height=msg.height, width=msg.width, encoding=msg.encoding, step=msg.step,
        is_bigendian=bool(msg.is_bigendian), values=image_bridge().read(msg),
    )


def image_to_msg(header: Header, pixels: NDArray[Any], encoding: str) -> Image:
    """Make a message, without padding, of uint8 'mono8' or 'bgr8', or of float32 '32FC1'."""
    kind = np.dtype('f4' if encoding == '32FC1' else 'u1').newbyteorder('<')
    return _message(header, np.ascontiguousarray(pixels, kind), encoding)


def _message(header: Header, values: NDArray[Any], encoding: str) -> Image:
    msg = Image(header=header, height=values.shape[0], width=values.shape[1], encoding=encoding)
    msg.step = math.prod(values.shape[1:]) * values.itemsize
    # An array of bytes is taken over as it is; anything else may be checked byte by byte in
    # Python, which takes 50 to 130 ms for a camera image.
    data = array.array('B')
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    msg.data = data
    return msg


def jpeg_to_msg(header: Header, data: bytes) -> CompressedImage:
    """Make a message of a JPEG file of a bgr8 image, in the words of image_transport."""
    return CompressedImage(header=header, format='bgr8; jpeg compressed bgr8',
                           data=array.array('B', data))


def as_image(msg: AnyImage, limits: DecodeLimits) -> Image:
    """Return an image message as it is; one that came compressed is decoded to bgr8."""
    if isinstance(msg, Image):  # a topic has one type
        return msg
    return image_to_msg(msg.header, decode(image_from_msg(msg), limits), 'bgr8')


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
