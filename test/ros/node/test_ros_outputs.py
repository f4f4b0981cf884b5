# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which pictures are computed and published, on stub publishers."""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from ros_stubs import StubNode
from std_msgs.msg import Header

from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.publishers import PicturePublishers, PICTURES

CONFIDENT = Verdict(True, ('all scores within limits',), 0.5, 'confident')


class Result:
    """A stub result that counts how often a map is resized to the source."""

    scores, timings_ms, passes = {'entropy.mean': 0.9}, {'trunk': 1.25}, 8
    age_s = 0.0625
    verdict = CONFIDENT

    def __init__(self) -> None:
        self.num_made = 0

    @property
    def label(self) -> Any:
        self.num_made += 1
        return np.zeros((24, 32), np.uint8)

    def confidence_at_source(self) -> Any:
        self.num_made += 1
        return np.zeros((24, 32), np.uint8)

    def map_at_source(self, name: str) -> Any:
        self.num_made += 1
        return np.full((24, 32), 0.25, np.float32)


@pytest.fixture
def node() -> StubNode:
    return StubNode()


def make_view(result: Result, settings: Settings | None = None) -> FrameView:
    card: Any = SimpleNamespace(palette=((0, 0, 255),))
    image = np.zeros((24, 32, 3), np.uint8)
    any_result: Any = result
    return FrameView(image, any_result, card, settings or Settings(), {})


def pictures_of(node: StubNode) -> PicturePublishers:
    any_node: Any = node
    return PicturePublishers(any_node)


def test_nothing_is_computed_for_topics_without_subscribers(node: StubNode) -> None:
    pictures, result = pictures_of(node), Result()
    pictures.publish(Header(), make_view(result))
    assert result.num_made == 0
    assert set(pictures.counts.values()) == {0}


@pytest.mark.parametrize('name', list(PICTURES))
def test_only_the_wanted_picture_is_made(node: StubNode, name: str) -> None:
    pictures, result = pictures_of(node), Result()
    node.topics[f'~/{name}'].num_subscribers = 1
    header = Header(frame_id='camera')
    pictures.publish(header, make_view(result))
    assert {n: c for n, c in pictures.counts.items() if c} == {name: 1}
    (msg,) = node.topics[f'~/{name}'].sent
    assert (msg.header, msg.encoding, msg.height, msg.width) == (header, PICTURES[name][0], 24, 32)
    assert result.num_made == 1


def test_the_overlay_as_jpeg_is_encoded_only_for_a_subscriber_of_it(node: StubNode) -> None:
    pictures, result = pictures_of(node), Result()
    node.topics['~/overlay'].num_subscribers = 1
    view = make_view(result)
    pictures.publish(Header(), view)
    assert 'overlay_jpeg' not in vars(view)
    node.topics['~/overlay/compressed'].num_subscribers = 1
    pictures.publish(Header(frame_id='camera'), view)
    (msg,) = node.topics['~/overlay/compressed'].sent
    assert (msg.header.frame_id, msg.format) == ('camera', 'bgr8; jpeg compressed bgr8')
    picture = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR)
    # JPEG stores chroma at half the resolution.
    assert np.abs(picture.astype(int) - view.overlay).mean() < 20
