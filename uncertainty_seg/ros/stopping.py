# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Let a node run until a signal ends it in order, and past faults of its callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import signal
import threading
import traceback
from types import FrameType

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor


def stop_on_signals() -> threading.Event:
    """
    Turn the first signal into an event; the second is a KeyboardInterrupt.

    ROS's own handlers must be off: they would close the context before the node could say a last
    word. A second signal does not wait for an engine that does not come back.

    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def clock_fault(err: Exception) -> str:
    """Return a sentence if it was rclpy that could not use a message on /clock, else nothing."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(err.__traceback__)]
    if any(code.co_name == 'clock_callback' and Path(code.co_filename).name == 'time_source.py'
           for code in codes):
        return f'a time on /clock cannot be used and is passed over: {err}'
    return ''


def spin_until(
    stop: threading.Event, executor: SingleThreadedExecutor, on_fault: Callable[[Exception], None]
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
        Told of what a callback raised; called inside the except block. A fault of ours in one
        callback must not take the node from the vehicle.

    Raises
    ------
    ExternalShutdownException
        If somebody else closed the context.

    """
    while not stop.is_set():
        try:
            executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            raise
        except Exception as err:
            on_fault(err)
