# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The oracle of the soak on events whose answer is known: what is a lie, and what is none."""

from __future__ import annotations

from collections.abc import Sequence

from cases import for_each
import pytest
from soak import faults_of, growth
from soak_oracle import (
    Answer,
    Event,
    Factor,
    Flag,
    Frame,
    Numbers,
    Oracle,
    Span,
    Timeout,
)


def said(time_s: float, value: bool, name: str = '', kind: str = '') -> list[Event]:
    """Return a flag and its status."""
    return [Flag(time_s, value), Answer(time_s + 0.001, name, value, kind)]


def frames(
    first: int, words: Sequence[str], start_s: float = 0.0
) -> list[Event]:
    """
    Return frames at 10 Hz, each answered after 20 ms.

    'g+' is a good one that was true, 'b-' a bad one that was false.

    """
    events: list[Event] = []
    for k, word in enumerate(words, first):
        time_s = start_s + k / 10
        is_good = {'g': True, 'b': False, '?': None}[word[0]]
        events.append(Frame(time_s, f'f{k}', 'good' if is_good else 'zeros', is_good))
        events += said(time_s + 0.02, word[1] == '+', f'f{k}', 'fault')
    return events


RISEN = frames(0, ['g-', 'g-', 'g+', 'g+', 'g+'])  # the last at 0.42 s


def lies(*events: Event, **settings: float) -> list[str]:
    oracle = Oracle(**settings)
    oracle.feed([*RISEN, *events])
    return oracle.lies


def test_good_frames_in_a_row_may_be_true() -> None:
    oracle = Oracle()
    oracle.feed([*RISEN, *frames(5, ['g+'] * 3 + ['b-', 'g-', 'g-', 'g+'])])
    assert (oracle.lies, oracle.num_true, oracle.blind) == ([], 7, 0)
    assert oracle.false_after_s['zeros'] == [pytest.approx(0.02)]


@for_each('words, lie', [
    (['b+'], 'about a frame that is zeros'),
    (['b-', 'g-', 'g+'], 'after 2 good frames'),
    (['b-', 'g+'], 'after 1 good frames'),
])
def test_a_true_too_many_is_a_lie(words: list[str], lie: str) -> None:
    assert [lie in one for one in lies(*frames(5, words))] == [True]


def test_good_frames_that_are_false_are_counted() -> None:
    oracle = Oracle()
    oracle.feed([*RISEN, *frames(5, ['g+', 'g-', 'g+', 'g+'])])
    assert (oracle.blind, oracle.ready, oracle.lies) == (1, 4, [])


def test_frames_count_from_the_request_to_activate_and_not_from_its_answer() -> None:
    asked, answered = Span(0.49, 'activated', True), Span(0.75, 'activated', False)
    three = frames(5, ['g-', 'g-', 'g+'])  # the last at 0.72 s
    assert lies(asked, *three, answered, *frames(8, ['g+'])) == []
    # What went before the request counts no more.
    assert len(lies(asked, *frames(5, ['g+']), answered)) == 1


def test_a_true_that_nothing_follows_is_a_lie_once() -> None:
    assert len(lies(*said(1.9, False))) == 0
    found = lies(*said(2.2, False), *said(3.2, False))
    assert len(found) == 1 and 'no flag for 1.78 s' in found[0]
    assert lies(Timeout(0.5, 3.0), *said(2.2, False)) == []


def test_a_stopped_process_must_fall_when_it_goes_on() -> None:
    paused = [Span(0.5, 'paused', True), Span(4.0, 'paused', False)]
    assert lies(*paused, *said(4.1, False)) == []
    assert any('no flag for' in lie for lie in lies(*paused, *said(4.9, False)))


def test_a_true_about_an_old_frame_is_a_lie_unless_it_is_taken_back_at_once() -> None:
    old = [Frame(0.5, 'old', 'good', True), Span(0.5, 'paused', True), Span(3.0, 'paused', False),
           *said(3.01, True, 'old')]
    assert ['2.51 s ago' in lie for lie in lies(*old, *said(3.3, False))] == [True]
    oracle = Oracle()
    oracle.feed([*RISEN, *old, *said(3.02, False)])
    assert (oracle.lies, oracle.num_corrected) == ([], 1)


def test_after_a_restart_the_count_begins_anew() -> None:
    restart = [Span(0.45, 'restarting', True), Span(0.55, 'restarting', False)]
    after = frames(6, ['g-', 'g-', 'g+'])
    assert lies(*restart, *after) == []
    assert ['after 2 good' in lie for lie in lies(*restart, *frames(6, ['g-', 'g+', 'g+']))] \
        == [True]
    # A frame that was answered while the restart was asked for may be of after it.
    asked = [Span(0.45, 'restarting', True), *frames(5, ['g+']), Span(0.55, 'restarting', False)]
    assert lies(*asked, *frames(6, ['g-', 'g+'])) == []


def test_weakened_settings_must_be_said() -> None:
    grey = Frame(0.5, 'f5', 'grey', False)
    for promise, num_lies in (('void', 0), ('accepted and bad in at most 0.05', 1)):
        answer = Answer(0.521, 'f5', True, 'confident', promise)
        assert len(lies(Span(0.45, 'weakened', True), grey, Flag(0.52, True), answer)) == num_lies


@for_each('after, lie', [
    ([Numbers(0.423, 'f4', True)], ''),
    ([Numbers(0.423, 'f4', True), Numbers(0.5, '', False), Flag(0.501, False)], ''),
    ([Flag(0.5, False), Numbers(0.501, '', False), Numbers(0.502, '', True)],
     'true while the flag is false'),
    ([Numbers(0.423, 'f4', True), Flag(0.5, False), Numbers(0.501, '', False)],
     'true when the flag falls'),
    ([Frame(0.5, 'f5', 'good', True), Flag(0.52, True), Numbers(0.521, 'f5', False),
      Answer(0.522, 'f5', True, 'confident')], 'say False and the status True'),
    # Those of another frame, whose own were lost, say nothing of this one.
    ([Numbers(0.423, 'f4', False), Frame(0.5, 'f5', 'good', True), Flag(0.52, True),
      Answer(0.522, 'f5', True, 'confident')], ''),
    ([Span(0.45, 'weakened', True), Numbers(0.5, 'f4', True, is_void=True)], ''),
    ([Span(0.45, 'weakened', True), Numbers(0.5, 'f4', True)], 'do not say that the promise'),
])
def test_the_numbers_say_what_flag_and_status_say(after: list[Event], lie: str) -> None:
    found = lies(*after)
    assert [lie in one for one in found] == ([True] if lie else [])


def governed(*factors: Event) -> list[str]:
    events = [*frames(0, ['g-', 'g-'] + ['g+'] * 28), *frames(30, ['b-'] + ['g-', 'g-'])]
    oracle = Oracle()
    oracle.feed(sorted([*events, *factors], key=lambda event: event.time_s))
    return oracle.lies


def test_the_governor_may_be_fast_after_true_flags_for_long_enough_and_no_longer() -> None:
    # True from 0.22 s to 2.92 s, false from 3.02 s.
    assert governed(Factor(0.5, 0.2), Factor(1.3, 0.25), Factor(2.9, 1.0), Factor(3.1, 0.2)) == []
    assert ['after 0.78 s of true' in lie for lie in governed(Factor(1.0, 0.25))] == [True]
    assert ['without a true' in lie for lie in governed(Factor(3.9, 0.25))] == [True]


def test_growth_is_told_from_noise() -> None:
    noise = [(7 * k * k) % 11 for k in range(300)]
    samples = [{'time_s': float(k), 'node_kb': 5e4 + noise[k], 'node_files': 20.0,
                'governor_kb': 4e4 + noise[k] + 60 * k} for k in range(300)]
    report = {'errors': [], 'numbers': 9, 'calms': 9, 'calms_fast': 9, 'lies': 0, 'ready': 9,
              'blind': 0, 'growth': growth(samples)}
    assert faults_of(report) == ['governor_kb grows by 60.0 a second']
    assert faults_of({**report, 'growth': {}, 'lies': 1, 'blind': 2,
                      'errors': ['a'], 'calms_fast': 1, 'numbers': 0}) \
        == ['a', '1 lies', 'no verdict came as numbers', '2 of 9 good frames were not true',
            'the governor was fast after 1 of 9 calm spells']
