# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Hands what the package logs with Python's `logging` to the ROS logger.

Code outside `ros` never imports rclpy; its lines still reach the console and /rosout.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import get_logger_effective_level

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
        text = self.format(record)
        # rclpy ties a severity to the line that calls: each needs a line of its own.
        if record.levelno >= logging.CRITICAL:
            self._logger.fatal(text)
        elif record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
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
