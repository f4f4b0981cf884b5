# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The demo: its timeline is read, drawn, summarised and checked correctly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import json
import math
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import threading
from typing import Any

from conftest import tiny_card
import cv2
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.status import Status
from uncertainty_seg.errors import BackendUnavailableError, UncertaintySegError
from uncertainty_seg.sim.demo import live as demo_live
from uncertainty_seg.sim.demo.live import ChildProcess, find_pace
from uncertainty_seg.sim.demo.pictures import (
    choose_moments,
    FLAG_COLORS,
    make_pictures,
    MAX_COLUMNS,
)
from uncertainty_seg.sim.demo.timeline import (
    find_events,
    iter_frames,
    Moment,
    problems_of,
    read_timeline,
    summary_lines,
    Timeline,
)
from uncertainty_seg.storage.bags.writer import BagWriter, diagnostics_message, value_message
from uncertainty_seg.storage.model_bundle import load_bundle

START_NS, STEP_NS = 1_700_000_000_000_000_000, 500_000_000
# One letter per frame: the event (. is inspection) and the verdict (a space is a dropped frame).
EVENTS = {'.': 'inspection', 's': 'silt_cloud', 'd': 'diver', 'b': 'burial', 'x': 'fish'}
KINDS = {'c': 'confident', 'u': 'uncertain', 'r': 'recovering', 'f': 'fault', ' ': 'dropped'}
GOOD = ('....ssss....dddd....', 'rcccuuuucccccuurrccc')


def timeline_of(events: str, kinds: str) -> Timeline:
    moments = tuple(
        Moment(START_NS + k * STEP_NS, 0.5 * k, EVENTS[event], KINDS[kind], 'why',
               {'c': 0.5, 'u': 1.5, 'r': 0.9, 'f': math.inf, ' ': math.nan}[kind])
        for k, (event, kind) in enumerate(zip(events, kinds, strict=True))
    )
    return Timeline(moments, tuple(find_events(moments)))


def write_bags(folder: Path, events: str, kinds: str) -> tuple[Path, Path]:
    label = np.zeros((12, 16), np.uint8)
    label[:, 8:] = 1
    with BagWriter(folder / 'dive') as dive, BagWriter(folder / 'out') as out:
        for k, (event, kind) in enumerate(zip(events, kinds, strict=True)):
            t = START_NS + k * STEP_NS
            image = np.full((12, 16, 3), 10 * k, np.uint8)
            dive.write('/ground_truth/event', value_message(EVENTS[event]), t)
            dive.write_image('/camera/image_raw', t, 'cam', image, 'bgr8')
            dive.write_image('/ground_truth/mask', t, 'cam', label, 'mono8')
            if kind == ' ':
                continue
            # The recorder receives it later.
            late = t + 10**12
            if kind != 'f':
                out.write_image('/uncertainty_seg/mask', t, 'cam', label, 'mono8', late)
                out.write_image('/uncertainty_seg/heatmap', t, 'cam', image, 'bgr8', late)
            ratio = {'c': '0.5', 'u': '1.5', 'r': '0.9', 'f': 'inf'}[kind]
            values: Mapping[str, str] = {
                'kind': KINDS[kind], 'score_ratio': ratio, 'latency.trunk_ms': '30.5',
                'latency.head_ms': '9.5',
            }
            status = Status(0, 'uncertainty_seg: verdict', 'why', values)
            out.write('/uncertainty_seg/status', diagnostics_message(t, (status,)), late)
        # A status of the staleness timer between frames belongs to no frame.
        stale = Status(2, 'uncertainty_seg: verdict', 'no frame',
                       {'kind': 'fault', 'score_ratio': 'inf'})
        stamp, late = START_NS + 77, START_NS + 10**13
        out.write('/uncertainty_seg/status', diagnostics_message(stamp, (stale,)), late)
    return folder / 'dive', folder / 'out'


def test_timeline_joins_both_bags_by_stamp(tmp_path: Path) -> None:
    timeline = read_timeline(*write_bags(tmp_path, '..sss..', 'ccuuf c'))
    assert [m.event for m in timeline.moments] == ['inspection'] * 2 + ['silt_cloud'] * 3 + [
        'inspection'] * 2
    assert [m.kind for m in timeline.moments] == [
        'confident', 'confident', 'uncertain', 'uncertain', 'fault', 'dropped', 'confident'
    ]
    assert [m.time_s for m in timeline.moments] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert [m.latency_ms for m in timeline.moments[:2]] == [40.0, 40.0]
    assert math.isinf(timeline.moments[4].ratio) and math.isnan(timeline.moments[5].ratio)
    assert len(timeline.taken) == 6 and timeline.duration_s == 3.0


@pytest.mark.parametrize(('events', 'kinds', 'fell', 'rose', 'was_up'), [
    ('..ssss....', 'ccuuuurrcc', 0.0, 1.0, True),      # falls at once; rises 1 s after the end
    ('..ssss....', 'ccccuuuccc', 1.0, 0.5, True),      # falls 1 s late; rises one frame after
    ('..ssss....', 'ccuucccccc', 0.0, -1.0, True),     # rises 1 s before the end
    ('..ssss....', 'ccuucuuucc', 0.0, 1.0, True),      # a short rise does not count
    ('..ssss....', 'cccccccccc', math.inf, 0.0, True),  # never falls
    ('..ssss....', 'ccuuuuuuuu', 0.0, math.inf, True),  # never rises
    ('..ssss....', 'uuuuuucccc', 0.0, 0.0, False),     # was false before
    ('..ssss....', 'cuuuuucccc', 0.0, 0.0, True),      # was true shortly before
    ('..ssssdddd', 'ccuuuucccc', 0.0, math.inf, True),  # rises only in the next event
    ('ssss......', 'uuuucccccc', 0.0, 0.0, False),     # the event begins with the dive
    ('..ss ss...'.replace(' ', 's'), 'c uu  uccc', 0.0, 0.0, True),  # dropped frames are skipped
])
def test_events_know_when_the_flag_fell_and_rose(
    events: str, kinds: str, fell: float, rose: float, was_up: bool
) -> None:
    event = timeline_of(events, kinds).events[0]
    assert (event.fell_after_s, event.recovered_after_s, event.was_up_before) == (
        fell, rose, was_up
    )


@pytest.mark.parametrize(('events', 'kinds', 'said'), [
    (GOOD[0], 'rccccccccccccuurrccc', 'fall at the silt cloud at 2.0 s'),
    (GOOD[0], 'rcccuuuuuuuuuuuurccc', 'rise again after the silt cloud'),
    (GOOD[0], 'uuuuuuuucccccuurrccc', 'true before the silt cloud'),
    (GOOD[0], 'rruuuuuuuuucuuurrccc', '33%'), ('....ssss............', GOOD[1], 'short'),
])
def test_bad_flag_is_said_in_a_sentence(events: str, kinds: str, said: str) -> None:
    assert any(said in problem for problem in problems_of(timeline_of(events, kinds)))


def test_pictures_and_summary_of_a_dive(tmp_path: Path) -> None:
    dive, out = write_bags(tmp_path, '....ssss....dddd....', 'rcccuuuuc ccfuurrccc')
    card = tiny_card()
    sheet = tmp_path / 'sheet.png'
    timeline = make_pictures(dive, out, card, 'subtitle', sheet)
    picture = cv2.imread(str(sheet))
    assert picture.shape[1] > 2000
    colors = {tuple(c) for c in picture.reshape(-1, 3)[::7].tolist()}
    assert {FLAG_COLORS['confident'], FLAG_COLORS['uncertain'], FLAG_COLORS['fault']} <= colors
    text = '\n'.join(summary_lines(timeline))
    assert re.search('20 .*19 .*1 ', text)
    assert '40 ms' in text
    assert re.search('diver.*6.0 .*8.0 s.* 0.0 s', text)
    assert all(len(line) <= 100 for line in text.splitlines())


def test_frames_of_a_fault_and_of_a_dropped_frame_have_no_mask(tmp_path: Path) -> None:
    dive, out = write_bags(tmp_path, '....', 'cf c')
    frames = list(iter_frames(dive, out, read_timeline(dive, out).moments))
    assert [f.label is not None for f in frames] == [True, False, False, True]
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 10, 20, 30]
    assert frames[3].heatmap is not None and frames[3].heatmap[0, 0, 0] == 30


def test_sheet_shows_plain_worst_and_recovered() -> None:
    timeline = timeline_of('....bb..ssss......dddd..xx..', 'rccccccc' 'uuuuccccccuuuuccuucc')
    chosen = choose_moments(timeline, ())
    assert len(chosen) <= MAX_COLUMNS
    assert [m.event for m in chosen] == [
        'inspection', 'burial', 'silt_cloud', 'inspection', 'diver', 'fish'
    ]
    assert [m.kind for m in chosen] == [
        'confident', 'confident', 'uncertain', 'confident', 'uncertain', 'uncertain'
    ]
    assert [m.stamp_ns for m in chosen] == sorted(m.stamp_ns for m in chosen)
    drawn = [m.stamp_ns for m in timeline.moments if m.event == 'silt_cloud'][1:2]
    again = choose_moments(timeline, drawn)
    assert [m.stamp_ns for m in again if m.event == 'silt_cloud'] == drawn
    assert [m for m in again if m.event != 'silt_cloud'] == [
        m for m in chosen if m.event != 'silt_cloud']


def test_without_ros_the_demo_names_offline(tmp_path: Path) -> None:
    (tmp_path / 'rclpy.py').write_text('raise ImportError("no rclpy here")')
    with pytest.raises(BackendUnavailableError, match=r'no rclpy here.*offline'):
        demo_live.require_ros({'PYTHONPATH': str(tmp_path)})


def test_the_processes_of_the_demo_find_this_package() -> None:
    given = {'PYTHONPATH': 'given', 'HOME': 'h', 'ROS_DOMAIN_ID': '9'}
    found = demo_live.ros_environment(given, 7)
    folder, after = found['PYTHONPATH'].split(os.pathsep)
    assert (Path(folder) / 'uncertainty_seg' / '__init__.py').is_file()
    assert (after, found['HOME'], found['ROS_DOMAIN_ID']) == ('given', 'h', '7')
    profile = Path(found['FASTDDS_DEFAULT_PROFILES_FILE'])
    assert profile.is_file() and found['FASTRTPS_DEFAULT_PROFILES_FILE'] == str(profile)


def test_pace_is_at_most_the_dives_own(tmp_path: Path, tiny_bundle: Path) -> None:
    from uncertainty_seg.core.settings import settings_from_dict

    settings = settings_from_dict({'model': str(tiny_bundle), 'backend': 'onnxruntime'})
    pipeline = open_pipeline(load_bundle(settings.model), settings)
    dive, _ = write_bags(tmp_path, '....', 'cccc')
    assert find_pace(pipeline, dive, 1e-6) == 1.0
    assert 0 < find_pace(pipeline, dive, 1e9) < 1e-3


def test_the_demo_is_in_a_domain_that_no_process_of_the_computer_is_in() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        used = int(demo_live.ros_environment({})['ROS_DOMAIN_ID'])
        taken.bind(('', 7400 + 250 * used))
        found = {demo_live.own_domain() for _ in range(300)}
    assert used not in found and len(found) > 50


@pytest.mark.parametrize(('words', 'named'), [
    (['--set', 'passes=3'], 'passes is 3'), (['--set', 'backend=tensorrt'], 'NVIDIA'),
    ([], 'no_rmw')])
def test_what_would_fail_later_is_said_before_a_dive_is_rendered(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], words: list[str], named: str,
) -> None:
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'no_rmw')
    out = tmp_path / 'out'
    assert main(['demo', '--out', str(out), '--set', f'model={tiny_bundle}', *words]) > 0
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_offline_demo_end_to_end(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['demo', '--offline', '--out', str(tmp_path / 'out'), '--duration', '4', '--rate',
             '4', '--size', '64x48', '--set', f'model={tiny_bundle}']
    assert main([*words, '--no-check']) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts['frames'], facts['processed'], facts['is_offline']) == (16, 16, True)
    names = {p.name for p in (tmp_path / 'out').iterdir()}
    assert {'dive', 'output_bag', 'contact_sheet.png'} <= names
    # The tiny network only classifies colours, so its flag fails the demo's check.
    assert main(words) == 1
    said = capsys.readouterr()
    assert 'flag' in said.err.splitlines()[-1]
    assert json.loads(said.out.splitlines()[-1])['problems']


def test_child_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / 'child.py').write_text(
        "import sys\nprint('reading')\nprint('cannot find the sea', file=sys.stderr)\nsys.exit(3)"
    )
    child = ChildProcess('diver', 'child', [], tmp_path, {'PYTHONPATH': str(tmp_path)})
    with child, pytest.raises(UncertaintySegError, match='cannot find the sea'):
        child.result()


@contextmanager
def interrupting(number: int) -> Iterator[None]:
    """Turn a signal into a KeyboardInterrupt."""
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_second_signal_leaves_no_child_that_is_slow_to_end(tmp_path: Path) -> None:
    (tmp_path / 'child.py').write_text(
        'import json, os, signal, time\n'
        'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
        "print(json.dumps({'ready': os.getpid()}))\n"
        'time.sleep(120)\n'
    )
    child = ChildProcess('diver', 'child', [], tmp_path, {'PYTHONPATH': str(tmp_path)})
    with interrupting(signal.SIGUSR1), pytest.raises(KeyboardInterrupt), child:
        child.wait_for('ready', 60, [])
        # Interrupts while the end of the block stops the process and waits for it.
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    pid = json.loads((tmp_path / 'diver.out').read_text())['ready']
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_signal_while_a_child_is_started_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'child.py').write_text('import time\ntime.sleep(120)\n')
    started, real = [], subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(real(*args, **kwargs))
        signal.raise_signal(signal.SIGUSR1)
        return started[0]

    monkeypatch.setattr(subprocess, 'Popen', popen)
    child = ChildProcess('diver', 'child', [], tmp_path, {'PYTHONPATH': str(tmp_path)})
    with interrupting(signal.SIGUSR1), pytest.raises(KeyboardInterrupt):
        child.__enter__()
    assert started[0].poll() is not None


def test_child_is_interrupted_and_its_last_line_read(tmp_path: Path) -> None:
    (tmp_path / 'child.py').write_text(
        'import json, signal, sys, threading\n'
        'stop = threading.Event()\n'
        'signal.signal(signal.SIGINT, lambda *_: stop.set())\n'
        "print(json.dumps({'ready': sys.argv[1]}))\n"
        'stop.wait(60)\n'
        "print(json.dumps({'done': 7}))\n"
    )
    child = ChildProcess('diver', 'child', ['yes'], tmp_path, {'PYTHONPATH': str(tmp_path)})
    with child:
        child.wait_for('ready', 60, [])
        child.require_running()
        child.stop()
        assert child.result() == {'done': 7}
        with pytest.raises(UncertaintySegError, match='diver'):
            child.require_running()
