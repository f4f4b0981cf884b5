# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Fakes of launch and launch_ros, with which tests read the declarations of a launch file."""

from collections.abc import Iterator
from pathlib import Path
import runpy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROFILES = {'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'}
FRAME_MEMORY = {'RMW_FASTRTPS_USE_QOS_FROM_XML', 'MALLOC_MMAP_THRESHOLD_',
                'MALLOC_TRIM_THRESHOLD_'}


class Call(SimpleNamespace):
    """Records the arguments of its constructor."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(words=words, **options)


def kind(name: str) -> type:
    return type(name, (Call,), {})


def configuration(values: dict[str, str]) -> type:
    def perform(self: Any, context: Any) -> str:
        return values.get(self.words[0], '')
    return type('LaunchConfiguration', (Call,), {'perform': perform})


def declaration(values: dict[str, str]) -> type:
    """Return a fake DeclareLaunchArgument; its default applies if `values` has no value."""
    def init(self: Any, name: str, **options: Any) -> None:
        Call.__init__(self, name, **options)
        values.setdefault(name, options.get('default_value', ''))
    return type('DeclareLaunchArgument', (Call,), {'__init__': init})


@pytest.fixture(name='arguments')
def launch_arguments() -> dict[str, str]:
    """Return the launch arguments that override defaults; tests add to them."""
    return {'model': 'pipeline', 'bag': str(ROOT / 'config')}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: Any, arguments: dict[str, str]) -> Iterator[None]:
    contents = {
        'launch': ['LaunchContext', 'LaunchDescription'],
        'launch.actions': ['DeclareLaunchArgument', 'IncludeLaunchDescription',
                           'OpaqueFunction', 'SetEnvironmentVariable'],
        'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
        'launch_ros': [],
        'launch_ros.actions': ['Node'],
        'launch_ros.parameter_descriptions': ['ParameterValue'],
        'ament_index_python': [],
    }
    for module_name, names in contents.items():
        module = ModuleType(module_name)
        for name in names:
            setattr(module, name, kind(name))
        monkeypatch.setitem(sys.modules, module_name, module)
    sys.modules['launch.actions'].DeclareLaunchArgument = declaration(arguments)
    substitutions = ModuleType('launch.substitutions')
    substitutions.LaunchConfiguration = configuration(arguments)
    monkeypatch.setitem(sys.modules, 'launch.substitutions', substitutions)
    index = ModuleType('ament_index_python.packages')
    index.get_package_share_directory = lambda name: str(ROOT)
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages', index)
    for name in PROFILES | FRAME_MEMORY:
        monkeypatch.delenv(name, raising=False)
    yield


def actions_of(file: str, context: Any = None) -> dict[str, list[Any]]:
    """Return the actions of a launch file by class name, OpaqueFunctions evaluated."""
    description = runpy.run_path(str(ROOT / 'launch' / file))['generate_launch_description']()
    by_kind: dict[str, list[Any]] = {}
    for action in description.words[0]:
        is_opaque = type(action).__name__ == 'OpaqueFunction'
        opened = action.function(context) if is_opaque else [action]
        for one in opened:
            by_kind.setdefault(type(one).__name__, []).append(one)
    return by_kind
