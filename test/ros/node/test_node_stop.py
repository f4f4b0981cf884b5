# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A signal at any time ends a process cleanly: exit code 0, a last false, nothing left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
import random
import signal
import sys
import time
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import FAULT_NODE, image_message, node_arguments, Process, solid
from ros_node_rig import node_rig, NodeRig

from uncertainty_seg.storage.bags.writer import BagWriter

RIGS = Path(__file__).resolve().parents[2] / 'rigs'
ENTRY = 'from uncertainty_seg.ros import entry; entry.{}()'
NUMBERS = (signal.SIGINT, signal.SIGTERM)
# A shell that starts the tests with `&` makes them, and so their processes, ignore some signals.
ALL_NUMBERS = [*NUMBERS, *(number for number in (signal.SIGHUP, signal.SIGQUIT)
                           if signal.getsignal(number) is not signal.SIG_IGN)]
# An idle machine needs 0.6 s; waiting for a configure to end would take half an hour.
LONGEST_S = 15.0


def catches(process: Process, number: int) -> bool:
    """Return whether a process has installed a handler for a signal."""
    text = Path(f'/proc/{process.pid}/status').read_text()
    mask = int(text.partition('SigCgt:')[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def wait_until(condition: Callable[[], Any], process: Process) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert process.is_running and time.monotonic() < end_s, process.output
        time.sleep(0.01)


def entry_words(program: str, words: list[str]) -> list[str]:
    return ['-c', ENTRY.format(program), *words]


def naming(words: list[str], name: str) -> list[str]:
    """Return arguments that rename a node, since a second node of the same name ends itself."""
    return [*([] if '--ros-args' in words else ['--ros-args']), '-r', f'__node:={name}']


@pytest.mark.release
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
@pytest.mark.parametrize('program', ['node', 'governor', 'player'])
def test_a_signal_at_any_moment_is_exit_code_0(
    tmp_path: Path, domain: int, program: str
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with BagWriter(tmp_path / 'images') as writer:
        writer.write_image('/image', 1, 'camera', np.zeros((4, 4, 3), np.uint8), 'bgr8')
    words = {'node': node_arguments(bundle, []), 'governor': [],
             'player': [str(tmp_path / 'images')]}[program]
    instants = random.Random(3)
    processes = []
    try:
        for k in range(4):  # in parallel, so that starts are as slow as on a busy machine
            named = [*words, *([] if program == 'player' else naming(words, f'stopped_{k}'))]
            processes.append(Process(entry_words(program, named), domain, tmp_path / f'log_{k}'))
        for k, process in enumerate(processes):
            wait_until(lambda one=process: catches(one, signal.SIGTERM), process)
            time.sleep(instants.uniform(0.0, 1.0))
            assert process.is_running, process.output
            process.send_signal(ALL_NUMBERS[k % len(ALL_NUMBERS)])
        for process in processes:
            assert process.wait() == 0, process.output
            assert 'Traceback' not in process.output and 'ignored' not in process.output
    finally:
        for process in processes:
            process.end()


@pytest.mark.release
def test_a_configure_that_stays_in_c_code_is_left_with_a_last_false(tmp_path: Path) -> None:
    with node_rig(tmp_path, [str(RIGS / 'ros_stop_node.py')]) as rig:
        rig.wait(lambda: 'in C' in rig.process.output, 'the configure')
        rig.client.wait_for_topics('/uncertainty_seg/confident', '/uncertainty_seg/status')
        rig.client.watched = None
        rig.flags.clear()
        start_s = time.monotonic()
        rig.process.send_signal(signal.SIGINT)
        assert not ends(rig)
        assert 'told to stop during configure' in rig.status[-1].status[0].message
        # It leaves the graph at once, not when its lease ends.
        rig.wait(lambda: not rig.client.node.count_publishers('/uncertainty_seg/confident'),
                 'an empty graph')
        assert time.monotonic() - start_s < LONGEST_S


@pytest.fixture()
def confident(tmp_path: Path) -> Iterator[NodeRig]:
    # The timeout is longer than the test, so that the flag does not fall for lack of frames.
    with node_rig(tmp_path, FAULT_NODE, gate__rise_frames=1, stale_timeout_s=30.0) as rig:
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        rig.client.watched = None
        yield rig


def ends(rig: NodeRig) -> bool:
    """Wait until the process has ended cleanly; return its last flag."""
    rig.wait(lambda: not rig.process.is_running, 'the end')
    assert rig.process.wait() == 0, rig.process.output
    assert 'Traceback' not in rig.process.output
    rig.client.spin(0.3)
    return bool(rig.flags[-1].data)


@pytest.mark.parametrize('number', [
    signal.SIGTERM, signal.SIGHUP, pytest.param(signal.SIGQUIT, marks=pytest.mark.release)])
def test_a_signal_ends_the_node_with_a_last_false(confident: NodeRig, number: int) -> None:
    confident.process.send_signal(number)
    assert not ends(confident)
    assert 'shut down' in confident.status[-1].status[0].message


def test_a_second_signal_during_a_callback_that_hangs_ends_it_with_a_last_false(
    confident: NodeRig
) -> None:
    confident.client.camera.publish(image_message(solid(0, 0, 255), 1, 'hang'))
    confident.wait(lambda: 'the callback hangs' in confident.process.output, 'that')
    confident.process.send_signal(signal.SIGINT)
    confident.client.spin(0.8)
    assert confident.flags[-1].data and confident.process.is_running
    start_s = time.monotonic()
    confident.process.send_signal(signal.SIGINT)
    assert not ends(confident)
    assert time.monotonic() - start_s < LONGEST_S


def test_a_domain_out_of_range_is_one_sentence(tmp_path: Path, domain: int) -> None:
    process = Process(entry_words('governor', []), domain, tmp_path / 'log',
                      {'ROS_DOMAIN_ID': '233'})
    assert process.wait() == 2, process.output
    assert '233' in process.output and process.output.count('\n') == 1


# Like ros2 launch, which leaves its processes running if it gets SIGTERM or is killed.
LAUNCH = (
    'import os, subprocess, sys, time\n'
    'os.environ["UNCERTAINTY_SEG_LAUNCHED_BY"] = str(os.getpid())\n'
    'print("child", subprocess.Popen([sys.executable, *sys.argv[1:]]).pid, flush=True)\n'
    'time.sleep(600)\n'
)


@pytest.mark.release
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='prctl is of Linux')
@pytest.mark.parametrize(('program', 'sign', 'number'), [
    ('node', 'active, waiting', signal.SIGKILL),
    ('governor', 'waiting for', signal.SIGTERM)])
def test_what_a_launch_started_ends_with_it(
    tmp_path: Path, domain: int, program: str, sign: str, number: int
) -> None:
    words = {'node': node_arguments(make_tiny_bundle(tmp_path / 'tiny'), []),
             'governor': []}[program]
    launch = Process(['-c', LAUNCH, *entry_words(program, words)], domain, tmp_path / 'log')
    wait_until(lambda: sign in launch.output, launch)
    child = Path('/proc', launch.output.partition('child ')[2].split()[0])
    launch.send_signal(number)
    launch.wait()
    end_s = time.monotonic() + LONGEST_S
    while child.exists():
        assert time.monotonic() < end_s, launch.output
        time.sleep(0.01)
    assert 'Traceback' not in launch.output
