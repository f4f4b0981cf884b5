# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the encodings of sensor_msgs/image_encodings mean, as one table.

Colour conversions are named as OpenCV names them, so that this table needs no OpenCV. What has no
colour of its own (8UC2, signed or double values, 32FC2) is left out and refused.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """
    How one encoding lays out a pixel.

    Attributes
    ----------
    dtype : str
        'u1', 'u2' or 'f4'.
    channels : int
        Values a pixel in a row of the image; chroma that lies elsewhere is not counted.
    conversion : str
        OpenCV's conversion to BGR, such as 'RGB2BGR'; empty where the values are BGR already.
    family : str
        'plain', or what needs more care: 'bayer', 'yuv422', 'yuv420', 'yuv444'.

    """

    dtype: str
    channels: int
    conversion: str = ''
    family: str = 'plain'

    @property
    def itemsize(self) -> int:
        """Bytes a value."""
        return np.dtype(self.dtype).itemsize

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row without padding."""
        return width * self.channels * self.itemsize

    def needed_bytes(self, height: int, width: int, step: int) -> int:
        """
        Return how long the data of an image must be.

        Parameters
        ----------
        height, width : int
            H, W, at least 1.
        step : int
            Bytes from one row to the next, of the luma where chroma has a plane of its own.

        Returns
        -------
        int
            Without the padding of the last row, which some drivers leave out.

        """
        if self.family == 'yuv420':
            return step * (height + height // 2 - 1) + width
        if self.family == 'yuv444':
            # A row of chroma has two bytes a pixel, and so twice the step (V4L2, NV24).
            return step * height + 2 * step * (height - 1) + 2 * width
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
    # OpenCV knows no NV24; see `image_codec`.
    'nv24': Encoding('u1', 1, 'YUV2BGR_NV12', 'yuv444'),
}
