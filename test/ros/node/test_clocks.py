# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Stamps and clocks that jump, stand still or are impossible never make the flag wrongly true."""

from collections.abc import Iterator
import itertools
from pathlib import Path
from typing import Any

import pytest
from ros_helpers import values_of
from ros_node_rig import BAD, node_rig, NodeRig

from uncertainty_seg.core.frame_guard import MEMORY_FRAMES

STALE_TIMEOUT_S = 2.0  # so long that a busy machine does not cause a fall
INT32_MAX, UINT32_MAX = 2**31 - 1, 2**32 - 1


class ClockRig:
    """The node on simulated time, and the publisher of /clock."""

    def __init__(self, rig: NodeRig) -> None:
        from rosgraph_msgs.msg import Clock

        self.rig, self._kind = rig, Clock
        rig.client.wait_for_camera_match()
        rig.client.wait_for_topics('/uncertainty_seg/flagged', '/uncertainty_seg/mask')
        self._clock = rig.client.node.create_publisher(Clock, '/clock', 10)
        rig.wait(lambda: self._clock.get_subscription_count(), 'the node to listen to /clock')
        self.next_second = itertools.count(10_000).__next__
        rig.raise_flag()  # frames are lost before discovery is complete

    def set_clock(self, sec: int, nanosec: int = 0) -> None:
        """Publish a time, without waiting until the node has it."""
        msg = self._kind()
        msg.clock.sec, msg.clock.nanosec = sec, nanosec
        self._clock.publish(msg)

    def be_at(self, sec: int) -> None:
        """Set the clock and wait until diagnostics are stamped with it."""
        num_before = len(self.rig.health)

        def is_there() -> bool:
            self.set_clock(sec)
            return any(m.header.stamp.sec == sec for m in self.rig.health[num_before:])
        self.rig.wait(is_there, f'diagnostics at {sec} s')

    def flag_of(self, sec: int, nanosec: int = 0, **options: Any) -> bool:
        """Send a frame and return its flag."""
        return values_of(self.rig.answer(sec, nanosec, **options))['confident'] == 'true'

    def rise(self) -> None:
        """Send frames, each a second later, until one is confident."""
        self.rig.wait(lambda: self.flag_of(self.next_second()), 'a confident frame')

    def num_flagged_of(self, frames: int) -> int:
        """Send uncertain frames; returns how many the node republished as flagged."""
        num_before = len(self.rig.flagged)
        for _ in range(frames):
            assert not self.flag_of(self.next_second(), pixels=BAD)
        self.rig.client.spin(0.3)
        return len(self.rig.flagged) - num_before


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[ClockRig]:
    with node_rig(folder, stale_timeout_s=STALE_TIMEOUT_S, use_sim_time=True) as rig:
        yield ClockRig(rig)


@pytest.fixture(autouse=True)
def lives_on(rig: ClockRig) -> Iterator[None]:
    """Assert before and after each test that good frames make the flag true."""
    rig.rise()
    yield
    rig.rise()


def test_a_bag_that_loops_lets_the_flag_fall_once_with_every_jump(rig: ClockRig) -> None:
    flags = [[rig.flag_of(second) for second in range(100, 101 + MEMORY_FRAMES)]
             for _ in range(2)]
    assert flags == [[False] * 3 + [True] * (MEMORY_FRAMES - 2)] * 2
    assert not any(rig.flag_of(second) for second in range(161, 165))  # the loop is too short


@pytest.mark.parametrize(
    ('sec', 'nanosec', 'words'),
    [(INT32_MAX, UINT32_MAX, ''), (-INT32_MAX - 1, 0, 'the stamp of the image is -2.1'),
     (0, 0, 'receipt'), (5, UINT32_MAX, 'the stamp went back')],
)
def test_a_stamp_no_clock_gives_is_a_frame_and_confident_only_if_it_is_new(
    rig: ClockRig, sec: int, nanosec: int, words: str
) -> None:
    status = rig.rig.answer(sec, nanosec)
    assert (values_of(status)['confident'] == 'true') == (not words)
    assert words in status.status[0].message
    rig.rig.of(status, rig.rig.masks)  # with exactly this stamp
    assert not rig.flag_of(sec, nanosec - 1 if nanosec else 1, pixels=BAD)


def test_the_flag_falls_when_frames_stop_though_simulated_time_stands_still(
    rig: ClockRig
) -> None:
    rig.rig.wait_for_reason('/cam')
    num_before = len(rig.rig.flags)
    rig.rig.wait(lambda: len(rig.rig.flags) > num_before + 2, 'the flag to be said again')
    assert rig.rig.health[-1].status[0].level == b'\x02'


def test_flagged_frames_keep_their_distance_on_the_nodes_clock(rig: ClockRig) -> None:
    rig.be_at(7200)
    assert rig.num_flagged_of(3) == 1
    # The clock stands still, so no time has passed, however many frames arrive.
    assert rig.num_flagged_of(3) == 0
    rig.be_at(7202)
    assert rig.num_flagged_of(3) == 1
    rig.be_at(3600)  # set back by an hour: diagnostics go on, stamped with the new time
    assert rig.num_flagged_of(3) == 1


def test_a_clock_that_jumps_does_not_touch_the_flag(rig: ClockRig) -> None:
    # An hour of simulated time between two frames is not an hour without frames.
    for now in (INT32_MAX, 1, 86_400, 0, 10, 100_000, 103_600):
        rig.set_clock(now)
        assert rig.flag_of(rig.next_second())


@pytest.mark.parametrize(('sec', 'nanosec'), [(INT32_MAX, UINT32_MAX), (-5, 0)])
def test_the_flag_falls_at_a_time_that_no_message_or_clock_holds(
    rig: ClockRig, sec: int, nanosec: int
) -> None:
    rig.set_clock(sec, nanosec)
    rig.rig.wait_for_reason('/cam')
    num_before = len(rig.rig.health)
    rig.rig.wait(lambda: len(rig.rig.health) > num_before + 1, 'diagnostics')
