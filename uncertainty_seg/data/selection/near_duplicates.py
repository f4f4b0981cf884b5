# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames that look alike: groups by the distance of their hashes, or of their embeddings.

The first frame in order stays, and represents all that are closer to it than the distance; the
next one that is left does the same. So no two that stay are closer than the distance, and each
that goes has one that stays close by, which groups by chains of neighbours (a slow pan) do not
promise. Pairs are never all compared: equal hashes are one to begin with, and the others are found
by four bands of 16 bits (Norouzi et al., "Fast search in Hamming space with multi-index hashing",
CVPR 2012): hashes that differ in r bits differ in at most r // 4 bits of some band. Embeddings are
compared with those of all frames that stay.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import ConfigError, ShapeError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
# Random hashes differ in 32 bits of 64: farther apart, nothing is alike any more.
MAX_DISTANCE = 32
# Embeddings of frames that have nothing in common are 1 apart at most: no channel is negative.
MAX_ANGLE = 1.0

_BANDS = 4
_BAND_BITS = 16
_BUCKETS = 1 << _BAND_BITS
# Rows that are compared with each other at once, and pairs held in memory at once.
_BLOCK = 1024
_PAIRS = 1 << 21
# A pair found by its band costs about as much as so many of two whole blocks.
_BAND_COST = 8
_COUNTS = np.array([bin(k).count('1') for k in range(_BUCKETS)], np.uint8)


def stand_ins(
    hashes: Hashes, order: Rows, min_distance: int, vectors: Vectors | None = None,
    min_angle: float = 0.0,
) -> Rows:
    """
    Find for every frame the one that represents it.

    Raises ConfigError if a distance is not from 0 to `MAX_DISTANCE` or `MAX_ANGLE`; ShapeError if
    the order is not one of these rows, or vectors are of other rows.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (n,)
        Perceptual hashes.
    order : ndarray of int64, shape (n,)
        The rows from the most to the least wanted.
    min_distance : int
        Frames that differ in fewer bits are alike; 0 takes all for different, 1 joins equal ones.
    vectors : ndarray of float32, shape (n, D), or None
        Embeddings of unit length; one that is not finite is like no other.
    min_angle : float
        Frames whose embeddings have a smaller cosine distance are alike too; 0 for none.

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
    if not 0 <= min_angle <= MAX_ANGLE:
        raise ConfigError(f'a least distance of embeddings of {min_angle:g}',
                          f'0 to {MAX_ANGLE:g}')
    if vectors is not None and min_angle and len(hashes):
        return _stand_ins_by_both(hashes, order, min_distance, vectors, min_angle)
    if min_distance == 0 or not len(hashes):
        return np.arange(len(hashes), dtype=np.int64)
    ordered = np.asarray(hashes, np.uint64)[order]
    _, first, inverse = np.unique(ordered, return_index=True, return_inverse=True)
    # Distinct hashes, by the place of the most wanted frame that has them.
    places = np.sort(first)
    owners = places[_greedy(len(places), [_ByHash(ordered[places], min_distance - 1)])]
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


def _stand_ins_by_both(
    hashes: Hashes, order: Rows, min_distance: int, vectors: Vectors, min_angle: float
) -> Rows:
    if len(vectors) != len(hashes):
        raise ShapeError(f'{len(vectors)} embeddings of {len(hashes)} frames', 'one a frame')
    kinds: list[_Alike] = [_ByAngle(np.asarray(vectors, np.float32)[order], min_angle)]
    if min_distance:
        kinds.append(_ByHash(np.asarray(hashes, np.uint64)[order], min_distance - 1))
    result = np.empty(len(hashes), np.int64)
    result[order] = order[_greedy(len(hashes), kinds)]
    return result


def _greedy(count: int, kinds: Sequence[_Alike]) -> Rows:
    """Return for each place, the first in order first, that of its owner; any kind joins two."""
    owners = np.full(count, -1, np.int64)
    start = 0
    while True:
        left = np.flatnonzero(owners[start:] < 0) + start
        if not len(left):
            return owners
        for kind in kinds:
            if 2 * len(left) < kind.size:
                kind.narrow(left)
        block, start = left[:_BLOCK], int(left[:_BLOCK][-1]) + 1
        near = np.logical_or.reduce([kind.among(block) for kind in kinds])
        owners[block] = block[_greedy_block(near)]
        staying = block[owners[block] == block]
        found = [_owners_by(kind, staying, owners) for kind in kinds]
        first = np.minimum.reduce(found)
        is_hit = (owners < 0) & (first < count)
        owners[is_hit] = first[is_hit]


def _owners_by(kind: _Alike, staying: Rows, owners: Rows) -> Rows:
    """Return for each open place the first that stays and is alike; n if there is none."""
    first = np.full(len(owners), len(owners), np.int64)
    for asked, hit in kind.near(staying):
        is_open = (owners[hit] < 0) & (first[hit] == len(owners))
        # Of several the most wanted: the last that is written counts.
        first[hit[is_open][::-1]] = staying[asked[is_open]][::-1]
    return first


def _greedy_block(near: NDArray[np.bool_]) -> Rows:
    owners = np.arange(len(near))
    is_open = np.ones(len(near), np.bool_)
    # A row without neighbours owns itself.
    for row in np.flatnonzero(near.sum(1) > 1):
        if is_open[row]:
            mine = near[row] & is_open
            owners[mine] = row
            is_open[mine] = False
    return owners


class _Alike(Protocol):
    """One way to say which places are alike; `size` of them are looked through."""

    @property
    def size(self) -> int: ...

    def narrow(self, left: Rows) -> None:
        """Look only through these places from now on."""

    def among(self, block: Rows) -> NDArray[np.bool_]:
        """Return which of some places are alike, (b, b)."""

    def near(self, staying: Rows) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of an index in `staying` and a place; of a place the rising index."""


class _ByAngle:
    """By the cosine of unit vectors; NaN is like nothing, itself included."""

    def __init__(self, units: Vectors, min_angle: float) -> None:
        self._units, self._least = units, np.float32(1 - min_angle)
        self._rows: Rows = np.arange(len(units), dtype=np.int64)

    @property
    def size(self) -> int:
        return len(self._rows)

    def narrow(self, left: Rows) -> None:
        self._rows = left

    def among(self, block: Rows) -> NDArray[np.bool_]:
        return self._near(block, block)

    def near(self, staying: Rows) -> Iterator[tuple[Rows, Rows]]:
        # What comes before has its owner.
        rows = self._rows[np.searchsorted(self._rows, staying[-1]):]
        step = max(1, _PAIRS // max(1, len(staying)))
        for start in range(0, len(rows), step):
            part = rows[start:start + step]
            # Several times as fast as nonzero of two axes.
            asked, hit = np.divmod(np.flatnonzero(self._near(staying, part)), len(part))
            yield asked, part[hit]

    def _near(self, some: Rows, others: Rows) -> NDArray[np.bool_]:
        with np.errstate(invalid='ignore'):
            return np.asarray(self._units[some] @ self._units[others].T > self._least)


class _ByHash:
    """By the bits of hashes."""

    def __init__(self, values: Hashes, radius: int) -> None:
        self._values, self._radius = values, radius
        self._index = _index(np.arange(len(values)), values, radius)

    @property
    def size(self) -> int:
        return self._index.size

    def narrow(self, left: Rows) -> None:
        self._index = _index(left, self._values[left], self._radius)

    def among(self, block: Rows) -> NDArray[np.bool_]:
        values = self._values[block]
        return bits_apart(values[:, None], values[None, :]) <= self._radius

    def near(self, staying: Rows) -> Iterator[tuple[Rows, Rows]]:
        return self._index.near(self._values[staying])


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
