# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Start the node, and RViz on request.

The node configures and activates itself (autostart); with autostart:=false a lifecycle manager
does it. A node that ends is started again (respawn), since one whose worker hangs ends itself and
nobody can start it by hand under water. The processes started here get an environment in which DDS
can carry camera frames (docs/transport.md); variables that are already set are kept. The camera
driver needs the same.

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
FRAME_MEMORY = {
    # The profile configures the transport only; quality of service stays what the nodes request.
    'RMW_FASTRTPS_USE_QOS_FROM_XML': '0',
    # glibc then keeps blocks of up to 32 MB instead of mapping memory anew for each frame.
    'MALLOC_MMAP_THRESHOLD_': '33554432',
    'MALLOC_TRIM_THRESHOLD_': '33554432',
}
# Arguments that are also parameters: without a value the file decides.
PARAMETERS = {'model': str, 'use_sim_time': bool, 'autostart': bool}


def node_of(context: LaunchContext) -> list:
    """Make the node; parameters that are given as arguments override the file."""
    given = {}
    for name, kind in PARAMETERS.items():
        if LaunchConfiguration(name).perform(context):
            given[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    topics = camera_topics(LaunchConfiguration('cameras').perform(context))
    if topics:
        given['cameras'] = list(topics)
    return [Node(
        package='uncertainty_seg',
        executable='uncertainty_seg_node',
        name='uncertainty_seg',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[LaunchConfiguration('params_file'), *([given] if given else [])],
        remappings=[('image', LaunchConfiguration('image')),
                    *((f'{name}/image', topic) for name, topic in topics.items() if topic)],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=LaunchConfiguration('respawn').perform(context) == 'true',
        respawn_delay=float(LaunchConfiguration('respawn_delay').perform(context)),
    )]


def camera_topics(words: str) -> dict:
    """Read 'front=/cam1/image_raw,down' as the names of cameras and where their images are."""
    pairs = (word.partition('=') for word in words.split(',') if word.strip())
    return {name.strip(): topic.strip() for name, _, topic in pairs}


def frame_transport(share: str) -> list:
    """Set the environment that camera frames need, except what the user has set."""
    variables = dict(FRAME_MEMORY)
    if not any(name in os.environ for name in PROFILE_VARIABLES):
        profile = os.path.join(share, 'config', 'fastdds_profile.xml')
        variables |= dict.fromkeys(PROFILE_VARIABLES, profile)
    return [SetEnvironmentVariable(name, value) for name, value in variables.items()
            if name not in os.environ]


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
            'cameras', default_value='',
            description='several cameras and their topics: front=/cam1/image_raw,down; without a '
                        f'topic, down listens to down/image; {from_file}'),
        DeclareLaunchArgument(
            'params_file', default_value=os.path.join(share, 'config', 'uncertainty_seg.yaml'),
            description='parameter file; start from a copy of config/uncertainty_seg.yaml'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='',
            description=f'take the time from /clock; {from_file}'),
        DeclareLaunchArgument(
            'autostart', default_value='',
            description='true configures and activates, false leaves it to a lifecycle manager; '
                        + from_file),
        DeclareLaunchArgument(
            'respawn', default_value='true', choices=['true', 'false'],
            description='start the node again whenever it ends, also after a wrong parameter'),
        DeclareLaunchArgument(
            'respawn_delay', default_value='2.0', description='seconds until then'),
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
    node = OpaqueFunction(function=node_of)
    return LaunchDescription([*arguments, *frame_transport(share), node, rviz])
