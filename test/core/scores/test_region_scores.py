# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Windows, regions and borders: by hand, against plain loops and scipy, and under masks."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.aggregate import (
    boundary_mask,
    largest_region_score,
    worst_window_score,
)
from uncertainty_seg.errors import ShapeError

SIZES = st.tuples(st.integers(4, 16), st.integers(4, 16))
MAPS = hnp.arrays(np.float32, SIZES, elements=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
LABELS = hnp.arrays(np.uint8, SIZES, elements=st.integers(0, 3))


def plain_worst(values: NDArray[np.float32], side: int, ignore: NDArray[np.bool_]) -> float:
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
def test_the_worst_window_under_a_mask_equals_a_plain_search(
        values: NDArray[np.float32], data: st.DataObject) -> None:
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    share = data.draw(st.sampled_from([0.1, 0.3, 0.5]))
    side = max(1, round(share * min(values.shape)))
    hidden = np.where(ignore, np.float32(np.nan), values)
    assert worst_window_score(hidden, share, ignore) == pytest.approx(
        plain_worst(values, side, ignore), abs=1e-5, nan_ok=True)


def test_a_mask_that_leaves_nothing_out_changes_nothing() -> None:
    values = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    none = np.zeros((50, 60), np.bool_)
    assert worst_window_score(values, ignore=none) == pytest.approx(worst_window_score(values))
    assert largest_region_score(values, 0.6, none) == largest_region_score(values, 0.6)


def test_a_sliver_beside_a_mask_is_no_window() -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[:, 18:20] = 0.9
    ignore = np.zeros((40, 40), np.bool_)
    ignore[:, 20:] = True
    # Side 10: two columns of ten would be a window of them alone; five are the least.
    assert worst_window_score(values, 0.25, ignore) == pytest.approx((2 * 0.9 + 3 * 0.1) / 5)


@pytest.mark.parametrize('at', [(0, 0), (20, 20), (39, 25)])
def test_a_nan_that_counts_makes_the_worst_window_nan_under_a_mask(at: tuple[int, int]) -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[at] = np.nan
    ignore = np.zeros((40, 40), np.bool_)
    ignore[:, 30:] = True
    assert np.isnan(worst_window_score(values, ignore=ignore))
    assert np.isnan(largest_region_score(values, 0.5, ignore))


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_the_largest_region_is_that_of_scipy(
        values: NDArray[np.float32], data: st.DataObject) -> None:
    ndimage = pytest.importorskip('scipy.ndimage', reason='scipy is not installed')
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    region, num = ndimage.label((values > 0.25) & ~ignore, np.ones((3, 3)))
    largest = max((int((region == index + 1).sum()) for index in range(num)), default=0)
    kept = int((~ignore).sum())
    expected = largest / kept if kept else float('nan')
    hidden = np.where(ignore, np.float32(np.nan), values)
    assert largest_region_score(hidden, 0.25, ignore) == pytest.approx(expected, nan_ok=True)


def test_corners_connect_and_the_limit_is_not_above_itself() -> None:
    values = np.zeros((4, 5), np.float32)
    values[0, 0] = values[1, 1] = values[2, 2] = 0.9
    values[0, 4] = values[1, 4] = 0.9
    assert largest_region_score(values, 0.5) == pytest.approx(3 / 20)
    assert largest_region_score(values, 0.9) == 0
    values[1, 1] = 0
    assert largest_region_score(values, 0.5) == pytest.approx(2 / 20)


@pytest.mark.parametrize('score', [worst_window_score, largest_region_score])
def test_a_mask_of_another_size_is_refused(score: object) -> None:
    assert callable(score)
    with pytest.raises(ShapeError, match='ignore mask has shape'):
        score(np.zeros((8, 9), np.float32), 0.5, ignore=np.zeros((9, 8), np.bool_))


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_raising_any_pixel_never_lowers_a_score(
        values: NDArray[np.float32], data: st.DataObject) -> None:
    more = data.draw(hnp.arrays(np.float32, values.shape, elements=st.sampled_from([0.0, 0.3])))
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    for mask in (None, ignore):
        if mask is not None and mask.all():
            continue
        assert worst_window_score(values + more, 0.3, mask) >= \
            worst_window_score(values, 0.3, mask) - 1e-5
        assert largest_region_score(values + more, 0.25, mask) >= \
            largest_region_score(values, 0.25, mask)


def plain_boundary(label: NDArray[np.uint8], width: int, ignore: NDArray[np.bool_]) \
        -> NDArray[np.bool_]:
    found = np.zeros(label.shape, np.bool_)
    for y, x in np.ndindex(*label.shape):
        near = (slice(max(y - width, 0), y + width + 1), slice(max(x - width, 0), x + width + 1))
        found[y, x] = len(set(label[near][~ignore[near]].tolist())) > 1
    return found


@hypothesis.given(LABELS, st.integers(1, 3), st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_borders_equal_a_plain_search_and_ignored_classes_make_none(
        label: NDArray[np.uint8], width: int, data: st.DataObject) -> None:
    ignore = data.draw(hnp.arrays(np.bool_, label.shape))
    none = np.zeros(label.shape, np.bool_)
    np.testing.assert_array_equal(boundary_mask(label, width), plain_boundary(label, width, none))
    found = boundary_mask(label, width, ignore)
    np.testing.assert_array_equal(found[~ignore], plain_boundary(label, width, ignore)[~ignore])
