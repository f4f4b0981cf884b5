# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The settings of the speed governor as ROS parameters, which stay as they are at the start."""

from __future__ import annotations

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from uncertainty_seg.core.parameters import iter_parameters
from uncertainty_seg.ros.parameters import descriptor_of, from_ros, to_ros
from uncertainty_seg.ros.speed_settings import speed_settings_from_dict, SpeedSettings


def declared_settings(node: Node) -> SpeedSettings:
    """
    Declare every setting on a node, described and read-only.

    Parameters
    ----------
    node : Node
        Gets the parameters.

    Returns
    -------
    SpeedSettings
        As given at the start.

    Raises
    ------
    ConfigError
        If a value is of another type, out of range or NaN, or values contradict each other.

    """
    known = list(iter_parameters(SpeedSettings))
    values = {}
    for setting in known:
        # Any value passes here, so that the settings say what is wrong with it.
        anything = ParameterDescriptor(name=setting.name, dynamic_typing=True)
        value = node.declare_parameter(setting.name, to_ros(setting.default), anything).value
        values[setting.name] = from_ros(setting, value)
    settings = speed_settings_from_dict(values)
    for setting in known:
        node.set_descriptor(setting.name, descriptor_of(setting))
    _warn_of_strangers(node)
    return settings


def _warn_of_strangers(node: Node) -> None:
    # ROS ignores a misspelt parameter without a word. The attribute is not public; without it
    # there is no warning.
    for name in sorted(getattr(node, '_parameter_overrides', {})):
        if not node.has_parameter(name) and not name.startswith('qos_overrides.'):
            node.get_logger().warning(f'there is no parameter {name}, it is ignored')
