# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Play a bag through the node: ros2 launch uncertainty_seg demo.launch.py bag:=dive.

The player is part of this package, so only the core of ROS is needed. It waits for the node.

"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and what they start."""
    share = get_package_share_directory('uncertainty_seg')
    arguments = [
        DeclareLaunchArgument('bag', description='bag to play'),
        DeclareLaunchArgument(
            'model', default_value='',
            description='name of a shipped model, or the folder of a bundle'),
        DeclareLaunchArgument(
            'image', default_value='image', description='topic the images are played on'),
        DeclareLaunchArgument('rate', default_value='1.0', description='pace of the player'),
        DeclareLaunchArgument('rviz', default_value='false', description='start rviz'),
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            os.path.join(share, 'launch', 'uncertainty_seg.launch.py')),
        launch_arguments={
            'model': LaunchConfiguration('model'),
            'image': LaunchConfiguration('image'),
            'rviz': LaunchConfiguration('rviz'),
            'use_sim_time': 'true',  # the stamps of a bag are compared with its own time
            'respawn': 'false',  # somebody is looking
        }.items(),
    )
    # After the node's launch file, because the player needs its environment (shared memory) too.
    player = Node(
        package='uncertainty_seg',
        executable='uncertainty_seg_play',
        name='uncertainty_seg_play',
        output='screen',
        arguments=[LaunchConfiguration('bag'), '--rate', LaunchConfiguration('rate'), '--clock'],
        remappings=[('image', LaunchConfiguration('image'))],
    )
    return LaunchDescription([*arguments, node, player])
