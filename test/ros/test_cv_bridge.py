# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real cv_bridge and the package's codec agree.

cv_bridge is that of this Python, or the Linux distribution's in a second environment, which
scripts/test creates (`set_up_cv_bridge`). test_conversions.py tests faults that it does not have.
"""

from importlib.util import find_spec
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from ros_helpers import HAS_ROS, ros_environment

pytestmark = pytest.mark.release

if HAS_ROS:
    from uncertainty_seg.ros.conversions import BRIDGE_READS

BESIDE = Path(os.environ.get('UNCERTAINTY_SEG_CV_BRIDGE', f'{sys.prefix}-cv-bridge'),
              'bin', 'python')
PYTHON = sys.executable if find_spec('cv_bridge') else str(BESIDE)
WORKER = Path(__file__).resolve().parents[1] / 'rigs' / 'cv_bridge_worker.py'
needs_cv_bridge = pytest.mark.skipif(
    not find_spec('cv_bridge') and not BESIDE.exists(),
    reason='cv_bridge is missing: scripts/test installs it where it may')
# Set by the ROS wheels for this Python; another Python must load its own.
OF_THE_WHEELS = ('_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH')


def tolerance(encoding: str) -> int:
    """Return by how many levels cv_bridge's own conversion to bgr8 may differ."""
    if 'yu' in encoding:  # its OpenCV may be of another version
        return 2
    # cv_bridge rounds 16-bit values; this package keeps the upper byte.
    return int(encoding.endswith('16'))


@pytest.fixture(scope='module')
def found() -> Any:
    """Return the worker's results."""
    environment = ros_environment(0)
    if PYTHON != sys.executable:
        environment = {name: value for name, value in environment.items()
                       if name not in OF_THE_WHEELS}
    done = subprocess.run([PYTHON, str(WORKER)], capture_output=True, text=True,
                          env=environment, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_cv_bridge
def test_the_installed_cv_bridge_is_used(found: Any) -> None:
    route = found['route']
    assert (route['name'], route['is_fault']) == ('cv_bridge', False), route['sentence']
    # The names of YUV 4:2:2 encodings differ between releases.
    assert set(BRIDGE_READS) - set(route['reads']) <= {'uyvy', 'yuyv', 'yuv422', 'yuv422_yuy2'}


@needs_cv_bridge
def test_every_encoding_that_both_read_has_equal_pixels(found: Any) -> None:
    assert set(found['reading']) == set(BRIDGE_READS)
    for encoding, facts in found['reading'].items():
        assert facts['equal'], encoding
        assert facts['through'] is (encoding in found['route']['reads']), encoding
        assert facts['apart'] <= tolerance(encoding), encoding
    assert found['reading']['rgb8']['apart'] == 0  # -1 if cv_bridge has no such conversion
