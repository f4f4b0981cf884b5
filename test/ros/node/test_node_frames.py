# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames through the node in another process, over DDS: what goes in and what comes out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros

PICTURES = {'mask': 'mono8', 'confidence': 'mono8', 'uncertainty': '32FC1', 'overlay': 'bgr8',
            'mask_color': 'bgr8'}
# Red is well within the thresholds of the tiny bundle, grey is over them.
RED, GREY = solid(0, 0, 255), solid(128, 128, 128)


class Rig:
    """A node, a client, and every topic but the heatmap listened to."""

    def __init__(self, process: Process, client: Client) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool, Float32

        self.process, self.client = process, client
        self.pictures = {n: client.listen(f'/uncertainty_seg/{n}', Image) for n in PICTURES}
        self.flagged = client.listen('/uncertainty_seg/flagged', Image)
        self.pictures['flagged'] = self.flagged
        self.flags = client.listen('/uncertainty_seg/confident', Bool)
        self.scores = client.listen('/uncertainty_seg/score', Float32)
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self._stamp_ns = 1_000_000_007
        client.wait_for_camera_match()
        client.wait_until(lambda: self.health, 'diagnostics')
        # The first frame is sent until its answers come: the node's publishers have found us then.

        def primed() -> bool:
            self.send(GREY)
            return all(self.pictures.values()) and bool(self.status)
        client.wait_until(primed, 'the first answers')

        def may_be_true() -> bool:
            self.send(RED)
            client.spin(0.05)
            return bool(self.flags and self.flags[-1].data)
        client.wait_until(may_be_true, 'the flag, which a node withholds in its first two seconds')

    def send(self, pixels: Any, encoding: str = 'bgr8', **changes: Any) -> Any:
        """Publish a frame with a new stamp and return the message."""
        self._stamp_ns += 1_000_000_123
        msg = image_message(pixels, self._stamp_ns, encoding, **changes)
        self.client.camera.publish(msg)
        return msg

    def answer(self, msg: Any) -> Any:
        """Return the node's status on a frame."""
        return self._with_stamp(self.status, msg, 'status')

    def picture(self, name: str, msg: Any) -> Any:
        return self._with_stamp(self.pictures[name], msg, name)

    def _with_stamp(self, messages: list[Any], msg: Any, what: str) -> Any:
        def find() -> Any:
            return [m for m in messages if m.header.stamp == msg.header.stamp]
        return self.client.wait_until(find, f'{what} of the frame')[0]

    def wait_for_flag(self, expected: bool) -> None:
        """Wait until the last flag heard is this one; each topic has its own order only."""
        self.client.wait_until(lambda: self.flags and self.flags[-1].data is expected,
                               f'the flag to be {expected}')


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('frames')
    bundle = make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        arguments = node_arguments(bundle, stale_timeout_s=600.0, gate__rise_frames=1)
        process = Process(arguments, domain, folder / 'log')
        client = Client(domain, process)
        try:
            yield Rig(process, client)
        finally:
            client.close()
            process.end()


@pytest.mark.parametrize('size', [(51, 177), (300, 40), (1, 1)])
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
        return grey in rig.flagged
    rig.client.wait_until(is_republished, 'a flagged frame')
    assert clear.header.stamp not in [m.header.stamp for m in rig.flagged]


BAD_FRAMES = {
    'unknown encoding': (RED, 'h264', {}, 'h264'),
    'no pixels': (np.zeros((0, 0, 3), np.uint8), 'bgr8', {}, '0x0'),
    'cut data': (RED, 'bgr8', {'height': 97}, '36864 bytes'),
    'nan': (np.full((96, 128), np.nan, np.float32), '32FC1', {}, '12288 values'),
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
    rig.client.wait_until(lambda: rig.scores[-1].data == float('inf'), 'an infinite score')
    assert values_of(rig.answer(rig.send(RED)))['confident'] == 'true'


def test_no_heatmap_is_made_while_nobody_looks(rig: Rig) -> None:
    rig.answer(rig.send(RED))
    num_seen = len(rig.health)
    rig.client.wait_until(lambda: len(rig.health) > num_seen + 1, 'the next diagnostics')
    health = values_of(rig.health[-1])
    assert health['published.heatmap'] == '0'
    assert int(health['published.mask']) == int(health['frames_processed']) > 0
    assert (health['state'], health['passes']) == ('active', '8')
    assert int(health['frames_received']) >= int(health['frames_processed'])
    assert health['latency.total_ms'].startswith('median ')


def test_the_offered_deadline_is_the_stale_timeout(rig: Rig) -> None:
    (info,) = rig.client.node.get_publishers_info_by_topic('/uncertainty_seg/confident')
    assert info.qos_profile.deadline.nanoseconds == 600 * 10**9
