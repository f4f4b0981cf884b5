# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A signal at any moment ends a process in order: exit code 0, a last false, nothing left."""

from collections.abc import Callable, Iterator
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import Client, needs_ros, node_arguments, own_domain, Process

from uncertainty_seg.storage.bags.writer import BagWriter

pytestmark = needs_ros
RIGS = Path(__file__).resolve().parents[2] / 'rigs'
ENTRY = 'from uncertainty_seg.ros.launching import entry; entry.{}()'
NUMBERS = (signal.SIGINT, signal.SIGTERM)
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
            processes.append(Process(entry_words(program, words), domain, tmp_path / f'log_{k}'))
        for k, process in enumerate(processes):
            wait_until(lambda one=process: catches(one, signal.SIGTERM), process)
            time.sleep(instants.uniform(0.0, 1.0))
            assert process.is_running, process.output
            process.send_signal(NUMBERS[k % 2])
        for process in processes:
            assert process.wait() == 0, process.output
            assert 'Traceback' not in process.output and 'ignored' not in process.output
    finally:
        for process in processes:
            process.end()


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


def test_a_signal_that_a_terminal_and_launch_both_send_is_one(
    tmp_path: Path, domain: int
) -> None:
    process = Process(node_arguments(make_tiny_bundle(tmp_path / 'tiny')), domain,
                      tmp_path / 'log')
    try:
        wait_until(lambda: 'active, waiting' in process.output, process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert 'Traceback' not in process.output
    finally:
        process.end()


@pytest.mark.parametrize('program', ['node', 'governor', 'player'])
@pytest.mark.parametrize('number', ['233', '-1', 'two', '7.5'])
def test_a_domain_out_of_range_is_one_sentence(
    tmp_path: Path, domain: int, program: str, number: str
) -> None:
    words = ['somewhere'] if program == 'player' else []
    process = Process(entry_words(program, words), domain, tmp_path / 'log',
                      {'ROS_DOMAIN_ID': number})
    try:
        assert process.wait() == 2, process.output
        assert f"ROS_DOMAIN_ID is '{number}', expected a whole number" in process.output
        assert process.output.count('\n') == 1
    finally:
        process.end()


def can_have_no_network() -> bool:
    if shutil.which('unshare') is None:
        return False
    done = subprocess.run(['unshare', '-n', 'true'], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize('program', ['node', 'governor', 'player'])
def test_no_network_interface_is_one_sentence(
    tmp_path: Path, domain: int, program: str
) -> None:
    if not can_have_no_network():
        pytest.skip('unshare -n is not allowed here')
    words = ['somewhere'] if program == 'player' else []
    process = Process(['-n', sys.executable, *entry_words(program, words)], domain,
                      tmp_path / 'log', python='unshare')
    try:
        assert process.wait() == 1, process.output
        assert 'no network interface is up' in process.output
        assert process.output.count('\n') == 1
    finally:
        process.end()


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, domain: int) -> None:
    (tmp_path / 'home').write_text('a file, in which not even root can make a folder')
    process = Process(
        node_arguments(make_tiny_bundle(tmp_path / 'tiny'), ['-c', ENTRY.format('node')]), domain,
        tmp_path / 'log', {'HOME': str(tmp_path / 'home'), 'TMPDIR': str(tmp_path),
                           'ROS_LOG_DIR': '', 'ROS_HOME': ''})
    try:
        wait_until(lambda: 'active, waiting' in process.output, process)
        assert process.interrupt() == 0
        assert 'the home cannot be written' in process.output
        (folder,) = tmp_path.glob('ros_log_*')
        assert list(folder.iterdir())
    finally:
        process.end()
