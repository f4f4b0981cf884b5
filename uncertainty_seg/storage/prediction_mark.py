# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A mark in the PNG of a mask that a model made, which goes along wherever the file is copied.

It is a text of the file with the digest of the pixels as they are decoded: class ids, or colours
of a palette. Programs that paint either drop it, or keep it beside other pixels: then it says
nothing any more.

"""

from __future__ import annotations

import hashlib
from pathlib import Path
import re
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged, ImageFile
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.foreign_files import read_bytes

_KEY = b'uncertainty_seg prediction\0'
_TEXT = b'tEXt' + _KEY
_SHA_BYTES = 64
# Signature and IHDR; the mark comes next. Programs move it: ImageMagick behind the pixels.
_HEAD_BYTES = 33
# In a text of UTF-8 two flags and two empty words come first.
_DIGEST = re.compile(rb'\0{0,4}([0-9a-f]{64})')


def mask_sha256(mask: LabelMap | NDArray[np.uint8]) -> str:
    """Return the digest of the size and the ids of a mask, (H, W) uint8, or of its colours."""
    size = np.array(mask.shape, '<i8').tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(mask).tobytes()).hexdigest()


def marked(png: bytes, mask: LabelMap | NDArray[np.uint8]) -> bytes:
    """Return the PNG of a mask, or of the colours of its palette, with the mark."""
    chunk = _TEXT + mask_sha256(mask).encode()
    framed = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return png[:_HEAD_BYTES] + framed + png[_HEAD_BYTES:]


def is_prediction(file: Path) -> bool:
    """Say whether a file has the mark and still the pixels that it speaks of."""
    try:
        data = read_bytes(file) if file.is_file() else b''
        digest = _digest_in(data)
        return bool(digest) and digest == mask_sha256(decode_unchanged(ImageFile(data)))
    except (OSError, ValueError, zlib.error, ImageError):
        return False  # whoever reads the mask says what is wrong with it


def _digest_in(data: bytes) -> str:
    """Return the digest of the mark in a PNG, whatever kind of text it has become."""
    at = data.find(_KEY)
    if at < 0:
        return ''
    text = data[at + len(_KEY):]
    if data[at - 4:at] == b'zTXt':
        text = zlib.decompressobj().decompress(text[1:], _SHA_BYTES)
    found = _DIGEST.match(text)
    return found[1].decode() if found else ''
