# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Verdict and health as diagnostic messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict

VERDICT_NAME = 'uncertainty_seg: verdict'
_LEVELS = {
    'confident': DiagnosticStatus.OK,
    'uncertain': DiagnosticStatus.WARN,
    'recovering': DiagnosticStatus.WARN,
}


def verdict_values(
    verdict: Verdict, result: FrameResult | None, thresholds: Mapping[str, float]
) -> dict[str, str]:
    """
    List what led to a verdict.

    Parameters
    ----------
    verdict : Verdict
        The flag and why.
    result : FrameResult or None
        The frame; None where there was none.
    thresholds : mapping of str to float
        Limit of each gated score.

    Returns
    -------
    dict of str to str
        Flag, kind, ratio, promise; every score, every threshold, T, milliseconds a stage.

    """
    values = {
        'confident': str(verdict.is_confident).lower(),
        'kind': verdict.kind,
        'score_ratio': f'{verdict.score_ratio:.6g}',
        'promise': verdict.promise or 'none',
    }
    values |= {f'threshold.{name}': f'{limit:.6g}' for name, limit in thresholds.items()}
    if result is not None:
        values['passes'] = str(result.passes)
        values |= {f'score.{name}': f'{value:.6g}' for name, value in result.scores.items()}
        values |= {f'latency.{stage}_ms': f'{ms:.3f}' for stage, ms in result.timings_ms.items()}
    return values


def verdict_message(
    header: Any, verdict: Verdict, result: FrameResult | None, thresholds: Mapping[str, float]
) -> DiagnosticArray:
    """Build the message of `~/status`; the reasons are its text."""
    level = _LEVELS.get(verdict.kind, DiagnosticStatus.ERROR)
    values = verdict_values(verdict, result, thresholds)
    return diagnostics_message(header, VERDICT_NAME, level, '; '.join(verdict.reasons), values)


def diagnostics_message(
    header: Any, name: str, level: bytes, message: str, values: Mapping[str, object],
    hardware_id: str = '',
) -> DiagnosticArray:
    """Build a diagnostics message of one status."""
    return DiagnosticArray(
        header=header, status=[diagnostic_status(name, level, message, values, hardware_id)])


def diagnostic_status(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware_id: str = '',
) -> DiagnosticStatus:
    """Build one status."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware_id, values=pairs)
