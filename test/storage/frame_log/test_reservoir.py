# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The reservoir: exact distribution, equality with a batch, restarts, and cost."""

from collections import Counter, defaultdict
from itertools import combinations, permutations
import math
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.storage.frame_log.store import (
    Capacity,
    gumbel_key,
    Reservoir,
    stable_uniforms,
)

# Degrees of freedom -> 99.9 % quantile of the chi-square distribution.
CHI_SQUARE_999 = {5: 20.52, 9: 27.88, 63: 103.4}
Items = list[tuple[str, float, int]]


def set_chances(weights: list[float], num: int) -> dict[frozenset[int], float]:
    """Return the probability of each sample of sequential weighted draws without replacement."""
    chances: dict[frozenset[int], float] = defaultdict(float)
    for order in permutations(range(len(weights)), num):
        chance, left = 1.0, sum(weights)
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        chances[frozenset(order)] += chance
    return chances


def kept(reservoir: Reservoir, items: Items) -> set[str]:
    held: set[str] = set()
    for name, key, size in items:
        is_kept, gone = reservoir.offer(name, key, size)
        held = (held | {name} if is_kept else held) - set(gone)
        assert all((one in reservoir) == (one in held) for one in (name, *gone))
    assert len(reservoir) == len(held)
    return held


def batch(items: Items, capacity: Capacity) -> set[str]:
    """Return the names with the largest keys, up to the first that does not fit."""
    held: set[str] = set()
    num_bytes = 0
    for name, _, size in sorted(items, key=lambda item: -item[1]):
        num_bytes += size
        if num_bytes > capacity.num_bytes or len(held) == capacity.num_items:
            break
        held.add(name)
    return held


@pytest.mark.parametrize(('weights', 'num'), [
    ([1.0, 2.0, 3.0, 4.0, 10.0], 2), ([0.1, 1.0, 1.0, 5.0, 5.0], 3), ([1.0, 1.0, 1.0, 1.0], 2),
])
def test_the_sample_has_its_exact_distribution(weights: list[float], num: int) -> None:
    chances = set_chances(weights, num)
    assert sum(chances.values()) == pytest.approx(1.0)
    rng = np.random.default_rng(5)
    rounds, seen = 8000, Counter[frozenset[int]]()
    for _ in range(rounds):
        reservoir = Reservoir(Capacity(10**9, num))
        items = [(str(k), gumbel_key(math.log(w), rng.random()), 1)
                 for k, w in enumerate(weights)]
        seen[frozenset(int(name) for name in kept(reservoir, items))] += 1
    sets = [frozenset(c) for c in combinations(range(len(weights)), num)]
    statistic = sum((seen[s] - rounds * chances[s]) ** 2 / (rounds * chances[s]) for s in sets)
    assert statistic < CHI_SQUARE_999[len(sets) - 1]


key_lists = st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=1, max_size=30,
                     unique_by=lambda pair: pair[0])


def named(pairs: list[tuple[float, int]]) -> Items:
    return [(str(k), key, size) for k, (key, size) in enumerate(pairs)]


@hypothesis.given(key_lists, st.integers(9, 60), st.integers(1, 12), st.randoms())
def test_one_pass_is_the_batch_in_any_order(
    pairs: list[tuple[float, int]], num_bytes: int, num_items: int, random: Any
) -> None:
    items, capacity = named(pairs), Capacity(num_bytes, num_items)
    expected = batch(items, capacity)
    random.shuffle(items)
    reservoir = Reservoir(capacity)
    assert kept(reservoir, items) == expected
    assert reservoir.num_bytes == sum(size for name, _, size in items if name in expected)
    if len(expected) < len(items):
        highest_gone = max(key for name, key, _ in items if name not in expected)
        assert reservoir.bar == highest_gone or not reservoir.would_outlast(highest_gone)


@hypothesis.given(key_lists, st.integers(9, 60), st.integers(0, 30))
def test_a_restart_changes_nothing(
    pairs: list[tuple[float, int]], num_bytes: int, stop: int
) -> None:
    items, capacity = named(pairs), Capacity(num_bytes, 1000)
    first = Reservoir(capacity)
    held = kept(first, items[:stop])
    second = Reservoir(capacity, first.bar)
    for name, key, size in items[:stop]:
        if name in held:
            second.restore(name, key, size)
    for item in items[stop:]:
        second.offer(*item)
    assert {name for name, _, _ in items if name in second} == batch(items, capacity)


def test_the_bar_gives_an_unbiased_estimate() -> None:
    rng = np.random.default_rng(11)
    weights = rng.uniform(0.2, 5.0, 40)
    estimates = []
    for _ in range(1500):
        reservoir = Reservoir(Capacity(10**9, 8))
        held = kept(reservoir, [(str(k), gumbel_key(math.log(w), rng.random()), 1)
                                for k, w in enumerate(weights)])
        chances = [1 - math.exp(-weights[int(name)] * math.exp(-reservoir.bar)) for name in held]
        estimates.append(sum(1 / chance for chance in chances))
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - 40) < 3.5 * error


def test_the_luck_of_a_frame_is_its_own_and_even() -> None:
    draws = np.array([stable_uniforms('dive', 3, 'camera', k) for k in range(20000)])
    assert stable_uniforms('dive', 3, 'camera', 17) == tuple(draws[17])
    assert stable_uniforms('dive', 4, 'camera', 17) != tuple(draws[17])
    assert 0 < draws.min() and draws.max() < 1
    cells = (draws * 8).astype(int)
    counts = np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)
    # 8x8 cells: both are uniform and independent of each other.
    assert ((counts - 312.5) ** 2 / 312.5).sum() < CHI_SQUARE_999[63]
