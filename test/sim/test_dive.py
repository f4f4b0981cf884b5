# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Dives: events at their stated times, smooth motion, and frames rendered independently."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim import dive as dive_module
from uncertainty_seg.sim import scene as scene_module
from uncertainty_seg.sim.dive import Dive, DiveFrame, ensure_dive, render_frames, write_dive
from uncertainty_seg.sim.pipe import IGNORE, SEABED
from uncertainty_seg.storage.bags.reader import read_images

SMALL = (160, 120)


@pytest.fixture(scope='module')
def dive() -> Dive:
    return Dive(0, size=SMALL)


def at(dive: Dive, second: float) -> DiveFrame:
    return dive.frame(round(second * dive.rate_hz))


def same(a: DiveFrame, b: DiveFrame) -> bool:
    return (a.index, a.stamp_ns, a.event) == (b.index, b.stamp_ns, b.event) and all(
        np.array_equal(getattr(a, k), getattr(b, k)) for k in ('image', 'mask'))


def structure(frame: DiveFrame) -> float:
    grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    band = cv2.GaussianBlur(grey, (0, 0), 2) - cv2.GaussianBlur(grey, (0, 0), 6)
    return float(band.std())


def test_the_events_come_in_the_promised_order_and_apart(dive: Dive):
    assert [e.kind for e in dive.events] == ['burial', 'silt_cloud', 'diver', 'fish']
    assert dive.events[0].start_s >= 8
    assert dive.duration_s - dive.events[-1].stop_s >= 4
    for earlier, later in zip(dive.events, dive.events[1:], strict=False):
        assert later.start_s - earlier.stop_s >= 1
    for event in dive.events:
        assert dive.event_at((event.start_s + event.stop_s) / 2) == event.kind
        assert dive.event_at(event.start_s - 0.1) == 'inspection'
        assert dive.event_at(event.stop_s + 0.1) == 'inspection'


def test_unknown_objects_are_seen_in_their_events_only(dive: Dive):
    for second in (0.0, 4.0, 10.0, 13.0, 23.0, 25.0, 31.0, 32.0, 36.0, 39.8):
        frame = at(dive, second)
        assert not (frame.mask == IGNORE).any(), second
    for kind, seconds in (('diver', (26.5, 27, 27.75, 28.5, 29)), ('fish', (33.5, 34))):
        frames = [at(dive, s) for s in seconds]
        assert {f.event for f in frames} == {kind}
        shares = [float((f.mask == IGNORE).mean()) for f in frames]
        assert 0.05 < max(shares) < 0.35 and min(shares) > 0.02


def test_the_silt_cloud_hides_the_scene_and_clears(dive: Dive):
    before, inside, after = (structure(at(dive, s)) for s in (13.5, 17.5, 22.0))
    assert inside < 0.5 * before and inside < 0.5 * after
    labelled = [float((at(dive, s).mask != SEABED).mean()) for s in (13.5, 17.0, 18.0, 22.0)]
    assert labelled[0] > 0.1 and labelled[3] > 0.1
    assert max(labelled[1:3]) < 0.35 * labelled[0], labelled


def test_the_burial_hides_part_of_the_pipe(dive: Dive):
    def pipe(second: float) -> float:
        return float(np.isin(at(dive, second).mask, (1, 2, 3, 4)).mean())

    plain = np.mean([pipe(s) for s in (1.0, 3.0, 22.5, 24.0)])
    assert min(pipe(s) for s in (9.5, 10.5, 11.5)) < 0.75 * plain


def test_any_frame_by_itself_equals_the_same_frame_in_sequence(monkeypatch: pytest.MonkeyPatch):
    short = {'duration_s': 0.5, 'rate_hz': 12.0, 'size': SMALL}
    dive = Dive(5, **short)
    assert dive.num_frames == 6
    alone = list(render_frames(dive))
    monkeypatch.setattr(scene_module, '_FEW_JOBS', 0)  # several processes
    parallel = list(render_frames(dive))
    assert [f.index for f in parallel] == list(range(6))
    assert all(same(a, b) for a, b in zip(parallel, alone, strict=True))
    assert same(Dive(5, **short).frame(4), parallel[4])
    steps = np.diff([f.stamp_ns for f in parallel])
    assert np.abs(steps - 1e9 / 12).max() <= 1


def test_dives_of_other_lengths_keep_the_order_and_show_every_event():
    dive = Dive(2, duration_s=12.0, size=(80, 60))
    assert [e.kind for e in dive.events] == ['burial', 'silt_cloud', 'diver', 'fish']
    middle = {e.kind: dive.frame(round((e.start_s + e.stop_s) / 2 * dive.rate_hz))
              for e in dive.events}
    assert all(frame.event == kind for kind, frame in middle.items())
    assert (middle['diver'].mask == IGNORE).mean() > 0.02
    assert (middle['fish'].mask == IGNORE).mean() > 0.01


def test_a_bag_has_every_topic_and_the_same_bytes_again(tmp_path: Path) -> None:
    dive = Dive(4, duration_s=1.0, rate_hz=3.0, size=(64, 48))
    for name in '12':
        assert write_dive(tmp_path / name, dive) == 3
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in '12']
    assert files[0] == files[1]
    images = list(read_images(tmp_path / '1'))
    truths = list(read_images(tmp_path / '1', '/ground_truth/mask'))
    assert [i.stamp_ns for i in images] == [t.stamp_ns for t in truths]
    assert {(i.raw.encoding, i.raw.height, i.raw.width) for i in images} == {('bgr8', 48, 64)}
    assert set(np.unique([np.unique(t.raw.data) for t in truths[:1]])) <= {*range(6), 255}


def test_a_bag_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dive, other = (Dive(seed, duration_s=1.0, rate_hz=2.0, size=(64, 48)) for seed in (4, 5))
    assert ensure_dive(tmp_path / 'dive', dive)
    assert not ensure_dive(tmp_path / 'dive', dive)
    assert ensure_dive(tmp_path / 'dive', other)
    monkeypatch.setattr(dive_module, '__file__', str(tmp_path / 'another_renderer.py'))
    assert ensure_dive(tmp_path / 'dive', other)


@pytest.mark.parametrize('more', [
    {'duration_s': 0}, {'rate_hz': float('nan')}, {'seed': -1}, {'size': (640, 4)}])
def test_a_dive_that_cannot_be_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='duration 0|rate nan|seed -1|side 4'):
        Dive(**{'seed': 1, **more})
