# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parts of the map scores: known answers, comparison with plain loops and scipy, masks."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.vector import (
    boundary_mask,
    kept_values,
    Parts,
    top_means,
    Windows,
)
from uncertainty_seg.errors import ShapeError

SIZES = st.tuples(st.integers(1, 16), st.integers(1, 16))
MAPS = hnp.arrays(np.float32, SIZES, elements=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
LABELS = hnp.arrays(np.uint8, SIZES, elements=st.integers(0, 3))
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


def worst(values: Values, share: float = 0.15, ignore: Mask | None = None) -> float:
    return Windows.of(values.shape, share, ignore).worst(values)


# --- the largest values --------------------------------------------------------------------------


LINES = {
    'spread evenly': np.random.default_rng(1).random(20_000, np.float32),
    'mostly equal': np.repeat(np.array([0, 0.5, 1], np.float32), [19_000, 900, 100]),
    'all equal': np.full(20_000, 0.25, np.float32),
    'in order': np.linspace(0, 1, 20_000, dtype=np.float32),
}


@pytest.mark.parametrize('name', LINES)
def test_the_largest_are_averaged(name: str) -> None:
    ordered = np.sort(LINES[name])[::-1].astype(np.float64)
    counts = [7, 1, 1000, 1250, 1251, 10_000, 18_750, 19_999, 20_000]
    assert top_means(LINES[name], counts) == pytest.approx(
        [ordered[:n].mean() for n in counts], rel=1e-12)


def test_a_value_that_is_no_number_is_never_lost_among_the_largest() -> None:
    flat = np.full(500, 0.1, np.float32)
    flat[7] = np.nan
    assert np.isnan(top_means(flat, [1, 500])).all() and np.isnan(top_means(flat[:0], [1])).all()


# --- windows -------------------------------------------------------------------------


def plain_worst(values: Values, side: int, ignore: Mask) -> float:
    """Return the worst mean of all windows, by a loop; NaN if no pixel is left."""
    found = []
    for y in range(values.shape[0] - side + 1):
        for x in range(values.shape[1] - side + 1):
            kept = ~ignore[y:y + side, x:x + side]
            inside = values[y:y + side, x:x + side].astype(np.float64)
            if kept.any():
                found.append((kept.mean(), inside[kept].mean()))
    fullest = max((share for share, _ in found), default=0.0)
    return max((mean for share, mean in found if share >= min(0.5, fullest) - 1e-9),
               default=float('nan'))


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_the_worst_window_equals_a_plain_search(values: Values, data: st.DataObject) -> None:
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    share = data.draw(st.sampled_from([0.1, 0.3, 0.5]))
    side = max(1, round(share * min(values.shape)))
    hidden = np.where(ignore, np.float32(np.nan), values)
    assert worst(hidden, share, ignore) == pytest.approx(
        plain_worst(values, side, ignore), abs=1e-5, nan_ok=True)
    none = np.zeros_like(ignore)
    for mask in (None, none):
        assert worst(values, share, mask) == pytest.approx(
            plain_worst(values, side, none), abs=1e-5)


# --- classes, boundaries and interiors -----------------------------------------------------------


def plain_boundary(label: NDArray[np.uint8], width: int, ignore: Mask) -> Mask:
    found = np.zeros(label.shape, np.bool_)
    for y, x in np.ndindex(*label.shape):
        near = (slice(max(y - width, 0), y + width + 1), slice(max(x - width, 0), x + width + 1))
        found[y, x] = len(set(label[near][~ignore[near]].tolist())) > 1
    return found


@hypothesis.given(LABELS, st.integers(1, 3), st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_borders_equal_a_plain_search_and_ignored_classes_make_none(
    label: NDArray[np.uint8], width: int, data: st.DataObject
) -> None:
    ignore = data.draw(hnp.arrays(np.bool_, label.shape))
    none = np.zeros(label.shape, np.bool_)
    np.testing.assert_array_equal(boundary_mask(label, width), plain_boundary(label, width, none))
    found = boundary_mask(label, width, ignore)
    np.testing.assert_array_equal(found[~ignore], plain_boundary(label, width, ignore)[~ignore])


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
    kept, border = ~ignore, boundary_mask(label, ignore=ignore)

    def mean(where: Mask) -> float:
        return float(values[where].astype(np.float64).mean()) if where.any() else 0.0

    there = [c for c in range(num_classes) if (label[kept] == c).any()]
    assert scores == pytest.approx({
        'interior': mean(kept & ~border),
        'class_mean': np.mean([mean(kept & (label == c)) for c in there]),
        **{str(c): mean(kept & (label == c)) for c in range(num_classes)},
    }, abs=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    wrong, label = np.zeros((4, 5), np.bool_), np.full((5, 4), 3, np.uint8)
    values = np.zeros((5, 4), np.float32)
    for call in (lambda: kept_values(values, wrong), lambda: worst(values, 0.5, wrong),
                 lambda: Parts.of(label, 4, wrong)):
        with pytest.raises(ShapeError):
            call()
    with pytest.raises(ShapeError, match='3'):
        Parts.of(label, 3)
