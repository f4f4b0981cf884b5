# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Entry point of `uncertainty_seg_node`.

A fault at the start is reported in one sentence: exit code 2 for a parameter, a name or an
argument, 1 for anything else. A signal ends it in order, with a last false flag, and exit code
0; after a second one nothing is waited for but that flag. Exit code 3 is a thread that has ended
or hangs, see `process_watch`.

"""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import faulthandler
import logging
import sys

import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from uncertainty_seg.errors import ConfigError, UncertaintySegError, UnknownModelError
from uncertainty_seg.ros.launching.start import start_node
from uncertainty_seg.ros.node import UncertaintySegNode
from uncertainty_seg.ros.node_life import (
    clock_fault,
    ignore_signals,
    ros_logging,
    spin_until,
    stop_on_signals,
)
from uncertainty_seg.ros.process_watch import ProcessWatch, ServiceManager

_log = logging.getLogger(__name__)
PROGRAM = 'uncertainty_seg_node'
ABOUT = ('The segmentation node. Its parameters: config/uncertainty_seg.yaml and '
         'docs/ros_interface.md; model must be given.')
EXIT_FAILED = 1
EXIT_MISUSE = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_HEAP_BYTES = 32 << 20


def keep_frames_on_the_heap() -> None:
    """
    Tell glibc to reuse memory of a camera frame's size instead of mapping it anew each time.

    Measured to cut the subscriber's CPU time two to four times. Does nothing where the C library
    is another one.

    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _HEAP_BYTES)


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until a signal ends it.

    Parameters
    ----------
    args : sequence of str or None
        Arguments as after the program's name; those of the process if None.

    Returns
    -------
    int
        Exit code.

    """
    keep_frames_on_the_heap()
    faulthandler.enable()  # what each thread did, where systemd's watchdog aborts the process
    try:
        return _run(start_node(PROGRAM, ABOUT, args))
    except (ConfigError, UnknownModelError, InvalidParameterTypeException) as err:
        return _fail(str(err), EXIT_MISUSE)
    except UncertaintySegError as err:
        return _fail(str(err), EXIT_FAILED)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def _run(words: Sequence[str]) -> int:
    stop = stop_on_signals()
    node = UncertaintySegNode(stop.is_set, words)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    systemd = ServiceManager()
    watch = ProcessWatch(node, systemd, is_stopping=stop.is_set)

    def on_fault(err: Exception) -> None:
        if sentence := clock_fault(err):
            node.get_logger().warning(sentence, once=True)
            return
        _log.exception('a callback failed')
        node.fall('internal error, see the log')

    try:
        with ros_logging(node.get_logger()):
            with watch:
                try:
                    if not node.autostart() and not stop.is_set():  # why is in the log already
                        return EXIT_FAILED
                    systemd.tell('READY=1')
                    spin_until(stop, executor, on_fault, watch.turn)
                except (ExternalShutdownException, UncertaintySegError):
                    raise
                except BaseException as err:
                    if stop.is_set():  # a second signal
                        raise
                    watch.end(f'a callback has ended the node: {type(err).__name__}: {err}')
            node.stop()
        return 0
    except KeyboardInterrupt:
        ignore_signals()
        watch.leave('the node was told to stop twice')
    finally:
        executor.shutdown()
        try:
            node.destroy_node()
        except Exception as err:  # the process ends anyway
            node.get_logger().warning(f'the node cannot be taken apart: {err}')


def _fail(sentence: str, code: int) -> int:
    print(f'{PROGRAM}: {sentence}', file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
