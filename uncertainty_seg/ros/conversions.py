# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From messages to what the core takes, and back. Free functions, nothing kept."""

from __future__ import annotations

import array
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.core.image_codec import decode, ImageFile, RawImage

if TYPE_CHECKING:
    from std_msgs.msg import Header

AnyImage: TypeAlias = Image | CompressedImage
_CHANNELS_AND_DTYPE = {'mono8': (1, 'u1'), 'bgr8': (3, 'u1'), '32FC1': (1, 'f4')}


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
        data=data, height=msg.height, width=msg.width,
        encoding=msg.encoding, step=msg.step, is_bigendian=bool(msg.is_bigendian),
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
    channels, kind = _CHANNELS_AND_DTYPE[encoding]
    values = np.ascontiguousarray(pixels, np.dtype(kind).newbyteorder('<'))
    msg = Image(header=header, height=values.shape[0], width=values.shape[1], encoding=encoding)
    msg.step = values.shape[1] * channels * values.itemsize
    # An array of bytes is taken over as it is; anything else is checked byte by byte in Python,
    # which takes 50 to 130 ms for a camera image.
    data = array.array('B')
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    msg.data = data
    return msg


def as_image(msg: AnyImage) -> Image:
    """Return an image message as it is; one that came compressed is decoded to bgr8."""
    if isinstance(msg, Image):  # a topic has one type
        return msg
    return image_to_msg(msg.header, decode(image_from_msg(msg)), 'bgr8')


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)
