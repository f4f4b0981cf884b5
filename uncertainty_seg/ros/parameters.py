# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Settings as ROS parameters: declared with description and range, judged as a whole.

What a value may be is known by `core.settings` alone. ROS's own checks of type and range come
first where they can say the same; whole numbers for floating-point parameters (`rate: 7`), which
ROS refuses, are accepted, and the judgement over all values together is made here.

"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import sys
import textwrap
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from uncertainty_seg.core.settings import (
    from_ros,
    iter_parameters,
    Parameter,
    Settings,
    settings_from_dict,
    settings_to_dict,
    Value,
)
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.ros.governor.policy import SpeedSettings

# -------------------------------------------------------------------------------------------------
# What people read about the parameters is written from the settings: the YAML file and the lists
# of parameters in the documentation.
#
# ``python -m uncertainty_seg.ros.parameters`` rewrites them in a source tree; a test compares.

YAML_PATH = Path('config') / 'uncertainty_seg.yaml'
# Page -> the settings that it lists.
PAGES: dict[Path, type] = {
    Path('docs') / 'ros_interface.md': Settings,
    Path('docs') / 'speed_governor.md': SpeedSettings,
}
LIST_BEGIN = '<!-- parameters: made by python -m uncertainty_seg.ros.parameters -->'
LIST_END = '<!-- end of parameters -->'
PAGE_COLUMNS = 110
_YAML_HEAD = """\
# Every parameter of the node with its default. Copy the lines that you change into a file of your
# own, and give it to: ros2 launch uncertainty_seg uncertainty_seg.launch.py params_file:=...
# Written by python -m uncertainty_seg.ros.parameters
/**:
  ros__parameters:
"""


def parameters_yaml() -> str:
    """Return a parameter file that holds every default."""
    lines, group = [], ''
    for setting in iter_parameters(Settings):
        prefix, _, name = setting.name.rpartition('.')
        if prefix != group:
            lines.append(f'    {prefix}:')
            group = prefix
        indent = '    ' + '  ' * bool(prefix)
        lines += textwrap.wrap(
            f'{setting.description} ({_accepted(setting)})', 97,
            initial_indent=f'{indent}# ', subsequent_indent=f'{indent}# ',
        )
        lines.append(f'{indent}{name}: {_yaml_value(setting.default)}')
    return _YAML_HEAD + '\n'.join(lines) + '\n'


def parameters_list(settings: type) -> str:
    """Return the parameters as a Markdown list: name, default, meaning, what is accepted."""
    lines = []
    for setting in iter_parameters(settings):
        # Each accepted word in code, so that Markdown does not read its underscores.
        words = [f'`{word}`' for word in setting.choices]
        when = ', live' if setting.live else ', idle' if setting.idle else ''
        accepted = f'one of {", ".join(words)}' if words else _accepted(setting)
        lines += textwrap.wrap(
            f'- **`{setting.name}`** = `{_yaml_value(setting.default)}`{when}. '
            f'{setting.description} Accepts {accepted}.',
            PAGE_COLUMNS, subsequent_indent='  ', break_long_words=False, break_on_hyphens=False,
        )
    return '\n'.join(lines) + '\n'


def with_list(page: str, settings: type) -> str:
    """Return a page with the list between its markers renewed."""
    head, _, rest = page.partition(LIST_BEGIN)
    _, _, tail = rest.partition(LIST_END)
    return f'{head}{LIST_BEGIN}\n\n{parameters_list(settings)}\n{LIST_END}{tail}'


def _accepted(setting: Parameter) -> str:
    return setting.wanted() + (f', in {setting.unit}' if setting.unit else '')


def _yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # An empty list would reach the node as no value.
        return '[' + ', '.join(_yaml_value(item) for item in value or ('',)) + ']'
    return f"'{value}'" if isinstance(value, str) else str(value)


# -------------------------------------------------------------------------------------------------


class ParameterServer:
    """
    Declare every setting on a node and keep `settings` up to date.

    Parameters
    ----------
    node : Node
        Gets the parameters.
    apply : callable
        Called with the new settings when live ones change; may raise to refuse them.

    Raises
    ------
    ConfigError
        If a value given at the start is of another type, out of range or NaN, or values
        contradict each other.

    """

    def __init__(self, node: Node, apply: Callable[[Settings], None]) -> None:
        self._apply = apply
        self._known = {p.name: p for p in iter_parameters(Settings)}
        values = {name: _declare(node, setting) for name, setting in self._known.items()}
        self._settings = settings_from_dict(values)
        for name, setting in self._known.items():
            node.set_descriptor(name, descriptor_of(setting))
        _warn_of_strangers(node)
        # Judging and taking over are one step, so that what the pipeline refuses is refused
        # here: ROS has checked type, range and read-only before it calls, on every distribution.
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._settings

    def _on_set(self, changes: list[Any]) -> SetParametersResult:
        deleted = [c.name for c in changes if c.name in self._known and _is_unset(c)]
        if deleted:
            return SetParametersResult(successful=False, reason=(
                f'{deleted[0]} cannot be deleted: it is a setting of the node; set it to '
                f'{_shown(self._known[deleted[0]].default)} for its default'))
        own = {c.name: from_ros(self._known[c.name], c.value)
               for c in changes if c.name in self._known}
        if not own:
            return SetParametersResult(successful=True)
        try:
            settings = settings_from_dict({**settings_to_dict(self._settings), **own})
            self._apply(settings)
        except UncertaintySegError as err:
            return SetParametersResult(successful=False, reason=str(err))
        self._settings = settings
        return SetParametersResult(successful=True)


def _is_unset(change: Any) -> bool:
    return bool(change.type_ == RosParameter.Type.NOT_SET)


def _shown(value: Value) -> str:
    return str(to_ros(value))


def to_ros(value: Value) -> Any:
    """Return a setting's value as ROS stores it; ROS has no empty list of texts, but ['']."""
    return (list(value) or ['']) if isinstance(value, tuple) else value


def descriptor_of(setting: Parameter) -> ParameterDescriptor:
    """
    Describe a setting for `ros2 param describe`.

    Parameters
    ----------
    setting : Parameter
        From `core.settings`.

    Returns
    -------
    ParameterDescriptor
        Read-only unless live or idle; with the range and the words allowed.

    """
    unit = f' [{setting.unit}]' if setting.unit else ''
    kind = RosParameter.Type.from_parameter_value(to_ros(setting.default))
    descriptor = ParameterDescriptor(
        name=setting.name, type=kind.value, description=f'{setting.description}{unit}',
        additional_constraints=setting.wanted(), read_only=not (setting.live or setting.idle),
        # Left open for ROS, decided by the settings: see the head of this file.
        dynamic_typing=True,
    )
    if setting.lower is None and setting.upper is None:
        return descriptor
    if isinstance(setting.default, float) or setting.is_numbers:
        low, high = _bounds(setting, sys.float_info.max)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    else:
        low, high = _bounds(setting, 2**63 - 1)
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def _bounds(setting: Parameter, largest: float) -> tuple[float, float]:
    low = -largest if setting.lower is None else setting.lower
    high = largest if setting.upper is None else setting.upper
    return low, high


def _declare(node: Node, setting: Parameter) -> object:
    # Any value passes here, so that the settings say what is wrong with it in their own words.
    anything = ParameterDescriptor(name=setting.name, dynamic_typing=True)
    value = node.declare_parameter(setting.name, to_ros(setting.default), anything).value
    return from_ros(setting, value)


def _warn_of_strangers(node: Node) -> None:
    # ROS ignores a misspelt parameter silently. Only a warning, for a file may speak to
    # several nodes. The attribute is not public; without it there is no warning.
    given = getattr(node, '_parameter_overrides', {})
    for name in sorted(given):
        if not node.has_parameter(name) and not name.startswith('qos_overrides.'):
            node.get_logger().warning(f'there is no parameter {name}, it is ignored')


def main() -> int:
    """Rewrite the file and the pages in the source tree this module lies in."""
    root = Path(__file__).resolve().parents[2]
    (root / YAML_PATH).write_text(parameters_yaml(), encoding='utf-8')
    for path, settings in PAGES.items():
        page = root / path
        page.write_text(with_list(page.read_text(encoding='utf-8'), settings), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
