# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Conversions between ROS messages and the images of the core.

An installed cv_bridge that passes a check reads the raw values of a message. The package's own
codec reads what cv_bridge does not know or would misread. It also converts colours, so that the
node and `replay` see the same pixels, and writes: some cv_bridge versions take 60 times as long.
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

# Encodings that cv_bridge reads; docs/guides/cameras.md has the same table.
BRIDGE_READS = tuple(name for name, kind in ENCODINGS.items()
                     if kind.family in ('plain', 'bayer', 'yuv422'))
_INSTEAD = "images are read by the package's own codec"


@dataclass(frozen=True)
class ImageBridge:
    """
    The installed cv_bridge and the encodings that it reads; none if `bridge` is None.

    `sentence` is for the log; `is_fault` is true if an installed cv_bridge is unusable.
    """

    sentence: str
    is_fault: bool = False
    reads: frozenset[str] = frozenset()
    bridge: Any = None

    @property
    def name(self) -> str:
        """Return the name of the reader of most images, for diagnostics."""
        return 'own codec' if self.bridge is None else 'cv_bridge'

    def read(self, msg: Image) -> NDArray[Any] | None:
        """Return the values of a message, (H, W, channels); None if the codec must read it."""
        if msg.encoding not in self.reads:
            return None
        kind = ENCODINGS[msg.encoding]
        # cv_bridge misreads padded or short rows, a foreign byte order and empty images.
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
    """Find cv_bridge and check it with known pixels, once per process; never raises."""
    try:
        # A cv_bridge that was built for numpy 1 prints a long warning with numpy 2.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return _checked_bridge()
    except (Exception, SystemExit) as err:
        if isinstance(err, ModuleNotFoundError) and err.name == 'cv_bridge':
            return ImageBridge(f'cv_bridge is not installed: {_INSTEAD}')
        reason = ' '.join(f'{type(err).__name__}: {err}'.split())[:300]
        return ImageBridge(f'cv_bridge is not used ({reason}): {_INSTEAD}', True)


def _checked_bridge() -> ImageBridge:
    """Check known pixels of each encoding; skip encodings that cv_bridge does not know."""
    from cv_bridge import CvBridge, CvBridgeError

    bridge, reads = CvBridge(), []
    for encoding in BRIDGE_READS:
        kind = ENCODINGS[encoding]
        # All values differ, and integers in each of their bytes, which shows a wrong byte order.
        numbers = np.arange(1, 1 + 24 * kind.channels).reshape(4, 6, kind.channels)
        values = (numbers / numbers.size if kind.dtype == 'f4' else
                  numbers * 0x0101 + 0x0100 * (kind.dtype == 'u2')).astype(kind.dtype)
        msg = _message(Header(), values, encoding)
        msg.is_bigendian = sys.byteorder == 'big'
        try:
            read = bridge.imgmsg_to_cv2(msg, 'passthrough')
        except CvBridgeError:  # raised for an unknown encoding
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
    """Return an image message as the codec's input: a view, which copies no bytes."""
    data = np.frombuffer(msg.data, np.uint8)
    if isinstance(msg, CompressedImage):
        return ImageFile(data, msg.format)
    return RawImage(
        data=data, height=msg.height, width=msg.width, encoding=msg.encoding, step=msg.step,
        is_bigendian=bool(msg.is_bigendian), values=image_bridge().read(msg),
    )


def image_to_msg(header: Header, pixels: NDArray[Any], encoding: str) -> Image:
    """Make an unpadded message of uint8 pixels ('mono8', 'bgr8') or of float32 ('32FC1')."""
    kind = np.dtype('f4' if encoding == '32FC1' else 'u1').newbyteorder('<')
    return _message(header, np.ascontiguousarray(pixels, kind), encoding)


def _message(header: Header, values: NDArray[Any], encoding: str) -> Image:
    msg = Image(header=header, height=values.shape[0], width=values.shape[1], encoding=encoding)
    msg.step = math.prod(values.shape[1:]) * values.itemsize
    # rclpy takes an array of bytes without a check. Other types may be checked byte by byte in
    # Python, which takes 50 to 130 ms for a camera image.
    data = array.array('B')
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    msg.data = data
    return msg


def jpeg_to_msg(header: Header, data: bytes) -> CompressedImage:
    """Make a message from the JPEG of a bgr8 image, with the format text of image_transport."""
    return CompressedImage(header=header, format='bgr8; jpeg compressed bgr8',
                           data=array.array('B', data))


def as_image(msg: AnyImage, limits: DecodeLimits) -> Image:
    """Return a raw image message unchanged, and a compressed one decoded to bgr8."""
    if isinstance(msg, Image):
        return msg
    return image_to_msg(msg.header, decode(image_from_msg(msg), limits), 'bgr8')


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
