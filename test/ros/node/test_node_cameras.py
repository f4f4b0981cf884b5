# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Several cameras on one node: separate outputs, fair scheduling, and independent flags."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_fault_node_commands import WAITS
from ros_helpers import FAULT_NODE, image_message, solid
from ros_node_rig import node_rig, NodeRig

BLUE, GREEN = (255, 0, 0), (0, 255, 0)
CAMERAS = {'front': BLUE, 'down': GREEN}


class Rig:

    def __init__(self, rig: NodeRig) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import Bool

        self.process, self.client, self.health = rig.process, rig.client, rig.health
        client = rig.client
        self.flags, self.masks, self.status, self.infos = ({
            name: client.listen(f'/uncertainty_seg/{name}/{topic}', kind) for name in CAMERAS}
            for topic, kind in (('confident', Bool), ('mask', Image),
                                ('status', DiagnosticArray), ('camera_info', CameraInfo)))
        self.cameras = {name: client.node.create_publisher(Image, f'/{name}/image', 10)
                        for name in CAMERAS}
        self.calibrations = {
            name: client.node.create_publisher(CameraInfo, f'/{name}/camera_info', 10)
            for name in CAMERAS}
        self._second = 1000
        for camera in self.cameras.values():
            client.wait_until(camera.get_subscription_count, 'the node to subscribe')

    def send(self, *names: str, **changes: Any) -> None:
        """Send a good frame of each camera, with different stamps."""
        for name in names:
            self._second += 1
            msg = image_message(solid(*CAMERAS[name]), self._second * 10**9, **changes)
            self.cameras[name].publish(msg)

    def run_until(self, condition: Any, what: str, *names: str) -> None:
        """Send good frames of some cameras until a condition holds."""
        def holds() -> bool:
            self.send(*names)
            self.client.spin(0.05)
            return bool(condition())
        self.client.wait_until(holds, what)

    def raise_flags(self) -> None:
        self.run_until(lambda: self.health and all(map(self.is_up, CAMERAS)), 'both flags',
                       *CAMERAS)

    def is_up(self, name: str) -> bool:
        return bool(self.flags[name] and self.flags[name][-1].data)

    def reason(self, name: str) -> str:
        return str(self.status[name][-1].status[0].message)

    def health_of(self, name: str) -> tuple[bytes, str, dict[str, str]]:
        """Return level, message and values of a camera's newest diagnostics."""
        (status,) = [s for s in self.health[-1].status
                     if s.name == f'uncertainty_seg: health {name}']
        return status.level, status.message, {p.key: p.value for p in status.values}


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[Rig]:
    with node_rig(folder, FAULT_NODE, cameras='[front, down]', stale_timeout_s=1.0,
                  gate__threshold_scale=1.3, stuck_timeout_s=0.0) as rig:
        try:
            yield Rig(rig)
        finally:
            (folder / 'release').touch()


def test_each_camera_has_its_own_outputs_and_there_is_one_model(rig: Rig) -> None:
    from sensor_msgs.msg import CameraInfo

    def has_both(name: str) -> bool:
        # Repeated, since best effort loses messages that are sent before discovery.
        rig.calibrations[name].publish(
            CameraInfo(height=96, width=128, distortion_model=name))
        return bool(rig.masks[name] and rig.infos[name])

    rig.raise_flags()
    # Classes of the tiny bundle are colour channels: blue is 0, green 1.
    for name, label in (('front', 0), ('down', 1)):
        rig.run_until(lambda: has_both(name), 'mask and calibration', *CAMERAS)  # noqa: B023
        assert {int(v) for mask in rig.masks[name] for v in np.unique(mask.data)} == {label}
        assert {info.distortion_model for info in rig.infos[name]} == {name}
        assert rig.health_of(name)[2]['camera'] == name
    assert rig.client.node.count_publishers('/uncertainty_seg/confident') == 0
    assert rig.process.output.count('model tiny from') == 1


def test_a_camera_that_dies_takes_its_own_flag_down_and_no_other(rig: Rig) -> None:
    rig.raise_flags()
    rig.run_until(lambda: not rig.is_up('down'), 'the flag of down to fall', 'front')
    rig.run_until(lambda: 'no frame on /down/image' in rig.reason('down'), 'why', 'front')
    rig.run_until(lambda: rig.health_of('down')[0] == b'\x02', 'down to be an error', 'front')
    # If the machine paused for a second, front's flag may have fallen for lack of frames.
    assert not any('down' in msg.status[0].message for msg in rig.status['front'])
    assert rig.is_up('front') or 'no frame on /front' in rig.reason('front')
    rig.raise_flags()


def test_a_network_that_hangs_with_one_cameras_frame_is_told_of_the_other(
    rig: Rig, folder: Path
) -> None:
    rig.raise_flags()
    stuck = image_message(solid(0, WAITS, 0), 7 * 10**9)
    rig.cameras['down'].publish(stuck)
    for name in CAMERAS:
        rig.client.wait_until(lambda: not rig.is_up(name), f'the flag of {name}')  # noqa: B023
    for name, words in (('front', 'processing a frame of down'), ('down', 'processing a frame')):
        rig.client.wait_until(
            lambda: f'{words} takes too long' in rig.reason(name), 'why')  # noqa: B023
    (folder / 'release').touch()
    rig.raise_flags()
