# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Compressed frames and a calibration through the node in another process, over DDS."""

import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bombs import black_jpeg
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest
from ros_helpers import needs_ros, solid
from ros_node_rig import node_rig, NodeRig

pytestmark = needs_ros

# Left half blue, right half red: classes 0 and 2 of the tiny network.
HALVES = np.hstack([solid(255, 0, 0, width=64), solid(0, 0, 255, width=64)])


class Rig:

    def __init__(self, rig: NodeRig) -> None:
        from sensor_msgs.msg import CameraInfo, CompressedImage

        self.client, self.status, self.masks = rig.client, rig.status, rig.masks
        client = rig.client
        self.infos = client.listen('/uncertainty_seg/camera_info', CameraInfo)
        self.camera = client.node.create_publisher(CompressedImage, '/cam/compressed', 10)
        self.calibration = client.node.create_publisher(CameraInfo, '/camera_info', 10)
        client.wait_until(self.camera.get_subscription_count, 'the node to subscribe')
        client.wait_until(self.calibration.get_subscription_count, 'the calibration to be wanted')
        self._second = 0
        grey = solid(128, 128, 128)
        k = [100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]

        def primed() -> bool:
            self.calibration.publish(CameraInfo(width=128, height=96, k=k))
            self.send(self.packed(grey))
            return all((self.status, self.masks, self.infos))
        client.wait_until(primed, 'the first answers')

    @staticmethod
    def packed(pixels: Any, kind: str = '.png') -> bytes:
        return bytes(cv2.imencode(kind, pixels)[1].tobytes())

    def send(self, data: bytes, text: str = 'bgr8; jpeg compressed bgr8') -> Any:
        from builtin_interfaces.msg import Time
        from sensor_msgs.msg import CompressedImage

        self._second += 1
        msg = CompressedImage(format=text, data=array.array('B', data))
        msg.header.stamp = Time(sec=self._second)
        msg.header.frame_id = 'camera_optical'
        self.camera.publish(msg)
        return msg

    def of(self, messages: list[Any], msg: Any) -> Any:
        def find() -> Any:
            return [m for m in messages if m.header.stamp == msg.header.stamp]
        return self.client.wait_until(find, 'what belongs to the frame')[0]


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('compressed')
    bundle = make_tiny_bundle(folder / 'tiny')
    with node_rig(folder, bundle, stale_timeout_s=600.0, image_transport='compressed') as rig:
        yield Rig(rig)


def test_a_compressed_frame_gets_its_mask(rig: Rig) -> None:
    msg = rig.send(rig.packed(HALVES, '.jpg'))
    mask = rig.of(rig.masks, msg)
    assert (mask.height, mask.width, mask.header) == (96, 128, msg.header)
    info = rig.of(rig.infos, msg)
    assert (info.header, info.width, list(info.k)) == (
        msg.header, 128, [100, 0, 63.5, 0, 100, 47.5, 0, 0, 1])
    ids = np.frombuffer(mask.data, np.uint8).reshape(96, 128)
    assert (ids[:, :60] == 0).all() and (ids[:, 68:] == 2).all()


def test_a_file_that_was_cut_or_is_expensive_lets_the_flag_fall_and_the_next_one_is_good(
    rig: Rig
) -> None:
    whole = rig.packed(HALVES, '.jpg')
    for data, named in ((whole[:-2], 'was cut'), (black_jpeg(2000, 2000, 3000), '3000 scans')):
        status = rig.of(rig.status, rig.send(data)).status[0]
        assert status.level == b'\x02' and named in status.message
        assert {v.key: v.value for v in status.values}['confident'] == 'false'
        assert rig.of(rig.masks, rig.send(whole)).height == 96


def test_a_reduced_image_has_a_mask_and_a_calibration_of_its_size(
    rig: Rig
) -> None:
    assert rig.client.set_together(
        max_image_px=4000, oversized_images='reduce').successful
    try:
        msg = rig.send(rig.packed(HALVES, '.jpg'))
        mask, info = rig.of(rig.masks, msg), rig.of(rig.infos, msg)
        assert (mask.height, mask.width) == (info.height, info.width) == (48, 64)
        ids = np.frombuffer(mask.data, np.uint8).reshape(48, 64)
        assert (ids[:, :30] == 0).all() and (ids[:, 34:] == 2).all()
        assert list(info.k) == [50, 0, 31.5, 0, 50, 23.5, 0, 0, 1]
        refused = rig.of(rig.status, rig.send(rig.packed(HALVES))).status[0]
        assert '128x96' in refused.message and '4000' in refused.message
    finally:
        assert rig.client.set_together(
            max_image_px=2**25, oversized_images='refuse').successful
