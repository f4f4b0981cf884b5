# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""demo.launch.py under launch_testing: the whole bag is played to the node."""

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

FILE = Path(get_package_share_directory('uncertainty_seg'), 'launch', 'demo.launch.py')


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Start what the launch file starts, three times as fast as the bag was recorded."""
    names = ('model', 'bag')
    return LaunchDescription([
        *(DeclareLaunchArgument(name) for name in names),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(FILE)), launch_arguments={
            **{name: LaunchConfiguration(name) for name in names}, 'rate': '3.0',
            'namespace': 'auv1',
        }.items()),
        launch_testing.actions.ReadyToTest(),
    ])


class TestStart(unittest.TestCase):
    """While it runs."""

    def test_every_image_is_played_to_a_node_that_waits_for_it(self, proc_output: Any) -> None:
        """The player waits for the node, which listens in the same namespace."""
        proc_output.assertWaitFor('active, waiting for images on /auv1/image', timeout=60)
        proc_output.assertWaitFor('{"played": 9, "damaged": 0}', timeout=120, stream='stdout')


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After launch has interrupted it."""

    def test_it_ends_in_order(self, proc_info: Any) -> None:
        """The exit code of every process is 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
