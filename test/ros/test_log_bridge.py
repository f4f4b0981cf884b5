# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Python's log records reach the ROS logger with their severities."""

import logging
from typing import Any

from rclpy.logging import get_logger, LoggingSeverity, set_logger_level

from uncertainty_seg.ros.node_life import ros_logging


def test_every_severity_that_the_node_has_passes_and_logging_is_put_back(capfd: Any) -> None:
    logger = get_logger('bridge')
    set_logger_level('bridge', LoggingSeverity.INFO)
    package = logging.getLogger('uncertainty_seg')
    before = package.level, package.propagate, list(package.handlers)
    with ros_logging(logger):
        for level in (10, 20, 30, 40, 50):
            logging.getLogger('uncertainty_seg.core.somewhere').log(level, 'line of %d', level)
    written = ''.join(capfd.readouterr())
    assert 'line of 10' not in written
    for severity, level in (('INFO', 20), ('WARN', 30), ('ERROR', 40), ('FATAL', 50)):
        assert any(f'[{severity}]' in line and f'line of {level}' in line
                   for line in written.splitlines())
    assert (package.level, package.propagate, package.handlers) == before
