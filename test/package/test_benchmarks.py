# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the benchmarks take from the package is there, late imports too; none of them is run."""

import ast
import importlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


def imported(file: Path) -> list[tuple[str, str]]:
    """Return module and name of every import from the package, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module or ''):
            found += [(node.module or '', alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, '') for alias in node.names if _is_ours(alias.name)]
    return found


def _is_ours(module: str) -> bool:
    return module.split('.')[0] == 'uncertainty_seg'


def missing(module: str, name: str) -> str:
    """Say what of an import of ours is not there; empty if all is, or another library is not."""
    try:
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f'{module}.{name}')
    except ModuleNotFoundError as err:
        return str(err) if _is_ours(err.name or '') else ''
    return ''


def test_what_the_benchmarks_import_is_there() -> None:
    pairs = {(file.name, *pair) for file in FOLDER.glob('*.py') for pair in imported(file)}
    assert 'bench_node_latency.py' in {name for name, _, _ in pairs}
    assert {(file, what) for file, *pair in pairs if (what := missing(*pair))} == set()


def test_a_name_that_is_gone_is_noticed() -> None:
    assert 'seabass' in missing('uncertainty_seg.core.gate', 'seabass')
    assert 'seabass' in missing('uncertainty_seg.seabass', '')
    assert missing('uncertainty_seg.core', 'gate') == missing('no_such_library', 'x') == ''
