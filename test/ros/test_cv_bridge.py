# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real cv_bridge and the package's codec agree, and the node lives with either.

cv_bridge is that of this Python, or the distribution's in an environment beside this one, which
scripts/test makes (`set_up_cv_bridge`). The faults that it does not have are in
test_conversions.py.

"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    ros_environment,
    solid,
)

pytestmark = [*needs_ros, pytest.mark.release]

if HAS_ROS:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    from uncertainty_seg.ros.conversions import BRIDGE_READS

BESIDE = Path(os.environ.get('UNCERTAINTY_SEG_CV_BRIDGE', f'{sys.prefix}-cv-bridge'),
              'bin', 'python')
PYTHON = sys.executable if find_spec('cv_bridge') else str(BESIDE)
WORKER = Path(__file__).resolve().parents[1] / 'rigs' / 'cv_bridge_worker.py'
needs_cv_bridge = pytest.mark.skipif(
    not find_spec('cv_bridge') and not BESIDE.exists(),
    reason='cv_bridge is missing: scripts/test installs it where it may')
# Set by the wheels of ROS for this Python; another one loads its own.
OF_THE_WHEELS = ('_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH')


def tolerance(encoding: str) -> int:
    """Return by how many levels cv_bridge's own conversion to bgr8 may differ."""
    if 'yu' in encoding:  # its OpenCV may be another release
        return 2
    # 16 bits are rounded by cv_bridge; here the upper byte is kept.
    return int(encoding.endswith('16'))


def other_environment() -> dict[str, str]:
    """Return what must be set for a process of the Python that has cv_bridge."""
    return {} if PYTHON == sys.executable else dict.fromkeys(OF_THE_WHEELS, '')


def ask(*arguments: str, **variables: str) -> Any:
    environment = {**ros_environment(0), **variables}
    if PYTHON != sys.executable:
        environment = {name: value for name, value in environment.items()
                       if name not in OF_THE_WHEELS}
    done = subprocess.run([PYTHON, str(WORKER), *arguments], capture_output=True, text=True,
                          env=environment, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope='module')
def found() -> Any:
    """Return all that the worker found."""
    return ask()


@needs_cv_bridge
def test_the_installed_cv_bridge_is_used(found: Any) -> None:
    route = found['route']
    assert (route['name'], route['is_fault']) == ('cv_bridge', False), route['sentence']
    # The names of YUV 4:2:2 differ from release to release.
    assert set(BRIDGE_READS) - set(route['reads']) <= {'uyvy', 'yuyv', 'yuv422', 'yuv422_yuy2'}


@needs_cv_bridge
def test_every_encoding_that_both_read_has_equal_pixels(found: Any) -> None:
    assert set(found['reading']) == set(BRIDGE_READS)
    for encoding, facts in found['reading'].items():
        assert facts['equal'], encoding
        assert facts['through'] is (encoding in found['route']['reads']), encoding
        assert facts['apart'] <= tolerance(encoding), encoding
    assert found['reading']['rgb8']['apart'] == 0  # -1 where cv_bridge has no such conversion


@needs_cv_bridge
def test_the_fake_of_the_other_tests_does_as_the_real_one(found: Any) -> None:
    assert found['fake_differs'] == []


class Rig:
    """A node whose cv_bridge is of interest, and its client."""

    def __init__(self, process: Process, client: Client) -> None:
        self.process, self.client = process, client
        self.masks = client.listen('/uncertainty_seg/mask', Image)
        self.health = client.listen('/diagnostics', DiagnosticArray)

    def mask_of(self, msg: Any) -> Any:
        """Send an image until its mask comes back."""
        def arrived() -> Any:
            self.client.camera.publish(msg)
            return [m for m in self.masks if m.header.stamp == msg.header.stamp]

        answer = self.client.wait_until(arrived, 'the mask')[0]
        return np.frombuffer(answer.data, np.uint8).reshape(answer.height, answer.step)

    def codec(self) -> str:
        def values() -> Any:
            return [pair.value for msg in self.health for status in msg.status
                    for pair in status.values if pair.key == 'image_codec']

        return str(self.client.wait_until(values, 'the diagnostics')[-1])

    def lines(self, text: str) -> list[str]:
        return [line for line in self.process.output.splitlines() if text in line]


def rigs(bundle: Path, folder: Path, python: str, **environment: str) -> Iterator[Rig]:
    with own_domain() as domain:
        process = Process(node_arguments(bundle), domain, folder / 'node.log', environment,
                          python)
        try:
            client = Client(domain, process)
            try:
                rig = Rig(process, client)
                client.wait_for_camera_match()
                client.wait_for_topics('/uncertainty_seg/mask')
                yield rig
            finally:
                client.close()
        finally:
            process.end()


def check_masks(rig: Rig) -> None:
    """Plain and padded rows, which go two ways, have the mask of what they show."""
    pixels = np.hstack([solid(255, 0, 0, width=64), solid(0, 0, 255, width=64)])
    plain = rig.mask_of(image_message(pixels, 10**9))
    padded = np.pad(pixels.reshape(96, -1), ((0, 0), (0, 5)))
    rows = rig.mask_of(image_message(padded, 2 * 10**9, width=128))
    assert (plain[:, :56] == 0).all() and (plain[:, 72:] == 2).all()
    np.testing.assert_array_equal(plain, rows)


@needs_cv_bridge
def test_the_node_runs_with_the_real_cv_bridge(tiny_bundle: Path, tmp_path: Path) -> None:
    for rig in rigs(tiny_bundle, tmp_path, PYTHON, **other_environment()):
        check_masks(rig)
        assert len(rig.lines('images are read by cv_bridge')) == 1
        assert rig.codec() == 'cv_bridge'


def test_the_node_lives_with_a_broken_cv_bridge(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / 'cv_bridge.py').write_text(
        "import sys\nprint('a page of advice', file=sys.stderr)\n"
        "raise AttributeError('_ARRAY_API not found')\n")
    path = os.pathsep.join([str(tmp_path), ros_environment(0)['PYTHONPATH']])
    for rig in rigs(tiny_bundle, tmp_path, sys.executable, PYTHONPATH=path):
        check_masks(rig)
        (line,) = rig.lines('cv_bridge')
        assert '_ARRAY_API not found' in line
        assert 'WARN' in line
        assert not rig.lines('a page of advice')
        assert rig.codec() == 'own codec'
