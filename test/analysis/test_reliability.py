# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Confidence against truth, in equal masses and as one squared error; against other libraries."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.analysis.metrics import AdaptiveCalibrationError, TopLabelBrier


def counted(confidence: NDArray[np.floating], is_right: NDArray[np.bool_],
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
    diagram = counted(confidence, is_right).diagram(2)
    assert diagram.confidence == pytest.approx([0.7, 0.95])
    assert diagram.accuracy == pytest.approx([0.5, 1])
    assert diagram.share == pytest.approx([0.5, 0.5])
    assert counted(confidence, is_right).value(2) == pytest.approx((0.2 + 0.05) / 2)


def test_pixels_of_one_confidence_are_shared_between_the_bins() -> None:
    error = counted(np.full(100, 0.75), np.arange(100) < 60)
    assert error.diagram().accuracy == pytest.approx(np.full(15, 0.6))
    assert error.value() == pytest.approx(0.15, abs=1e-6)


def test_pixels_that_are_almost_sure_are_told_apart() -> None:
    confidence = np.repeat([0.99999, 0.9999], 100)
    is_right = np.append(np.arange(100) < 50, np.full(100, True))
    assert counted(confidence, is_right).diagram(2).accuracy == pytest.approx([1, 0.5])


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_it_is_close_to_sorting_all_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = 1 - rng.random(15 * 200) ** 3 * 0.8
    is_right = rng.random(confidence.size) < confidence ** rng.uniform(0.5, 4)
    assert counted(confidence, is_right).value() == pytest.approx(
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
    assert counted(confidence, is_right).value() == pytest.approx(float(peer.compute()), abs=2e-3)


def test_a_calibrated_network_has_none_and_an_overconfident_one_its_gap() -> None:
    rng = np.random.default_rng(0)
    confidence = 0.5 + 0.5 * rng.random(150_000)
    assert counted(confidence, rng.random(150_000) < confidence).value() < 0.006
    assert counted(confidence, rng.random(150_000) < confidence - 0.2).value() == pytest.approx(
        0.2, abs=0.006)


@pytest.mark.filterwarnings('error')
def test_nan_claims_nothing_and_no_pixel_has_no_answer() -> None:
    assert counted(np.array([np.nan, 1.0]), np.array([True, True])).value(2) == pytest.approx(0.5)
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
