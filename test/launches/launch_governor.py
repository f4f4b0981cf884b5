# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""speed_governor.launch.py under launch_testing: it waits for the flag, and ends with code 0."""

from pathlib import Path
from typing import Any
import unittest

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing
import pytest

FILE = Path(get_package_share_directory('uncertainty_seg'), 'launch', 'speed_governor.launch.py')


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Start what the launch file starts, in a namespace."""
    return LaunchDescription([
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(FILE)), launch_arguments={
            'namespace': 'auv1', 'cmd_vel': '/nav/cmd_vel',
        }.items()),
        launch_testing.actions.ReadyToTest(),
    ])


class TestStart(unittest.TestCase):
    """While it runs."""

    def test_it_waits_for_the_flag_of_its_vehicle(self, proc_output: Any) -> None:
        """The first line names the topics."""
        proc_output.assertWaitFor(
            'waiting for /auv1/uncertainty_seg/confident, /nav/cmd_vel -> /auv1/cmd_vel_limited',
            timeout=60)


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After launch has interrupted it."""

    def test_it_ends_in_order(self, proc_info: Any) -> None:
        """The exit code of every process is 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
