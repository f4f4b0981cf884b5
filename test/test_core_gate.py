# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The flag: what makes it fall, what lets it rise, and that nothing else does."""

import math

import hypothesis
from hypothesis import strategies as st
import pytest

from uncertainty_seg.core.gate import Gate
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import ConfigError

LIMITS = {'entropy.mean': 0.2, 'entropy.top': 0.5}
GOOD = {'entropy.mean': 0.1, 'entropy.top': 0.2}
BAD = {'entropy.mean': 0.1, 'entropy.top': 0.6}
NAN = {'entropy.mean': math.nan, 'entropy.top': 0.2}


def gate(**changes: float) -> Gate:
    return Gate(GateSettings(**{'rise_frames': 2, **changes}), LIMITS)


def raised(**changes: float) -> Gate:
    it = gate(**changes)
    for _ in range(5):
        it.update(GOOD)
    assert it.last.is_confident
    return it


def test_before_the_first_frame_it_is_unknown_and_false() -> None:
    assert gate().last.kind == 'unknown'
    assert not gate().last.is_confident


def test_it_rises_after_the_asked_number_of_good_frames() -> None:
    it = gate(rise_frames=3)
    assert [it.update(GOOD).is_confident for _ in range(4)] == [False, False, True, True]


def test_one_score_over_its_limit_makes_it_fall_and_is_named() -> None:
    verdict = raised().update(BAD)
    assert not verdict.is_confident
    assert verdict.kind == 'uncertain'
    assert verdict.reasons == ('entropy.top 0.6 over 0.5',)
    assert verdict.score_ratio == pytest.approx(1.2)


def test_a_score_exactly_at_its_limit_is_within_it() -> None:
    assert raised().update(LIMITS).is_confident


def test_between_the_two_limits_it_stays_up_but_does_not_rise() -> None:
    between = {'entropy.mean': 0.19, 'entropy.top': 0.2}
    it = raised(rise_ratio=0.9)
    assert it.update(between).is_confident
    it.update(BAD)
    assert not any(it.update(between).is_confident for _ in range(10))


@pytest.mark.parametrize('scores', [NAN, {}, {'entropy.mean': 0.1},
                                    {'entropy.mean': math.inf, 'entropy.top': 0.1}])
def test_a_score_that_is_no_number_or_missing_is_a_fault(scores: dict[str, float]) -> None:
    verdict = raised().update(scores)
    assert verdict.kind == 'fault'
    assert not verdict.is_confident
    assert verdict.score_ratio == math.inf


def test_after_a_fault_the_way_back_starts_from_nothing() -> None:
    it = raised()
    assert it.fault('engine error').reasons == ('engine error',)
    assert [it.update(GOOD).is_confident for _ in range(2)] == [False, True]


def test_n_of_m_bad_frames_are_needed_when_asked_for() -> None:
    it = raised(fall_frames=2, fall_window=3)
    assert it.update(BAD).is_confident
    assert it.update(GOOD).is_confident
    assert not it.update(BAD).is_confident


EVENTS = st.lists(st.sampled_from(['good', 'bad', 'nan', 'fault']), max_size=40)


def play(it: Gate, events: list[str]) -> list[bool]:
    flags = []
    for event in events:
        verdict = it.fault('x') if event == 'fault' else it.update(
            {'good': GOOD, 'bad': BAD, 'nan': NAN}[event])
        flags.append(verdict.is_confident)
    return flags


@hypothesis.given(EVENTS, st.integers(1, 4))
@hypothesis.settings(max_examples=200, deadline=None)
def test_true_always_follows_enough_good_frames_and_never_a_bad_one(
    events: list[str], rise: int
) -> None:
    for index, flag in enumerate(play(gate(rise_frames=rise), events)):
        if flag:
            assert events[index - rise + 1: index + 1] == ['good'] * rise


@hypothesis.given(EVENTS)
@hypothesis.settings(max_examples=100, deadline=None)
def test_lower_limits_never_make_a_false_flag_true(events: list[str]) -> None:
    settings = GateSettings(rise_frames=2)
    loose = Gate(settings, {'entropy.mean': 0.3, 'entropy.top': 0.7})
    strict = Gate(settings, LIMITS)
    for is_loose, is_strict in zip(play(loose, events), play(strict, events), strict=True):
        assert is_loose or not is_strict


@pytest.mark.parametrize('limits', [{}, {'a': 0.0}, {'a': math.nan}, {'a': math.inf}])
def test_limits_that_cannot_judge_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match='finite numbers above 0'):
        Gate(GateSettings(), limits)
