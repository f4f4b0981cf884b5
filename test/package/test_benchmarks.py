# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the benchmarks take from the package is there, late imports too; none of them is run."""

import ast
import importlib
from pathlib import Path

import pytest

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


CASES = [(file.name, *pair) for file in sorted(FOLDER.glob('*.py')) for pair in imported(file)]


def test_there_are_benchmarks_that_use_the_package() -> None:
    assert 'bench_node_latency.py' in {name for name, _, _ in CASES}


@pytest.mark.parametrize(('benchmark', 'module', 'name'), CASES)
def test_what_a_benchmark_imports_is_there(benchmark: str, module: str, name: str) -> None:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as err:
        if _is_ours(err.name or ''):
            raise
        pytest.skip(f'{module} needs {err.name}')
    if name and not hasattr(found, name):
        importlib.import_module(f'{module}.{name}')
