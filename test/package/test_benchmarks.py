# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and the tables of results agree with the result files."""

import ast
import importlib
from pathlib import Path
import re
import subprocess
import sys

import pytest

from uncertainty_seg.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'benchmarks'
sys.path.insert(0, str(FOLDER))
table = importlib.import_module('table')


def imported(file: Path) -> set[tuple[str, str]]:
    """Return module and name of every import from the package, nested ones included."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding='utf-8'))))
    found = {(node.module or '', alias.name) for node in nodes
             if isinstance(node, ast.ImportFrom) for alias in node.names}
    found |= {(alias.name, '') for node in nodes if isinstance(node, ast.Import)
              for alias in node.names}
    return {pair for pair in found if pair[0].split('.')[0] == 'uncertainty_seg'}


def missing(module: str, name: str) -> str:
    """Return what is missing of an import; '' if nothing is, or if only another library is."""
    try:
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f'{module}.{name}')
    except ModuleNotFoundError as err:
        return str(err) if (err.name or '').startswith('uncertainty_seg') else ''
    return ''


@pytest.mark.parametrize('file', sorted(FOLDER.glob('*.py')), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    assert {what for pair in imported(file) if (what := missing(*pair))} == set()


@pytest.mark.parametrize('words', [
    ('bench_peers.py', '--passes', '2', '--rounds', '1', '--only', 'onnxruntime: sums',
     'onnxruntime: frame'),
    ('frame_log_latency.py', '--seconds', '0.1', '--blocks', '1', '--busy-ms', '1'),
    pytest.param(('frame_steps.py', '--models', 'pipeline', '--frames', '1'),
                 marks=pytest.mark.release),
], ids=['peers', 'log', 'steps'])
def test_a_benchmark_runs_on_little(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, str(FOLDER / words[0]), *words[1:]], cwd=ROOT,
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    assert '"why_not": {"' not in done.stdout  # printed for a way that failed


def test_the_table_of_the_page_is_what_the_results_say() -> None:
    text = table.PAGE.read_text(encoding='utf-8')
    assert table.written(text, table.table()) == text


def exists(command: str) -> bool:
    program = table.program(command)
    first, _, verb = program.partition(' ')
    return verb in VERBS if first == 'uncertainty_seg' else (ROOT / program).is_file()


FIGURES = [one for topic in table.topics() for one in topic.figures]


@pytest.mark.parametrize('one', FIGURES, ids=lambda one: one.figure[:40])
def test_a_figure_can_be_measured_here_or_says_at_which_commit(one: table.Figure) -> None:
    assert exists(one.command) or re.fullmatch('[0-9a-f]{7,40}', one.commit)
    assert not one.again or exists(one.again)
