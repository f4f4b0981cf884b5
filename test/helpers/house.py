# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The layout of the package, from its syntax trees: imports, import cycles, class names, sizes.

Run as a program, it prints the figures of docs/explanation/decisions.md for any checkout:
``python test/helpers/house.py [FOLDER]``.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
import json
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'uncertainty_seg'
SOURCE = ROOT / PACKAGE


@dataclass(frozen=True)
class Import:
    """One import: absolute dotted name, line, and whether it is in a function or for types."""

    name: str
    line: int
    is_late: bool


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Yield the imports of a module's source, relative ones as absolute names."""
    def visit(node: ast.AST, is_late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, is_late)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = f'{PACKAGE}.{module}'.split('.')[:-node.level]
                base = '.'.join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield Import(f'{base}.{alias.name}', node.lineno, is_late)
        inside = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, inside)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)
    yield from visit(ast.parse(source), False)


def modules(root: Path = SOURCE) -> dict[str, Path]:
    """Return the path of every module of a package by its dotted name; '' is the package."""
    found = {}
    for path in sorted(root.rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        found['.'.join(part for part in parts if part != '__init__')] = path
    return found


def import_graph(root: Path = SOURCE) -> dict[str, set[str]]:
    """Return which modules of the package each module imports, late imports included."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        # In an `__init__`, a relative import is relative to the package itself.
        place = f'{module}.__init__'.lstrip('.') if path.name == '__init__.py' else module
        graph[module] = set()
        for one in imports_of(path.read_text(encoding='utf-8'), place):
            package, _, name = one.name.partition('.')
            if package == PACKAGE:
                # The name is a module, or an attribute of the module before the last dot.
                graph[module].add(name if name in known else name.rpartition('.')[0])
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the import cycles: groups of modules that import each other, also indirectly."""
    def reached_from(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reached = {module: reached_from(module) for module in graph}
    groups = {frozenset(other for other in reached[module] if module in reached.get(other, ()))
              for module in graph if module in reached[module]}
    return sorted(sorted(group) for group in groups)


def classes_twice(root: Path = SOURCE) -> dict[str, list[str]]:
    """Return the class names that are defined more than once, and their modules."""
    places: dict[str, list[str]] = {}
    for module, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def crowded(root: Path, most: int) -> dict[str, int]:
    """Return the folders with more than `most` modules and their counts, without `__init__`."""
    counts = Counter(str(path.parent.relative_to(root)) for path in root.rglob('*.py')
                     if path.name != '__init__.py')
    return {folder: count for folder, count in sorted(counts.items()) if count > most}


# Figure -> maximum. Additions have to make room for themselves; no maximum is ever raised.
BUDGET = {
    'lines of the package': 48_000, 'modules': 200, 'lines of tests': 45_000,
    'lines of pages': 4_500, 'lines of benchmarks': 2_600, 'verbs': 15, 'options': 200,
    'parameters of the node': 50, 'most files in a folder': 20,
}
# Runs in a separate process, since the checkout may be another. Options of sub-actions count.
_COMMAND_LINE = """
import argparse, importlib, json
from uncertainty_seg.core.settings import iter_parameters
from uncertainty_seg.core.settings import Settings

try:
    main = importlib.import_module('uncertainty_seg.cli.main')
except ModuleNotFoundError:
    main = importlib.import_module('uncertainty_seg.tools.main')

def options(parser):
    children = [action for action in parser._actions
                if isinstance(action, argparse._SubParsersAction)]
    own = sum(bool(action.option_strings) for action in parser._actions) - 1
    return own + sum(options(one) for child in children for one in child.choices.values())

verbs = {}
for verb in main.VERBS:
    root = main.build_parser(verb)
    verbs[verb] = options(next(a for a in root._actions if a.choices).choices[verb])
print(json.dumps({'verbs': len(verbs), 'options': sum(verbs.values()),
                  'parameters of the node': len(list(iter_parameters(Settings)))}))
"""


def lines_below(folder: Path, pattern: str) -> int:
    """Count the lines of all files in a folder, recursively, whose names match a pattern."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.rglob(pattern))


def figures(root: Path = ROOT) -> dict[str, int]:
    """Return the figures of a checkout, under the keys of `BUDGET`."""
    source = root / PACKAGE
    done = subprocess.run([sys.executable, '-c', _COMMAND_LINE], capture_output=True, text=True,
                          check=True, cwd=root, env={**os.environ, 'PYTHONPATH': str(root)})
    known = modules(source)
    return {
        'lines of the package': lines_below(source, '*.py'),
        'modules': len(known),
        'lines of tests': lines_below(root / 'test', '*.py'),
        'lines of pages': lines_below(root / 'docs', '*.md'),
        'lines of benchmarks': lines_below(root / 'benchmarks', '*.py'),
        **json.loads(done.stdout),
        'most files in a folder': max(crowded(source, 0).values()),
    }


if __name__ == '__main__':
    for words, figure in figures(Path(*sys.argv[1:2]).resolve() if sys.argv[1:] else ROOT).items():
        print(f'| {words} | {figure} |')
