# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Start the speed governor: ros2 launch uncertainty_seg speed_governor.launch.py cmd_vel:=...

It is separate, so that the governor keeps running when the launch file of the perception node
ends. A governor that dies is restarted, and starts slow, unless it refused its parameters.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from uncertainty_seg.ros import launch_checks as checks

NODE_NAME = 'speed_governor'
TOPICS = ('confident', 'cmd_vel', 'cmd_vel_limited')
ARGUMENTS = (*TOPICS, 'params_file', 'namespace', 'use_sim_time', 'log_level')


def node_of(context: LaunchContext) -> list:
    """Make the node, with a parameter file if one is given."""
    checks.require_known(context, ARGUMENTS, 'speed_governor.launch.py')
    said = {name: LaunchConfiguration(name).perform(context)
            for name in (*TOPICS, 'params_file', 'namespace', 'use_sim_time')}
    for name in (*TOPICS, 'namespace'):
        checks.require_name(name, said[name])
    has_file = bool(said['params_file'])
    if has_file:
        checks.parameter_file(said['params_file'], said['namespace'], NODE_NAME)
    given = [LaunchConfiguration('params_file')] if has_file else []
    if said['use_sim_time']:
        given.append({'use_sim_time': ParameterValue(
            LaunchConfiguration('use_sim_time'), value_type=bool)})
    return [Node(
        package='uncertainty_seg',
        executable='speed_governor',
        additional_env=checks.ends_with_launch(),
        name=NODE_NAME,
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=given,
        remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=True,
        respawn_delay=1.0,
        on_exit=checks.end_with(NODE_NAME, only_misuse=True),
    )]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the process."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'confident', default_value='uncertainty_seg/confident',
            description='topic of the flag'),
        DeclareLaunchArgument(
            'cmd_vel', default_value='cmd_vel', description='topic of the velocity commands'),
        DeclareLaunchArgument(
            'cmd_vel_limited', default_value='cmd_vel_limited',
            description='topic of the limited commands'),
        DeclareLaunchArgument(
            'params_file', default_value='',
            description='parameter file; defaults are in docs/reference/parameters.md'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='', choices=['', 'true', 'false'],
            description='judge stamps by /clock; deadlines use the steady clock'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='lowest severity that is logged'),
        OpaqueFunction(function=node_of),
    ])
