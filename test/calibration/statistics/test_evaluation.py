# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is measured on frames whose answer is known by hand."""

import operator
from pathlib import Path

from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.calibration.statistics.bad_rule import BadRule
from uncertainty_seg.calibration.statistics.evaluation import (
    evaluate,
    frame_table,
    join_evaluations,
    mean_nll,
    score_frames,
    try_temperatures,
)
from uncertainty_seg.calibration.statistics.frame_table import join_tables
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.model_bundle import load_bundle

BLUE = np.zeros((96, 128, 3), np.uint8)
BLUE[..., 0] = 255
ALL_BLUE = np.zeros((96, 128), np.uint8)
HALF = ALL_BLUE.copy()
HALF[:, 64:] = 1  # half of it is labelled green, and is blue
UNKNOWN = np.full((96, 128), 255, np.uint8)


@pytest.fixture
def pipeline(tiny_bundle: Path) -> Pipeline:
    bundle = load_bundle(str(tiny_bundle))
    return Pipeline(bundle, FakeBackend(bundle.card), Settings())


def test_a_known_scene(pipeline: Pipeline) -> None:
    found = evaluate(pipeline, [(BLUE, HALF)], 255)
    assert found.accuracy == pytest.approx(0.5)
    assert found.iou[:2] == pytest.approx([0.5, 0])
    assert found.mean_iou == pytest.approx(0.25)
    frame = found.frames[0]
    assert (frame.accuracy, frame.mean_iou, frame.is_bad) == (
        pytest.approx(0.5), pytest.approx(0.25), False)
    maps = pipeline.measure(BLUE, 0).maps
    confidence = float(maps.confidence.mean())
    assert found.ece == pytest.approx(confidence - 0.5, abs=1e-3)
    assert found.pixels.adaptive.value() == pytest.approx(confidence - 0.5, abs=1e-3)
    assert found.pixels.brier.value() == pytest.approx(
        (confidence ** 2 + (1 - confidence) ** 2) / 2, abs=1e-3)
    # Every pixel looks alike: no map can tell which half is wrong.
    assert found.error_auroc['entropy'] == pytest.approx(0.5)
    assert found.pixels.mean_entropy()[:2] == pytest.approx([maps.entropy.mean()] * 2, rel=1e-5)
    assert np.isnan(found.pixels.mean_entropy()[2])
    assert frame.nll_nats == pytest.approx(
        -(np.log(confidence) + np.log(1 - confidence)) / 2, rel=1e-3)


def test_the_rule_says_which_frames_are_bad(pipeline: Pipeline) -> None:
    rule = BadRule.parse('accuracy<0.6', pipeline.card.class_names)
    found = evaluate(pipeline, [(BLUE, HALF), (BLUE, ALL_BLUE)], 255, rule)
    assert [frame.is_bad for frame in found.frames] == [True, False]
    table = frame_table(found.frames, ['a', 'b'], np.array(['x', 'y']))
    assert table.is_bad.tolist() == [True, False]
    assert table.mean_iou == pytest.approx([0.25, 1.0])
    assert table.scores['entropy.mean'][0] == found.frames[0].scores['entropy.mean']


def test_a_frame_nobody_labelled_counts_nowhere_and_does_no_harm(pipeline: Pipeline) -> None:
    rule = BadRule.parse('accuracy<0.6', pipeline.card.class_names)
    found = evaluate(pipeline, [(BLUE, UNKNOWN), (BLUE, ALL_BLUE)], 255, rule)
    assert found.accuracy == 1 and found.frames[0].is_bad is False
    assert np.isnan(found.frames[0].mean_iou) and np.isfinite(found.nll_nats)


def test_an_id_that_is_no_class_is_refused(pipeline: Pipeline) -> None:
    rule = BadRule.parse('accuracy<0.6', pipeline.card.class_names)
    with pytest.raises(DatasetError, match='class id 7'):
        evaluate(pipeline, [(BLUE, np.full((96, 128), 7, np.uint8))], 255, rule)


def test_foreign_frames_have_scores_and_nothing_else(pipeline: Pipeline) -> None:
    frames = score_frames(pipeline, [BLUE])
    assert frames[0].scores == pipeline.measure(BLUE, 0).scores
    table = frame_table(frames, ['a'], np.array(['a']))
    assert not table.is_bad.any() and np.isnan(table.mean_iou).all()
    with pytest.raises(ImageError, match='no frame was measured'):
        frame_table([], [], np.array([], np.str_))


def test_the_temperature_is_chosen_by_likelihood(tiny_bundle: Path) -> None:
    """The blue network is right on blue: the colder, the better; half wrong, the warmer."""
    bundle = load_bundle(str(tiny_bundle))

    def at(temperature: float, truth: np.ndarray) -> float:
        pipeline = Pipeline(bundle, FakeBackend(bundle.card), Settings(), temperature)
        pairs = [(BLUE, truth), (BLUE, UNKNOWN)]
        found = mean_nll(pipeline, pairs, 255)
        assert found == evaluate(pipeline, pairs, 255).nll_nats
        return found

    blue = [at(t, ALL_BLUE) for t in (0.5, 1.0, 2.0)]
    half = [at(t, HALF) for t in (0.5, 1.0, 2.0)]
    assert blue == sorted(blue) and half == sorted(half, reverse=True)


GRID = (0.5, 0.6, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


@pytest.mark.parametrize('best', GRID)
def test_temperatures_are_tried_until_they_get_worse(best: float) -> None:
    """The least of all is found, wherever it lies, and what lies behind is left out."""
    asked = []

    def measured(temperature: float) -> float:
        asked.append(temperature)
        return abs(temperature - best)

    found = try_temperatures(GRID, measured, operator.gt)
    assert asked == list(found) and min(found, key=lambda t: found[t]) == best
    place, start = GRID.index(best), GRID.index(1.0)
    ends = min(place, start) - 1, max(place, start) + 1
    assert sorted(found) == list(GRID[max(ends[0], 0):ends[1] + 1])


def test_temperatures_without_1_begin_with_the_nearest() -> None:
    assert list(try_temperatures((0.5, 0.6), {0.5: 2.0, 0.6: 1.0}.__getitem__, operator.gt)) == [
        0.6, 0.5]
    assert list(try_temperatures((1.2,), {1.2: 1.0}.__getitem__, operator.gt)) == [1.2]


def test_parts_joined_are_what_one_run_over_all_measures(pipeline: Pipeline) -> None:
    """Every counter of the pixels, every frame, and the columns that both tables have."""
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (96, 128, 3), np.uint8),
              rng.integers(0, 3, (96, 128), np.uint8)) for _ in range(4)]
    rule = BadRule.parse('accuracy<0.34', pipeline.card.class_names)
    whole = evaluate(pipeline, pairs, 255, rule)
    parts = [evaluate(pipeline, part, 255, rule) for part in (pairs[:1], pairs[1:])]
    joined = join_evaluations(parts)
    assert joined.frames == whole.frames and joined.mi_share == pytest.approx(whole.mi_share)
    np.testing.assert_allclose(joined.totals, whole.totals)
    np.testing.assert_array_equal(joined.iou, whole.iou)
    assert joined.error_auroc == whole.error_auroc
    for name in ('calibration', 'adaptive', 'brier'):
        assert getattr(joined.pixels, name).value() == pytest.approx(
            getattr(whole.pixels, name).value())
    np.testing.assert_array_equal(joined.pixels.patches.curve().pavpu,
                                  whole.pixels.patches.curve().pavpu)
    np.testing.assert_allclose(joined.pixels.mean_entropy(), whole.pixels.mean_entropy())
    names = np.array(list('abcd'))
    tables = [frame_table(part.frames, names[rows], names[rows])
              for part, rows in zip(parts, (slice(1), slice(1, 4)), strict=True)]
    tables[0] = tables[0].with_score('only here', np.zeros(1))
    table = join_tables(tables)
    assert table.sources == ('a', 'b', 'c', 'd') and 'only here' not in table.scores
    assert table.rows() == frame_table(whole.frames, names, names).rows()
    assert table.is_bad.tolist() == [frame.is_bad for frame in whole.frames]
