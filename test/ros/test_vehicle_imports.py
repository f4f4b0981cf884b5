# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The room `core` is what a vehicle loads: all of it, and nothing of the rooms for the desk."""

import json
import subprocess
import sys

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

pytestmark = [pytest.mark.ros, pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)]

LIST_MODULES = """
import json, sys
import uncertainty_seg.ros.node
print(json.dumps([name for name in sys.modules if name.startswith('uncertainty_seg.')]))
"""


def test_the_node_loads_no_room_of_fitting_and_evaluation() -> None:
    done = subprocess.run([sys.executable, '-c', LIST_MODULES], capture_output=True, text=True,
                          check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert {name.split('.')[1] for name in loaded} == {
        'backends', 'core', 'errors', 'ros', 'storage'}
