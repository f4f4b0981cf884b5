# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Scores: what each sees, known answers, and that NaN is never lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.aggregate import (
    area_above_score,
    foreground_top_score,
    frame_scores,
    max_score,
    mean_score,
    quantile_score,
    score_names,
    sum_score,
    top_score,
    top_values,
    worst_window_score,
)
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.core.uncertainty import maps_from_probabilities
from uncertainty_seg.errors import ShapeError

Values: TypeAlias = NDArray[np.float32]
Score: TypeAlias = Callable[..., float]


def small_region(value: float = 0.9) -> Values:
    values = np.full((100, 200), 0.01, np.float32)
    values[40:50, 60:70] = value
    return values


def test_a_constant_map_has_that_score_everywhere() -> None:
    values = np.full((30, 40), 0.25, np.float32)
    for score in (mean_score, top_score, worst_window_score):
        assert score(values) == pytest.approx(0.25, rel=1e-6)


def test_the_mean_hides_a_small_region_that_the_window_sees() -> None:
    values = small_region()
    assert mean_score(values) == pytest.approx(0.01 + 0.005 * 0.89, rel=1e-4)
    assert worst_window_score(values, 0.1) == pytest.approx(0.9, rel=1e-5)
    assert top_score(values, 0.005) == pytest.approx(0.9, rel=1e-5)


def test_the_worst_window_equals_a_plain_search() -> None:
    values = np.random.default_rng(0).random((23, 31)).astype(np.float32)
    side = round(0.3 * 23)
    plain = max(
        values[y:y + side, x:x + side].mean()
        for y in range(23 - side + 1) for x in range(31 - side + 1))
    assert worst_window_score(values, 0.3) == pytest.approx(plain, rel=1e-6)


def test_the_top_share_equals_sorting() -> None:
    values = np.random.default_rng(1).random((20, 50)).astype(np.float32)
    assert top_score(values, 0.05) == pytest.approx(np.sort(values.ravel())[-50:].mean())


@pytest.mark.parametrize('score', [mean_score, top_score, worst_window_score])
def test_more_uncertainty_never_lowers_a_score(score: Score) -> None:
    rng = np.random.default_rng(2)
    values = rng.random((40, 40)).astype(np.float32)
    more = values + rng.random((40, 40)).astype(np.float32) * 0.1
    assert score(more) >= score(values)


@pytest.mark.parametrize('at', [(0, 0), (20, 20), (39, 39)])
@pytest.mark.parametrize('score', [mean_score, top_score, worst_window_score])
def test_one_nan_makes_every_score_nan(score: Score, at: tuple[int, int]) -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[at] = np.nan
    assert np.isnan(score(values))


def test_frame_scores_carry_exactly_the_names_that_settings_accept() -> None:
    probs = np.random.default_rng(3).dirichlet(np.ones(3), (4, 6, 8)).transpose(0, 3, 1, 2)
    scores = frame_scores(maps_from_probabilities(probs))
    assert tuple(scores) == score_names()
    settings_from_dict({'gate.scores': list(scores)})


def test_maps_without_pixels_are_refused() -> None:
    probs = np.random.default_rng(3).dirichlet(np.ones(3), (4, 6, 8)).transpose(0, 3, 1, 2)
    with pytest.raises(ShapeError, match='without a pixel'):
        frame_scores(maps_from_probabilities(probs).cut(slice(0, 0), slice(0, 8)))


MAPS = hnp.arrays(np.float32, st.tuples(st.integers(2, 14), st.integers(2, 14)),
                  elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
PLAIN = {
    mean_score: lambda kept: kept.mean(),
    max_score: lambda kept: kept.max(),
    quantile_score: lambda kept: np.sort(kept)[-max(1, round(0.05 * len(kept)))],
    top_score: lambda kept: np.sort(kept)[-max(1, round(0.05 * len(kept))):].mean(),
    lambda v, ignore=None: foreground_top_score(v, 0.3, ignore):
        lambda kept: np.sort(kept)[len(kept) - round(0.3 * len(kept)):].mean()
        if round(0.3 * len(kept)) else 0.0,
    lambda v, ignore=None: area_above_score(v, 0.25, ignore): lambda kept: (kept > 0.25).mean(),
}
NAMES = ('mean', 'max', 'quantile', 'top', 'foreground_top', 'area_above')


@pytest.mark.parametrize(('score', 'plain'), PLAIN.items(), ids=NAMES)
@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_score_under_a_mask_is_the_plain_one_of_what_is_left(
        score: Score, plain: Callable[[Values], float], values: Values,
        data: st.DataObject) -> None:
    ignore = data.draw(hnp.arrays(np.bool_, values.shape))
    kept = values[~ignore].astype(np.float64)
    if not kept.size:
        assert np.isnan(score(values, ignore=ignore))
        return
    hidden = np.where(ignore, np.float32(np.nan), values)
    assert score(hidden, ignore=ignore) == pytest.approx(plain(kept), abs=1e-7)
    assert score(values) == pytest.approx(plain(values.ravel().astype(np.float64)), abs=1e-7)


@pytest.mark.parametrize('score', PLAIN, ids=NAMES)
@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=40, deadline=None)
def test_raising_any_pixel_never_lowers_a_score(
        score: Score, values: Values, data: st.DataObject) -> None:
    more = data.draw(hnp.arrays(np.float32, values.shape, elements=st.sampled_from([0.0, 0.3])))
    assert score(values + more) >= score(values) - 1e-7


def test_the_sum_is_a_share_of_the_whole_frame() -> None:
    values = np.full((10, 10), 0.5, np.float32)
    ignore = np.zeros((10, 10), np.bool_)
    ignore[:, :4] = True
    assert sum_score(values) == pytest.approx(0.5)
    assert sum_score(values, ignore) == pytest.approx(0.3)
    assert mean_score(values, ignore) == pytest.approx(0.5)


@pytest.mark.parametrize('num', [10, 50, 90, 250])
def test_the_quantile_is_the_least_of_the_top_where_halves_are_rounded(num: int) -> None:
    values = np.random.default_rng(num).permutation(num).astype(np.float32)[None] / np.float32(num)
    count = round(0.05 * num)
    assert quantile_score(values) == np.float32((num - max(count, 1)) / num)
    assert top_score(values) == pytest.approx(np.sort(values[0])[-max(count, 1):].mean())


def test_the_limit_itself_is_not_above_it() -> None:
    values = np.array([[0.1, 0.25, 0.25, 0.9]], np.float32)
    assert area_above_score(values, 0.25) == 0.25


@pytest.mark.parametrize('counts', [[1], [5, 1], [3, 3, 10], [1, 10, 4]])
def test_several_counts_are_found_at_once_in_the_order_asked(counts: list[int]) -> None:
    flat = np.array([0.3, 0.9, 0.1, 0.1, 0.7, 0.2, 0.9, 0.0, 0.5, 0.4], np.float32)
    ordered = np.sort(flat)[::-1].astype(np.float64)
    for (mean, smallest), count in zip(top_values(flat, counts), counts, strict=True):
        assert mean == pytest.approx(ordered[:count].mean())
        assert smallest == ordered[count - 1]
    assert flat[0] == np.float32(0.3), 'the map itself was put in order'


def unlike_its_sample(order: bool) -> np.ndarray:
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
    flat = LINES[name]
    ordered = np.sort(flat)[::-1].astype(np.float64)
    counts = [1, 7, 1000, 1250, 1251, 10_000, 18_750, 19_999, 20_000]
    for (mean, smallest), count in zip(top_values(flat, counts), counts, strict=True):
        assert mean == pytest.approx(ordered[:count].mean(), rel=1e-12)
        assert smallest == ordered[count - 1]


@pytest.mark.parametrize('score', [*PLAIN, sum_score], ids=[*NAMES, 'sum'])
def test_a_mask_of_another_size_is_refused(score: Score) -> None:
    with pytest.raises(ShapeError, match=r'ignore mask has shape \(4, 5\)'):
        score(np.zeros((5, 4), np.float32), ignore=np.zeros((4, 5), np.bool_))


@pytest.mark.parametrize('score', [*PLAIN, sum_score], ids=[*NAMES, 'sum'])
def test_a_nan_that_counts_is_never_lost(score: Score) -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[7, 9] = np.nan
    assert np.isnan(score(values))
