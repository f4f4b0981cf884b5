# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
scripts/check_install cannot pass where it ran nothing, or where what it installed does not run.

The script is the real one, in a clone of its own; Python, pip and the installed program are shell
scripts that behave as the test says, so nothing is downloaded. `scripts/test` runs the real thing.

"""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ('bash', 'cat', 'cp', 'dirname', 'env', 'git', 'grep', 'ls', 'mkdir', 'mktemp', 'rm',
            'sed', 'tail', 'touch')
PYTHON = """#!/usr/bin/env bash
here="$(dirname "$0")"
case "$*" in
  *version_info*) echo {version} ;;
  *python_version*) echo {version}.7 ;;
  *"-m venv"*) mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" ;;
  *--dry-run*) exit {wheels} ;;
  *"pip uninstall"*) rm "$here/uncertainty_seg" ;;
  *"pip install"*build.txt*) ;;
  *"pip install"*) cp "{program}" "$here/uncertainty_seg" ;;
  *sdist*) mkdir -p "${{@: -1}}" && touch "${{@: -1}}/x.tar.gz" ;;
  *colcon_core*) mkdir -p install/bin && cp "{program}" install/bin/uncertainty_seg
     echo "PATH=$PWD/install/bin:$PATH" >install/setup.bash ;;
esac
"""
PROGRAM = """#!/bin/sh
case "$1" in
  --help) echo 'usage: uncertainty_seg VERB' ;;
  replay) mkdir seen && touch seen/metadata.yaml
    echo '{{"verb": "replay", "num_frames": {frames}, "num_bad": 0, "x": 1}}' ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a repository with the scripts, and a path without any Python."""
    if shutil.which('git') is None:
        pytest.skip('git is not installed')
    (tmp_path / 'bin').mkdir()
    for name in COMMANDS:
        (tmp_path / 'bin' / name).symlink_to(str(shutil.which(name)))
    shutil.copytree(ROOT / 'scripts', tmp_path / 'checkout' / 'scripts')
    for words in (['init', '-q'], ['add', '.'], [
            '-c', 'user.name=x', '-c', 'user.email=x@y', 'commit', '-qm', 'x']):
        subprocess.run(['git', *words], cwd=tmp_path / 'checkout', check=True)
    return tmp_path


def install_python(machine: Path, version: str, frames: int = 4, wheels: int = 0) -> None:
    program = machine / f'program{version}'
    program.write_text(PROGRAM.format(frames=frames))
    program.chmod(0o755)
    python = machine / 'bin' / f'python{version}'
    python.write_text(PYTHON.format(version=version, program=program, wheels=wheels))
    python.chmod(0o755)


def check(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(machine / 'checkout' / 'scripts' / 'check_install'), *words], cwd='/', text=True,
        env={'PATH': str(machine / 'bin'), 'HOME': str(machine), 'WITH_DEMO': '0'},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def test_no_python_at_all_is_a_failure(machine: Path) -> None:
    done = check(machine)
    assert done.returncode == 1
    assert 'no Python 3.10 3.11 3.12 3.13 is installed, so that nothing was run' in done.stdout


def test_each_python_that_is_here_is_run_and_the_others_are_said_not_to_be(machine: Path) -> None:
    install_python(machine, '3.12')
    done = check(machine, '3.12', '3.13')
    assert done.returncode == 0, done.stdout
    assert '| 3.12.7 | yes | yes | yes |' in done.stdout
    assert '| 3.13 | not run: no such Python here; wheels of all packages are there | | |' \
        in done.stdout


def test_a_python_without_wheels_is_a_failure(machine: Path) -> None:
    install_python(machine, '3.12', wheels=1)
    done = check(machine, '3.12', '3.13')
    assert done.returncode == 1
    assert 'FAILED: 3.13, wheels' in done.stdout


@pytest.mark.parametrize('frames', [0, 3, 40])
def test_a_program_that_did_not_replay_every_frame_is_a_failure(
    machine: Path, frames: int
) -> None:
    install_python(machine, '3.12', frames=frames)
    done = check(machine, '3.12')
    assert done.returncode == 1
    assert done.stdout.count('FAILED: 3.12') == 3
    assert '| 3.12.7 | **no** | **no** | **no** |' in done.stdout


def test_a_package_that_brings_no_program_is_a_failure(machine: Path) -> None:
    install_python(machine, '3.12')
    (machine / 'program3.12').write_text('')
    assert check(machine, '3.12').returncode == 1


def test_an_unknown_version_is_refused(machine: Path) -> None:
    done = check(machine, '3.9')
    assert (done.returncode, "'3.9' is no Python that is supported" in done.stdout) == (1, True)


def test_ci_runs_it() -> None:
    text = (ROOT / 'scripts' / 'test').read_text(encoding='utf-8')
    assert 'check install env -u PYTHONPATH WITH_DEMO=0 "$ROOT/scripts/check_install"' in text
    assert 'scripts/test' in (ROOT / '.ci' / 'run').read_text(encoding='utf-8')


def test_an_sdist_has_what_setup_py_reads() -> None:
    lines = (ROOT / 'MANIFEST.in').read_text(encoding='utf-8')
    assert 'recursive-include scripts/requirements *.txt' in lines
