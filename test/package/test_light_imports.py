# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Light rooms can be imported without the heavy libraries, tested in bare processes.

test_imports checks the imports that a module names, this file also those that they cause.
"""

import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'uncertainty_seg'
ROS = ('rclpy', 'sensor_msgs', 'std_msgs', 'diagnostic_msgs', 'lifecycle_msgs', 'cv_bridge')
HEAVY = (*ROS, 'torch', 'torchvision', 'onnxruntime', 'onnx', 'rosbags', 'tensorrt',
         'tensorrt_rtx', 'tensorrt_rtx_bindings', 'openvino', 'nncf', 'safetensors', 'sklearn',
         'pyarrow', 'ray', 'mcap', 'pycocotools')
# Room -> libraries that its import must not need.
BLANKED = {
    'core': (*HEAVY, 'tqdm'),
    'calibration': HEAVY,
    'storage': HEAVY,
    'backends': HEAVY,
    'cli': (*HEAVY, 'jinja2', 'matplotlib'),
    'compiler': (*ROS, 'torch', 'onnxruntime', 'rosbags'),
    'sim': HEAVY,
}
# Imported late only, which test_imports checks.
HEAVY_MODULES = {'compiler.checks.pass_checks', 'compiler.checks.sample_checks',
                 'compiler.checks.output_checks'}

IMPORT_ALL = """
import importlib, sys
blanked, modules = sys.argv[1].split(','), sys.argv[2:]
for name in blanked:
    sys.modules[name] = None
for name in modules:
    importlib.import_module(name)
print(len(modules), 'imported')
"""


def modules_of(room: str) -> list[str]:
    """Return the dotted names of a room's modules."""
    names = []
    for path in sorted((ROOT / PACKAGE / room).rglob('*.py')):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix('').parts
        name = '.'.join(part for part in parts if part != '__init__')
        if name not in HEAVY_MODULES and not name.startswith('compiler.capture.'):
            names.append(f'{PACKAGE}.{name}')
    return names


def import_all(modules: list[str], blanked: tuple[str, ...], path: Path) \
        -> subprocess.CompletedProcess[str]:
    """Import modules in a process in which some libraries cannot be imported."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
        [str(path), os.environ.get('PYTHONPATH', '')])}
    return subprocess.run(
        [sys.executable, '-c', IMPORT_ALL, ','.join(blanked), *modules],
        capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize('room', sorted(BLANKED))
def test_a_light_room_imports_without_the_heavy_libraries(room: str) -> None:
    modules = modules_of(room)
    assert len(modules) > 1
    done = import_all(modules, BLANKED[room], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'{len(modules)} imported\n'
