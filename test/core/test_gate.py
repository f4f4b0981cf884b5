# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""When the flag falls and rises, and which limits the gate uses: a promise's or the thresholds."""

import dataclasses
import logging
import math
from pathlib import Path
import re
from typing import Any
from unittest import mock

from cases import for_each
from fake_backend import FakeBackend
import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.core.calibration import Calibration, Promise
from uncertainty_seg.core.gate import (
    cannot_rise,
    Gate,
    gate_limits,
    largest_ratio,
    promise_text,
    Verdict,
    VOID,
    weakened_by,
)
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import GateSettings, settings_from_dict
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle

LIMITS = {'entropy.mean': 0.2, 'entropy.top': 0.5}
GOOD = {'entropy.mean': 0.1, 'entropy.top': 0.2}
BAD = {'entropy.mean': 0.1, 'entropy.top': 0.6}
NAN = {'entropy.mean': math.nan, 'entropy.top': 0.2}


def gate(**changes: Any) -> Gate:
    return Gate(GateSettings(**{'rise_frames': 2, **changes}), LIMITS)


def raised(**changes: Any) -> Gate:
    it = gate(**changes)
    for _ in range(5):
        it.update(GOOD)
    assert it.last.is_confident
    return it


def test_a_frame_is_worth_a_label_if_it_was_over_a_limit_or_could_not_be_judged() -> None:
    it = gate(rise_frames=2, fall_frames=2, fall_window=3)
    assert it.last.is_worth_a_label  # no frame was judged yet
    worth = [it.update(scores).is_worth_a_label for scores in (GOOD, LIMITS, GOOD, BAD, NAN)]
    assert worth == [False, False, False, True, True]
    assert it.fault('engine error').is_worth_a_label
    assert Verdict(True, (), math.nan, 'confident').is_worth_a_label
    up = raised()
    assert [up.update(scores).is_worth_a_label for scores in (GOOD, LIMITS)] == [False, False]
    assert up.last.is_confident


def test_it_rises_after_the_asked_number_of_good_frames() -> None:
    it = gate(rise_frames=3)
    assert (it.last.is_confident, it.last.kind) == (False, 'unknown')
    assert [it.update(GOOD).is_confident for _ in range(4)] == [False, False, True, True]


def test_one_score_over_its_limit_makes_it_fall_and_is_named() -> None:
    verdict = raised().update(BAD)
    assert not verdict.is_confident
    assert verdict.kind == 'uncertain'
    assert verdict.reasons == ('entropy.top 0.6 over 0.5',)
    assert verdict.score_ratio == pytest.approx(1.2)


def test_between_the_two_limits_it_stays_up_but_does_not_rise() -> None:
    between = {'entropy.mean': 0.191, 'entropy.top': 0.2}
    it = raised()
    assert it.update(between).is_confident
    it.update(BAD)
    assert not any(it.update(between).is_confident for _ in range(10))


@pytest.mark.parametrize(('scores', 'named'), [
    (NAN, 'entropy.mean'), ({}, 'entropy.mean'), ({'entropy.mean': 0.1}, 'entropy.top'),
    ({'entropy.mean': math.inf, 'entropy.top': 0.1}, 'entropy.mean')])
def test_a_score_that_is_no_number_or_missing_is_a_fault(
    scores: dict[str, float], named: str
) -> None:
    verdict = raised().update(scores)
    assert verdict.kind == 'fault'
    assert not verdict.is_confident
    assert verdict.score_ratio == math.inf
    assert [named in reason for reason in verdict.reasons] == [True]


def test_n_of_m_bad_frames_are_needed_when_asked_for() -> None:
    it = raised(fall_frames=2, fall_window=3)
    assert it.update(BAD).is_confident
    assert it.update(GOOD).is_confident
    assert not it.update(BAD).is_confident


@pytest.mark.parametrize('has_fault', [False, True])
def test_bad_frames_from_before_it_rose_count_among_the_last_m(has_fault: bool) -> None:
    it = gate(rise_frames=1, fall_frames=2, fall_window=4)
    it.update(BAD)
    if has_fault:
        it.fault('x')
    assert it.update(GOOD).is_confident
    assert not it.update(BAD).is_confident


def test_a_good_frame_never_makes_it_fall() -> None:
    it = gate(rise_frames=1, fall_window=4)
    it.update(BAD)
    between = {'entropy.mean': 0.191, 'entropy.top': 0.2}
    assert [it.update(scores).is_confident for scores in (GOOD, between, between)] == [True] * 3


def test_a_score_exactly_at_the_rise_ratio_is_good_enough_to_rise() -> None:
    it = Gate(GateSettings(rise_frames=1), {'a': 2.0})
    assert not it.update({'a': 1.901}).is_confident
    assert it.update({'a': 1.9}).is_confident


NARROW = {'a': 0.40}  # floor 0.40, just below the limit of 0.41


def test_a_score_that_never_comes_near_0_rises_by_its_way_from_the_least_value() -> None:
    for value, rises in ((0.40, True), (0.4094, True), (0.4096, False), (0.41, False)):
        it = Gate(GateSettings(rise_frames=1), {'a': 0.41}, floors=NARROW)
        assert it.update({'a': value}).is_confident == rises
    assert it.update({'a': 0.3}).is_confident  # a score below its floor rises too
    # Without a floor the rise limit is a share of the limit itself, which no frame reaches.
    without = Gate(GateSettings(rise_frames=1), {'a': 0.41})
    assert not without.update({'a': 0.40}).is_confident
    assert Gate(GateSettings(rise_frames=1), {'a': 0.41}, floors=NARROW).update(
        {'a': 0.40}).is_confident


@pytest.mark.parametrize('floor', [0.41, 0.5, 1.0])
def test_a_floor_at_or_above_the_limit_makes_the_way_no_shorter(floor: float) -> None:
    for value in (0.38, 0.39, 0.4, 0.41):
        with_floor, without = (Gate(GateSettings(rise_frames=1), {'a': 0.41}, floors=floors)
                               for floors in ({'a': floor}, {}))
        assert with_floor.update({'a': value}) == without.update({'a': value})


def test_each_score_has_its_own_floor() -> None:
    limits = {'a': 0.41, 'b': 0.2}
    it = Gate(GateSettings(rise_frames=1), limits, floors={**NARROW, 'c': 0.1})
    assert not it.update({'a': 0.40, 'b': 0.195}).is_confident
    assert it.update({'a': 0.405, 'b': 0.19}).is_confident


STEPS = st.integers(-3, 3)


@hypothesis.given(
    st.floats(2.0**-126, 1, exclude_max=True), st.floats(0, 1) | STEPS,
    st.floats(0, 1, exclude_min=True, exclude_max=True), st.floats(0, 1) | st.integers(1, 3))
@hypothesis.settings(max_examples=1000, deadline=None)
def test_the_flag_neither_rises_nor_stays_above_a_threshold_whatever_floor_ratio_and_rounding(
    limit: float, floor: float | int, ratio: float, over: float | int
) -> None:
    """Check, where an integer `floor` or `over` is an offset from the threshold in ulps."""
    floor, over = (
        max(limit + n * math.ulp(limit), 0.0) if isinstance(n, int) else n
        for n in (floor, over))
    hypothesis.assume(over > limit)
    with mock.patch('uncertainty_seg.core.gate.RISE_RATIO', ratio):
        once, twice = (Gate(GateSettings(rise_frames=n), {'a': limit, 'b': 0.5},
                            floors={'a': floor}) for n in (1, 2))
        above, least = {'a': over, 'b': 0.0}, {'a': 0.0, 'b': 0.0}
        assert [once.update(scores).is_confident for scores in (above, least, above)] == [
            False, True, False]
        # Such a frame does not count towards rise_frames either.
        assert [twice.update(scores).is_confident for scores in (least, above, least, least)] == [
            False, False, False, True]


HELD = {'a fault': None, 'bad': BAD, 'good': GOOD}


@for_each('hold_s, before, times, flags', [
    (2.0, [('bad', 10.0)], [10.5, 11.9, 12.0], [False, False, True]),
    # The hold starts at the last bad frame; two frames with equal stamps do not restart it.
    (2.0, [('bad', 10.0), ('bad', 11.0)], [12.5, 12.5, 13.0], [False, False, True]),
    # A fault without a time holds from the next frame, one with a time from that time.
    (1.0, [('good', 0.0), ('good', 1.0), ('a fault', None)], [50.0, 50.9, 51.0],
     [False, False, True]),
    (1.0, [('good', 0.0), ('good', 1.0), ('a fault', 1.5)], [2.0, 2.5], [False, True]),
    # The first frame starts the hold, whatever its stamp.
    (1.0, [], [7.0, 7.75, 8.0], [False, False, True]),
    (1.0, [], [-7.0, -6.25, -6.0], [False, False, True]),
    # A late or invalid stamp never ends the hold early.
    *((5.0, [('bad', 10.0)], [late, 10.1, 15.0, 15.1], [False, False, False, True])
      for late in (0.0, 9.0, math.nan, math.inf, -math.inf)),
    # A clock that is set back permanently restarts it once; one that stands still never ends it.
    (2.0, [('bad', 1000.0)], [0.0, 0.5, 2.4, 2.5], [False, False, False, True]),
    (0.1, [], [0.0] * 100, [False] * 100),
])
def test_a_fallen_flag_stays_down_for_the_hold(
    hold_s: float, before: list[tuple[str, Any]], times: list[float], flags: list[bool]
) -> None:
    it = gate(rise_frames=1, hold_s=hold_s)
    for what, now_s in before:
        scores = HELD[what]
        assert it.fault('x', now_s) if scores is None else it.update(scores, now_s)
    assert [it.update(GOOD, now_s).is_confident for now_s in times] == flags


def test_good_frames_and_the_hold_are_both_needed_and_what_is_left_is_said() -> None:
    it = gate(rise_frames=3, hold_s=2.5)
    it.update(BAD, 0.0)
    verdicts = [it.update(GOOD, now_s) for now_s in (0.5, 1.0, 2.0, 2.5)]
    assert [one.is_confident for one in verdicts] == [False, False, False, True]
    assert verdicts[2].kind == 'recovering' and '0.5 s' in verdicts[2].reasons[0]
    it.update(BAD, 10.0)
    assert [it.update(GOOD, now_s).is_confident for now_s in (15.0, 16.0, 17.0)] == [
        False, False, True]


def test_the_pipeline_holds_by_the_stamps_of_the_frames(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    settings = settings_from_dict({'gate.rise_frames': 1, 'gate.hold_s': 2.0})
    pipeline = Pipeline(bundle, FakeBackend(bundle.card), settings)
    blue = np.full((96, 128, 3), (255, 0, 0), np.uint8)
    first_ns = 1_700_000_000_000_000_000  # a current stamp, to check float precision
    flags = []
    for second in (0, 1.9, 2, 9, 10, 10.9, 12):
        if second == 9:
            pipeline.fault('engine error')  # holds from the frame at 9 s
        result = pipeline.process(blue, first_ns + round(second * 1e9))
        flags.append(result.verdict.is_confident)
    assert flags == [False, False, True, False, False, False, True]


RATIOS = st.sampled_from([0.5, 0.8, 0.92, 0.97, 1.0, 1.04, 1.3, 1.9])
TIMED = st.lists(st.tuples(RATIOS | st.none(), st.floats(0, 1)), max_size=40)
SETTINGS = st.builds(
    GateSettings, rise_frames=st.integers(1, 4), fall_frames=st.integers(1, 3),
    fall_window=st.integers(3, 6),
    hold_s=st.sampled_from([0.0, 0.3, 1.5]))


def judge(settings: GateSettings, limit: float, events: list[tuple[float | None, float]],
          direction: int = 1, floor: float = 0.0) -> list[bool]:
    """Return the flags after events (score, or None for a fault; time step) with one limit."""
    it, now_s, flags = Gate(settings, {'a': limit}, floors={'a': floor}), 100.0, []
    for score, step_s in events:
        now_s += direction * step_s
        verdict = it.fault('x', now_s) if score is None else it.update({'a': score}, now_s)
        flags.append(verdict.is_confident)
    return flags


@hypothesis.given(SETTINGS, st.sampled_from([1.0, 1.02, 1.1, 1.5, 3.0]), TIMED,
                  st.sampled_from([1, 1, -1]), st.sampled_from([0.0, 0.4, 0.99, 1.0, 1.05, 2.0]))
@hypothesis.settings(max_examples=600, deadline=None)
def test_a_smaller_limit_is_true_only_where_a_larger_one_is(
    settings: GateSettings, larger: float, events: list[tuple[float | None, float]], way: int,
    floor: float,
) -> None:
    strict, loose = (judge(settings, limit, events, way, floor) for limit in (1.0, larger))
    assert all(b or not a for a, b in zip(strict, loose, strict=True))


class GateMachine(stateful.RuleBasedStateMachine):
    """A camera whose clock is sometimes set back and whose frames may arrive late."""

    @stateful.initialize(settings=SETTINGS, floor=st.sampled_from([0.0, 0.6, 0.95]))
    def start(self, settings: GateSettings, floor: float) -> None:
        self.settings, self.it = settings, Gate(settings, {'a': 1.0}, floors={'a': floor})
        # Computed independently: the limit for a rise, never above the limit of 1.
        self.rise_limit = 1 - 0.05 * (1 - floor)
        self.true_s, self.offset_s, self.was_late = 0.0, 0.0, False
        self.last_trouble_s: float | None = None  # in true time; None before the first event
        self.has_stamp = False  # a frame can only be late after another one
        self.scores: list[float] = []  # since the last fault

    @stateful.rule(score=RATIOS, step_s=st.floats(0, 1), back_s=st.sampled_from([0.0, 0.0, 3.0]))
    def frame(self, score: float, step_s: float, back_s: float) -> None:
        self.offset_s -= back_s
        self.was_late = False
        self.judge(score, step_s, self.true_s + step_s + self.offset_s)

    @stateful.precondition(lambda self: self.has_stamp and not self.was_late)
    @stateful.rule(score=RATIOS, step_s=st.floats(0, 1), late_s=st.floats(1.01, 5))
    def late_frame(self, score: float, step_s: float, late_s: float) -> None:
        self.was_late = True
        self.judge(score, step_s, self.true_s + step_s + self.offset_s - late_s)

    def judge(self, score: float, step_s: float, stamp_s: float) -> None:
        self.true_s += step_s
        self.has_stamp = True
        was_up = self.it.last.is_confident
        is_up = self.it.update({'a': score}, stamp_s).is_confident
        self.scores.append(score)
        if score > 1 or self.last_trouble_s is None:
            self.last_trouble_s = self.true_s
        if is_up and not was_up:
            good = self.scores[-self.settings.rise_frames:]
            assert len(good) == self.settings.rise_frames
            assert max(good) <= self.rise_limit <= 1
            assert self.true_s - self.last_trouble_s >= self.settings.hold_s - 1e-6
        if is_up:
            bad = [s > 1 for s in self.scores[-self.settings.fall_window:]]
            assert score <= 1 or sum(bad) < self.settings.fall_frames

    @stateful.rule(has_time=st.booleans(), step_s=st.floats(0, 1))
    def fault(self, has_time: bool, step_s: float) -> None:
        self.true_s += step_s
        self.has_stamp |= has_time
        verdict = self.it.fault('x', self.true_s + self.offset_s if has_time else None)
        self.after_fault(verdict)

    @stateful.rule(score=st.sampled_from([math.nan, math.inf, None]))
    def no_number(self, score: float | None) -> None:
        scores = {} if score is None else {'a': score}
        self.has_stamp = True
        self.after_fault(self.it.update(scores, self.true_s + self.offset_s))

    def after_fault(self, verdict: Verdict) -> None:
        self.scores, self.last_trouble_s = [], self.true_s
        assert (verdict.is_confident, verdict.kind) == (False, 'fault')

    @stateful.invariant()
    def the_verdict_says_why(self) -> None:
        last = self.it.last
        assert last.reasons
        assert last.is_confident == (last.kind == 'confident')


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = hypothesis.settings(
    max_examples=150, stateful_step_count=40, deadline=None)


@for_each('limits', [{}, {'a': 0.0, 'b': 1.0}, {'a': math.nan}, {'a': math.inf}])
def test_limits_that_cannot_judge_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="'a'" if limits else 'missing'):
        Gate(GateSettings(), limits)


# --- the score -----------------------------------------------------------------------------------


@pytest.mark.parametrize(('ratios', 'expected'), [
    # A guard says nothing about the order, unless it refuses the frame or there is nothing else.
    ({'m': 0.3, 'features.knn': 0.9}, 0.3), ({'m': 0.3, 'features.knn': 1.0}, 1.0),
    ({'m': 0.3, 'features.knn': 1.2}, 1.2), ({'m': 1.7, 'features.knn': 1.2}, 1.7),
    ({'m': 0.3, 'n': 0.4}, 0.4), ({'features.knn': 0.9}, 0.9),
    ({'m': 0.3, 'features.knn': math.nan}, math.inf), ({'m': math.nan, 'features.knn': 0.1},
                                                       math.inf),
])
def test_the_ratio_keeps_the_order_and_a_guard_can_only_refuse(
    ratios: dict[str, float], expected: float
) -> None:
    assert largest_ratio(ratios) == expected
    if math.isfinite(expected):
        it = Gate(GateSettings(rise_frames=1), dict.fromkeys(ratios, 0.5))
        found = it.update({name: 0.5 * ratio for name, ratio in ratios.items()})
        assert found.score_ratio == expected and found.is_confident is (expected <= 0.95)


@hypothesis.given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=2, max_size=9))
def test_accepted_frames_are_ranked_as_by_the_order_alone(
    frames: list[tuple[float, float]]
) -> None:
    order, guard = np.transpose(frames)
    found = largest_ratio({'margin.class_mean': order, 'features.knn': guard})
    is_over = (order > 1) | (guard >= 1)
    assert (found[~is_over] == order[~is_over]).all() and (found[is_over] >= 1).all()


# --- the limits ----------------------------------------------------------------------------------

STRICT = Promise(0.05, {'a': 0.1, 'b': 0.2}, 'iou<0.5', 60, 60, 12, 0.04, 0.7, 0.03, 0.1)
LOOSE = Promise(0.1, {'a': 0.3, 'b': 0.4}, 'iou<0.5', 60, 60, 12, 0.09, 0.8, 0.08, 0.2)
THRESHOLDS = {'a': 0.5, 'b': 0.6, 'c': 0.7}
WITH = Calibration(8, 0, 'fixed', 'fp32', 1.0, THRESHOLDS, ('a', 'b'), 0.98, 9, 9,
                   'm', 'd', (LOOSE, STRICT))
WITHOUT = dataclasses.replace(WITH, promises=())


@pytest.mark.parametrize(('alpha', 'promise'), [(0.0, STRICT), (0.05, STRICT), (0.1, LOOSE)])
def test_the_promise_asked_for_gives_the_limits_and_0_is_the_strictest(
    alpha: float, promise: Promise
) -> None:
    assert gate_limits(WITH, GateSettings(alpha=alpha)) == promise.limits
    assert gate_limits(WITH, GateSettings(alpha=alpha, scores=('b', 'a'))) == promise.limits


def test_an_alpha_nobody_calibrated_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r'0\.2.*\[0.1, 0.05\]'):
        gate_limits(WITH, GateSettings(alpha=0.2))
    with pytest.raises(ConfigError, match=r'\[\]'):
        gate_limits(WITHOUT, GateSettings(alpha=0.05))


def test_other_scores_have_thresholds_and_no_promise() -> None:
    assert gate_limits(WITH, GateSettings(scores=('a',))) == {'a': 0.5}
    assert gate_limits(WITHOUT, GateSettings()) == {'a': 0.5, 'b': 0.6}
    assert gate_limits(WITHOUT, GateSettings(scores=('c',))) == {'c': 0.7}


@pytest.mark.parametrize(('settings', 'with_promise', 'without'), [
    (GateSettings(), [], []), (GateSettings(threshold_scale=0.5), [], []),
    (GateSettings(threshold_scale=1.5), ['threshold_scale'], ['threshold_scale']),
    (GateSettings(fall_frames=2, fall_window=3), ['fall_frames'], ['fall_frames']),
    (GateSettings(scores=('b', 'a')), [], []),
    (GateSettings(scores=('a',)), ['scores'], ['scores']),
    # More scores make a gate stricter, but the promise holds for its own limits only.
    (GateSettings(scores=('a', 'b', 'c')), ['scores'], []),
    (GateSettings(alpha=0.05), [], None), (GateSettings(alpha=0.1), ['alpha'], None),
    (GateSettings(alpha=0.1, threshold_scale=2.0), ['threshold_scale', 'alpha'], None),
])
def test_each_setting_that_weakens_the_gate_is_named_with_and_without_a_promise(
    settings: GateSettings, with_promise: list[str], without: list[str] | None
) -> None:
    for calibration, wanted in ((WITH, with_promise), (WITHOUT, without)):
        if wanted is not None:
            found = weakened_by(calibration, settings)
            assert [words.split()[0] for words in found] == [f'gate.{name}' for name in wanted]


def test_a_score_without_a_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match="'d'.*a, b, c"):
        gate_limits(WITH, GateSettings(scores=('a', 'd', 'e')))
    many = dataclasses.replace(WITHOUT, thresholds=THRESHOLDS | dict.fromkeys(
        ('margin.mean', 'u', 'v', 'w'), 0.5))
    for wrong, known in ((('margin.meen', 'b', 'zz'), 'margin.mean .6 more'),
                         (('zz', 'margin.meen'), 'a, b, c, margin.mean, u .2 more')):
        with pytest.raises(ConfigError, match=f'{wrong[0]!r}.* {known}'):
            gate_limits(many, GateSettings(scores=wrong))


def test_the_scale_moves_every_limit_and_may_not_lift_one_past_all_scores(
    caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert gate_limits(WITH, GateSettings(threshold_scale=0.5)) == {'a': 0.05, 'b': 0.1}
    with pytest.raises(ConfigError, match='scale 5 .* b 1,'):
        gate_limits(WITH, GateSettings(threshold_scale=5.0))


@pytest.mark.parametrize(('calibration', 'settings', 'says'), [
    (WITH, GateSettings(), 'accepted and bad (iou<0.5) in at most 0.05 of the frames'),
    (WITH, GateSettings(alpha=0.1, threshold_scale=0.5), VOID),
    (WITH, GateSettings(scores=('b', 'a')),
     'accepted and bad (iou<0.5) in at most 0.05 of the frames'),
    (WITH, GateSettings(scores=('a',)), VOID), (WITH, GateSettings(threshold_scale=1.1), VOID),
    (WITH, GateSettings(fall_frames=2, fall_window=2), VOID), (WITHOUT, GateSettings(), ''),
    (WITHOUT, GateSettings(threshold_scale=1.1), VOID),
    (dataclasses.replace(WITH, carried_error=0.005), GateSettings(),
     'accepted and bad (iou<0.5) in at most 0.05 of the frames, and 0.005 more by limits carried '
     'over from another precision'),
    (dataclasses.replace(WITHOUT, carried_error=0.005), GateSettings(), ''),
    (dataclasses.replace(WITH, promises=(dataclasses.replace(STRICT, num_bad=0),)), GateSettings(),
     'accepted and bad (iou<0.5) in at most 0.05 of the frames (an empty promise: none of the 60 '
     'frames behind it is bad)'),
])
def test_what_is_promised_is_said_with_every_verdict(
    calibration: Calibration, settings: GateSettings, says: str
) -> None:
    assert promise_text(calibration, settings) == says
    gate = Gate(settings, gate_limits(calibration, settings), says)
    good, bad = dict.fromkeys('abc', 0.001), dict.fromkeys('abc', 0.99)
    verdicts = [gate.last, gate.update(good), gate.update(bad), gate.fault('broken')]
    assert [verdict.promise for verdict in verdicts] == [says] * 4


def test_a_score_below_0_is_a_fault_and_never_a_good_frame() -> None:
    gate = Gate(GateSettings(rise_frames=1), {'a': 0.5})
    for value, shown in ((-5.0, '-5'), (-1e-6, '-1e-06')):
        assert gate.update({'a': 0.1}).is_confident
        verdict = gate.update({'a': value})
        assert (verdict.is_confident, verdict.kind) == (False, 'fault')
        assert [f' {shown}' in reason for reason in verdict.reasons] == [True]
    assert gate.update({'a': 0.0}).is_confident  # 0 itself is a score
    two = Gate(GateSettings(), {'a': 0.5, 'b': 0.5, 'c': 0.5})
    (reason,) = two.update({'a': 0.1, 'b': -1.0, 'c': -2.0}).reasons
    assert '-1' in reason and '-2' not in reason


# --- limits at which the flag would never rise ---------------------------------------------------

TIGHT = dataclasses.replace(
    WITHOUT, floors={'a': 0.40}, thresholds={'a': 0.41, 'b': 0.6, 'c': 0.7})


@pytest.mark.parametrize(('calibration', 'settings', 'says'), [
    (WITH, GateSettings(), ''), (WITHOUT, GateSettings(), ''),  # no floors are known
    (TIGHT, GateSettings(), ''), (TIGHT, GateSettings(scores=('b', 'c')), ''),
    (TIGHT, GateSettings(threshold_scale=0.9), '0.369 of a.* 0.4; .*gate.threshold_scale'),
    (dataclasses.replace(TIGHT, floors={'a': 0.41}), GateSettings(),
     '0.41 of a.* 0.41; .*gate.alpha'),
    (dataclasses.replace(TIGHT, floors={'c': 0.69}), GateSettings(scores=('c',)), ''),
])
def test_a_limit_that_no_frame_could_rise_at_is_said_with_what_to_do(
    calibration: Calibration, settings: GateSettings, says: str
) -> None:
    found = cannot_rise(calibration, settings, gate_limits(calibration, settings))
    assert bool(found) == bool(says) and re.search(says, found)


def test_the_pipeline_takes_the_floors_of_the_calibration_and_warns_of_a_flag_that_stays_down(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blue = np.full((96, 128, 3), (255, 0, 0), np.uint8)
    bundle = load_bundle(str(tiny_bundle))
    made, settings = bundle.calibration, settings_from_dict({'gate.rise_frames': 1})
    assert made is not None
    entropy = Pipeline(bundle, FakeBackend(bundle.card), settings).measure(blue).scores[
        'entropy.mean']
    made = dataclasses.replace(
        made, thresholds={**made.thresholds, 'entropy.mean': entropy / 0.96})
    for floors, rises in ({}, False), ({'entropy.mean': entropy}, True), \
            ({'entropy.mean': entropy / 0.95}, False):
        caplog.clear()
        changed = dataclasses.replace(
            bundle, calibration=dataclasses.replace(made, floors=floors))
        pipeline = Pipeline(changed, FakeBackend(bundle.card), settings)
        warned = 'the flag may never rise: no frame' in caplog.text
        assert pipeline.process(blue).verdict.is_confident == rises
        assert warned == (bool(floors) and not rises)


PATIENT = GateSettings(rise_frames=1, fall_frames=100, fall_window=100)


@for_each('bad_at_s, flags', [
    # The third frame is 1 s after the first.
    ([10.0, 10.5, 11.0], [True, True, False]),
    ([10.0, 10.999], [True, True]),
    # A repeated stamp has no effect, a stamp that goes back makes the flag fall.
    ([10.0, 10.0, 10.0], [True, True, True]),
    ([10.0, 10.1, 10.05], [True, True, False]),
    ([10.0, math.nan], [True, False]),
])
def test_bad_frames_in_a_row_are_overlooked_for_a_second_at_most(
    bad_at_s: list[float], flags: list[bool]
) -> None:
    gate = Gate(PATIENT, {'a': 0.5})
    assert gate.update({'a': 0.1}, 9.0).is_confident
    assert gate.update({'a': 0.9}, 9.8).is_confident
    assert gate.update({'a': 0.1}, 9.9).is_confident  # a good frame restarts the second
    assert [gate.update({'a': 0.9}, now_s).is_confident for now_s in bad_at_s] == flags
