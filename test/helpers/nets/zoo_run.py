# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Build one network of the list and check it; used by `scripts/zoo` and by the tests."""

import copy
from pathlib import Path
from typing import Any

from zoo_builders import CLASSES
from zoo_check import Case, check, Effort, NOT_BUILT
from zoo_eager import eager, lively
from zoo_list import Row


def run_row(row: Row, folder: Path, effort: Effort) -> dict[str, Any]:
    """Return the outcome of one network, with the reason if it cannot be built."""
    try:
        case = case_of(row, folder)
    except ImportError as err:
        return {'outcome': NOT_BUILT, 'why': f'{err.name or err} is not installed'}
    except Exception as err:  # an error of the library, not of the compiler
        return {'outcome': NOT_BUILT, 'why': f'{type(err).__name__}: {err}'[:300]}
    return check(case, folder, effort)


def case_of(row: Row, folder: Path) -> Case:
    """Build a network for the compiler, and a copy of it as the reference."""
    options = dict(row.options)
    if row.is_onnx:
        path, run = row.build(folder)
        return Case(path, run, row.size, CLASSES, options)
    net = lively(row.build, CLASSES, row.size)
    run = eager(copy.deepcopy(net), CLASSES)
    return Case(net, run, row.size, CLASSES, options)
