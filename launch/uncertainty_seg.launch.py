# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Start the node, and rviz if asked.

The node configures and activates itself (autostart); with autostart:=false a lifecycle manager
owns it. Its images need Fast DDS's larger shared memory, which is set here unless a profile is
set already; the camera driver needs the same file.

"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# Humble and Jazzy read the first, Kilted and later the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
# Arguments that are parameters too: where nothing is said, the file decides.
PARAMETERS = {'model': str, 'use_sim_time': bool, 'autostart': bool}


def node_of(context: LaunchContext) -> list:
    """Make the node with those parameters that were given as arguments, over the file's."""
    given = {}
    for name, kind in PARAMETERS.items():
        if LaunchConfiguration(name).perform(context):
            given[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    return [Node(
        package='uncertainty_seg',
        executable='uncertainty_seg_node',
        name='uncertainty_seg',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[LaunchConfiguration('params_file'), *([given] if given else [])],
        remappings=[('image', LaunchConfiguration('image'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
    )]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and what they start."""
    share = get_package_share_directory('uncertainty_seg')
    from_file = 'empty takes that of params_file'
    arguments = [
        DeclareLaunchArgument(
            'model', default_value='',
            description=f'name of a shipped model, or the folder of a bundle; {from_file}'),
        DeclareLaunchArgument(
            'image', default_value='image', description='topic of the camera image'),
        DeclareLaunchArgument(
            'params_file', default_value=os.path.join(share, 'config', 'uncertainty_seg.yaml'),
            description='parameters; copy config/uncertainty_seg.yaml to begin with'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='',
            description=f'take the time from /clock; {from_file}'),
        DeclareLaunchArgument(
            'autostart', default_value='',
            description='true configures and activates, false leaves it to a lifecycle manager; '
                        + from_file),
        DeclareLaunchArgument('rviz', default_value='false', description='start rviz'),
        DeclareLaunchArgument(
            'log_level', default_value='info', description='debug, info, warn or error'),
    ]
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        name='rviz',
        namespace=LaunchConfiguration('namespace'),
        arguments=['-d', os.path.join(share, 'config', 'uncertainty_seg.rviz')],
        remappings=[('image', LaunchConfiguration('image'))],
        condition=IfCondition(LaunchConfiguration('rviz')),
    )
    profile = os.path.join(share, 'config', 'fastdds_profile.xml')
    transport = [
        SetEnvironmentVariable(name, profile)
        for name in PROFILE_VARIABLES if name not in os.environ
    ]
    return LaunchDescription([*arguments, *transport, OpaqueFunction(function=node_of), rviz])
