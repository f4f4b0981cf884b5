# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames through the node in another process, over DDS: its outputs for given images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ros_helpers import solid, values_of
from ros_node_rig import node_rig, NodeRig

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.storage.model_bundle import load_bundle

PICTURES = {'mask': 'mono8', 'confidence': 'mono8', 'uncertainty': '32FC1', 'overlay': 'bgr8',
            'mask_color': 'bgr8'}
# Red is well below the thresholds of the tiny bundle, grey is above them.
RED, GREY = solid(0, 0, 255), solid(128, 128, 128)


class Rig:
    """A node, and subscriptions to all its pictures."""

    def __init__(self, rig: NodeRig) -> None:
        from sensor_msgs.msg import Image

        self.node, self.send, self.of = rig, rig.send, rig.of
        self.pictures = {
            n: rig.client.listen(f'/uncertainty_seg/{n}', Image) for n in PICTURES}
        rig.client.wait_for_camera_match()
        # Sends until all outputs arrive, which shows that discovery is complete.
        rig.wait(lambda: rig.verdict(GREY) and all(self.pictures.values()), 'the first answers')
        rig.raise_flag()

    def wait_for_flag(self, expected: bool) -> None:
        """Wait for a flag, since messages of different topics arrive in any order."""
        self.node.wait(lambda: self.node.flags and self.node.flags[-1].data is expected,
                       f'the flag to be {expected}')


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[Rig]:
    with node_rig(folder, stale_timeout_s=600.0, gate__rise_frames=1,
                  reliability='reliable') as rig:
        yield Rig(rig)


@pytest.mark.parametrize('size', [(51, 177), (1, 1)])
def test_every_output_has_the_stamp_frame_and_size_of_its_image(
    rig: Rig, size: tuple[int, int]
) -> None:
    # The cases run on one node, since a camera may change its size at any time.
    msg = rig.send(nanosec=123, pixels=solid(255, 0, 0, *size))
    for name, encoding in PICTURES.items():
        picture = rig.of(msg, rig.pictures[name])
        assert picture.header == msg.header
        assert (picture.height, picture.width, picture.encoding) == (*size, encoding)
        assert len(picture.data) == picture.step * picture.height
    assert rig.of(msg).header == msg.header


def test_the_mask_lies_on_the_image(rig: Rig) -> None:
    msg = rig.send(
        pixels=np.concatenate([solid(255, 0, 0, 60, 100), solid(0, 0, 255, 60, 200)], 1))
    mask = np.frombuffer(rig.of(msg, rig.pictures['mask']).data, np.uint8).reshape(60, 300)
    # The net sees 4-pixel blocks of the image scaled to 64 columns; half a block is 10 pixels.
    assert (mask[:, :88] == 0).all()
    assert (mask[:, 112:] == 2).all()


def test_the_flag_is_true_for_a_clear_frame_and_false_for_a_grey_one(rig: Rig) -> None:
    for pixels, expected in ((RED, True), (GREY, False), (RED, True)):
        values = values_of(rig.of(rig.send(pixels=pixels)))
        rig.wait_for_flag(expected)
        assert values['confident'] == str(expected).lower()
        assert (float(values['score_ratio']) <= 1) is expected
        ratio = float(values['score.entropy.mean']) / float(values['threshold.entropy.mean'])
        assert float(values['score_ratio']) == pytest.approx(ratio, rel=1e-4)
    assert values['passes'] == '8'
    assert 'latency.preprocess_ms' in values


def test_the_node_publishes_what_the_pipeline_computes_of_the_same_images(
    rig: Rig, folder: Path
) -> None:
    settings = settings_from_dict({'model': str(folder / 'tiny'), 'backend': 'onnxruntime'})
    generator = np.random.default_rng(5)
    with open_pipeline(load_bundle(folder / 'tiny'), settings) as pipeline:
        for height, width in ((96, 128), (120, 90)):
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            msg, result = rig.send(pixels=pixels), pipeline.process(pixels)
            theirs = {name: bytes(rig.of(msg, rig.pictures[name]).data)
                      for name in ('mask', 'confidence', 'uncertainty')}
            assert theirs == {
                'mask': result.label.tobytes(),
                'confidence': result.confidence_at_source().tobytes(),
                'uncertainty': result.map_at_source(settings.map).astype('<f4').tobytes()}
            values = values_of(rig.of(msg))
            for name, score in result.scores.items():
                assert values[f'score.{name}'] == f'{score:.6g}'


def test_large_frames_come_through_with_their_pictures(rig: Rig) -> None:
    # Uses reliable QoS: Fast DDS loses best-effort frames larger than its shared memory segment.
    for blue in (0, 1, 2):
        msg = rig.send(pixels=solid(blue, 0, 255, 1080, 1920))
        for name in PICTURES:
            picture = rig.of(msg, rig.pictures[name])
            assert (picture.height, picture.width) == (1080, 1920)
            assert len(picture.data) == picture.step * 1080


def test_a_frame_that_is_not_confident_is_republished_as_it_came(rig: Rig) -> None:
    clear = rig.send()
    rig.of(clear)

    def is_republished() -> bool:  # at most one per second
        grey = rig.send(pixels=GREY)
        rig.node.client.spin(0.2)
        return grey in rig.node.flagged
    rig.node.wait(is_republished, 'a flagged frame')
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
    rig.send()
    rig.wait_for_flag(True)
    status = rig.of(rig.send(pixels=pixels, encoding=encoding, **changes))
    rig.wait_for_flag(False)
    assert named in status.status[0].message
    assert values_of(status)['kind'] == 'fault'
    assert values_of(rig.of(rig.send()))['confident'] == 'true'
