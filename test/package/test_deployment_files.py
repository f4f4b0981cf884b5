# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The unit of systemd, the Dockerfile and its entrypoint: what they name exists.

None of them has run on the board they are for; this is what can be held against the tree.

"""

from __future__ import annotations

import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess

import pytest

from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.ros.process_watch import (
    EXIT_WATCH,
    FLUSH_S,
    LAST_WORDS_S,
    LONGEST_TRANSITION_S,
    LOOK_EVERY_S,
)

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / 'systemd' / 'uncertainty_seg.service'
DOCKERFILE = ROOT / 'docker' / 'Dockerfile'
ENTRYPOINT = ROOT / 'docker' / 'entrypoint'
PLACE = '/opt/uncertainty_seg/'
# Where colcon puts what setup.py installs.
PROGRAMS = 'install/uncertainty_seg/lib/uncertainty_seg/'
SHARED = 'install/uncertainty_seg/share/uncertainty_seg/'


def unit_lines() -> list[tuple[str, str]]:
    """Key and value of every line, repeated keys kept."""
    lines = [line for line in UNIT.read_text().splitlines() if re.match(r'\w+=', line)]
    return [(key, value) for key, _, value in (line.partition('=') for line in lines)]


def unit_values(key: str) -> list[str]:
    return [value for name, value in unit_lines() if name == key]


def environment() -> dict[str, str]:
    words = [word for value in unit_values('Environment') for word in value.split()]
    return dict(word.split('=', 1) for word in words)


def command() -> list[str]:
    """Return the words of ExecStart with the unit's own environment put in, as systemd does."""
    (line,) = unit_values('ExecStart')
    for name, value in environment().items():
        line = line.replace('${' + name + '}', value)
    assert '$' not in line
    return shlex.split(line)


def test_the_service_starts_the_node_itself_with_settings_that_exist() -> None:
    shell, flag, script = command()
    assert (shell, flag) == ('/bin/bash', '-c')
    subprocess.run(['bash', '-n', '-c', script], check=True)
    words = shlex.split(script)
    node = words[words.index('exec') + 1]
    assert node == PLACE + PROGRAMS + 'uncertainty_seg_node'
    assert 'uncertainty_seg_node = ' in (ROOT / 'setup.py').read_text()
    given = dict(word.split(':=') for word in words if ':=' in word)
    assert given.pop('image') == '/camera/image_raw'
    settings = settings_from_dict(given)
    assert settings == Settings(model='pipeline', backend='tensorrt')


def test_every_file_of_the_package_that_the_service_names_is_installed() -> None:
    named = [value for value in environment().values() if value.startswith(PLACE + SHARED)]
    assert len(named) == 3
    for value in named:
        assert (ROOT / value.removeprefix(PLACE + SHARED)).is_file(), value


def test_the_vehicles_own_file_wins_and_may_be_missing() -> None:
    keys = [key for key, _ in unit_lines()]
    assert unit_values('EnvironmentFile') == ['-/etc/default/uncertainty_seg']
    last = len(keys) - 1 - keys[::-1].index('Environment')
    assert keys.index('EnvironmentFile') > last


def test_the_service_comes_back_but_not_to_a_parameter_that_stays_wrong() -> None:
    assert unit_values('Restart') == ['always']
    assert unit_values('StartLimitIntervalSec') == ['0']
    assert unit_values('RestartPreventExitStatus') == ['2']


def test_the_service_is_watched_and_its_start_may_take_as_long_as_a_transition() -> None:
    assert unit_values('Type') == ['notify']
    assert unit_values('TimeoutStartSec') == [f'{LONGEST_TRANSITION_S / 3600:g}h']
    (watchdog_s,) = unit_values('WatchdogSec')
    # Last words and flushing end within it, so that the process ends with its own exit code.
    assert float(watchdog_s) > LAST_WORDS_S + FLUSH_S + LOOK_EVERY_S
    assert unit_values('MemoryMax') == ['4G']
    assert float(unit_values('RestartSec')[0]) > 0
    # Its exit code is none of those that keep the service down.
    assert str(EXIT_WATCH) not in unit_values('RestartPreventExitStatus')


def test_engines_of_service_and_container_lie_in_one_writable_place() -> None:
    folder = environment()['UNCERTAINTY_SEG_ENGINE_CACHE']
    assert folder.startswith('/var/cache/' + unit_values('CacheDirectory')[0] + '/')
    docker = DOCKERFILE.read_text()
    assert f'UNCERTAINTY_SEG_ENGINE_CACHE={folder}' in docker
    assert f'VOLUME {Path(folder).parent}' in docker
    assert folder in (ROOT / 'docs' / 'jetson.md').read_text()


def test_systemd_has_nothing_to_say_against_the_unit() -> None:
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not here')
    done = subprocess.run(['systemd-analyze', 'verify', str(UNIT)], capture_output=True,
                          text=True, check=False)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert said == []


def instructions() -> list[tuple[str, str]]:
    """Instruction and rest of every statement of the Dockerfile, continued lines joined."""
    lines = [n for n in DOCKERFILE.read_text().splitlines() if not n.startswith('#')]
    text = '\n'.join(lines).replace('\\\n', ' ')
    return [(n.split(' ', 1)[0], n.split(' ', 1)[1]) for n in text.splitlines() if n.strip()]


def test_the_image_stands_on_a_base_that_must_be_named() -> None:
    found = instructions()
    assert found[:2] == [('ARG', 'BASE'), ('FROM', '${BASE}')]
    assert ('ARG', 'TORCH') in found
    assert 'UNBUILT' in DOCKERFILE.read_text()


def test_what_the_image_copies_and_installs_is_in_the_tree() -> None:
    found = instructions()
    sources = [rest.split()[0] for word, rest in found if word == 'COPY']
    assert sources == ['scripts/requirements', '.', 'docker/entrypoint']
    assert all((ROOT / source).exists() for source in sources)
    runs = ' '.join(rest for word, rest in found if word == 'RUN')
    wanted = re.findall(r'-r (\S+)', runs)
    locked = 'scripts/requirements/locked'
    assert wanted == [f'{locked}/pip.txt', f'{locked}/numpy1.txt']
    # Only torch, which is the builder's own, comes without a hash.
    assert runs.count('pip install') == 3 and runs.count('--require-hashes') == 2
    assert all((ROOT / name).is_file() for name in wanted)
    profiles = re.findall(rf'_PROFILES_FILE={PLACE}(\S+)', DOCKERFILE.read_text())
    assert len(profiles) == 2
    assert all((ROOT / name).is_file() for name in profiles)


def test_every_step_of_the_image_is_sound_shell() -> None:
    runs = [rest for word, rest in instructions() if word == 'RUN']
    assert len(runs) == 4
    for script in runs:
        subprocess.run(['bash', '-n', '-c', script], check=True)


def test_the_python_of_the_image_runs_and_names_what_is_lacking() -> None:
    (script,) = [rest for word, rest in instructions() if word == 'RUN' and 'python -c' in rest]
    code = shlex.split(script)[shlex.split(script).index('-c') + 1]
    code = code.replace("'tensorrt'", "'no_such_package'").replace("'torch'", "'os'")
    done = subprocess.run(['python3', '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'no_such_package'" in done.stderr.splitlines()[-1]
    assert "'os'" not in done.stderr.splitlines()[-1]


def test_the_entrypoint_becomes_its_command_with_everything_sourced(tmp_path: Path) -> None:
    assert os.access(ENTRYPOINT, os.X_OK)
    text = ENTRYPOINT.read_text().replace('ROOT=/opt/uncertainty_seg', f'ROOT={tmp_path}')
    text = text.replace('/opt/ros/', f'{tmp_path}/ros/')
    for name, place in (('SAW_ROS', 'ros/humble/setup.bash'), ('SAW_VENV', '.venv/bin/activate'),
                        ('SAW_PACKAGE', 'install/setup.bash')):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(f'export {name}=1\n')
    programs = tmp_path / PROGRAMS
    programs.mkdir(parents=True)
    (programs / 'uncertainty_seg').write_text(
        '#!/usr/bin/env bash\necho "$SAW_ROS$SAW_VENV$SAW_PACKAGE $*"; exit 7\n')
    (programs / 'uncertainty_seg').chmod(0o755)
    done = subprocess.run(['bash', '-c', text, 'entrypoint', 'uncertainty_seg', 'self-check', 'x'],
                          capture_output=True, text=True, check=False,
                          env={'PATH': os.environ['PATH'], 'ROS_DISTRO': 'humble'})
    assert (done.returncode, done.stdout) == (7, '111 self-check x\n')


def test_an_entrypoint_without_a_ros_says_which_variable_is_missing() -> None:
    done = subprocess.run([str(ENTRYPOINT), 'true'], capture_output=True, text=True, check=False,
                          env={'PATH': os.environ['PATH']})
    assert done.returncode != 0
    assert 'ROS_DISTRO' in done.stderr
