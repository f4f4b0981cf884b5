# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Each strategy against its definition: exact chances, brute force, proved bounds."""

from __future__ import annotations

from itertools import combinations, permutations
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.data.selection.pool import Candidates, SelectionRequest
from uncertainty_seg.data.selection.strategies import Nearest, select
from uncertainty_seg.errors import ConfigError

Floats = NDArray[np.float32]


def frames(scores: object, features: Floats | None = None, shares: object = None,
           class_names: tuple[str, ...] = (), first: int = 0) -> Candidates:
    values = np.asarray(scores, np.float64)
    keys = np.array([str(first + k) for k in range(len(values))], object)
    return Candidates(keys, np.array(['dive'] * len(values), object), values, None, features,
                      None if shares is None else np.asarray(shares, float), None, class_names)


def choose(strategy: str, pool: Candidates, count: int, labelled: Candidates | None = None,
           **more: object) -> list[int]:
    asked = SelectionRequest(strategy, count, **more)  # type: ignore[arg-type]
    return select(pool, asked, labelled).rows.tolist()


def test_threshold_takes_what_is_above_the_most_uncertain_first() -> None:
    pool = frames([0.2, 1.5, 1.0, 3.0, 1.1])
    assert choose('threshold', pool, 5, limit=1.0) == [3, 1, 4]
    assert choose('threshold', pool, 2, limit=1.0) == [3, 1]
    assert choose('threshold', pool, 5, limit=3.0) == []
    assert select(pool, SelectionRequest('threshold', 2, limit=1.0)).num_over_limit == 3


def test_top_k_takes_the_largest() -> None:
    assert choose('top-k', frames([0.2, 1.5, -1.0, 3.0]), 3) == [3, 1, 0]


def inclusion(weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Chance of each to be among the first drawn one by one, by going through all draws."""
    chances = np.zeros(len(weights))
    for drawn in permutations(range(len(weights)), count):
        left, chance = weights.sum(), 1.0
        for row in drawn:
            chance *= weights[row] / left
            left -= weights[row]
        chances[list(drawn)] += chance
    return chances


@pytest.mark.parametrize('beta', [0.0, 1.0, 3.0])
def test_power_bald_draws_with_its_exact_probabilities(beta: float) -> None:
    scores, draws, count = np.array([0.1, 0.5, 1.0, 0.7, 0.3]), 4000, 2
    hits = np.zeros(len(scores))
    for seed in range(draws):
        hits[choose('power-bald', frames(scores), count, beta=beta, seed=seed)] += 1
    want = inclusion(scores**beta, count)
    # Four standard deviations of a share: passed once in three thousand by all five together.
    assert np.abs(hits / draws - want).max() < 4 * math.sqrt(0.25 / draws)
    assert np.abs(hits / draws - want).max() < 4 * np.sqrt(want * (1 - want) / draws).max() + 1e-9


def test_a_reason_names_the_weight() -> None:
    for beta, weight in ((1.0, 'weight score;'), (0.5, 'weight score^0.5;')):
        found = select(frames([1, 2]), SelectionRequest('power-bald', 1, beta=beta))
        assert weight in found.reasons[0]


def test_power_bald_draws_a_score_of_0_last_and_refuses_one_below() -> None:
    pool = frames([0, 1e-9, 0, 2e-9])
    for seed in range(20):
        assert set(choose('power-bald', pool, 2, seed=seed)) == {1, 3}
    with pytest.raises(ConfigError, match='score_ratio goes down to -0.5, expected scores from 0'):
        choose('power-bald', frames([1, -0.5]), 1)


def greedy(points: Floats, weights: NDArray[np.float64], start: int, count: int) -> list[int]:
    """Farthest first with every distance computed anew."""
    chosen = [start]
    while len(chosen) < count:
        gaps = [-1.0 if row in chosen else weights[row] * min(
            float(np.linalg.norm(points[row].astype(float) - points[k])) for k in chosen)
            for row in range(len(points))]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def radius(points: Floats, weights: NDArray[np.float64], centres: tuple[int, ...]) -> float:
    gaps = np.linalg.norm(points[:, None].astype(float) - points[list(centres)], axis=2)
    return float((weights * gaps.min(1)).max())


def clusters(seed: int, count: int, num_dims: int) -> Floats:
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, 5, (4, num_dims))
    return (middles[rng.integers(0, 4, count)] + rng.normal(size=(count, num_dims))
            ).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 40), num_dims=st.integers(1, 8))
def test_k_centre_is_the_greedy_of_the_definition(seed: int, count: int, num_dims: int) -> None:
    points = clusters(seed, count, num_dims)
    scores = np.random.default_rng(seed).random(count)
    found = choose('k-centre', frames(scores, points), min(count, 12), seed=seed)
    assert found == greedy(points, np.ones(count), int(scores.argmax()), min(count, 12))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.sampled_from([0.5, 1.0, 2.0]))
def test_uncertainty_diversity_is_the_greedy_of_the_definition(seed: int, beta: float) -> None:
    points, scores = clusters(seed, 30, 3), np.random.default_rng(seed).gamma(2, 1, 30)
    found = choose('uncertainty-diversity', frames(scores, points), 10, beta=beta)
    assert found == greedy(points, scores**beta, int(scores.argmax()), 10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), num_centres=st.integers(1, 4))
def test_k_centre_is_within_twice_the_optimum(seed: int, num_centres: int) -> None:
    points, ones = clusters(seed, 11, 2), np.ones(11)
    found = choose('k-centre', frames(np.random.default_rng(seed).random(11), points), num_centres)
    best = min(radius(points, ones, some) for some in combinations(range(11), num_centres))
    assert radius(points, ones, tuple(found)) <= 2 * best * (1 + 1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), num_centres=st.integers(1, 4))
def test_uncertainty_diversity_is_within_the_bound_of_its_source(
    seed: int, num_centres: int
) -> None:
    points, weights = clusters(seed, 11, 2), np.random.default_rng(seed).uniform(0.5, 2, 11)
    found = choose('uncertainty-diversity', frames(weights, points), num_centres)
    best = min(radius(points, weights, some) for some in combinations(range(11), num_centres))
    bound = min(3, 1 + weights.max() / weights.min())
    assert radius(points, weights, tuple(found)) <= bound * best * (1 + 1e-5)


def test_beta_0_makes_uncertainty_diversity_k_centre() -> None:
    pool = frames(np.random.default_rng(5).random(50), clusters(5, 50, 4))
    assert choose('uncertainty-diversity', pool, 20, beta=0.0) == choose('k-centre', pool, 20)


def test_k_centre_goes_on_from_what_is_labelled() -> None:
    points = np.array([[0], [10], [4], [9]], np.float32)
    labelled = frames([1], np.array([[0]], np.float32), first=100)
    assert choose('k-centre', frames([9, 0, 0, 0], points), 3, labelled) == [1, 2, 3]
    assert choose('k-centre', frames([9, 0, 0, 0], points), 3) == [0, 1, 2]


def test_equal_frames_fill_up_and_each_is_taken_once() -> None:
    pool = frames(np.zeros(6), np.zeros((6, 3), np.float32))
    for strategy in ('k-centre', 'uncertainty-diversity'):
        assert sorted(choose(strategy, pool, 6)) == list(range(6))


def test_distances_to_centres_are_those_of_all_pairs() -> None:
    # More rows than a block, more centres than there is room for at first.
    points = clusters(7, 9000, 5)
    nearest = Nearest(points)
    for row in range(0, 9000, 450):
        nearest.add(points[row])
    apart = points[:, None].astype(float) - points[::450]
    assert nearest.squared == pytest.approx(np.square(apart).sum(2).min(1), rel=1e-4, abs=1e-8)


def test_class_balanced_fills_the_class_with_least() -> None:
    names = ('water', 'reef', 'robot')
    shares = [[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.5, 0], [0.2, 0, 0.8], [0.9, 0, 0.1]]
    pool = frames([5, 4, 3, 2, 1], shares=shares, class_names=names)
    found = select(pool, SelectionRequest('class-balanced', 5))
    # Rarest first: reef (0.6 in all), row 2; robot, row 3; then reef (0.5 < 0.7, 0.8), row 1;
    # then reef (0.6) has no frame left, robot and water are even at 0.8 and 1.6: robot, row 4.
    assert found.rows.tolist() == [2, 3, 1, 4, 0]
    assert found.reasons[0].startswith(
        'class-balanced: 50 % reef, the class with least so far; score_ratio 3')
    # Of two with the same share the more uncertain comes first.
    even = frames([1, 3, 2, 4], shares=[[1, 0.5, 0]] * 4, class_names=names)
    assert choose('class-balanced', even, 4) == [3, 1, 2, 0]


def test_class_balanced_counts_what_is_labelled() -> None:
    shares = [[1, 0], [0, 1], [0, 1], [1, 0]]
    pool = frames([4, 3, 2, 1], shares=shares, class_names=('a', 'b'))
    labelled = frames([0, 0], shares=[[0, 1], [0, 1]], class_names=('a', 'b'), first=100)
    assert choose('class-balanced', pool, 3, labelled) == [0, 3, 1]


def test_class_balanced_takes_frames_without_any_class_last() -> None:
    pool = frames([1, 9, 8], shares=[[0.5], [0], [np.nan]], class_names=('a',))
    found = select(pool, SelectionRequest('class-balanced', 3))
    assert found.rows.tolist() == [0, 1, 2]
    assert 'no class left to fill' in found.reasons[1]


def test_class_balanced_evens_out_a_pool_that_is_not() -> None:
    rng = np.random.default_rng(8)
    shares = np.eye(4)[rng.choice(4, 2000, p=[0.9, 0.05, 0.04, 0.01])]
    pool = frames(rng.random(2000), shares=shares, class_names=('a', 'b', 'c', 'd'))
    assert shares[choose('class-balanced', pool, 40)].sum(0).tolist() == [10] * 4
