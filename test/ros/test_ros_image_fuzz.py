# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Messages at random, and their bytes damaged on the way, through the conversions and the node."""

import array
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
from image_fuzz import check_file_message, check_raw, Fuzzer
from image_oracle import answer
import pytest
from ros_helpers import arrival, HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from builtin_interfaces.msg import Time  # noqa: I100
from fake_backend import FakeBackend
from rclpy.serialization import deserialize_message, serialize_message
from ros_stubs import StubNode
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.core.image_codec import RawImage
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.conversions import image_from_msg
from uncertainty_seg.ros.frame_processor import FrameProcessor, Outputs
from uncertainty_seg.ros.health import FrameStatistics
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.verdict_owner import VerdictOwner
from uncertainty_seg.storage.model_bundle import load_bundle

pytestmark = pytest.mark.ros

QUICK, MANY = 2000, 100_000


def image_of(raw: RawImage) -> Any:
    """Return the message; ROS keeps no text behind a zero byte, and no surrogates."""
    return Image(height=raw.height, width=raw.width, encoding=raw.encoding, step=raw.step,
                 is_bigendian=int(raw.is_bigendian), data=array.array('B', bytes(raw.data)))


def message(fuzzer: Fuzzer) -> Any:
    if fuzzer.chance(0.5):
        return image_of(fuzzer.raw())
    file, _ = fuzzer.file()
    return CompressedImage(format=file.format, data=array.array('B', bytes(file.data)))


def check(msg: Any) -> bool:
    image = image_from_msg(msg)
    return check_raw(image) if isinstance(image, RawImage) else check_file_message(image, None)


@pytest.mark.parametrize('count', [QUICK, pytest.param(MANY, marks=pytest.mark.release)])
def test_messages_at_random(count: int) -> None:
    fuzzer = Fuzzer(seed=count + 1)
    num_shown = sum(check(message(fuzzer)) for _ in range(count))
    assert 0.2 * count < num_shown < 0.8 * count


@pytest.mark.parametrize('count', [QUICK, pytest.param(MANY, marks=pytest.mark.release)])
def test_bytes_that_were_damaged_on_the_way(count: int) -> None:
    fuzzer, num_read = Fuzzer(seed=count + 2), 0
    for _ in range(count):
        msg = message(fuzzer)
        try:
            back = deserialize_message(fuzzer.damaged(serialize_message(msg)), type(msg))
        except Exception:  # the middleware refuses it, and the node never hears of it
            continue
        check(back)
        num_read += 1
    assert num_read > 0.2 * count


class Rig:
    """The node's way of a frame, on publishers that only keep what they are given."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(str(make_tiny_bundle(folder / 'tiny')))
        self.settings = settings_from_dict({
            'gate.rise_frames': 1, 'max_repeats': -1, 'max_age_s': 0.0})
        pipeline = Pipeline(bundle, FakeBackend(bundle.card), self.settings)
        self.node: Any = StubNode()
        verdicts, pictures = VerdictPublishers(self.node, 600.0), PicturePublishers(self.node)
        for topic in self.node.topics.values():
            topic.num_subscribers = 1
        owner = VerdictOwner(verdicts, 600.0)
        owner.take_over(pipeline)
        self.process = FrameProcessor(owner.start(), Outputs(pictures, FrameStatistics()),
                                      lambda: self.settings, lambda: 0)

    def last(self, topic: str) -> Any:
        return self.node.topics[f'~/{topic}'].sent[-1]


@pytest.mark.release
def test_no_message_is_an_internal_error_and_none_that_is_wrong_is_confident(
    tmp_path: Path
) -> None:
    fuzzer, rig = Fuzzer(seed=3), Rig(tmp_path)
    for second in range(600):
        msg = message(fuzzer)
        msg.header.stamp = Time(sec=second + 1)
        rig.process(arrival(msg))
        flags, masks = (rig.node.topics[f'~/{name}'].sent for name in ('confident', 'mask'))
        assert len(flags) == second + 1
        status = rig.last('status').status[0]
        assert 'internal error' not in status.message
        image = image_from_msg(msg)
        if isinstance(image, RawImage) and answer(image) is None:
            assert not flags[-1].data
            assert 'image' in status.message
        if masks and masks[-1].header == msg.header and isinstance(msg, Image):
            assert (masks[-1].height, masks[-1].width) == (msg.height, msg.width)
    assert len(masks) > 150
