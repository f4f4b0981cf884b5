# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Small image files that are expensive to decode, generated so that none is in the repository."""

import struct
import zlib

import cv2
import numpy as np

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, body: bytes = b'', claimed: int | None = None) -> bytes:
    """Return a chunk of a PNG; `claimed` replaces the length that its header states."""
    length = len(body) if claimed is None else claimed
    return struct.pack('>I', length) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def black_png(
    height: int, width: int, depth: int = 8, color: int = 2, extra: bytes = b''
) -> bytes:
    """Return a valid PNG of zeros, 1/1000 of its decoded size; `extra` chunks precede the data."""
    row = bytes(width * depth * _CHANNELS[color] // 8 + 1)
    packer, parts = zlib.compressobj(9), []
    for _ in range(height):
        parts.append(packer.compress(row))
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        (header, extra, chunk(b'IDAT', b''.join([*parts, packer.flush()])), chunk(b'IEND')))


def text_bomb(count: int, text_bytes: int = 7_900_000) -> bytes:
    """Return compressed text chunks of a PNG, each inflating to 1000 times its size."""
    return chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(text_bytes), 9)) * count


def black_jpeg(height: int, width: int, num_scans: int) -> bytes:
    """Return a valid progressive JPEG of zeros whose last scan repeats up to `num_scans`."""
    data = cv2.imencode('.jpg', np.zeros((height, width), np.uint8),
                        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1))[1]
    body = data.tobytes()[:-2]
    last = body[body.rfind(b'\xff\xda'):]
    return body + last * (num_scans - body.count(b'\xff\xda')) + b'\xff\xd9'
