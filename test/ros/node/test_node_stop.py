# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A signal at any moment ends a process in order: exit code 0, a last false, nothing left."""

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
from ros_helpers import (
    Client,
    FAULT_NODE,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
)

from uncertainty_seg.storage.bags.writer import BagWriter

pytestmark = needs_ros
RIGS = Path(__file__).resolve().parents[2] / 'rigs'
ENTRY = 'from uncertainty_seg.ros import entry; entry.{}()'
NUMBERS = (signal.SIGINT, signal.SIGTERM)
# A shell that starts the tests behind `&` has them ignore some, and so do their processes.
ALL_NUMBERS = [*NUMBERS, *(number for number in (signal.SIGHUP, signal.SIGQUIT)
                           if signal.getsignal(number) is not signal.SIG_IGN)]
# An idle machine needs 0.6 s; a configure that is waited for, half an hour.
LONGEST_S = 15.0


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


def catches(process: Process, number: int) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
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
    """Return what gives a node a name of its own, since a second one of a name ends itself."""
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
        for k in range(4):  # at once, so that what starts is slowed down as on a busy machine
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
@pytest.mark.parametrize('number', NUMBERS)
def test_a_configure_that_stays_in_c_code_is_left_with_a_last_false(
    tmp_path: Path, domain: int, number: int
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from std_msgs.msg import Bool

    arguments = node_arguments(make_tiny_bundle(tmp_path / 'tiny'),
                               [str(RIGS / 'ros_stop_node.py')])
    client = Client(domain)
    process = Process(arguments, domain, tmp_path / 'log')
    try:
        flags = client.listen('/uncertainty_seg/confident', Bool)
        status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        client.wait_for_topics('/uncertainty_seg/confident', '/uncertainty_seg/status')
        wait_until(lambda: 'in C' in process.output, process)
        client.spin(1.0)
        flags.clear()
        start_s = time.monotonic()
        process.send_signal(number)
        client.wait_until(lambda: not process.is_running, 'the end')
        assert time.monotonic() - start_s < LONGEST_S
        assert process.wait() == 0, process.output
        client.wait_until(lambda: flags, 'the last flag')
        assert not flags[-1].data
        assert 'told to stop during configure' in status[-1].status[0].message
        # It has left the graph, and does not stay there until its lease is over.
        client.wait_until(lambda: not client.node.count_publishers('/uncertainty_seg/confident'),
                          'an empty graph')
        assert time.monotonic() - start_s < LONGEST_S
        assert 'Traceback' not in process.output
    finally:
        client.close()
        process.end()


class Confident:
    """A node whose flag is up, and a client that has heard so."""

    def __init__(self, folder: Path, domain: int) -> None:
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Bool

        # Longer than the test, so that no flag falls because frames stop.
        words = node_arguments(make_tiny_bundle(folder / 'tiny'), FAULT_NODE,
                               gate__rise_frames=1, stale_timeout_s=30.0, max_repeats=-1)
        self.client = Client(domain)
        self.process = Process(words, domain, folder / 'log')
        self.flags = self.client.listen('/uncertainty_seg/confident', Bool)
        self.verdicts = self.client.listen('/uncertainty_seg/verdict', JointState)
        self.client.wait_for_topics('/uncertainty_seg/confident', '/uncertainty_seg/verdict')
        self.client.wait_for_camera_match()

    def send(self, encoding: str = 'bgr8') -> None:
        self.client.camera.publish(image_message(
            solid(0, 0, 255), time.monotonic_ns(), encoding))

    def raise_flag(self) -> None:
        def is_up() -> bool:
            self.send()
            self.client.spin(0.05)
            return self.last() == (True, True)
        self.client.wait_until(is_up, 'flag and verdict to be up')

    def last(self) -> tuple[bool, bool]:
        verdict = dict(zip(self.verdicts[-1].name, self.verdicts[-1].position, strict=True)
                       ) if self.verdicts else {}
        return bool(self.flags and self.flags[-1].data), verdict.get('confident') == 1.0

    def ends(self) -> tuple[bool, bool]:
        """Return flag and verdict as they were last when the process has ended in order."""
        self.client.wait_until(lambda: not self.process.is_running, 'the end')
        assert self.process.wait() == 0, self.process.output
        assert 'Traceback' not in self.process.output
        self.client.spin(0.3)
        return self.last()

    def close(self) -> None:
        self.client.close()
        self.process.end()


@pytest.fixture()
def confident(tmp_path: Path, domain: int) -> Iterator[Confident]:
    one = Confident(tmp_path, domain)
    try:
        one.raise_flag()
        yield one
    finally:
        one.close()


@pytest.mark.parametrize('number', [
    signal.SIGHUP, pytest.param(signal.SIGQUIT, marks=pytest.mark.release)])
def test_a_closed_terminal_ends_the_node_with_a_last_false(
    confident: Confident, number: int
) -> None:
    confident.process.send_signal(number)
    assert confident.ends() == (False, False)


def test_a_second_signal_during_a_callback_that_hangs_ends_it_with_a_last_false(
    confident: Confident
) -> None:
    confident.send('hang')
    confident.client.wait_until(lambda: 'the callback hangs' in confident.process.output, 'that')
    confident.process.send_signal(signal.SIGINT)
    confident.client.spin(0.8)
    assert confident.last() == (True, True) and confident.process.is_running
    start_s = time.monotonic()
    confident.process.send_signal(signal.SIGINT)
    assert confident.ends() == (False, False)
    assert time.monotonic() - start_s < LONGEST_S
    assert 'the node was told to stop twice' in confident.process.output


@pytest.mark.parametrize('number', ['233', 'two'])
def test_a_domain_out_of_range_is_one_sentence(
    tmp_path: Path, domain: int, number: str
) -> None:
    process = Process(entry_words('governor', []), domain, tmp_path / 'log',
                      {'ROS_DOMAIN_ID': number})
    assert process.wait() == 2, process.output
    assert number in process.output and process.output.count('\n') == 1


# As ros2 launch, which leaves its processes running when it gets SIGTERM or is killed.
LAUNCH = (
    'import os, subprocess, sys, time\n'
    'os.environ["UNCERTAINTY_SEG_LAUNCHED_BY"] = str(os.getpid())\n'
    'print("child", subprocess.Popen([sys.executable, *sys.argv[1:]]).pid, flush=True)\n'
    'time.sleep(600)\n'
)


@pytest.mark.release
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='prctl is of Linux')
@pytest.mark.parametrize(('program', 'sign', 'number'), [
    ('node', 'active, waiting', signal.SIGKILL), ('node', 'child', signal.SIGKILL),
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
