# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Start the speed governor: ros2 launch uncertainty_seg speed_governor.launch.py cmd_vel:=...

A launch file of its own, so that the governor keeps running when that of the perception node ends.
If the governor itself dies it is restarted, and starts slow.

"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

TOPICS = ('confident', 'cmd_vel', 'cmd_vel_limited')


def node_of(context: LaunchContext) -> list:
    """Make the node, with a parameter file where one is given."""
    has_file = LaunchConfiguration('params_file').perform(context)
    return [Node(
        package='uncertainty_seg',
        executable='speed_governor',
        name='speed_governor',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[LaunchConfiguration('params_file')] if has_file else [],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=True,
        respawn_delay=1.0,
    )]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and what they start."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'confident', default_value='uncertainty_seg/confident',
            description='the flag of the perception node'),
        DeclareLaunchArgument(
            'cmd_vel', default_value='cmd_vel', description='commands of the driver'),
        DeclareLaunchArgument(
            'cmd_vel_limited', default_value='cmd_vel_limited',
            description='limited commands for the vehicle'),
        DeclareLaunchArgument(
            'params_file', default_value='',
            description='parameter file; without one, the defaults of docs/speed_governor.md'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument(
            'log_level', default_value='info', description='debug, info, warn or error'),
        OpaqueFunction(function=node_of),
    ])
