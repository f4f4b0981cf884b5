# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where the installed programs begin: a signal ends them in order from the first moment to the last.

To import ROS takes a second, in which Python would answer a signal with a traceback or be killed
by it; so would it at the end, after the last line of `main`. In both nothing is running that has
to be stopped, and the exit code is 0. What happens in between is up to each program.

"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from importlib import import_module
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
# A closed terminal or a lost SSH session, and Ctrl-\: unless the process was told to ignore them,
# as by nohup or by a shell that starts it in the background.
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a program in order."""
    return (*_ALWAYS, *(number for number in _UNLESS_IGNORED
                        if signal.getsignal(number) is not signal.SIG_IGN))


def node() -> NoReturn:
    """Run `uncertainty_seg_node`."""
    _run('uncertainty_seg.ros.main')


def governor() -> NoReturn:
    """Run `speed_governor`."""
    _run('uncertainty_seg.ros.governor.node')


def player() -> NoReturn:
    """Run `uncertainty_seg_play`."""
    _run('uncertainty_seg.ros.bag_player')


def _run(module: str) -> NoReturn:
    numbers = stop_signals()
    for number in numbers:
        signal.signal(number, _leave)
    code = int(import_module(module).main())
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads on
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # what the ROS logger wrote with C's streams
    # All is closed. Libraries would now wait for threads of theirs: Fast DDS up to 1.5 s.
    gc.collect()
    os._exit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)
