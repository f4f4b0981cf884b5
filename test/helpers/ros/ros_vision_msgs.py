# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real messages of `vision_msgs` and `bond`, made with ROS's own generators.

No wheels of these packages exist, but the wheels of rclpy bring the generators, templates, headers
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

PACKAGES: dict[str, dict[str, str]] = {
    # The fields of https://github.com/ros-perception/vision_msgs, branch ros2, version 4.1.1.
    'vision_msgs': {
        'VisionClass': 'uint16 class_id\nstring class_name\n',
        'LabelInfo': 'std_msgs/Header header\n'
                     'vision_msgs/VisionClass[] class_map\n'
                     'float32 threshold\n',
    },
    # Those of https://github.com/ros/bond_core, branch ros2.
    'bond': {
        'Status': 'std_msgs/Header header\n'
                  'string id\n'
                  'string instance_id\n'
                  'bool active\n'
                  'float32 heartbeat_timeout\n'
                  'float32 heartbeat_period\n',
    },
}
NEEDED = ('std_msgs', 'builtin_interfaces')
# What rmw_fastrtps asks the message for.
SUPPORTS = ('rosidl_typesupport_introspection_c', 'rosidl_typesupport_fastrtps_c')


def is_installed(package: str = 'vision_msgs') -> bool:
    """Return whether a package is here already, as in a full ROS."""
    return find_spec(package) is not None


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


def build(folder: Path, package: str = 'vision_msgs') -> Path:
    """Generate and compile a package below an empty folder; returns what to import from."""
    sources = folder / 'sources'
    module = _generate(sources, package) / package
    (module / '__init__.py').touch()
    _compile(sources, module, package)
    return module.parent


def _generate(sources: Path, package: str) -> Path:
    """Run each generator into a folder of its own; returns that of Python."""
    interfaces = sources / 'interfaces' / package
    (interfaces / 'msg').mkdir(parents=True)
    convert = import_module('rosidl_adapter.msg').convert_msg_to_idl
    for name, text in PACKAGES[package].items():
        file = Path('msg', f'{name}.msg')
        (interfaces / file).write_text(text)
        convert(interfaces, package, file, interfaces / 'msg')
    _run(interfaces, interfaces, 'rosidl_generator_type_description', 'generate_type_hash')
    for generator, function, *more in (
        ('rosidl_generator_c', 'generate_c'),
        ('rosidl_typesupport_c', 'generate_c', list(SUPPORTS)),
        ('rosidl_typesupport_introspection_c', 'generate_c'),
        ('rosidl_typesupport_fastrtps_c', 'generate_typesupport_fastrtps_c'),
        ('rosidl_generator_py', 'generate_py', ['rosidl_typesupport_c']),
    ):
        _run(interfaces, sources / generator / package, generator, function, *more)
    return sources / 'rosidl_generator_py'


def _run(interfaces: Path, output: Path, generator: str, function: str, *more: Any) -> None:
    share, package = Path(sys.prefix) / 'share', interfaces.name
    names = PACKAGES[package]
    output.mkdir(parents=True, exist_ok=True)
    arguments = output.with_suffix('.json')
    arguments.write_text(json.dumps({
        'package_name': package,
        'output_dir': str(output),
        'template_dir': str(share / generator / 'resource'),
        'target_dependencies': [],
        'idl_tuples': [f'{interfaces}:msg/{name}.idl' for name in names],
        'include_paths': [f'{needed}:{share / needed}' for needed in NEEDED],
        'ros_interface_files': [f'{interfaces}/msg/{name}.msg' for name in names],
        'type_description_tuples': [] if output == interfaces else [
            f'msg/{name}.idl:{interfaces}/msg/{name}.json' for name in names],
    }))
    generate: Callable[..., Any] = getattr(import_module(generator), function)
    generate(str(arguments), *more)


def _compile(sources: Path, module: Path, package: str) -> None:
    """
    Make two libraries and the extension that Python loads.

    The first has everything in it. rosidl looks for one library a type support, by its name, so
    the second is empty and leads to the first.

    """
    for generator in ('rosidl_generator_c', *SUPPORTS):
        template = Path(sys.prefix, 'share', generator, 'resource',
                        f'{generator}__visibility_control.h.in')
        text = template.read_text().replace('@PROJECT_NAME_UPPER@', package.upper())
        target = sources / generator / package / 'msg' / template.stem
        target.write_text(text.replace('@PROJECT_NAME@', package))
    first, second = (f'lib{package}__{support}.so' for support in SUPPORTS)
    code = [str(file) for suffix in ('c', 'cpp') for file in sources.rglob(f'*.{suffix}')]
    _link(module, first, [*_include_flags(sources), *code, '-lstdc++', *_library_flags()])
    _link(module, second, ['-xc', '/dev/null', '-xnone', first])
    _link(module, f'{package}_s__rosidl_typesupport_c.so',
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
