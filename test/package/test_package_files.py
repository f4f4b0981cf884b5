# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Installed files, consistency of the package's files, and forbidden content of tracked files."""

from collections.abc import Iterable
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock
from xml.etree import ElementTree

from packaging.requirements import Requirement
import pytest

import uncertainty_seg
from uncertainty_seg.errors import EXTRAS, install_command

ROOT = Path(__file__).resolve().parents[2]
# A path of the author's machine. .ci belongs to the machine that runs it.
MACHINE_PATH = re.compile(r'/(?:root|tmp|work|farm|home)/[A-Za-z0-9_.-]+')
# Joined here, so that this file itself does not contain the hosts.
REGISTRIES = tuple('.'.join(parts) for parts in (
    ('pypi', 'org'), ('pythonhosted', 'org'), ('download', 'pytorch', 'org')))
# Binary files.
BINARY = ('.png', '.jpg', '.onnx', '.npz', '.mp4', '.mcap', '.db3')


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run setup.py from the root as colcon does; return its arguments of setup()."""
    monkeypatch.chdir(ROOT)
    source = (ROOT / 'setup.py').read_text(encoding='utf-8')
    with mock.patch('setuptools.setup') as setup:
        exec(compile(source, 'setup.py', 'exec'), {
            '__name__': '__main__', '__file__': str(ROOT / 'setup.py')})
    return setup.call_args.kwargs


def tracked_files() -> list[Path]:
    """Return the files that git tracks or would track; skips in an exported tree."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('not a git checkout')
    done = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split('\0') if name and (ROOT / name).is_file()]


def machine_words(text: str) -> list[str]:
    """Return the machine paths and registry hosts in a text."""
    return MACHINE_PATH.findall(text) + [host for host in REGISTRIES if host in text]


def test_every_file_of_the_shared_folders_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {
        f'{target}/{Path(name).name}': name
        for target, names in setup_arguments(monkeypatch)['data_files'] for name in names}
    for folder in ('launch', 'config', 'examples'):
        files = [p for p in (ROOT / folder).rglob('*')
                 if p.is_file() and '__pycache__' not in p.parts]
        assert files
        for path in files:
            relative = path.relative_to(ROOT).as_posix()
            assert installed.get(f'share/uncertainty_seg/{relative}') == relative


def test_ament_finds_the_package_and_colcon_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(monkeypatch)
    files = dict(arguments['data_files'])
    assert files['share/uncertainty_seg'] == ['package.xml']
    assert files['share/ament_index/resource_index/packages'] == ['resource/uncertainty_seg']
    assert (ROOT / 'resource' / 'uncertainty_seg').is_file()
    # With tests_require, `colcon test` runs no test and passes.
    assert 'tests_require' not in arguments
    assert 'pytest' in distributions(arguments['extras_require']['test'])


def test_every_module_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = set(setup_arguments(monkeypatch)['packages'])
    folders = {'.'.join(p.parent.relative_to(ROOT).parts)
               for p in (ROOT / 'uncertainty_seg').rglob('*.py')}
    assert packages == folders


def test_every_other_file_of_the_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = setup_arguments(monkeypatch)['package_data']['uncertainty_seg']
    folder = ROOT / 'uncertainty_seg'
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    others = {path for path in folder.rglob('*') if path.is_file() and path.suffix != '.py'
              and '__pycache__' not in path.parts}
    assert installed == others


def test_every_entry_point_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = setup_arguments(monkeypatch)['entry_points']['console_scripts']
    assert {line.split(' = ')[0] for line in scripts} == {
        'speed_governor', 'uncertainty_seg', 'uncertainty_seg_node', 'uncertainty_seg_play'}
    for line in scripts:
        module, function = line.split(' = ')[1].split(':')
        source = ROOT.joinpath(*module.split('.')).with_suffix('.py').read_text(encoding='utf-8')
        assert re.search(rf'^(?:def {function}\(|{function} = )', source, re.MULTILINE), line


def distributions(lines: Iterable[str]) -> set[str]:
    """Return the distribution names of requirements."""
    found = (re.match(r'[A-Za-z0-9_.-]+', line.partition('#')[0].strip()) for line in lines)
    return {match[0].lower() for match in found if match}


def test_the_extra_that_an_error_names_has_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = setup_arguments(monkeypatch)['extras_require']
    by_pip = {'cv2': 'opencv-python-headless', 'yaml': 'pyyaml'}
    for package, extra in EXTRAS.items():
        assert by_pip.get(package, package) in distributions(extras[extra]), package
        assert f'[{extra}]' in install_command(package)


def test_extras_install_what_the_scripts_install(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = setup_arguments(monkeypatch)['extras_require']
    assert {'train', 'calibrate', 'score', 'labels', 'openvino', 'runtime'} <= set(extras)
    for extra, name in {'runtime': 'runtime', 'train': 'torch', 'calibrate': 'calibrate',
                        'score': 'score', 'labels': 'labels', 'openvino': 'openvino'}.items():
        text = (ROOT / 'scripts' / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
        assert distributions(extras[extra]) == distributions(text.splitlines()), extra
        assert all('#' not in line for line in extras[extra])


def test_one_version_and_licence_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(monkeypatch)
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert arguments['version'] == manifest.findtext('version') == uncertainty_seg.__version__
    assert arguments['license'] == manifest.findtext('license') == 'Apache-2.0'
    assert arguments['name'] == manifest.findtext('name') == 'uncertainty_seg'
    text = (ROOT / 'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License' in text and 'APPENDIX: How to apply' in text


def test_the_manifest_names_what_the_ros_room_imports() -> None:
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    named = {tag.text for tag in manifest.iter('exec_depend')}
    imported = set()
    ros = (ROOT / 'uncertainty_seg' / 'ros').glob('*.py')
    for path in (*ros, *(ROOT / 'launch').glob('*.py')):
        imported |= set(re.findall(
            r'^\s*(?:from|import) (rclpy|launch|launch_ros|ament_index_python|\w+_msgs|\w+_srvs'
            r'|\w+_interfaces)\b', path.read_text(encoding='utf-8'), re.MULTILINE))
    assert imported <= named
    assert {'rclpy', 'sensor_msgs', 'std_msgs', 'diagnostic_msgs', 'lifecycle_msgs', 'cv_bridge',
            'python3-numpy', 'python3-opencv'} <= named


def test_the_manifest_is_one_that_ros_tools_accept() -> None:
    # The parser of colcon and rosdep; ament_xmllint would download the schema.
    package = pytest.importorskip('catkin_pkg.package', reason='catkin_pkg is not installed')
    warnings: list[str] = []
    manifest = package.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    manifest.validate(warnings=warnings)
    assert warnings == []
    assert manifest.get_build_type() == 'ament_python'


def test_a_farm_without_the_packages_of_pip_tests_what_needs_none_and_fails_nothing(
    tmp_path: Path
) -> None:
    (tmp_path / 'without_pip.py').write_text(
        'import importlib.util, sys\n'
        'NAMES = ("mcap", "onnx", "onnxruntime", "rosbags")\n'
        'class Finder:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name.partition(".")[0] in NAMES:\n'
        '            raise ModuleNotFoundError(f"No module named {name!r}", name=name)\n'
        'sys.meta_path.insert(0, Finder())\n'
        'real = importlib.util.find_spec\n'
        'def find_spec(name, package=None):\n'
        '    return None if name in NAMES else real(name, package)\n'
        'importlib.util.find_spec = find_spec\n')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'without_pip', '-p', 'no:cacheprovider', '-rs',
         'test/core/test_frame_guard.py', 'test/cli'],
        cwd=ROOT, capture_output=True, text=True, check=False,
        # PYTEST_ADDOPTS could contain paths, which would run too, including this test.
        env={**os.environ, 'PYTEST_ADDOPTS': '', 'PYTHONPATH': os.pathsep.join(
            [str(tmp_path), str(ROOT), os.environ.get('PYTHONPATH', '')])})
    assert done.returncode == 0, done.stdout
    assert re.search(r'\d\d passed', done.stdout), done.stdout


def test_no_tracked_file_holds_a_path_of_a_machine_or_a_registry() -> None:
    found = {}
    for path in tracked_files():
        if '.ci' in path.parts or path.suffix in BINARY:
            continue
        words = machine_words(path.read_text(encoding='utf-8', errors='replace'))
        if words:
            found[path.relative_to(ROOT).as_posix()] = words
    assert found == {}


def requirements(path: Path) -> list[Requirement]:
    """Parse a requirements file."""
    lines = [line.partition('#')[0].strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize('name, version', [
    # The newest version that is known to be vulnerable.
    ('opencv-python-headless', '4.8.0.76'), ('opencv-python-headless', '4.11.0.86'),
    ('torch', '2.9.1'), ('onnx', '1.20.1'), ('pyarrow', '23.0.0'), ('jinja2', '3.1.5'),
    ('tqdm', '4.66.2'), ('ray', '2.53.0'), ('lightning', '2.6.3'), ('setuptools', '78.1.0'),
    ('pip', '26.1.1'), ('cryptography', '49.0.0'),
])
def test_no_release_with_a_known_hole_is_within_the_bounds(name: str, version: str) -> None:
    found = [one for path in (ROOT / 'scripts' / 'requirements').glob('*.txt')
             for one in requirements(path) if one.name.lower() == name]
    assert found
    assert not any(one.specifier.contains(version) for one in found)


@pytest.mark.parametrize('path', sorted((ROOT / 'scripts/requirements/locked').iterdir()),
                         ids=lambda path: path.stem)
def test_a_lock_has_a_hash_of_every_file_and_names_no_index(path: Path) -> None:
    text = path.read_text(encoding='utf-8').replace('\\\n', ' ')
    assert '://' not in text and '--index' not in text
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    assert lines
    for line in lines:
        assert re.search(r'==\S+.* --hash=sha256:[0-9a-f]{64}', line), line
