# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Scores: what each sees, known answers, and that NaN is never lost."""

import numpy as np
import pytest

from uncertainty_seg.core.aggregate import (
    frame_scores,
    mean_score,
    score_names,
    top_score,
    worst_window_score,
)
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.core.uncertainty import maps_from_probabilities
from uncertainty_seg.errors import ShapeError


def small_region(value: float = 0.9) -> np.ndarray:
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
def test_more_uncertainty_never_lowers_a_score(score: object) -> None:
    rng = np.random.default_rng(2)
    values = rng.random((40, 40)).astype(np.float32)
    more = values + rng.random((40, 40)).astype(np.float32) * 0.1
    assert score(more) >= score(values)


@pytest.mark.parametrize('at', [(0, 0), (20, 20), (39, 39)])
@pytest.mark.parametrize('score', [mean_score, top_score, worst_window_score])
def test_one_nan_makes_every_score_nan(score: object, at: tuple[int, int]) -> None:
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
