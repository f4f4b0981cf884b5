# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which messages are frames, told by their stamps."""

import logging
from typing import Any

import pytest
from ros_helpers import HAS_ROS, image_message, SKIP_REASON, solid

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from builtin_interfaces.msg import Time  # noqa: I100
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from uncertainty_seg.ros.camera_link import FrameIntake
from uncertainty_seg.ros.frame_scheduler import FrameScheduler

pytestmark = pytest.mark.ros


class Rig:

    def __init__(self) -> None:
        self.scheduler: FrameScheduler[Any] = FrameScheduler()
        self.box = self.scheduler.add(lambda msg, waited_s: None)
        self.intake = FrameIntake(self.box)

    def new_ones(self, *stamps_ns: int) -> list[int]:
        """Send frames; returns the stamps of those that were let in."""
        passed = []
        for stamp_ns in stamps_ns:
            self.intake(image_message(solid(0, 0, 255), stamp_ns))
            if self.scheduler.take(timeout_s=0) is not None:
                passed.append(stamp_ns)
        return passed


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_frame_with_the_stamp_of_the_one_before_is_not_new(rig: Rig) -> None:
    assert rig.new_ones(5, 5, 5) == [5]
    assert rig.intake.is_repeating
    assert rig.new_ones(6) == [6]
    assert not rig.intake.is_repeating
    assert (rig.intake.num_repeated, rig.box.num_received) == (2, 2)


def test_a_nanosecond_makes_a_new_frame(rig: Rig) -> None:
    assert rig.new_ones(10**18, 10**18 + 1) == [10**18, 10**18 + 1]


def test_a_bag_that_starts_again_is_new(rig: Rig) -> None:
    assert rig.new_ones(7, 8, 7, 8) == [7, 8, 7, 8]


def test_a_compressed_frame_is_known_by_its_stamp_too(rig: Rig) -> None:
    for second, is_new in ((1, True), (1, False), (2, True)):
        rig.intake(CompressedImage(header=Header(stamp=Time(sec=second))))
        assert (rig.scheduler.take(timeout_s=0) is not None) is is_new


def test_frames_without_stamps_are_all_new_and_that_is_said_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert rig.new_ones(0, 0, 0) == [0, 0, 0]
    assert rig.intake.num_repeated == 0
    (line,) = caplog.messages
    assert 'stamp 0' in line
