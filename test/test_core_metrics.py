# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Quality measures against hand counts and a plain implementation."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.core.metrics import auroc, CalibrationError15, ConfusionMatrix, Ranking


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


def test_image_after_image_equals_all_at_once() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 6, 10, 10)).astype(np.uint8)
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.add(truth, predicted, 255)
    for one, other in zip(truth, predicted, strict=True):
        parts.add(one, other, 255)
    np.testing.assert_array_equal(whole.counts, parts.counts)


def test_a_perfectly_calibrated_and_an_overconfident_bin() -> None:
    error = CalibrationError15()
    error.add(np.full(10, 0.7, np.float32), np.arange(10) < 7)
    assert error.value() == pytest.approx(0, abs=1e-6)
    error.add(np.full(10, 0.9, np.float32), np.arange(10) < 4)
    assert error.value() == pytest.approx(0.25, abs=1e-6)


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_the_histogram_ranking_equals_the_pairwise_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random(300).astype(np.float32)
    yes = rng.random(300) < score
    ranking = Ranking()
    ranking.add(score[:100], yes[:100])
    ranking.add(score[100:], yes[100:])
    assert ranking.auroc() == pytest.approx(auroc(score[yes], score[~yes]), abs=2e-3)


def test_auroc_known_answers() -> None:
    assert auroc(np.array([3.0, 4]), np.array([1.0, 2])) == 1
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


def test_equal_scores_count_half() -> None:
    ranking = Ranking()
    ranking.add(np.full(6, 0.3, np.float32), np.arange(6) < 2)
    assert ranking.auroc() == 0.5


def test_nan_ranks_as_the_most_uncertain() -> None:
    assert auroc(np.array([np.nan]), np.array([0.9])) == 1
    ranking = Ranking()
    ranking.add(np.array([np.nan, 0.5], np.float32), np.array([True, False]))
    assert ranking.auroc() == 1
