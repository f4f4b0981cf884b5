# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the scores of a map are made of: by hand, against plain loops and scipy, under masks."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.vector import (
    boundary_mask,
    kept_values,
    largest_region,
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


@pytest.mark.parametrize('counts', [[1], [5, 1], [3, 3, 10], [1, 10, 4]])
def test_several_counts_are_found_at_once_in_the_order_asked(counts: list[int]) -> None:
    flat = np.array([0.3, 0.9, 0.1, 0.1, 0.7, 0.2, 0.9, 0.0, 0.5, 0.4], np.float32)
    ordered = np.sort(flat)[::-1].astype(np.float64)
    assert top_means(flat, counts) == pytest.approx([ordered[:n].mean() for n in counts])
    assert flat[0] == np.float32(0.3), 'the map itself was put in order'


def unlike_its_sample(order: bool) -> Values:
    """Give the pixels of which bounds are made the largest values, or the smallest."""
    flat = np.random.default_rng(0).random(20_000, np.float32)
    flat[::16] += 1 if order else -1
    return flat


LINES = {
    'spread evenly': np.random.default_rng(1).random(20_000, np.float32),
    'mostly equal': np.repeat(np.array([0, 0.5, 1], np.float32), [19_000, 900, 100]),
    'all equal': np.full(20_000, 0.25, np.float32),
    'in order': np.linspace(0, 1, 20_000, dtype=np.float32),
    'with the sample on top': unlike_its_sample(True),
    'with the sample below': unlike_its_sample(False),
}


@pytest.mark.parametrize('name', LINES)
def test_the_largest_are_the_same_whatever_the_sample_of_them_says(name: str) -> None:
    ordered = np.sort(LINES[name])[::-1].astype(np.float64)
    counts = [1, 7, 1000, 1250, 1251, 10_000, 18_750, 19_999, 20_000]
    assert top_means(LINES[name], counts) == pytest.approx(
        [ordered[:n].mean() for n in counts], rel=1e-12)


def test_a_value_that_is_no_number_is_never_lost_among_the_largest() -> None:
    flat = np.full(500, 0.1, np.float32)
    flat[7] = np.nan
    assert np.isnan(top_means(flat, [1, 500])).all() and np.isnan(top_means(flat[:0], [1])).all()


# --- windows and regions -------------------------------------------------------------------------


def plain_worst(values: Values, side: int, ignore: Mask) -> float:
    """Look at every window; NaN if no pixel is left."""
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


def test_a_sliver_beside_a_mask_is_no_window() -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[:, 18:20] = 0.9
    ignore = np.zeros((40, 40), np.bool_)
    ignore[:, 20:] = True
    # Side 10: two columns of ten would be a window of them alone; five are the least.
    assert worst(values, 0.25, ignore) == pytest.approx((2 * 0.9 + 3 * 0.1) / 5)


@pytest.mark.parametrize('at', [(0, 0), (20, 20), (39, 25)])
@pytest.mark.parametrize('num_ignored', [0, 10])
def test_a_pixel_that_is_no_number_makes_window_and_region_none(
    at: tuple[int, int], num_ignored: int
) -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[at] = np.nan
    ignore = np.zeros((40, 40), np.bool_)
    ignore[:, 40 - num_ignored:] = True
    mask = ignore if num_ignored else None
    assert np.isnan(worst(values, ignore=mask)) and np.isnan(largest_region(values, 0.5, mask))


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_the_largest_region_is_that_of_scipy(values: Values, data: st.DataObject) -> None:
    ndimage = pytest.importorskip('scipy.ndimage', reason='scipy is not installed')
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    region, num = ndimage.label((values > 0.25) & ~ignore, np.ones((3, 3)))
    largest = max((int((region == index + 1).sum()) for index in range(num)), default=0)
    kept = int((~ignore).sum())
    expected = largest / kept if kept else float('nan')
    hidden = np.where(ignore, np.float32(np.nan), values)
    assert largest_region(hidden, 0.25, ignore) == pytest.approx(expected, nan_ok=True)


def test_corners_connect_and_the_threshold_is_not_above_itself() -> None:
    values = np.zeros((4, 5), np.float32)
    values[0, 0] = values[1, 1] = values[2, 2] = 0.9
    values[0, 4] = values[1, 4] = 0.9
    assert largest_region(values, 0.5) == pytest.approx(3 / 20)
    assert largest_region(values, 0.9) == 0
    values[1, 1] = 0
    assert largest_region(values, 0.5) == pytest.approx(2 / 20)


# --- classes, borders and insides ----------------------------------------------------------------


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


def test_a_rare_class_is_heard_where_the_mean_hides_it_and_what_is_absent_scores_0() -> None:
    label = np.zeros((100, 200), np.uint8)
    label[40:50, 60:70] = 2  # 100 of 20 000 pixels, and unsure
    values = np.where(label == 2, np.float32(0.8), np.float32(0.1))
    scores = Parts.of(label, 4).scores(values)
    assert values.mean() == pytest.approx(0.1035, abs=1e-4)
    assert (scores['class_mean'], scores['foreground']) == pytest.approx((0.45, 0.8))
    assert [scores[str(index)] for index in range(4)] == pytest.approx([0.1, 0, 0.8, 0])
    assert Parts.of(label, 4).num_foreground() == 100
    alone = Parts.of(np.zeros_like(label), 3).scores(values)
    assert alone['foreground'] == alone['1'] == alone['2'] == 0 < alone['interior']


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
        'foreground': mean(kept & (label > 0)), 'interior': mean(kept & ~border),
        'class_mean': np.mean([mean(kept & (label == c)) for c in there]),
        **{str(c): mean(kept & (label == c)) for c in range(num_classes)},
    }, abs=1e-9)


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_raising_any_pixel_lowers_nothing(values: Values, data: st.DataObject) -> None:
    more = values + data.draw(hnp.arrays(np.float32, values.shape,
                                         elements=st.sampled_from([0.0, 0.3])))
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    label = data.draw(hnp.arrays(np.uint8, values.shape, elements=st.integers(0, 3)))
    for mask in (None, ignore):
        if mask is not None and mask.all():
            continue
        assert worst(more, 0.3, mask) >= worst(values, 0.3, mask) - 1e-5
        assert largest_region(more, 0.25, mask) >= largest_region(values, 0.25, mask)
        low, high = (Parts.of(label, 4, mask).scores(v) for v in (values, more))
        assert all(high[name] >= low[name] - 1e-9 for name in low)


def test_what_does_not_fit_is_refused() -> None:
    wrong, label = np.zeros((4, 5), np.bool_), np.full((5, 4), 3, np.uint8)
    values = np.zeros((5, 4), np.float32)
    for call in (lambda: kept_values(values, wrong), lambda: worst(values, 0.5, wrong),
                 lambda: largest_region(values, 0.5, wrong), lambda: Parts.of(label, 4, wrong)):
        with pytest.raises(ShapeError, match='ignore mask'):
            call()
    with pytest.raises(ShapeError, match='class id 3'):
        Parts.of(label, 3)
