# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A fake cv_bridge, for tests of a fault that the installed cv_bridge does not have."""

from typing import Any

import numpy as np

from uncertainty_seg.core.image_codec import ENCODINGS

# Encodings that Debian's version 1.16 does not support.
UNKNOWN = ('uyvy', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21')


class CvBridgeError(TypeError):
    """Raised for an unknown encoding."""


class CvBridge:
    """Read messages without colour conversion; `desired_encoding` is always 'passthrough'."""

    def __init__(self) -> None:
        self.num_read = 0

    def imgmsg_to_cv2(self, msg: Any, desired_encoding: str = 'passthrough') -> Any:
        assert desired_encoding == 'passthrough'
        self.num_read += 1
        kind = ENCODINGS.get(msg.encoding)
        if kind is None or msg.encoding in UNKNOWN:
            raise CvBridgeError(f'Unrecognized image encoding [{msg.encoding}]')
        shape = (msg.height, msg.width, kind.channels)
        return np.ndarray(shape if kind.channels > 1 else shape[:2], kind.dtype, msg.data)
