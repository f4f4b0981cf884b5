# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is installed, how the package's files agree, and what no tracked file may hold."""

from __future__ import annotations

from collections.abc import Iterable
import configparser
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import pytest

import uncertainty_seg
from uncertainty_seg.errors import EXTRAS, install_command

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ('demo', 'test', 'audit', 'bench', 'check_launch', 'check_install', 'lock', 'matrix',
           'mutate', 'train')
# A folder of the machine that a file was written on. .ci belongs to the machine that runs it.
MACHINE_PATH = re.compile(r'/(?:root|tmp|work|farm|home)/[A-Za-z0-9_.-]+')
# Put together here, so that this file does not hold them itself.
REGISTRIES = tuple('.'.join(parts) for parts in (
    ('pypi', 'org'), ('pythonhosted', 'org'), ('download', 'pytorch', 'org')))
# Files that are no text.
BINARY = ('.png', '.jpg', '.onnx', '.npz', '.mp4', '.mcap', '.db3')


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run setup.py from the root as colcon does; return what it gives to setup()."""
    monkeypatch.chdir(ROOT)
    source = (ROOT / 'setup.py').read_text(encoding='utf-8')
    with mock.patch('setuptools.setup') as setup:
        exec(compile(source, 'setup.py', 'exec'), {
            '__name__': '__main__', '__file__': str(ROOT / 'setup.py')})
    return setup.call_args.kwargs


def tracked_files() -> list[Path]:
    """Files that git tracks or would; skips in an exported tree."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('not a git checkout')
    done = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split('\0') if name and (ROOT / name).is_file()]


def machine_words(text: str) -> list[str]:
    """Paths of a machine and hosts of registries that a text holds."""
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


def test_the_package_is_found_by_ament(monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(setup_arguments(monkeypatch)['data_files'])
    assert files['share/uncertainty_seg'] == ['package.xml']
    assert files['share/ament_index/resource_index/packages'] == ['resource/uncertainty_seg']
    assert (ROOT / 'resource' / 'uncertainty_seg').is_file()


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
    assert folder / 'tools' / 'report' / 'templates' / 'report.html' in installed


def test_every_entry_point_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = setup_arguments(monkeypatch)['entry_points']['console_scripts']
    assert {line.split(' = ')[0] for line in scripts} == {
        'speed_governor', 'uncertainty_seg', 'uncertainty_seg_node', 'uncertainty_seg_play'}
    for line in scripts:
        module, function = line.split(' = ')[1].split(':')
        source = ROOT.joinpath(*module.split('.')).with_suffix('.py').read_text(encoding='utf-8')
        assert re.search(rf'^def {function}\(', source, re.MULTILINE), line


def test_colcon_finds_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(monkeypatch)
    # With tests_require colcon test runs no test and passes.
    assert 'tests_require' not in arguments
    names = {re.split(r'\W', line)[0] for line in arguments['extras_require']['test']}
    assert 'pytest' in names


def distributions(lines: Iterable[str]) -> set[str]:
    """Names for pip of some requirements."""
    found = (re.match(r'[A-Za-z0-9_.-]+', line.partition('#')[0].strip()) for line in lines)
    return {match[0].lower() for match in found if match}


def test_every_extra_is_in_the_table_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / 'docs' / 'installation.md').read_text(encoding='utf-8')
    table = page.partition('\n## Optional parts')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| (`.+?`) \|', table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert named == set(setup_arguments(monkeypatch)['extras_require'])


def test_extras_install_what_the_scripts_install(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = setup_arguments(monkeypatch)['extras_require']
    assert {'train', 'calibrate', 'score', 'labels', 'openvino', 'runtime'} <= set(extras)
    for extra, name in {'runtime': 'runtime', 'train': 'torch', 'calibrate': 'calibrate',
                        'score': 'score', 'labels': 'labels', 'openvino': 'openvino'}.items():
        text = (ROOT / 'scripts' / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
        assert distributions(extras[extra]) == distributions(text.splitlines()), extra
        assert all('#' not in line for line in extras[extra])


def test_the_extra_that_an_error_names_has_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = setup_arguments(monkeypatch)['extras_require']
    by_pip = {'cv2': 'opencv-python-headless', 'yaml': 'pyyaml', 'sklearn': 'scikit-learn'}
    for package, extra in EXTRAS.items():
        assert by_pip.get(package, package) in distributions(extras[extra]), package


def test_one_version_and_licence_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(monkeypatch)
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert arguments['version'] == manifest.findtext('version') == uncertainty_seg.__version__
    assert arguments['license'] == manifest.findtext('license') == 'Apache-2.0'
    assert arguments['name'] == manifest.findtext('name') == 'uncertainty_seg'
    text = (ROOT / 'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License' in text and 'APPENDIX: How to apply' in text


def test_executables_go_where_ros2_run_looks() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['install']['install_scripts'] == '$base/lib/uncertainty_seg'
    assert config['develop']['script_dir'] == '$base/lib/uncertainty_seg'


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
    # What colcon and rosdep read it with; ament_xmllint asks the schema, which is on the network.
    package = pytest.importorskip('catkin_pkg.package', reason='catkin_pkg is not installed')
    warnings: list[str] = []
    manifest = package.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    manifest.validate(warnings=warnings)
    assert warnings == []
    assert manifest.get_build_type() == 'ament_python'


@pytest.mark.parametrize(
    ('environment', 'extra'),
    [
        ({}, set()),
        ({'UNCERTAINTY_SEG_OPTIONAL': '1'}, {'rviz2', 'bond'}),
        ({'UNCERTAINTY_SEG_PIP': '1'}, {'python3-onnxruntime-pip', 'python3-rosbags-pip'}),
    ],
)
def test_what_not_every_vehicle_needs_is_a_dependency_only_where_it_is_asked_for(
    environment: dict[str, str], extra: set[str]
) -> None:
    # rosdep and colcon evaluate conditions by their environment, bloom by ROS's variables alone.
    package = pytest.importorskip('catkin_pkg.package', reason='catkin_pkg is not installed')
    manifest = package.parse_package(str(ROOT / 'package.xml'))
    manifest.evaluate_conditions({'ROS_DISTRO': 'jazzy', 'ROS_VERSION': '2', **environment})
    found = {one.name for one in manifest.exec_depends if one.evaluated_condition}
    optional = {'rviz2', 'bond', 'python3-onnxruntime-pip', 'python3-rosbags-pip'}
    assert found & optional == extra
    assert {'vision_msgs', 'cv_bridge', 'rclpy', 'python3-numba'} <= found


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
         'test/core/test_frame_guard.py', 'test/tools'],
        cwd=ROOT, capture_output=True, text=True, check=False,
        # Paths that colcon was given would be run too, this test among them.
        env={**os.environ, 'PYTEST_ADDOPTS': '', 'PYTHONPATH': os.pathsep.join(
            [str(tmp_path), str(ROOT), os.environ.get('PYTHONPATH', '')])})
    assert done.returncode == 0, done.stdout
    assert 'mcap, onnx, onnxruntime, rosbags not installed: only tests that' in done.stdout
    assert re.search(r'\d\d passed, \d+ skipped', done.stdout), done.stdout
    assert 'onnx is missing' in done.stdout


@pytest.mark.parametrize(('is_system', 'is_venv', 'expected'), [
    (True, False, 'python3 -m venv --system-site-packages .venv && . .venv/bin/activate && '
                  "pip install '.[runtime]' -r scripts/requirements/build.txt && colcon build "
                  'in a checkout of uncertainty_seg'),
    (True, True, "pip install '.[runtime]' in a checkout of uncertainty_seg"),
    (False, False, "pip install '.[runtime]' in a checkout of uncertainty_seg"),
])
def test_where_pip_refuses_the_system_an_environment_is_what_an_error_advises(
    is_system: bool, is_venv: bool, expected: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_system:
        (tmp_path / 'EXTERNALLY-MANAGED').touch()
    monkeypatch.setattr('sysconfig.get_path', lambda name: str(tmp_path))
    monkeypatch.setattr('sys.prefix', '/venv' if is_venv else '/usr')
    monkeypatch.setattr('sys.base_prefix', '/usr')
    assert install_command('onnxruntime') == expected
    assert (ROOT / 'scripts' / 'requirements' / 'build.txt').is_file()


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_parses_and_can_be_run(name: str) -> None:
    path = ROOT / 'scripts' / name
    assert path.stat().st_mode & 0o111
    assert path.read_text(encoding='utf-8').startswith('#!/usr/bin/env bash\n')
    subprocess.run(['bash', '-n', str(path)], check=True)


def test_every_source_file_names_its_licence() -> None:
    files = [p for p in tracked_files() if p.suffix == '.py']
    assert len(files) > 20
    assert [p.name for p in files if p.read_text(encoding='utf-8').strip()
            and 'SPDX-License-Identifier: Apache-2.0' not in p.read_text(encoding='utf-8')] == []


def test_no_tracked_file_holds_a_path_of_a_machine_or_a_registry() -> None:
    found = {}
    for path in tracked_files():
        if '.ci' in path.parts or path.suffix in BINARY:
            continue
        words = machine_words(path.read_text(encoding='utf-8', errors='replace'))
        if words:
            found[path.relative_to(ROOT).as_posix()] = words
    assert found == {}


def test_a_path_of_a_machine_is_noticed() -> None:
    assert machine_words('data = "' + '/'.join(('', 'home', 'me', 'dive.mcap')) + '"')
    assert machine_words('--index-url ' + REGISTRIES[0])
    assert not machine_words('config/models/pipeline and /camera/image_raw and $HOME/x')
