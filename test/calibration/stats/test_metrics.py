# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Confusion, calibration error, rankings, risk and coverage, with known results."""

import itertools
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.stats.intervals import (
    weighted_aurc,
    weighted_excess_aurc,
    weighted_pixel_auroc,
)
from uncertainty_seg.calibration.stats.metrics import (
    ExpectedCalibrationError,
    Ranking,
    risk_coverage,
)
from uncertainty_seg.core.arrays import ConfusionMatrix


def auroc(ranking: Ranking) -> float:
    return float(weighted_pixel_auroc(ranking.positive[None], ranking.negative[None],
                                      np.ones((1, 1)))[0])


def aurc(scores: Any, losses: Any) -> float:
    one = np.ones((1, len(losses)))
    return float(weighted_aurc(np.asarray(scores, float), np.asarray(losses, float), one)[0])


def excess_aurc(scores: Any, losses: Any) -> float:
    one = np.ones((1, len(losses)))
    values = np.asarray(scores, float), np.asarray(losses, float)
    return float(weighted_excess_aurc(*values, one)[0])


def test_iou_by_hand_with_ignored_pixels() -> None:
    matrix = ConfusionMatrix(3)
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1, 2]], np.uint8)
    matrix.add(truth, predicted, 255)
    iou = matrix.iou()
    assert iou[:2] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(iou[2])
    assert matrix.mean_iou() == pytest.approx(7 / 12)
    assert matrix.accuracy() == pytest.approx(3 / 4)


def test_a_perfectly_calibrated_and_an_overconfident_bin() -> None:
    error = ExpectedCalibrationError()
    error.add(np.full(10, 0.7, np.float32), np.arange(10) < 7)
    assert error.value() == pytest.approx(0, abs=1e-6)
    error.add(np.full(10, 0.9, np.float32), np.arange(10) < 4)
    assert error.value() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_the_rankings_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip('sklearn.metrics', reason='scikit-learn is not installed')
    rng = np.random.default_rng(seed)
    # One level per bin, with ties, so that the histogram is exact.
    score = ((rng.integers(0, 200, 3000) * 20 + 0.5) / 4096) ** 2
    yes = rng.random(3000) < 0.1 + 0.8 * score
    ranking = Ranking()
    for part in np.array_split(np.arange(3000), 4):
        ranking.add(score[part].astype(np.float32), yes[part])
    assert auroc(ranking) == pytest.approx(metrics.roc_auc_score(yes, score))
    yes_bins, no_bins = ranking.merged()
    assert (yes_bins.sum(), no_bins.sum()) == (yes.sum(), 3000 - yes.sum())
    merged = metrics.roc_auc_score(yes, np.floor(np.sqrt(score) * 1024))
    assert weighted_pixel_auroc(yes_bins[None], no_bins[None], np.ones((1, 1))) == \
        pytest.approx(merged)


def test_the_diagram_is_what_was_counted() -> None:
    error = ExpectedCalibrationError()
    error.add(np.array([0.7, 0.7, 0.95, 0.95], np.float32), np.array([True, False, True, True]))
    confidence, accuracy, share = error.diagram()
    assert confidence[[10, 14]] == pytest.approx([0.7, 0.95])
    assert accuracy[[10, 14]] == pytest.approx([0.5, 1])
    assert share[[0, 10, 14]] == pytest.approx([0, 0.5, 0.5])
    assert np.isnan(accuracy[0])
    gap = np.abs(confidence - accuracy)
    assert error.value() == pytest.approx(np.nansum(gap * share))


def test_a_confidence_that_is_no_number_claims_nothing() -> None:
    error = ExpectedCalibrationError()
    error.add(np.array([np.nan, 1.0], np.float32), np.array([True, True]))
    assert error.value() == pytest.approx(0.5)


@pytest.mark.parametrize(('scores', 'value'), [([0.3] * 6, 0.5), ([np.nan] * 2 + [0.9] * 4, 1)])
def test_equal_scores_count_half_and_nan_is_the_largest(scores: Any, value: float) -> None:
    ranking = Ranking()
    ranking.add(np.array(scores, np.float32), np.arange(6) < 2)
    assert auroc(ranking) == value


# -------------------------------------------------------------------------------------------------
# Risk and coverage: against a slow implementation, and against torch-uncertainty.

@pytest.mark.parametrize('score', [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused_first(score: float) -> None:
    coverage, risk = risk_coverage([score, 0.1, 99], [1, 0, 0])
    assert risk == pytest.approx([0, 0, 1 / 3])
    assert aurc([score, 0.1, 99], [1, 0, 0]) == pytest.approx(1 / 9)
    assert excess_aurc([score, 0.1, 99], [1, 0, 0]) == pytest.approx(0)


@hypothesis.given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.floats(0, 1)),
                           min_size=1, max_size=6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_ties_count_as_the_mean_over_every_order(frames: list[tuple[float, float]]) -> None:
    slow = []
    for order in itertools.permutations(range(len(frames))):
        if all(frames[a][0] <= frames[b][0] for a, b in itertools.pairwise(order)):
            losses = [frames[i][1] for i in order]
            slow.append(np.mean([np.mean(losses[:k + 1]) for k in range(len(losses))]))
    scores = [frame[0] for frame in frames]
    assert aurc(scores, [frame[1] for frame in frames]) == pytest.approx(np.mean(slow), abs=1e-12)


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 60))
@hypothesis.settings(max_examples=60, deadline=None)
def test_each_point_equals_the_plain_count(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses = rng.integers(0, 20, count) / 20, rng.random(count)
    coverage, risk = risk_coverage(scores, losses)
    for limit, *point in zip(np.unique(scores), coverage, risk, strict=True):
        accepted = losses[scores <= limit]
        assert point == pytest.approx([accepted.size / count, accepted.mean()])


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 60))
@hypothesis.settings(max_examples=60, deadline=None)
def test_no_score_beats_the_losses_and_scale_and_order_do_not_count(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses, order = rng.random(n), rng.random(n), rng.permutation(n)
    assert excess_aurc(scores, losses) >= -1e-12
    assert excess_aurc(losses, losses) == pytest.approx(0, abs=1e-12)
    assert aurc(scores[order] ** 3, losses[order]) == pytest.approx(aurc(scores, losses))
    assert aurc(np.zeros(n), losses) == pytest.approx(losses.mean())
