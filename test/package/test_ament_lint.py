# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The package passes `ament_flake8` and `ament_pep257` of the ROS 2 distributions.

Neither is on PyPI. They run flake8 with eight plug-ins, and pydocstyle, with options that are the
same from Humble to Rolling (read in ament/ament_lint, branches humble, jazzy and rolling). The
same tools run here with the same options.
"""

from importlib.util import find_spec
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKED = ('uncertainty_seg', 'launch', 'test', 'benchmarks', 'docs', 'examples', 'setup.py')
# Modules of flake8 and of the plug-ins that ament_flake8 depends on.
TOOLS = ('flake8', 'flake8_blind_except', 'flake8_builtins', 'flake8_class_newline',
         'flake8_comprehensions', 'flake8_deprecated', 'flake8_docstrings', 'flake8_import_order',
         'flake8_quotes', 'pydocstyle')
# Docstrings may be missing (D100 to D107); D203 and D212 contradict other rules.
DOCSTRING_IGNORED = ('D100', 'D101', 'D102', 'D103', 'D104', 'D105', 'D106', 'D107',
                     'D203', 'D212', 'D404')
# `except` without a class, trailing commas, and empty lines between groups of imports.
FLAKE8_IGNORED = ('B902', 'C816', 'I202', *DOCSTRING_IGNORED)
# ament_pep257 runs pydocstyle except for an ignore list, which is part of ament_flake8's: one run
# of flake8 with all conventions covers both. It does not recognize properties, whose docstrings
# therefore have to be imperative too.
FLAKE8_OPTIONS = ('--isolated', '--max-line-length=99', '--import-order-style=google',
                  '--docstring-convention=all', '--property-decorators=',
                  '--extend-ignore=' + ','.join(FLAKE8_IGNORED))
TIMEOUT_S = 280  # less than pytest's: flake8 waits for ever if it loses a worker
MISSING = [name for name in TOOLS if find_spec(name) is None]
needs_tools = pytest.mark.skipif(
    bool(MISSING), reason=f'{", ".join(MISSING)} not installed: scripts/test installs them')


def flake8(*paths: str, cwd: Path = ROOT) -> list[str]:
    """Run flake8 as ament_flake8 does; return its lines, `file:line:column: code message`."""
    done = subprocess.run([sys.executable, '-m', 'flake8', *FLAKE8_OPTIONS, *paths], cwd=cwd,
                          capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.release
@needs_tools
def test_flake8_and_pep257_of_ament_find_nothing() -> None:
    assert flake8(*CHECKED) == []
