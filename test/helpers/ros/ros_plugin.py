# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Pytest plugin: mark the tests in test/ros as needing ROS; without ROS, ignore the folder."""

from collections.abc import Iterator
import os
from pathlib import Path

import pytest
from ros_helpers import HAS_ROS, own_domain, ROOT, SKIP_REASON

FOLDER = ROOT / 'test' / 'ros'
# Checks the types of message fields; Humble always does, later distributions if this is set.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')


def pytest_report_header() -> str:
    """Return a note if test/ros is ignored."""
    return '' if HAS_ROS else f'test/ros is left out: {SKIP_REASON}'


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore test/ros if ROS is not installed."""
    return True if collection_path == FOLDER and not HAS_ROS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need ROS."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.ros)


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    """Hold a ROS domain for the tests of a module."""
    with own_domain() as number:
        yield number


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the tests of a module."""
    return tmp_path_factory.mktemp('module')
