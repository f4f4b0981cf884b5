# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bounds, locks and licences: what docs/dependencies.md says is what is installed."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
import pytest
from test_package_files import setup_arguments
import yaml

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'scripts' / 'requirements'
LOCKED = REQUIREMENTS / 'locked'
PAGE = (ROOT / 'docs' / 'dependencies.md').read_text(encoding='utf-8')
# Extras that only tests take.
FOR_TESTS = {'peers', 'test'}
# Lock -> the files that it is made of, as scripts/lock says.
LOCKS = {
    'jazzy': ('runtime', 'ros', 'build', 'demo'),
    'kilted': ('runtime', 'ros_kilted', 'build', 'demo'),
    'numpy1': ('runtime', 'numpy1', 'build', 'demo'), 'pip': ('pip',), 'audit': ('audit',),
}
PYTHONS = ('3.10', '3.11', '3.12', '3.13')


def requirements(name: str) -> list[Requirement]:
    """Read one file of requirements."""
    lines = [line.partition('#')[0].strip() for line in
             (REQUIREMENTS / f'{name}.txt').read_text(encoding='utf-8').splitlines()]
    return [Requirement(line) for line in lines if line]


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """Read a lock: each requirement with its hashes."""
    text = (LOCKED / f'{name}.txt').read_text(encoding='utf-8').replace('\\\n', ' ')
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith('#'):
            words = line.split(' --hash=')
            found.append((Requirement(words[0]), [word.strip() for word in words[1:]]))
    return found


def table_rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = PAGE.partition(f'\n## {heading}')[2].partition('\n## ')[0]
    rows = [line.strip('|').split('|') for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_bound_of_the_page_is_the_one_that_is_installed() -> None:
    files: dict[str, list[Requirement]] = {}
    for path in REQUIREMENTS.glob('*.txt'):
        for one in requirements(path.stem):
            files.setdefault(canonicalize_name(one.name), []).append(one)
    section = PAGE.partition('\n## Why the lower bounds')[2].partition('\n## ')[0]
    rows = re.findall(r'^- `(.+?)`: (.+)', section, re.MULTILINE)
    assert len(rows) > 15
    for cell, why in rows:
        told = Requirement(cell)
        wanted = [r.specifier for r in files[canonicalize_name(told.name)] if r.marker is None]
        assert set(wanted) == {told.specifier}, told.name
        assert why


@pytest.mark.parametrize('name, version', [
    # The newest release that is known to be open, and the oldest that is not.
    ('opencv-python-headless', '4.8.0.76'), ('opencv-python-headless', '4.11.0.86'),
    ('torch', '2.5.1'), ('torch', '2.9.1'), ('onnx', '1.20.1'), ('pyarrow', '23.0.0'),
    ('jinja2', '3.1.5'), ('tqdm', '4.66.2'), ('ray', '2.53.0'), ('lightning', '2.6.3'),
    ('setuptools', '78.1.0'), ('pip', '26.1.1'), ('cryptography', '49.0.0'),
])
def test_no_release_with_a_known_hole_is_within_the_bounds(name: str, version: str) -> None:
    found = [r for path in REQUIREMENTS.glob('*.txt') for r in requirements(path.stem)
             if canonicalize_name(r.name) == name]
    assert found
    assert not any(r.specifier.contains(version) for r in found)


def test_every_package_of_an_extra_has_a_licence_in_the_page(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    extras = setup_arguments(monkeypatch)['extras_require']
    wanted = {(canonicalize_name(Requirement(line).name), extra) for extra, lines in extras.items()
              if extra not in FOR_TESTS for line in lines}
    told = {(canonicalize_name(name), extra.strip()) for name, listed, licence in
            table_rows('Licences') for extra in listed.split(',') if licence}
    # These two take whatever torch the machine has.
    assert wanted - told == {('torch', 'tensorrt'), ('torch', 'tensorrt_rtx')}
    assert told - wanted == set()


@pytest.mark.parametrize('name', LOCKS)
def test_a_lock_has_a_hash_of_every_file_and_keeps_every_bound(name: str) -> None:
    entries = locked(name)
    for entry, hashes in entries:
        assert re.fullmatch(r'==[^*,]+', str(entry.specifier)), entry
        assert hashes and all(re.fullmatch('sha256:[0-9a-f]{64}', one) for one in hashes)
    for python in PYTHONS:
        there = {canonicalize_name(e.name): Version(str(e.specifier)[2:]) for e, _ in entries
                 if e.marker is None or e.marker.evaluate(
                     {'python_version': python, 'python_full_version': f'{python}.5',
                      'sys_platform': 'linux', 'platform_system': 'Linux',
                      'platform_machine': 'x86_64', 'implementation_name': 'cpython',
                      'platform_python_implementation': 'CPython'})}
        for file in LOCKS[name]:
            for one in requirements(file):
                if one.marker is None or one.marker.evaluate({'python_version': python}):
                    assert there[canonicalize_name(one.name)] in one.specifier, (one, python)


def test_the_lock_script_makes_each_lock_of_these_files() -> None:
    script = (ROOT / 'scripts' / 'lock').read_text(encoding='utf-8')
    made = {words[1]: tuple(word.removesuffix('.txt') for word in words[2:] if word[-4:] == '.txt')
            for words in map(str.split, re.findall(r'^lock \w+ .*', script, re.MULTILINE))}
    assert made == {name: files if name != 'pip' else ('pip',) for name, files in LOCKS.items()}
    assert {path.stem for path in LOCKED.iterdir()} == set(LOCKS)


def test_a_lock_names_no_index() -> None:
    for path in LOCKED.iterdir():
        text = path.read_text(encoding='utf-8')
        assert '://' not in text and '--index' not in text and '--find-links' not in text


def test_the_workflow_audits_and_the_scripts_of_ci_do_not() -> None:
    text = (ROOT / '.github' / 'workflows' / 'ci.yml').read_text(encoding='utf-8')
    steps = [step.get('run', '') for job in yaml.safe_load(text)['jobs'].values()
             for step in job['steps']]
    assert 'scripts/audit' in steps
    for name in ('scripts/test', '.ci/run'):
        assert 'audit' not in (ROOT / name).read_text(encoding='utf-8')
    script = (ROOT / 'scripts' / 'audit').read_text(encoding='utf-8')
    assert '--strict' in script and 'cyclonedx-py' in script
    subprocess.run(['bash', '-n', str(ROOT / 'scripts' / 'audit')], check=True)
