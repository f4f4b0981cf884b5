# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The slots between callbacks and worker: newest frame, fair turns, rate limits; the thread."""

from collections import Counter
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from uncertainty_seg.ros.frame_scheduler import BEAT_S, FrameScheduler, Slot, Worker


def never(item: Any, waited_s: float) -> None:
    raise AssertionError('no worker runs here')


class Rig:
    """A scheduler whose clock the test sets."""

    def __init__(self, *cameras: str) -> None:
        self.now_s = 100.0
        self.scheduler: FrameScheduler[str] = FrameScheduler(lambda: self.now_s)
        self.slots: dict[str, Slot[str]] = {name: self.scheduler.add(never) for name in cameras}

    def take(self) -> str | None:
        turn = self.scheduler.take(timeout_s=0)
        return None if turn is None else turn[1]


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    rig = Rig('one')
    for item in '01234':
        rig.slots['one'].put(item)
    assert rig.take() == '4'
    assert rig.take() is None
    slot = rig.slots['one']
    assert (slot.num_received, slot.num_dropped, slot.num_over_rate) == (5, 4, 0)


@given(st.lists(st.sets(st.sampled_from('abc')), min_size=1, max_size=40))
def test_no_camera_with_a_frame_is_passed_over_for_more_than_a_round(
    puts: list[set[str]]
) -> None:
    rig = Rig(*'abc')
    passed_over: Counter[str] = Counter()
    for names in puts:
        for name in names:
            rig.slots[name].put(name)
        waiting = {n for n, slot in rig.slots.items() if slot.item is not None}
        rig.now_s += 1
        served = rig.take()
        assert (served in waiting) if waiting else (served is None)
        passed_over.update(waiting - {served})
        passed_over.pop(served or '', None)
        assert max(passed_over.values(), default=0) <= 2


def test_a_capped_camera_waits_for_its_time_and_then_gives_its_newest_frame() -> None:
    rig = Rig('one')
    slot = rig.slots['one']
    slot.limit(10.0)
    slot.put('first')
    assert rig.take() == 'first'
    for item in ('early', 'newer'):
        rig.now_s += 0.04
        slot.put(item)
        assert rig.take() is None
    rig.now_s += 0.02
    assert rig.take() == 'newer'
    assert (slot.num_dropped, slot.num_over_rate) == (0, 1)
    slot.limit(0)
    slot.put('free')
    assert rig.take() == 'free'


def test_closing_wakes_the_taker_and_drops_what_waits() -> None:
    scheduler: FrameScheduler[int] = FrameScheduler()
    slot = scheduler.add(never)
    slot.limit(0.001)
    slot.put(0)
    assert scheduler.take(1) is not None
    slot.put(1)
    taken: list[Any] = []
    taker = threading.Thread(target=lambda: taken.append(scheduler.take()))
    taker.start()
    scheduler.close()
    taker.join(10)
    assert taken == [None]
    slot.put(2)
    assert (slot.num_received, slot.num_dropped) == (2, 1)
    assert scheduler.take() is None


@pytest.mark.parametrize('error', [SystemExit('3'), KeyboardInterrupt(), GeneratorExit(),
                                   MemoryError('no more')])
def test_a_worker_tells_what_has_ended_it(error: BaseException) -> None:
    scheduler: FrameScheduler[int] = FrameScheduler()

    def handle(item: int, waited_s: float) -> None:
        raise error

    slot = scheduler.add(handle)
    worker = Worker(scheduler)
    worker.start()
    assert worker.end_cause == ''
    slot.put(1)
    for _ in range(1000):
        if worker.end_cause:
            break
        threading.Event().wait(0.01)
    assert worker.end_cause == f'{type(error).__name__}: {error}'
    assert worker.stop(10)


def test_a_worker_beats_while_it_has_no_frame_and_not_while_it_hangs_in_one() -> None:
    scheduler: FrameScheduler[int] = FrameScheduler()
    release, entered = threading.Event(), threading.Event()

    def handle(item: int, waited_s: float) -> None:
        entered.set()
        release.wait(30)

    slot = scheduler.add(handle)
    worker = Worker(scheduler)
    worker.start()
    while worker.num_beats < 3:
        threading.Event().wait(0.01)
    slot.put(1)
    assert entered.wait(10)
    num_beats = worker.num_beats
    threading.Event().wait(3 * BEAT_S)
    assert worker.num_beats == num_beats
    release.set()
    while worker.num_beats == num_beats:
        threading.Event().wait(0.01)
    assert worker.stop(10)
    assert worker.end_cause == ''
