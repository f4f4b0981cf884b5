# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Brush run lengths bit by bit; test_tools_labels_readers holds them to Label Studio's SDK."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.data.labels.label_studio import decode_brush, encode_brush
from uncertainty_seg.errors import DatasetError

# 4 values of 8 bits; sizes 3, 4, 8, 16 less one.
HEADER = '00000000000000000000000000000100' '00111' '0010' '0011' '0111' '1111'


def packed(bits: str) -> list[int]:
    bits += '0' * (-len(bits) % 8)
    return [int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)]


def test_one_pixel_is_a_run_of_four() -> None:
    painted = packed(HEADER + '1' '00' '011' '11111111')
    assert encode_brush(np.ones((1, 1), bool)) == painted
    assert decode_brush(painted, 1, 1).all()


def test_single_values_are_read_and_half_seen_through_is_not_painted() -> None:
    # No run: 4 values one by one, the last of which is alpha.
    for alpha, is_painted in ((127, False), (128, True)):
        bits = HEADER + '0' '00' '011' + '00000000' * 3 + f'{alpha:08b}'
        assert decode_brush(packed(bits), 1, 1).tolist() == [[is_painted]]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999),
       cell=st.sampled_from([1, 3, 17]))
def test_what_is_packed_comes_out(height: int, width: int, seed: int, cell: int) -> None:
    coarse = np.random.default_rng(seed).random((height, width)) < 0.5
    mask = coarse[np.arange(height)[:, None] // cell, np.arange(width) // cell]
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), height, width), mask)


@pytest.mark.parametrize('count', [16_383, 16_384, 16_385, 40_000])
def test_runs_longer_than_16_bits_are_several(count: int) -> None:
    mask = np.arange(50_000).reshape(200, 250) < count
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), 200, 250), mask)


@pytest.mark.parametrize('data', [[], [1, 2, 3], [300], packed(HEADER), ['x'],
                                  packed(HEADER + '1' '10' '11111111' '11111111')])
def test_damaged_bytes_are_one_sentence(data: list[int]) -> None:
    with pytest.raises(DatasetError, match='cannot be unpacked'):
        decode_brush(data, 1, 1)
