# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Writes what people read about the parameters: the YAML file and the table, from the settings.

``python -m uncertainty_seg.ros.parameter_docs`` rewrites both in a source tree; a test compares.
Imports no ROS.

"""

from __future__ import annotations

from pathlib import Path
import sys
import textwrap

from uncertainty_seg.core.parameters import iter_parameters, Parameter, Value
from uncertainty_seg.core.settings import Settings

YAML_PATH = Path('config') / 'uncertainty_seg.yaml'
TABLE_PATH = Path('docs') / 'ros_interface.md'
TABLE_BEGIN = '<!-- parameters: made by python -m uncertainty_seg.ros.parameter_docs -->'
TABLE_END = '<!-- end of parameters -->'
_YAML_HEAD = """\
# Every parameter of the node with its default. Copy what you change, and give the file to
# ros2 launch uncertainty_seg uncertainty_seg.launch.py params_file:=...
# Made by python -m uncertainty_seg.ros.parameter_docs
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


def parameters_table() -> str:
    """Return the parameters as a Markdown table."""
    lines = ['| parameter | default | accepts | live | meaning |', '|---|---|---|---|---|']
    for setting in iter_parameters(Settings):
        live = 'yes' if setting.live else 'no'
        lines.append(
            f'| `{setting.name}` | `{_yaml_value(setting.default)}` | {_accepted(setting)} '
            f'| {live} | {setting.description} |'
        )
    return '\n'.join(lines) + '\n'


def with_table(page: str) -> str:
    """Return a page with the table between its markers renewed."""
    head, _, rest = page.partition(TABLE_BEGIN)
    _, _, tail = rest.partition(TABLE_END)
    return f'{head}{TABLE_BEGIN}\n{parameters_table()}{TABLE_END}{tail}'


def main() -> int:
    """Rewrite both files in the source tree this module lies in."""
    root = Path(__file__).resolve().parents[2]
    (root / YAML_PATH).write_text(parameters_yaml(), encoding='utf-8')
    page = root / TABLE_PATH
    page.write_text(with_table(page.read_text(encoding='utf-8')), encoding='utf-8')
    return 0


def _accepted(setting: Parameter) -> str:
    return setting.wanted() + (f', in {setting.unit}' if setting.unit else '')


def _yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # An empty list would reach the node as no value.
        return '[' + ', '.join(_yaml_value(item) for item in value or ('',)) + ']'
    return f"'{value}'" if isinstance(value, str) else str(value)


if __name__ == '__main__':
    sys.exit(main())
