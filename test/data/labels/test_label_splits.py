# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Splits by whole dives, against every choice there is."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from uncertainty_seg.data.labels.training import split_by_dive


def dives_of(sizes: list[int]) -> dict[str, str]:
    return {f'{dive:02d}_{i}': f'dive {dive}' for dive, size in enumerate(sizes)
            for i in range(size)}


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=7),
       share=st.sampled_from([0.1, 0.2, 0.25, 0.4]), seed=st.integers(0, 99))
def test_no_choice_of_dives_is_nearer(sizes: list[int], share: float, seed: int) -> None:
    dive_of = dives_of(sizes)
    splits = split_by_dive(dive_of, {'train': 1 - share, 'val': share}, seed)
    assert sorted(splits['train'] + splits['val']) == sorted(dive_of)
    assert not {dive_of[s] for s in splits['train']} & {dive_of[s] for s in splits['val']}
    target = share * sum(sizes)
    best = min(abs(sum(chosen) - target) for count in range(1, len(sizes))
               for chosen in combinations(sizes, count))
    assert abs(len(splits['val']) - target) == best


def test_a_seed_repeats_and_others_differ() -> None:
    dive_of = dives_of([10] * 10)
    shares = {'train': 0.8, 'val': 0.2}
    found = [split_by_dive(dive_of, shares, seed) for seed in range(6)]
    assert found[3] == split_by_dive(dict(reversed(dive_of.items())), shares, 3)
    assert all(len(splits['val']) == 20 for splits in found)
    assert len({tuple(splits['val']) for splits in found}) > 1


def test_every_split_gets_a_dive_while_there_are_enough() -> None:
    shares = {'train': 0.7, 'val': 0.2, 'test': 0.1}
    splits = split_by_dive(dives_of([50, 2, 48]), shares, 0)
    assert all(splits.values()) and len(splits['test']) == 2
    assert {name: len(stems) for name, stems in split_by_dive(dives_of([5]), shares, 0).items()} \
        == {'train': 5, 'val': 0, 'test': 0}
