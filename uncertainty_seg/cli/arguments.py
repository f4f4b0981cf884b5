# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What several verbs share: the settings of a pipeline, kinds of options, the JSON line at the end.

Every verb takes the parameters of the node under their own names, so that the command line and the
node are always the same.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeVar

from uncertainty_seg.core.settings import (
    from_ros,
    iter_parameters,
    Settings,
    settings_from_dict,
    Value,
)
from uncertainty_seg.errors import ConfigError, some_of
from uncertainty_seg.storage.whole_files import json_text

_T = TypeVar('_T')


def call_with(function: Callable[..., _T], args: argparse.Namespace, **more: Any) -> _T:
    """
    Call the function of a verb with those parsed arguments for which it has parameters.

    Further arguments replace parsed ones.
    """
    known = signature(function).parameters
    return function(**{name: value for name, value in vars(args).items() if name in known}
                    | more)


def add_settings(parser: argparse.ArgumentParser, *, names_model: bool = False) -> None:
    """
    Add options for every parameter of the node, by file or one by one; the same in every verb.

    `names_model` adds an option for the model, if no argument of the verb names it.
    """
    group = parser.add_argument_group(
        'settings of the pipeline: the parameters of the node, docs/reference/parameters.md')
    if names_model:
        group.add_argument('--model', metavar='BUNDLE',
                           help='name of an included model, or folder of a bundle')
    group.add_argument('--params-file', metavar='FILE',
                       help='parameter file of the node, such as config/uncertainty_seg.yaml')
    group.add_argument('--set', dest='assignments', action='append', default=[],
                       metavar='NAME=VALUE',
                       help='one parameter, such as gate.alpha=0.1 or backend=onnxruntime; '
                       'repeatable, overrides the file')


def settings_from_args(args: argparse.Namespace, **defaults: Value) -> Settings:
    """
    Collect the settings given on the command line, by a parser with `add_settings`.

    Later sources replace earlier ones: the defaults, with those of the verb (a name with a dot as
    ``**{'gate.alpha': 0.1}``), the file, the model, and settings given one by one. Raises
    ConfigError if a setting is unknown or out of range, or settings contradict each other.
    """
    of_file = _values_of_file(args.params_file) if args.params_file else {}
    given = read_assignments(args.assignments)
    if getattr(args, 'model', None):
        given = {'model': args.model} | given
    return settings_from_dict(defaults | _as_parameters(of_file, args.params_file)
                              | _as_parameters(given, '--set'))


# The name of the node to which the sections of a parameter file are matched.
_NODE = '/uncertainty_seg'
# Parameters that every ROS node has, which are not settings of this package.
_ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')


def _as_parameters(values: Mapping[str, object], source: str) -> dict[str, object]:
    known = {p.name: p for p in iter_parameters(Settings)}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, 3) or ['those in docs/reference/parameters.md']
            raise ConfigError(f'{source} sets {name!r}, which is not a parameter of the node',
                              f'a parameter such as {some_of(near)}')
    return {name: from_ros(known[name], value) for name, value in values.items()}


def _values_of_file(path: str) -> dict[str, object]:
    # Imported here because the help of a verb reads no file.
    from uncertainty_seg.storage.parameter_files import read_parameter_file

    file = read_parameter_file(path)
    file.require_match(_NODE)
    return {name: value for name, value in file.values(_NODE).items()
            if not name.startswith(_ROS_OWN)}


def read_assignments(texts: Iterable[str]) -> dict[str, object]:
    """
    Read words of the form ``name=value``; the value is YAML, as in a parameter file.

    Raises ConfigError if a word has no name, no ``=`` or a value that cannot be read.
    """
    from uncertainty_seg.storage.parameter_files import read_value

    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition('=')
        if not name or not sign:
            raise ConfigError(f'{text!r} is not an assignment', 'NAME=VALUE, such as passes=20')
        try:
            found[name] = read_value(value)
        except ValueError as err:
            raise ConfigError(f'{text!r} cannot be read ({err})',
                              'NAME=VALUE, such as passes=20') from None
    return found


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


def rate(text: str) -> float:
    """Read a share between 0 and 1, such as a dropout rate; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}, expected a number') from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'{text}, expected a rate between 0 and 1')
    return value


def image_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT; an argparse type."""
    width, _, height = text.partition('x')
    if not (text.isascii() and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r}, expected WIDTHxHEIGHT such as 640x480')
    return int(width), int(height)


def print_json(values: Mapping[str, Any]) -> None:
    """Print the line for scripts; NaN and infinity, which JSON lacks, become null."""
    print(json_text(values), flush=True)
