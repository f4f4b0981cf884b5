# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every kind of faulty frame through the frame loop: true for exactly the frames that may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import for_each
import pytest
from soak_frames import FAULTS
from soak_loop import LoopSoak

from uncertainty_seg.core import plausibility
from uncertainty_seg.core.gate import Gate

# A million: scripts/soak loop, see docs/measurements.md.
FRAMES, FEW_FRAMES = 5_000, 300


def soaked(folder: Path, num_frames: int, **choices: Any) -> LoopSoak:
    soak = LoopSoak(folder, 0, **choices)
    for _ in range(num_frames):
        soak.step()
    return soak


def test_no_faulty_frame_is_true_and_every_good_one_in_its_turn_is(tmp_path: Path) -> None:
    soak = soaked(tmp_path, FRAMES)
    assert (soak.lies, soak.blind) == ([], [])
    assert set(FAULTS) < set(soak.sent) and soak.sent.total() == FRAMES
    assert soak.num_true > FRAMES / 4


@for_each('settings, kind', [
    ({'max_age_s': 0.0}, 'hour_old'), ({'max_skew_s': 60.0}, 'too_far_ahead'),
    ({'max_repeats': -1}, 'frozen'),
])
def test_a_check_that_is_off_is_noticed(
    tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    soak = soaked(tmp_path / kind, FEW_FRAMES, faults=[kind], **settings)
    assert any(kind in lie for lie in soak.lies)


def test_results_that_nobody_checks_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plausibility, 'implausible', lambda *_: '')
    assert any('zeros' in lie for lie in soaked(tmp_path, FEW_FRAMES, faults=['zeros']).lies)


def test_a_gate_that_forgets_no_good_frames_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Gate.fault

    def fault(gate: Any, *args: Any) -> Any:
        num_good = gate._good_in_a_row
        verdict = real(gate, *args)
        gate._good_in_a_row = num_good
        return verdict
    monkeypatch.setattr(Gate, 'fault', fault)
    assert soaked(tmp_path, FEW_FRAMES, faults=['fails']).lies
