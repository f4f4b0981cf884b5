# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How the package is laid out, read off its syntax trees: imports, circles, class names, sizes.

Run as a program it prints the figures of docs/decisions.md. Import lines are all lines of import
statements, wherever they stand. Code lines are neither blank nor a comment, and belong to no
docstring and no import.

"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
import re
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'uncertainty_seg'
SOURCE = ROOT / PACKAGE
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


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
    """Return the folders below that hold more Python files than allowed, and how many."""
    counts = Counter(str(path.parent.relative_to(root)) for path in root.rglob('*.py'))
    return {folder: count for folder, count in sorted(counts.items()) if count > most}


def line_counts(source: str) -> Counter[str]:
    """Count the lines of a source by what they are: code, import, docstring, other."""
    kind = {number: 'code' for number, line in enumerate(source.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith('#')}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            what, lines = 'import', node
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            what, lines = 'docstring', node.body[0]
        else:
            continue
        kind.update(dict.fromkeys(range(lines.lineno, (lines.end_lineno or 0) + 1), what))
    counts = Counter(kind.values())
    counts['other'] = len(source.splitlines()) - sum(counts.values())
    return counts


def test_functions() -> int:
    """Count the test functions of the tree, methods too."""
    return sum(
        isinstance(node, ast.FunctionDef) and node.name.startswith('test_')
        for path in (ROOT / 'test').rglob('test_*.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))))


def test_cases() -> str:
    """Ask pytest how many cases there are; those of modules that skip themselves are missing."""
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '--collect-only', '-q', '-p', 'no:cacheprovider'],
        cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r'^(\d+) tests? collected', done.stdout, re.MULTILINE)
    return found[1] if found else 'pytest failed'


def figures() -> dict[str, object]:
    """Return what docs/decisions.md tells of the layout, by its words."""
    known = modules()
    counts: Counter[str] = Counter()
    for path in known.values():
        counts.update(line_counts(path.read_text(encoding='utf-8')))
    return {
        'files': len(known),
        'lines': sum(counts.values()),
        'code lines a file': round(counts['code'] / len(known), 1),
        'import lines / code lines': round(counts['import'] / counts['code'], 3),
        'docstring lines / code lines': round(counts['docstring'] / counts['code'], 3),
        'most files in a folder': max(crowded(SOURCE, 0).values()),
        'import circles': len(circles(import_graph())),
        'class names used twice': len(classes_twice()),
        'test functions': test_functions(),
        'test cases': test_cases(),
    }


if __name__ == '__main__':
    for words, figure in figures().items():
        print(f'| {words} | {figure} |')
