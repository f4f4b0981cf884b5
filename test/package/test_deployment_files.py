# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The units of systemd, the Dockerfile and its entrypoint: what they name exists and may reach.

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
GOVERNOR_UNIT = ROOT / 'systemd' / 'speed_governor.service'
UNITS = [UNIT, GOVERNOR_UNIT]
# Of ten: what systemd calls the exposure of a service.
MOST_EXPOSED = 4.0
DOCKERFILE = ROOT / 'docker' / 'Dockerfile'
ENTRYPOINT = ROOT / 'docker' / 'entrypoint'
PLACE = '/opt/uncertainty_seg/'
# Where colcon puts what setup.py installs.
PROGRAMS = 'install/uncertainty_seg/lib/uncertainty_seg/'
SHARED = 'install/uncertainty_seg/share/uncertainty_seg/'


def unit_lines(unit: Path = UNIT) -> list[tuple[str, str]]:
    """Key and value of every line, repeated keys kept."""
    lines = [line for line in unit.read_text().splitlines() if re.match(r'\w+=', line)]
    return [(key, value) for key, _, value in (line.partition('=') for line in lines)]


def unit_values(key: str, unit: Path = UNIT) -> list[str]:
    return [value for name, value in unit_lines(unit) if name == key]


def environment(unit: Path = UNIT) -> dict[str, str]:
    words = [word for value in unit_values('Environment', unit) for word in value.split()]
    return dict(word.split('=', 1) for word in words)


def command(unit: Path = UNIT) -> list[str]:
    """Return the words of ExecStart with the unit's own environment put in, as systemd does."""
    (line,) = unit_values('ExecStart', unit)
    for name, value in environment(unit).items():
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


def test_the_service_of_the_governor_starts_it_with_the_topics_of_its_launch_file() -> None:
    words = shlex.split(command(GOVERNOR_UNIT)[2])
    assert words[words.index('exec') + 1] == PLACE + PROGRAMS + 'speed_governor'
    assert 'speed_governor = ' in (ROOT / 'setup.py').read_text()
    remapped = dict(word.split(':=') for word in words if ':=' in word)
    launch = (ROOT / 'launch' / 'speed_governor.launch.py').read_text()
    assert f'TOPICS = {tuple(remapped)}' in launch
    assert remapped['confident'] == '/uncertainty_seg/confident'
    # It outlives the node, and a fault in the node cannot reach it.
    assert not {'BindsTo', 'PartOf', 'Requires', 'User'} & {
        key for key, _ in unit_lines(GOVERNOR_UNIT)}
    assert unit_values('DynamicUser', GOVERNOR_UNIT) == ['yes']


@pytest.mark.parametrize(('unit', 'number'), [(UNIT, 3), (GOVERNOR_UNIT, 2)])
def test_every_file_of_the_package_that_a_service_names_is_installed(
    unit: Path, number: int
) -> None:
    named = [value for value in environment(unit).values() if value.startswith(PLACE + SHARED)]
    assert len(named) == number
    for value in named:
        assert (ROOT / value.removeprefix(PLACE + SHARED)).is_file(), value


@pytest.mark.parametrize('unit', UNITS)
def test_the_vehicles_own_file_wins_and_may_be_missing(unit: Path) -> None:
    keys = [key for key, _ in unit_lines(unit)]
    assert unit_values('EnvironmentFile', unit) == [f'-/etc/default/{unit.stem}']
    last = len(keys) - 1 - keys[::-1].index('Environment')
    assert keys.index('EnvironmentFile') > last


@pytest.mark.parametrize('unit', UNITS)
def test_a_service_comes_back_but_not_to_a_parameter_that_stays_wrong(unit: Path) -> None:
    assert unit_values('Restart', unit) == ['always']
    assert unit_values('StartLimitIntervalSec', unit) == ['0']
    assert unit_values('RestartPreventExitStatus', unit) == ['2']


@pytest.mark.parametrize('unit', UNITS)
def test_a_service_may_reach_what_it_needs_and_systemd_calls_it_little_exposed(
    unit: Path
) -> None:
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not here')
    done = subprocess.run(['systemd-analyze', 'security', '--offline=true', str(unit)],
                          capture_output=True, text=True, check=False)
    if 'unrecognized option' in done.stderr:
        pytest.skip('systemd-analyze is older than 250 and cannot judge a file')
    (level,) = re.findall(r'Overall exposure level for \S+ ([\d.]+)', done.stdout)
    assert float(level) <= MOST_EXPOSED


@pytest.mark.parametrize('unit', UNITS)
def test_a_service_keeps_what_dds_and_the_log_need(unit: Path) -> None:
    keys = {key for key, _ in unit_lines(unit)}
    # DDS: the interfaces of the machine, its network and /dev/shm, which these would take away.
    assert set(unit_values('RestrictAddressFamilies', unit)[0].split()) >= {
        'AF_UNIX', 'AF_INET', 'AF_INET6', 'AF_NETLINK'}
    assert not {'PrivateNetwork', 'PrivateIPC', 'InaccessiblePaths'} & keys
    (allowed,) = unit_values('IPAddressAllow', unit)
    assert {'localhost', 'multicast', '192.168.0.0/16'} <= set(allowed.split())
    # Everything that it writes lies in a folder that systemd makes for it.
    made = ['/var/cache/' + name for name in unit_values('CacheDirectory', unit)]
    made += ['/var/lib/' + name for name in unit_values('StateDirectory', unit)]
    written = [value for value in environment(unit).values() if value.startswith('/var/')]
    assert written
    assert all(any(Path(value).is_relative_to(one) for one in made) for value in written)


def test_the_service_of_the_node_keeps_the_gpu_and_compiled_kernels() -> None:
    keys = {key for key, _ in unit_lines()}
    assert not {'PrivateDevices', 'MemoryDenyWriteExecute', 'ProcSubset'} & keys
    assert unit_values('SupplementaryGroups') == ['video']
    assert {'char-nv* rw', 'char-drm rw', '/dev/nvmap rw'} <= set(unit_values('DeviceAllow'))
    assert unit_values('PrivateDevices', GOVERNOR_UNIT) == ['yes']  # which keeps /dev/shm


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


@pytest.mark.parametrize('unit', UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(unit: Path) -> None:
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not here')
    done = subprocess.run(['systemd-analyze', 'verify', str(unit)], capture_output=True,
                          text=True, check=False)
    said = [line for line in done.stderr.splitlines() if unit.name in line]
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


def test_the_image_runs_as_a_user_who_owns_the_cache_and_not_the_program() -> None:
    found = instructions()
    (user,) = [rest for word, rest in found if word == 'USER']
    words = [word for word, _ in found]
    # Everything is copied and built before, so root owns it; nothing but metadata follows.
    last_step = max(n for n, word in enumerate(words) if word in ('RUN', 'COPY'))
    assert words.index('USER') > last_step
    (made,) = [rest for word, rest in found if word == 'RUN' and 'useradd' in rest]
    name, uid = re.search(r'useradd .*--uid (\d+) .* (\w+) ', made).group(2, 1)
    # A number, so that who starts the container can see that it is not root.
    assert user == uid != '0'
    assert f'install -d -o {name} /var/cache/uncertainty_seg' in made
    assert '--groups video' in made
    page = (ROOT / 'docs' / 'jetson.md').read_text()
    assert page.count('docker run') == page.count('$GPU') and '--group-add' in page
    assert 'chown -R $USER /opt' not in page and 'chown' not in ' '.join(
        rest for word, rest in found if word != 'RUN')


def test_every_step_of_the_image_is_sound_shell() -> None:
    runs = [rest for word, rest in instructions() if word == 'RUN']
    assert len(runs) == 5
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
