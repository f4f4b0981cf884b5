# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Allowed imports between the package's folders ("rooms"), checked in the syntax trees.

Every import counts, also nested ones. An import in a function or under TYPE_CHECKING is *late*: it
does not run when the module is imported.
"""

import ast
from importlib import import_module
from pathlib import Path
import re
import sys

from house import Import, import_graph, imports_of, modules, PACKAGE, SOURCE
import pytest

# Room -> other rooms that it may import; every room may import errors and itself.
ROOMS = {
    'errors': set(),
    'core': set(),
    'storage': {'core'},
    'backends': {'core', 'storage'},
    'ros': {'core', 'backends', 'storage'},
    'sim': {'core', 'backends', 'storage'},
    'calibration': {'core', 'backends', 'storage', 'sim'},
    'data': {'core', 'backends', 'storage', 'calibration', 'sim'},
    'compiler': {'core', 'backends', 'storage', 'sim'},
    'training': {'core', 'backends', 'storage', 'calibration', 'data', 'compiler'},
    'cli': {'core', 'backends', 'storage', 'calibration', 'data', 'sim', 'compiler', 'training'},
    '__main__': {'cli'},
}

ROS_PACKAGES = {
    'rclpy', 'ament_index_python', 'bond', 'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs',
    'geometry_msgs', 'lifecycle_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs',
    'std_msgs', 'std_srvs', 'vision_msgs',
}
# Room -> libraries that it may import, and libraries that it may only import late.
LIBRARIES = {
    'errors': (set(), set()),
    'core': ({'numpy'}, set()),
    'storage': ({'numpy', 'cv2'}, {'rosbags', 'yaml', 'mcap', 'pyarrow', 'tqdm'}),
    # tensorrt: only its classes, for types; the module itself is imported by name.
    'backends': ({'numpy'}, {'onnxruntime', 'openvino', 'tensorrt'}),
    'ros': ({'numpy', 'cv2'} | ROS_PACKAGES, set()),
    'calibration': ({'numpy', 'cv2'}, {'scipy', 'matplotlib', 'jinja2', 'ray'}),
    'data': ({'numpy', 'cv2', 'tqdm'}, {'pyarrow', 'ray', 'scipy', 'jinja2', 'matplotlib'}),
    'sim': ({'numpy', 'cv2', 'tqdm'}, set()),
    'compiler': ({'numpy', 'onnx', 'tqdm'}, {'onnxruntime'}),
    'training': ({'numpy', 'cv2', 'torch', 'torchvision', 'timm', 'onnx', 'tqdm'},
                 {'onnxruntime', 'safetensors', 'matplotlib', 'ray', 'pyarrow'}),
    'cli': ({'numpy', 'cv2'}, {'ray', 'pyarrow', 'tqdm'}),
    '__main__': (set(), set()),
}
# Additional libraries of the capture of torch networks, whose modules are imported late.
CAPTURE = {'torch', 'safetensors'}
# Module -> libraries in addition to its room's: importable, and importable late only.
EXCEPTIONS = {
    'core.preprocess': ({'cv2'}, set()),
    'core.grid': ({'cv2'}, set()),
    'core.render': ({'cv2'}, set()),
    'core.image_codec': ({'cv2'}, set()),
    # Histograms, box sums, connected components and filters, within the budget of a frame.
    'core.scores.vector': ({'cv2'}, set()),
    'core.image_damage': ({'cv2'}, set()),
    'storage.perceptual_hash': ({'cv2'}, set()),
    'storage.model_bundle': (set(), {'onnx'}),
    'storage.first_member': (set(), {'onnx'}),
    'storage.bags.bounded': (set(), {'lz4'}),
    # Ed25519, only if a bundle is signed or keys are trusted.
    'storage.signatures': (set(), {'cryptography'}),
    # Packs run lengths and draws polygons as COCO's own reader does.
    'data.label_formats': (set(), {'pycocotools'}),
    'data.label_frames': (set(), {'pycocotools'}),
    # Sets the number of OpenCV's threads.
    'backends.registry': ({'cv2'}, set()),
    # Reads inputs, outputs and tensor sizes of the files.
    'backends.runner': (set(), {'onnx'}),
    'backends.cpu.strips': (set(), {'onnx'}),
    # These run the compiled graphs; they are imported late (see LATE_MODULES).
    'compiler.checks.pass_checks': ({'onnx'}, set()),
    'compiler.checks.sample_checks': ({'onnx'}, set()),
    'compiler.checks.output_checks': ({'onnx'}, set()),
}
# Modules that load a heavy library on import, and therefore must be imported late.
LATE_MODULES = {'compiler.checks.pass_checks',
                'compiler.checks.sample_checks',
                'compiler.checks.output_checks', 'compiler.checks.grid_checks',
                'compiler.checks.file_passes'}


def complaint(module: str, found: Import) -> str:
    """Return what is wrong with one import; '' if nothing is."""
    room = module.split('.')[0]
    first, *rest = found.name.split('.')
    if first == PACKAGE:
        target = rest[0] if rest else ''
        if target in ROOMS and target not in {'errors', room, *ROOMS[room]}:
            return f'{room} may not import {target}'
        is_heavy = any('.'.join(rest).startswith(late) for late in LATE_MODULES)
        if is_heavy and not found.is_late and module not in LATE_MODULES:
            return f'{found.name} may be imported inside a function only'
        return ''
    if first in sys.stdlib_module_names:
        return ''
    if module.startswith('compiler.capture.') and first in CAPTURE:
        return ''
    at_once, late = (a | b for a, b in zip(
        LIBRARIES[room], EXCEPTIONS.get(module, (set(), set())), strict=True))
    if first in at_once or (found.is_late and first in late):
        return ''
    if first in late:
        return f'{first} may be imported inside a function only'
    return f'{module} may not import {first}'


def complaints(root: Path) -> list[str]:
    """Return what is wrong with the imports of all modules below a package's folder."""
    found = []
    for path in sorted(root.rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        module = '.'.join(parts)
        if parts[0] == '__init__':
            continue
        if parts[0] not in ROOMS:
            found.append(f'{path.name}: {parts[0]} is no room of the design')
            continue
        for one in imports_of(path.read_text(encoding='utf-8'), module):
            problem = complaint(module, one)
            if problem:
                found.append(f'{module}:{one.line}: {problem}')
    return found


def test_every_module_keeps_to_the_table() -> None:
    assert complaints(SOURCE) == []


def borrowed(room: str) -> set[str]:
    """Return the modules of a room that other rooms import, by their names in the room."""
    known = modules()
    found = set()
    for module, imported in import_graph().items():
        if module.split('.')[0] not in ('', room):
            found |= {name.removeprefix(f'{room}.') for name in imported
                      if name.startswith(f'{room}.') and known[name].name != '__init__.py'}
    return found


@pytest.mark.parametrize('room', sorted(set(ROOMS) - {'errors', 'cli', '__main__'}))
def test_a_room_exports_just_what_others_import(room: str) -> None:
    # The package's __init__ names the Python API in strings, which are not imports.
    source = (SOURCE / '__init__.py').read_text(encoding='utf-8')
    of_api = {place.partition('.')[2].partition(':')[0]
              for place in re.findall(r"'([a-z_]+\.[\w.:]+)'", source)
              if place.startswith(f'{room}.')}
    exported = set(import_module(f'{PACKAGE}.{room}').__all__)
    assert exported == borrowed(room) | of_api


def test_every_room_is_there() -> None:
    there = {p.stem for p in SOURCE.iterdir() if p.suffix == '.py' or (p / '__init__.py').exists()}
    assert there - {'__init__'} == set(ROOMS)


@pytest.mark.parametrize(('module', 'source', 'expected'), [
    ('core.gate', 'import rclpy', 'core.gate may not import rclpy'),
    ('core.gate', 'if TYPE_CHECKING:\n    import rclpy', 'core.gate may not import rclpy'),
    ('core.gate', 'from ..storage import bags', 'core may not import storage'),
    ('ros.node', 'def f():\n    import uncertainty_seg.training', 'ros may not import training'),
    ('backends.openvino', 'import openvino', 'openvino may be imported inside a function only'),
    ('training.train', 'from uncertainty_seg.compiler.checks import pass_checks',
     'pass_checks may be imported inside a function only'),
    ('scratch', 'import os', 'scratch is no room of the design'),
])
def test_a_forbidden_import_is_found(
        tmp_path: Path, module: str, source: str, expected: str) -> None:
    path = tmp_path.joinpath(*module.split('.')).with_suffix('.py')
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding='utf-8')
    assert [line.endswith(expected) for line in complaints(tmp_path)] == [True]


# Options of other programs, which any message may name.
FOREIGN_OPTIONS = {'--ros-args', '--params-file', '--param', '--system-site-packages', '--upgrade',
                   '--head'}


def options_named(source: str) -> set[str]:
    """Return the command line options in the strings of a module, docstrings included."""
    texts = [node.value for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {word for text in texts for word in re.findall(r'(?<![\w-])--[a-z][\w-]*', text)}


def test_no_inner_room_names_an_option_of_the_command_line() -> None:
    # Rooms with programs, and the demo, which starts these.
    outer = ('ros', 'cli', '__main__', 'sim.demo.live')
    found = {module: options_named(path.read_text(encoding='utf-8')) - FOREIGN_OPTIONS
             for module, path in modules().items() if not module.startswith(outer)}
    assert {module: named for module, named in found.items() if named} == {}
    assert options_named('"""Give --seed."""\nf"see --alpha {3}"') == {'--seed', '--alpha'}
