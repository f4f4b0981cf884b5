# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Groups of frames that look alike: by hand, against comparing all pairs, and by both searches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.data.selection import near_duplicates
from uncertainty_seg.data.selection.near_duplicates import bits_apart, stand_ins
from uncertainty_seg.errors import ConfigError, ShapeError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def distance(one: int, other: int) -> int:
    return bin(int(one) ^ int(other)).count('1')


def by_all_pairs(hashes: Hashes, order: Rows, min_distance: int) -> list[int]:
    """Go down the list and compare with all that stay, as the definition says."""
    staying: list[int] = []
    owners = list(range(len(hashes)))
    for row in order:
        alike = [k for k in staying if distance(hashes[k], hashes[row]) < min_distance]
        if alike:
            owners[row] = alike[0]
        else:
            staying.append(int(row))
    return owners


def dive(rng: np.random.Generator, count: int, scenes: int, flips: int) -> Hashes:
    """Hashes of a camera that stands still before each of some scenes."""
    hashes = rng.integers(0, 2**64, scenes, np.uint64)[rng.integers(0, scenes, count)]
    for _ in range(flips):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64))
    return hashes


def test_the_distance_of_hashes_by_hand() -> None:
    words = np.array([0, 1, 0b1011, 2**63, 2**64 - 1], np.uint64)
    assert bits_apart(words, np.uint64(0)).tolist() == [0, 1, 3, 1, 64]


def test_bits_are_counted_alike_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, (7, 5), np.uint64)
    want = [[distance(word, 0) for word in row] for row in words]
    monkeypatch.delattr(np, 'bitwise_count', raising=False)
    assert bits_apart(words, np.uint64(0)).tolist() == want


def test_a_chain_of_neighbours_is_not_one_group() -> None:
    # 0 to 4 bits: each is one bit from the next. The middle one is wanted most.
    hashes = np.array([0, 1, 3, 7, 15], np.uint64)
    assert stand_ins(hashes, np.array([2, 0, 4, 1, 3]), 2).tolist() == [0, 2, 2, 2, 4]
    assert stand_ins(hashes, np.array([2, 0, 4, 1, 3]), 3).tolist() == [2, 2, 2, 2, 2]


def test_distance_1_joins_equal_hashes_and_0_none() -> None:
    hashes, order = np.array([5, 7, 5, 5], np.uint64), np.array([3, 1, 0, 2])
    assert stand_ins(hashes, order, 1).tolist() == [3, 1, 3, 3]
    assert stand_ins(hashes, order, 0).tolist() == [0, 1, 2, 3]


def test_no_frame_is_no_group() -> None:
    assert len(stand_ins(np.empty(0, np.uint64), np.empty(0, np.int64), 8)) == 0


@pytest.mark.parametrize('search', ['blocks', 'bands'])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), flips=st.integers(0, 6),
       min_distance=st.integers(1, 18))
def test_it_is_what_comparing_all_pairs_finds(
    search: str, seed: int, count: int, flips: int, min_distance: int
) -> None:
    rng = np.random.default_rng(seed)
    hashes, order = dive(rng, count, 6, flips), rng.permutation(count)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks, so that there are many; and bands where whole blocks would be faster.
        patch.setattr(near_duplicates, '_BLOCK', 7)
        patch.setattr(near_duplicates, '_PAIRS', 40)
        patch.setattr(near_duplicates, '_BAND_COST', 0 if search == 'bands' else 1e9)
        found = stand_ins(hashes, order, min_distance)
    assert found.tolist() == by_all_pairs(hashes, order, min_distance)


def test_a_large_pool_keeps_none_that_are_alike_and_drops_none_that_is_not() -> None:
    rng = np.random.default_rng(3)
    hashes, order = dive(rng, 20_000, 900, 4), rng.permutation(20_000)
    owners = stand_ins(hashes, order, 8)
    staying = np.flatnonzero(owners == np.arange(len(owners)))
    assert set(owners) == set(staying)
    assert bits_apart(hashes, hashes[owners]).max() < 8
    apart = bits_apart(hashes[staying, None], hashes[staying])
    assert apart[~np.eye(len(staying), dtype=bool)].min() >= 8
    wish = np.argsort(order)
    assert (wish[owners] <= wish).all()


def test_a_camera_that_stands_still_leaves_few_frames() -> None:
    rng = np.random.default_rng(4)
    hashes = dive(rng, 30_000, 1, 3)
    assert len(set(stand_ins(hashes, np.arange(30_000), 7))) == 1


@pytest.mark.parametrize('min_distance', [-1, 33])
def test_a_distance_out_of_range_is_refused(min_distance: int) -> None:
    with pytest.raises(ConfigError, match=f'{min_distance} bits, expected 0 to 32'):
        stand_ins(np.zeros(2, np.uint64), np.arange(2), min_distance)


def test_an_order_of_other_rows_is_refused() -> None:
    with pytest.raises(ShapeError, match='one place a hash'):
        stand_ins(np.zeros(2, np.uint64), np.arange(3), 4)
