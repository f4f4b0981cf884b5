# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Confusion, calibration errors, Brier score, patches and rankings against known answers."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.calibration.statistics.metrics import (
    AdaptiveCalibrationError,
    auroc,
    ExpectedCalibrationError,
    PatchUncertainty,
    PavpuCurve,
    Ranking,
    TopLabelBrier,
)
from uncertainty_seg.core.arrays import ConfusionMatrix
from uncertainty_seg.errors import ShapeError


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


# -------------------------------------------------------------------------------------------------
# Confidence against truth, in equal masses and as one squared error; against other libraries.

def adaptive(confidence: NDArray[np.floating], is_right: NDArray[np.bool_],
             parts: int = 3) -> AdaptiveCalibrationError:
    error = AdaptiveCalibrationError()
    for part in np.array_split(np.arange(confidence.size), parts):
        error.add(confidence[part].astype(np.float32), is_right[part])
    return error


def plain(confidence: NDArray[np.floating], is_right: NDArray[np.bool_], bins: int = 15) -> float:
    """Sort, cut into equal parts, compare means; for a count that divides by the bins."""
    order = np.argsort(confidence, kind='stable')
    gaps = [abs(confidence[part].mean() - is_right[part].mean())
            for part in np.split(order, bins)]
    return float(np.mean(gaps))


def test_equal_masses_by_hand() -> None:
    confidence = np.array([0.6, 0.8, 0.9, 1.0])
    is_right = np.array([True, False, True, True])
    diagram = adaptive(confidence, is_right).diagram(2)
    assert diagram.confidence == pytest.approx([0.7, 0.95])
    assert diagram.accuracy == pytest.approx([0.5, 1])
    assert diagram.share == pytest.approx([0.5, 0.5])
    assert adaptive(confidence, is_right).value(2) == pytest.approx((0.2 + 0.05) / 2)


def test_pixels_of_one_confidence_are_shared_between_the_bins() -> None:
    error = adaptive(np.full(100, 0.75), np.arange(100) < 60)
    assert error.diagram().accuracy == pytest.approx(np.full(15, 0.6))
    assert error.value() == pytest.approx(0.15, abs=1e-6)


def test_pixels_that_are_almost_sure_are_told_apart() -> None:
    confidence = np.repeat([0.99999, 0.9999], 100)
    is_right = np.append(np.arange(100) < 50, np.full(100, True))
    assert adaptive(confidence, is_right).diagram(2).accuracy == pytest.approx([1, 0.5])


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_it_is_close_to_sorting_all_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = 1 - rng.random(15 * 200) ** 3 * 0.8
    is_right = rng.random(confidence.size) < confidence ** rng.uniform(0.5, 4)
    assert adaptive(confidence, is_right).value() == pytest.approx(
        plain(confidence, is_right), abs=2e-3)


@pytest.mark.torch
def test_it_is_that_of_torch_uncertainty() -> None:
    torch = pytest.importorskip('torch', reason='torch is not installed')
    peers = pytest.importorskip('torch_uncertainty.metrics.classification',
                                reason='torch_uncertainty is not installed')
    rng = np.random.default_rng(2)
    confidence = 0.5 + 0.5 * rng.random(3000) ** 0.3
    is_right = rng.random(3000) < confidence**2
    peer = peers.AdaptiveCalibrationError(task='binary', num_bins=15, norm='l1')
    # Its binary confidence is the probability itself: ask it about "right".
    peer.update(torch.tensor(confidence), torch.tensor(is_right.astype(np.int64)))
    assert adaptive(confidence, is_right).value() == pytest.approx(float(peer.compute()), abs=2e-3)


def test_a_calibrated_network_has_none_and_an_overconfident_one_its_gap() -> None:
    rng = np.random.default_rng(0)
    confidence = 0.5 + 0.5 * rng.random(150_000)
    assert adaptive(confidence, rng.random(150_000) < confidence).value() < 0.006
    assert adaptive(confidence, rng.random(150_000) < confidence - 0.2).value() == pytest.approx(
        0.2, abs=0.006)


@pytest.mark.filterwarnings('error')
def test_nan_claims_nothing_and_no_pixel_has_no_answer() -> None:
    assert adaptive(np.array([np.nan, 1.0]), np.array([True, True])).value(2) == pytest.approx(0.5)
    assert np.isnan(AdaptiveCalibrationError().value())
    brier = TopLabelBrier()
    assert np.isnan(brier.value())
    brier.add(np.array([np.nan, 1.0], np.float32), np.array([True, True]))
    assert brier.value() == 0.5


def test_brier_by_hand_and_image_after_image() -> None:
    brier = TopLabelBrier()
    brier.add(np.array([[0.5, 0.8]], np.float32), np.array([[True, True]]))
    brier.add(np.array([[0.5]], np.float32), np.array([[False]]))
    assert brier.value() == pytest.approx((0.25 + 0.04 + 0.25) / 3)


def test_brier_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip('sklearn.metrics', reason='scikit-learn is not installed')
    rng = np.random.default_rng(4)
    confidence = rng.random(2000).astype(np.float32)
    is_right = rng.random(2000) < 0.7
    brier = TopLabelBrier()
    brier.add(confidence, is_right)
    assert brier.value() == pytest.approx(metrics.brier_score_loss(is_right, confidence))


# -------------------------------------------------------------------------------------------------
# Patches by hand, at every limit by plain loops, and against torch-uncertainty.

Maps = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


def random_maps(seed: int, shape: tuple[int, int] = (37, 50)) -> Maps:
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(shape).astype(np.float32) * rng.random((1, shape[1]), np.float32)
    is_right = rng.random(shape) < 1 - 0.9 * uncertainty
    return uncertainty, is_right, rng.random(shape) < np.linspace(0.02, 1, shape[0])[:, None]


def curve_of(*images: Maps) -> PavpuCurve:
    patches = PatchUncertainty()
    for image in images:
        patches.add(*image)
    return patches.curve()


def at(curve: PavpuCurve, limit: float) -> int:
    """Index of the largest limit at or below."""
    return int(np.searchsorted(curve.limits, limit, side='right')) - 1


def test_five_patches_by_hand() -> None:
    # Sure and right, sure and wrong, unsure and right, and two unsure and wrong.
    uncertainty = np.repeat(np.array([[0.1, 0.1, 0.6, 0.6, 0.6]], np.float32), 4, 0).repeat(4, 1)
    right = np.repeat(np.array([[True, False, True, False, False]]), 4, 0).repeat(4, 1)
    curve = curve_of((uncertainty, right, np.full(right.shape, True)))
    k = at(curve, 0.3)
    assert curve.accurate_if_certain[k] == pytest.approx(1 / 2)
    assert curve.uncertain_if_inaccurate[k] == pytest.approx(2 / 3)
    assert curve.pavpu[k] == pytest.approx(3 / 5)
    assert curve.pavpu[-1] == pytest.approx(2 / 5)  # nothing is uncertain
    assert curve.limits[curve.median] == pytest.approx(0.6, abs=2e-3)


def test_half_right_is_not_accurate_and_unknown_pixels_do_not_count() -> None:
    uncertainty = np.full((4, 4), 0.1, np.float32)
    right = np.arange(16).reshape(4, 4) < 8
    known = np.full((4, 4), True)
    assert curve_of((uncertainty, right, known)).accurate_if_certain[-1] == 0
    known[3] = False  # 8 of 12
    uncertainty[3] = np.nan
    curve = curve_of((uncertainty, right, known))
    assert curve.accurate_if_certain[at(curve, 0.11)] == 1
    nothing = curve_of((uncertainty, right, np.full((4, 4), False)))
    assert np.isnan(nothing.pavpu).all()


def test_a_value_at_the_limit_is_certain_and_nan_is_not() -> None:
    known = np.full((4, 4), True)
    zero = curve_of((np.zeros((4, 4), np.float32), known, known))
    assert zero.pavpu[0] == 1
    broken = curve_of((np.full((4, 4), np.nan, np.float32), known, known))
    assert broken.pavpu[-2] == 0
    assert broken.pavpu[-1] == 1


def test_every_limit_equals_plain_loops() -> None:
    images = [random_maps(1), random_maps(2, (8, 9))]
    patches = []
    for uncertainty, right, known in images:
        for row in range(0, right.shape[0], 4):
            for column in range(0, right.shape[1], 4):
                box = np.s_[row:row + 4, column:column + 4]
                if known[box].any():
                    patches.append((float(uncertainty[box][known[box]].mean(dtype=np.float64)),
                                    right[box][known[box]].mean() > 0.5))
    curve = curve_of(*images)
    for k in range(0, len(curve.limits), 37):
        sure = np.array([value <= curve.limits[k] for value, _ in patches])
        accurate = np.array([good for _, good in patches])
        assert curve.pavpu[k] == pytest.approx((sure == accurate).mean())
        assert curve.uncertain_if_inaccurate[k] == pytest.approx((~sure)[~accurate].mean())
        if sure.any():
            assert curve.accurate_if_certain[k] == pytest.approx(accurate[sure].mean())
        else:
            assert np.isnan(curve.accurate_if_certain[k])
    median = np.median([value for value, _ in patches])
    assert curve.limits[curve.median] == pytest.approx(median, abs=4e-3)


@pytest.mark.torch
@pytest.mark.parametrize('limit', [0.02, 0.1, 0.25])
def test_the_patches_are_those_of_torch_uncertainty(limit: float) -> None:
    torch = pytest.importorskip('torch', reason='torch is not installed')
    peers = pytest.importorskip('torch_uncertainty.metrics', reason='not installed')
    uncertainty, right, known = random_maps(5)
    uncertainty *= np.float32(0.5)  # of two classes, one minus the larger probability
    curve = curve_of((uncertainty, right, known))
    k = at(curve, limit)
    peer = peers.PAvPU(patch_size=4, acc_threshold=0.5, unc_threshold=float(curve.limits[k]))
    probs = torch.tensor(np.stack([1 - uncertainty, uncertainty])[None])
    peer.update(probs, torch.tensor((~right).astype(np.int64)[None]), torch.tensor(~known[None]))
    assert float(peer.compute()) == pytest.approx(curve.pavpu[k], abs=1e-6)


def test_maps_of_different_sizes_are_refused() -> None:
    uncertainty, right, known = random_maps(1)
    with pytest.raises(ShapeError, match='is_right'):
        PatchUncertainty().add(uncertainty, right[1:], known)
    with pytest.raises(ShapeError, match='known'):
        PatchUncertainty().add(uncertainty, right, known[:, 1:])
