# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One rank sets the thresholds of a gate, except those of its guards."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.stats.conformal import fit_promise
from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.gate_scale import GateScale
from uncertainty_seg.core.gate import GUARDS
from uncertainty_seg.errors import CalibrationError

ORDER, GUARD = 'margin.class_mean', 'features.knn'
TRAIN = {ORDER: np.linspace(0.01, 0.8, 1000), GUARD: np.arange(1, 1001) / 2000}
SCALE = GateScale.fit(TRAIN, (ORDER, GUARD))


def table(order: np.ndarray, guard: np.ndarray, is_bad: np.ndarray) -> FrameTable:
    stems = np.array([f'{index:03}' for index in range(len(order))])
    return FrameTable(tuple(stems), stems, {ORDER: order, GUARD: guard}, 1.0 - is_bad, is_bad)


def test_a_score_counts_in_units_of_the_largest_training_frame_and_a_guard_refuses() -> None:
    threshold = SCALE.units[GUARD]
    assert (TRAIN[GUARD] <= threshold).mean() == pytest.approx(GUARDS[GUARD], abs=0.002)
    nan, inf = np.nan, np.inf
    found = SCALE.ranks({ORDER: np.array([0.4, 0.8, 0.4, 0.4, 0.4, nan, 1.6]),
                         GUARD: np.array([0.0, threshold, threshold * 1.001, 0.9, nan, 0.1, 0.1])})
    assert found == pytest.approx([0.5, 1.0, inf, inf, inf, inf, 2.0])


@hypothesis.given(st.floats(0.05, 0.6), st.integers(0, 2**31))
@hypothesis.settings(max_examples=50, deadline=None)
def test_no_promise_moves_a_guard(alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, guard = rng.uniform(0, 0.8, 60), rng.uniform(0, 0.5, 60)
    is_bad = rng.uniform(size=60) < order
    is_bad[np.argmin(order)] = False
    guard[np.argmin(order)] = 0.1
    try:
        promise = fit_promise(SCALE, table(order, guard, is_bad), alpha, 'rule')
    except CalibrationError as err:
        assert 'no frame can be accepted' in str(err)
        return
    assert promise.limits[GUARD] == SCALE.units[GUARD] and promise.num_bad == is_bad.sum()


def test_of_guards_alone_none_is_fixed() -> None:
    only = GateScale.fit(TRAIN, (GUARD,))
    assert not only.guards and only.limits(0.5) == {GUARD: pytest.approx(0.25)}


@pytest.mark.parametrize('values', [np.full(9, np.nan), np.zeros(9), np.full(9, np.inf)])
def test_a_score_that_says_nothing_of_the_training_frames_is_refused(values: np.ndarray) -> None:
    for name in (ORDER, GUARD):
        with pytest.raises(CalibrationError, match=f'{name}.*9 training frames'):
            GateScale.fit({**TRAIN, name: values}, (ORDER, GUARD))


@pytest.mark.parametrize('name', [ORDER, GUARD])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_frames_whose_scores_are_no_numbers_give_no_promise(name: str, value: float) -> None:
    frames = table(np.full(30, 0.2), np.full(30, 0.1), np.arange(30) < 3)
    broken = frames.with_scores({name: np.full(30, value)})
    with pytest.raises(CalibrationError, match='no frame can be accepted.*no numbers'):
        fit_promise(SCALE, broken, 0.1, 'rule')
