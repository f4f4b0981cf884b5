# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Entry points of the installed programs, which a signal ends cleanly at any moment.

While ROS is imported, a signal ends the process at once with exit code 0. While `main` runs, each
program handles signals itself. After `main` has returned, signals are ignored.

`ros2 launch` leaves its processes running if SIGTERM or SIGKILL ends it. The launch files
therefore pass its process id in `LAUNCHED_BY`, and the programs receive SIGTERM when it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import partial
import gc
from importlib import import_module
import os
from pathlib import Path
import signal
import sys
from typing import NoReturn

from uncertainty_seg.errors import UncertaintySegError

# Set by the launch files to the process id of `ros2 launch`.
LAUNCHED_BY = 'UNCERTAINTY_SEG_LAUNCHED_BY'
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a program cleanly."""
    # SIGHUP (closed terminal, lost SSH session) and SIGQUIT (Ctrl-\), unless the process was told
    # to ignore them, by nohup or by a shell that started it in the background.
    return (signal.SIGINT, signal.SIGTERM, *(
        number for number in (signal.SIGHUP, signal.SIGQUIT)
        if signal.getsignal(number) is not signal.SIG_IGN))


def _run(module: str) -> NoReturn:
    numbers = stop_signals()
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(0))
    _end_with(os.environ.pop(LAUNCHED_BY, ''))
    try:
        code = int(import_module(module).main())
    except ImportError as err:
        if (err.name or '').partition('.')[0] == 'uncertainty_seg':
            raise
        print(UncertaintySegError(
            f'{Path(sys.argv[0]).name}: ROS 2 cannot be used ({str(err).splitlines()[0]})',
            'a sourced ROS 2, or its wheels',
            'source /opt/ros/DISTRO/setup.bash, or see docs/start/install.md'), file=sys.stderr)
        code = 1
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader has gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # the ROS logger writes to C streams
    # All is closed. A normal exit would wait for library threads, up to 1.5 s for Fast DDS.
    gc.collect()
    os._exit(code)


def _end_with(launch: str) -> None:
    """Have the kernel send SIGTERM when the parent process ends; Linux only."""
    if not (launch.isdecimal() and sys.platform.startswith('linux')):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    try:
        os.kill(int(launch), 0)
    except ProcessLookupError:  # it has ended already
        os._exit(0)
    except PermissionError:  # it exists
        pass


# The entry points of the programs.
node = partial(_run, 'uncertainty_seg.ros.node')
governor = partial(_run, 'uncertainty_seg.ros.governor.node')
player = partial(_run, 'uncertainty_seg.ros.bag_player')
