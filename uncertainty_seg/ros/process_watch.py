# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Watches the process: reports to systemd and Nav2's manager while it works, and else ends it.

A separate thread observes two counters: the worker's beats, which also grow without frames, and
the executor's turns. A thread that has ended or hangs cannot be restored inside the process. The
flag is then published as false with the cause for the last time, and the process ends with exit
code 3, so that systemd or `ros2 launch` starts a new one.

Time is summed over the checks, at most `LONGEST_LOOK_S` for each: a process that was paused
(SIGSTOP, a suspended computer, a debugger) does not count as hung.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import ctypes
from dataclasses import dataclass
import faulthandler
import os
import queue
import select
import socket
import sys
import tempfile
import threading
import time
from typing import Any, NoReturn
import uuid

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.health import PartFaults
from uncertainty_seg.ros.node_life import header_now

EXIT_REFUSED, EXIT_WATCH = 2, 3
# Interval of the checks, and the most time that a late check counts.
LOOK_EVERY_S, LONGEST_LOOK_S = 0.1, 0.5
# A transition loads networks, compiles or builds engines without a turn of the executor. Equal to
# TimeoutStartSec of the systemd unit.
LONGEST_TRANSITION_S = 3600.0
# Compiling, building and loading a network cannot be interrupted: a process that is told to stop
# meanwhile ends after LEAVE_AFTER_S. No frame has been judged or logged by then.
UNINTERRUPTED = ('configure',)
LEAVE_AFTER_S, LEAVE_S = 0.5, 0.5
# Limits for the last false flag with the frame log, and for the log lines: a thread that hangs
# may hold their locks.
LAST_WORDS_S, FLUSH_S = 5.0, 1.0


class ServiceManager:
    """
    Report the state of the service to systemd; do nothing if systemd did not start this process.

    `feed_every_s` is the interval for feeding the watchdog, a third of its timeout; 0 without one.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get('NOTIFY_SOCKET', '')
        # An abstract socket is written with an @ in place of the first byte, which is 0.
        self._address = '\0' + address[1:] if address.startswith('@') else address
        is_ours = environment.get('WATCHDOG_PID', '') in ('', str(os.getpid()))
        microseconds = environment.get('WATCHDOG_USEC', '')
        self.feed_every_s = (
            int(microseconds) / 3e6 if address and is_ours and microseconds.isdecimal() else 0.0)

    def tell(self, *lines: str) -> bool:
        """Send assignments such as 'READY=1', without blocking; return whether that worked."""
        if not self._address:
            return False
        text = '\n'.join(' '.join(line.split()) for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.setblocking(False)  # a service manager that hangs must not block the watch
                link.sendto(text.encode(), self._address)
        except (OSError, ValueError):  # the socket has gone, is full, or has no usable name
            return False
        return True


# The values of Nav2's own nodes.
BOND_PERIOD_S, BOND_TIMEOUT_S = 0.1, 4.0


class LifecycleBond:
    """
    The bond by which Nav2's lifecycle manager notices that an active node has died.

    The node publishes on the topic `bond` under its name; the manager takes its nodes down when
    one has been silent for its `bond_timeout`. Raises ConfigError if the package bond is missing.
    A timer of the executor sends the heartbeats. bondpy sends them from a thread, so that a node
    whose callbacks hang looks alive, and stops for good if no manager answers for 10 s.
    """

    def __init__(self, node: Node, faults: PartFaults) -> None:
        self._node, self._faults = node, faults
        try:
            from bond.msg import Status
        except ImportError as err:
            raise ConfigError(
                f'bond is true and the messages of the ROS package bond are missing ({err})',
                fix='install it, as with apt install ros-$ROS_DISTRO-bond, or set bond to false',
            ) from err
        self._status: Any = Status
        self._ends: tuple[Any, ...] = ()

    def start(self) -> None:
        """Start the heartbeats, with a new instance id."""
        self.stop()
        self._me = str(uuid.uuid4())
        self._ends = (
            self._node.create_publisher(self._status, 'bond', QoSProfile(depth=5)),  # as bondcpp
            self._node.create_timer(BOND_PERIOD_S, lambda: self._publish(True), clock=Clock(
                clock_type=ClockType.STEADY_TIME)))

    def stop(self) -> None:
        """Announce the regular end of the bond, and stop the heartbeats."""
        if self._ends:
            self._publish(False)
            publisher, timer = self._ends
            self._ends = ()
            self._node.destroy_timer(timer)
            self._node.destroy_publisher(publisher)

    def _publish(self, is_active: bool) -> None:
        with self._faults.alone('bond'):
            msg = self._status(
                id=self._node.get_name(), instance_id=self._me, active=is_active,
                heartbeat_timeout=BOND_TIMEOUT_S, heartbeat_period=BOND_PERIOD_S)
            msg.header = header_now(self._node.get_clock())
            publisher = self._ends[0]
            publisher.publish(msg)
            if not is_active and hasattr(publisher, 'wait_for_all_acked'):
                publisher.wait_for_all_acked(Duration(seconds=0.2))


@dataclass(frozen=True)
class LifeSigns:
    """
    The state of a node for the watch.

    The flag falls after `stale_s` without a turn; a thread that stands still for `stuck_s` ends
    the process, never if that is 0. `worker` equals that of the last check if the worker stood
    still since, and is None without one. A refusal ends the process: a restart would not help.
    """

    stale_s: float = 1.0
    stuck_s: float = 0.0
    worker: object = None
    worker_end: str = ''
    in_work: str = ''
    transition: str = ''
    status: str = ''
    refusal: str = ''


class _Stillness:
    """How long a value has been the same, in seconds, summed over the checks."""

    def __init__(self) -> None:
        self._value: object = None
        self.seconds = 0.0

    def look(self, value: object, elapsed_s: float) -> float:
        self.seconds = self.seconds + elapsed_s if value == self._value else 0.0
        self._value = value
        return self.seconds


class ProcessWatch:
    """
    Watch a node's threads while the block runs, and feed systemd's watchdog while they work.

    The node provides `life_signs`, which takes no lock, `fall`, `last_words` and `leave`;
    `exit_process` ends the process without waiting for any thread.
    """

    def __init__(
        self, node: Any, systemd: ServiceManager,
        exit_process: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node, self._systemd = node, systemd
        self._exit, self._clock, self._is_stopping = exit_process, clock, is_stopping
        self._stopping_s = 0.0
        self._turns = 0
        self._worker, self._executor = _Stillness(), _Stillness()
        self._looked_s = clock()
        self._fed_s, self._status = -float('inf'), ''
        self._has_fallen = False
        self._ending = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='process-watch', daemon=True)
        # Started now, for when there is no memory left for a thread, or no more are allowed.
        self._spare: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=_run_each, args=(self._spare,), name='spare', daemon=True).start()

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._systemd.tell('STOPPING=1', 'STATUS=stopping')

    def turn(self) -> None:
        """Count a turn of the executor."""
        self._turns += 1

    def look(self) -> None:
        """Check once: feed systemd's watchdog, or end the process."""
        now_s = self._clock()
        elapsed_s = min(now_s - self._looked_s, LONGEST_LOOK_S)
        self._looked_s = now_s
        signs = self._node.life_signs()
        if signs.refusal:
            self.leave(signs.refusal, EXIT_REFUSED)
        if self._is_stopping() and signs.transition in UNINTERRUPTED:
            self._stopping_s += elapsed_s
            if self._stopping_s >= LEAVE_AFTER_S:
                self.leave(f'the node was told to stop during {signs.transition}')
        if signs.worker_end:
            self.end(f'the worker has ended: {signs.worker_end}')
        worker_s = self._worker.look(signs.worker, elapsed_s) if signs.worker is not None else 0.0
        executor_s = self._executor.look((self._turns, signs.transition), elapsed_s)
        if signs.transition:
            self._has_fallen = False
        else:
            self._judge_executor(executor_s, signs)
        if signs.stuck_s and worker_s >= signs.stuck_s:
            what = signs.in_work or 'no frame'
            self.end(f'the worker hangs: no progress for {worker_s:.1f} s with {what} in work, '
                     f'and stuck_timeout_s allows {signs.stuck_s:g} s; raise it if a frame may '
                     'take that long')
        if not signs.transition or executor_s < LONGEST_TRANSITION_S:
            self._feed(signs, now_s)

    def end(self, cause: str) -> NoReturn:
        """End the process with the cause as the last reason of the flag; never returns."""
        self._begin_to_end()
        self._attempt(lambda: self._node.last_words(cause), LAST_WORDS_S)
        self._systemd.tell('STOPPING=1', f'STATUS={cause}')
        self._attempt(lambda: _report(cause), FLUSH_S)
        self._exit(EXIT_WATCH)
        raise SystemExit(EXIT_WATCH)

    def leave(self, cause: str, code: int = 0) -> NoReturn:
        """End the process cleanly although a transition or callback hangs; never returns."""
        self._begin_to_end()
        self._systemd.tell('STOPPING=1', f'STATUS={cause}')
        self._attempt(lambda: self._node.leave(cause), LEAVE_S)
        if code:
            _say(cause)
        self._attempt(_flush, LEAVE_S)
        self._exit(code)
        raise SystemExit(code)

    def _attempt(self, action: Callable[[], None], timeout_s: float) -> None:
        """Run an action that may never return in a thread, and wait `timeout_s` for it."""
        done = threading.Event()

        def run() -> None:
            try:
                action()
            finally:
                done.set()

        try:
            threading.Thread(target=run, name='last-words', daemon=True).start()
        except (RuntimeError, MemoryError):
            self._spare.put(run)
        done.wait(timeout_s)

    def _begin_to_end(self) -> None:
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is ending the process

    def _judge_executor(self, still_s: float, signs: LifeSigns) -> None:
        sentence = f'the callbacks of the node have not run for {still_s:.1f} s'
        if signs.stuck_s and still_s >= signs.stuck_s:
            self.end(f'a callback hangs: {sentence}, and stuck_timeout_s allows '
                     f'{signs.stuck_s:g} s')
        if still_s < signs.stale_s:
            self._has_fallen = False
        elif not self._has_fallen:
            self._has_fallen = True  # once: the hanging callback may hold the verdict's lock
            self._attempt(lambda: self._node.fall(sentence), LOOK_EVERY_S)

    def _feed(self, signs: LifeSigns, now_s: float) -> None:
        lines = []
        if signs.status != self._status:
            self._status = signs.status
            lines.append(f'STATUS={signs.status}')
        every_s = self._systemd.feed_every_s
        if every_s and now_s - self._fed_s >= every_s:
            self._fed_s = now_s
            lines.append('WATCHDOG=1')
        if lines:
            self._systemd.tell(*lines)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception as err:  # without the watch nothing would end a hanging process
                self.end(f'the watch of the process failed: {type(err).__name__}: {err}')


def _run_each(actions: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        with contextlib.suppress(Exception):
            actions.get()()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        print(f'uncertainty_seg_node: {text}', file=sys.stderr, flush=True)


def _report(cause: str) -> None:
    # Directly to stderr: the ROS log may be what hangs.
    _say(f'{cause}; the process ends with exit code {EXIT_WATCH}. What each thread does:')
    with contextlib.suppress(Exception), tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read()
        while text:  # a terminal takes a few kB at a time, and stderr does not wait
            select.select([], [2], [])
            text = text[os.write(2, text):]
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)  # the ROS logger writes to C streams
