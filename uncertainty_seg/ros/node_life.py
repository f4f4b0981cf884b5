# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What rclpy leaves to its users in the life of a node: start, log, signals, transitions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
import logging
import os
import re
import signal
import socket
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

# The start. ROS passes over words that are not for it, and DDS ends the process itself where the
# domain is out of range.

LARGEST_DOMAIN = 232
_SOURCE_LINE = re.compile(r',? at /[^\s,]+:\d+')
# rcl takes others, and fails when it makes the node.
_NAMESPACE = re.compile(r'(\w+:)?__ns:=(/|(/[A-Za-z_]\w*)+)', re.ASCII)


def run_program(
    program: str, about: str, args: Sequence[str] | None, run: Callable[[list[str]], int]
) -> int:
    """
    Run a node's program, which takes --help and else arguments of ROS only; returns the exit code.

    A fault at the start is one sentence, with the code of `exit_code`. Any other word is one, too:
    ROS would run the node without what it was to say.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog=program, description=about,
        usage=f'{program} --ros-args [-p NAME:=VALUE] [-r FROM:=TO] [--params-file FILE] ...')
    _, strays = parser.parse_known_args(split_words(words)[0])
    try:
        if strays:
            raise ConfigError(f'arguments cannot be used: {some_of(map(repr, strays))}',
                              'ROS arguments after --ros-args',
                              f'{program} --ros-args -p NAME:=VALUE')
        return run(start_ros(words))
    except (UncertaintySegError, InvalidParameterTypeException) as err:
        print(f'{program}: {err}', file=sys.stderr)
        return exit_code(err)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def exit_code(err: Exception | None) -> int:
    """Return 2 for an error that another start meets again, and 1 for one that may heal."""
    is_passing = isinstance(err, BackendError) and not isinstance(err, BackendUnavailableError)
    is_ours = isinstance(err, (UncertaintySegError, InvalidParameterTypeException))
    return 2 if is_ours and not is_passing else 1


def start_ros(args: Sequence[str] | None = None) -> list[str]:
    """
    Start rclpy without its signal handlers, which would close the context before the last flag.

    Takes arguments as after the program's name, those of the process if None, and returns them.
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
    except RuntimeError as err:  # of rcl
        raise ConfigError(
            f'arguments cannot be used: {_SOURCE_LINE.sub("", str(err))}') from err
    return words


# The log: lines of the package's modules reach the console and /rosout.


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
            # rclpy ties a severity to the line that calls: each needs a line of its own.
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
        except Exception:  # who writes a line must not fail for it
            self.handleError(record)


@contextmanager
def ros_logging(logger: RcutilsLogger) -> Iterator[None]:
    """Send the package's log lines to a node's logger, at its level, while the block runs."""
    package = logging.getLogger('uncertainty_seg')
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


# Run a node until a signal ends it in order, past faults of its callbacks.

# A terminal and launch may both send the first signal; later than that, it is a second one.
SAME_SIGNAL_S = 0.5


def steady_s() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps."""
    # Only Linux has this clock; elsewhere the time that the machine sleeps is not counted.
    boot = getattr(time, 'CLOCK_BOOTTIME', None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def now_ns(clock: Clock) -> int:
    """Return the time of a ROS clock, ns; 0, as of one without a time, before 1970."""
    try:
        return int(clock.now().nanoseconds)
    except ValueError:  # how rclpy reads a /clock below 0
        return 0


def time_message(time_ns: int) -> Time:
    """Return a time, ns, as a message, which holds none after 2038 and gets 0 instead."""
    sec, nanosec = divmod(time_ns, 10**9)
    return Time(sec=sec, nanosec=nanosec) if -2**31 <= sec < 2**31 else Time()


def header_now(clock: Clock) -> Header:
    """Return a header of now."""
    return Header(stamp=time_message(now_ns(clock)))


def stop_on_signals() -> threading.Event:
    """
    Turn the first signal into an event; each that comes later is a KeyboardInterrupt.

    ROS's own handlers must be off. A second signal does not wait for an engine that does not
    return. The event is set at once, by a thread: Python's own handlers wait until the main thread
    returns from C, and a compiler or a runtime that loads a network may stay there for long.

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
    """Turn a signal into a KeyboardInterrupt; the first one sets the event where one is given."""
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
    """Let no further signal interrupt the last things that a process does."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def spin_until(
    stop: threading.Event, executor: SingleThreadedExecutor,
    on_fault: Callable[[Exception], None], on_turn: Callable[[], None] = lambda: None,
) -> None:
    """
    Run callbacks until the event, which is looked at several times a second.

    `on_fault` is given what a callback raised, inside the except block: a bug in one callback must
    not take the node from the vehicle. `on_turn` is called before each turn. Raises
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
    Turn what an `on_...` method raises into a sentence in the log; rclpy swallows it.

    It returns SUCCESS, FAILURE for an error of the package, which leaves the state as it was, and
    ERROR for others.
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

    `error` is what the last transition raised that is no error of the package, `failure` one that
    is, and `transition` the one that is running, in the executor's thread; empty for none.
    """

    error = ''
    failure: UncertaintySegError | None = None
    transition = ''

    def fall(self, reason: str) -> None:
        """Take note that a transition failed."""
        raise NotImplementedError

    def destroy_node(self) -> None:
        """Destroy the node, and what rclpy keeps of it: else it stays in the graph."""
        super().destroy_node()
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
