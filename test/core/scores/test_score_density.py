# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The density of scores: known Gaussians and scipy, its range, its file, refused parameters."""

import dataclasses
import json
import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.core.scores.density import ScoreDensity
from uncertainty_seg.errors import CalibrationError


def one_gaussian(mean: float = 0.3, deviation: float = 0.1) -> ScoreDensity:
    """Return a normal distribution of one score."""
    return ScoreDensity(('a',), np.array([mean]), np.array([deviation]), np.ones(1),
                        np.zeros((1, 1)), np.ones((1, 1, 1)))


def two_gaussians(seed: int = 0) -> ScoreDensity:
    """Return a mixture over three scores."""
    rng = np.random.default_rng(seed)
    factors = np.triu(rng.normal(0, 0.3, (2, 3, 3)), 1) + np.stack(
        [np.diag(rng.uniform(0.5, 2, 3)) for _ in range(2)])
    return ScoreDensity(('a', 'b', 'c'), rng.uniform(0, 1, 3), rng.uniform(0.05, 0.3, 3),
                        np.array([0.3, 0.7]), rng.normal(size=(2, 3)), factors)


@pytest.mark.parametrize('deviations', [0.0, 1.0, -2.0, 5.0])
def test_one_gaussian_by_hand(deviations: float) -> None:
    density, scores = one_gaussian(), {'a': 0.3 + 0.1 * deviations, 'unused': math.nan}
    half_square = deviations**2 / 2
    assert density.surprise_nats(scores) == pytest.approx(
        0.5 * math.log(2 * math.pi) + half_square)
    assert density.score(scores) == pytest.approx((half_square / (half_square + 0.5))**8, abs=1e-9)


@pytest.mark.parametrize('seed', range(5))
def test_a_mixture_is_that_of_scipy(seed: int) -> None:
    stats = pytest.importorskip('scipy.stats', reason='scipy is not installed')
    density = two_gaussians(seed)
    values = np.random.default_rng(seed + 10).uniform(0, 1, 3)
    standard = (values - density.centre) / density.scale
    likelihood = sum(
        weight * stats.multivariate_normal.pdf(standard, mean, np.linalg.inv(factor @ factor.T))
        for weight, mean, factor in zip(
            density.weights, density.means, density.factors, strict=True))
    scores = dict(zip('abc', values, strict=True))
    assert density.surprise_nats(scores) == pytest.approx(-math.log(likelihood), rel=1e-9)


@hypothesis.given(st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3))
@hypothesis.settings(max_examples=100, deadline=None)
def test_the_score_stays_in_0_to_1_for_any_finite_scores(values: list[float]) -> None:
    with np.errstate(over='ignore'):
        assert 0 <= two_gaussians().score(dict(zip('abc', values, strict=True))) <= 1


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_makes_it_nan(value: float) -> None:
    assert math.isnan(one_gaussian().score({'a': value}))


def test_a_missing_score_is_named() -> None:
    with pytest.raises(CalibrationError, match="'b'"):
        two_gaussians().score({'a': 0.1, 'c': 0.1})


def test_the_file_gives_back_the_very_numbers() -> None:
    density = two_gaussians()
    again = ScoreDensity.from_facts(json.loads(json.dumps(density.to_facts())))
    assert again.names == density.names
    for field in dataclasses.fields(density)[1:]:
        np.testing.assert_array_equal(getattr(again, field.name), getattr(density, field.name))


@pytest.mark.parametrize('changes', [
    {'scale': [0.0]}, {'scale': [-1.0]}, {'weights': [0.5]}, {'weights': [-1.0]},
    {'factors': [[[0.0]]]}, {'factors': [[1.0]]}, {'means': [[math.inf]]}, {'centre': [0.0, 1.0]},
    {'names': []}, {'names': ['a', 'b']}, {'weights': []},
])
def test_facts_that_give_no_density_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CalibrationError):
        ScoreDensity.from_facts({**one_gaussian().to_facts(), **changes})
