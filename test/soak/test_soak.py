# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The real node under random faults of every kind: no wrong flag, and good frames are true."""

import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from ros_helpers import needs_ros

pytestmark = [*needs_ros, pytest.mark.release]
PROGRAM = str(Path(__file__).with_name('soak.py'))


def soaked(*words: str) -> tuple[int, dict[str, Any], str]:
    """Run the soak; return its exit code, its report and its output."""
    done = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True,
                          check=False, timeout=280)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_nothing_that_comes_in_a_minute_makes_the_flag_lie() -> None:
    code, report, output = soaked('--seconds', '60', '--seed', '13')
    assert (code, report['lies'], report['faults']) == (0, 0, []), output
    assert report['true'] > 300 and report['factors_above_slow'] > 50, output


def test_a_node_without_its_checks_is_caught() -> None:
    code, report, output = soaked(
        '--seconds', '14', '--only', 'hour_old', 'frozen',
        '--parameter', 'max_age_s:=0.0', 'max_repeats:=-1')
    assert code == 1 and report['lies'] > 3, output
    assert 'about a frame that is hour_old' in output
    assert 'about a frame that is frozen' in output
