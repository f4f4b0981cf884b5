# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One owner of the verdict: no event at any step of a frame causes a lost fault.

The gate requires three good frames in a row. Every kind of event is injected at every step of a
frame, and the flags from then on are known in advance. A stress test injects random events from a
second thread.
"""

from collections.abc import Callable
import dataclasses
from pathlib import Path
import random
import threading
import time
from types import SimpleNamespace
from typing import Any

from owner_rig import GOOD, GREY, Rig, RISE_FRAMES, TIMEOUT_S
import pytest
from ros_helpers import arrival, image_message, solid, values_of
from ros_stubs import Publisher
from std_msgs.msg import Header

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.frame_processor import Outputs
from uncertainty_seg.ros.node import UncertaintySegNode
from uncertainty_seg.ros.rivals import WITHHELD

PATIENCE_S = 0.2  # time after which a thread counts as blocked


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def pass_silence(rig: Rig) -> None:
    rig.now_s += TIMEOUT_S
    rig.tick()


EVENTS: dict[str, Callable[[Rig], None]] = {
    'fault': lambda rig: rig.owner.fall('the engine is gone'),
    'parameter': lambda rig: rig.change_gate(0.99),
    'deadline': lambda rig: rig.change(stale_timeout_s=2 * TIMEOUT_S),
    'reset': lambda rig: rig.owner.reset(),
    'silence': pass_silence,
    'deactivate': lambda rig: rig.owner.stop('the node is stopping'),
}


def at_step(rig: Rig, step: str, event: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Send one good frame, and trigger an event at one of its steps."""
    happened = threading.Event()

    def once() -> None:
        if not happened.is_set():
            happened.set()
            event()

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (once(), function(*args))[1]

    def after(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (function(*args), once())[0]

    from uncertainty_seg.ros import frame_processor
    with patch.context() as scope:
        if step == 'begin':
            scope.setattr(rig.owner, 'begin', before(rig.owner.begin))
        elif step == 'begun':
            scope.setattr(rig.owner, 'begin', after(rig.owner.begin))
        elif step == 'decode':
            scope.setattr(frame_processor, 'decode', before(frame_processor.decode))
        elif step == 'network':
            rig.backend.during = once
        elif step == 'measured':
            scope.setattr(rig.owner, 'judge', before(rig.owner.judge))
        elif step == 'published':
            scope.setattr(rig.owner, 'judge', after(rig.owner.judge))
        rig.send()
    rig.backend.during = lambda: None
    assert happened.is_set()


@pytest.mark.parametrize('event', EVENTS)
def test_a_false_flag_without_a_frame_names_the_thresholds_in_force(rig: Rig, event: str) -> None:
    EVENTS[event](rig)
    told = values_of(rig.statuses[-1])
    assert rig.pipeline.thresholds
    for name, limit in rig.pipeline.thresholds.items():
        assert told[f'threshold.{name}'] == f'{limit:.6g}'


BEFORE, IN_WORK, AFTER = ('begin',), ('begun', 'decode', 'network', 'measured'), ('published',)


@pytest.mark.parametrize('event', EVENTS)
@pytest.mark.parametrize('step', [*BEFORE, *IN_WORK, *AFTER])
def test_after_any_event_at_any_step_three_frames_begun_later_are_needed(
    rig: Rig, event: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send(RISE_FRAMES)
    assert rig.flags == [False, False, True]
    at_step(rig, step, lambda: EVENTS[event](rig), monkeypatch)
    rig.send(4)
    flags = rig.flags[RISE_FRAMES:]
    if step in AFTER:
        assert flags.pop(0)  # the frame's, before the event
    assert not flags.pop(0)  # the event's
    if event == 'deactivate':
        assert flags == []
        return
    if step in IN_WORK:
        assert not flags.pop(0)  # the frame's, which began before the event
    num_good = 4 + (step in BEFORE)
    if event == 'silence' and step in BEFORE:
        assert not flags.pop(0)  # the frame's, which arrived before the silence
        num_good -= 1
    assert flags == [False] * (RISE_FRAMES - 1) + [True] * (num_good - RISE_FRAMES + 1)


class HookedPublisher(Publisher):
    """A publisher that calls `during` before each message is sent."""

    during: Callable[[], None] = staticmethod(lambda: None)

    def publish(self, msg: Any) -> None:
        self.during()
        super().publish(msg)


def hook(rig: Rig, during: Callable[[], None]) -> HookedPublisher:
    """Call `during` in the publication of each flag."""
    flag: Any = rig.node.topics['~/confident']
    flag.__class__, flag.during = HookedPublisher, during
    return flag


def bring_amid(rig: Rig, event: Callable[[Rig], None]) -> threading.Thread:
    """Start an event in a thread during the publication of the next flag; it must block."""
    thread = threading.Thread(target=event, args=(rig,))

    def bring() -> None:
        if thread.ident is None:
            thread.start()
            thread.join(PATIENCE_S)
            assert thread.is_alive()
    hook(rig, bring)
    return thread


@pytest.mark.parametrize('event', EVENTS)
def test_no_event_comes_between_a_verdict_and_its_publication(rig: Rig, event: str) -> None:
    rig.send(RISE_FRAMES - 1)
    flag = rig.node.topics['~/confident']
    thread = bring_amid(rig, EVENTS[event])
    rig.send()
    thread.join(60)
    # Also for a pause during the publication of a true, which no timer would detect.
    assert rig.flags == [False, False, True, False]
    assert [msg.data for msg in flag.sent] == rig.flags


def test_no_event_comes_between_the_fault_of_a_frame_and_its_publication(rig: Rig) -> None:
    thread = bring_amid(rig, EVENTS['deactivate'])
    message = image_message(solid(*GOOD), 10**8)
    message.data = message.data[:10]
    rig.process(arrival(message))
    thread.join(60)
    assert '10 bytes' in rig.statuses[0].status[0].message
    assert rig.last_message == 'the node is stopping'
    assert rig.flags == [False, False]


def test_no_limit_of_replaced_settings_is_published_with_a_true_flag(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send(RISE_FRAMES)
    at_step(rig, 'measured', lambda: rig.change_gate(0.5), monkeypatch)
    rig.send(RISE_FRAMES)
    limits = [values_of(status).get('threshold.entropy.mean') for status in rig.statuses]
    assert limits == ['0.72'] * RISE_FRAMES + ['0.36'] * (2 + RISE_FRAMES)
    assert rig.flags[-1]


def test_an_event_that_changes_nothing_about_the_gate_leaves_flag_and_frame(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send(RISE_FRAMES)
    at_step(rig, 'network', lambda: rig.change(map='entropy'), monkeypatch)
    assert rig.flags == [False, False, True, True]


def test_an_activation_without_an_end_of_the_one_before_starts_from_nothing_too(rig: Rig) -> None:
    rig.send(RISE_FRAMES)
    rig.start()
    rig.send(RISE_FRAMES)
    assert rig.flags[RISE_FRAMES:] == [False, False, True]


def test_a_reset_forgets_the_bad_frames_before_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, **{'gate.rise_frames': 1, 'gate.fall_frames': 2, 'gate.fall_window': 3})
    rig.send()
    rig.send(color=GREY)
    assert rig.flags == [True, True]  # one bad frame of three
    rig.owner.reset()
    rig.send()
    rig.send(color=GREY)
    assert rig.flags[2:] == [False, True, True]


def test_another_deadline_starts_the_gate_from_nothing_and_publishes_false_under_the_old_one(
    rig: Rig
) -> None:
    rig.send(RISE_FRAMES)
    old = rig.node.topics['~/confident']
    rig.change(stale_timeout_s=2 * TIMEOUT_S)
    assert [msg.data for msg in old.sent] == [False, False, True, False]
    new = rig.node.topics['~/confident']
    assert new is not old and new.qos.deadline.nanoseconds == 2 * TIMEOUT_S * 1e9
    rig.send(RISE_FRAMES)
    assert [msg.data for msg in new.sent] == [False, False, True]
    rig.now_s += 1.5 * TIMEOUT_S
    rig.tick()
    assert rig.flags[-1]


@pytest.mark.parametrize('hangs_in', ['network', 'decode'])
def test_a_frame_of_a_run_that_has_ended_is_not_published_in_the_next(
    rig: Rig, hangs_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def activate_anew() -> None:
        rig.owner.stop('the node is stopping')
        rig.start()
        if hangs_in == 'decode':
            raise ValueError('the frame ends with an error, even')

    at_step(rig, hangs_in, activate_anew, monkeypatch)
    assert rig.flags == [False]
    rig.send(RISE_FRAMES)
    assert rig.flags == [False, False, False, True]


def test_a_good_frame_in_work_during_a_change_is_neither_faulty_nor_worth_a_label(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.node.topics['~/flagged'].num_subscribers = 1
    at_step(rig, 'network', lambda: rig.owner.reset(), monkeypatch)
    assert 'reset' in rig.last_message
    assert rig.statistics.num_faulty == 0 and not rig.statistics.is_faulty
    assert rig.node.topics['~/flagged'].sent == []


def test_a_frame_that_cannot_be_used_says_why_without_a_calibrated_gate_too(rig: Rig) -> None:
    rig.change(passes=3)
    message = image_message(solid(*GOOD), 10**8)
    message.data = message.data[:10]
    rig.process(arrival(message))
    assert '10 bytes' in rig.last_message and '10 bytes' in rig.statistics.last_fault
    rig.send()
    assert '3' in rig.last_message and '8' in rig.last_message


def test_while_inactive_settings_and_reset_leave_the_reason(rig: Rig) -> None:
    activation = rig.owner.start()
    rig.owner.stop('the node is inactive')
    assert activation.begin() is None  # a queued frame is not processed
    num_sent = len(rig.flags)
    rig.change_gate(0.9)
    rig.owner.reset()
    rig.owner.stop('again')
    assert len(rig.flags) == num_sent
    assert rig.owner.why_down == 'the node is inactive'


def test_a_model_that_is_released_in_mid_run_lets_the_flag_fall(rig: Rig) -> None:
    rig.send(RISE_FRAMES)
    rig.owner.take_over(None)
    assert not rig.flags[-1]
    rig.send()
    assert len(rig.flags) == RISE_FRAMES + 1


def test_a_deadline_that_could_not_be_offered_is_offered_by_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised: list[float] = []

    def fail_once(timeout_s: float) -> None:
        promised.append(timeout_s)
        if len(promised) == 1:
            raise RuntimeError('no publisher can be made')

    monkeypatch.setattr(rig.verdicts, 'promise', fail_once)
    with pytest.raises(RuntimeError):
        rig.change(stale_timeout_s=2 * TIMEOUT_S)
    rig.change(stale_timeout_s=2 * TIMEOUT_S)
    assert promised == [2 * TIMEOUT_S] * 2
    assert rig.owner.timeout_s == 2 * TIMEOUT_S


class TestStaleness:

    def test_the_flag_falls_at_the_timeout_and_not_before(self, rig: Rig) -> None:
        rig.send(RISE_FRAMES)
        rig.now_s += 0.999 * TIMEOUT_S
        rig.tick()
        assert rig.flags[-1] and not rig.owner.is_stale()
        assert rig.owner.silence_s() == pytest.approx(0.999 * TIMEOUT_S)
        rig.now_s += 0.002 * TIMEOUT_S
        rig.tick()
        assert not rig.flags[-1] and rig.owner.is_stale()
        assert rig.last_message == 'no frame came'

    def test_the_time_begins_with_the_activation(self, rig: Rig) -> None:
        rig.owner.stop('the node is inactive')
        rig.now_s += 10 * TIMEOUT_S
        rig.start()
        assert not rig.owner.is_stale()

    def test_a_false_is_repeated_within_every_half_of_the_timeout(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.owner.stop('the node is inactive')
        num_sent = len(rig.flags)
        monkeypatch.setattr(rig.verdicts, 'silence_s', lambda: 0.49 * TIMEOUT_S)
        rig.tick()
        assert len(rig.flags) == num_sent
        monkeypatch.setattr(rig.verdicts, 'silence_s', lambda: 0.5 * TIMEOUT_S)
        rig.tick()
        assert rig.flags[num_sent:] == [False]
        assert rig.last_message == 'the node is inactive'

    def test_a_verdict_begins_the_time_anew(self, rig: Rig) -> None:
        rig.send(RISE_FRAMES)
        for _ in range(5):
            rig.now_s += 0.9 * TIMEOUT_S
            rig.send()
            rig.tick()
        assert all(rig.flags[RISE_FRAMES:])

    def test_a_frame_that_comes_too_late_is_false_first_though_no_timer_ran(
        self, rig: Rig
    ) -> None:
        rig.send(RISE_FRAMES)
        rig.now_s += TIMEOUT_S
        rig.send()
        # One false for the missing frames, one for the first of three good frames.
        assert rig.flags[RISE_FRAMES:] == [False, False]
        assert [values_of(status)['kind'] for status in rig.statuses[RISE_FRAMES:]] == [
            'fault', 'recovering']

    def test_a_frame_whose_network_takes_too_long_is_false_though_no_timer_ran(
        self, rig: Rig
    ) -> None:
        rig.send(RISE_FRAMES)

        def work() -> None:
            rig.now_s += TIMEOUT_S

        rig.backend.during = work
        rig.send()
        assert rig.flags[RISE_FRAMES:] == [False]
        assert f'{TIMEOUT_S:g} s' in rig.last_message


def test_a_veto_keeps_the_flag_down_and_the_gate_starts_from_nothing_after(rig: Rig) -> None:
    rig.send(RISE_FRAMES)
    rig.veto = 'somebody else publishes the flag'
    rig.tick()
    assert not rig.flags[-1] and rig.last_message == rig.veto
    rig.send(RISE_FRAMES)
    assert not any(rig.flags[RISE_FRAMES:])
    rig.veto = ''
    rig.send(RISE_FRAMES)
    assert rig.flags[-RISE_FRAMES:] == [False, False, True]


@pytest.mark.parametrize(('veto', 'kind'), [
    ('somebody else publishes the flag', 'fault'), (WITHHELD, 'recovering')])
def test_a_good_frame_under_a_veto_is_worth_no_label_and_a_bad_one_is(
    rig: Rig, veto: str, kind: str
) -> None:
    told: list[Any] = []
    log: Any = SimpleNamespace(offer=told.append)
    rig.process = rig.processor(Outputs(rig.pictures, rig.statistics, log))
    rig.veto = veto
    rig.send(RISE_FRAMES + 1)
    rig.send(color=GREY)
    assert not any(rig.flags) and [frame.is_flagged for frame in told] == [
        *[False] * (RISE_FRAMES + 1), True]
    shown = values_of(rig.statuses[RISE_FRAMES - 1])
    assert (shown['kind'], shown['score_ratio']) == (kind, 'inf')


def test_under_stress_no_fault_is_lost_and_no_true_comes_without_three_good_frames(
    tmp_path: Path
) -> None:
    rig = Rig(tmp_path)
    faults, stop = 4000, threading.Event()
    settings: list[Settings] = [rig.settings]

    def work() -> None:
        while not stop.is_set():
            rig.send()

    def bring() -> None:
        chance = random.Random(0)
        for number in range(faults):
            if chance.random() < 0.1:
                rig.change_gate(chance.choice([0.97, 0.98, 0.99]))
                settings.append(rig.settings)
            if chance.random() < 0.1:
                rig.owner.reset()
            rig.owner.fall(f'fault {number}')
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.004)
            end_s = time.monotonic() + 60
            while number % 100 == 0 and not rig.owner.is_confident and time.monotonic() < end_s:
                time.sleep(0.001)
        stop.set()

    threads = [threading.Thread(target=work), threading.Thread(target=bring)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    told = [(status.status[0].message, flag.data) for status, flag in zip(
        rig.statuses, rig.node.topics['~/confident'].sent, strict=True)]
    assert [is_true for _, is_true in told] == rig.flags
    assert [m for m, _ in told if m.startswith('fault') and 'while' not in m] \
        == [f'fault {number}' for number in range(faults)]
    num_good = num_true = 0
    for message, is_true in told:
        is_event = message.startswith('fault') or 'was' in message
        num_good = 0 if is_event else num_good + 1
        assert is_true == (num_good >= RISE_FRAMES), (message, num_good)
        num_true += is_true
    assert num_true > 0


# --- time without a frame, and time without a verdict --------------------------------------------


def test_the_flag_falls_by_the_time_without_a_frame_not_by_that_of_the_verdict(rig: Rig) -> None:
    rig.send(RISE_FRAMES - 1)
    rig.owner.note_arrival()
    # Processing the last frame takes most of the timeout; its verdict is not a new frame.
    rig.backend.during = lambda: setattr(rig, 'now_s', rig.now_s + 0.9 * TIMEOUT_S)
    rig.second += 1
    rig.process(arrival(image_message(solid(*GOOD), rig.second * 10**9)))
    assert rig.owner.is_confident
    rig.now_s += 0.09 * TIMEOUT_S
    rig.tick()
    assert rig.owner.is_confident
    rig.now_s += 0.02 * TIMEOUT_S
    rig.tick()
    assert not rig.owner.is_confident


def test_frames_that_come_and_get_no_verdict_let_the_flag_fall_too(rig: Rig) -> None:
    rig.send(RISE_FRAMES)
    for _ in range(11):
        rig.now_s += 0.1 * TIMEOUT_S
        rig.owner.note_arrival()
    rig.tick()
    assert not rig.owner.is_confident
    rig.send()
    assert not rig.owner.is_confident


def test_a_true_that_went_out_late_is_followed_by_a_false_at_once(rig: Rig) -> None:
    rig.send(RISE_FRAMES - 1)
    # The process pauses for 3.5 timeouts before the message is sent.
    paused = iter([3.5])
    flag = hook(rig, lambda: setattr(
        rig, 'now_s', rig.now_s + next(paused, 0.0) * TIMEOUT_S))
    rig.send()
    assert [msg.data for msg in flag.sent] == [False] * (RISE_FRAMES - 1) + [True, False]
    assert 'delayed' in rig.last_message
    assert rig.statistics.is_faulty


def test_an_image_that_grew_too_old_as_its_true_went_out_is_followed_by_a_false(
    tmp_path: Path
) -> None:
    rig = Rig(tmp_path, max_age_s=1.0)
    rig.send(RISE_FRAMES)
    assert rig.owner.is_confident
    # The clock of the stamps advances by 2 s, the steady clock does not.
    flag = hook(rig, lambda: setattr(rig, 'second', rig.second + 2))
    rig.send()
    assert [msg.data for msg in flag.sent][-2:] == [True, False]


def test_a_longer_deadline_than_at_the_start_undoes_the_promise_and_a_shorter_does_not(
    tmp_path: Path
) -> None:
    rig = Rig(tmp_path, stale_timeout_s=0.6, max_repeats=2)
    for stale_timeout_s, promise in ((0.5, 'none'), (0.9, 'void'), (0.6, 'none')):
        rig.change(stale_timeout_s=stale_timeout_s)
        rig.send()
        values = values_of(rig.statuses[-1])
        assert (values['promise'], rig.pipeline.promise) == (promise, promise)
        reason = values.get('promise_void_because', '')
        assert ('stale_timeout_s' in reason and '0.9' in reason) == (promise == 'void')


@pytest.mark.parametrize('gate', [{'scores': ('bogus',)}, {'threshold_scale': 100.0},
                                  {'alpha': 0.3}])
def test_while_t_is_uncalibrated_the_other_settings_are_judged_all_the_same(
    rig: Rig, gate: dict[str, Any]
) -> None:
    rig.change(passes=3)
    with pytest.raises(ConfigError, match='gate'):
        rig.change(gate=dataclasses.replace(rig.settings.gate, **gate))
    rig.change(passes=8)
    rig.send(RISE_FRAMES)
    assert rig.owner.is_confident


def test_a_true_that_could_not_be_published_feeds_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send(RISE_FRAMES)
    with monkeypatch.context() as patch:
        patch.setattr(rig.verdicts, 'publish', lambda *_: 1 / 0)
        rig.send()
        assert rig.owner.is_stale()  # at once, so that the timer publishes false
        assert rig.process.busy_s == 0
        with pytest.raises(ZeroDivisionError):  # the caller must not assume that it was published
            rig.process._activation.refuse('a reason', Header(), 'fault')
    rig.tick()
    assert not rig.flags[-1]


@pytest.mark.parametrize('act', [UncertaintySegNode._on_tick, lambda node: node.fall('a fault')])
def test_a_camera_whose_flag_cannot_be_published_keeps_no_other_flag_up(
    tmp_path: Path, act: Callable[[Any], None]
) -> None:
    front, down = rigs = [Rig(tmp_path / name) for name in ('front', 'down')]
    node: Any = UncertaintySegNode.__new__(UncertaintySegNode)
    node._worker, node._stations = None, [
        SimpleNamespace(owner=rig.owner, tick=lambda *_, tick=rig.tick: tick(), is_stuck=False)
        for rig in rigs]
    for rig in rigs:
        rig.send(RISE_FRAMES)
        rig.now_s += TIMEOUT_S
    hook(front, lambda: 1 / 0)  # as of a publisher that is destroyed
    with pytest.raises(ZeroDivisionError):
        act(node)
    assert not down.owner.is_confident
