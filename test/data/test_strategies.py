# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The choice of frames: each strategy against its definition, and properties of all."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.data import strategies
from uncertainty_seg.data.likeness import bits_apart
from uncertainty_seg.data.strategies import (
    auto_gaps,
    Candidates,
    draw_control,
    looks_like_video,
    lots,
    percentiles,
    select,
    SelectionRequest,
    STRATEGIES,
)
from uncertainty_seg.errors import ConfigError

Floats = NDArray[np.float32]


def pool(count: int, seed: int = 0, num_dives: int = 3, first: int = 0) -> Candidates:
    """Return frames with all fields, some of them similar, with some equal scores."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 1 + count // 3, np.uint64)[np.arange(count) // 3]
    return Candidates(
        keys=np.array([f'bag#/cam#{first + i}' for i in range(count)], object),
        dives=np.array([f'dive {k}' for k in rng.integers(0, num_dives, count)], object),
        scores=rng.integers(0, 12, count) / 4,
        hashes=hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)),
        features=rng.normal(size=(count, 4)).astype(np.float32),
        times_s=rng.integers(0, 20, count) / 4)


def frames(scores: object, features: Floats | None = None, first: int = 0) -> Candidates:
    values = np.asarray(scores, np.float64)
    keys = np.array([str(first + k) for k in range(len(values))], object)
    return Candidates(keys, np.array(['dive'] * len(values), object), values, None, features)


def request(strategy: str, count: int, **more: object) -> SelectionRequest:
    return SelectionRequest(strategy, count, **{'limit': 0.9, **more})


def choose(strategy: str, among: Candidates, count: int, labelled: Candidates | None = None,
           **more: object) -> list[int]:
    return select(among, request(strategy, count, **more), labelled).rows.tolist()


@pytest.mark.parametrize('strategy', STRATEGIES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), wanted=st.integers(1, 20),
       cap=st.one_of(st.none(), st.integers(1, 5)), min_distance=st.sampled_from([0, 1, 4]),
       gap_s=st.sampled_from([0, 0.25, 1.0]))
def test_what_holds_for_every_strategy(
    strategy: str, seed: int, count: int, wanted: int, cap: int | None, min_distance: int,
    gap_s: float,
) -> None:
    among = pool(count, seed)
    asked = request(strategy, wanted, per_dive=cap, min_distance=min_distance, seed=seed,
                    min_gap_s=gap_s)
    found = select(among, asked)
    keys = list(among.keys[found.rows])
    assert len(set(keys)) == len(keys) == len(found.reasons) <= wanted
    assert max(Counter(among.dives[found.rows]).values(), default=0) <= (cap or wanted)
    assert among.hashes is not None and among.times_s is not None
    chosen = among.hashes[found.rows]
    apart = bits_apart(chosen[:, None], chosen)[~np.eye(len(chosen), dtype=bool)]
    assert (apart >= min_distance).all()
    dives, times_s = among.dives[found.rows], among.times_s[found.rows]
    for dive in set(dives):
        assert (np.diff(np.sort(times_s[dives == dive])) >= gap_s).all()
    if cap is None and not gap_s and strategy != 'threshold':
        assert len(keys) == min(wanted, count - found.num_duplicates)
    # Reordering the rows changes row numbers, but not the chosen frames.
    order = np.random.default_rng(seed).permutation(count)
    mixed = select(among.cut(order), asked)
    assert list(among.keys[order][mixed.rows]) == keys
    assert mixed.reasons == found.reasons
    assert mixed.stands_for.tolist() == found.stands_for.tolist()


def test_lots_are_each_frames_own_and_uniform() -> None:
    assert lots(['b'], 3)[0] == lots(['a', 'b', 'c'], 3)[1] != lots(['b'], 4)[0]
    drawn = np.sort(lots((str(k) for k in range(20_000)), 0))
    assert 0 < drawn[0] < drawn[-1] < 1
    # Kolmogorov-Smirnov test: 1.95 / sqrt(n) is exceeded with probability 0.001.
    assert np.abs(drawn - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / 20_000**0.5
    assert choose('random', pool(60), 10, seed=1) != choose('random', pool(60), 10, seed=2)
    got = percentiles(np.array([5, np.nan, 1, 5, 9], float))
    assert got == pytest.approx([0.5, np.nan, 0.125, 0.5, 0.875], nan_ok=True)


def test_the_most_uncertain_of_a_group_stays_and_stands_for_it() -> None:
    among = replace(pool(6), scores=np.array([1, 3, 2, 0.5, 0.4, 0.6]),
                    hashes=np.array([0, 1, 3, 255 << 40, 255 << 40, 2**64 - 1], np.uint64))
    found = select(among, request('top-k', 6, min_distance=4))
    assert found.rows.tolist() == [1, 5, 3] and found.stands_for.tolist() == [2, 0, 1]
    assert found.num_duplicates == 3 and '2 near duplicates' in found.reasons[0]
    # With the random strategy any frame of a group may stay.
    group = replace(pool(40), scores=np.arange(40.0), hashes=np.zeros(40, np.uint64))
    assert len({choose('random', group, 1, min_distance=4, seed=seed)[0]
                for seed in range(12)}) > 6


def test_an_unscored_frame_is_the_most_uncertain_but_for_random() -> None:
    among = pool(9)
    broken = replace(among, scores=np.where(np.isin(np.arange(9), [2, 6]), np.nan, among.scores))
    for strategy in set(STRATEGIES) - {'random'}:
        found = select(broken, request(strategy, 3))
        assert set(found.rows[:2]) == {2, 6} and found.num_unscored == 2
        assert 'could not be scored' in found.reasons[0]
    blind = replace(pool(50), scores=np.where(np.arange(50) < 25, np.nan, pool(50).scores))
    assert choose('random', blind, 10) == choose('random', pool(50), 10)
    assert among.features is not None
    among.features[3, 1] = np.nan
    assert choose('k-centre', among, 3)[0] == 3
    assert select(among, request('top-k', 8)).num_unscored == 0


def test_what_is_labelled_and_what_looks_like_it_is_left_out() -> None:
    # Rows 0 and 1 are labelled; row 2 resembles them; rows 3 to 5 resemble one another.
    found = select(pool(12), request('top-k', 12, min_distance=4), pool(2))
    assert not {0, 1, 2} & set(found.rows)
    assert (len(found.rows), found.num_duplicates) == (3, 7)
    assert set(choose('top-k', pool(12), 12, pool(2))) == set(range(2, 12))


@pytest.mark.parametrize(('strategy', 'without'), [
    ('k-centre', 'features'), ('uncertainty-diversity', 'features'), ('top-k', 'hashes')])
def test_a_column_that_is_needed_is_asked_for(strategy: str, without: str) -> None:
    with pytest.raises(ConfigError, match=without):
        select(replace(pool(5), **{without: None}),
               request(strategy, 2, min_distance=4))
    with pytest.raises(ConfigError, match='2 s'):
        select(replace(pool(3), times_s=None), request('top-k', 1, min_gap_s=2.0))


@pytest.mark.parametrize('wrong', [
    {'strategy': 'best'}, {'count': 0}, {'per_dive': 0}, {'min_gap_s': -0.5},
    {'min_gap_s': np.inf}, {'strategy': 'threshold', 'limit': None},
    {'strategy': 'threshold', 'limit': np.nan}])
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SelectionRequest(**{'strategy': 'top-k', 'count': 3, **wrong})


def test_an_empty_pool_gives_nothing() -> None:
    for strategy in STRATEGIES:
        assert choose(strategy, pool(3).cut(np.zeros(3, bool)), 4, min_distance=4) == []


# --- the strategies ------------------------------------------------------------------------------


def test_threshold_takes_what_is_above_and_top_k_the_largest() -> None:
    among = frames([0.2, 1.5, 1.0, 3.0, 1.1])
    assert choose('threshold', among, 5, limit=1.0) == [3, 1, 4]
    assert choose('threshold', among, 2, limit=1.0) == [3, 1]
    assert choose('threshold', among, 5, limit=3.0) == []
    assert choose('top-k', frames([0.2, 1.5, -1.0, 3.0]), 3) == [3, 1, 0]


def greedy(points: Floats, weights: NDArray[np.float64], start: int, count: int) -> list[int]:
    """Return farthest-first rows, computing every distance each time."""
    chosen = [start]
    while len(chosen) < count:
        gaps = [-1.0 if row in chosen else weights[row] * min(
            float(np.linalg.norm(points[row].astype(float) - points[k])) for k in chosen)
            for row in range(len(points))]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def clusters(seed: int, count: int, num_dims: int) -> Floats:
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, 5, (4, num_dims))
    return (middles[rng.integers(0, 4, count)] + rng.normal(size=(count, num_dims))
            ).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 40), num_dims=st.integers(1, 8))
def test_spreading_is_the_greedy_of_the_definition(seed: int, count: int, num_dims: int) -> None:
    points = clusters(seed, count, num_dims)
    scores = np.random.default_rng(seed).gamma(2, 1, count)
    for strategy, weights in (('k-centre', np.ones(count)), ('uncertainty-diversity', scores)):
        found = choose(strategy, frames(scores, points), min(count, 12), seed=seed)
        assert found == greedy(points, weights, int(scores.argmax()), min(count, 12))


def test_spreading_goes_on_from_what_is_labelled_and_takes_each_once() -> None:
    points = np.array([[0], [10], [4], [9]], np.float32)
    labelled = frames([1], np.array([[0]], np.float32), first=100)
    assert choose('k-centre', frames([9, 0, 0, 0], points), 3, labelled) == [1, 2, 3]
    assert choose('k-centre', frames([9, 0, 0, 0], points), 3) == [0, 1, 2]
    equal = frames(np.zeros(6), np.zeros((6, 3), np.float32))
    for strategy in ('k-centre', 'uncertainty-diversity'):
        assert sorted(choose(strategy, equal, 6)) == list(range(6))
    with pytest.raises(ConfigError, match='-0.5'):
        choose('uncertainty-diversity', frames([1, -0.5], points[:2]), 1)


# --- video: choices are spread over time ---------------------------------------------------------

# A dive at 4 Hz with events of 20 frames; the scores of silt are ten times those of the others.
EVENTS = ('plain',) * 40 + ('diver',) * 20 + ('plain',) * 20 + ('silt',) * 20 + ('fish',) * 20
LEVEL = {'plain': 0.5, 'diver': 2.0, 'silt': 20.0, 'fish': 1.5}


def dive(seed: int = 0, name: str = 'dive 1') -> Candidates:
    rng = np.random.default_rng(seed)
    count = len(EVENTS)
    # The features drift; in silt each frame looks different.
    steps = rng.normal(0, 0.15, (count, 6)) * np.array(
        [3.0 if event == 'silt' else 1.0 for event in EVENTS])[:, None]
    return Candidates(
        keys=np.array([f'{name}#{k}' for k in range(count)], object),
        dives=np.array([name] * count, object),
        scores=np.array([LEVEL[event] for event in EVENTS]) * rng.uniform(0.8, 1.2, count),
        features=steps.cumsum(0).astype(np.float32), times_s=np.arange(count) / 4)


def asked(count: int, gap_s: float | None = None, strategy: str = 'uncertainty-diversity'
          ) -> SelectionRequest:
    return SelectionRequest(strategy, count, min_gap_s=gap_s)


def test_one_long_event_of_high_scores_does_not_take_the_whole_choice() -> None:
    for seed in range(5):
        among = dive(seed)
        without = Counter(EVENTS[row] for row in select(among, asked(12, 0.0)).rows)
        spread = Counter(EVENTS[row] for row in select(among, asked(12)).rows)
        assert without['silt'] >= 10 and min(without['diver'], without['fish']) == 0
        assert set(spread) == set(EVENTS) and spread['silt'] <= 5
        assert min(spread['diver'], spread['fish']) >= 2


@pytest.mark.parametrize('count', [10, 60, 119, 120])
def test_a_gap_that_nobody_asked_for_gives_way_until_there_are_enough(count: int) -> None:
    among = dive()
    # A burst and one frame long after it: an even spread over time would find few frames.
    assert among.times_s is not None
    burst = replace(among, times_s=np.where(np.arange(120) < 119, among.times_s / 10, 100.0))
    found = select(burst, asked(count))
    assert len(found.rows) == len(set(found.rows)) == count
    if count == 10:
        assert np.diff(np.sort(burst.times_s[found.rows])).min() > 0.1
    assert len(select(burst, replace(asked(count), per_dive=7)).rows) == 7
    assert len(select(dive(), asked(12, 5.0)).rows) == 6  # an explicit min_gap is not reduced


def test_photographs_and_strategies_without_distances_are_not_spread() -> None:
    among = dive()
    for still in (replace(among, is_video=np.zeros(len(among), np.bool_)),
                  replace(among, times_s=None), replace(among, times_s=np.zeros(len(among)))):
        assert not any(auto_gaps(still, 12).values())
        assert (select(still, asked(12)).rows.tolist()
                == select(among, asked(12, 0.0)).rows.tolist())
    for strategy in ('random', 'top-k'):
        one, other = (select(among, asked(12, gap, strategy)) for gap in (None, 0.0))
        assert one.rows.tolist() == other.rows.tolist()
    mixed = np.random.default_rng(0).permutation(len(among))
    assert among.features is not None and looks_like_video(among.features)
    assert not looks_like_video(among.features[mixed])
    assert not looks_like_video(among.features[:5]) and not looks_like_video(None)


def test_every_frame_has_the_same_chance_to_be_a_control_frame_and_videos_stay_whole() -> None:
    dives = np.array(['long'] * 40 + ['short'] * 10 + ['third'] * 30 + ['reef'] * 20, object)
    pool = Candidates(
        np.array([f'f{k}' for k in range(100)], object), dives, np.zeros(100),
        is_video=dives != 'reef')
    counts, sizes = np.zeros(100), []
    for seed in range(600):
        rows, is_held = draw_control(pool, 20, 30, seed)
        assert len(set(rows)) == len(rows) and is_held[rows].all()
        counts[rows] += 1
        sizes.append(len(rows))
        for name in ('long', 'short', 'third'):
            assert len(set(is_held[dives == name])) == 1
        assert int(is_held[dives == 'reef'].sum()) == 4
        assert not is_held[dives != 'reef'].all()
    # 5 standard errors of a binomial with 600 draws.
    np.testing.assert_allclose(counts / 600, 0.2, atol=5 * (0.2 * 0.8 / 600)**0.5)
    assert np.mean(sizes) == pytest.approx(20, abs=1)


def test_control_frames_of_one_video_are_refused() -> None:
    pool = Candidates(np.array(['a', 'b'], object), np.array(['dive'] * 2, object), np.zeros(2))
    with pytest.raises(ConfigError, match='dive'):
        draw_control(pool, 1, 1, 0)


@pytest.mark.parametrize('most', [0, 3, 7])
@pytest.mark.parametrize('strategy', ['top-k', 'random', 'uncertainty-diversity'])
def test_chosen_frames_look_unlike_however_few_were_compared_before(
    monkeypatch: pytest.MonkeyPatch, strategy: str, most: int
) -> None:
    """Compare the rest only when it is chosen: 200 000 different frames took 19 s."""
    among = replace(pool(90), times_s=None, scores=np.random.default_rng(1).permutation(90) / 90)
    whole = select(among, request(strategy, 90, min_distance=6))
    monkeypatch.setattr(strategies, 'MOST_COMPARED', most)
    few = select(among, request(strategy, 90, min_distance=6))
    assert among.hashes is not None
    chosen = among.hashes[few.rows]
    apart = bits_apart(chosen[:, None], chosen[None])[~np.eye(len(chosen), dtype=bool)]
    assert apart.min() >= 6 and len(few.rows) == len(whole.rows) == 30
    # Every other frame resembles a chosen one, and is counted once.
    assert few.num_duplicates == few.stands_for.sum() == 60
    if strategy != 'uncertainty-diversity':  # its order differs from that of the comparison
        assert few.rows.tolist() == whole.rows.tolist()
        assert few.stands_for.tolist() == whole.stands_for.tolist()
