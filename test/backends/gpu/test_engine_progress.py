# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Phases within phases become one share."""

from __future__ import annotations

import pytest

from uncertainty_seg.backends.gpu.engine_build import PhaseTracker


def test_a_phase_inside_another_counts_as_part_of_its_step() -> None:
    told: list[tuple[float, str]] = []
    tracker = PhaseTracker(lambda share, phase: told.append((share, phase)))
    tracker.start('build', None, 4)
    assert tracker.step('build', 0)
    tracker.start('tactics', 'build', 2)
    tracker.step('tactics', 0)
    tracker.start('timing', 'tactics', 5)
    tracker.step('timing', 3)
    tracker.finish('timing')
    tracker.finish('tactics')
    tracker.step('build', 1)
    assert told == [(0, 'build'), (0.25, 'build'), (pytest.approx(0.375), 'tactics'),
                    (pytest.approx(0.475), 'timing'), (0.5, 'build')]


def test_the_share_never_falls_nor_reaches_one() -> None:
    told: list[float] = []
    tracker = PhaseTracker(lambda share, _: told.append(share))
    for name in ('first', 'second'):
        tracker.start(name, None, 2)
        for step in range(2):
            tracker.step(name, step)
        tracker.finish(name)
    assert told == sorted(told) and told[-1] == 0.99


def test_an_interrupt_stops_the_build_and_is_kept() -> None:
    def interrupt(share: float, phase: str) -> None:
        if share > 0:
            raise KeyboardInterrupt

    tracker = PhaseTracker(interrupt)
    tracker.start('build', None, 3)
    assert tracker.error is None
    assert tracker.step('build', 0) is False and tracker.step('build', 1) is False
    assert isinstance(tracker.error, KeyboardInterrupt)


def test_a_phase_that_never_started_is_no_harm() -> None:
    tracker = PhaseTracker(lambda share, phase: None)
    assert tracker.step('ghost', 3)
    tracker.finish('ghost')
