# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Compressed frames and a calibration through the node in another process, over DDS."""

import array
from collections.abc import Iterator
import itertools
from pathlib import Path
from typing import Any

from bombs import black_jpeg
import cv2
import numpy as np
import pytest
from ros_helpers import solid
from ros_node_rig import node_rig, NodeRig

# Left half blue, right half red: classes 0 and 2 of the tiny network.
HALVES = np.hstack([solid(255, 0, 0, width=64), solid(0, 0, 255, width=64)])


class Rig:

    def __init__(self, rig: NodeRig) -> None:
        from sensor_msgs.msg import CameraInfo, CompressedImage

        self.client, self.masks, self.of = rig.client, rig.masks, rig.of
        node, self._seconds = rig.client.node, itertools.count(1)
        self.infos = rig.client.listen('/uncertainty_seg/camera_info', CameraInfo)
        self.camera = node.create_publisher(CompressedImage, '/cam/compressed', 10)
        calibration = node.create_publisher(CameraInfo, '/camera_info', 10)
        for topic in (self.camera, calibration):
            rig.wait(topic.get_subscription_count, 'the node to subscribe')
        grey = solid(128, 128, 128)
        k = [100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]

        def primed() -> bool:
            calibration.publish(CameraInfo(width=128, height=96, k=k))
            self.send(packed(grey))
            rig.client.spin(0.05)
            return all((rig.status, self.masks, self.infos))
        rig.wait(primed, 'the first answers')

    def send(self, data: bytes) -> Any:
        from builtin_interfaces.msg import Time
        from sensor_msgs.msg import CompressedImage

        msg = CompressedImage(format='bgr8; jpeg compressed bgr8', data=array.array('B', data))
        msg.header.stamp = Time(sec=next(self._seconds))
        msg.header.frame_id = 'camera_optical'
        self.camera.publish(msg)
        return msg


def packed(pixels: Any, kind: str = '.png') -> bytes:
    return bytes(cv2.imencode(kind, pixels)[1].tobytes())


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[Rig]:
    with node_rig(folder, stale_timeout_s=600.0, image_transport='compressed') as rig:
        yield Rig(rig)


def test_a_compressed_frame_gets_its_mask(rig: Rig) -> None:
    msg = rig.send(packed(HALVES, '.jpg'))
    mask = rig.of(msg, rig.masks)
    assert (mask.height, mask.width, mask.header) == (96, 128, msg.header)
    info = rig.of(msg, rig.infos)
    assert (info.header, info.width, list(info.k)) == (
        msg.header, 128, [100, 0, 63.5, 0, 100, 47.5, 0, 0, 1])
    ids = np.frombuffer(mask.data, np.uint8).reshape(96, 128)
    assert (ids[:, :60] == 0).all() and (ids[:, 68:] == 2).all()


def test_a_file_that_was_cut_or_is_expensive_lets_the_flag_fall_and_the_next_one_is_good(
    rig: Rig
) -> None:
    whole = packed(HALVES, '.jpg')
    for data, named in ((whole[:-2], 'was cut'), (black_jpeg(2000, 2000, 3000), '3000 scans')):
        status = rig.of(rig.send(data)).status[0]
        assert status.level == b'\x02' and named in status.message
        assert {v.key: v.value for v in status.values}['confident'] == 'false'
        assert rig.of(rig.send(whole), rig.masks).height == 96
