# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A verdict as an entry of a diagnostics message, and as named numbers for mission code.

The node publishes the entry as `~/status`, the numbers as `~/verdict`; `replay` fills a bag.
docs/reference/ros.md lists the keys of both with their types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math

from uncertainty_seg.core.gate import KINDS, Verdict, VOID
from uncertainty_seg.core.pipeline import FrameResult

NODE_NAME = '/uncertainty_seg'  # the prefix of its topics
VERDICT_NAME = 'uncertainty_seg: verdict'
OK, WARN, ERROR = 0, 1, 2
_LEVELS = {'confident': OK, 'uncertain': WARN, 'recovering': WARN}


@dataclass(frozen=True)
class Status:
    """
    One entry of a diagnostics message.

    `level` is 0 ok, 1 warning, 2 error, 3 stale; `name` the source, `hardware_id` the device it
    describes, `values` keys and texts, in order.
    """

    level: int
    name: str
    message: str
    values: Mapping[str, str]
    hardware_id: str = ''


def verdict_status(
    verdict: Verdict, result: FrameResult | None, thresholds: Mapping[str, float],
    has_latency: bool = True, weakened_by: Sequence[str] = (), stamps: str = 'camera',
) -> Status:
    """
    Return the entry of a verdict: reasons as message; flag, thresholds, scores, age, T as values.

    `result` is None if there was no frame. A replay leaves out the latency, so that its bytes
    depend on its input alone. `weakened_by` are the settings that weaken the promise, in words;
    `stamps` is the setting of that name, which defines the age.
    """
    values = {
        'confident': str(verdict.is_confident).lower(),
        'kind': verdict.kind,
        'score_ratio': f'{verdict.score_ratio:.6g}',
        'promise': VOID if weakened_by else verdict.promise or 'none',
    }
    if weakened_by:
        values['promise_void_because'] = '; '.join(weakened_by)
    values |= {f'threshold.{name}': f'{limit:.6g}' for name, limit in thresholds.items()}
    if result is not None:
        values['passes'] = str(result.passes)
        if math.isfinite(result.age_s):
            values['frame_age_ms'] = f'{result.age_s * 1e3:.1f}'
            values['stamps'] = stamps
        values |= {f'score.{name}': f'{value:.6g}' for name, value in result.scores.items()}
        if has_latency:
            values |= {f'latency.{k}_ms': f'{ms:.3f}' for k, ms in result.timings_ms.items()}
    level = _LEVELS.get(verdict.kind, ERROR)
    return Status(level, VERDICT_NAME, '; '.join(verdict.reasons), values)


def verdict_numbers(
    verdict: Verdict, result: FrameResult | None, is_of_frame: bool,
    weakened_by: Sequence[str] = (),
) -> dict[str, float]:
    """
    Return a verdict as named numbers, so that no text has to be parsed.

    `confident`, `of_frame` and `promise_void` are 0 or 1; `kind` is the position in `KINDS`, that
    of a fault for an unknown kind; `score_ratio` is infinite after a fault; `age_s` is NaN if
    unknown. `is_of_frame` says whether there is a frame to publish under.
    """
    kind = verdict.kind if verdict.kind in KINDS else 'fault'
    return {
        'confident': float(verdict.is_confident),
        'kind': float(KINDS.index(kind)),
        'score_ratio': float(verdict.score_ratio),
        'age_s': math.nan if result is None else float(result.age_s),
        'of_frame': float(is_of_frame),
        'promise_void': float(bool(weakened_by)),
    }
