# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is chosen on some folds and reported on the others is not flattered by the choice."""

from __future__ import annotations

import numpy as np
import pytest

from uncertainty_seg.calibration.statistics.metrics import auroc, Ranking
from uncertainty_seg.calibration.statistics.picking import (
    folds_of,
    pick,
    picked_column,
    picked_histograms,
)
from uncertainty_seg.errors import DatasetError


def test_folds_keep_blocks_whole_and_are_nearly_equal() -> None:
    blocks = np.repeat(np.arange(23), 3)
    folds = folds_of(blocks, 5, 1)
    assert all(len(set(folds[blocks == block])) == 1 for block in range(23))
    assert sorted(np.bincount(folds[::3])) == [4, 4, 5, 5, 5]
    assert (folds == folds_of(blocks, 5, 1)).all()
    assert (folds != folds_of(blocks, 5, 2)).any()


def test_fewer_blocks_than_folds_are_one_sentence() -> None:
    with pytest.raises(DatasetError, match='4 blocks of frames for 5 folds'):
        folds_of(np.arange(4), 5, 0)
    with pytest.raises(DatasetError, match='at least 2 folds'):
        folds_of(np.arange(4), 1, 0)


def test_the_best_of_many_scores_of_noise_is_not_better_than_noise() -> None:
    flattered, honest = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        bad = rng.uniform(size=80) < 0.3
        scores = {f's{i}': rng.uniform(size=80) for i in range(100)}

        def merit(name: str, rows: np.ndarray, bad=bad, scores=scores) -> float:
            values = scores[name]
            return auroc(values[rows & bad], values[rows & ~bad])

        folds = folds_of(np.arange(80), 5, seed)
        flattered.append(max(merit(name, np.ones(80, bool)) for name in scores))
        values = picked_column(scores, pick(tuple(scores), merit, folds), folds)
        honest.append(auroc(values[bad], values[~bad]))
    assert np.mean(flattered) > 0.62
    assert np.mean(honest) < 0.53


def test_one_choice_leaves_the_values_as_they_are_and_two_become_ranks() -> None:
    folds = np.array([0, 0, 0, 1, 1, 1])
    columns = {'a': np.array([1.0, 2, 3, 4, 5, 6]), 'b': np.array([60.0, 10, 20, 30, 40, 50])}
    assert picked_column(columns, ('a', 'a'), folds) is columns['a']
    values = picked_column(columns, ('a', 'b'), folds)
    # Fold 0 by a, all below those of fold 1; fold 1 by b among 60, 10, 20.
    assert (values[:3] < 1 / 6 + 1e-9).all() and (np.diff(values[:3]) > 0).all()
    assert (values[3:] > 0.5).all() and (np.diff(values[3:]) > 0).all()
    assert values[5] < 5 / 6
    unknown = {**columns, 'b': np.array([1.0, 2, 3, np.nan, 2, 9])}
    assert picked_column(unknown, ('a', 'b'), folds)[3] == np.inf


def test_the_choice_sees_the_other_folds_only_and_nan_is_the_least() -> None:
    folds = np.array([0, 1, 2])
    seen = []

    def merit(name: str, rows: np.ndarray) -> float:
        seen.append(rows.tolist())
        return {'a': 1.0, 'b': np.nan, 'c': 2.0 - rows[0]}[name]

    assert pick(('b', 'a', 'c'), merit, folds) == ('c', 'a', 'a')
    assert seen[0] == [False, True, True]


def test_pixels_of_two_maps_on_other_scales_are_ranked_alike() -> None:
    rng = np.random.default_rng(0)
    low, high = np.zeros((20, 101), int), np.zeros((20, 101), int)
    for frame in range(20):
        low[frame, :20] = rng.multinomial(500, np.linspace(2, 0, 20) / 20)
        high[frame, :20] = rng.multinomial(500, np.linspace(0, 2, 20) / 20)
    stretched = tuple(np.repeat(part[:, :20], 5, 1)[:, :101] // 5 for part in (high, low))
    maps = {'narrow': (high, low), 'wide': stretched}
    folds = np.arange(20) % 2
    alone = Ranking(high.sum(0), low.sum(0)).auroc()
    mixed = picked_histograms(maps, ('narrow', 'wide'), folds)
    assert Ranking(*(part.sum(0) for part in mixed)).auroc() == pytest.approx(alone, abs=0.03)
    assert mixed[0][folds == 0].sum() == high[folds == 0].sum()
    assert picked_histograms(maps, ('wide', 'wide'), folds) is stretched


def test_beyond_the_other_folds_the_order_is_kept() -> None:
    folds = np.array([0, 0, 0, 1, 1, 1])
    columns = {'a': np.array([1, 2, 3, 7, 8, 9]) / 100, 'b': np.array([1, 2, 3, 9, 8, 7]) / 100}
    values = picked_column(columns, ('a', 'b'), folds)
    # Fold 1 lies above all of fold 0 by b, which no rank below 1 may say.
    assert (values[:3] < 1 / 6).all() and (values[3:] > 1).all()
    assert values.argsort().tolist() == [0, 1, 2, 5, 4, 3]


def test_bins_of_a_map_become_shares_of_the_other_folds_alone() -> None:
    ones = np.ones((2, 4), int)
    # Of fold 1 all pixels of the map b are in its last bin; those of fold 0 in its first.
    b = np.array([[8, 0, 0, 0], [0, 0, 0, 8]])
    yes, _ = picked_histograms({'a': (ones, ones), 'b': (b, b)}, ('a', 'b'), np.array([0, 1]))
    assert yes[1].tolist() == [0, 0, 0, 8]
    yes, _ = picked_histograms({'a': (ones, ones), 'b': (b, b)}, ('b', 'a'), np.array([0, 1]))
    # None of fold 1's pixels is below: the rank is 0, and not the quarter that its own make it.
    assert yes[0].tolist() == [8, 0, 0, 0]
