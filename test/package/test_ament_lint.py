# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What `ament_flake8` and `ament_pep257` of a ROS 2 distribution say of this package: nothing.

Neither is on PyPI. Both are thin: flake8 with eight plug-ins, and pydocstyle, each with a few
options, which are the same from Humble to Rolling (read in ament/ament_lint, branches humble,
jazzy and rolling): the same tools are run here with the same options.

"""

from __future__ import annotations

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
# A docstring may be missing (D100 to D107), and pep257 contradicts itself (D203, D212).
DOCSTRING_IGNORED = ('D100', 'D101', 'D102', 'D103', 'D104', 'D105', 'D106', 'D107',
                     'D203', 'D212', 'D404')
# Exceptions without a base, trailing commas, and empty lines between groups of imports.
FLAKE8_IGNORED = ('B902', 'C816', 'I202', *DOCSTRING_IGNORED)
# ament_pep257 is all of pydocstyle but its list, which is part of ament_flake8's: one run of
# flake8 with all the conventions is both, and saves reading every docstring twice. It knows of no
# properties: their docstrings must be imperative as well.
FLAKE8_OPTIONS = ('--isolated', '--max-line-length=99', '--import-order-style=google',
                  '--docstring-convention=all', '--property-decorators=',
                  '--extend-ignore=' + ','.join(FLAKE8_IGNORED))
TIMEOUT_S = 280  # below pytest's: where a worker is lost flake8 waits for ever
MISSING = [name for name in TOOLS if find_spec(name) is None]
needs_tools = pytest.mark.skipif(
    bool(MISSING), reason=f'{", ".join(MISSING)} not installed: scripts/test installs them')


def flake8(*paths: str, cwd: Path = ROOT) -> list[str]:
    """Run flake8 as ament_flake8 does; return its lines, each `file:line:column: code words`."""
    done = subprocess.run([sys.executable, '-m', 'flake8', *FLAKE8_OPTIONS, *paths], cwd=cwd,
                          capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.release
@needs_tools
def test_flake8_and_pep257_of_ament_find_nothing() -> None:
    assert flake8(*CHECKED) == []
