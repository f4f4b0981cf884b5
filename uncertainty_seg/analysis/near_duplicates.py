# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames that look alike: groups by the Hamming distance of their perceptual hashes.

The first frame in order stays, and represents all that are closer to it than the distance; the
next one that is left does the same. So no two that stay are closer than the distance, and each
that goes has one that stays close by, which groups by chains of neighbours (a slow pan) do not
promise. Pairs are never all compared: equal hashes are one to begin with, and the others are found
by four bands of 16 bits (Norouzi et al., "Fast search in Hamming space with multi-index hashing",
CVPR 2012): hashes that differ in r bits differ in at most r // 4 bits of some band.

"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import ConfigError, ShapeError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
# Random hashes differ in 32 bits of 64: farther apart, nothing is alike any more.
MAX_DISTANCE = 32

_BANDS = 4
_BAND_BITS = 16
_BUCKETS = 1 << _BAND_BITS
# Rows that are compared with each other at once, and pairs held in memory at once.
_BLOCK = 1024
_PAIRS = 1 << 21
# A pair found by its band costs about as much as so many of two whole blocks.
_BAND_COST = 8
_COUNTS = np.array([bin(k).count('1') for k in range(_BUCKETS)], np.uint8)


def stand_ins(hashes: Hashes, order: Rows, min_distance: int) -> Rows:
    """
    Find for every frame the one that represents it.

    Raises ConfigError if the distance is not from 0 to `MAX_DISTANCE`; ShapeError if the order is
    not one of these rows.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (n,)
        Perceptual hashes.
    order : ndarray of int64, shape (n,)
        The rows from the most to the least wanted.
    min_distance : int
        Frames that differ in fewer bits are alike; 0 takes all for different, 1 joins equal ones.

    Returns
    -------
    ndarray of int64, shape (n,)
        The row that represents each: its own number where it stays, and else the first in order
        of the rows that stay and are alike.

    """
    if not 0 <= min_distance <= MAX_DISTANCE:
        raise ConfigError(f'a least distance of {min_distance} bits', f'0 to {MAX_DISTANCE}')
    if order.shape != hashes.shape or hashes.ndim != 1:
        raise ShapeError(f'an order of shape {order.shape} for hashes of {hashes.shape}',
                         'one place a hash')
    if min_distance == 0 or not len(hashes):
        return np.arange(len(hashes), dtype=np.int64)
    ordered = np.asarray(hashes, np.uint64)[order]
    _, first, inverse = np.unique(ordered, return_index=True, return_inverse=True)
    # Distinct hashes, by the place of the most wanted frame that has them.
    places = np.sort(first)
    owners = places[_greedy(ordered[places], min_distance - 1)]
    place_of = np.searchsorted(places, first)
    result = np.empty(len(hashes), np.int64)
    result[order] = order[owners[place_of[inverse.ravel()]]]
    return result


def bits_apart(one: Hashes, other: Hashes) -> NDArray[np.uint8]:
    """Return the Hamming distance of hashes, broadcast; 0 to 64 bits."""
    return _count(np.bitwise_xor(one, other))


def _count(words: Hashes) -> NDArray[np.uint8]:
    # numpy 2 counts bits itself; Humble has numpy 1.21.
    if hasattr(np, 'bitwise_count'):
        return np.bitwise_count(words)
    parts = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return _COUNTS[parts].sum(-1, dtype=np.uint8)


def _greedy(values: Hashes, radius: int) -> Rows:
    """Return for each of distinct values, the first in order first, the place of its owner."""
    owners = np.full(len(values), -1, np.int64)
    index = _index(np.arange(len(values)), values, radius)
    start = 0
    while True:
        left = np.flatnonzero(owners[start:] < 0) + start
        if not len(left):
            return owners
        if 2 * len(left) < index.size:
            index = _index(left, values[left], radius)
        block, start = left[:_BLOCK], int(left[:_BLOCK][-1]) + 1
        owners[block] = block[_greedy_block(values[block], radius)]
        staying = block[owners[block] == block]
        for asked, hit in index.near(values[staying]):
            is_open = owners[hit] < 0
            # Of several the most wanted: the last that is written counts.
            owners[hit[is_open][::-1]] = staying[asked[is_open]][::-1]


def _greedy_block(values: Hashes, radius: int) -> Rows:
    near = bits_apart(values[:, None], values[None, :]) <= radius
    owners = np.arange(len(values))
    is_open = np.ones(len(values), np.bool_)
    # A row without neighbours owns itself.
    for row in np.flatnonzero(near.sum(1) > 1):
        if is_open[row]:
            mine = near[row] & is_open
            owners[mine] = row
            is_open[mine] = False
    return owners


def _index(rows: Rows, values: Hashes, radius: int) -> _Blocks | _Bands:
    flips = _flips(radius // _BANDS) if radius // _BANDS < 4 else None
    if flips is not None:
        cost = _BANDS * len(flips) * (1 + len(values) / _BUCKETS)
        if _BAND_COST * cost < len(values):
            return _Bands(rows, values, radius, flips)
    return _Blocks(rows, values, radius)


def _flips(bits: int) -> NDArray[np.uint16]:
    """Return every pattern of a band with at most so many bits."""
    found = [sum(1 << bit for bit in chosen) for count in range(bits + 1)
             for chosen in combinations(range(_BAND_BITS), count)]
    return np.array(found, np.uint16)


class _Blocks:
    """Compare with every row: for few rows, or a large radius."""

    def __init__(self, rows: Rows, values: Hashes, radius: int) -> None:
        self.size = len(rows)
        self._rows, self._values, self._radius = rows, values, radius

    def near(self, wanted: Hashes) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of a place in `wanted` and a row that is near, rising by place."""
        step = max(1, _PAIRS // max(1, self.size))
        for start in range(0, len(wanted), step):
            part = wanted[start:start + step]
            asked, hit = np.nonzero(bits_apart(part[:, None], self._values) <= self._radius)
            yield asked + start, self._rows[hit]


class _Bands:
    """Look only into the buckets of each band that a near hash can be in."""

    def __init__(
        self, rows: Rows, values: Hashes, radius: int, flips: NDArray[np.uint16]
    ) -> None:
        self.size = len(rows)
        self._radius, self._flips = radius, flips
        keys = values.view(np.uint16).reshape(-1, _BANDS)
        orders = [np.argsort(keys[:, band], kind='stable') for band in range(_BANDS)]
        self._rows = [rows[order] for order in orders]
        self._values = [values[order] for order in orders]
        self._ends = [np.cumsum(np.bincount(keys[:, band], minlength=_BUCKETS))
                      for band in range(_BANDS)]

    def near(self, wanted: Hashes) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of a place in `wanted` and a row that is near, rising by place."""
        # Places in the order of each band's buckets; at least one value at a time.
        per_value = _BANDS * len(self._flips) * (1 + self.size // _BUCKETS)
        step = max(1, _PAIRS // per_value)
        for start in range(0, len(wanted), step):
            pairs = [self._band(band, wanted[start:start + step]) for band in range(_BANDS)]
            asked = np.concatenate([pair[0] for pair in pairs]) + start
            rising = np.argsort(asked, kind='stable')
            yield asked[rising], np.concatenate([pair[1] for pair in pairs])[rising]

    def _band(self, band: int, wanted: Hashes) -> tuple[Rows, Rows]:
        keys = np.ascontiguousarray(wanted).view(np.uint16).reshape(-1, _BANDS)[:, band]
        buckets = (keys[:, None] ^ self._flips).ravel()
        ends = self._ends[band]
        last = ends[buckets]
        begin = np.where(buckets > 0, ends[buckets - np.uint16(1)], 0)
        counts = last - begin
        asked = np.repeat(np.repeat(np.arange(len(wanted)), len(self._flips)), counts)
        # The places begin, begin + 1, ... of every bucket, one after the other.
        places = np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)
        near = bits_apart(wanted[asked], self._values[band][places]) <= self._radius
        return asked[near], self._rows[band][places[near]]
