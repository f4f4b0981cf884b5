# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Start the node, and RViz on request.

All arguments are checked before a process starts; there is no default model. The node configures
and activates itself (autostart); with autostart:=false a lifecycle manager does it. A node that
ends is restarted (respawn): one whose worker hangs ends itself, and under water it cannot be
started by hand. The processes get an environment in which DDS can carry camera frames
(docs/guides/cameras.md); variables that are already set are kept. The camera driver needs the
same.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from uncertainty_seg.ros import launch_checks as checks

# Humble and Jazzy read the first, Kilted and later the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
FRAME_MEMORY = {
    # The profile configures the transport only; quality of service stays what the nodes request.
    'RMW_FASTRTPS_USE_QOS_FROM_XML': '0',
    # glibc then keeps blocks of up to 32 MB instead of mapping memory anew for each frame.
    'MALLOC_MMAP_THRESHOLD_': '33554432',
    'MALLOC_TRIM_THRESHOLD_': '33554432',
}
# Arguments that are also parameters; if empty, the parameter file decides.
PARAMETERS = {'model': str, 'use_sim_time': bool, 'autostart': bool, 'stale_timeout_s': float,
              'max_age_s': float}
RVIZ = ('rviz2', 'rviz2')
SHOWN = ('overlay', 'heatmap', 'mask_color')


def processes(context: LaunchContext) -> list:
    """Check everything, then make the processes; a later error would leave some running."""
    checks.require_known(context, checks.NODE_ARGUMENTS, 'uncertainty_seg.launch.py')
    share = get_package_share_directory('uncertainty_seg')
    said = {name: LaunchConfiguration(name).perform(context) for name in (
        'model', 'autostart', 'cameras', 'image', 'params_file', 'namespace', 'rviz')}
    for name in ('image', 'namespace'):
        checks.require_name(name, said[name])
    full = checks.full_name(said['namespace'], checks.NODE_NAME)
    file = checks.parameter_file(said['params_file'], said['namespace'], checks.NODE_NAME)
    checks.require_model(said['model'], said['autostart'], file, full)
    topics = checks.camera_topics(said['cameras'])
    made = [node_of(context, topics)]
    if said['rviz'] == 'true':
        checks.require_package(*RVIZ, os.environ.get('AMENT_PREFIX_PATH', ''), 'rviz:=true')
        cameras = list(topics) or [name for name in file.value(full, 'cameras') or () if name]
        made += [rviz_of(share, camera, topics) for camera in cameras or ('',)]
    return made


def node_of(context: LaunchContext, topics: dict) -> Node:
    """Make the node; parameters that are given as arguments override the file."""
    given = {}
    for name, kind in PARAMETERS.items():
        if text := LaunchConfiguration(name).perform(context):
            if kind is float:
                checks.require_number(name, text)
            given[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    if topics:
        given['cameras'] = list(topics)
    delay_s = checks.require_number(
        'respawn_delay', LaunchConfiguration('respawn_delay').perform(context), is_positive=True)
    respawn = LaunchConfiguration('respawn').perform(context) == 'true'
    return Node(
        package='uncertainty_seg',
        executable='uncertainty_seg_node',
        additional_env=checks.ends_with_launch(),
        name=checks.NODE_NAME,
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[LaunchConfiguration('params_file'), *([given] if given else [])],
        remappings=[('image', LaunchConfiguration('image')), *remappings_of(topics)],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=respawn,
        respawn_delay=delay_s,
        on_exit=checks.end_with(checks.NODE_NAME, only_misuse=respawn),
    )


def rviz_of(share: str, camera: str, topics: dict) -> Node:
    """Make an RViz that shows one camera, in the layout of a node with a single camera."""
    shown = [(f'{checks.NODE_NAME}/{name}', f'{checks.NODE_NAME}/{camera}/{name}')
             for name in SHOWN if camera]
    image = topics.get(camera) or (f'{camera}/image' if camera else LaunchConfiguration('image'))
    package, executable = RVIZ
    return Node(
        package=package,
        executable=executable,
        name=f'rviz_{camera}' if camera else 'rviz',
        namespace=LaunchConfiguration('namespace'),
        arguments=['-d', os.path.join(share, 'config', 'uncertainty_seg.rviz')],
        remappings=[('image', image), *shown],
    )


def remappings_of(topics: dict) -> list:
    """Remap the image topics of cameras; without one, front subscribes to front/image."""
    return [(f'{name}/image', topic) for name, topic in topics.items() if topic]


def frame_transport(share: str) -> list:
    """Set the environment that camera frames need, except what the user has set."""
    variables = dict(FRAME_MEMORY)
    if not any(name in os.environ for name in PROFILE_VARIABLES):
        profile = os.path.join(share, 'config', 'fastdds_profile.xml')
        variables |= dict.fromkeys(PROFILE_VARIABLES, profile)
    return [SetEnvironmentVariable(name, value) for name, value in variables.items()
            if name not in os.environ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    share = get_package_share_directory('uncertainty_seg')
    from_file = 'empty: as in params_file'
    arguments = [
        DeclareLaunchArgument(
            'model', default_value='',
            description='name of an included model, or folder of a bundle; required; '
                        + from_file),
        DeclareLaunchArgument(
            'image', default_value='image', description='topic of the camera image'),
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='several cameras and their topics: front=/cam1/image_raw,down; without a '
                        f'topic, down subscribes to down/image; {from_file}'),
        DeclareLaunchArgument(
            'params_file', default_value=os.path.join(share, 'config', 'uncertainty_seg.yaml'),
            description='parameter file; start from a copy of config/uncertainty_seg.yaml'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='', choices=['', 'true', 'false'],
            description=f'use the time of /clock; {from_file}'),
        DeclareLaunchArgument(
            'autostart', default_value='', choices=['', 'true', 'false'],
            description='true: configure and activate; false: a lifecycle manager does; '
                        + from_file),
        DeclareLaunchArgument(
            'stale_timeout_s', default_value='',
            description=f'the parameter of this name, for slow bags; {from_file}'),
        DeclareLaunchArgument(
            'max_age_s', default_value='',
            description=f'the parameter of this name, for bags that are played fast; {from_file}'),
        DeclareLaunchArgument(
            'respawn', default_value='true', choices=['true', 'false'],
            description='restart the node when it ends, except after exit code 2 (misuse)'),
        DeclareLaunchArgument(
            'respawn_delay', default_value='2.0', description='seconds before a restart'),
        DeclareLaunchArgument(
            'rviz', default_value='false', choices=['true', 'false'],
            description='start RViz, one window per camera'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='lowest severity that is logged'),
    ]
    return LaunchDescription(
        [*arguments, *frame_transport(share), OpaqueFunction(function=processes)])
