# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the self-check found, as a table for people and as values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from uncertainty_seg.core.self_check import Check
from uncertainty_seg.tools.self_check_run import Findings

PERCENTILES = (50, 90, 99)


def report_values(found: Findings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put everything that was found into one dictionary.

    Parameters
    ----------
    found : Findings
        What was found.
    facts : mapping of str to any
        What was checked: bundle, backend, version, precision, passes.

    Returns
    -------
    dict of str to any
        `facts`, then `is_passed`, `failed`, `checks`, `latency_ms`, `power_w`. A number that is
        none is None.

    """
    return {
        **facts,
        'is_passed': all(check.is_passed for check in found.checks),
        'failed': [check.name for check in found.checks if not check.is_passed],
        'checks': {check.name: {'measured': _finite(check.measured), 'limit': check.limit,
                                'is_passed': check.is_passed} for check in found.checks},
        'latency_ms': {stage: _percentiles(times) for stage, times in found.stages_ms.items()},
        'power_w': {rail: {'mean': round(float(np.mean(watts)), 3), 'max': round(max(watts), 3)}
                    for rail, watts in found.power_w.items()},
    }


def report_table(found: Findings, facts: Mapping[str, Any]) -> str:
    """Write the same for a reader, 99 columns wide at most."""
    lines = [', '.join(f'{name} {value}' for name, value in facts.items() if value != ''), '']
    lines += _check_lines(found.checks)
    if found.stages_ms:
        count = len(found.stages_ms['total'])
        lines += ['', f'{f"ms, {count} runs":20}' + ''.join(f'{f"p{p}":>10}' for p in PERCENTILES)
                  + f'{"max":>10}']
        for stage, times in found.stages_ms.items():
            numbers = _percentiles(times).values()
            lines.append(f'{stage:20}' + ''.join(f'{number:10.2f}' for number in numbers))
    if found.power_w:
        lines += ['', f'{"W":20}{"mean":>10}{"max":>10}']
        lines += [f'{rail:20}{np.mean(watts):10.2f}{max(watts):10.2f}'
                  for rail, watts in found.power_w.items()]
    return '\n'.join(lines)


def _check_lines(checks: Sequence[Check]) -> list[str]:
    lines = [f'{"check":20}{"measured":>10}{"at most":>10}']
    for check in checks:
        verdict = 'ok    ' if check.is_passed else 'FAILED'
        lines.append(f'{check.name:20}{check.measured:10.3g}{check.limit:10.3g}  {verdict}  '
                     f'{check.about}')
    return lines


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    points = {f'p{p}': round(float(np.percentile(times, p)), 3) for p in PERCENTILES}
    return {**points, 'max': round(max(times), 3)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
