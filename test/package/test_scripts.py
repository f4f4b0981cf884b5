# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The set-up of scripts/demo and scripts/test: what it retries, never deletes and never repeats.

Each test runs the real scripts/lib.sh in a copy of scripts/; Python and pip are shell scripts that
behave as the test says, so nothing is downloaded.

"""

from __future__ import annotations

from pathlib import Path
import re
import shutil
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the set-up calls besides Python.
COMMANDS = ('bash', 'chmod', 'dirname', 'basename', 'cat', 'cp', 'ls', 'awk', 'tee', 'grep', 'sed',
            'tail', 'sha256sum', 'cut', 'mkdir', 'rm', 'touch', 'sleep', 'env', 'df')


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a folder with scripts/ and an empty bin/ that is the whole PATH."""
    shutil.copytree(ROOT / 'scripts', tmp_path / 'scripts')
    (tmp_path / 'bin').mkdir()
    for name in COMMANDS:
        place = shutil.which(name)
        assert place is not None
        (tmp_path / 'bin' / name).symlink_to(place)
    return tmp_path


def fake_python(path: Path, version: str, pip: str = 'exit 0') -> Path:
    """Write a Python that knows its version; `pip` says how that module behaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '#!/usr/bin/env bash\n'
        'case "$*" in\n'
        f'  *version_info*) echo {version} ;;\n'
        '  *"import rclpy"*) exit 1 ;;\n'
        f'  *"-m pip install"*) {pip} ;;\n'
        'esac\n', encoding='utf-8')
    path.chmod(0o755)
    return path


def run(checkout: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command line with only the fake programs about, and wait for no retry."""
    environment = {'PATH': str(checkout / 'bin'), 'HOME': str(checkout), **variables}
    text = f'set -euo pipefail; source scripts/lib.sh; RETRY_WAITS_S=(0 0); {command}'
    return subprocess.run(['bash', '-c', text], cwd=checkout, capture_output=True, text=True,
                          env=environment, check=False)


@pytest.mark.parametrize('version', [None, '3.9', '3.14'])
def test_without_a_supported_python_the_set_up_ends_with_what_to_do(
    checkout: Path, version: str | None
) -> None:
    if version:
        fake_python(checkout / 'bin' / 'python3', version)
    done = run(checkout, 'find_python')
    assert done.returncode == 1 and 'python3' in done.stderr.partition('fix:')[2]


def test_a_folder_that_is_no_environment_is_never_deleted(checkout: Path) -> None:
    (checkout / '.venv').mkdir()
    (checkout / '.venv' / 'thesis.txt').write_text('mine')
    python = fake_python(checkout / 'bin' / 'python3.11', '3.11')
    done = run(checkout, f'make_venv {python} flavour')
    assert done.returncode == 1
    assert (checkout / '.venv' / 'thesis.txt').read_text() == 'mine'


def test_a_download_is_tried_again_and_what_is_installed_is_not(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip=(
        f'echo try >>{checkout}/tries; tail -n +3 {checkout}/tries | grep -q try'))
    (checkout / '.venv' / 'constraints.txt').write_text('')
    for _ in range(2):
        assert run(checkout, 'install test "$REQUIREMENTS/test.txt"').returncode == 0
    assert (checkout / 'tries').read_text() == 'try\n' * 3


def test_a_download_that_never_works_is_an_error_and_leaves_no_stamp(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip='exit 1')
    (checkout / '.venv' / 'constraints.txt').write_text('')
    assert run(checkout, 'install test "$REQUIREMENTS/test.txt"').returncode == 1
    assert not list((checkout / '.venv').glob('.installed-*'))


def test_what_is_locked_is_installed_by_its_hashes_and_nothing_else(checkout: Path) -> None:
    fake_python(checkout / '.venv' / 'bin' / 'python', '3.11', pip=f'echo "$*" >>{checkout}/words')
    (checkout / '.venv' / 'constraints.txt').write_text('')
    done = run(checkout, 'install_locked runtime "$LOCKS/jazzy.txt" "$REQUIREMENTS/runtime.txt"')
    assert done.returncode == 0, done.stderr
    words = (checkout / 'words').read_text()
    assert '--require-hashes' in words and 'jazzy.txt' in words and 'runtime.txt' not in words


def test_the_files_that_the_scripts_name_are_there() -> None:
    mutate = (ROOT / 'scripts' / 'mutate').read_text(encoding='utf-8')
    rows = re.findall(r"^  '(\S+\.py) (.+)'$", mutate, re.MULTILINE)
    named = [*(f'uncertainty_seg/{module}' for module, _ in rows),
             *(f'test/{test}' for _, tests in rows for test in tests.split())]
    assert len(rows) >= 5
    for script in ('matrix', 'test', 'lib.sh', 'zoo', 'soak', 'bench', 'gpu_check', 'train'):
        text = (ROOT / 'scripts' / script).read_text(encoding='utf-8')
        named += re.findall(r'\b(?:test|benchmarks|examples)/[a-z_/]+\.py\b', text)
        named += [f'scripts/requirements/{name}' for name in
                  re.findall(r'"\$REQUIREMENTS/([\w.]+\.txt)"', text)]
    assert [name for name in named if not (ROOT / name).exists()] == []
