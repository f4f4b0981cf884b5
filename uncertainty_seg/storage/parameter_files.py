# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Match parameter files to nodes as ROS does, to refuse a file that has no effect.

ROS silently ignores a file if none of its keys matches the node: with a forgotten namespace or a
misspelt name all values would be the defaults. The launch files check this before a process
starts, and each node checks its own files. Neither rclpy nor numpy is imported, since the Python
of `ros2 launch` may be another one than the node's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import difflib
from os.path import expanduser, isdir, isfile
from pathlib import Path
import re
from typing import Any

from uncertainty_seg.errors import ConfigError, some_of

PARAMETERS_KEY = 'ros__parameters'
MAX_YAML_DEPTH = 20
# Similarity at which a name counts as a misspelt one of ours; others may be for another node.
ALIKE = 0.8
# Parameters that rclpy declares for every node.
_OF_ROS = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')
_EXPONENT = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+')
_HOW = (f'write the key /** or the full name of the node, below it {PARAMETERS_KEY}, and below '
        'that the parameters; see config/uncertainty_seg.yaml')


def full_name(namespace: str, node: str) -> str:
    """Return a node's fully qualified name."""
    return '/' + '/'.join(part for part in (*namespace.split('/'), node) if part)


def key_matches(key: str, full: str) -> bool:
    """
    Return whether ROS gives a node, by its full name, the parameters below a key of a file.

    The key is the nested names in the file, joined by '/', such as '/auv/node', '/**', '/*/node'.
    As in rcl, ** stands for any number of names and * for one.
    """
    parts = ['(/[A-Za-z0-9_]+)*' if name == '**' else '/[A-Za-z0-9_]+' if name == '*'
             else re.escape('/' + name) for name in key.split('/') if name]
    return re.fullmatch(''.join(parts), full) is not None


@dataclass(frozen=True)
class ParameterFile:
    """The parameters in a file by key, see `key_matches`, nested as written."""

    path: str
    entries: Mapping[str, Mapping[str, Any]]

    def value(self, full: str, name: str) -> Any:
        """Return a parameter of a node, or None if the file does not set it."""
        return self.values(full).get(name)

    def values(self, full: str) -> dict[str, Any]:
        """Return every parameter that the file gives a node, by its dotted name."""
        found: dict[str, Any] = {}
        for key, values in self.entries.items():
            if key_matches(key, full):
                found.update(_flat(values, ''))
        return found

    def require_match(self, full: str) -> None:
        """Raise ConfigError if nothing in the file is for a node."""
        if not any(key_matches(key, full) for key in self.entries):
            keys = some_of(repr(key) for key in self.entries)
            raise ConfigError(f'{self.path} holds parameters for {keys}',
                              f'some for the node {full}', f'{_HOW}, or set the namespace')


def read_parameter_file(path: str) -> ParameterFile:
    """
    Read a file of parameters.

    Raises ConfigError if it is missing, not YAML, has no parameters of any node, or one of them
    twice, even once flat (`gate.alpha`) and once nested.
    """
    import yaml

    place = Path(expanduser(path))
    if not isfile(place):  # False also where this user may not look
        is_what = 'a folder' if isdir(place) else 'not there'
        raise ConfigError(f'parameter file {path} is {is_what}', 'a file',
                          'params_file and --params-file take its path')
    try:
        text = place.read_text(encoding='utf-8')
        require_plain_yaml(text)
        content = _plain(yaml.compose(text, yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, OSError) as err:
        mark = getattr(err, 'problem_mark', None)
        where = f' in line {mark.line + 1}' if mark is not None else ''
        is_bytes = isinstance(err, UnicodeDecodeError)
        what = getattr(err, 'problem', None) or getattr(err, 'strerror', None) or (
            'no text' if is_bytes else err)
        raise ConfigError(f'parameter file {path} cannot be read{where} ({what})', 'YAML in UTF-8'
                          ) from err
    pairs = list(_entries(content, ''))
    entries = dict(pairs)
    names = Counter(f'{key}: {name}' for key, values in pairs for name, _ in _flat(values, ''))
    if twice := [name for name, num in names.items() if num > 1]:
        raise ConfigError(f'parameter file {path} holds {some_of(twice)} twice', 'each once',
                          'gate.alpha and alpha below gate are the same parameter')
    if not entries:
        raise ConfigError(f'parameter file {path} holds no parameters of any node',
                          f'{PARAMETERS_KEY} below the name of a node', _HOW)
    return ParameterFile(path, entries)


def read_value(text: str) -> Any:
    """Read the value of a parameter on a command line; ValueError if it is not YAML."""
    import yaml

    try:
        require_plain_yaml(text)
        return _plain(yaml.compose(text, yaml.SafeLoader))
    except yaml.YAMLError as err:
        raise ValueError(getattr(err, 'problem', None) or 'it cannot be read') from err


def require_plain_yaml(text: str) -> None:
    """
    Refuse YAML that may take unbounded time or memory, before it is constructed.

    Raises ValueError if it is nested too deeply, has aliases, which may expand without bound, or
    has a key twice in a mapping; yaml.YAMLError if it is not YAML.
    """
    import yaml

    depth = 0
    # PyYAML's time grows with the square of the depth: 10 000 brackets take ten minutes.
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError('it is nested too deeply')
        if isinstance(event, yaml.AliasEvent):
            raise ValueError('it has aliases')
    _require_single_keys(yaml.compose(text, yaml.SafeLoader))


def _require_single_keys(node: Any) -> None:
    """Raise ValueError for a mapping with a key twice, of which PyYAML silently takes the last."""
    pairs = node.value if getattr(node, 'id', '') == 'mapping' else [
        (None, item) for item in node.value] if getattr(node, 'id', '') == 'sequence' else []
    seen = set[str]()
    for key, value in pairs:
        if key is not None and str(key.value) in seen:
            raise ValueError(f'{key.value!s:.40} occurs again in line {key.start_mark.line + 1}')
        seen.add('' if key is None else str(key.value))
        _require_single_keys(value)


def _plain(node: Any) -> Any:
    """Return the content of a YAML tree, whatever its tags, as rcl does: launch tags lists."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return {_plain(key): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return tuple(_plain(item) for item in node.value)
    if node is None or not node.tag.startswith('tag:yaml.org,2002:') or '/' in node.tag:
        return None if node is None else node.value
    if node.style is None and _EXPONENT.fullmatch(node.value):
        return float(node.value)  # a number for rcl, but a string in YAML 1.1
    if node.tag.endswith(':timestamp') or ':' in node.value:
        return node.value  # a date or a time: a string for rcl
    loader = yaml.SafeLoader('')
    return loader.construct_object(node)


def _entries(content: object, above: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == PARAMETERS_KEY:
            yield above or '/', value if isinstance(value, Mapping) else {}
        else:
            yield from _entries(value, f'{above}/{str(key).strip("/")}')


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


# -------------------------------------------------------------------------------------------------
# The files and values on the command line of a process.


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program's own words of a command line, and those between --ros-args and --."""
    own: list[str] = []
    of_ros: list[str] = []
    found = own
    for word in words:
        if word == '--ros-args':
            found = of_ros
        elif word == '--' and found is of_ros:
            found = own
        else:
            found.append(word)
    return own, of_ros


def given_files(words: Sequence[str]) -> list[str]:
    """Return the parameter files of a command line, in their order."""
    _, ours = split_words(words)
    return [after for word, after in zip(ours, ours[1:], strict=False) if word == '--params-file']


def require_files_for(words: Sequence[str], full: str) -> None:
    """Raise ConfigError if a command line names a file with nothing for this node."""
    for path in given_files(words):
        read_parameter_file(path).require_match(full)


def require_spelt(names: Iterable[str], known: Collection[str]) -> list[str]:
    """
    Raise ConfigError for names that seem to be misspelt known parameters.

    Returns the other unknown names, which may be parameters of another node.
    """
    strange = [name for name in names if name not in known and not name.startswith(_OF_ROS)]
    for name in strange:
        group = name.partition('.')[0] + '.'
        near = difflib.get_close_matches(name, known, 1, ALIKE) or [
            one for one in known if one.startswith(group)]
        if near:
            raise ConfigError(f'there is no parameter {name}', f'{" or ".join(near)}',
                              'put parameters of another node below its own name')
    return strange
