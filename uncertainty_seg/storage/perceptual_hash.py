# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A fingerprint of 64 bits of what an image shows, for finding near-duplicates.

The pHash of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010):
shrink to 32x32 grey, take the discrete cosine transform, and keep for the 8x8 lowest frequencies
without the constant ones whether they are above their median. Noise, exposure and the quality of
a JPEG move few bits; other content moves about half of them.

"""

from __future__ import annotations

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8, require_shape

_SIDE, _LOW = 32, 8
# Of blue, green and red: BT.601, as OpenCV's grey.
_GREY = np.array([0.114, 0.587, 0.299])
# The frequencies of a uniform image are rounding errors; their signs carry no information.
_ROUNDING = 1e-6


def perceptual_hash(image_bgr: ImageU8) -> int:
    """
    Return the 64-bit hash of a BGR image, uint8 (H, W, 3) of any size; 0 for an even image.

    Frequency (1, 1) is the highest bit, rows first. Raises ShapeError if it is not a BGR image of
    bytes.
    """
    require_shape('image', image_bgr, (None, None, 3), np.uint8)
    # Averages areas, so that no row of a large image is left out.
    small = cv2.resize(image_bgr, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = np.einsum('hwc,c->hw', small, _GREY)
    low = cv2.dct(grey)[1:_LOW + 1, 1:_LOW + 1].ravel()
    bits = low > np.median(low) + _ROUNDING
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')
