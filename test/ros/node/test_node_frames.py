# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames through the node in another process, over DDS: what goes in and what comes out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import image_message, needs_ros, solid, values_of
from ros_node_rig import node_rig, NodeRig

pytestmark = needs_ros

PICTURES = {'mask': 'mono8', 'confidence': 'mono8', 'uncertainty': '32FC1', 'overlay': 'bgr8',
            'mask_color': 'bgr8'}
# Red is well within the thresholds of the tiny bundle, grey is over them.
RED, GREY = solid(0, 0, 255), solid(128, 128, 128)


class Rig:
    """A node, and every picture listened to."""

    def __init__(self, rig: NodeRig) -> None:
        from sensor_msgs.msg import Image

        self.node, self.client = rig, rig.client
        self.pictures = {n: self.client.listen(f'/uncertainty_seg/{n}', Image) for n in PICTURES}
        self._stamp_ns = 10**15 + 7
        self.client.wait_for_camera_match()

        # A first frame is sent until its answers come: the node's publishers have found us then.
        def primed() -> bool:
            return bool(rig.verdict(GREY)) and all(self.pictures.values())
        rig.wait(primed, 'the first answers')
        rig.raise_flag()

    def send(self, pixels: Any, encoding: str = 'bgr8', **changes: Any) -> Any:
        """Publish a frame with a new stamp and return the message."""
        self._stamp_ns += 1_000_000_123
        msg = image_message(pixels, self._stamp_ns, encoding, **changes)
        self.client.camera.publish(msg)
        return msg

    def answer(self, msg: Any) -> Any:
        """Return the node's status on a frame."""
        return self._with_stamp(self.node.status, msg, 'status')

    def picture(self, name: str, msg: Any) -> Any:
        return self._with_stamp(self.pictures[name], msg, name)

    def _with_stamp(self, messages: list[Any], msg: Any, what: str) -> Any:
        return self.node.wait(lambda: [m for m in messages if m.header.stamp == msg.header.stamp],
                              f'{what} of the frame')[0]

    def wait_for_flag(self, expected: bool) -> None:
        """Wait until the last flag heard is this one; each topic has its own order only."""
        self.node.wait(lambda: self.node.flags and self.node.flags[-1].data is expected,
                       f'the flag to be {expected}')


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('frames')
    bundle = make_tiny_bundle(folder / 'tiny')
    with node_rig(folder, bundle, stale_timeout_s=600.0, gate__rise_frames=1) as rig:
        yield Rig(rig)


@pytest.mark.parametrize('size', [(51, 177), (1, 1)])
def test_every_output_has_the_stamp_frame_and_size_of_its_image(
    rig: Rig, size: tuple[int, int]
) -> None:
    # Another size with every case: the camera may change it in mid-stream.
    msg = rig.send(solid(255, 0, 0, *size))
    for name, encoding in PICTURES.items():
        picture = rig.picture(name, msg)
        assert picture.header == msg.header
        assert (picture.height, picture.width, picture.encoding) == (*size, encoding)
        assert len(picture.data) == picture.step * picture.height
    assert rig.answer(msg).header == msg.header


def test_the_mask_lies_on_the_image(rig: Rig) -> None:
    pixels = np.concatenate([solid(255, 0, 0, 60, 100), solid(0, 0, 255, 60, 200)], 1)
    msg = rig.send(pixels)
    mask = np.frombuffer(rig.picture('mask', msg).data, np.uint8).reshape(60, 300)
    # The net sees blocks of 4 pixels of an image shrunk to 64 columns: half a block, 10 pixels.
    assert (mask[:, :88] == 0).all()
    assert (mask[:, 112:] == 2).all()


def test_the_flag_is_true_for_a_clear_frame_and_false_for_a_grey_one(rig: Rig) -> None:
    for pixels, expected in ((RED, True), (GREY, False), (RED, True)):
        values = values_of(rig.answer(rig.send(pixels)))
        rig.wait_for_flag(expected)
        assert values['confident'] == str(expected).lower()
        assert (float(values['score_ratio']) <= 1) is expected
        ratio = float(values['score.entropy.mean']) / float(values['threshold.entropy.mean'])
        assert float(values['score_ratio']) == pytest.approx(ratio, rel=1e-4)
    assert values['passes'] == '8'
    assert 'latency.preprocess_ms' in values


def test_a_frame_that_is_not_confident_is_republished_as_it_came(rig: Rig) -> None:
    clear = rig.send(RED)
    rig.answer(clear)

    def is_republished() -> bool:  # one a second
        grey = rig.send(GREY)
        rig.client.spin(0.2)
        return grey in rig.node.flagged
    rig.client.wait_until(is_republished, 'a flagged frame')
    assert clear.header.stamp not in [m.header.stamp for m in rig.node.flagged]


BAD_FRAMES = {
    'unknown encoding': (RED, 'h264', {}, 'h264'),
    'cut data': (RED, 'bgr8', {'height': 97}, '36864 bytes'),
    'nan': (np.full((96, 128), np.nan, np.float32), '32FC1', {}, 'nan'),
}


@pytest.mark.parametrize('case', BAD_FRAMES)
def test_a_bad_frame_is_false_with_its_reason_and_the_next_good_one_true(
    rig: Rig, case: str
) -> None:
    pixels, encoding, changes, named = BAD_FRAMES[case]
    rig.send(RED)
    rig.wait_for_flag(True)
    status = rig.answer(rig.send(pixels, encoding, **changes))
    rig.wait_for_flag(False)
    assert named in status.status[0].message
    assert values_of(status)['kind'] == 'fault'
    assert values_of(rig.answer(rig.send(RED)))['confident'] == 'true'
