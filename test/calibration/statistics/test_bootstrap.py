# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Intervals over blocks: by hand, against scipy, and of the figures of pixels."""

from typing import Any

from calibration_helpers import picture
from fake_backend import FakeBackend
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.calibration.statistics.bootstrap import block_interval, pixel_intervals
from uncertainty_seg.calibration.statistics.evaluation import evaluate, Evaluation
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError, ShapeError
from uncertainty_seg.storage.model_bundle import load_bundle


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


# -------------------------------------------------------------------------------------------------
# Intervals of figures of pixels: images are drawn, and each figure is of all drawn pixels.

NAMES = np.array([f'f{i}' for i in range(12)])


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from conftest import make_tiny_bundle

    bundle = load_bundle(str(make_tiny_bundle(tmp_path_factory.mktemp('b') / 'tiny')))
    return Pipeline(bundle, FakeBackend(bundle.card), Settings())


@pytest.fixture(scope='module')
def found(pipeline: Pipeline) -> Evaluation:
    rng = np.random.default_rng(0)
    return evaluate(pipeline, [picture(rng, grey) for grey in np.linspace(0, 0.9, 12)], 255)


def test_what_the_images_add_is_the_whole(found: Evaluation) -> None:
    assert found.totals.shape == (12, 9 + 45)
    np.testing.assert_allclose(found.totals.sum(0), found.pixels.totals())
    intervals = pixel_intervals(found.totals, NAMES, 3)
    assert intervals['mean_iou'].value == pytest.approx(found.mean_iou)
    assert intervals['accuracy'].value == pytest.approx(found.accuracy)
    assert intervals['ece'].value == pytest.approx(found.ece)
    assert all(0 <= i.lower < i.value < i.upper <= 1 and i.num_blocks == 12
               for i in intervals.values())


def test_a_draw_is_as_if_these_images_had_been_measured(pipeline: Pipeline) -> None:
    """Of two images, a draw has twice the one, twice the other, or both."""
    rng = np.random.default_rng(1)
    pairs = [picture(rng, 0.0), picture(rng, 0.9)]
    both = evaluate(pipeline, pairs, 255)
    alone = [evaluate(pipeline, [pair], 255) for pair in pairs]
    intervals = pixel_intervals(both.totals, ['a', 'b'], 3)
    for name in ('mean_iou', 'accuracy', 'ece'):
        ends = sorted(getattr(one, name) for one in alone)
        assert [intervals[name].lower, intervals[name].upper] == pytest.approx(ends)


def test_of_one_block_there_is_no_interval(found: Evaluation) -> None:
    """It was as wide as a point: of one dive, as if every other one were the same."""
    intervals = pixel_intervals(found.totals, ['dive'] * 12, 3)
    assert all(np.isnan([i.lower, i.upper]).all() and i.num_blocks == 1
               for i in intervals.values())
    assert intervals['accuracy'].value == pytest.approx(found.accuracy)
    # Of the same figure in each of two there is one, as wide as a point.
    same = block_interval(lambda rows: float(rows.mean()), [1, 1, 1], ['a', 'a', 'b'])
    assert (same.lower, same.upper, same.num_blocks) == (1, 1, 2)
    with pytest.raises(ShapeError):
        pixel_intervals(found.totals, NAMES[:3], 3)
