# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Staleness and the node's own numbers, with a clock that the test turns."""

import pytest

from uncertainty_seg.ros.health import FrameStatistics, WINDOW_FRAMES
from uncertainty_seg.ros.watchdog import Watchdog


class Clock:

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_trips_at_the_timeout_and_not_before(clock: Clock) -> None:
    dog = Watchdog(1.0, clock)
    clock.now_s += 0.999
    assert not dog.is_stale()
    assert dog.silence_s() == pytest.approx(0.999)
    clock.now_s += 0.001
    assert dog.is_stale()


def test_feeding_begins_anew(clock: Clock) -> None:
    dog = Watchdog(1.0, clock)
    clock.now_s += 0.9
    dog.feed()
    clock.now_s += 0.9
    assert not dog.is_stale()


def test_a_trip_that_nobody_looked_at_is_told_too(clock: Clock) -> None:
    dog = Watchdog(1.0, clock)
    clock.now_s += 1.0
    assert dog.take_trip()
    dog.feed()
    clock.now_s += 0.9
    assert not dog.take_trip()


def test_a_trip_is_remembered_after_feeding_and_told_once(clock: Clock) -> None:
    dog = Watchdog(1.0, clock)
    assert not dog.take_trip()
    clock.now_s += 2
    assert dog.is_stale()
    dog.feed()
    assert not dog.is_stale()
    assert dog.take_trip()
    assert not dog.take_trip()


def test_the_rate_counts_frames_a_second_and_fades_when_they_stop(clock: Clock) -> None:
    stats = FrameStatistics(clock)
    assert stats.rate_hz() == 0.0
    for _ in range(11):
        stats.add_frame({'trunk': 1.0})
        clock.now_s += 0.1
    assert stats.rate_hz() == pytest.approx(10 / 1.1)
    clock.now_s += 98.9
    assert stats.rate_hz() == pytest.approx(0.1)


def test_latency_is_median_and_largest_of_the_last_frames(clock: Clock) -> None:
    stats = FrameStatistics(clock)
    stats.add_frame({'head': 1e9})
    for value in range(WINDOW_FRAMES):
        stats.add_frame({'head': float(value)})
    assert stats.latencies_ms() == {'head': (49.5, 99.0)}
    assert stats.num_processed == WINDOW_FRAMES + 1


def test_a_fault_is_new_only_when_its_reason_changes() -> None:
    stats = FrameStatistics()
    is_new = [stats.add_fault(reason) for reason in ('a', 'a', 'b', 'a')]
    assert is_new == [True, False, True, True]
    assert (stats.num_faulty, stats.last_fault) == (4, 'a')
