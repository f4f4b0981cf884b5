# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How the package is laid out, read off its syntax trees: imports, circles, class names, sizes.

Run as a program it prints the figures of docs/explanation/decisions.md, of any checkout:
``python test/helpers/house.py [FOLDER]``.

"""

from __future__ import annotations

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
    """One import: the absolute dotted name, its line, and whether it is late."""

    name: str
    line: int
    is_late: bool


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Yield the imports of a module's source; relative ones made absolute."""
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
    """Return every module of a package's folder by its dotted name below it; '' is the root."""
    found = {}
    for path in sorted(root.rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        found['.'.join(part for part in parts if part != '__init__')] = path
    return found


def import_graph(root: Path = SOURCE) -> dict[str, set[str]]:
    """Return which modules of the package each module imports, at once or late."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        # A relative import of a package's own file counts from the package.
        place = f'{module}.__init__'.lstrip('.') if path.name == '__init__.py' else module
        graph[module] = set()
        for one in imports_of(path.read_text(encoding='utf-8'), place):
            package, _, name = one.name.partition('.')
            if package == PACKAGE:
                # What is imported is a module, or a name in the module before the last dot.
                graph[module].add(name if name in known else name.rpartition('.')[0])
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules each of which imports itself by way of the others."""
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
    """Return the class names that stand in more than one place, and the modules."""
    places: dict[str, list[str]] = {}
    for module, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def crowded(root: Path, most: int) -> dict[str, int]:
    """Return the folders that hold more modules than allowed, `__init__` aside, and how many."""
    counts = Counter(str(path.parent.relative_to(root)) for path in root.rglob('*.py')
                     if path.name != '__init__.py')
    return {folder: count for folder, count in sorted(counts.items()) if count > most}


# Figure -> the largest that is allowed. What comes in makes room: no limit here is ever raised.
BUDGET = {
    'lines of the package': 48_000, 'modules': 200, 'lines of tests': 45_000,
    'lines of pages': 4_500, 'lines of benchmarks': 2_500, 'verbs': 15, 'options': 200,
    'parameters of the node': 48, 'most files in a folder': 20,
}
# Runs in a process of its own, since another checkout may be asked. Options of sub-actions count.
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
    """Count the lines of all files of a folder and those below that match a pattern."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.rglob(pattern))


def figures(root: Path = ROOT) -> dict[str, int]:
    """Return the size of a checkout, by the words of `BUDGET`."""
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
