# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The speed factor and limited commands, with a clock set by the test in exact steps of 1/64 s.

The oracle of the factor has no state machine: it searches the whole past for the last series of
true flags without a gap. The factor must be exactly the one that follows from this series.
"""

from dataclasses import dataclass
import math
from typing import Any

from cases import for_each
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import pytest

from uncertainty_seg.core.settings import iter_parameters
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.governor.policy import (
    CommandLimiter,
    PublisherWatch,
    speed_settings_from_dict,
    SpeedPolicy,
    SpeedSettings,
    STALE,
)

SLOW, RISE, DEADLINE_S, SETTLE_S = 0.25, 0.125, 1.0, 2.0
SETTINGS = SpeedSettings(slow_factor=SLOW, deadline_s=DEADLINE_S, settle_s=SETTLE_S,
                         rise_per_s=RISE)
START_S = 1000.0


@dataclass(frozen=True)
class Event:
    """An event `step_s` after the one before; a true flag was sent `age_s` earlier."""

    kind: str
    step_s: float
    age_s: float = 0.0


def steps(low: int, high: int) -> Any:
    return st.integers(low, high).map(lambda n: n / 64)


def events(low: int = 0, kinds: tuple[str, ...] = ('false', 'late', 'lost')) -> Any:
    # Mostly true flags in time, and many, since otherwise the factor would rarely rise.
    often = st.builds(Event, st.just('true'), steps(max(low, 0), 40), steps(-8, 16))
    other = st.builds(Event, st.sampled_from(('true', 'look', *kinds)), steps(low, 100),
                      steps(-70, 70))
    return st.lists(st.one_of(*[often] * 9, other), min_size=20, max_size=60)


def apply(policy: SpeedPolicy, kind: str, now_s: float, age_s: float = 0.0) -> float:
    if kind == 'true':
        return policy.take_flag(now_s, True, age_s)
    if kind == 'late':
        return policy.take_flag(now_s, True, 1.5)
    if kind == 'false':
        return policy.take_flag(now_s, False)
    if kind == 'lost':
        return policy.lose_flag(now_s, 'its publisher is gone')
    return policy.factor_at(now_s)


def earned(past: list[tuple[Event, float]], now_s: float) -> float:
    """Return the factor that follows from the last series of true flags without a gap."""
    first_s = last_s = None
    for event, at_s in past:
        if event.kind == 'look':
            continue
        if event.kind != 'true' or abs(event.age_s) >= DEADLINE_S:
            first_s = last_s = None
            continue
        sent_s = at_s - max(event.age_s, 0.0)
        if last_s is None or at_s - last_s >= DEADLINE_S:
            first_s, last_s = at_s, sent_s
        last_s = max(last_s, sent_s)
    if first_s is None or last_s is None or now_s - last_s >= DEADLINE_S:
        return SLOW
    return min(SLOW + RISE * max(last_s - first_s - SETTLE_S, 0.0), 1.0)


@settings(suppress_health_check=[HealthCheck.too_slow])  # may fail on a busy machine
@given(events())
def test_the_factor_is_what_the_last_run_of_trues_has_earned(story: list[Event]) -> None:
    policy, now_s, past = SpeedPolicy(SETTINGS, START_S), START_S, []
    for event in story:
        now_s += event.step_s
        past.append((event, now_s))
        assert apply(policy, event.kind, now_s, event.age_s) == earned(past, now_s)


@given(events(low=-100))
def test_it_stays_in_range_and_rises_only_at_a_true_by_no_more_than_the_rate(
    story: list[Event]
) -> None:
    policy, now_s, before = SpeedPolicy(SETTINGS, START_S), START_S, SLOW
    true_s = -math.inf
    for event in story:
        now_s += event.step_s
        after = apply(policy, event.kind, now_s, event.age_s)
        assert SLOW <= after <= 1.0
        if after > before:
            assert event.kind == 'true' and abs(event.age_s) < DEADLINE_S
            assert 0 < now_s - true_s < DEADLINE_S  # renewed in time
            assert after - before <= RISE * (now_s - true_s)
        before = after
        # A true flag that arrives before an older one does not count.
        true_s = -math.inf if event.step_s < 0 else true_s
        if event.kind == 'true':
            true_s = max(true_s, now_s - max(event.age_s, 0.0))


@given(events(), steps(1, 400))
def test_a_clock_that_goes_back_leaves_it_slow_and_not_settled(
    story: list[Event], back_s: float
) -> None:
    policy, now_s = SpeedPolicy(SETTINGS, START_S), START_S
    for event in story:
        now_s += event.step_s
        apply(policy, event.kind, now_s, event.age_s)
    now_s -= back_s
    assert policy.take_flag(now_s, True) == SLOW
    for _ in range(4):
        now_s += SETTLE_S / 4
        assert policy.take_flag(now_s, True) == SLOW
    now_s += 0.5
    assert policy.take_flag(now_s, True) == SLOW + RISE * 0.5


def test_a_clock_that_stands_still_lets_it_fall_at_the_next_tick() -> None:
    policy = risen()
    now_s = START_S + 7.0
    assert policy.tick(now_s) > SLOW
    assert policy.take_flag(now_s, True) > SLOW
    assert policy.tick(now_s) == SLOW
    assert 'clock' in policy.reason
    for _ in range(100):
        policy.take_flag(now_s, True)
    assert policy.tick(now_s) == SLOW


def risen() -> SpeedPolicy:
    """Return a policy that received a true flag every half second, for the first 7 s."""
    policy = SpeedPolicy(SETTINGS, START_S)
    for n in range(15):
        policy.take_flag(START_S + n / 2, True)
    return policy


def test_it_starts_slow_settles_rises_and_arrives() -> None:
    policy = SpeedPolicy(SETTINGS, START_S)
    assert (policy.factor, policy.state, bool(policy.reason)) == (SLOW, 'slow', True)
    states = []
    for n in range(18):
        policy.take_flag(START_S + n / 2, True)
        states.append(policy.state)
    # 2 s to settle, (1 - 0.25) / 0.125 = 6 s to rise.
    assert states == ['settling'] * 4 + ['rising'] * 12 + ['full'] * 2
    assert (policy.factor, policy.reason, policy.num_falls) == (1.0, '', 0)


@pytest.mark.parametrize(('kind', 'named'), [
    ('false', 'false'), ('late', '1.5 s'), ('lost', 'its publisher is gone')])
def test_what_makes_it_fall_does_so_at_once_and_is_said(kind: str, named: str) -> None:
    policy = risen()
    assert policy.factor > SLOW
    assert apply(policy, kind, START_S + 7.25) == SLOW
    assert (named in policy.reason, policy.state, policy.num_falls) == (True, 'slow', 1)
    apply(policy, kind, START_S + 7.5)
    assert policy.num_falls == 1


def test_the_first_cause_is_said_and_how_long_nothing_came() -> None:
    policy = risen()
    policy.lose_flag(START_S + 7.25, 'its publisher is gone')
    assert policy.reason == 'its publisher is gone'
    policy.lose_flag(START_S + 8.5, STALE)
    assert 'its publisher is gone' in policy.reason and '1.5 s' in policy.reason
    policy.take_flag(START_S + 8.75, False)
    assert 'false' in policy.reason and 'gone' not in policy.reason


def test_it_is_stale_at_the_deadline_and_not_before() -> None:
    policy = risen()
    assert policy.factor_at(START_S + 7.984375) == SLOW + RISE * 5
    assert policy.tick(START_S + 8.0) == SLOW
    assert STALE in policy.reason and '1.0 s' in policy.reason


@pytest.mark.parametrize('age_s', [-1.5, 1.0, 1.5, math.inf, math.nan])
def test_a_flag_from_another_time_is_none(age_s: float) -> None:
    policy = risen()
    assert policy.take_flag(START_S + 7.5, True, age_s) == SLOW


def test_old_flags_taken_slowly_one_after_the_other_raise_nothing() -> None:
    # They were queued while the process did not run, and were sent half a second apart.
    policy = risen()
    sent_s = [START_S + 7.5 + n / 2 for n in range(10)]
    for n, at_s in enumerate(sent_s):
        now_s = START_S + 13.0 + n / 2
        assert policy.take_flag(now_s, True, now_s - at_s) == SLOW


def test_a_flag_on_its_way_for_a_while_is_stale_a_deadline_after_it_was_sent() -> None:
    policy = risen()
    assert policy.take_flag(START_S + 7.75, True, 0.25) == SLOW + RISE * 5.5
    assert policy.factor_at(START_S + 8.484375) == SLOW + RISE * 5.5
    assert policy.factor_at(START_S + 8.5) == SLOW


def test_a_first_flag_that_was_on_its_way_for_a_while_grows_old_from_its_sending() -> None:
    policy = SpeedPolicy(SETTINGS, START_S)
    policy.take_flag(START_S, True, 0.5)
    policy.take_flag(START_S + 0.75, True, 0.0)  # 1.25 s after the first was sent: a new run
    for n in range(1, 5):
        assert policy.take_flag(START_S + 0.75 + n / 2, True, 0.0) == SLOW
    assert policy.take_flag(START_S + 3.25, True, 0.0) == SLOW + RISE * 0.5


def test_old_flags_that_arrive_at_once_after_a_cut_raise_nothing() -> None:
    policy = risen()
    now_s = START_S + 20.0
    assert [policy.take_flag(now_s + n / 1024, True) for n in range(10)] == [SLOW] * 10
    for n in range(400):
        assert policy.factor_at(now_s + n / 64) == SLOW


@pytest.mark.parametrize(('values', 'sentence'), [
    ({'settle_s': 0.5}, 'settle_s is 0.5'), ({'slow_factor': 1.5}, 'slow_factor is 1.5'),
    ({'slow_factor': math.nan}, 'slow_factor is nan'),
    ({'deadline_s': math.inf, 'settle_s': math.inf}, 'deadline_s is inf'),
    ({'stamped': 'yes'}, "stamped is 'yes'"), ({'dead_line_s': 1.0}, "'dead_line_s'"),
])
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        speed_settings_from_dict(values)


def test_every_setting_has_the_default_and_the_range_that_vehicles_rely_on() -> None:
    found = {p.name: (p.default, p.lower, p.upper) for p in iter_parameters(SpeedSettings)}
    assert found == {
        'slow_factor': (0.2, 0.0, 1.0), 'deadline_s': (1.0, 0.05, 3600.0),
        'settle_s': (2.0, 0.05, 3600.0), 'rise_per_s': (0.1, 0.001, 100.0),
        'compare_clocks': (True, None, None), 'command_timeout_s': (0.5, 0.05, 3600.0),
        'stamped': (False, None, None)}


def test_settings_at_the_borders_of_each_other_are_accepted() -> None:
    settings = speed_settings_from_dict({'settle_s': 0.5, 'deadline_s': 0.5})
    assert settings == SpeedSettings(settle_s=0.5, deadline_s=0.5)


@pytest.mark.parametrize(('deadline_s', 'period_s'), [(1.0, 0.1), (0.2, 0.1), (0.1, 0.05)])
def test_the_deadline_is_looked_at_twice_within_itself(deadline_s: float, period_s: float) -> None:
    assert SpeedSettings(deadline_s=deadline_s).period_s == period_s


# --- velocity commands ---------------------------------------------------------------------------

TIMEOUT_S = 0.5
COMMAND = (2.0, -1.0, 0.5, 0.0, 0.0, -0.25)
ZERO = (0.0,) * 6


def test_every_velocity_is_scaled() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.take(10.0, COMMAND, 0.5) == (1.0, -0.5, 0.25, 0.0, 0.0, -0.125)
    assert limiter.take(10.1, COMMAND, 0.0) == ZERO


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
       st.floats(0, 1))
def test_a_command_is_never_made_faster_or_turned_round(
    command: list[float], factor: float
) -> None:
    limited = CommandLimiter(TIMEOUT_S).take(0.0, command, factor)
    assert all(abs(b) <= abs(a) and a * b >= 0 for a, b in zip(command, limited, strict=True))


@for_each('bad', [math.nan, math.inf, -math.inf])
@for_each('axis', range(6))
def test_what_is_not_finite_is_zero_in_every_axis_and_counted(bad: float, axis: int) -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 1.0)
    command = (*COMMAND[:axis], bad, *COMMAND[axis + 1:])
    assert limiter.take(10.1, command, 1.0) == ZERO
    assert limiter.num_refused == 1
    # The valid command before it is not resumed either.
    assert limiter.tick(10.2, 0.5) == ZERO
    assert limiter.take(10.3, COMMAND, 1.0) == COMMAND
    assert limiter.num_refused == 1


def test_zero_once_when_commands_stop_and_then_nothing_until_the_next() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.tick(9.0, 1.0) is None and limiter.reason == ''
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.tick(10.0, 1.0) is None  # at the same moment
    assert limiter.tick(10.25, 1.0) is None
    assert limiter.tick(10.5, 1.0) == ZERO
    assert [limiter.tick(10.5 + n, 0.1) for n in range(5)] == [None] * 5
    assert limiter.take(20.0, COMMAND, 1.0) == COMMAND
    assert limiter.tick(21.0, 1.0) == ZERO


def test_a_command_in_force_is_slowed_down_when_the_factor_falls_but_never_sped_up() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 0.5)
    assert limiter.tick(10.1, 1.0) is None
    assert limiter.tick(10.2, 0.5) is None
    assert limiter.tick(10.3, 0.25) == tuple(v / 4 for v in COMMAND)
    assert limiter.tick(10.4, 0.25) is None
    assert limiter.tick(10.45, 0.5) is None


def test_a_clock_that_goes_back_ends_the_command() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.tick(9.9, 1.0) == ZERO


@for_each('age_s', [-0.5, 0.5, 3600.0, math.nan, math.inf])
def test_a_command_that_is_too_old_or_too_new_is_zero_with_the_reason(age_s: float) -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.take(10.0, COMMAND, 1.0, age_s) == ZERO
    assert (limiter.num_late, limiter.num_refused) == (1, 0)
    assert f'{age_s:.1f} s' in limiter.reason and 'compare_clocks' in limiter.reason
    assert limiter.tick(10.4, 1.0) is None
    assert limiter.tick(10.5, 1.0) == ZERO
    assert limiter.take(11.0, COMMAND, 1.0, 0.0) == COMMAND
    assert limiter.reason == ''


def test_a_command_is_valid_from_when_it_was_sent_and_one_from_the_future_from_now() -> None:
    for age_s, end_s in ((0.25, 10.25), (0.0, 10.5), (-0.25, 10.5)):
        limiter = CommandLimiter(TIMEOUT_S)
        assert limiter.take(10.0, COMMAND, 1.0, age_s) == COMMAND
        assert limiter.tick(end_s - 0.01, 1.0) is None
        assert limiter.tick(end_s, 1.0) == ZERO


def test_stopping_gives_zero_only_where_a_command_was_in_force() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.stop() is None
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.stop() == ZERO
    assert limiter.stop() is None
    # A later tick does not slow down the ended command.
    assert limiter.tick(10.1, 0.5) is None


# --- the publishers of the flag ------------------------------------------------------------------

NODE, ROGUE, SECOND = b'node', b'rogue', b'second'
TWO, BARRED = '2 publishers of the flag', 'the flag comes from a publisher that was active beside'


def watched(
    steps: Any, start: tuple[bytes, ...] = (NODE,), alone_s: float = 10.0
) -> tuple[PublisherWatch, list[str]]:
    """Return a watch and its answer at each step (seconds, publishers present, flag number)."""
    watch = PublisherWatch(DEADLINE_S)
    watch.look(START_S - alone_s, start)
    said = []
    for now_s, present, *number in steps:
        said.append(watch.look(START_S + now_s, present))
        if number:
            watch.hear(START_S + now_s, number[0])
    return watch, said


def begins(said: list[str], *expected: str) -> bool:
    return all(text.startswith(start) and bool(text) is bool(start)
               for text, start in zip(said, expected, strict=True))


def test_one_publisher_is_relied_on_and_two_never_are() -> None:
    _, said = watched([(0, [NODE], 1), (1, [NODE, ROGUE], 2), (2, [NODE, ROGUE]), (3, [])])
    assert begins(said, '', TWO, TWO, '')


def test_of_two_that_publish_the_one_that_was_alone_before_is_relied_on_afterwards() -> None:
    both = [NODE, ROGUE]
    for numbers in ((8, 9), (1, 8, 2)):  # flag numbers: the node continues; both alternate
        past = [(0, [NODE], 7), *((0.1 * n, both, number) for n, number in enumerate(numbers, 1))]
        _, said = watched([*past, (5, [ROGUE]), (3600, [ROGUE]), (3601, [NODE]), (3602, [ROGUE])])
        assert begins(said[-4:], BARRED, BARRED, '', BARRED)


def test_a_node_that_takes_over_from_a_dead_one_is_relied_on_when_that_one_has_left() -> None:
    both = [NODE, SECOND]
    # The first received number is 1, or later if some were lost, at first or later.
    for first, restart_s in ((1, 0.5), (4, 0.5), (12, 0.5), (8, DEADLINE_S)):
        _, said = watched([(0, [NODE], 7), (restart_s, both, first), (2, both, first + 1),
                           (3, both, first + 7), (4, both, first + 8), (20, [SECOND], first + 9)])
        assert begins(said, '', *[TWO] * 4, '')


def test_a_node_that_dies_twice_is_relied_on_after_each_death() -> None:
    third = b'third'
    _, said = watched([(0, [NODE], 7), (2, [NODE, SECOND], 1), (20, [SECOND], 2),
                       (22, [SECOND, third], 1), (40, [third], 2)])
    assert begins(said, '', TWO, '', TWO, '')


def test_two_that_are_found_together_are_neither_relied_on_alone() -> None:
    both = [NODE, ROGUE]
    for start, alone_s in ((both, 10.0), ([NODE], 0.5 * DEADLINE_S)):
        _, said = watched([(0, both, 7), (0.1, both, 3), (0.2, both, 8), (0.3, both, 4),
                           (5, [NODE]), (6, [ROGUE]), (7, [SECOND])], tuple(start), alone_s)
        assert begins(said, *[TWO] * 4, BARRED, BARRED, '')


def test_without_numbers_a_publisher_that_appears_while_flags_arrive_is_the_second() -> None:
    for silence_s, expected in ((0.5 * DEADLINE_S, BARRED), (DEADLINE_S, '')):
        _, said = watched([(0, [NODE], None), (silence_s, [NODE, SECOND], None),
                           (20, [SECOND], None)])
        assert begins(said, '', TWO, expected)


def test_a_publisher_that_was_never_heard_shows_nothing() -> None:
    for number in (1, None):
        _, said = watched([(0, [NODE, SECOND], number), (1, [SECOND], number and 2)])
        assert begins(said, TWO, '')


def test_one_that_was_alone_for_just_the_deadline_is_relied_on() -> None:
    both = [NODE, ROGUE]
    _, said = watched([(0, both, 7), (0.1, both, 3), (0.2, both, 8), (0.3, both, 4),
                       (5, [NODE]), (6, [ROGUE])], alone_s=DEADLINE_S)
    assert begins(said, *[TWO] * 4, '', BARRED)


def test_one_publisher_alone_is_relied_on_however_its_numbers_go() -> None:
    _, said = watched([(0.1 * n, [NODE], number) for n, number in enumerate((7, 3, 2, 2, 9, 1))])
    assert said == [''] * 6


def test_a_number_that_comes_twice_is_of_two() -> None:
    both = [NODE, SECOND]
    _, said = watched([(0, [NODE], 7), (DEADLINE_S, both, 1), (1.1, both, 1), (20, [SECOND])])
    assert begins(said, '', TWO, TWO, BARRED)


def test_one_that_comes_back_beside_its_successor_is_not_relied_on_either() -> None:
    both = [NODE, SECOND]
    _, said = watched([(0, [SECOND], 1), (5, both, 2), (5.1, both, 9), (5.2, both, 3),
                       (10, [NODE]), (11, [SECOND])])
    assert begins(said, '', TWO, TWO, TWO, BARRED, BARRED)


@given(st.lists(st.sampled_from((NODE, ROGUE)), min_size=2, max_size=30),
       st.integers(1, 20), st.integers(1, 20))
def test_a_rogue_that_spoke_between_flags_of_the_node_is_never_relied_on(
    order: list[bytes], node_number: int, rogue_number: int
) -> None:
    watch = PublisherWatch(DEADLINE_S)
    watch.look(START_S - 10, [NODE])
    watch.hear(START_S - 0.5, node_number)
    numbers = {NODE: node_number, ROGUE: rogue_number - 1}
    for n, who in enumerate(order):
        numbers[who] += 1
        assert watch.look(START_S + 0.1 * n, [NODE, ROGUE]).startswith(TWO)
        watch.hear(START_S + 0.1 * n, numbers[who])
    # The node sent a flag while the rogue was present: before the rogue's first or between two.
    words = b' '.join(order)
    if words.startswith(NODE) or ROGUE in words.partition(ROGUE)[2].partition(NODE)[2]:
        assert watch.look(START_S + 100, [ROGUE]).startswith(BARRED)
    assert watch.look(START_S + 101, [NODE]) == ''
