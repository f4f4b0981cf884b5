# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The choice as a whole: what is left out first, what comes first, and that order is nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.data.selection.near_duplicates import bits_apart
from uncertainty_seg.data.selection.pool import (
    Candidates,
    lots,
    percentiles,
    SelectionRequest,
    STRATEGIES,
)
from uncertainty_seg.data.selection.strategies import select
from uncertainty_seg.errors import ConfigError, ShapeError


def pool(count: int, seed: int = 0, num_dives: int = 3, first: int = 0) -> Candidates:
    """Frames with everything, some of them alike, some scores equal."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 1 + count // 3, np.uint64)[np.arange(count) // 3]
    return Candidates(
        keys=np.array([f'bag#/cam#{first + i}' for i in range(count)], object),
        dives=np.array([f'dive {k}' for k in rng.integers(0, num_dives, count)], object),
        scores=rng.integers(0, 12, count) / 4, class_names=('water', 'reef', 'robot'),
        hashes=hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)),
        features=rng.normal(size=(count, 4)).astype(np.float32),
        times_s=rng.integers(0, 20, count) / 4, shares=rng.dirichlet([3, 1, 0.1], count))


def request(strategy: str, count: int, **more: object) -> SelectionRequest:
    return SelectionRequest(strategy, count, **{'limit': 0.9, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize('strategy', STRATEGIES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), wanted=st.integers(1, 20),
       cap=st.one_of(st.none(), st.integers(1, 5)), min_distance=st.sampled_from([0, 1, 4]),
       gap_s=st.sampled_from([0, 0.25, 1.0]))
def test_what_holds_for_every_strategy(
    strategy: str, seed: int, count: int, wanted: int, cap: int | None, min_distance: int,
    gap_s: float,
) -> None:
    frames = pool(count, seed)
    asked = request(strategy, wanted, per_dive=cap, min_distance=min_distance, seed=seed,
                    min_gap_s=gap_s)
    found = select(frames, asked)
    keys = list(frames.keys[found.rows])
    assert len(set(keys)) == len(keys) == len(found.reasons) <= wanted
    assert max(Counter(frames.dives[found.rows]).values(), default=0) <= (cap or wanted)
    assert frames.hashes is not None
    chosen = frames.hashes[found.rows]
    apart = bits_apart(chosen[:, None], chosen)[~np.eye(len(chosen), dtype=bool)]
    assert (apart >= min_distance).all()
    assert frames.times_s is not None
    dives, times_s = frames.dives[found.rows], frames.times_s[found.rows]
    for dive in set(dives):
        assert (np.diff(np.sort(times_s[dives == dive])) >= gap_s).all()
    if cap is None and not gap_s and strategy != 'threshold':
        assert len(keys) == min(wanted, count - found.num_duplicates)
    # Another order of the rows is another order of the numbers, not of the frames.
    order = np.random.default_rng(seed).permutation(count)
    mixed = select(frames.cut(order), asked)
    assert list(frames.keys[order][mixed.rows]) == keys
    assert mixed.reasons == found.reasons
    assert mixed.stands_for.tolist() == found.stands_for.tolist()


@pytest.mark.parametrize('strategy', ['power-bald', 'random'])
def test_the_seed_decides_what_is_drawn(strategy: str) -> None:
    frames = pool(60)
    first = select(frames, request(strategy, 10, seed=1))
    assert first.rows.tolist() == select(frames, request(strategy, 10, seed=1)).rows.tolist()
    assert first.rows.tolist() != select(frames, request(strategy, 10, seed=2)).rows.tolist()


def test_the_lot_of_a_frame_is_its_own() -> None:
    alone, beside = lots(['b'], 3), lots(['a', 'b', 'c'], 3)
    assert alone[0] == beside[1]
    assert lots(['b'], 4)[0] != alone[0]


def test_lots_are_uniform() -> None:
    drawn = np.sort(lots((str(k) for k in range(20_000)), 0))
    assert 0 < drawn[0] < drawn[-1] < 1
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand.
    assert np.abs(drawn - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / 20_000**0.5


def test_percentiles_by_hand() -> None:
    got = percentiles(np.array([5, np.nan, 1, 5, 9], float))
    assert got == pytest.approx([0.5, np.nan, 0.125, 0.5, 0.875], nan_ok=True)


def test_the_most_uncertain_of_a_group_stays_and_stands_for_it() -> None:
    frames = replace(pool(6), scores=np.array([1, 3, 2, 0.5, 0.4, 0.6]),
                     hashes=np.array([0, 1, 3, 255 << 40, 255 << 40, 2**64 - 1], np.uint64))
    found = select(frames, request('top-k', 6, min_distance=4))
    assert found.rows.tolist() == [1, 5, 3]
    assert found.stands_for.tolist() == [2, 0, 1]
    assert found.num_duplicates == 3
    assert found.reasons[0].endswith('; it stands for 2 near duplicates.')
    assert found.reasons[1].endswith('; no other frame looks like it.')
    assert found.reasons[2].endswith('; it stands for 1 near duplicate.')


def test_random_takes_any_of_a_group_and_not_its_most_uncertain() -> None:
    frames = replace(pool(40), scores=np.arange(40.0), hashes=np.zeros(40, np.uint64))
    asked = request('random', 1, min_distance=4)
    drawn = {int(select(frames, replace(asked, seed=seed)).rows[0]) for seed in range(12)}
    assert len(drawn) > 6


def test_an_unscored_frame_is_the_most_uncertain() -> None:
    frames = pool(9)
    scores = frames.scores.copy()
    scores[[2, 6]] = np.nan
    broken = replace(frames, scores=scores)
    for strategy in STRATEGIES[:-1]:
        found = select(broken, request(strategy, 3))
        assert set(found.rows[:2]) == {2, 6}, strategy
        assert found.num_unscored == 2
        assert found.reasons[0].startswith(f'{strategy}: it could not be scored')
        assert 'no score_ratio' in found.reasons[0]
        skipping = select(broken, request(strategy, 9, skips_unscored=True))
        assert not {2, 6} & set(skipping.rows), strategy
    # It stays where it looks like one with a score.
    alike = replace(broken, hashes=np.zeros(9, np.uint64))
    assert select(alike, request('top-k', 9, min_distance=4)).rows[0] in (2, 6)


def test_random_does_not_look_whether_a_frame_was_scored() -> None:
    frames = pool(50)
    asked = request('random', 10)
    blind = replace(frames, scores=np.where(np.arange(50) < 25, np.nan, frames.scores))
    assert select(blind, asked).rows.tolist() == select(frames, asked).rows.tolist()
    assert (select(blind, replace(asked, skips_unscored=True)).rows >= 25).all()


def test_features_that_are_no_numbers_make_a_frame_unscored_where_they_are_needed() -> None:
    frames = pool(8)
    assert frames.features is not None
    frames.features[3, 1] = np.nan
    assert select(frames, request('k-centre', 3)).rows[0] == 3
    assert select(frames, request('top-k', 8)).num_unscored == 0


def test_what_is_labelled_and_what_looks_like_it_is_left_out() -> None:
    frames, labelled = pool(12), pool(2)
    assert frames.hashes is not None and labelled.hashes is not None
    # Rows 0 and 1 are the labelled ones; 2 looks like them; 3 to 5 look like one another.
    found = select(frames, request('top-k', 12, min_distance=4), labelled)
    assert not {0, 1, 2} & set(found.rows)
    assert (len(found.rows), found.num_duplicates) == (3, 7)
    only_named = select(frames, request('top-k', 12), labelled)
    assert set(only_named.rows) == set(range(2, 12))


def test_reasons_name_score_rank_and_distance() -> None:
    frames = replace(pool(4), scores=np.array([4.0, 1, 3, 2]), features=np.array(
        [[0, 0], [9, 9], [3, 4], [3, 5]], np.float32))
    found = select(frames, request('top-k', 3, score_name='entropy.mean'))
    assert found.reasons == (
        'top-k: one of the most uncertain; entropy.mean 4, above 87.5 % of 4 frames; '
        'no other frame looks like it.',
        'top-k: one of the most uncertain; entropy.mean 3, above 62.5 % of 4 frames; '
        '5 from the nearest chosen before it; no other frame looks like it.',
        'top-k: one of the most uncertain; entropy.mean 2, above 37.5 % of 4 frames; '
        '1 from the nearest chosen before it; no other frame looks like it.')
    bits = replace(frames, features=None, hashes=np.array([0, 1, 7, 15], np.uint64))
    assert '; 1 bits from the nearest chosen before it;' in select(
        bits, request('top-k', 3)).reasons[2]
    nothing = replace(bits, hashes=None)
    assert 'nearest' not in select(nothing, request('top-k', 3)).reasons[2]


def test_distances_in_reasons_keep_their_digits_far_from_zero() -> None:
    features = (np.arange(20_000, 20_600).reshape(300, 2) / 2).astype(np.float32)
    frames = replace(pool(300, 1), features=features)
    found = select(frames, request('top-k', 300))
    rows = features[found.rows].astype(float)
    for rank in (1, 7, 255, 256, 299):
        nearest = min(np.linalg.norm(rows[rank] - other) for other in rows[:rank])
        assert f'; {nearest:.4g} from the nearest' in found.reasons[rank]


@pytest.mark.parametrize(('strategy', 'without', 'says'), [
    ('k-centre', 'features', 'no features'), ('uncertainty-diversity', 'features', 'no features'),
    ('class-balanced', 'shares', 'no shares of classes'), ('top-k', 'hashes', 'no hashes'),
])
def test_a_column_that_is_needed_is_asked_for(strategy: str, without: str, says: str) -> None:
    frames = replace(pool(5), **{without: None})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        select(frames, request(strategy, 2, min_distance=4))


def test_a_gap_needs_times() -> None:
    with pytest.raises(ConfigError, match='a gap of 2 s and frames without a time'):
        select(replace(pool(3), times_s=None), request('top-k', 1, min_gap_s=2.0))


@pytest.mark.parametrize(('wrong', 'says'), [
    ({'strategy': 'best'}, "'best', expected one of threshold, top-k"), ({'count': 0}, '0 frames'),
    ({'per_dive': 0}, '0 a dive'), ({'beta': -1.0}, 'beta -1'), ({'beta': np.inf}, 'beta inf'),
    ({'min_gap_s': -0.5}, 'min_gap_s -0.5'),
    ({'strategy': 'threshold', 'limit': None}, 'has no limit'),
    ({'strategy': 'threshold', 'limit': np.nan}, 'has no limit'),
])
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, object], says: str) -> None:
    values = {'strategy': 'top-k', 'count': 3, **wrong}
    with pytest.raises(ConfigError, match=says):
        SelectionRequest(**values)  # type: ignore[arg-type]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ShapeError, match='2 scores of 3 frames'):
        replace(pool(3), scores=np.zeros(2))


def test_an_empty_pool_gives_nothing() -> None:
    for strategy in STRATEGIES:
        found = select(pool(3).cut(np.zeros(3, bool)), request(strategy, 4, min_distance=4))
        assert len(found.rows) == found.num_candidates == 0
