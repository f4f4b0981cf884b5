# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Start, logging, signals and transitions of a node, as far as rclpy leaves them to its users."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
import logging
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from types import FrameType
from typing import Any, TypeVar

from builtin_interfaces.msg import Time
import rclpy
from rclpy.clock import Clock
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger_effective_level
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header

from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    some_of,
    UncertaintySegError,
)
from uncertainty_seg.ros.entry import stop_signals
from uncertainty_seg.storage.parameter_files import given_files, read_parameter_file, split_words

# The start. ROS ignores arguments that are not its own, and DDS ends the process if the domain is
# out of range.

LARGEST_DOMAIN = 232
_SOURCE_LINE = re.compile(r',? at /[^\s,]+:\d+')
# rcl accepts others, and fails later, when it creates the node.
_NAMESPACE = re.compile(r'(\w+:)?__ns:=(/|(/[A-Za-z_]\w*)+)', re.ASCII)


def run_program(
    program: str, about: str, args: Sequence[str] | None, run: Callable[[list[str]], int]
) -> int:
    """
    Run a node's program, which takes only --help and ROS arguments; return the exit code.

    A fault at the start is printed as one sentence, with the code of `exit_code`. An unknown
    argument is such a fault, since ROS would ignore it.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog=program, description=about,
        usage=f'{program} --ros-args [-p NAME:=VALUE] [-r FROM:=TO] [--params-file FILE] ...')
    _, strays = parser.parse_known_args(split_words(words)[0])
    unblock_console()
    try:
        if strays:
            raise ConfigError(f'arguments cannot be used: {some_of(map(repr, strays))}',
                              'ROS arguments after --ros-args',
                              f'{program} --ros-args -p NAME:=VALUE')
        return run(start_ros(words))
    except (UncertaintySegError, InvalidParameterTypeException) as err:
        with suppress(OSError):  # lost, as above; text left in sys.stderr would change the code
            os.write(2, f'{program}: {err}\n'.encode(errors='replace'))
        return exit_code(err)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def unblock_console() -> None:
    """
    Let no line wait for the reader of stdout or stderr; lines that do not fit are lost.

    ROS logs while it holds the interpreter's lock. A terminal that stands still (Ctrl-S, a stalled
    SSH connection) or a pipe that nobody reads would stop every thread, with the last flag true.
    """
    for number in (1, 2):
        with suppress(OSError):
            kind = os.fstat(number).st_mode
            if stat.S_ISSOCK(kind):  # of systemd's journal
                os.set_blocking(number, False)
            elif stat.S_ISFIFO(kind) or os.isatty(number):
                # Opened again, because other processes share the first opening and its mode.
                own = os.open(f'/proc/self/fd/{number}', os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                os.dup2(own, number)
                os.close(own)


def exit_code(err: Exception | None) -> int:
    """Return 2 for an error that a restart would meet again, and 1 for one that may pass."""
    is_passing = isinstance(err, BackendError) and not isinstance(err, BackendUnavailableError)
    is_ours = isinstance(err, (UncertaintySegError, InvalidParameterTypeException))
    return 2 if is_ours and not is_passing else 1


def start_ros(args: Sequence[str] | None = None) -> list[str]:
    """
    Start rclpy without its signal handlers, which would close the context before the last flag.

    Takes the arguments after the program's name, those of the process if None, and returns them.
    Raises ConfigError if a parameter file, another argument or ROS_DOMAIN_ID cannot be used.
    """
    words = list(sys.argv[1:] if args is None else args)
    for path in given_files(words):
        read_parameter_file(path)
    for word in words:
        if '__ns:=' in word and not _NAMESPACE.fullmatch(word):
            raise ConfigError(f'arguments cannot be used: {word!r}',
                              'names of letters, digits and _ with a / before each')
    domain = os.environ.get('ROS_DOMAIN_ID', '')
    if domain and not (domain.isdecimal() and int(domain) <= LARGEST_DOMAIN):
        raise ConfigError(f'ROS_DOMAIN_ID is {domain!r}', f'a whole number from 0 to '
                          f'{LARGEST_DOMAIN}', 'DDS has no ports for others')
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:  # raised by rcl
        raise ConfigError(
            f'arguments cannot be used: {_SOURCE_LINE.sub("", str(err))}') from err
    return words


# Logging: the lines of the package's modules go to the console and /rosout.


class RosLogHandler(logging.Handler):
    """Write each record to the logger of a node."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record in the nearest ROS severity."""
        level, logger = record.levelno, self._logger
        try:
            text = self.format(record)
            # rclpy allows one severity per calling line, so each has its own call.
            if level >= logging.CRITICAL:
                logger.fatal(text)
            elif level >= logging.ERROR:
                logger.error(text)
            elif level >= logging.WARNING:
                logger.warning(text)
            elif level >= logging.INFO:
                logger.info(text)
            else:
                logger.debug(text)
        except Exception:  # a failure to log must not reach the caller
            self.handleError(record)


@contextmanager
def ros_logging(logger: RcutilsLogger) -> Iterator[None]:
    """Send the package's log lines to a node's logger, at its level, while the block runs."""
    package = logging.getLogger('uncertainty_seg')
    before = package.level, package.propagate
    handler = RosLogHandler(logger)
    package.addHandler(handler)
    # ROS numbers the severities from debug to fatal 10, 20, 30, 40, 50, as Python does.
    package.setLevel(int(get_logger_effective_level(logger.name)))
    package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before[0])
        package.propagate = before[1]


# Run a node until a signal ends it cleanly; faults of its callbacks do not end it.

# A terminal and launch may both send the first signal; only a later one counts as the second.
SAME_SIGNAL_S = 0.5


def steady_s() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps."""
    # Only Linux has this clock; elsewhere the time that the machine sleeps is not counted.
    boot = getattr(time, 'CLOCK_BOOTTIME', None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def now_ns(clock: Clock) -> int:
    """Return the time of a ROS clock, in ns; 0, as for a clock without a time, before 1970."""
    try:
        return int(clock.now().nanoseconds)
    except ValueError:  # raised by rclpy for a /clock below 0
        return 0


def time_message(time_ns: int) -> Time:
    """Return a time, in ns, as a message; 0 for times after 2038, which it cannot hold."""
    sec, nanosec = divmod(time_ns, 10**9)
    return Time(sec=sec, nanosec=nanosec) if -2**31 <= sec < 2**31 else Time()


def header_now(clock: Clock) -> Header:
    """Return a header with the current time of a clock."""
    return Header(stamp=time_message(now_ns(clock)))


def stop_on_signals() -> threading.Event:
    """
    Turn the first signal into an event, and each later one into a KeyboardInterrupt.

    ROS's own handlers must be off. A second signal does not wait for an engine that hangs. A
    thread sets the event at once: Python's own handlers wait until the main thread returns from C,
    where a compiler, or a runtime that loads a network, may stay for long.
    """
    stop, numbers = threading.Event(), stop_signals()
    here, there = socket.socketpair()
    there.setblocking(False)

    def listen() -> None:
        while number := here.recv(1):
            if number[0] in numbers:
                stop.set()

    signal.set_wakeup_fd(there.detach(), warn_on_full_buffer=False)
    threading.Thread(target=listen, name='signals', daemon=True).start()
    interrupt_on_signals(stop)
    return stop


def interrupt_on_signals(stop: threading.Event | None = None) -> None:
    """Turn signals into KeyboardInterrupt; the first one only sets the event, if one is given."""
    noted_s: list[float] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop is not None:
            stop.set()
        now_s = time.monotonic()
        if noted_s and now_s - noted_s[-1] <= SAME_SIGNAL_S:
            return
        noted_s.append(now_s)
        if stop is None or len(noted_s) > 1:
            raise KeyboardInterrupt

    for number in stop_signals():
        signal.signal(number, on_signal)


def ignore_signals() -> None:
    """Ignore further signals in the last steps of a process."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def spin_until(
    stop: threading.Event, executor: SingleThreadedExecutor,
    on_fault: Callable[[Exception], None], on_turn: Callable[[], None] = lambda: None,
) -> None:
    """
    Run callbacks until the event is set, which is checked several times a second.

    `on_fault` is called with the exception of a callback, inside the except block: a bug in one
    callback must not end the node. `on_turn` is called before each turn. Raises
    ExternalShutdownException if the context was closed elsewhere.
    """
    while not stop.is_set():
        on_turn()
        try:
            executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            raise
        except Exception as err:
            on_fault(err)


_NodeT = TypeVar('_NodeT', bound='SoundLifecycleNode')


def report_errors(
    transition: Callable[[_NodeT, LifecycleState], None]
) -> Callable[[_NodeT, LifecycleState], TransitionCallbackReturn]:
    """
    Log an exception of an `on_...` method, which rclpy would swallow.

    The method then returns SUCCESS, FAILURE for an error of the package, which keeps the state, or
    ERROR for any other.
    """

    @wraps(transition)
    def run(node: _NodeT, state: LifecycleState) -> TransitionCallbackReturn:
        node.transition = transition.__name__.removeprefix('on_')
        try:
            transition(node, state)
            return TransitionCallbackReturn.SUCCESS
        except UncertaintySegError as err:
            node.failure = err
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

    `error` describes the last exception of a transition that is no error of the package, `failure`
    is the last one that is. `transition` is the one in progress, in the executor's thread, or ''.
    """

    error = ''
    failure: UncertaintySegError | None = None
    transition = ''

    def fall(self, reason: str) -> None:
        """Handle the failure of a transition."""
        raise NotImplementedError

    def destroy_node(self) -> None:
        """Destroy the node and its state machine, which would keep it in the graph."""
        super().destroy_node()
        machine: Any = getattr(self, '_state_machine', None)
        if hasattr(machine, 'destroy_when_not_in_use'):
            machine.destroy_when_not_in_use()

    def _LifecycleNodeMixin__change_state(self, transition: int) -> Any:
        # In Humble and Jazzy an impossible transition, such as activate before configure, raises
        # out of the service's callback: the node would end, and its client would wait for ever.
        # This overrides a private method of rclpy's mixin; if its name changes, nothing happens.
        try:
            return super()._LifecycleNodeMixin__change_state(transition)
        except RuntimeError as err:
            self.get_logger().error(f'transition {transition} is refused: {err}')
            return TransitionCallbackReturn.FAILURE
