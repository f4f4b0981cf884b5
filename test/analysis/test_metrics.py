# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Quality measures against hand counts and a plain implementation."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.analysis.metrics import (
    auroc,
    ConfusionMatrix,
    ExpectedCalibrationError,
    Ranking,
)


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
    error = ExpectedCalibrationError()
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


def counted(yes: list[float], no: list[float]) -> Ranking:
    ranking = Ranking()
    ranking.add(np.array(yes + no, np.float32), np.arange(len(yes) + len(no)) < len(yes))
    return ranking


def test_precision_and_false_alarms_by_hand() -> None:
    # From the top: yes, no, yes, no, no: precision 1 at half of the yes, 2/3 at all.
    ranking = counted([0.9, 0.5], [0.7, 0.3, 0.1])
    assert ranking.average_precision() == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert ranking.fpr_at_tpr() == pytest.approx(1 / 3)
    assert ranking.fpr_at_tpr(0.5) == 0
    assert ranking.prevalence() == pytest.approx(2 / 5)


def test_equal_scores_have_the_precision_of_chance_and_alarm_all() -> None:
    ranking = counted([0.3] * 2, [0.3] * 6)
    assert ranking.average_precision() == ranking.prevalence() == 0.25
    assert ranking.fpr_at_tpr() == 1


@pytest.mark.filterwarnings('error')
def test_without_a_yes_or_a_no_there_is_no_answer() -> None:
    assert np.isnan([counted([], [0.1]).average_precision(), counted([], [0.1]).fpr_at_tpr(),
                     counted([0.1], []).fpr_at_tpr(), Ranking().prevalence()]).all()
    assert counted([0.1], []).average_precision() == 1
    assert counted([1.0], [0.5]).average_precision() == 1


def test_nineteen_of_twenty_are_95_percent() -> None:
    yes = [0.5 + k / 100 for k in range(19)] + [0.2]
    assert counted(yes, [0.3, 0.1]).fpr_at_tpr(0.95) == 0
    assert counted(yes, [0.3, 0.1]).fpr_at_tpr(0.951) == 0.5


@pytest.mark.parametrize('seed', range(5))
def test_the_rankings_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip('sklearn.metrics', reason='scikit-learn is not installed')
    rng = np.random.default_rng(seed)
    # One level a bin, with ties, so that the histogram loses nothing.
    score = ((rng.integers(0, 200, 3000) * 20 + 0.5) / 4096) ** 2
    yes = rng.random(3000) < 0.1 + 0.8 * score
    ranking = Ranking()
    for part in np.array_split(np.arange(3000), 4):
        ranking.add(score[part].astype(np.float32), yes[part])
    assert ranking.auroc() == pytest.approx(metrics.roc_auc_score(yes, score))
    assert ranking.average_precision() == pytest.approx(
        metrics.average_precision_score(yes, score))
    fpr, tpr, _ = metrics.roc_curve(yes, score, drop_intermediate=False)
    assert ranking.fpr_at_tpr() == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    assert ranking.prevalence() == yes.mean()


@pytest.mark.torch
def test_the_rankings_are_those_of_torchmetrics_and_torch_uncertainty() -> None:
    torch = pytest.importorskip('torch', reason='torch is not installed')
    torchmetrics = pytest.importorskip('torchmetrics.classification', reason='not installed')
    peers = pytest.importorskip('torch_uncertainty.metrics', reason='not installed')
    rng = np.random.default_rng(1)
    score = ((rng.permutation(4000)[:2000] + 0.5) / 4096) ** 2
    yes = rng.random(2000) < 0.1 + 0.8 * score
    ranking = Ranking()
    ranking.add(score.astype(np.float32), yes)
    scores, truth = torch.tensor(score), torch.tensor(yes.astype(np.int64))
    precision = torchmetrics.BinaryAveragePrecision()(scores, truth)
    assert ranking.average_precision() == pytest.approx(float(precision), abs=1e-6)
    alarms = peers.FPR95(pos_label=1)
    alarms.update(scores, truth)
    assert ranking.fpr_at_tpr() == pytest.approx(float(alarms.compute()), abs=1e-6)


def test_the_diagram_is_what_was_counted() -> None:
    error = ExpectedCalibrationError()
    error.add(np.array([0.7, 0.7, 0.95, 0.95], np.float32), np.array([True, False, True, True]))
    diagram = error.diagram()
    assert diagram.confidence[[10, 14]] == pytest.approx([0.7, 0.95])
    assert diagram.accuracy[[10, 14]] == pytest.approx([0.5, 1])
    assert diagram.share[[0, 10, 14]] == pytest.approx([0, 0.5, 0.5])
    assert np.isnan(diagram.accuracy[0])
    gap = np.abs(diagram.confidence - diagram.accuracy)
    assert error.value() == pytest.approx(np.nansum(gap * diagram.share))


def test_a_confidence_that_is_no_number_claims_nothing() -> None:
    error = ExpectedCalibrationError()
    error.add(np.array([np.nan, 1.0], np.float32), np.array([True, True]))
    assert error.value() == pytest.approx(0.5)


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
