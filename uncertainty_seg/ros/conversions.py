# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From messages to what the core takes, and back: through cv_bridge where it is installed and right.

cv_bridge reads the values of a message as they lie there ('passthrough') and writes messages. What
it does not know or would misread is read by the package's own codec, which also refuses. Colours
are always converted by the codec, so that the node and `replay` see the same pixels.

"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
import functools
import io
import logging
import math
import sys
import timeit
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, Encoding, ENCODINGS, ImageFile, RawImage
from uncertainty_seg.core.settings import DecodeLimits

AnyImage: TypeAlias = Image | CompressedImage
_CHANNELS_AND_DTYPE = {'mono8': (1, 'u1'), 'bgr8': (3, 'u1'), '32FC1': (1, 'f4')}
_log = logging.getLogger(__name__)

# -------------------------------------------------------------------------------------------------
# Which images go through cv_bridge; docs/cameras.md has the same table.

BRIDGE_READS = tuple(name for name, kind in ENCODINGS.items()
                     if kind.family in ('plain', 'bayer', 'yuv422'))
BRIDGE_WRITES = tuple(_CHANNELS_AND_DTYPE)
# What the codec reads although cv_bridge knows the encoding.
CODEC_READS: Mapping[str, Callable[[Image, Encoding], bool]] = {
    'padded or short rows': lambda msg, kind: msg.step != kind.row_bytes(msg.width),
    'the byte order of another machine':
        lambda msg, kind: msg.is_bigendian != (sys.byteorder == 'big'),
    'no pixels, or too few bytes':
        lambda msg, kind: not 0 < msg.height * msg.step <= len(msg.data),
}
_INSTEAD = "images are read and written by the package's own codec"
_CHECK_HEIGHT, _CHECK_WIDTH = 4, 6
# A cv_bridge that assigns bytes to messages whose fields are checked takes 60 times as long as the
# codec to write these; any other takes twice as long at most.
_SPEED_SHAPE, _SLOW_RATIO = (96, 128), 10


@dataclass(frozen=True)
class ImageBridge:
    """
    What a cv_bridge is used for.

    Attributes
    ----------
    sentence : str
        For the log: what is used, and why not cv_bridge.
    is_fault : bool
        Whether a cv_bridge is installed that is not usable.
    reads, writes : frozenset of str
        The encodings that go through it.
    bridge : CvBridge or None
        None where the package's codec does everything.

    """

    sentence: str
    is_fault: bool = False
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    bridge: Any = None

    @property
    def name(self) -> str:
        """Return what most images go through, for diagnostics."""
        return 'own codec' if self.bridge is None else 'cv_bridge'

    def read(self, msg: Image) -> NDArray[Any] | None:
        """
        Read the values of a message.

        Parameters
        ----------
        msg : sensor_msgs/Image
            As received.

        Returns
        -------
        ndarray, shape (H, W, channels), or None
            A view of the message; None where the codec must read it.

        """
        if msg.encoding not in self.reads:
            return None
        kind = ENCODINGS[msg.encoding]
        if any(is_left(msg, kind) for is_left in CODEC_READS.values()):
            return None
        try:
            values = np.asarray(self.bridge.imgmsg_to_cv2(msg, 'passthrough'))
            values = values.reshape(msg.height, msg.width, kind.channels)
        except Exception as err:  # the codec reads the image, or says why it cannot be read
            _warn_once('read', msg.encoding, type(err).__name__)
            return None
        values.flags.writeable = False
        return values if values.dtype == kind.dtype else None

    def write(self, header: Header, values: NDArray[Any], encoding: str) -> Image | None:
        """
        Make an image message.

        Parameters
        ----------
        header : std_msgs/Header
            Of the message.
        values : ndarray, shape (H, W) or (H, W, 3)
            Contiguous, little endian.
        encoding : str
            What they are.

        Returns
        -------
        sensor_msgs/Image or None
            None where the codec must write it.

        """
        if encoding not in self.writes:
            return None
        try:
            return self.bridge.cv2_to_imgmsg(values, encoding, header=header)
        except Exception as err:
            _warn_once('write', encoding, type(err).__name__)
            return None


@functools.cache
def _warn_once(verb: str, encoding: str, error: str) -> None:
    _log.warning(f'cv_bridge could not {verb} an image of encoding {encoding} ({error}); '
                 "the package's own codec is used for such images")


class BridgeFault(Exception):
    """A cv_bridge that does not give back what it was given."""


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
        reason = str(err) if isinstance(err, BridgeFault) else f'{type(err).__name__}: {err}'
        return ImageBridge(
            f'cv_bridge is left aside ({" ".join(reason.split())[:300]}): {_INSTEAD}', True)


def _checked_bridge() -> ImageBridge:
    from cv_bridge import CvBridge

    bridge = CvBridge()
    reads = _known_encodings(bridge, 'read', BRIDGE_READS, _check_reading)
    writes = _known_encodings(bridge, 'write', BRIDGE_WRITES, _check_writing)
    if not reads or not writes:
        raise BridgeFault('it knows none of the encodings')
    sentence = 'images are read and written by cv_bridge'
    slowness = _slowness(bridge, writes[0])
    if slowness > _SLOW_RATIO:
        writes = ()
        sentence = ("images are read by cv_bridge and written by the package's own codec, since "
                    f'cv_bridge takes {slowness:.0f} times as long to write one')
    if unknown := [name for name in BRIDGE_READS if name not in reads]:
        sentence += f"; it does not know {', '.join(unknown)}, which the package's codec reads"
    return ImageBridge(sentence, False, frozenset(reads), frozenset(writes), bridge)


def _known_encodings(
    bridge: Any, verb: str, encodings: Iterable[str], check: Callable[[Any, str], None]
) -> tuple[str, ...]:
    """Return the encodings that are right; those that cv_bridge does not know are left out."""
    from cv_bridge import CvBridgeError

    known = []
    for encoding in encodings:
        try:
            check(bridge, encoding)
        except CvBridgeError:  # what it raises for an encoding it does not know
            continue
        except BridgeFault:
            raise
        except Exception as err:
            raise BridgeFault(
                f'it cannot {verb} {encoding}: {type(err).__name__}: {err}') from err
        known.append(encoding)
    return tuple(known)


def _check_reading(bridge: Any, encoding: str) -> None:
    kind = ENCODINGS[encoding]
    values = _known_values((_CHECK_HEIGHT, _CHECK_WIDTH, kind.channels), kind.dtype)
    msg = _own_message(Header(), values, encoding)
    msg.is_bigendian = sys.byteorder == 'big'
    read = bridge.imgmsg_to_cv2(msg, 'passthrough')
    if read.dtype != values.dtype or not np.array_equal(
            read, values if kind.channels > 1 else values[..., 0]):
        raise BridgeFault(f'it reads {encoding} with other pixels')


def _check_writing(bridge: Any, encoding: str) -> None:
    channels, dtype = _CHANNELS_AND_DTYPE[encoding]
    values = _known_values((_CHECK_HEIGHT, _CHECK_WIDTH, channels), dtype)
    values = values if channels > 1 else values[..., 0]
    header = Header(frame_id='camera')
    wanted = _own_message(header, values, encoding)
    if bridge.cv2_to_imgmsg(values, encoding, header=header) != wanted:
        raise BridgeFault(f'it writes {encoding} with other pixels or fields')


def _known_values(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return values that are all different, in each of their bytes where they are whole."""
    numbers = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    if dtype == 'f4':
        return (numbers / numbers.size).astype(np.float32)
    return (numbers * 0x0101 + 0x0100 * (dtype == 'u2')).astype(dtype)


def _slowness(bridge: Any, encoding: str) -> float:
    """Return how many times as long as the codec it takes to write an image."""
    values, header = np.zeros(_SPEED_SHAPE, _CHANNELS_AND_DTYPE[encoding][1]), Header()
    seconds = [min(timeit.repeat(write, number=1, repeat=5)) for write in (
        lambda: bridge.cv2_to_imgmsg(values, encoding, header=header),
        lambda: _own_message(header, values, encoding),
    )]
    return seconds[0] / seconds[1]


# -------------------------------------------------------------------------------------------------


def image_from_msg(msg: AnyImage) -> RawImage | ImageFile:
    """
    Look at an image message as the codec wants it.

    Parameters
    ----------
    msg : sensor_msgs/Image or sensor_msgs/CompressedImage
        As received.

    Returns
    -------
    RawImage or ImageFile
        A view: the bytes are those of the message and are not copied.

    """
    data = np.frombuffer(msg.data, np.uint8)
    if isinstance(msg, CompressedImage):
        return ImageFile(data, msg.format)
    return RawImage(
        data=data, height=msg.height, width=msg.width, encoding=msg.encoding, step=msg.step,
        is_bigendian=bool(msg.is_bigendian), values=image_bridge().read(msg),
    )


def image_to_msg(header: Header, pixels: NDArray[Any], encoding: str) -> Image:
    """
    Make an image message.

    Parameters
    ----------
    header : std_msgs/Header
        Kept as it is: stamp and frame of the image the pixels come from.
    pixels : ndarray, shape (H, W) or (H, W, 3)
        uint8 for 'mono8' and 'bgr8', float32 for '32FC1'.
    encoding : str
        One of those.

    Returns
    -------
    sensor_msgs/Image
        Rows without padding, little endian.

    """
    kind = np.dtype(_CHANNELS_AND_DTYPE[encoding][1]).newbyteorder('<')
    values = np.ascontiguousarray(pixels, kind)
    return image_bridge().write(header, values, encoding) or _own_message(
        header, values, encoding)


def jpeg_to_msg(header: Header, data: bytes) -> CompressedImage:
    """Make a message of a JPEG file of a bgr8 image, in the words of image_transport."""
    return CompressedImage(header=header, format='bgr8; jpeg compressed bgr8',
                           data=array.array('B', data))


def _own_message(header: Header, values: NDArray[Any], encoding: str) -> Image:
    """Make a message of contiguous values as the codec does."""
    msg = Image(header=header, height=values.shape[0], width=values.shape[1], encoding=encoding)
    msg.step = math.prod(values.shape[1:]) * values.itemsize
    # An array of bytes is taken over as it is; anything else may be checked byte by byte in
    # Python, which takes 50 to 130 ms for a camera image.
    data = array.array('B')
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    msg.data = data
    return msg


def as_image(msg: AnyImage, limits: DecodeLimits) -> Image:
    """Return an image message as it is; one that came compressed is decoded to bgr8."""
    if isinstance(msg, Image):  # a topic has one type
        return msg
    return image_to_msg(msg.header, decode(image_from_msg(msg), limits), 'bgr8')


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
