# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Play a bag through the node: ros2 launch uncertainty_seg demo.launch.py bag:=dive model:=pipeline.

The player is part of this package, so only the core of ROS is needed. It waits for the node.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import launch_checks as checks

# Passed unchanged to the launch file of the node.
HANDED_ON = ('model', 'image', 'params_file', 'namespace', 'use_sim_time', 'rviz', 'log_level')
# Arguments that are not declared here also reach the launch file of the node.
ARGUMENTS = ('bag', 'topic', 'rate', *checks.NODE_ARGUMENTS)
MOST_S = 3600.0  # the upper limit of the parameters


def processes(context: LaunchContext) -> list:
    """Check what the player needs, and make the node and the player."""
    checks.require_known(context, ARGUMENTS, 'demo.launch.py')
    share = get_package_share_directory('uncertainty_seg')
    bag = LaunchConfiguration('bag').perform(context)
    if not os.path.exists(os.path.expanduser(bag)):
        raise ConfigError(f'bag is {bag!r}, and nothing is there', 'a folder or file of a bag')
    rate = checks.require_number(
        'rate', LaunchConfiguration('rate').perform(context), is_positive=True)
    # Ages are measured in the bag's time, which passes at this rate; staleness by a steady clock.
    times = {'stale_timeout_s': str(min(max(1.0, 2.0 / rate), MOST_S)),
             'max_age_s': str(min(max(1.0, rate), MOST_S))}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            os.path.join(share, 'launch', 'uncertainty_seg.launch.py')),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in HANDED_ON},
            **(times if rate != 1 else {}),
            'respawn': 'false',  # a demo is attended
        }.items(),
    )
    topic = LaunchConfiguration('topic').perform(context)
    # After the node's launch file, because the player needs its environment (shared memory) too.
    return [node, player_of(bag, topic)]


def player_of(bag: str, topic: str) -> Node:
    """Make the player, in the namespace of the node."""
    chosen = ['--topic', topic] if topic else []
    return Node(
        package='uncertainty_seg',
        executable='uncertainty_seg_play',
        additional_env=checks.ends_with_launch(),
        name='uncertainty_seg_play',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        arguments=[os.path.expanduser(bag), '--rate', LaunchConfiguration('rate'), *chosen,
                   '--clock'],
        remappings=[('image', LaunchConfiguration('image'))],
        on_exit=checks.end_with('uncertainty_seg_play', only_misuse=False),
    )


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    share = get_package_share_directory('uncertainty_seg')
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='bag to play'),
        DeclareLaunchArgument(
            'topic', default_value='',
            description='image topic of the bag, required if it has several cameras'),
        DeclareLaunchArgument(
            'model', default_value='',
            description='name of an included model, or folder of a bundle; required'),
        DeclareLaunchArgument(
            'image', default_value='image', description='topic on which the images are played'),
        DeclareLaunchArgument(
            'rate', default_value='1.0',
            description='speed of the player; if it is not 1, stale_timeout_s and max_age_s '
                        'are scaled to fit'),
        DeclareLaunchArgument(
            'params_file', default_value=os.path.join(share, 'config', 'uncertainty_seg.yaml'),
            description='parameter file of the node'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='namespace of node and player'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='true', choices=['true', 'false'],
            description='compare stamps with the time of the bag, not of today'),
        DeclareLaunchArgument(
            'rviz', default_value='false', choices=['true', 'false'],
            description='start RViz'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='lowest severity that is logged'),
        OpaqueFunction(function=processes),
    ])
