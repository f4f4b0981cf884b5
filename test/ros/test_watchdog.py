# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The numbers that the node keeps about its frames, with a clock that the test turns."""

import pytest

from uncertainty_seg.ros.health import FrameStatistics, WINDOW_FRAMES


class Clock:

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
