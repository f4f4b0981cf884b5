# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The room `core` is what a vehicle loads: all of it, and nothing of the rooms for the desk."""

import json
from pathlib import Path
import subprocess
import sys

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

pytestmark = [pytest.mark.ros, pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)]

ROOT = Path(__file__).resolve().parents[2]
LIST_MODULES = """
import json, sys
import uncertainty_seg.ros.main, uncertainty_seg.ros.node
print(json.dumps([name for name in sys.modules if name.startswith('uncertainty_seg.')]))
"""


def test_the_node_loads_every_module_of_core_and_none_of_fitting_and_evaluation() -> None:
    done = subprocess.run([sys.executable, '-c', LIST_MODULES], capture_output=True, text=True,
                          check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    core = {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for path in (ROOT / 'uncertainty_seg' / 'core').rglob('*.py')
        if path.name != '__init__.py'
    }
    assert len(core) > 10
    assert core - loaded == set()
    rooms = {name.split('.')[1] for name in loaded}
    assert rooms == {'backends', 'core', 'errors', 'ros', 'storage'}
