# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real `vision_msgs/LabelInfo`, made with ROS's own generators where it is not installed.

No wheel of vision_msgs exists, but the wheels of rclpy bring the generators, templates, headers
and libraries that its build uses. `build` runs them and the C compiler outside the repository;
processes that have the folder on PYTHONPATH then import, send and receive the message like any.

"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
import json
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig
from typing import Any

PACKAGE = 'vision_msgs'
# The fields of https://github.com/ros-perception/vision_msgs, branch ros2, version 4.1.1.
DEFINITIONS = {
    'VisionClass': 'uint16 class_id\nstring class_name\n',
    'LabelInfo': 'std_msgs/Header header\n'
                 'vision_msgs/VisionClass[] class_map\n'
                 'float32 threshold\n',
}
NEEDED = ('std_msgs', 'builtin_interfaces')
# What rmw_fastrtps asks the message for.
SUPPORTS = ('rosidl_typesupport_introspection_c', 'rosidl_typesupport_fastrtps_c')


def is_installed() -> bool:
    """Return whether vision_msgs is here already, as in a full ROS."""
    return find_spec(PACKAGE) is not None


def missing_tool() -> str:
    """Return what is missing to build the message, or nothing."""
    modules = ('rosidl_generator_py', 'rosidl_typesupport_fastrtps_c', 'rosidl_adapter')
    for module in modules:
        if find_spec(module) is None:
            return f'the generator {module}'
    if not (Path(sys.prefix) / 'include' / 'std_msgs').is_dir():
        return 'the headers of std_msgs'
    if shutil.which('gcc') is None or shutil.which('g++') is None:
        return 'gcc and g++'
    return '' if _python_header().is_file() else 'Python.h'


def build(folder: Path) -> Path:
    """Generate and compile the package below an empty folder; returns what to import from."""
    sources = folder / 'sources'
    module = _generate(sources) / PACKAGE
    (module / '__init__.py').touch()
    _compile(sources, module)
    return module.parent


def _generate(sources: Path) -> Path:
    """Run each generator into a folder of its own; returns that of Python."""
    interfaces = sources / 'interfaces' / PACKAGE
    (interfaces / 'msg').mkdir(parents=True)
    convert = import_module('rosidl_adapter.msg').convert_msg_to_idl
    for name, text in DEFINITIONS.items():
        file = Path('msg', f'{name}.msg')
        (interfaces / file).write_text(text)
        convert(interfaces, PACKAGE, file, interfaces / 'msg')
    _run(interfaces, interfaces, 'rosidl_generator_type_description', 'generate_type_hash')
    for generator, function, *more in (
        ('rosidl_generator_c', 'generate_c'),
        ('rosidl_typesupport_c', 'generate_c', list(SUPPORTS)),
        ('rosidl_typesupport_introspection_c', 'generate_c'),
        ('rosidl_typesupport_fastrtps_c', 'generate_typesupport_fastrtps_c'),
        ('rosidl_generator_py', 'generate_py', ['rosidl_typesupport_c']),
    ):
        _run(interfaces, sources / generator / PACKAGE, generator, function, *more)
    return sources / 'rosidl_generator_py'


def _run(interfaces: Path, output: Path, generator: str, function: str, *more: Any) -> None:
    share = Path(sys.prefix) / 'share'
    output.mkdir(parents=True, exist_ok=True)
    arguments = output.with_suffix('.json')
    arguments.write_text(json.dumps({
        'package_name': PACKAGE,
        'output_dir': str(output),
        'template_dir': str(share / generator / 'resource'),
        'target_dependencies': [],
        'idl_tuples': [f'{interfaces}:msg/{name}.idl' for name in DEFINITIONS],
        'include_paths': [f'{package}:{share / package}' for package in NEEDED],
        'ros_interface_files': [f'{interfaces}/msg/{name}.msg' for name in DEFINITIONS],
        'type_description_tuples': [] if output == interfaces else [
            f'msg/{name}.idl:{interfaces}/msg/{name}.json' for name in DEFINITIONS],
    }))
    generate: Callable[..., Any] = getattr(import_module(generator), function)
    generate(str(arguments), *more)


def _compile(sources: Path, module: Path) -> None:
    """
    Make two libraries and the extension that Python loads.

    The first has everything in it. rosidl looks for one library a type support, by its name, so
    the second is empty and leads to the first.

    """
    for generator in ('rosidl_generator_c', *SUPPORTS):
        template = Path(sys.prefix, 'share', generator, 'resource',
                        f'{generator}__visibility_control.h.in')
        text = template.read_text().replace('@PROJECT_NAME_UPPER@', PACKAGE.upper())
        target = sources / generator / PACKAGE / 'msg' / template.stem
        target.write_text(text.replace('@PROJECT_NAME@', PACKAGE))
    first, second = (f'lib{PACKAGE}__{support}.so' for support in SUPPORTS)
    code = [str(file) for suffix in ('c', 'cpp') for file in sources.rglob(f'*.{suffix}')]
    _link(module, first, [*_include_flags(sources), *code, '-lstdc++', *_library_flags()])
    _link(module, second, ['-xc', '/dev/null', '-xnone', first])
    _link(module, f'{PACKAGE}_s__rosidl_typesupport_c.so',
          ['-xc', '/dev/null', '-xnone', first, second])


def _link(module: Path, name: str, arguments: list[str]) -> None:
    subprocess.run(
        ['gcc', '-shared', '-fPIC', '-O0', '-w', '-o', name,
         # Else libraries whose symbols are looked up by name only are left out.
         f'-Wl,-soname,{name},-rpath,$ORIGIN,--no-as-needed,--allow-shlib-undefined', *arguments],
        cwd=module, check=True,
    )


def _include_flags(sources: Path) -> list[str]:
    import numpy as np

    include = Path(sys.prefix) / 'include'
    generated = (folder for folder in sources.iterdir() if folder.is_dir())
    folders = [*generated, include, *include.iterdir(), _python_header().parent, np.get_include()]
    return [f'-I{folder}' for folder in folders]


def _library_flags() -> list[str]:
    of_header = [f'std_msgs__{kind}' for kind in (
        'rosidl_generator_c', 'rosidl_generator_py', 'rosidl_typesupport_c', *SUPPORTS)]
    return [f'-L{sys.prefix}/lib', *(f'-l{name}' for name in (*of_header, *SUPPORTS))]


def _python_header() -> Path:
    return Path(sysconfig.get_paths()['include']) / 'Python.h'
