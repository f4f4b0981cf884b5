# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The frame log as the node uses it: content, counts, non-blocking offers, names of dives."""

from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
import errno
import json
import os
from pathlib import Path
import shutil
import threading
from typing import Any

import cv2
from frame_log_helpers import (
    ABOUT,
    image_of,
    log_frame,
    mask_of,
    number_of,
    numbers,
    reasons,
    room_for,
    settings,
    wait_for,
)
import numpy as np
import pytest

from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.core.settings import LogSettings
from uncertainty_seg.storage.frame_log import format as log_format
from uncertainty_seg.storage.frame_log import log as log_module
from uncertainty_seg.storage.frame_log.format import iter_frames, LogFrame
from uncertainty_seg.storage.frame_log.log import (
    dive_name,
    FrameLog,
    LogState,
    RETRY_S,
    SAME_DIVE_S,
)
from uncertainty_seg.storage.frame_log.store import gumbel_key, stable_uniforms
from uncertainty_seg.storage.perceptual_hash import perceptual_hash


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'log'


@contextmanager
def logging_to(folder: Path, num_frames: int = 1000, **changes: Any) -> Iterator[FrameLog]:
    log = FrameLog(folder, room_for(num_frames, **changes) if 'quota_mb' not in changes
                   else settings(**changes), ABOUT)
    try:
        yield log
    finally:
        assert log.close(20)


def written(log: FrameLog) -> LogState:
    """Wait until all queued frames are written; return the state."""
    wait_for(lambda: (s := log.state()).num_waiting == 0 and _settled(s), 'the last frame')
    return log.state()


def _settled(state: LogState) -> bool:
    done = sum(state.kept.values()) + sum(state.dropped.values()) + sum(state.skipped.values())
    return done >= state.num_seen - state.num_in_ring


class Gate:
    """A mask whose computation blocks the log's thread until `may_go_on` is set."""

    def __init__(self) -> None:
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.is_asked.set()
        assert self.may_go_on.wait(20)
        return mask_of(0)


def test_the_sidecar_tells_everything(folder: Path) -> None:
    with logging_to(folder) as log:
        log.offer(log_frame(3, 1.5, camera='/front'))
    sidecar = next(iter_frames(folder)).sidecar
    key = sidecar['reservoir']['key']
    assert sidecar == {
        'version': 1, 'frame_id': '0000000001300000000-_front', 'stamp_ns': 1_300_000_000,
        'ros_frame': 'optical', 'camera': '/front', 'dive': 'dive 7', 'reason': 'flagged',
        'verdict': {'confident': False, 'kind': 'uncertain', 'reasons': ['mean 1.5 over 1'],
                    'score_ratio': 1.5},
        'scores': {'mean': 1.5, 'top': None}, 'thresholds': {'mean': 1.0}, 'passes': 8, 'seed': 5,
        'mask_policy': 'fixed', 'model': {'name': 'tiny', 'sha256': 'ab' * 32},
        'map': 'mutual_information',
        'classes': [{'id': 0, 'name': 'sea', 'color_rgb': [0, 0, 255]},
                    {'id': 1, 'name': 'pipe', 'color_rgb': [255, 255, 0]},
                    {'id': 2, 'name': 'fish', 'color_rgb': [0, 255, 0]},
                    {'id': 3, 'name': 'silt', 'color_rgb': [90, 80, 70]}],
        'image': {'height': 36, 'width': 48, 'encoding': 'bgr8', 'file': 'image.png'},
        'phash': f'{perceptual_hash(image_of(3)):016x}',
        'parameters': {'passes': 8, 'gate.scores': ['mean']},
        'reservoir': {'name': 'main', 'key': key, 'log_weight': pytest.approx(np.log(1.5)),
                      'bar': None},
    }
    lines = [json.loads(line) for line in (folder / 'manifest.jsonl').read_text().splitlines()]
    assert [(line['op'], line['frame_id'], line['key']) for line in lines] == [
        ('add', sidecar['frame_id'], key)]


@pytest.mark.parametrize(('image_format', 'name', 'worst'), [
    ('png', 'image.png', 0), ('jpeg', 'image.jpg', 4), ('received', 'image.jpg', 0)])
def test_images_are_written_as_asked(
        folder: Path, image_format: str, name: str, worst: int) -> None:
    ramp = np.broadcast_to(5 * np.arange(48)[:, None], (36, 48, 3)).astype(np.uint8)
    data = bytes(cv2.imencode('.jpg', ramp, (cv2.IMWRITE_JPEG_QUALITY, 80))[1])
    with logging_to(folder, image_format=image_format) as log:
        log.offer(log_frame(2, image=ImageFile(data, 'jpeg'), encoding='jpeg'))
    kept = next(iter_frames(folder))
    assert (kept.image_path.name, kept.sidecar['image']['encoding']) == (name, 'jpeg')
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), 1)
    assert np.abs(kept.read_image().astype(int) - expected).max() <= worst
    assert (kept.image_path.read_bytes() == data) == (image_format == 'received')


def test_masks_are_made_for_kept_frames_only(folder: Path) -> None:
    asked: list[int] = []

    def frame(number: int, ratio: float, like: int) -> LogFrame:
        def mask() -> np.ndarray[Any, np.dtype[np.uint8]]:
            asked.append(number)
            return mask_of(number)

        return log_frame(number, ratio, mask=mask, image=image_of(like))

    with logging_to(folder, duplicate_bits=4) as log:
        for number, ratio, like in [(0, 2, 0), (1, 2, 0), (2, .5, 2), (3, 2, 3)]:
            log.offer(frame(number, ratio, like))
    assert asked == [0, 3] == numbers(folder)


def test_a_frame_that_waits_never_holds_the_caller_up(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(log_module, 'QUEUE_FRAMES', 2)
    with logging_to(folder) as log:
        log.offer(log_frame(0, mask=gate))
        assert gate.is_asked.wait(20)
        # The log's thread is blocked; if `offer` waited for it, this would never end.
        for number in range(1, 8):
            log.offer(log_frame(number))
        state = log.state()
        assert (state.num_waiting, state.dropped['queue_full']) == (2, 5)
        gate.may_go_on.set()
    assert numbers(folder) == [0, 1, 2]


def test_a_trigger_keeps_the_newest_frame(folder: Path) -> None:
    with logging_to(folder, before_s=1.0) as log:
        assert log.trigger() == 0
        for number in range(6):
            log.offer(log_frame(number, 0.5))
        assert log.trigger() == 1
        assert written(log).kept['trigger'] == 1
        # Already kept, so not written twice.
        assert log.trigger() == 1
    assert reasons(folder) == {5: 'trigger'}
    assert log.trigger() == 0


def test_what_was_asked_for_outlasts_every_score(folder: Path) -> None:
    with logging_to(folder, 1) as log:
        log.offer(log_frame(0, 0.01))
        log.trigger()
        for number in range(1, 30):
            log.offer(log_frame(number, 99.0))
            written(log)
    assert reasons(folder) == {0: 'trigger'}


def test_near_duplicates_are_skipped_but_not_an_event(folder: Path) -> None:
    same = image_of(0)
    with logging_to(folder, duplicate_bits=4, after_s=0.3) as log:
        for number, ratio in enumerate([2, 2, 2, .5, .5, .5, .5, .5, 2, 2]):
            log.offer(log_frame(number, ratio, image=same))
        log.offer(log_frame(10, 2, image=image_of(10)))
    # Not 3 and 4, which resemble 0; but 8, which starts another event.
    assert reasons(folder) == {0: 'flagged', 8: 'flagged', 10: 'flagged'}
    assert log.state().skipped['duplicate'] == 6


def test_news_in_a_known_scene_is_no_duplicate_of_the_scene(folder: Path) -> None:
    same = image_of(0)
    with logging_to(folder, duplicate_bits=4, before_s=0.1, after_s=10.0) as log:
        log.offer(log_frame(0, 2, image=image_of(7)))
        log.offer(log_frame(1, .5, image=same))
        log.offer(log_frame(2, 2, image=same))
    assert reasons(folder) == {0: 'flagged', 1: 'window', 2: 'flagged'}


def test_a_bad_frame_is_counted_and_the_next_is_kept(folder: Path) -> None:
    def broken() -> Any:
        raise RuntimeError('no such map')

    with logging_to(folder) as log:
        log.offer(log_frame(0, mask=lambda: np.zeros((3, 3), np.uint8)))
        assert 'mask has shape (3, 3)' in written(log).error
        log.offer(log_frame(1, uncertainty=broken))
        assert 'RuntimeError: no such map' in written(log).error
        log.offer(log_frame(2, image=ImageFile(b'no image', 'jpeg')))
        assert 'jpeg or png' in written(log).error
        log.offer(log_frame(3))
        state = written(log)
    assert state.error == '' and state.dropped['bad_frame'] == 3
    assert numbers(folder) == [3]


def test_a_frame_larger_than_the_quota_is_said(folder: Path) -> None:
    with logging_to(folder, quota_mb=0.01) as log:
        log.offer(log_frame(0))
        state = written(log)
    assert state.dropped['too_big'] == 1
    assert 'log.quota_mb' in state.error


def test_live_settings_hold_for_the_frames_to_come(folder: Path) -> None:
    with logging_to(folder) as log:
        for number in range(6):
            log.offer(log_frame(number))
        assert written(log).num_frames == 6
        log.reconfigure(room_for(2))
        wait_for(lambda: log.state().num_frames == 2, 'the smaller quota')
        assert log.state().num_evicted == 4
        assert log.settings == room_for(2)


def test_who_asks_is_told_of_kept_frames(folder: Path) -> None:
    told: list[tuple[int, str]] = []

    def on_kept(frame: LogFrame, reason: str) -> None:
        told.append((frame.stamp_ns, reason))
        raise ValueError('of the listener')

    log = FrameLog(folder, settings(), ABOUT, on_kept)
    log.offer(log_frame(0))
    log.offer(log_frame(1))
    assert log.close(20)
    assert told == [(1_000_000_000, 'flagged'), (1_100_000_000, 'flagged')]
    assert log.state().kept['flagged'] == 2 and not log.state().dropped['bad_frame']


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_log_whose_thread_was_ended_tells_so_and_one_that_was_closed_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    log = FrameLog(folder, settings(), ABOUT)
    assert not log.has_ended
    assert log.close() and not log.has_ended
    log = FrameLog(folder, settings(), ABOUT)
    monkeypatch.setattr('uncertainty_seg.storage.frame_log.log.FrameLogWriter.work', end)
    log.reconfigure(room_for(5))  # wakes the thread
    for _ in range(1000):
        if log.has_ended:
            break
        threading.Event().wait(0.01)
    assert log.has_ended
    log.close()
    assert FrameLog(folder, settings(), ABOUT).close()  # its lock is released


def test_a_close_that_cannot_wait_counts_what_is_left(folder: Path) -> None:
    gate = Gate()
    log = FrameLog(folder, settings(), ABOUT)
    log.offer(log_frame(0, mask=gate))
    assert gate.is_asked.wait(20)
    log.offer(log_frame(1))
    assert not log.close(0.01)
    assert log.state().dropped['closing'] == 1
    log.offer(log_frame(2))
    gate.may_go_on.set()
    assert log.close(20)
    assert numbers(folder) == [0]


class Clock:
    """A clock that the test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_folder_that_is_removed_comes_back(folder: Path) -> None:
    clock = Clock()
    log = FrameLog(folder, settings(), ABOUT, clock=clock)
    log.offer(log_frame(0))
    written(log)
    shutil.rmtree(folder)
    for number in (1, 2):
        log.offer(log_frame(number))
        written(log)
    state = log.state()
    assert not state.is_writing and state.dropped['folder_missing'] == 2
    assert str(folder) in state.error
    clock.now_s += RETRY_S
    log.offer(log_frame(3))
    assert written(log).is_writing
    assert log.close(20)
    assert numbers(folder) == [3] and log.state().error == ''


# test_frame_log_crash tests a full, read-only and removed disk on a real file system.
@pytest.mark.parametrize(('number', 'cause'), [('EACCES', 'not_writable'), ('EIO', 'disk_error')])
def test_a_disk_that_refuses_is_said_and_tried_again(
        folder: Path, monkeypatch: pytest.MonkeyPatch, number: str, cause: str
) -> None:
    def refuse(*_: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    clock = Clock()
    log = FrameLog(folder, settings(), ABOUT, clock=clock)
    with monkeypatch.context() as patch:
        patch.setattr(log_format, 'write_frame', refuse)
        log.offer(log_frame(0))
        state = written(log)
        assert (state.is_writing, state.dropped[cause]) == (False, 1)
        assert str(folder) in state.error
        log.offer(log_frame(1))  # too soon to try again
        assert written(log).dropped[cause] == 2
    clock.now_s += 60
    log.offer(log_frame(2))
    written(log)
    assert log.close(20)
    assert numbers(folder) == [2] and log.state().error == ''


def test_the_control_knows_no_score(folder: Path) -> None:
    with logging_to(folder, control_share=1.0) as log:
        for number, ratio in enumerate((0.01, 100.0)):
            log.offer(log_frame(number, ratio))
    for frame in iter_frames(folder):
        luck = stable_uniforms('dive 7', 5, '', frame.sidecar['stamp_ns'])[1]
        assert frame.sidecar['reason'] == 'control'
        assert frame.sidecar['reservoir'] == {
            'name': 'control', 'log_weight': 0.0, 'bar': None, 'key': gumbel_key(0.0, luck)}
    assert numbers(folder) == [0, 1]


@pytest.mark.parametrize(('limits', 'others', 'cause'), [
    ({}, 2, 'queue_full'), ({'memory_mb': 1.0}, 2, 'memory_full')])
def test_the_control_has_places_of_its_own(
        folder: Path, limits: dict[str, object], others: int, cause: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    if cause == 'queue_full':
        monkeypatch.setattr(log_module, 'QUEUE_FRAMES', 2)
    share, gate = 0.2, Gate()
    held_bytes = 140_000 if cause == 'memory_full' else 0
    chance = [stable_uniforms('dive 7', 5, '', log_frame(k).stamp_ns)[0] for k in range(100)]
    control = [k for k in range(1, 100) if chance[k] < share]
    with logging_to(folder, control_share=share, **limits) as log:
        log.offer(log_frame(0, mask=gate, held_bytes=held_bytes))
        assert gate.is_asked.wait(20) and chance[0] >= share
        for number in range(1, 100):
            # Control frames are small, so that several fit into the control's memory.
            log.offer(log_frame(number, held_bytes=held_bytes // (7 if number in control else 1)))
        state = log.state()
        num_control = state.num_waiting - others
        assert num_control >= 4
        assert state.dropped['control'] == len(control) - num_control > 0
        assert state.dropped[cause] == 99 - len(control) - others
        gate.may_go_on.set()
    assert sum(reason == 'control' for reason in reasons(folder).values()) == num_control


NOW_S = 1_000_000.0


def write(folder: Path, stop: int, started: str, chosen: LogSettings, first: int = 0) -> str:
    """Log frames as a node that names its dive `started` by default; return the dive's name."""
    log = FrameLog(folder, chosen, dataclasses.replace(ABOUT, dive=started))
    for number in range(first, stop):
        log.offer(log_frame(number, 0.5 if number % 2 else 2.0))
    assert log.close(20)
    return log.dive


def dives(folder: Path) -> dict[int, str]:
    return {number_of(f.sidecar['stamp_ns']): f.sidecar['dive'] for f in iter_frames(folder)}


def set_age(folder: Path, ages_s: list[float]) -> list[Path]:
    """Set how long ago each frame was written; return the frames, sorted by name."""
    frames = sorted((folder / 'frames').iterdir())
    for path, age_s in zip(frames, ages_s, strict=True):
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return frames


@pytest.mark.parametrize(('ages_s', 'expected'), [
    ([900.0, 300.0], 'second'), ([300.0, 900.0], 'first'),  # by file time, not by stamp
    ([SAME_DIVE_S + 1, 900.0], 'start'), ([SAME_DIVE_S - 1, 900.0], 'first'),
    # The clock was set back, by a little and by much.
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


def test_a_name_given_while_it_runs_holds_for_the_frames_to_come(tmp_path: Path) -> None:
    about = dataclasses.replace(ABOUT, dive='start')
    log = FrameLog(tmp_path, settings(), about)
    for number, dive in ((0, ''), (2, 'pier'), (4, '')):
        log.reconfigure(settings(dive=dive), about)
        log.offer(log_frame(number))
    assert log.close(20)
    assert dives(tmp_path) == {0: 'start', 2: 'pier', 4: 'start'}


def test_the_log_weight_is_that_of_the_score() -> None:
    ratios = {0.5: 0.5, 1e-9: 0.01, 3.0: 3.0, float('inf'): 100.0, float('nan'): 100.0}
    for ratio, weight in ratios.items():
        assert log_frame(0, ratio).log_weight == pytest.approx(np.log(weight))
