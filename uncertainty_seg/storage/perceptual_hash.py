# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A perceptual hash of an image, 64 bits, for finding near-duplicates.

The pHash of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010):
shrink to 32x32 grey, take the discrete cosine transform, and set a bit for each of the 8x8 lowest
frequencies, without the constant ones, that is above their median. Noise, exposure and JPEG
quality change few bits; other content changes about half of them.
"""

from __future__ import annotations

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8, require_shape

_SIDE, _LOW = 32, 8
# Weights of blue, green and red in grey: BT.601, as in OpenCV.
_GREY = np.array([0.114, 0.587, 0.299])
# The frequencies of a uniform image are rounding errors; their signs carry no information.
_ROUNDING = 1e-6


def perceptual_hash(image_bgr: ImageU8) -> int:
    """
    Return the 64-bit hash of a BGR image, uint8 (H, W, 3) of any size; 0 for a uniform image.

    Frequency (1, 1) is the highest bit, rows first. Raises ShapeError if it is not a BGR image of
    bytes.
    """
    require_shape('image', image_bgr, (None, None, 3), np.uint8)
    # It averages areas, so that no row of a large image is left out.
    small = cv2.resize(image_bgr, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = np.einsum('hwc,c->hw', small, _GREY)
    low = cv2.dct(grey)[1:_LOW + 1, 1:_LOW + 1].ravel()
    bits = low > np.median(low) + _ROUNDING
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')
