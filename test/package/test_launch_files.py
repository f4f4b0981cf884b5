# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the launch files declare and start, read with stand-ins for launch and launch_ros.

That the real launch (or play_launch) reads and starts them is the step scripts/check_launch.

"""

from pathlib import Path
from typing import Any

from launch_stand_ins import actions_of, arguments, FRAME_MEMORY, PROFILES, ROOT, stand_ins

__all__ = ['arguments', 'stand_ins']  # fixtures, the second for every test here


def environment_set() -> dict[str, str]:
    actions = actions_of('uncertainty_seg.launch.py').get('SetEnvironmentVariable', [])
    return {action.words[0]: action.words[1] for action in actions}


def test_the_nodes_arguments_are_declared_and_described() -> None:
    declared = actions_of('uncertainty_seg.launch.py')['DeclareLaunchArgument']
    assert [a.words[0] for a in declared] == [
        'model', 'image', 'cameras', 'params_file', 'namespace', 'use_sim_time', 'autostart',
        'respawn', 'respawn_delay', 'rviz', 'log_level']
    assert all(a.description for a in declared)
    page = (ROOT / 'docs' / 'ros_interface.md').read_text(encoding='utf-8')
    for argument in declared:
        assert f'`{argument.words[0]}`' in page


def test_without_arguments_the_parameter_file_decides(
    arguments: dict[str, str],  # noqa: F811
) -> None:
    node, _ = actions_of('uncertainty_seg.launch.py')['Node']
    assert [p.words[0] for p in node.parameters] == ['params_file']


def test_arguments_stand_over_the_parameter_file(
    arguments: dict[str, str],  # noqa: F811
) -> None:
    arguments.update(model='suim', autostart='false')
    node, _ = actions_of('uncertainty_seg.launch.py')['Node']
    assert set(node.parameters[1]) == {'model', 'autostart'}
    assert node.parameters[1]['model'].value_type is str
    assert node.parameters[1]['autostart'].value_type is bool


def test_several_cameras_are_named_and_remapped(
    arguments: dict[str, str],  # noqa: F811
) -> None:
    arguments.update(cameras='front=/cam1/image_raw, down')
    node, _ = actions_of('uncertainty_seg.launch.py')['Node']
    assert node.parameters[1] == {'cameras': ['front', 'down']}
    assert node.remappings[1:] == [('front/image', '/cam1/image_raw')]


def test_a_node_that_ends_is_started_again_unless_that_is_not_wanted(
    arguments: dict[str, str],  # noqa: F811
) -> None:
    actions = actions_of('uncertainty_seg.launch.py')
    declared = {a.words[0]: a for a in actions['DeclareLaunchArgument']}
    for name in ('respawn', 'respawn_delay'):
        assert declared[name].default_value == arguments[name]
    assert declared['respawn'].choices == ['true', 'false']
    node, rviz = actions['Node']
    assert (node.respawn, node.respawn_delay) == (True, 2.0)
    assert not hasattr(rviz, 'respawn')
    arguments.update(respawn='false', respawn_delay='0.5')
    node, _ = actions_of('uncertainty_seg.launch.py')['Node']
    assert (node.respawn, node.respawn_delay) == (False, 0.5)
    (demo,) = actions_of('demo.launch.py')['IncludeLaunchDescription']
    assert dict(demo.launch_arguments)['respawn'] == 'false'


def test_rviz_is_started_only_when_asked_with_our_layout() -> None:
    _, rviz = actions_of('uncertainty_seg.launch.py')['Node']
    assert rviz.executable == 'rviz2'
    assert rviz.condition.words[0].words == ('rviz',)
    assert (ROOT / rviz.arguments[1]).is_file()


def test_large_shared_memory_is_set_unless_the_user_has_a_profile(monkeypatch: Any) -> None:
    assert PROFILES < environment_set().keys()
    assert all(Path(environment_set()[n]).is_file() for n in PROFILES)
    # A user with one of the two has a profile: the other must not stand beside it.
    monkeypatch.setenv('FASTRTPS_DEFAULT_PROFILES_FILE', '/mine.xml')
    assert not PROFILES & environment_set().keys()


def test_memory_of_a_frames_size_is_kept_and_qos_stays_the_nodes(monkeypatch: Any) -> None:
    told = environment_set()
    assert told['RMW_FASTRTPS_USE_QOS_FROM_XML'] == '0'
    assert told['MALLOC_MMAP_THRESHOLD_'] == told['MALLOC_TRIM_THRESHOLD_'] == str(32 << 20)
    page = (ROOT / 'docs' / 'transport.md').read_text(encoding='utf-8')
    assert all(f'`{name}`' in page for name in told)
    for name in FRAME_MEMORY:
        monkeypatch.setenv(name, '1')
    assert environment_set().keys() == PROFILES


def test_the_demo_plays_on_the_topic_the_node_listens_to() -> None:
    actions = actions_of('demo.launch.py')
    (player,) = actions['Node']
    (include,) = actions['IncludeLaunchDescription']
    assert player.executable == 'uncertainty_seg_play'
    assert player.remappings[0][0] == 'image'
    assert player.remappings[0][1].words == dict(include.launch_arguments)['image'].words
    # An old bag is judged by its own time.
    assert dict(include.launch_arguments)['use_sim_time'] == 'true'
    assert player.arguments[-1] == '--clock'
    declared = {a.words[0] for a in actions['DeclareLaunchArgument']}
    assert declared == {'bag', 'model', 'image', 'rate', 'rviz'}
    assert Path(include.words[0].words[0]).is_file()


def test_every_executable_is_installed() -> None:
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    for file in ('uncertainty_seg.launch.py', 'demo.launch.py'):
        for node in actions_of(file)['Node']:
            if node.package == 'uncertainty_seg':
                assert f"'{node.executable} = " in setup


def test_the_rviz_layout_shows_the_flag_and_topics_of_the_node() -> None:
    from ruamel.yaml import YAML

    text = (ROOT / 'config' / 'uncertainty_seg.rviz').read_text(encoding='utf-8')
    layout = YAML(typ='safe').load(text)
    topics = [d['Topic']['Value'] for d in layout['Visualization Manager']['Displays']]
    assert topics == ['uncertainty_seg/overlay', 'uncertainty_seg/uncertainty_overlay',
                      'uncertainty_seg/mask_color', 'image']


def test_the_transport_profile_has_room_for_a_camera_frame() -> None:
    from xml.etree import ElementTree

    space = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    root = ElementTree.parse(ROOT / 'config' / 'fastdds_profile.xml').getroot()
    sizes = [int(e.text or 0) for e in root.iter(f'{space}segment_size')]
    assert sizes == [32 << 20]
    assert [e.text for e in root.iter(f'{space}useBuiltinTransports')] == ['false']
