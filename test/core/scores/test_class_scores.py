# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Scores by class: by hand, against plain means, and what a class that is absent does."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.aggregate import boundary_mask, class_scores, Parts
from uncertainty_seg.errors import ShapeError

LABELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 16), st.integers(1, 16)),
                    elements=st.integers(0, 3))


def rare_diver() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Give a sure seabed, and 100 of 20 000 pixels of an unsure class 2."""
    label = np.zeros((100, 200), np.uint8)
    label[40:50, 60:70] = 2
    return np.where(label == 2, np.float32(0.8), np.float32(0.1)), label


def test_a_rare_class_is_heard_where_the_mean_hides_it() -> None:
    values, label = rare_diver()
    scores, by_class = class_scores(values, Parts.of(label, 4))
    assert values.mean() == pytest.approx(0.1035, abs=1e-4)
    assert scores['class_mean'] == pytest.approx((0.1 + 0.8) / 2)
    assert scores['foreground'] == pytest.approx(0.8)
    assert by_class == pytest.approx([0.1, 0, 0.8, 0])


def test_borders_and_insides_by_hand() -> None:
    label = np.zeros((10, 10), np.uint8)
    label[:, 5:] = 1
    values = np.full((10, 10), 0.1, np.float32)
    values[:, 3:7] = 0.6  # two pixels each side
    scores, _ = class_scores(values, Parts.of(label, 2))
    assert scores['boundary'] == pytest.approx(0.6)
    assert scores['interior'] == pytest.approx(0.1)


def test_what_is_absent_scores_zero_and_not_nan() -> None:
    values = np.full((8, 8), 0.7, np.float32)
    scores, by_class = class_scores(values, Parts.of(np.zeros((8, 8), np.uint8), 3))
    assert scores == pytest.approx(
        {'foreground': 0, 'class_mean': 0.7, 'boundary': 0, 'interior': 0.7})
    assert by_class == pytest.approx([0.7, 0, 0])


def test_a_sure_new_class_lowers_the_class_mean() -> None:
    """Why the class mean is not monotone: where the mask changes, so does what is averaged."""
    values, label = np.full((10, 10), 0.5, np.float32), np.zeros((10, 10), np.uint8)
    before, _ = class_scores(values, Parts.of(label, 2))
    label[0, 0], values[0, 0] = 1, 0.0
    after, _ = class_scores(values, Parts.of(label, 2))
    assert after['class_mean'] == pytest.approx(0.25)
    assert before['class_mean'] == pytest.approx(0.5)


@pytest.mark.parametrize('num_classes', [4, 100, 200, 255])
@hypothesis.given(LABELS, st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_scores_equal_plain_means(
        num_classes: int, label: NDArray[np.uint8], data: st.DataObject) -> None:
    label = (label * (num_classes // 4)).astype(np.uint8)
    values = data.draw(hnp.arrays(np.float32, label.shape, elements=st.floats(0, 1, width=32)))
    ignore = data.draw(hnp.arrays(np.bool_, label.shape))
    scores, by_class = class_scores(
        np.where(ignore, np.float32(np.nan), values), Parts.of(label, num_classes, ignore))
    if ignore.all():
        assert np.isnan([*scores.values(), *by_class]).all()
        return
    kept, border = ~ignore, boundary_mask(label, ignore=ignore)

    def mean(where: NDArray[np.bool_]) -> float:
        return float(values[where].astype(np.float64).mean()) if where.any() else 0.0

    there = [c for c in range(num_classes) if (label[kept] == c).any()]
    assert scores == pytest.approx({
        'foreground': mean(kept & (label > 0)), 'boundary': mean(kept & border),
        'interior': mean(kept & ~border),
        'class_mean': np.mean([mean(kept & (label == c)) for c in there]),
    }, abs=1e-9)
    assert by_class == pytest.approx([mean(kept & (label == c)) for c in range(num_classes)],
                                     abs=1e-9)


@hypothesis.given(LABELS, st.data())
@hypothesis.settings(max_examples=40, deadline=None)
def test_for_one_mask_raising_any_pixel_never_lowers_a_score(
        label: NDArray[np.uint8], data: st.DataObject) -> None:
    floats = st.sampled_from([0.0, 0.2, 0.7])
    values, more = (data.draw(hnp.arrays(np.float32, label.shape, elements=floats))
                    for _ in range(2))
    parts = Parts.of(label, 4)
    (low, low_by_class), (high, high_by_class) = (
        class_scores(v, parts) for v in (values, values + more))
    assert all(high[name] >= low[name] - 1e-9 for name in low)
    assert (high_by_class >= low_by_class - 1e-9).all()


def test_another_background_is_not_foreground() -> None:
    values, label = rare_diver()
    parts = Parts.of(label, 4)
    assert class_scores(values, parts, background=2)[0]['foreground'] == pytest.approx(0.1)
    assert parts.foreground_share() == pytest.approx(0.005)
    assert parts.foreground_share(background=2) == pytest.approx(0.995)


def test_one_nan_that_counts_makes_all_of_it_nan() -> None:
    values, label = rare_diver()
    values[0, 0] = np.nan
    scores, by_class = class_scores(values, Parts.of(label, 4))
    assert np.isnan([*scores.values(), *by_class]).all()


def test_a_class_id_beyond_the_classes_and_a_mask_of_another_size_are_refused() -> None:
    label = np.full((4, 5), 3, np.uint8)
    with pytest.raises(ShapeError, match='class id 3 in the mask'):
        Parts.of(label, 3)
    with pytest.raises(ShapeError, match='ignore mask'):
        Parts.of(label, 4, np.zeros((5, 4), np.bool_))
