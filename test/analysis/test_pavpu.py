# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Patches by hand, at every limit by plain loops, and against torch-uncertainty."""

import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.analysis.metrics import PatchUncertainty, PavpuCurve
from uncertainty_seg.errors import ShapeError

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
def test_it_is_that_of_torch_uncertainty(limit: float) -> None:
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
