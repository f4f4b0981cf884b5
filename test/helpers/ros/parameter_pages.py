# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What people read about the parameters, written from the settings: the YAML file and two lists.

``python test/helpers/ros/parameter_pages.py`` rewrites config/uncertainty_seg.yaml and the lists
in the documentation; test_parameter_docs compares.

"""

from __future__ import annotations

from pathlib import Path
import sys
import textwrap

from uncertainty_seg.core.settings import iter_parameters, Parameter, Settings, Value
from uncertainty_seg.ros.governor.policy import SpeedSettings

YAML_PATH = Path('config') / 'uncertainty_seg.yaml'
# Page -> the settings that it lists.
PAGES: dict[Path, type] = {
    Path('docs') / 'reference' / 'ros.md': Settings,
    Path('docs') / 'guides' / 'mission.md': SpeedSettings,
}
LIST_BEGIN = '<!-- parameters: made by python test/helpers/ros/parameter_pages.py -->'
LIST_END = '<!-- end of parameters -->'
PAGE_COLUMNS = 110
_YAML_HEAD = """\
# Every parameter of the node with its default. Copy the lines that you change into a file of your
# own, and give it to: ros2 launch uncertainty_seg uncertainty_seg.launch.py params_file:=...
# Written by python test/helpers/ros/parameter_pages.py
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


def main() -> int:
    """Rewrite the file and the pages in the source tree this module lies in."""
    root = Path(__file__).resolve().parents[3]
    (root / YAML_PATH).write_text(parameters_yaml(), encoding='utf-8')
    for path, settings in PAGES.items():
        page = root / path
        page.write_text(with_list(page.read_text(encoding='utf-8'), settings), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
