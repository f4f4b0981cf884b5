# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Python's log lines reach the ROS logger, each in its severity."""

import logging
from typing import Any

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from rclpy.logging import get_logger, LoggingSeverity, set_logger_level  # noqa: I100

from uncertainty_seg.ros.node_life import ros_logging

pytestmark = pytest.mark.ros


def test_every_severity_passes_from_the_same_handler(capfd: Any) -> None:
    logger = get_logger('bridge_all')
    set_logger_level('bridge_all', LoggingSeverity.DEBUG)
    inner = logging.getLogger('uncertainty_seg.core.somewhere')
    with ros_logging(logger):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR,
                      logging.CRITICAL):
            inner.log(level, 'line of %d', level)
    written = ''.join(capfd.readouterr())
    for severity, level in (('DEBUG', 10), ('INFO', 20), ('WARN', 30), ('ERROR', 40),
                            ('FATAL', 50)):
        assert [line for line in written.splitlines()
                if f'[{severity}]' in line and f'line of {level}' in line]


def test_the_nodes_level_holds_and_is_put_back(capfd: Any) -> None:
    logger = get_logger('bridge_quiet')
    set_logger_level('bridge_quiet', LoggingSeverity.ERROR)
    package = logging.getLogger('uncertainty_seg')
    before = package.level, package.propagate, list(package.handlers)
    with ros_logging(logger):
        logging.getLogger('uncertainty_seg.core').warning('not worth a word')
    assert 'not worth a word' not in ''.join(capfd.readouterr())
    assert (package.level, package.propagate, package.handlers) == before
