# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The installed command line: on PATH, for `ros2 run`, from pip, and in .venv/bin."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ['speed_governor', 'uncertainty_seg', 'uncertainty_seg_node', 'uncertainty_seg_play']
COLCON = ('import sys; from colcon_core.command import main; sys.argv[0] = "colcon"; '
          'sys.exit(main())')


def clean(command: str, path: str = '/usr/bin:/bin') -> subprocess.CompletedProcess[str]:
    """Run bash in another folder, with none of this process's environment variables."""
    return subprocess.run(['bash', '-c', command], cwd='/', capture_output=True, text=True,
                          env={'HOME': '/nonexistent', 'PATH': path}, check=False)


@pytest.fixture(scope='module')
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package as `colcon build` does."""
    pytest.importorskip('colcon_core', reason='colcon is not in this Python')
    folder = tmp_path_factory.mktemp('colcon')
    subprocess.run(
        [sys.executable, '-c', COLCON, '--log-base', str(folder / 'log'), 'build',
         '--base-paths', str(ROOT), '--build-base', str(folder / 'build'),
         '--install-base', str(folder / 'install')],
        cwd=folder, env={**os.environ, 'PYTHONPATH': ''}, capture_output=True, check=True)
    return folder / 'install'


@pytest.mark.parametrize('program', PROGRAMS)
def test_sourcing_setup_puts_the_programs_on_path(prefix: Path, program: str) -> None:
    done = clean(f'source {prefix}/setup.bash; command -v {program}; {program} --help')
    place, usage = done.stdout.split('\n')[:2]
    assert (done.returncode, done.stderr) == (0, '')
    assert place == f'{prefix}/uncertainty_seg/bin/{program}'
    assert usage.startswith(f'usage: {program} ')


def test_a_verb_runs_and_finds_a_shipped_model(prefix: Path, tmp_path: Path) -> None:
    done = clean(f'source {prefix}/setup.bash; '
                 f'uncertainty_seg compile pipeline -o {tmp_path}/half --precision fp16')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'half' / 'card.json').is_file()


def test_ros2_run_finds_every_executable(prefix: Path) -> None:
    # ros2 run lists the executable files of lib/<package>.
    folder = prefix / 'uncertainty_seg' / 'lib' / 'uncertainty_seg'
    assert sorted(path.name for path in folder.iterdir() if os.access(path, os.X_OK)) == PROGRAMS


def test_pip_gets_its_own_command_and_not_a_second_one(tmp_path: Path) -> None:
    # For a wheel pip writes the console scripts to bin/ itself.
    code = ('import sys, setuptools\n'
            'setuptools.setup = lambda **given: print([to for to, _ in given["data_files"]])\n'
            'sys.argv = ["setup.py", sys.argv[1]]\n'
            'exec(open("setup.py").read(), {"__file__": "setup.py", "__name__": "__main__"})\n')
    found = {word: subprocess.run([sys.executable, '-c', code, word], cwd=ROOT, text=True,
                                  capture_output=True, check=True).stdout
             for word in ('install', 'bdist_wheel', 'editable_wheel')}
    assert ["'bin'" in found[word] for word in found] == [True, False, False]
    assert ["'lib/uncertainty_seg'" in found[word] for word in found] == [False, True, True]


def test_a_wheel_has_every_program_where_ros2_run_and_ros2_launch_look(tmp_path: Path) -> None:
    sources = {path.name: path for path in (ROOT / 'scripts' / 'libexec').iterdir()}
    scripts = (ROOT / 'setup.py').read_text().partition("'console_scripts': [")[2]
    assert sorted(sources) == PROGRAMS == sorted(
        line.split()[0].strip("'") for line in scripts.partition(']')[0].splitlines()
        if '=' in line)
    assert 'include scripts/bin/* scripts/libexec/*\n' in (ROOT / 'MANIFEST.in').read_text()
    (tmp_path / 'bin').mkdir()
    folder = tmp_path / 'lib' / 'uncertainty_seg'
    folder.mkdir(parents=True)
    for name, source in sources.items():
        assert os.access(source, os.X_OK)
        shutil.copy2(source, folder)
        own = tmp_path / 'bin' / name
        own.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        own.chmod(0o755)
        done = clean(f'{folder}/{name} --ros-args "a b"')
        assert done.stdout == f'{name} --ros-args a b\n', done.stderr
