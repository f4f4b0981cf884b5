# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The slot between callback and worker, and the worker's thread."""

import threading

from uncertainty_seg.ros.frame_mailbox import Mailbox
from uncertainty_seg.ros.worker import Worker


def test_the_newest_item_wins_and_the_others_are_counted() -> None:
    box: Mailbox[int] = Mailbox()
    for item in range(5):
        box.put(item)
    assert box.take() == 4
    assert (box.num_received, box.num_dropped) == (5, 4)


def test_an_empty_box_gives_nothing_after_the_time() -> None:
    assert Mailbox[int]().take(timeout_s=0.01) is None


def test_an_item_is_given_once() -> None:
    box: Mailbox[str] = Mailbox()
    box.put('frame')
    assert box.take() == 'frame'
    assert box.take(timeout_s=0.01) is None
    assert box.num_dropped == 0


def test_closing_wakes_the_taker_and_drops_what_waits() -> None:
    box: Mailbox[int] = Mailbox()
    taken: list[int | None] = []
    taker = threading.Thread(target=lambda: taken.append(box.take()))
    taker.start()
    box.close()
    taker.join(10)
    box.put(1)
    assert taken == [None]
    assert (box.num_received, box.take()) == (0, None)


def test_what_waits_at_the_end_counts_as_dropped() -> None:
    box: Mailbox[int] = Mailbox()
    box.put(1)
    box.close()
    assert box.take() is None
    assert box.num_dropped == 1


def test_a_busy_worker_skips_to_the_newest_item() -> None:
    box: Mailbox[int] = Mailbox()
    release, entered, done = threading.Event(), threading.Event(), threading.Event()
    handled: list[int] = []

    def handle(item: int) -> None:
        handled.append(item)
        entered.set()
        release.wait(10)
        if item == 20:
            done.set()

    worker = Worker(box, handle)
    worker.start()
    box.put(0)
    assert entered.wait(10)
    for item in range(1, 21):
        box.put(item)
    release.set()
    assert done.wait(10)
    assert worker.stop(10)
    assert handled == [0, 20]
    assert (box.num_received, box.num_dropped) == (21, 19)


def test_stop_tells_when_the_handler_does_not_come_back() -> None:
    box: Mailbox[int] = Mailbox()
    release, entered = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        entered.set()
        release.wait(10)

    worker = Worker(box, handle)
    worker.start()
    box.put(0)
    assert entered.wait(10)
    assert not worker.stop(0.01)
    release.set()
    assert worker.stop(10)


def test_a_worker_that_never_started_stops() -> None:
    assert Worker(Mailbox[int](), lambda item: None).stop(0.01)
