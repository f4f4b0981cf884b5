# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Python's log records reach the ROS logger with their severities; no console holds them up."""

import logging
import os
import pty
import select
import socket
import subprocess
import sys
import termios
from typing import Any

import pytest
from rclpy.logging import get_logger, LoggingSeverity, set_logger_level
from ros_helpers import ROOT, ros_environment, TIMEOUT_S

from uncertainty_seg.ros.node_life import ros_logging


def test_every_severity_that_the_node_has_passes_and_logging_is_put_back(capfd: Any) -> None:
    logger = get_logger('bridge')
    set_logger_level('bridge', LoggingSeverity.INFO)
    package = logging.getLogger('uncertainty_seg')
    before = package.level, package.propagate, list(package.handlers)
    with ros_logging(logger):
        for level in (10, 20, 30, 40, 50):
            logging.getLogger('uncertainty_seg.core.somewhere').log(level, 'line of %d', level)
    written = ''.join(capfd.readouterr())
    assert 'line of 10' not in written
    for severity, level in (('INFO', 20), ('WARN', 30), ('ERROR', 40), ('FATAL', 50)):
        assert any(f'[{severity}]' in line and f'line of {level}' in line
                   for line in written.splitlines())
    assert (package.level, package.propagate, package.handlers) == before


TALKER = """
import sys
from rclpy.logging import get_logger
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.node_life import run_program
def talk(words):
    for _ in range(9000):
        get_logger('talker').info('x' * 99)
    raise ConfigError('a', 'b')
sys.exit(run_program('talker', '', [], talk))
"""


@pytest.mark.parametrize('kind', ['pipe', 'journal', 'terminal'])
def test_a_console_that_nobody_reads_holds_up_no_thread(kind: str, domain: int) -> None:
    if kind == 'journal':
        ends = [one.detach() for one in socket.socketpair()]
    else:
        ends = [*(os.pipe() if kind == 'pipe' else pty.openpty())]
    if kind == 'terminal':
        termios.tcflow(ends[1], termios.TCOOFF)  # Ctrl-S
    done = subprocess.run([sys.executable, '-c', TALKER], stdout=ends[1], stderr=ends[1],
                          env=ros_environment(domain), timeout=TIMEOUT_S)
    assert done.returncode == 2
    for end in ends:
        os.close(end)


DUMPER = """
import threading
from uncertainty_seg.ros import node_life, process_watch
def deep(left):
    deep(left - 1) if left else threading.Event().wait()
node_life.unblock_console()
for _ in range(20):
    threading.Thread(target=deep, args=(30,), daemon=True).start()
process_watch._report('x')
"""


def test_a_terminal_that_takes_a_few_kilobytes_at_a_time_shows_the_stack_of_every_thread() -> None:
    reads, writes = pty.openpty()
    text = b''
    with subprocess.Popen([sys.executable, '-c', DUMPER], stderr=writes, cwd=ROOT) as process:
        os.close(writes)
        while process.poll() is None or select.select([reads], [], [], 0)[0]:
            try:
                text += os.read(reads, 1 << 16)
            except OSError:  # the other end was closed
                break
    os.close(reads)
    assert text.count(b'in deep') == 20 * 31
