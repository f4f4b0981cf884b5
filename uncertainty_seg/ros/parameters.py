# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Settings as ROS parameters: declared with description and range, checked together.

Only `core.settings` decides which values are valid. Integers for floating-point parameters
(`rate: 7`), which ROS refuses, are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import sys
from typing import Any, TypeVar

from rcl_interfaces import msg
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from uncertainty_seg.core.settings import (
    from_ros,
    iter_parameters,
    Parameter,
    Settings,
    settings_from_dict,
    to_dict,
    Value,
)
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.parameter_files import require_spelt

SettingsT = TypeVar('SettingsT')


class ParameterServer:
    """
    Declare every setting on a node and keep `settings` up to date.

    `apply` is called with the new settings when live ones change, and may raise to refuse them.
    Raises ConfigError as `declared_settings` does.
    """

    def __init__(self, node: Node, apply: Callable[[Settings], None]) -> None:
        self._apply = apply
        self._known = {p.name: p for p in iter_parameters(Settings)}
        self._settings = declared_settings(node, Settings, settings_from_dict)
        # Checking and applying are one step, so that what the pipeline refuses is refused here.
        # ROS has checked range and read-only before it calls, on every distribution.
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._settings

    def _on_set(self, changes: list[Any]) -> msg.SetParametersResult:
        deleted = [c.name for c in changes
                   if c.name in self._known and c.type_ == RosParameter.Type.NOT_SET]
        if deleted:
            return msg.SetParametersResult(successful=False, reason=(
                f'{deleted[0]} cannot be deleted: it is a setting of the node; set it to '
                f'{to_ros(self._known[deleted[0]].default)} for its default'))
        own = {c.name: from_ros(self._known[c.name], c.value)
               for c in changes if c.name in self._known}
        if not own:
            return msg.SetParametersResult(successful=True)
        try:
            settings = settings_from_dict({**to_dict(self._settings), **own})
            self._apply(settings)
        except UncertaintySegError as err:
            return msg.SetParametersResult(successful=False, reason=str(err))
        self._settings = settings
        return msg.SetParametersResult(successful=True)


def to_ros(value: Value) -> Any:
    """Return a setting's value as ROS stores it; [''] stands for an empty list of strings."""
    return (list(value) or ['']) if isinstance(value, tuple) else value


def descriptor_of(setting: Parameter) -> msg.ParameterDescriptor:
    """Describe a setting for `ros2 param describe`: read-only unless live or idle; its range."""
    unit = f' [{setting.unit}]' if setting.unit else ''
    kind = RosParameter.Type.from_parameter_value(to_ros(setting.default))
    descriptor = msg.ParameterDescriptor(
        name=setting.name, type=kind.value, description=f'{setting.description}{unit}',
        additional_constraints=setting.wanted(), read_only=not (setting.live or setting.idle),
        # The settings check the type, not ROS: see the module docstring.
        dynamic_typing=True,
    )
    if setting.lower is None and setting.upper is None:
        return descriptor
    is_float = isinstance(setting.default, float) or setting.is_numbers
    largest = sys.float_info.max if is_float else 2**63 - 1
    low = -largest if setting.lower is None else setting.lower
    high = largest if setting.upper is None else setting.upper
    if is_float:
        descriptor.floating_point_range = [msg.FloatingPointRange(from_value=low, to_value=high)]
    else:
        descriptor.integer_range = [msg.IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def declared_settings(
    node: Node, kind: type, build: Callable[[Mapping[str, object]], SettingsT]
) -> SettingsT:
    """
    Declare every setting on a node with its descriptor, and return the initial settings.

    Raises ConfigError if a value is of another type, out of range or NaN, values contradict each
    other, or the name of a parameter is misspelt.
    """
    known = list(iter_parameters(kind))
    values: dict[str, object] = {}
    for setting in known:
        # Any value passes here, so that a wrong one raises the error of the settings.
        anything = msg.ParameterDescriptor(name=setting.name, dynamic_typing=True)
        value = node.declare_parameter(setting.name, to_ros(setting.default), anything).value
        values[setting.name] = from_ros(setting, value)
    settings = build(values)
    for setting in known:
        node.set_descriptor(setting.name, descriptor_of(setting))
    # ROS silently ignores unknown parameters. The attribute is private; without it there is no
    # warning here.
    given = sorted(getattr(node, '_parameter_overrides', {}))
    for name in require_spelt(given, [setting.name for setting in known]):
        node.get_logger().warning(f'unknown parameter {name} is ignored')
    return settings
