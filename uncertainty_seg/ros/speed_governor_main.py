# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Entry point of `speed_governor`.

Exit code 2, and one sentence, for an argument or a parameter that cannot be used. A signal ends
it in order, with the slow factor, a last zero command where one was in force, and exit code 0.

"""

from __future__ import annotations

from collections.abc import Sequence
import sys

import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.speed_governor import SpeedGovernorNode
from uncertainty_seg.ros.stopping import clock_fault, spin_until, stop_on_signals

EXIT_MISUSE = 2


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until it is told to stop.

    Parameters
    ----------
    args : sequence of str or None
        Arguments as after the program's name; those of the process if None.

    Returns
    -------
    int
        Exit code.

    """
    try:
        # ROS's own handlers would close the context before the last words could be published.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:  # of rcl: an argument or a parameter file it cannot read
        return _refuse(f'arguments cannot be used: {err}')
    try:
        return _run()
    except (ConfigError, InvalidParameterTypeException) as err:  # the latter of rclpy's own
        return _refuse(str(err))
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def _run() -> int:
    stop = stop_on_signals()
    node = SpeedGovernorNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def on_fault(err: Exception) -> None:
        if sentence := clock_fault(err):
            node.get_logger().warning(sentence, once=True)
            return
        node.get_logger().error(f'a callback failed: {type(err).__name__}: {err}')
        node.fall('internal error, see the log')

    try:
        spin_until(stop, executor, on_fault)
        node.stop()
        return 0
    finally:
        executor.shutdown()
        node.destroy_node()


def _refuse(sentence: str) -> int:
    print(f'speed_governor: {sentence}', file=sys.stderr)
    return EXIT_MISUSE


if __name__ == '__main__':
    sys.exit(main())
