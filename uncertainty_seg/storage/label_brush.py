# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The run lengths of Label Studio's brush: a stream of bits over RGBA bytes.

The format is that of the JavaScript package ``@thi.ng/rle-pack``. Label Studio's SDK has a codec
in Python; it pins OpenCV below 4.13 and brings 70 packages. Tests hold this one to it, both ways.

"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.label_regions import BoolMask, run_lengths

_WORD_BITS = 8
# Bits that a length may take; which of the four it is stands before it.
_SIZES = np.array([3, 4, 8, 16])
_HEADER_BITS = 32 + 5 + 4 * 4
_LONGEST = 1 << 16
# Alpha from which a pixel is painted: the rim of a brush may be see-through.
_PAINTED = 128


def encode_brush(pixels: BoolMask) -> list[int]:
    """
    Pack a region.

    Parameters
    ----------
    pixels : ndarray of bool, shape (H, W)
        True where it is painted.

    Returns
    -------
    list of int
        Bytes 0..255, as Label Studio has them in JSON.

    """
    lengths = np.array(run_lengths(pixels.ravel()), np.int64) * 4
    values = np.arange(lengths.size) % 2 * 255
    # A run longer than 16 bits can say is several.
    parts = -(-lengths // _LONGEST)
    chunks = np.repeat(np.where(parts > 0, _LONGEST, 0), parts)
    last = np.cumsum(parts)[parts > 0] - 1
    chunks[last] = lengths[parts > 0] - (parts[parts > 0] - 1) * _LONGEST
    body = _run_bits(chunks, np.repeat(values, parts))
    header = _bits(pixels.size * 4, 32) + _bits(_WORD_BITS - 1, 5)
    header += [bit for size in _SIZES for bit in _bits(int(size) - 1, 4)]
    return np.packbits(np.concatenate((np.array(header, np.uint8), body))).tolist()


def decode_brush(packed: Sequence[int], height: int, width: int) -> BoolMask:
    """
    Unpack a region.

    Parameters
    ----------
    packed : sequence of int
        Bytes, as from `encode_brush` or Label Studio.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where alpha is at least half.

    Raises
    ------
    DatasetError
        If the bytes break off or are of an image of another size.

    """
    try:
        values = _unpacked(_BitReader(bytes(packed)), height * width * 4)
    except (ValueError, IndexError, TypeError) as err:
        raise DatasetError(f'a brush of {width}x{height} pixels cannot be unpacked ({err})',
                           'the rle of a region of Label Studio') from err
    return values.reshape(height, width, 4)[..., 3] >= _PAINTED


class _BitReader:
    """Reads whole numbers bit by bit, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data + bytes(4)  # so that a number may be cut from whole bytes at the end
        self._end, self._at = len(data) * 8, 0

    def read(self, count: int) -> int:
        """Return the next number of up to 32 bits."""
        start, self._at = self._at, self._at + count
        if self._at > self._end:
            raise ValueError(f'it ends at byte {self._end // 8}')
        block = int.from_bytes(self._data[start >> 3:(start >> 3) + 5], 'big')
        return block >> (40 - (start & 7) - count) & ((1 << count) - 1)


def _unpacked(bits: _BitReader, expected: int) -> NDArray[np.uint8]:
    num, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if num != expected:
        raise ValueError(f'it has {num} values for {expected}')
    values, at = np.zeros(num, np.uint8), 0
    while at < num:
        is_run = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        if end > num:
            raise ValueError(f'a run ends at {end} of {num}')
        values[at:end] = bits.read(word) if is_run else [bits.read(word) for _ in range(at, end)]
        at = end
    return values


def _run_bits(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bits of runs: 1, which size, the length less 1, the value."""
    which = np.searchsorted(1 << _SIZES, lengths)
    size = _SIZES[which]
    code = ((0b100 | which) << size | (lengths - 1)) << _WORD_BITS | values
    used = 3 + size + _WORD_BITS
    left = (code << (32 - used)).astype('>u4')
    table = np.unpackbits(left.view(np.uint8)).reshape(-1, 32)
    bits: NDArray[np.uint8] = table[np.arange(32) < used[:, None]]
    return bits


def _bits(value: int, count: int) -> list[int]:
    return [value >> shift & 1 for shift in reversed(range(count))]
