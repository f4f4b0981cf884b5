# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Intervals with known answers, blocks against frames, and how often they hold the truth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.analysis.bootstrap import block_interval
from uncertainty_seg.errors import ConfigError, ShapeError


def mean(rows: NDArray[np.float64]) -> float:
    return float(rows.mean())


def test_two_blocks_by_hand() -> None:
    # Means of the draws: 0, 1/2, 1/2, 1, equally often.
    wide = block_interval(mean, [0, 1], ['a', 'b'])
    assert (wide.value, wide.lower, wide.upper, wide.num_blocks) == (0.5, 0, 1, 2)
    narrow = block_interval(mean, [0, 1], ['a', 'b'], confidence=0.4)
    assert (narrow.lower, narrow.upper) == (0.5, 0.5)


def test_many_blocks_have_the_interval_of_the_normal() -> None:
    rows = np.random.default_rng(0).standard_normal(400)
    got = block_interval(mean, rows, np.arange(400), draws=4000)
    half = 1.96 * rows.std() / 20
    assert got.lower == pytest.approx(rows.mean() - half, abs=0.05 * half)
    assert got.upper == pytest.approx(rows.mean() + half, abs=0.05 * half)


def test_copies_within_a_block_add_no_certainty() -> None:
    values = np.random.default_rng(1).random(30)
    one = block_interval(mean, values, np.arange(30))
    copied = block_interval(mean, values.repeat(10), np.arange(30).repeat(10))
    assert (copied.lower, copied.upper) == pytest.approx((one.lower, one.upper))
    by_frame = block_interval(mean, values.repeat(10), np.arange(300))
    assert by_frame.upper - by_frame.lower < 0.5 * (one.upper - one.lower)


def test_the_seed_decides_and_the_order_of_the_blocks_names_does_not() -> None:
    rows = np.random.default_rng(2).random((50, 2))
    blocks = np.arange(50) // 5
    first = block_interval(mean, rows, blocks, seed=3)
    assert first == block_interval(mean, rows, blocks, seed=3)
    assert first != block_interval(mean, rows, blocks, seed=4)
    assert first == block_interval(mean, rows, [f'dive {block}' for block in blocks], seed=3)


def test_a_difference_is_narrower_than_its_parts_where_they_move_together() -> None:
    rng = np.random.default_rng(5)
    water = rng.standard_normal(60)
    rows = np.stack([water, water + 0.1 + 0.05 * rng.standard_normal(60)], 1)
    apart = block_interval(lambda r: float(r[:, 1].mean()), rows, np.arange(60))
    gain = block_interval(lambda r: float((r[:, 1] - r[:, 0]).mean()), rows, np.arange(60))
    assert apart.lower < 0 < gain.lower
    assert gain.upper - gain.lower < 0.2 * (apart.upper - apart.lower)


def test_draws_without_a_value_are_left_out() -> None:
    def mean_of_bad(rows: NDArray[np.float64]) -> float:
        bad = rows[rows[:, 1] > 0, 0]
        return float(bad.mean()) if bad.size else float('nan')

    rows = [[1, 1], [2, 1], [3, 0], [4, 0]]
    got = block_interval(mean_of_bad, rows, range(4))
    assert (got.value, got.lower, got.upper) == (1.5, 1, 2)
    # With one of four bad, (3/4)**4 = 32 % of the draws have none; with none bad, all.
    assert block_interval(mean_of_bad, [[1, 1], [2, 0], [3, 0], [4, 0]], range(4)).lower == 1
    nothing = block_interval(mean_of_bad, [[1, 0], [2, 0]], range(2))
    assert np.isnan([nothing.value, nothing.lower, nothing.upper]).all()


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for draw in range(200):
        rng = np.random.default_rng((9, draw))
        rows = rng.standard_normal(40).repeat(3) + 0.3 * rng.standard_normal(120)
        got = block_interval(mean, rows, np.arange(40).repeat(3), 0.9, draws=200, seed=draw)
        held += got.lower <= 0 <= got.upper
    assert 0.84 <= held / 200 <= 0.95


@pytest.mark.parametrize(('rows', 'blocks'), [([], []), ([1, 2], [1]), ([1, 2], [[1, 2]]),
                                              ([1, 2], [[1, 2], [3, 4]])])
def test_rows_and_blocks_that_do_not_fit_are_refused(rows: list[int], blocks: Any) -> None:
    with pytest.raises(ShapeError, match='one block name a row'):
        block_interval(mean, rows, blocks)


@pytest.mark.parametrize(('confidence', 'draws'), [(0, 10), (1, 10), (np.nan, 10), (0.9, 0)])
def test_an_interval_that_cannot_be_is_refused(confidence: float, draws: int) -> None:
    with pytest.raises(ConfigError, match='a confidence between 0 and 1, and a draw'):
        block_interval(mean, [1, 2], [1, 2], confidence, draws)
