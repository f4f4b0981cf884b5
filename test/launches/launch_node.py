# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""uncertainty_seg.launch.py under launch_testing: the node gets active, and ends with 0."""

from pathlib import Path
from typing import Any
import unittest

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
import launch_testing
import pytest

FILE = Path(get_package_share_directory('uncertainty_seg'), 'launch', 'uncertainty_seg.launch.py')


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Start what the launch file starts, for two cameras in a namespace."""
    return LaunchDescription([
        DeclareLaunchArgument('model'),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(FILE)), launch_arguments={
            'model': LaunchConfiguration('model'), 'namespace': 'auv1', 'respawn': 'false',
            'cameras': 'front=/cam1/image_raw,down',
        }.items()),
        launch_testing.actions.ReadyToTest(),
    ])


class TestStart(unittest.TestCase):
    """While it runs."""

    def test_it_listens_to_both_cameras(self, proc_output: Any) -> None:
        """The last line of a start names the topics."""
        proc_output.assertWaitFor(
            'active, waiting for images on /cam1/image_raw, /auv1/down/image', timeout=60)


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After launch has interrupted it."""

    def test_it_ends_in_order(self, proc_info: Any) -> None:
        """The exit code of every process is 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
