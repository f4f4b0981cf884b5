# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parts of the map scores: known answers, comparison with plain loops, masks."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.vector import (
    kept_values,
    Parts,
    top_mean,
    TOP_SHARE,
)
from uncertainty_seg.errors import ShapeError

SIZES = st.tuples(st.integers(1, 16), st.integers(1, 16))
MAPS = hnp.arrays(np.float32, SIZES, elements=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
LABELS = hnp.arrays(np.uint8, SIZES, elements=st.integers(0, 3))
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


# --- the largest values --------------------------------------------------------------------------


LINES = {
    'spread evenly': np.random.default_rng(1).random(20_000, np.float32),
    'mostly equal': np.repeat(np.array([0, 0.5, 1], np.float32), [19_000, 900, 100]),
    'all equal': np.full(20_000, 0.25, np.float32),
    'in order': np.linspace(0, 1, 20_000, dtype=np.float32),
}


@pytest.mark.parametrize('name', LINES)
def test_the_largest_are_averaged(name: str) -> None:
    for size in (1, 7, 9, 10, 11, 999, 20_000):
        some = np.random.default_rng(size).choice(LINES[name], size, replace=False)
        count = max(1, round(TOP_SHARE * size))
        expected = np.sort(some)[::-1][:count].astype(np.float64).mean()
        assert top_mean(some) == pytest.approx(expected, rel=1e-12), size


def test_a_value_that_is_no_number_is_never_lost_among_the_largest() -> None:
    flat = np.full(500, 0.1, np.float32)
    flat[7] = np.nan
    assert np.isnan(top_mean(flat)) and np.isnan(top_mean(flat[:0]))


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_classes', [4, 100, 200, 255])
@hypothesis.given(LABELS, st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_scores_by_class_equal_plain_means(
    num_classes: int, label: NDArray[np.uint8], data: st.DataObject
) -> None:
    label = (label * (num_classes // 4)).astype(np.uint8)
    values = data.draw(hnp.arrays(np.float32, label.shape, elements=st.floats(0, 1, width=32)))
    ignore = data.draw(hnp.arrays(np.bool_, label.shape))
    scores = Parts.of(label, num_classes, ignore).scores(
        np.where(ignore, np.float32(np.nan), values))
    if ignore.all():
        assert np.isnan([*scores.values()]).all()
        return
    kept = ~ignore

    def mean(where: Mask) -> float:
        return float(values[where].astype(np.float64).mean()) if where.any() else 0.0

    there = [c for c in range(num_classes) if (label[kept] == c).any()]
    assert scores == pytest.approx({
        'class_mean': np.mean([mean(kept & (label == c)) for c in there]),
        **{str(c): mean(kept & (label == c)) for c in range(num_classes)},
    }, abs=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    wrong, label = np.zeros((4, 5), np.bool_), np.full((5, 4), 3, np.uint8)
    values = np.zeros((5, 4), np.float32)
    for call in (lambda: kept_values(values, wrong), lambda: Parts.of(label, 4, wrong)):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(ShapeError, match='3'):
        Parts.of(label, 3)
