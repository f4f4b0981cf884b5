# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which dive a frame is said to be of: by name, by restart, by time."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from frame_log_helpers import ABOUT, log_frame, number_of, numbers, settings
import pytest

from uncertainty_seg.core.settings import LogSettings
from uncertainty_seg.storage.frame_log.format import iter_frames
from uncertainty_seg.storage.frame_log.log import dive_name, FrameLog, SAME_DIVE_S

NOW_S = 1_000_000.0


def write(folder: Path, stop: int, started: str, chosen: LogSettings, first: int = 0) -> str:
    """Log some frames as a node that was started at a time; return the dive's name."""
    log = FrameLog(folder, chosen, dataclasses.replace(ABOUT, dive=started))
    for number in range(first, stop):
        log.offer(log_frame(number, 0.5 if number % 2 else 2.0))
    assert log.close(20)
    return log.dive


def dives(folder: Path) -> dict[int, str]:
    return {number_of(f.sidecar['stamp_ns']): f.sidecar['dive'] for f in iter_frames(folder)}


def set_age(folder: Path, ages_s: list[float]) -> list[Path]:
    """Say of each frame, by name, how long ago it was written."""
    frames = sorted((folder / 'frames').iterdir())
    for path, age_s in zip(frames, ages_s, strict=True):
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return frames


@pytest.mark.parametrize(('ages_s', 'expected'), [
    ([900.0, 300.0], 'second'), ([300.0, 900.0], 'first'),  # by the file, not by the stamp
    ([SAME_DIVE_S + 1, 900.0], 'start'), ([SAME_DIVE_S - 1, 900.0], 'first'),
    # The clock was set back: by little, and by much.
    ([900.0, -30.0], 'second'), ([900.0, -9000.0], 'start'),
])
def test_a_log_goes_on_with_the_dive_of_its_newest_frame(
        tmp_path: Path, ages_s: list[float], expected: str) -> None:
    assert write(tmp_path, 1, '', settings(dive='first')) == 'first'
    assert write(tmp_path, 3, '', settings(dive='second'), first=2) == 'second'
    set_age(tmp_path, ages_s)
    assert dive_name(tmp_path, settings(), 'start', NOW_S) == expected
    assert dive_name(tmp_path, settings(dive='mine'), 'start', NOW_S) == 'mine'


def test_without_a_readable_frame_the_dive_begins(tmp_path: Path) -> None:
    assert dive_name(tmp_path / 'none', settings(), 'start', NOW_S) == 'start'
    write(tmp_path, 1, 'before', settings())
    frame, = set_age(tmp_path, [1.0])
    assert dive_name(tmp_path, settings(), 'start', NOW_S) == 'before'
    hidden = frame.rename(frame.with_name(f'.gone-{frame.name}'))
    assert dive_name(tmp_path, settings(), 'start', NOW_S) == 'start'
    hidden.rename(frame)
    (frame / 'frame.json').write_text('{"vers')
    os.utime(frame, (NOW_S, NOW_S))
    assert dive_name(tmp_path, settings(), 'start', NOW_S) == 'start'


def test_a_restart_under_water_is_the_same_dive(tmp_path: Path) -> None:
    assert write(tmp_path, 1, 'monday', settings()) == 'monday'
    assert write(tmp_path, 3, 'monday, a minute later', settings(), first=2) == 'monday'
    for path in (tmp_path / 'frames').iterdir():
        os.utime(path, (0, 0))
    assert write(tmp_path, 5, 'tuesday', settings(), first=4) == 'tuesday'
    assert dives(tmp_path) == {0: 'monday', 2: 'monday', 4: 'tuesday'}


def test_the_newest_frame_tells_though_the_quota_throws_it_out(tmp_path: Path) -> None:
    write(tmp_path, 1, '', settings(dive='asked for', score_power=0.0))
    old, = (tmp_path / 'frames').iterdir()
    sidecar = json.loads((old / 'frame.json').read_text())
    sidecar['reservoir']['key'] = 1e6  # outlasts all
    (old / 'frame.json').write_text(json.dumps(sidecar))
    os.utime(old, (0, 0))
    (tmp_path / 'manifest.jsonl').unlink()
    write(tmp_path, 3, '', settings(dive='now'), first=2)
    log = FrameLog(tmp_path, settings(quota_frames=1), ABOUT)
    assert log.dive == 'now' and log.close(20)
    assert dives(tmp_path) == {0: 'asked for'}


def test_a_name_given_while_it_runs_holds_for_the_frames_to_come(tmp_path: Path) -> None:
    about = dataclasses.replace(ABOUT, dive='start')
    log = FrameLog(tmp_path, settings(), about)
    for number, dive in ((0, ''), (2, 'pier'), (4, '')):
        log.reconfigure(settings(dive=dive), about)
        log.offer(log_frame(number))
    assert log.close(20)
    assert dives(tmp_path) == {0: 'start', 2: 'pier', 4: 'start'}


def test_the_same_name_keeps_the_same_control(tmp_path: Path) -> None:
    def control(name: str, started: str, dive: str) -> list[int]:
        chosen = settings(control_share=0.3, min_interval_s=1e4, dive=dive)
        write(tmp_path / name, 60, started, chosen)
        return numbers(tmp_path / name)

    first = control('a', 'monday', 'pier 3')
    assert len(first) > 8 and control('b', 'tuesday', 'pier 3') == first
    assert control('c', 'monday', '') != control('d', 'tuesday', '')
