# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What several verbs share: options, checks of libraries, progress, the JSON line at the end.

Options that are settings of the package are made from `core.settings`, so that the command line
and the node's parameters are always the same.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
import math
from typing import Any, TypeVar

from uncertainty_seg.core.parameters import from_ros, iter_parameters, Parameter, Value
from uncertainty_seg.core.settings import (
    ALL_PASSES,
    BUNDLE_PASSES,
    INFINITE_PASSES,
    Settings,
    settings_from_dict,
)
from uncertainty_seg.errors import ConfigError, some_of
from uncertainty_seg.storage.whole_files import json_text

_T = TypeVar('_T')
# As --passes: short for the pass policy of that name.
_INFINITE = 'inf'

def call_with(function: Callable[..., _T], args: argparse.Namespace, **more: Any) -> _T:
    """
    Call a function with the parsed arguments that have the names of its parameters.

    Parameters
    ----------
    function : callable
        The one that does the work of a verb.
    args : Namespace
        Parsed; what is no parameter of the function is left out.
    **more
        Further arguments; they replace parsed ones.

    Returns
    -------
    any
        What the function returns.

    """
    known = signature(function).parameters
    return function(**{name: value for name, value in vars(args).items() if name in known}
                    | more)


# Settings of the checks that a frame passes beside the gate; bags are judged by them too.
FRAME_CHECKS = ('stamps', 'max_age_s', 'max_skew_s', 'max_repeats', 'damage_scale',
                'max_image_px', 'oversized_images')


def add_settings(
    parser: argparse.ArgumentParser, names: Iterable[str], *, is_silent: bool = False,
    **defaults: Value,
) -> None:
    """
    Offer settings of `core.settings` as options: `mask_policy` becomes ``--mask-policy``.

    `defaults` are those of the verb, where the setting's own is not wanted. `is_silent` leaves
    out of the namespace what is not on the command line.
    """
    known = {p.name: p for p in iter_parameters(Settings)}
    group = parser.add_argument_group('settings, as the parameters of the node')
    for name in names:
        setting = replace(known[name], default=defaults.get(name, known[name].default))
        group.add_argument(
            option_of(name), dest=name, type=_kind_of(setting),
            default=argparse.SUPPRESS if is_silent else setting.default,
            metavar=name.rpartition('.')[2].upper(), help=_help_of(setting),
        )


def settings_from_args(args: argparse.Namespace, names: Iterable[str]) -> Settings:
    """
    Collect the settings given on the command line.

    Raises ConfigError if one of them is out of range or they contradict each other.
    """
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if given.get('passes') == _INFINITE:
        policy = given.get('pass_policy', ALL_PASSES)
        if policy not in (ALL_PASSES, INFINITE_PASSES):
            raise ConfigError(f'--passes {_INFINITE} with --pass-policy {policy}', 'one of both')
        given |= {'passes': BUNDLE_PASSES, 'pass_policy': INFINITE_PASSES}
    if of_node := getattr(args, 'node_parameters', None):
        given = {**_parameters_of_node(of_node, args.node), **given}
    return settings_from_dict(given)


# What a node knows of itself, which is no setting of ours.
_ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')


def add_node_parameters(parser: argparse.ArgumentParser, node: str) -> None:
    """
    Offer every parameter of the node as the node itself takes them: a file, or one by one.

    `node` is the full name to which the keys of a file are matched, unless another is given.
    """
    group = parser.add_argument_group('parameters, as the node takes them; a later one wins, and '
                                      'the settings above win over them')
    group.add_argument('--params-file', dest='node_parameters', action='append', metavar='FILE',
                       type=lambda text: ('file', text),
                       help='parameter file of the node, see config/uncertainty_seg.yaml')
    group.add_argument('-p', '--param', dest='node_parameters', action='append',
                       metavar='NAME:=VALUE', type=lambda text: ('value', text),
                       help='one parameter of the node, such as gate.alpha:=0.1')
    group.add_argument('--node', default=node, metavar='NAME',
                       help=f'full name of the node in the file [{node}]')


def _parameters_of_node(given: Iterable[tuple[str, str]], node: str) -> dict[str, object]:
    known = {p.name: p for p in iter_parameters(Settings)}
    found: dict[str, object] = {}
    for kind, text in given:
        values = _values_of_file(text, node) if kind == 'file' else _value_of(text)
        strange = [name for name in values if name not in known]
        if strange:
            near = get_close_matches(strange[0], known, 3) or ['those in docs/ros_interface.md']
            raise ConfigError(f'{text} sets {strange[0]!r}, which is no parameter of the node',
                              f'one of its own, like {some_of(near)}')
        found |= {name: from_ros(known[name], value) for name, value in values.items()}
    return found


def _values_of_file(path: str, node: str) -> dict[str, object]:
    # Not at the top: the help of a verb reads no file.
    from uncertainty_seg.storage.parameter_files import read_parameter_file

    file = read_parameter_file(path)
    file.require_match(node)
    return {name: value for name, value in file.values(node).items()
            if not name.startswith(_ROS_OWN)}


def _value_of(text: str) -> dict[str, object]:
    from uncertainty_seg.storage.parameter_files import read_value

    name, sign, value = text.partition(':=')
    try:
        if name and sign:
            return {name: read_value(value)}
        why = 'it has no name and :='
    except ValueError as err:
        why = str(err)
    raise ConfigError(f'--param {text!r} cannot be read ({why})',
                      'NAME:=VALUE, such as gate.alpha:=0.1')


def option_of(name: str) -> str:
    """Return the option of a setting."""
    return '--' + name.replace('_', '-').replace('.', '-')


def whole_number(lower: int, upper: int = 10**9) -> Callable[[str], int]:
    """Return an argparse type for a whole number within bounds."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r}, expected a whole number') from None
        if not lower <= value <= upper:
            raise argparse.ArgumentTypeError(f'{text}, expected {lower} to {upper}')
        return value

    return convert


def positive_number(upper: float = math.inf, *, or_zero: bool = False) -> Callable[[str], float]:
    """Return an argparse type for a finite number above 0."""
    above = '0 or above' if or_zero else 'above 0'

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r}, expected a number') from None
        if not (0 < value <= upper or value == 0 and or_zero) or value == math.inf:
            limit = f' and at most {upper:g}' if upper < math.inf else ''
            raise argparse.ArgumentTypeError(f'{text}, expected a number {above}{limit}')
        return value

    return convert


def rate(text: str) -> float:
    """Read a dropout rate between 0 and 1; an argparse type."""
    value = positive_number()(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f'{text}, expected a rate between 0 and 1')
    return value


def image_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT; an argparse type."""
    width, _, height = text.partition('x')
    if not (text.isascii() and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r}, expected WIDTHxHEIGHT such as 640x480')
    return int(width), int(height)


def print_json(values: Mapping[str, Any]) -> None:
    """Print the line for scripts; numbers that JSON does not know become null."""
    print(json_text(values), flush=True)


def _kind_of(setting: Parameter) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            kind = type(setting.default)
            if setting.name == 'passes' and text == _INFINITE:
                return text
            if kind is tuple:
                return setting.checked(tuple(text.split(',')))
            return setting.checked(kind(text) if kind in (int, float) else text)
        except (ConfigError, ValueError) as err:
            wanted = str(err) if isinstance(err, ConfigError) else setting.wanted()
            raise argparse.ArgumentTypeError(f'{text!r}: {wanted}') from None

    return convert


def _help_of(setting: Parameter) -> str:
    words = f' ({", ".join(setting.choices)})' if setting.choices else ''
    default = setting.default
    if isinstance(default, tuple):
        words, default = f'{words} Several with commas between them.', ','.join(map(str, default))
    return f'{setting.description}{words} [{default}]'.replace(' []', '').replace('%', '%%')
