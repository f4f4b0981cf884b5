# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The declarations and actions of the launch files, read with fakes of launch and launch_ros.

scripts/check_launch tests them with the real launch (or play_launch).
"""

from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any

from launch_stand_ins import actions_of, launch_arguments, PROFILES, stand_ins
import pytest

from uncertainty_seg.errors import ConfigError, UncertaintySegError

__all__ = ['launch_arguments', 'stand_ins']  # fixtures; the second applies to every test here


def environment_set() -> dict[str, str]:
    actions = actions_of('uncertainty_seg.launch.py').get('SetEnvironmentVariable', [])
    return {action.words[0]: action.words[1] for action in actions}


@pytest.mark.parametrize('file', ['uncertainty_seg', 'demo', 'speed_governor'])
def test_an_argument_that_launch_would_pass_over_is_refused_in_a_sentence(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ['/bin/ros2', 'launch', 'uncertainty_seg', f'{file}.launch.py']
    monkeypatch.setattr(sys, 'argv', program)
    names = [a.words[0] for a in actions_of(f'{file}.launch.py')['DeclareLaunchArgument']]
    known = [f'{name}:=x' for name in (*names, 'emulate_tty', 'sigterm_timeout')]
    actions_of(f'{file}.launch.py', SimpleNamespace(argv=known))
    # A parameter of the node or the governor, given as a launch argument.
    misspelt = SimpleNamespace(argv=[*known, 'lock_gate:=true'])
    with pytest.raises(ConfigError, match='lock_gate'):
        actions_of(f'{file}.launch.py', misspelt)
    # A user's launch file may have other arguments.
    monkeypatch.setattr(sys, 'argv', [*program[:2], 'auv', 'bringup.launch.py'])
    actions_of(f'{file}.launch.py', misspelt)


def parameters(folder: Path, node: str, line: str) -> str:
    path = folder / 'parameters.yaml'
    path.write_text(f'{node}:\n  ros__parameters:\n    {line}\n')
    return str(path)


def test_arguments_stand_over_the_parameter_file(
    arguments: dict[str, str],
) -> None:
    arguments.update(model='suim', autostart='false')
    (node,) = actions_of('uncertainty_seg.launch.py')['Node']
    assert set(node.parameters[1]) == {'model', 'autostart'}
    assert node.parameters[1]['model'].value_type is str
    assert node.parameters[1]['autostart'].value_type is bool


def test_several_cameras_are_named_and_remapped(
    arguments: dict[str, str],
) -> None:
    arguments.update(cameras='front=/cam1/image_raw, down')
    (node,) = actions_of('uncertainty_seg.launch.py')['Node']
    assert node.parameters[1]['cameras'] == ['front', 'down']
    assert node.remappings[1:] == [('front/image', '/cam1/image_raw')]


def test_a_node_that_ends_is_started_again_unless_that_is_not_wanted(
    arguments: dict[str, str],
) -> None:
    actions = actions_of('uncertainty_seg.launch.py')
    declared = {a.words[0]: a for a in actions['DeclareLaunchArgument']}
    assert declared['respawn'].choices == ['true', 'false']
    (node,) = actions['Node']
    assert (node.respawn, node.respawn_delay) == (True, 2.0)
    arguments.update(respawn='false', respawn_delay='0.5')
    (node,) = actions_of('uncertainty_seg.launch.py')['Node']
    assert (node.respawn, node.respawn_delay) == (False, 0.5)
    (demo,) = actions_of('demo.launch.py')['IncludeLaunchDescription']
    assert dict(demo.launch_arguments)['respawn'] == 'false'


@pytest.mark.parametrize('is_misuse', [True, False])
def test_a_node_that_refused_its_parameters_ends_the_launch(
    arguments: dict[str, str], is_misuse: bool,
) -> None:
    ended = SimpleNamespace(returncode=2 if is_misuse else 3)
    running, stopping = SimpleNamespace(is_shutdown=False), SimpleNamespace(is_shutdown=True)
    for file in ('uncertainty_seg.launch.py', 'speed_governor.launch.py'):
        (node,) = actions_of(file)['Node']
        node.on_exit(ended, stopping)
        if is_misuse:
            with pytest.raises(ConfigError, match='2'):
                node.on_exit(ended, running)
        else:
            node.on_exit(ended, running)
    # Without respawn, any failure ends the launch.
    arguments.update(respawn='false')
    (node,) = actions_of('uncertainty_seg.launch.py')['Node']
    with pytest.raises(ConfigError, match=f'{ended.returncode}'):
        node.on_exit(ended, running)


@pytest.mark.parametrize(('given', 'sentence'), [
    ({'model': ''}, 'suim_fp16'),
    ({'model': 'pipelin'}, 'pipelin'),
    ({'params_file': 'gate.treshold_scale: 0.5'}, 'gate.treshold_scale'),
    ({'params_file': 'seed: 1\n    seed: 2'}, 'seed'),
    ({'params_file': 'gate.alpha: 0.1\n    gate: {alpha: 0.2}'}, 'gate.alpha'),
    ({'params_file': '/nofile.yaml'}, '/nofile.yaml'),
    ({'rviz': 'true'}, 'rviz2'),
    ({'cameras': 'front-cam'}, 'front-cam'),
    ({'cameras': 'a,a'}, "'a'"),
    ({'cameras': '=/x'}, "''"),
    ({'cameras': 'a=/x y'}, '/x y'),
    ({'namespace': 'auv-1'}, 'auv-1'),
    ({'image': 'cam raw'}, 'cam raw'),
    ({'respawn_delay': 'soon'}, 'soon'),
    ({'max_age_s': 'nan'}, 'nan'),
])
def test_what_cannot_be_used_is_one_sentence_before_a_process_starts(
    arguments: dict[str, str], tmp_path: Path, given: dict[str, str], sentence: str,
) -> None:
    arguments.update(given)
    if ': ' in given.get('params_file', ''):
        arguments['params_file'] = parameters(tmp_path, '/**', given['params_file'])
    with pytest.raises(UncertaintySegError, match=sentence):
        actions_of('uncertainty_seg.launch.py')


@pytest.mark.parametrize(
    ('file', 'node'),
    [('uncertainty_seg.launch.py', 'uncertainty_seg'),
     ('speed_governor.launch.py', 'speed_governor')])
def test_a_parameter_file_must_speak_to_the_node(
    arguments: dict[str, str], tmp_path: Path, file: str, node: str,
) -> None:
    # A parameter dump of /auv1/... launched without its namespace, and a misspelt node name.
    for key in (f'/auv1/{node}', f'{node}s'):
        arguments['params_file'] = parameters(tmp_path, key, 'seed: 1')
        with pytest.raises(ConfigError, match=key.lstrip('/')):
            actions_of(file)
    arguments.update(namespace='auv1',
                     params_file=parameters(tmp_path, f'/auv1/{node}', 'seed: 1'))
    actions_of(file)


def test_a_lifecycle_manager_may_name_the_model_later(
    arguments: dict[str, str], tmp_path: Path,
) -> None:
    arguments.update(model='', autostart='false')
    actions_of('uncertainty_seg.launch.py')
    arguments.update(autostart='', params_file=parameters(tmp_path, '/**', 'autostart: false'))
    actions_of('uncertainty_seg.launch.py')


def test_large_shared_memory_is_set_unless_the_user_has_a_profile(monkeypatch: Any) -> None:
    assert PROFILES < environment_set().keys()
    assert all(Path(environment_set()[n]).is_file() for n in PROFILES)
    # If a user has set one of the two variables, the launch file must not set the other.
    monkeypatch.setenv('FASTRTPS_DEFAULT_PROFILES_FILE', '/mine.xml')
    assert not PROFILES & environment_set().keys()


@pytest.mark.parametrize(
    ('rate', 'times'),
    [('1.0', {}), ('0.1', {'stale_timeout_s': '20.0', 'max_age_s': '1.0'}),
     ('8', {'stale_timeout_s': '1.0', 'max_age_s': '8.0'})])
def test_a_demo_at_another_pace_is_judged_by_it(
    arguments: dict[str, str], rate: str, times: dict[str, str],
) -> None:
    arguments['rate'] = rate
    (include,) = actions_of('demo.launch.py')['IncludeLaunchDescription']
    given = dict(include.launch_arguments)
    assert {name: value for name, value in given.items() if name.endswith('_s')} == times


@pytest.mark.parametrize(('given', 'sentence'), [
    ({'bag': '/no/bag'}, '/no/bag'), ({'rate': '0'}, "'0'"),
    ({'rate': 'fast'}, 'fast')])
def test_a_demo_that_cannot_play_starts_nothing(
    arguments: dict[str, str], given: dict[str, str], sentence: str,
) -> None:
    arguments.update(given)
    with pytest.raises(ConfigError, match=sentence):
        actions_of('demo.launch.py')
