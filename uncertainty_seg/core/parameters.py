# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How a setting is described once and checked everywhere.

A setting is a dataclass field made by `parameter`. ROS declarations, the YAML file and the
list in docs/ros_interface.md are all read from these fields; none of them is typed a second time.

"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints, TypeVar

from uncertainty_seg.errors import ConfigError

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
_T = TypeVar('_T')


@dataclass(frozen=True)
class Parameter:
    """
    One setting: what it means and what it may be.

    Attributes
    ----------
    name : str
        Dotted name, as in ROS.
    default : bool, int, float, str, tuple of str or tuple of float
        The default value; it decides the type. An empty tuple is a tuple of texts.
    description, unit : str
        For people.
    lower, upper : float or None
        Bounds, both allowed.
    choices : tuple of str
        The words allowed; empty for any.
    live : bool
        May change while the node runs.
    idle : bool
        May change while the node is not configured.

    """

    name: str
    default: Value
    description: str
    unit: str = ''
    lower: float | None = None
    upper: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    idle: bool = False

    @property
    def is_numbers(self) -> bool:
        """Whether it is a list of numbers."""
        return isinstance(self.default, tuple) and bool(self.default) and isinstance(
            self.default[0], float)

    def checked(self, value: object) -> Value:
        """Return `value` in the setting's type, or raise ConfigError with what is wrong."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)  # `rate: 7` in a YAML file is meant as 7.0
        if kind is tuple and isinstance(value, (list, tuple)):
            value = tuple(float(v) if self.is_numbers and type(v) is int else v for v in value)
        if type(value) is not kind or not self._accepts(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f'{self.name} is {shown!r}', self.wanted())
        return value

    def _accepts(self, value: object) -> bool:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._inside(value)
        words = value if isinstance(value, tuple) else (value,)
        if self.is_numbers:
            return bool(words) and all(type(v) is float and self._inside(v) for v in words)
        if isinstance(value, tuple) and not all(isinstance(word, str) for word in words):
            return False
        return not self.choices or all(word in self.choices for word in words)

    def _inside(self, value: float) -> bool:
        # Written so that NaN, for which every comparison is false, is refused.
        low = -float('inf') if self.lower is None else self.lower
        high = float('inf') if self.upper is None else self.upper
        return low <= value <= high and abs(value) != float('inf')

    def wanted(self) -> str:
        """Say in words what is accepted."""
        if self.choices:
            return ('any of ' if isinstance(self.default, tuple) else 'one of ') + ', '.join(
                self.choices
            )
        kind = {bool: 'true or false', int: 'a whole number', float: 'a finite number',
                str: 'a text', tuple: 'a list of texts'}[type(self.default)]
        kind = 'a list of finite numbers' if self.is_numbers else kind
        if self.lower is not None and self.upper is not None:
            return f'{kind} from {_plain(self.lower)} to {_plain(self.upper)}'
        if self.lower is not None:
            return f'{kind} of at least {_plain(self.lower)}'
        return kind


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f'{value:g}'


def parameter(
    default: _T,
    description: str,
    *,
    unit: str = '',
    lower: float | None = None,
    upper: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    idle: bool = False,
) -> _T:
    """Declare a dataclass field together with all that `Parameter` holds."""
    facts = {'description': description, 'unit': unit, 'lower': lower, 'upper': upper,
             'choices': choices, 'live': live, 'idle': idle}
    return dataclasses.field(default=default, metadata=facts)


def iter_parameters(cls: Any, prefix: str = '') -> Iterator[Parameter]:
    """
    Yield the settings of a dataclass and of the dataclasses inside it, in the order of fields.

    `prefix` is put before each name.
    """
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind: Any = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from iter_parameters(kind, f'{prefix}{field.name}.')
        else:
            default: Any = field.default
            yield Parameter(f'{prefix}{field.name}', default, **field.metadata)


def from_ros(setting: Parameter, value: object) -> object:
    """Return the value of a ROS parameter as the settings want it, unchecked."""
    if not isinstance(setting.default, tuple):
        return value
    # `scores: []` in a YAML file arrives as no value at all.
    if setting.is_numbers:
        return tuple(value) if isinstance(value, (list, tuple, array)) else value
    words = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return tuple(word for word in words if word != '')


def from_dict(cls: type[_T], values: Mapping[str, object]) -> _T:
    """
    Build settings from dotted names, checked as a whole; names left out keep their default.

    Raises ConfigError if a name is unknown, or a value is of another type, out of range or NaN.
    """
    known = {p.name: p for p in iter_parameters(cls)}
    strange = sorted(set(values) - set(known))
    if strange:
        raise ConfigError(f'unknown parameter {strange[0]!r}', f'one of {", ".join(known)}')
    checked = {name: known[name].checked(value) for name, value in values.items()}
    return _build(cls, checked, '')


def _build(cls: type[_T], values: Mapping[str, Value], prefix: str) -> _T:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    shape: Any = cls  # any dataclass; typing has no name for that before Python 3.11
    for field in dataclasses.fields(shape):
        name = f'{prefix}{field.name}'
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _build(hints[field.name], values, f'{name}.')
        elif name in values:
            arguments[field.name] = values[name]
    return cls(**arguments)


def to_dict(settings: Any, prefix: str = '') -> dict[str, Value]:
    """Return dotted name to value of every setting, in the order of the fields."""
    flat: dict[str, Value] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(to_dict(value, f'{prefix}{field.name}.'))
        else:
            flat[f'{prefix}{field.name}'] = value
    return flat
