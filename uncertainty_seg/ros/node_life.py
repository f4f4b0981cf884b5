# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What rclpy leaves to its users in the life of a node: log lines, signals, failed transitions.

Code outside of `ros` logs with Python's `logging`, a signal ends the node in order, a fault of a
callback does not end it, and an error inside a transition is reported in one sentence.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
import logging
from pathlib import Path
import signal
import socket
import threading
import time
import traceback
from types import FrameType
from typing import Any, TypeVar

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger_effective_level

from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.ros.launching.entry import stop_signals

# -------------------------------------------------------------------------------------------------
# Passes the log lines of the package from Python's `logging` to the ROS logger.
# Code outside `ros` never imports rclpy; its lines still reach the console and /rosout.

PACKAGE_LOGGER = 'uncertainty_seg'


class RosLogHandler(logging.Handler):
    """
    Write each record to a ROS logger.

    Parameters
    ----------
    logger : RcutilsLogger
        The node's.

    """

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record in the nearest ROS severity."""
        try:
            self._write(record.levelno, self.format(record))
        except Exception:  # who writes a line must not fail for it
            self.handleError(record)

    def _write(self, level: int, text: str) -> None:
        # rclpy ties a severity to the line that calls: each needs a line of its own.
        if level >= logging.CRITICAL:
            self._logger.fatal(text)
        elif level >= logging.ERROR:
            self._logger.error(text)
        elif level >= logging.WARNING:
            self._logger.warning(text)
        elif level >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


@contextmanager
def ros_logging(logger: RcutilsLogger) -> Iterator[None]:
    """
    Send the package's log lines to a ROS logger while the block runs.

    Parameters
    ----------
    logger : RcutilsLogger
        The node's; its level, as set by --log-level, holds for the package too.

    Yields
    ------
    None

    """
    package = logging.getLogger(PACKAGE_LOGGER)
    before = package.level, package.propagate
    handler = RosLogHandler(logger)
    package.addHandler(handler)
    # ROS counts 10, 20, 30, 40, 50 from debug to fatal, as Python does.
    package.setLevel(int(get_logger_effective_level(logger.name)))
    package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before[0])
        package.propagate = before[1]


# -------------------------------------------------------------------------------------------------
# The clock of everything that must notice silence.


def steady_s() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps."""
    # Only Linux has this clock; elsewhere the time that the machine sleeps is not counted.
    boot = getattr(time, 'CLOCK_BOOTTIME', None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


# -------------------------------------------------------------------------------------------------
# Run a node until a signal ends it in order, past faults of its callbacks.


# A terminal and launch may both send the first signal; later than that, it is a second one.
SAME_SIGNAL_S = 0.5


def stop_on_signals() -> threading.Event:
    """
    Turn the first signal into an event; each that comes later is a KeyboardInterrupt.

    ROS's own handlers must be off: they would close the context before the node could publish its
    last flag. A second signal does not wait for an engine that does not return. The event is set
    at once, by a thread: Python's own handlers wait until the main thread returns from C, and a
    compiler or a runtime that loads a network may stay there for many seconds.

    """
    stop = threading.Event()
    numbers = stop_signals()
    noted_s: list[float] = []
    here, there = socket.socketpair()
    there.setblocking(False)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        now_s = time.monotonic()
        if noted_s and now_s - noted_s[-1] <= SAME_SIGNAL_S:
            return
        noted_s.append(now_s)
        if len(noted_s) > 1:
            raise KeyboardInterrupt

    def listen() -> None:
        while number := here.recv(1):
            if number[0] in numbers:
                stop.set()

    signal.set_wakeup_fd(there.detach(), warn_on_full_buffer=False)
    threading.Thread(target=listen, name='signals', daemon=True).start()
    for number in numbers:
        signal.signal(number, on_signal)
    return stop


def interrupt_on_signals() -> None:
    """Turn a signal into a KeyboardInterrupt; what a terminal and launch both send into one."""
    noted_s: list[float] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if not noted_s or now_s - noted_s[-1] > SAME_SIGNAL_S:
            noted_s.append(now_s)
            raise KeyboardInterrupt

    for number in stop_signals():
        signal.signal(number, on_signal)


def ignore_signals() -> None:
    """Let no further signal interrupt the last things that a process does."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def clock_fault(err: Exception) -> str:
    """Return a sentence if it was rclpy that could not use a message on /clock, else nothing."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(err.__traceback__)]
    if any(code.co_name == 'clock_callback' and Path(code.co_filename).name == 'time_source.py'
           for code in codes):
        return f'a time on /clock cannot be used and is passed over: {err}'
    return ''


def spin_until(
    stop: threading.Event, executor: SingleThreadedExecutor,
    on_fault: Callable[[Exception], None], on_turn: Callable[[], None] = lambda: None,
) -> None:
    """
    Run callbacks until the event.

    Parameters
    ----------
    stop : Event
        Looked at several times a second.
    executor : SingleThreadedExecutor
        With the node.
    on_fault : callable
        Given what a callback raised; called inside the except block. A bug in one
        callback must not take the node from the vehicle.
    on_turn : callable, optional
        Called before each turn, several times a second.

    Raises
    ------
    ExternalShutdownException
        If the context was closed elsewhere.

    """
    while not stop.is_set():
        on_turn()
        try:
            executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            raise
        except Exception as err:
            on_fault(err)


# -------------------------------------------------------------------------------------------------

_NodeT = TypeVar('_NodeT', bound='SoundLifecycleNode')
_Transition = Callable[[_NodeT, LifecycleState], TransitionCallbackReturn]


def report_errors(transition: _Transition[_NodeT]) -> _Transition[_NodeT]:
    """
    Turn what a transition raises into a sentence in the log; rclpy swallows it.

    Parameters
    ----------
    transition : callable
        An `on_...` method of a `SoundLifecycleNode`.

    Returns
    -------
    callable
        FAILURE for an error of the package, which leaves the state as it was; ERROR for others.

    """

    @wraps(transition)
    def run(node: _NodeT, state: LifecycleState) -> TransitionCallbackReturn:
        node.transition = transition.__name__.removeprefix('on_')
        try:
            return transition(node, state)
        except UncertaintySegError as err:
            node.get_logger().error(str(err))
            node.fall(str(err))
            return TransitionCallbackReturn.FAILURE
        except Exception as err:
            node.error = f'{type(err).__name__}: {err}'
            node.get_logger().error(f'{transition.__name__}: {node.error}')
            return TransitionCallbackReturn.ERROR
        finally:
            node.transition = ''

    return run


class SoundLifecycleNode(LifecycleNode):
    """
    A lifecycle node that survives a transition its state does not allow.

    Attributes
    ----------
    error : str
        What the last transition raised that is no error of the package.
    transition : str
        The one that is running, in the executor's thread; empty for none.

    """

    error = ''
    transition = ''

    def fall(self, reason: str) -> None:
        """Take note that a transition failed."""
        raise NotImplementedError

    def destroy_node(self) -> None:
        """Destroy the node, and what rclpy keeps of it until the process ends."""
        super().destroy_node()
        # It holds the node, so the participant and its shared memory (32 MB) would stay behind.
        machine: Any = getattr(self, '_state_machine', None)
        if hasattr(machine, 'destroy_when_not_in_use'):
            machine.destroy_when_not_in_use()

    def _LifecycleNodeMixin__change_state(self, transition: int) -> Any:
        # In Humble and Jazzy an impossible transition, such as activate before configure, raises
        # out of the service's callback: the node would end, and its client would wait for ever.
        # The name is the private one of rclpy's mixin; where it is another, nothing is changed.
        try:
            return super()._LifecycleNodeMixin__change_state(transition)
        except RuntimeError as err:
            self.get_logger().error(f'transition {transition} is refused: {err}')
            return TransitionCallbackReturn.FAILURE
