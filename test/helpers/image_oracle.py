# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
An independent decoder of image messages: value by value in plain Python, from the definitions.

It shares no code with the codec: no OpenCV, no numpy views. YUV is limited-range BT.601; Bayer
takes the mean of the nearest pixels of a colour. Both are compared with a tolerance of one level.
"""

from dataclasses import dataclass
import struct
from typing import Any

import numpy as np

from uncertainty_seg.core.image_codec import RawImage

BAYER = ('rggb', 'bggr', 'gbrg', 'grbg')
# Encoding -> bits per value, and the colours of a pixel in order; 'y' is grey.
PLAIN = {
    'mono8': (8, 'y'), '8UC1': (8, 'y'), 'mono16': (16, 'y'), '16UC1': (16, 'y'),
    'bgr8': (8, 'bgr'), 'rgb8': (8, 'rgb'), 'bgra8': (8, 'bgra'), 'rgba8': (8, 'rgba'),
    '8UC3': (8, 'bgr'), '8UC4': (8, 'bgra'), 'bgr16': (16, 'bgr'), 'rgb16': (16, 'rgb'),
    'bgra16': (16, 'bgra'), 'rgba16': (16, 'rgba'), '16UC3': (16, 'bgr'), '16UC4': (16, 'bgra'),
    '32FC1': (32, 'y'), '32FC3': (32, 'bgr'),
}
MOSAICS = {f'bayer_{pattern}{bits}': (bits, pattern) for pattern in BAYER for bits in (8, 16)}
# Encoding -> offsets of the first Y, of U and of V in the four bytes of a pixel pair.
PAIRS = {'uyvy': (1, 0, 2), 'yuv422': (1, 0, 2), 'yuyv': (0, 1, 3), 'yuv422_yuy2': (0, 1, 3)}
PLANES = ('nv12', 'nv21')
EVERY = (*PLAIN, *MOSAICS, *PAIRS, *PLANES)


@dataclass(frozen=True)
class Answer:
    """The expected pixels, and by how many levels OpenCV may differ from them."""

    bgr: Any
    tolerance: int

    def check(self, image: Any) -> None:
        assert image.dtype == np.uint8
        assert image.shape == self.bgr.shape
        apart = np.abs(image.astype(int) - self.bgr).max()
        assert apart <= self.tolerance, f'{apart} levels apart'


def answer(raw: RawImage) -> Answer | None:
    """Return the expected image of a message; None if it must be refused."""
    if raw.height < 1 or raw.width < 1:
        return None
    if raw.encoding in PLAIN:
        return _plain(raw)
    if raw.encoding in MOSAICS:
        return _mosaic(raw)
    if raw.encoding in PAIRS:
        return _pairs(raw)
    return _planes(raw) if raw.encoding in PLANES else None


def _fits(raw: RawImage, row_bytes: int, length: int) -> bool:
    return raw.step >= row_bytes and len(bytes(raw.data)) >= length


def _value(raw: RawImage, at: int, bits: int) -> float:
    """Return a value as 0..255: an integer's upper 8 bits, a float times 255."""
    piece = bytes(raw.data)[at:at + bits // 8]
    if bits == 32:
        return float(struct.unpack('>f' if raw.is_bigendian else '<f', piece)[0]) * 255
    return int.from_bytes(piece, 'big' if raw.is_bigendian else 'little') >> (bits - 8)


def _plain(raw: RawImage) -> Answer | None:
    bits, colors = PLAIN[raw.encoding]
    size = bits // 8 * len(colors)
    if not _fits(raw, raw.width * size, (raw.height - 1) * raw.step + raw.width * size):
        return None
    out = np.zeros((raw.height, raw.width, 3))
    for y in range(raw.height):
        for x in range(raw.width):
            start = y * raw.step + x * size
            for k, color in enumerate('bgr'):
                place = 0 if colors == 'y' else colors.index(color)
                out[y, x, k] = _value(raw, start + place * bits // 8, bits)
    if bits == 32 and not ((out >= 0) & (out <= 255)).all():  # NaN is neither
        return None
    return Answer(np.rint(out), 1 if bits == 32 else 0)


def _mosaic(raw: RawImage) -> Answer | None:
    bits, pattern = MOSAICS[raw.encoding]
    row_bytes = raw.width * bits // 8
    is_whole = _fits(raw, row_bytes, (raw.height - 1) * raw.step + row_bytes)
    if not is_whole or min(raw.height, raw.width) < 3:
        return None
    values = [[_value(raw, y * raw.step + x * bits // 8, bits) for x in range(raw.width)]
              for y in range(raw.height)]
    out = np.zeros((raw.height, raw.width, 3))
    for y in range(raw.height):
        for x in range(raw.width):
            # OpenCV fills the border with the adjacent inner pixel.
            centre = min(max(y, 1), raw.height - 2), min(max(x, 1), raw.width - 2)
            out[y, x] = [_nearest(values, pattern, *centre, color) for color in 'bgr']
    return Answer(out, 1)


def _nearest(values: list[list[float]], pattern: str, y: int, x: int, color: str) -> float:
    """Return the mean of the nearest pixels of a colour; the pixel itself if it has it."""
    found: dict[int, list[float]] = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if pattern[(y + dy) % 2 * 2 + (x + dx) % 2] == color:
                found.setdefault(abs(dy) + abs(dx), []).append(values[y + dy][x + dx])
    nearest = found[min(found)]
    return sum(nearest) / len(nearest)


def _bgr(luma: int, blue: int, red: int) -> list[float]:
    y, u, v = 1.164 * max(luma - 16, 0), blue - 128, red - 128
    values = (y + 2.018 * u, y - 0.391 * u - 0.813 * v, y + 1.596 * v)
    return [min(max(value, 0), 255) for value in values]


def _pairs(raw: RawImage) -> Answer | None:
    luma, blue, red = PAIRS[raw.encoding]
    is_whole = _fits(raw, raw.width * 2, (raw.height - 1) * raw.step + raw.width * 2)
    if not is_whole or raw.width % 2:
        return None
    data, out = bytes(raw.data), np.zeros((raw.height, raw.width, 3))
    for y in range(raw.height):
        for x in range(raw.width):
            pair = y * raw.step + x // 2 * 4
            out[y, x] = _bgr(data[pair + luma + x % 2 * 2], data[pair + blue], data[pair + red])
    return Answer(out, 2)


def _planes(raw: RawImage) -> Answer | None:
    height, width, step, data = raw.height, raw.width, raw.step, bytes(raw.data)
    length = step * (height + height // 2 - 1) + width
    if not _fits(raw, width, length) or height % 2 or width % 2:
        return None
    out = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            at = step * height + y // 2 * step + x // 2 * 2
            first, second = data[at], data[at + 1]
            blue, red = (second, first) if raw.encoding == 'nv21' else (first, second)
            out[y, x] = _bgr(data[y * step + x], blue, red)
    return Answer(out, 2)
