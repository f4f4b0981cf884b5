# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A mark in the PNG of a mask that a model made, which goes along wherever the file is copied.

It is a text of the file with the digest of the pixels. Programs that paint either drop it, or keep
it beside other pixels: then it says nothing any more.

"""

from __future__ import annotations

import hashlib
from pathlib import Path
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged, ImageFile
from uncertainty_seg.errors import ImageError

_KEY = b'uncertainty_seg prediction\0'
_TEXT = b'tEXt' + _KEY
_SHA_BYTES = 64
# Signature and IHDR; the mark comes next, and where a program moved it, before the pixels.
_HEAD_BYTES, _LOOKED_AT_BYTES = 33, 4096


def mask_sha256(mask: LabelMap | NDArray[np.uint8]) -> str:
    """Return the digest of the size and the ids of a mask, (H, W) uint8."""
    size = np.array(mask.shape, '<i8').tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(mask).tobytes()).hexdigest()


def marked(png: bytes, mask: LabelMap) -> bytes:
    """Return the PNG of a mask with the mark."""
    chunk = _TEXT + mask_sha256(mask).encode()
    framed = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return png[:_HEAD_BYTES] + framed + png[_HEAD_BYTES:]


def is_prediction(file: Path) -> bool:
    """Say whether a file has the mark and still the pixels that it speaks of."""
    try:
        with file.open('rb') as opened:
            head = opened.read(_LOOKED_AT_BYTES)
        start = head.find(_TEXT)
        if start < 0:
            return False
        digest = head[start + len(_TEXT):start + len(_TEXT) + _SHA_BYTES].decode('ascii')
        mask = decode_unchanged(ImageFile(file.read_bytes()))
    except (OSError, ValueError, ImageError):
        return False  # whoever reads the mask says what is wrong with it
    return mask_sha256(mask) == digest
