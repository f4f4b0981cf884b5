# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bad input to the installed ROS programs: one sentence, an exit code, and no process left behind.

Models, parameter files and damaged bundles: test_node_start.py. No network interface and domains
out of range: test_node_stop.py. Launch files: test_launch_files.py and scripts/check_launch.
"""

import os
from pathlib import Path
import subprocess
import sys

from conftest import make_tiny_bundle
import pytest
from ros_helpers import needs_ros, ros_environment

pytestmark = needs_ros
ENTRY = 'from uncertainty_seg.ros import entry; entry.{}()'


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def run(
    program: str, words: list[str], domain: int, before: str = ''
) -> tuple[int, list[str]]:
    """Run an installed program; return exit code and lines; its process group must have ended."""
    process = subprocess.Popen(
        [sys.executable, '-c', before + ENTRY.format(program), *words], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, env=ros_environment(domain))
    output, _ = process.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert 'Traceback' not in output
    return process.returncode, [line for line in output.splitlines() if '[INFO]' not in line]


@pytest.mark.parametrize(('parameter', 'sentence'), [
    ('threads:=many', 'threads'), ('model:=5', 'model'), ('gate.scores:=7', 'gate.scores'),
    ('cameras:=[1, 2]', 'cameras'), ('cameras:=[front-cam]', 'front-cam'),
])
def test_a_parameter_of_the_node(
    domain: int, bundle: Path, parameter: str, sentence: str
) -> None:
    code, lines = run('node', ['--ros-args', '-p', f'model:={bundle}', '-p', parameter], domain)
    assert (code, len(lines)) == (2, 1), lines
    assert sentence in lines[0]
    assert len(lines[0]) < 250


@pytest.mark.parametrize(('program', 'words'), [
    ('node', ['-r', 'image:=/front-cam']), ('node', ['-r', '__node:=a-b']),
    ('node', ['--log-level', 'loud']), ('node', ['-r', '__ns:=/auv/']),
    ('governor', ['-r', '__ns:=/auv 1']), ('governor', ['-r', '__ns:=auv']),
    ('governor', ['-p', 'threads']), ('player', ['-r', 'image:=/front-cam'])])
def test_what_ros_cannot_parse(domain: int, program: str, words: list[str]) -> None:
    own = ['bag'] if program == 'player' else []
    code, lines = run(program, [*own, '--ros-args', *words], domain)
    assert code == 2, lines
    assert words[-1].split(':=')[-1] in '\n'.join(lines)


@pytest.mark.parametrize(('program', 'words', 'named'), [
    ('node', ['-p', 'model:=pipeline'], "'-p', 'model:=pipeline'"),
    ('node', ['model:=pipeline'], "'model:=pipeline'"),
    ('governor', ['--params-file', '/etc/auv.yaml'], "'--params-file', '/etc/auv.yaml'"),
    ('governor', ['--ros-args', '-r', 'cmd_vel:=/v', '-r', 'cmd_vel_limited:=/v'], '/v'),
    ('governor', ['--ros-args', '-p', 'slow_factor:=0', '--', 'slow'], "'slow'")])
def test_a_word_that_ros_would_pass_over(
    domain: int, program: str, words: list[str], named: str
) -> None:
    # ROS ignores such arguments, so the node would run with its defaults.
    code, lines = run(program, words, domain)
    assert (code, len(lines)) == (2, 1), lines
    assert named in lines[0]


@pytest.mark.parametrize('program', ['node', 'governor', 'player'])
def test_help_is_told_and_nothing_starts(domain: int, program: str) -> None:
    code, lines = run(program, ['--help'], domain)
    assert code == 0 and lines[0].startswith('usage: ')
    assert '--ros-args' in '\n'.join(lines)


@pytest.mark.parametrize(('program', 'missing'), [
    ('node', 'rclpy'), ('governor', 'geometry_msgs'), ('player', 'rosgraph_msgs')])
def test_a_shell_in_which_ros_was_not_sourced(domain: int, program: str, missing: str) -> None:
    code, lines = run(program, [], domain, f'import sys; sys.modules[{missing!r}] = None; ')
    assert (code, len(lines)) == (1, 1), lines
    assert 'ROS 2' in lines[0] and missing in lines[0]
    assert 'source /opt/ros/' in lines[0]


@pytest.mark.parametrize(('words', 'code', 'sentence'), [
    (['/no/bag'], 1, '/no/bag'), (['x', '--rate', '0'], 2, '0'),
    (['x', '--rate', 'fast'], 2, 'fast'),
    (['x', '--ros-args', '--params-file', '/no.yaml'], 2, '/no.yaml'),
    ([], 2, 'BAG')])
def test_an_argument_of_the_player(
    domain: int, words: list[str], code: int, sentence: str
) -> None:
    found, lines = run('player', words, domain)
    assert found == code and sentence in lines[-1]


def test_a_score_that_is_not_calibrated_is_said_without_a_list_of_all(
    domain: int
) -> None:
    code, lines = run('node', ['--ros-args', '-p', 'model:=pipeline', '-p',
                               'gate.scores:=[entropy.maen]'], domain)
    assert (code, len(lines)) == (2, 1), lines
    assert 'gate.scores' in lines[0] and "'entropy.maen'" in lines[0]
    assert 'entropy.mean' in lines[0] and len(lines[0]) < 400
