# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Parameters of both nodes, each of them, with every value they must not take.

In this process for the many; as processes for files, arguments and exit codes.

"""

from collections.abc import Iterator, Sequence
import math
from pathlib import Path
from typing import Any

from cases import for_each
from conftest import make_tiny_bundle
import pytest
from ros_helpers import HAS_ROS, node_arguments, own_domain, Process, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

import rclpy  # noqa: I100
from rclpy.parameter import Parameter

from uncertainty_seg.core.settings import iter_parameters, Settings
from uncertainty_seg.core.settings import Parameter as Setting
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.governor.policy import speed_settings_from_dict, SpeedSettings
from uncertainty_seg.ros.parameters import declared_settings, ParameterServer

pytestmark = pytest.mark.ros

GOVERNOR = ['-m', 'uncertainty_seg.ros.governor.node', '--ros-args']
OURS, GOVERNORS = list(iter_parameters(Settings)), list(iter_parameters(SpeedSettings))
# One value of every type there is, and the ones that are easily let through.
ANYTHING: list[Any] = [
    True, 0, 1, -1, 10**12, -10**12, 0.0, 2.5, 1e300, math.nan, math.inf, -math.inf, '', 'soon',
    '0.5', 'true', [True], [1, 2], [1.5], [math.nan], ['a', 'b'], [b'a'],
]


def is_bad(setting: Setting, value: Any) -> bool:
    """Tell whether a value is out of range or of another type, worked out from the table."""
    default: Any = setting.default
    if isinstance(default, tuple):  # one value stands for a list of one; '' and [''] for none
        values = value if isinstance(value, list) else [value]
        kind = type(default[0]) if default else str
        return any(_is_bad_one(setting, kind, one) for one in values)
    return _is_bad_one(setting, type(default), value)


def _is_bad_one(setting: Setting, kind: type, value: Any) -> bool:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        return True
    if setting.choices:
        return value not in setting.choices
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    low = -math.inf if setting.lower is None else setting.lower
    high = math.inf if setting.upper is None else setting.upper
    return not (low <= value <= high and math.isfinite(value))


class Bare:
    """A node with nothing but parameters."""

    def __init__(self, context: Any, declare: Any, overrides: dict[str, Any]) -> None:
        self.node: Any = rclpy.create_node(
            'bare', context=context, enable_rosout=False, start_parameter_services=False,
            parameter_overrides=[Parameter(name, value=v) for name, v in overrides.items()])
        self.applied: list[Settings] = []
        try:
            self.served = declare(self)
        except ConfigError:
            self.node.destroy_node()
            raise

    def set(self, name: str, value: Any) -> Any:  # noqa: A003
        return self.node.set_parameters_atomically([Parameter(name, value=value)])


def serve(bare: Bare) -> Any:
    return ParameterServer(bare.node, bare.applied.append)


def govern(bare: Bare) -> Any:
    return declared_settings(bare.node, SpeedSettings, speed_settings_from_dict)


@pytest.fixture(scope='module')
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()


@pytest.fixture(scope='module')
def ours(context: Any) -> Bare:
    return Bare(context, serve, {})


@pytest.fixture(scope='module')
def governor(context: Any) -> Bare:
    return Bare(context, govern, {})


# --- each parameter, live ------------------------------------------------------------------------

# Those of an unconfigured node are refused by the node alone, once it is configured.
CHANGING = [s for s in OURS if s.live or s.idle]


def assert_refused_by_name(bare: Bare, setting: Setting, values: Sequence[Any]) -> None:
    before = bare.node.get_parameter(setting.name).value
    for value in values:
        result = bare.set(setting.name, value)
        assert not result.successful, value
        assert setting.name in result.reason, result.reason
        assert bare.node.get_parameter(setting.name).value == before
    assert not bare.applied


@for_each('setting', CHANGING)
def test_each_bad_value_is_refused_by_name(ours: Bare, setting: Setting) -> None:
    values = [v for v in ANYTHING if is_bad(setting, v)]
    assert len(values) >= 10
    assert_refused_by_name(ours, setting, values)


@for_each('setting', [s for s in OURS if s not in CHANGING])
def test_each_structural_parameter_is_refused_whatever_the_value(
    ours: Bare, setting: Setting
) -> None:
    assert_refused_by_name(ours, setting, [*ANYTHING, setting.default])


@for_each('setting', GOVERNORS)
def test_each_parameter_of_the_governor_is_read_only(governor: Bare, setting: Setting) -> None:
    assert_refused_by_name(governor, setting, [*ANYTHING, setting.default])


@for_each('name', [s.name for s in OURS])
def test_no_parameter_can_be_deleted(context: Any, name: str) -> None:
    bare = Bare(context, serve, {})
    result = bare.node.set_parameters([Parameter(name, Parameter.Type.NOT_SET)])[0]
    assert bare.node.has_parameter(name)
    assert not result.successful
    bare.node.destroy_node()


# --- files, arguments and exit codes -------------------------------------------------------------

# Arguments, or a parameter file -> what the sentence names.
STARTS: dict[str, tuple[list[str], str]] = {
    'nan': (['-p', 'gate.alpha:=.nan'], 'gate.alpha is nan'),
    'beyond 64 bits': (['-p', 'seed:=99999999999999999999'], 'seed'),
    'contradiction': ('gate: {fall_frames: 5, fall_window: 4}', 'fall_frames is 5'),
    'two types in a list': ('gate.scores: [entropy.mean, 5]', 'arguments'),
    'no yaml': ('\tseed: 1', 'YAML'),
    'clock by number': (['-p', 'use_sim_time:=5'], 'use_sim_time'),
    'governor: nan': (['-p', 'deadline_s:=.nan'], 'deadline_s is nan'),
    'governor: contradiction': (['-p', 'settle_s:=0.5'], 'settle_s is 0.5'),
    'governor: clock by number': (['-p', 'use_sim_time:=5'], 'use_sim_time'),
}


@pytest.fixture(scope='module')
def ended(tmp_path_factory: Any) -> dict[str, tuple[int, str]]:
    """Start them all, then wait for all: exit code and output by name."""
    folder: Path = tmp_path_factory.mktemp('starts')
    bundle = make_tiny_bundle(folder / 'tiny')
    processes = {}
    with own_domain() as domain:
        try:
            for number, (name, (words, _)) in enumerate(STARTS.items()):
                if isinstance(words, str):
                    file = folder / f'{number}.yaml'
                    file.write_text(f'/**:\n  ros__parameters:\n    {words}\n')
                    words = ['--params-file', str(file)]
                is_governor = name.startswith('governor')
                arguments = GOVERNOR if is_governor else node_arguments(bundle, autostart=False)
                processes[name] = Process([*arguments, *words], domain, folder / f'log{number}')
            return {name: (process.wait(), process.output) for name, process in processes.items()}
        finally:
            for process in processes.values():
                process.end()


@pytest.mark.parametrize('name', STARTS)
def test_what_cannot_be_used_at_the_start_is_one_sentence_and_exit_code_2(
    ended: dict[str, tuple[int, str]], name: str
) -> None:
    code, output = ended[name]
    assert code == 2, output
    # Before that, rcl itself may have said that it cannot read a file.
    own = [line for line in output.splitlines() if line and not line.startswith('[ERROR]')]
    program = 'speed_governor' if name.startswith('governor') else 'uncertainty_seg_node'
    assert own[-1].startswith(f'{program}: ') and STARTS[name][1] in own[-1], output
    assert 'Traceback' not in output
