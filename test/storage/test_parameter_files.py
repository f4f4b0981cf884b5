# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parameter files: which keys apply to a node, compared with rclpy; refused files."""

from pathlib import Path

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.parameter_files import (
    full_name,
    key_matches,
    read_parameter_file,
    read_value,
    require_files_for,
    require_spelt,
)

KEYS = ('/**', '/*', '**', '*', '/auv/**', '/auv/*', '/auv/n', 'auv/n', 'n', '/n', '/**/n', '/*/n',
        '/*/*', 'auv/*', '/**/auv/n', '/auv/**/n', '/auv/N', '/auv/nn', '/a/b/n', '/a/**', '/a/*')


def written(folder: Path, text: str) -> str:
    path = folder / 'p.yaml'
    path.write_text(text)
    return str(path)


@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
@pytest.mark.parametrize('namespace', ['/', '/auv', '/a/b'])
def test_a_key_matches_as_rclpy_says(tmp_path: Path, namespace: str) -> None:
    import rclpy

    for key in KEYS:
        file = written(tmp_path, f'"{key}":\n  ros__parameters:\n    x: 1\n')
        context = rclpy.Context()
        rclpy.init(context=context, args=['--ros-args', '--params-file', file])
        node = rclpy.create_node('n', namespace=namespace, context=context, enable_rosout=False,
                                 start_parameter_services=False)
        theirs = node.declare_parameter('x', 0).value == 1
        node.destroy_node()
        context.try_shutdown()
        full = full_name(namespace, 'n')
        assert key_matches(key, full) == theirs, (key, full)
        entries = read_parameter_file(file).entries
        assert any(key_matches(entry, full) for entry in entries) == theirs


def test_all_values_of_a_node_have_dotted_names_and_the_later_key_wins(tmp_path: Path) -> None:
    file = read_parameter_file(written(
        tmp_path, '/**:\n  ros__parameters:\n    gate:\n      alpha: 0.1\n      hold_s: 2.0\n'
                  '/auv/n:\n  ros__parameters:\n    gate.alpha: 0.2\n'
                  '/other:\n  ros__parameters:\n    seed: 3\n'))
    assert file.values('/auv/n') == {'gate.alpha': 0.2, 'gate.hold_s': 2.0}
    assert file.values('/n') == {'gate.alpha': 0.1, 'gate.hold_s': 2.0}


@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
def test_values_are_those_that_rclpy_reads(tmp_path: Path) -> None:
    import rclpy

    texts = ['1e-1', '2E3', '-.5e+2', '1.e1', "'1e3'", 'e3', '1e', '7', '-7', '0.25', 'true',
             'suim', '"a b"', '/a/b', '[a, "b c"]', '[1.0, 2.5]', '0x10', 'off', '2026-12-01',
             '2026-12-01 7:30:00', '1:30']
    file = written(tmp_path, '/n:\n  ros__parameters:\n' + ''.join(
        f'    x{i}: {text}\n' for i, text in enumerate(texts)))
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '--params-file', file])
    node = rclpy.create_node('n', context=context, enable_rosout=False,
                             start_parameter_services=False,
                             automatically_declare_parameters_from_overrides=True)
    ours = read_parameter_file(file).values('/n')
    for i, text in enumerate(texts):
        theirs = node.get_parameter(f'x{i}').value
        same = tuple(theirs) if isinstance(ours[f'x{i}'], tuple) else theirs
        assert (type(ours[f'x{i}']), ours[f'x{i}']) == (type(same), same), text
        assert read_value(text) == ours[f'x{i}'], text
    node.destroy_node()
    context.try_shutdown()


def test_lists_may_be_tagged_as_launch_does(tmp_path: Path) -> None:
    file = read_parameter_file(written(
        tmp_path, '/**:\n  ros__parameters:\n    cameras: !!python/tuple\n'
                  '    - front\n    - down\n'
                  '    autostart: false\n    seed: !!python/object:os.system 3\n    other: ~\n'))
    assert file.value('/n', 'cameras') == ('front', 'down')
    assert file.value('/n', 'autostart') is False
    assert file.value('/n', 'seed') == '3'


@pytest.mark.parametrize('text', [
    '', '[1, 2]', 'model: pipeline\n', '/**:\n  ros__parameter:\n    model: suim\n',
    '/**:\n  ros__parameters: {model: [\n'])
def test_a_file_without_parameters_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match='p.yaml'):
        read_parameter_file(written(tmp_path, text))


@pytest.mark.parametrize(('text', 'named'), [
    ('/n:\n  ros__parameters:\n    seed: 1\n    max_age_s: 1.0\n    seed: 9\n', 'seed'),
    ('/n:\n  ros__parameters:\n    gate.alpha: 0.1\n    gate: {alpha: 0.2}\n', 'gate.alpha'),
    ('/n:\n  ros__parameters: {seed: 1}\n/n:\n  ros__parameters: {seed: 2}\n', '/n'),
    ('/n:\n  ros__parameters: {seed: 1}\nn:\n  ros__parameters: {seed: 2}\n', 'seed')])
def test_what_stands_twice_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_parameter_file(written(tmp_path, text))


def test_a_misspelt_name_is_refused_and_that_of_another_node_is_not() -> None:
    known = ['gate.threshold_scale', 'max_age_s', 'max_skew_s', 'cameras', 'log.folder']
    others = ['frame_id', 'exposure', 'brightness', 'use_sim_time', 'qos_overrides./cam.depth']
    assert require_spelt([*known, *others], known) == ['frame_id', 'exposure', 'brightness']
    for name in ('gate.treshold_scale', 'gate.bogus', 'gate', 'max_ages', 'camera', 'log.dir',
                 'threshold_scale'):
        with pytest.raises(ConfigError, match=name):
            require_spelt([name], known)


def test_a_folder_or_a_file_of_bytes_is_refused_without_words_of_python(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_parameter_file(str(tmp_path))
    (tmp_path / 'bytes').write_bytes(b'a\xff')
    with pytest.raises(ConfigError, match='bytes'):
        read_parameter_file(str(tmp_path / 'bytes'))


def test_a_file_for_another_node_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    file = written(tmp_path, '/auv1/uncertainty_seg:\n  ros__parameters:\n    model: suim\n')
    words = ['--ros-args', '-r', '__node:=x', '--params-file', file]
    require_files_for(words, '/auv1/uncertainty_seg')
    with pytest.raises(ConfigError):
        require_files_for(words, '/uncertainty_seg')
    # Arguments after -- are not ROS arguments.
    require_files_for(['--ros-args', '--', '--params-file', file], '/uncertainty_seg')


@pytest.mark.parametrize('value', ['[' * 10_000 + ']' * 10_000, '&a [1, *a]', '[&a [1], *a]'],
                         ids=['deep', 'circle', 'alias'])
def test_yaml_that_costs_without_bound_is_refused_at_once(value: str, tmp_path: Path) -> None:
    path = tmp_path / 'node.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    seed: {value}\n')
    with pytest.raises(ConfigError, match='node.yaml'):
        read_parameter_file(str(path))
    with pytest.raises(ValueError):
        read_value(value)
