# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is made and what is published, on publishers that only count."""

import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_stubs import StubNode
from std_msgs.msg import Header

from uncertainty_seg.core import render
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.render import (
    FrameView,
    heatmap_upper,
)
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.core.status import verdict_status
from uncertainty_seg.ros.health import diagnostic_status
from uncertainty_seg.ros.publishers import PicturePublishers, PICTURES, VerdictPublishers

pytestmark = pytest.mark.ros

CONFIDENT = Verdict(True, ('all scores within limits',), 0.5, 'confident')
UNCERTAIN = Verdict(False, ('entropy.mean 0.9 over 0.7',), 1.3, 'uncertain')


class Result:
    """Counts how often a map is brought to the source's size."""

    scores, timings_ms, passes = {'entropy.mean': 0.9}, {'trunk': 1.25}, 8
    age_s = 0.0625
    maps = SimpleNamespace(unknown=np.zeros((24, 32), np.float32))
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
    assert result.num_made == 1 + (name == 'uncertainty_overlay')  # it shows two maps


def test_the_overlay_as_jpeg_is_encoded_only_for_a_subscriber_of_it(
    node: StubNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pytest.importorskip('PIL.Image', reason='Pillow is missing')
    pictures, result = pictures_of(node), Result()
    node.topics['~/overlay'].num_subscribers = 1
    view = make_view(result)
    pictures.publish(Header(), view)
    assert 'overlay_jpeg' not in vars(view)
    node.topics['~/overlay/compressed'].num_subscribers = 1
    sizes = []
    for quality in (95, 10):
        monkeypatch.setattr(render, 'OVERLAY_JPEG_QUALITY', quality)
        view = make_view(result)
        pictures.publish(Header(frame_id='camera'), view)
        msg = node.topics['~/overlay/compressed'].sent[-1]
        assert (msg.header.frame_id, msg.format) == ('camera', 'bgr8; jpeg compressed bgr8')
        # Read as a JPEG file by another library.
        picture = np.asarray(images.open(io.BytesIO(bytes(msg.data))))
        assert picture.shape == (24, 32, 3)
        if quality == 95:  # RGB; chroma is kept at half the resolution
            assert np.abs(picture[..., ::-1].astype(int) - view.overlay).mean() < 20
        sizes.append(len(msg.data))
    assert sizes[1] < sizes[0]
    assert pictures.counts['overlay/compressed'] == 2


def test_a_picture_waits_for_the_frame_that_was_computed_for_it(node: StubNode) -> None:
    pictures, result = pictures_of(node), Result()
    assert not pictures.wants_unknown
    node.topics['~/uncertainty_overlay'].num_subscribers = 1
    assert pictures.wants_unknown
    result.maps = SimpleNamespace(unknown=None)
    pictures.publish(Header(), make_view(result))
    assert node.topics['~/uncertainty_overlay'].sent == []
    result.maps = Result.maps
    pictures.publish(Header(), make_view(result))
    assert len(node.topics['~/uncertainty_overlay'].sent) == 1


def test_flagged_frames_keep_their_distance_on_the_nodes_clock(node: StubNode) -> None:
    pictures = pictures_of(node)
    flagged = node.topics['~/flagged']
    flagged.num_subscribers = 1
    for second in (100.0, 100.9, 101.0, 101.5, 102.5, 5.0):  # set back at last
        node.now_ns = int(second * 1e9)
        pictures.publish_flagged(second, 1.0)
    assert flagged.sent == [100.0, 101.0, 102.5, 5.0]


def test_closing_takes_the_pictures_off_the_graph(node: StubNode) -> None:
    pictures = pictures_of(node)
    assert len(node.topics) == 11
    pictures.close()
    assert node.topics == {}
    assert node.callbacks == {}


def test_a_fault_is_false_with_an_infinite_score_and_its_reason(node: StubNode) -> None:
    any_node: Any = node
    verdicts = VerdictPublishers(any_node, 1.0)
    node.topics['~/status'].num_subscribers = 1
    verdicts.publish(CONFIDENT, {})
    verdicts.publish_fault('the engine is gone')
    assert [m.data for m in node.topics['~/confident'].sent] == [True, False]
    assert node.topics['~/score'].sent[-1].data == math.inf
    assert node.topics['~/status'].sent[-1].status[0].message == 'the engine is gone'
    assert not verdicts.is_confident


def test_status_lists_scores_thresholds_passes_and_times() -> None:
    any_result: Any = Result()
    status = diagnostic_status(verdict_status(UNCERTAIN, any_result, {'entropy.mean': 0.7}))
    assert (status.level, status.message) == (b'\x01', 'entropy.mean 0.9 over 0.7')
    assert {pair.key: pair.value for pair in status.values} == {
        'confident': 'false', 'kind': 'uncertain', 'score_ratio': '1.3', 'promise': 'none',
        'threshold.entropy.mean': '0.7', 'passes': '8', 'frame_age_ms': '62.5',
        'stamps': 'camera',
        'score.entropy.mean': '0.9',
        'latency.trunk_ms': '1.250',
    }


@pytest.mark.parametrize(
    ('kind', 'level'),
    [('confident', b'\x00'), ('uncertain', b'\x01'), ('recovering', b'\x01'),
     ('fault', b'\x02'), ('unknown', b'\x02')],
)
def test_the_level_of_a_status_follows_the_kind(kind: str, level: bytes) -> None:
    verdict = Verdict(kind == 'confident', ('why',), 1.0, kind)
    assert diagnostic_status(verdict_status(verdict, None, {})).level == level


def test_the_heatmap_range_is_twice_the_calibrated_limit() -> None:
    limits = {'mutual_information.top': 0.2, 'entropy.top': 0.15}
    assert heatmap_upper(Settings(), limits) == 0.3
    assert heatmap_upper(settings_from_dict({'map': 'mutual_information'}), limits) == 0.4
    assert heatmap_upper(Settings(), {'entropy.top': 0.8}) == 1.0
    assert heatmap_upper(settings_from_dict({'map': 'aleatoric'}), limits) == 0.5
