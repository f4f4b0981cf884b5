# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A choice from video: spread over its time unasked, and what is said of neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from uncertainty_seg.data.selection.pool import (
    auto_gaps,
    Candidates,
    looks_like_video,
    SelectionRequest,
)
from uncertainty_seg.data.selection.strategies import select

# A dive at 4 Hz: events of 20 frames; of the silt the scores are ten times those of the others.
EVENTS = ('plain',) * 40 + ('diver',) * 20 + ('plain',) * 20 + ('silt',) * 20 + ('fish',) * 20
LEVEL = {'plain': 0.5, 'diver': 2.0, 'silt': 20.0, 'fish': 1.5}


def dive(seed: int = 0, name: str = 'dive 1') -> Candidates:
    rng = np.random.default_rng(seed)
    count = len(EVENTS)
    # What is seen drifts; in the silt everything looks different every time.
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
        frames = dive(seed)
        without = Counter(EVENTS[row] for row in select(frames, asked(12, 0.0)).rows)
        spread = Counter(EVENTS[row] for row in select(frames, asked(12)).rows)
        assert without['silt'] >= 10 and min(without['diver'], without['fish']) == 0
        assert set(spread) == set(EVENTS) and spread['silt'] <= 5
        assert min(spread['diver'], spread['fish']) >= 2


def test_the_gap_is_half_of_an_even_spread_and_kept() -> None:
    frames = dive()
    assert auto_gaps(frames, 10) == {'dive 1': pytest.approx(0.5 * 29.75 / 10)}
    found = select(frames, asked(10))
    assert frames.times_s is not None
    times_s = np.sort(frames.times_s[found.rows])
    assert len(times_s) == 10 and np.diff(times_s).min() >= 0.5 * 29.75 / 10
    assert found.gaps_s == pytest.approx(0.5 * 29.75 / 10)


def test_each_dive_has_the_gap_of_its_share() -> None:
    one, other = dive(), dive(1, 'dive 2')
    both = Candidates(*(np.concatenate([getattr(one, name), getattr(other, name)])
                        for name in ('keys', 'dives', 'scores')),
                      features=np.concatenate([one.features, other.features]),
                      times_s=np.concatenate([one.times_s, other.times_s]))
    assert auto_gaps(both, 10) == {'dive 1': pytest.approx(0.5 * 29.75 / 5),
                                   'dive 2': pytest.approx(0.5 * 29.75 / 5)}
    # The same times in two dives are two times.
    assert len(select(both, asked(10)).rows) == 10


@pytest.mark.parametrize('count', [10, 60, 119, 120])
def test_the_gap_gives_way_until_there_are_enough(count: int) -> None:
    frames = dive()
    # A burst, and one frame long after it: an even spread would have hardly anything to take.
    assert frames.times_s is not None
    burst = replace(frames, times_s=np.where(np.arange(120) < 119, frames.times_s / 10, 100.0))
    found = select(burst, asked(count))
    assert len(found.rows) == len(set(found.rows)) == count
    # No wider gap would have done: what is kept is below it, and not nothing where it need not be.
    assert found.gaps_s is not None and (found.gaps_s < 0.5 * 100 / count).all()
    if count == 10:
        times_s = np.sort(burst.times_s[found.rows])
        assert np.diff(times_s).min() >= found.gaps_s[0] > 0.1
    few = select(burst, replace(asked(count), per_dive=7))
    assert len(few.rows) == 7


def test_unscored_frames_stay_out_when_the_gap_gives_way() -> None:
    frames = dive()
    frames.scores[:50] = np.nan
    frames.times_s[:60] = np.linspace(0, 3, 60)
    found = select(frames, replace(asked(100), skips_unscored=True))
    assert sorted(found.rows) == list(range(50, 120))


def test_a_gap_that_was_asked_for_does_not_give_way() -> None:
    assert len(select(dive(), asked(12, 5.0)).rows) == 6


@pytest.mark.parametrize('strategy', ['random', 'top-k', 'power-bald'])
def test_strategies_without_distances_are_left_as_they_are(strategy: str) -> None:
    frames = dive()
    one, other = (select(frames, asked(12, gap, strategy)) for gap in (None, 0.0))
    assert one.rows.tolist() == other.rows.tolist()


def test_photographs_and_frames_without_times_are_not_spread() -> None:
    frames = dive()
    for still in (replace(frames, is_video=np.zeros(len(frames), np.bool_)),
                  replace(frames, times_s=None), replace(frames, times_s=np.zeros(len(frames)))):
        assert not any(auto_gaps(still, 12).values())
        assert select(still, asked(12)).rows.tolist() == \
            select(frames, asked(12, 0.0)).rows.tolist()


def test_a_video_is_known_by_its_neighbours() -> None:
    frames = dive()
    mixed = np.random.default_rng(0).permutation(len(frames))
    assert frames.features is not None
    assert looks_like_video(frames.features)
    assert not looks_like_video(frames.features[mixed])
    assert not looks_like_video(frames.features[:5]) and not looks_like_video(None)


def test_neighbours_are_named_with_score_and_distance() -> None:
    frames = Candidates(
        keys=np.array(list('abcd'), object), dives=np.array(['one'] * 3 + ['two'], object),
        scores=np.array([1.0, 5.0, 2.0, 9.0]), times_s=np.array([0.0, 0.5, 2.0, 0.6]),
        features=np.array([[0, 0], [3, 4], [3, 4.25], [0, 0]], np.float32),
        hashes=np.array([0, 0b111, 0b110, 2**63 - 1], np.uint64))
    found = select(frames, replace(asked(2, 0.0, 'top-k'), min_distance=3))
    assert found.rows.tolist() == [3, 1]
    assert found.neighbours == ('', (
        '0.5 s before: score_ratio 1, 5 away; 1.5 s after: score_ratio 2, 0.25 away; '
        'of 1 near duplicates the most uncertain: score_ratio 2, 0.25 away'))
    bits = select(replace(frames, features=None), replace(asked(1, 0.0, 'top-k'), count=2))
    assert bits.neighbours[1] == ('0.5 s before: score_ratio 1, 3 bits away; 1.5 s after: '
                                  'score_ratio 2, 1 bits away')
