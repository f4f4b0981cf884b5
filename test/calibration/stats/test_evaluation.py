# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Measures on frames with known results."""

from pathlib import Path

from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.calibration.stats.evaluation import (
    best_temperature,
    evaluate,
    mean_nll,
    score_frames,
)
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.model_bundle import load_bundle

BLUE = np.zeros((96, 128, 3), np.uint8)
BLUE[..., 0] = 255
ALL_BLUE = np.zeros((96, 128), np.uint8)
HALF = ALL_BLUE.copy()
HALF[:, 64:] = 1  # one half is labelled green, but is blue
UNKNOWN = np.full((96, 128), 255, np.uint8)


@pytest.fixture
def pipeline(tiny_bundle: Path) -> Pipeline:
    bundle = load_bundle(str(tiny_bundle))
    return Pipeline(bundle, FakeBackend(bundle.card), Settings())


def test_a_known_scene(pipeline: Pipeline) -> None:
    found = evaluate(pipeline, [(BLUE, HALF)])
    assert found.accuracy == pytest.approx(0.5)
    assert found.iou[:2] == pytest.approx([0.5, 0])
    assert found.mean_iou == pytest.approx(0.25)
    assert (found.frame_iou.tolist(), found.is_bad.tolist()) == ([pytest.approx(0.25)], [False])
    maps = pipeline.measure(BLUE, 0).maps
    confidence = float(maps.confidence.mean())
    assert found.ece == pytest.approx(confidence - 0.5, abs=1e-3)
    # All pixels are equal, so that no map can tell which half is wrong.
    assert found.error_auroc['entropy'] == pytest.approx(0.5)
    assert mean_nll(pipeline, [(BLUE, HALF)]) == pytest.approx(
        -(np.log(confidence) + np.log(1 - confidence)) / 2, rel=1e-3)


def test_the_rule_says_which_frames_are_bad(pipeline: Pipeline) -> None:
    rule = BadRule.parse('accuracy<0.6', pipeline.card.class_names)
    found = evaluate(pipeline, [(BLUE, HALF), (BLUE, ALL_BLUE)], rule)
    table = found.table(['a', 'b'], np.array(['x', 'y']))
    assert table.is_bad.tolist() == [True, False]
    assert table.mean_iou == pytest.approx([0.25, 1.0])
    assert table.scores['entropy.mean'][0] == pipeline.measure(BLUE, 0).scores['entropy.mean']


def test_a_frame_nobody_labelled_counts_nowhere_and_does_no_harm(pipeline: Pipeline) -> None:
    rule = BadRule.parse('accuracy<0.6', pipeline.card.class_names)
    found = evaluate(pipeline, [(BLUE, UNKNOWN), (BLUE, ALL_BLUE)], rule)
    assert found.accuracy == 1 and not found.is_bad.any()
    assert np.isnan(found.frame_iou[0]) and found.frame_iou[1] == 1


def test_foreign_frames_have_scores_and_nothing_else(pipeline: Pipeline) -> None:
    table = score_frames(pipeline, {'a': BLUE, 'b': BLUE})
    assert table.sources == ('a', 'b') and table.blocks.tolist() == ['a', 'b']
    assert table.scores['entropy.mean'][0] == pipeline.measure(BLUE, 0).scores['entropy.mean']
    assert not table.is_bad.any() and np.isnan(table.mean_iou).all()
    with pytest.raises(ImageError):
        score_frames(pipeline, {})


def test_histograms_of_each_frame_add_up_to_those_of_all(pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (96, 128, 3), np.uint8),
              rng.integers(0, 3, (96, 128), np.uint8)) for _ in range(3)]
    found = evaluate(pipeline, pairs, by_frame=True)
    for name, ranking in found.pixels.rankings.items():
        for of_frames, whole in zip(found.maps[name], ranking.merged(), strict=True):
            np.testing.assert_array_equal(of_frames.sum(0), whole)
    assert not evaluate(pipeline, pairs).maps


def test_the_temperature_is_chosen_by_likelihood(tiny_bundle: Path) -> None:
    """Prefer low temperatures if the network is right, and high ones if half is wrong."""
    bundle = load_bundle(str(tiny_bundle))

    def at(temperature: float, truth: np.ndarray) -> float:
        pipeline = Pipeline(bundle, FakeBackend(bundle.card), Settings(), temperature)
        pairs = [(BLUE, truth), (BLUE, UNKNOWN)]
        return mean_nll(pipeline, pairs)

    blue = [at(t, ALL_BLUE) for t in (0.5, 1.0, 2.0)]
    half = [at(t, HALF) for t in (0.5, 1.0, 2.0)]
    assert blue == sorted(blue) and half == sorted(half, reverse=True)


GRID = (0.5, 0.6, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


@pytest.mark.parametrize('best', GRID)
def test_temperatures_are_tried_until_they_get_worse(best: float) -> None:
    """Find the minimum wherever it is, without trying temperatures far beyond it."""
    asked = []

    def measured(temperature: float) -> float:
        asked.append(temperature)
        return abs(temperature - best)

    assert best_temperature(GRID, measured) == best
    place, start = GRID.index(best), GRID.index(1.0)
    ends = min(place, start) - 1, max(place, start) + 1
    assert sorted(asked) == list(GRID[max(ends[0], 0):ends[1] + 1])


def test_temperatures_without_1_begin_with_the_nearest() -> None:
    assert best_temperature((0.5, 0.6), {0.5: 2.0, 0.6: 1.0}.__getitem__) == 0.6
    assert best_temperature((1.2,), {1.2: 1.0}.__getitem__) == 1.2
