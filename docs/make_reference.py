# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Generate the lists of the reference pages from the code.

``python docs/make_reference.py`` rewrites the lists between the markers in the pages, and
config/uncertainty_seg.yaml; test/package/test_docs.py checks that they are current.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
import inspect
import json
from pathlib import Path
import re
import sys
import textwrap

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from uncertainty_seg.cli.main import build_parser, VERBS  # noqa: E402
from uncertainty_seg.core import model_card  # noqa: E402
from uncertainty_seg.core.scores.vector import SCORES  # noqa: E402
from uncertainty_seg.core.settings import (  # noqa: E402
    iter_parameters,
    Parameter,
    Settings,
    Value,
)
from uncertainty_seg.ros.governor.policy import SpeedSettings  # noqa: E402
from uncertainty_seg.training.recipes import ActiveRecipe, TrainRecipe  # noqa: E402

COLUMNS = 118
YAML_PATH = Path('config') / 'uncertainty_seg.yaml'
_YAML_HEAD = """\
# Every parameter of the node with its default. Copy the lines that you change into a file of your
# own, and give it to: ros2 launch uncertainty_seg uncertainty_seg.launch.py params_file:=...
# Written by python docs/make_reference.py
/**:
  ros__parameters:
"""
_BLOCK = re.compile(r'(<!-- made by docs/make_reference.py: (\w+) -->\n).*?(<!-- end -->)',
                    re.DOTALL)


def item(text: str) -> str:
    """Return an item of a Markdown list."""
    return textwrap.fill(f'- {text}', COLUMNS, subsequent_indent='  ', break_long_words=False,
                         break_on_hyphens=False)


# -------------------------------------------------------------------------------------------------
# Parameters.


def parameters_yaml() -> str:
    """Return a parameter file with every default."""
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


def parameters(settings: type) -> Iterator[str]:
    """Yield the parameters: name, default, when it may change, meaning, accepted values."""
    for setting in iter_parameters(settings):
        # Choices in code spans, since Markdown would interpret underscores.
        words = [f'`{word}`' for word in setting.choices]
        when = ', live' if setting.live else ', idle' if setting.idle else ''
        accepted = f'one of {", ".join(words)}' if words else _accepted(setting)
        yield item(f'**`{setting.name}`** = `{_yaml_value(setting.default)}`{when}. '
                   f'{setting.description} Accepts {accepted}.')


def _accepted(setting: Parameter) -> str:
    return setting.wanted() + (f', in {setting.unit}' if setting.unit else '')


def _yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # In a parameter file an empty list has no type, so that ROS passes no value.
        return '[' + ', '.join(_yaml_value(part) for part in value or ('',)) + ']'
    return f"'{value}'" if isinstance(value, str) else str(value)


# -------------------------------------------------------------------------------------------------
# Scores, verbs, recipes, cards.


def scores() -> Iterator[str]:
    """Yield the scores: maps, meaning, what each detects and misses, and why it is kept."""
    for kind in SCORES:
        of_maps = f' ({", ".join(kind.maps)})' * bool(kind.maps)
        yield item(f'**`{kind.name}`**{of_maps}: {kind.meaning}. *Detects*: {kind.sees}. '
                   f'*Misses*: {kind.misses}. *Kept*: {kind.reason}.')


def verbs() -> Iterator[str]:
    """Yield the verbs: description, arguments and options."""
    for verb, (_, text) in VERBS.items():
        root = _subparsers(build_parser(verb))[verb]
        actions = {f' {name}': child for name, child in _subparsers(root).items()}
        forms = [f'`{verb}{name} {" ".join(_words(parser))}`'
                 for name, parser in (actions or {'': root}).items()]
        yield item(f'**`{verb}`**: {text}. {" ".join(forms)}')


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((dict(action.choices) for action in parser._actions
                 if isinstance(action, argparse._SubParsersAction)), {})


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.metavar == 'NAME=VALUE':
            yield '[SETTINGS]'
        elif action.dest not in ('help', 'model', 'params_file'):
            value = action.metavar or action.dest.upper()
            more = ' ...' if action.nargs == '+' else ''
            name = action.option_strings[-1] if action.option_strings else ''
            words = ' '.join(word for word in (name, '' if action.nargs == 0 else value) if word)
            yield f'{words}{more}' if action.required else f'[{words}{more}]'


def recipe(kind: type) -> Iterator[str]:
    """Yield the keys of a recipe: name, default, meaning."""
    for entry in fields(kind):
        default = '' if is_dataclass(entry.default) else f' = `{json.dumps(entry.default)}`'
        yield item(f'**`{entry.name}`**{default}: {entry.metadata["text"]}')


def card() -> Iterator[str]:
    """Yield the fields of a bundle's card: name, and the comment above it in the code."""
    source = inspect.getsource(model_card).splitlines()
    tree = ast.parse('\n'.join(source))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef)
                and node.name == 'ModelCard')
    for node in body:
        if isinstance(node, ast.AnnAssign):
            first = last = node.lineno - 1
            while source[first - 1].lstrip().startswith('#'):
                first -= 1
            words = ' '.join(line.strip(' #') for line in source[first:last])
            yield item(f'**`{ast.unparse(node.target)}`**' + f': {words}' * bool(words))


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    'node_parameters': lambda: parameters(Settings),
    'governor_parameters': lambda: parameters(SpeedSettings),
    'scores': scores,
    'verbs': verbs,
    'train_recipe': lambda: recipe(TrainRecipe),
    'active_recipe': lambda: recipe(ActiveRecipe),
    'card': card,
}


def made() -> dict[Path, str]:
    """Return the generated content of each file with a list, by its path from the root."""
    found = {YAML_PATH: parameters_yaml()}
    for path in sorted((ROOT / 'docs').rglob('*.md')):
        text = path.read_text(encoding='utf-8')
        if _BLOCK.search(text):
            found[path.relative_to(ROOT)] = _BLOCK.sub(
                lambda match: match[1] + '\n' + '\n'.join(BLOCKS[match[2]]()) + '\n\n' + match[3],
                text)
    return found


if __name__ == '__main__':
    for changed, content in made().items():
        (ROOT / changed).write_text(content, encoding='utf-8')
