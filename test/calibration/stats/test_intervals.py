# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over blocks: by hand, and equal to figures computed from each draw."""

from typing import Any

from calibration_helpers import picture
from fake_backend import FakeBackend
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.calibration.stats.conformal import (
    mean_block_share,
    promised_coverage,
    promised_limit,
)
from uncertainty_seg.calibration.stats.evaluation import evaluate, Evaluation
from uncertainty_seg.calibration.stats.intervals import (
    Draws,
    Interval,
    weighted_auroc,
    weighted_excess_aurc,
    weighted_pixel_auroc,
    weighted_totals,
)
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import CalibrationError
from uncertainty_seg.storage.model_bundle import load_bundle


def mean_interval(values: Any, blocks: Any, **more: int) -> Interval:
    """Return the interval of a mean over rows."""
    draws = Draws.of(blocks, **more)
    return draws.interval(draws.weights @ np.asarray(values, float) / draws.weights.sum(1))


def test_two_blocks_by_hand() -> None:
    # The means of the draws are 0, 1/2, 1/2 and 1, equally often.
    wide = mean_interval([0, 1], ['a', 'b'])
    assert (wide.value, wide.lower, wide.upper, wide.num_blocks) == (0.5, 0, 1, 2)


def test_copies_within_a_block_add_no_certainty() -> None:
    values = np.random.default_rng(1).random(30)
    one = mean_interval(values, np.arange(30))
    copied = mean_interval(values.repeat(10), np.arange(30).repeat(10))
    assert (copied.lower, copied.upper) == pytest.approx((one.lower, one.upper))
    by_frame = mean_interval(values.repeat(10), np.arange(300))
    assert by_frame.upper - by_frame.lower < 0.5 * (one.upper - one.lower)


def test_the_seed_decides_and_the_names_of_the_blocks_do_not() -> None:
    rows, blocks = np.random.default_rng(2).random(50), np.arange(50) // 5
    first = mean_interval(rows, blocks, seed=3)
    assert first == mean_interval(rows, [f'dive {block}' for block in blocks], seed=3)
    assert first != mean_interval(rows, blocks, seed=4)


def test_draws_without_a_value_are_left_out() -> None:
    draws = Draws.of(np.arange(4), 1000)
    values = np.where(draws.weights[:, 0] > 0, 1.0, np.nan)
    assert draws.interval(values).lower == 1
    nothing = draws.interval(np.full(1001, np.nan))
    assert np.isnan([nothing.value, nothing.lower, nothing.upper]).all()


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for draw in range(200):
        rng = np.random.default_rng((9, draw))
        rows = rng.standard_normal(40).repeat(3) + 0.3 * rng.standard_normal(120)
        got = mean_interval(rows, np.arange(40).repeat(3), draws=200, seed=draw)
        held += got.lower <= 0 <= got.upper
    assert 0.89 <= held / 200 <= 0.99


# -------------------------------------------------------------------------------------------------
# Each figure of a draw equals the figure of its rows.

RNG = np.random.default_rng(3)
BLOCKS = np.array([f'dive {i}' for i in RNG.integers(0, 13, 60)])
BAD = RNG.uniform(size=60) < 0.3
# Coarse values, so that frames tie, and some NaN.
SCORES = np.where(np.arange(60) % 19 == 7, np.nan, np.round(RNG.uniform(size=60) + 0.4 * BAD, 1))
DRAWS = Draws.of(BLOCKS, 40, 5)


def rows_of(draw: int) -> NDArray[np.intp]:
    """Return the frames of a draw, repeated as often as they were drawn."""
    return np.repeat(np.arange(60), DRAWS.weights[draw].astype(int))


@pytest.mark.parametrize('draw', [0, 1, 17, 40])
def test_frame_figures_of_a_draw_are_those_of_its_rows(draw: int) -> None:
    rows, loss = rows_of(draw), BAD.astype(float)
    weights = DRAWS.weights
    assert (weights[0] == 1).all() and (DRAWS.counts.sum(1) == 13).all()
    assert weighted_excess_aurc(SCORES, loss, weights)[draw] == pytest.approx(
        weighted_excess_aurc(SCORES[rows], loss[rows], np.ones((1, len(rows))))[0])
    found = weighted_auroc(SCORES[BAD], SCORES[~BAD], weights[:, BAD], weights[:, ~BAD])
    drawn, bad = np.nan_to_num(SCORES[rows], nan=9), BAD[rows]
    yes, no = drawn[bad][:, None], drawn[~bad]
    assert found[draw] == pytest.approx(((yes > no) + (yes == no) / 2).mean())
    missing = weighted_auroc(SCORES[:0], SCORES, weights[:, :0], weights)
    assert np.isnan(missing).all()


@pytest.mark.parametrize('draw', [0, 9])
def test_pixel_figures_of_a_draw_are_those_of_its_frames(draw: int) -> None:
    yes, no = (RNG.integers(0, 50, (60, 97)) for _ in range(2))
    rows = rows_of(draw)
    whole = weighted_pixel_auroc(*(part[rows].sum(0)[None] for part in (yes, no)), np.ones((1, 1)))
    assert weighted_pixel_auroc(yes, no, DRAWS.weights)[draw] == pytest.approx(whole[0])
    assert np.isnan(weighted_pixel_auroc(np.zeros((60, 5)), no[:, :5], DRAWS.weights)).all()


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from conftest import make_tiny_bundle

    bundle = load_bundle(str(make_tiny_bundle(tmp_path_factory.mktemp('b') / 'tiny')))
    return Pipeline(bundle, FakeBackend(bundle.card), Settings())


@pytest.fixture(scope='module')
def found(pipeline: Pipeline) -> Evaluation:
    rng = np.random.default_rng(0)
    return evaluate(pipeline, [picture(rng, grey) for grey in np.linspace(0, 0.9, 12)])


def intervals_of(found: Evaluation, blocks: Any) -> dict[str, Interval]:
    draws = Draws.of(blocks)
    figures = weighted_totals(found.totals, 3, draws.weights)
    return {name: draws.interval(values) for name, values in figures.items()}


def test_what_the_images_add_is_the_whole(found: Evaluation) -> None:
    assert found.totals.shape == (12, 9 + 45)
    np.testing.assert_allclose(found.totals.sum(0), found.pixels.totals())
    intervals = intervals_of(found, np.arange(12))
    for name in ('mean_iou', 'accuracy', 'ece'):
        assert intervals[name].value == pytest.approx(getattr(found, name))
        assert 0 <= intervals[name].lower < intervals[name].value < intervals[name].upper <= 1


def test_a_draw_is_as_if_these_images_had_been_measured(pipeline: Pipeline) -> None:
    """Draw from two images: twice the one, twice the other, or both."""
    rng = np.random.default_rng(1)
    pairs = [picture(rng, 0.0), picture(rng, 0.9)]
    alone = [evaluate(pipeline, [pair]) for pair in pairs]
    for name, interval in intervals_of(evaluate(pipeline, pairs), ['a', 'b']).items():
        ends = sorted(getattr(one, name) for one in alone)
        assert [interval.lower, interval.upper] == pytest.approx(ends)


def test_of_one_block_there_is_no_interval(found: Evaluation) -> None:
    """Return NaN, where an interval of zero width would claim that all dives are equal."""
    intervals = intervals_of(found, ['dive'] * 12)
    assert all(np.isnan([i.lower, i.upper]).all() and i.num_blocks == 1
               for i in intervals.values())
    assert intervals['accuracy'].value == pytest.approx(found.accuracy)
    # Two blocks with equal figures have an interval of zero width.
    same = mean_interval([1, 1, 1], ['a', 'a', 'b'])
    assert (same.lower, same.upper, same.num_blocks) == (1, 1, 2)


# -------------------------------------------------------------------------------------------------
# Coverage of a promise, by draws and by halves.


@pytest.mark.parametrize(('alpha', 'draw'), [(0.2, 0), (0.35, 0), (0.3, 7), (0.25, 31)])
def test_coverage_of_a_draw_is_that_of_the_promise_on_each_half(alpha: float, draw: int) -> None:
    names = np.unique(BLOCKS)
    order = np.random.default_rng(2).permutation(len(names))
    in_first = np.isin(names, names[order[:len(names) // 2]])
    # Each copy of a block counts as a separate block; all copies are in the same half.
    rows, copies, first = [], [], []
    for index, name in enumerate(names):
        for copy in range(int(DRAWS.counts[draw, index])):
            frames = np.flatnonzero(name == BLOCKS)
            rows += frames.tolist()
            copies += [f'{name} {copy}'] * len(frames)
            first += [bool(in_first[index])] * len(frames)
    ranks = np.where(np.isnan(SCORES), np.inf, SCORES)[rows]
    bad, blocks, on = BAD[rows], np.array(copies), np.array(first)
    expected = []
    for half in (on, ~on):
        try:
            limit = promised_limit(ranks[half], bad[half], blocks[half], alpha)
        except CalibrationError:
            limit = -np.inf
        taken = ranks[~half] <= limit
        expected.append([mean_block_share(part, blocks[~half])
                         for part in (taken, taken & bad[~half])])
    found = promised_coverage(SCORES, BAD, DRAWS, alpha, 1, 2)
    assert [part[draw] for part in found] == pytest.approx(np.mean(expected, axis=0).tolist())


def test_too_few_blocks_have_no_coverage_and_what_is_not_known_is_not_accepted() -> None:
    assert np.isnan(promised_coverage(SCORES, BAD, DRAWS, 0.05, 3, 0)).all()
    accepted, bad = promised_coverage(np.full(60, np.nan), BAD, DRAWS, 0.3, 3, 0)
    assert accepted[0] == bad[0] == 0


def test_a_class_that_a_draw_lacks_does_not_decide_between_bundles() -> None:
    """Use four images: one has class 1, and another has one pixel mistaken for it."""
    images = np.zeros((4, 2, 2))
    images[:, 0, 0], images[0, 1, 1], images[1, 0, 1] = 100, 50, 1
    totals = np.concatenate([images.reshape(4, 4), np.zeros((4, 45))], 1)
    without = np.array([[0.0, 2.0, 1.0, 1.0]])
    assert weighted_totals(totals, 2, without)['mean_iou'] == pytest.approx(400 / 402)
    # If no image has class 1, a pixel mistaken for it counts, as in the overall figure.
    assert weighted_totals(totals[1:], 2, without[:, 1:])['mean_iou'] < 0.5
