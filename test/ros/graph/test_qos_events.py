# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Incompatible QoS of a topic's endpoints: the nodes and the fix are named, over real DDS."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.duration import Duration
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from ros_helpers import values_of
from ros_node_rig import node_rig, NodeRig
from sensor_msgs.msg import Image

from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.camera_station import profile_fault
from uncertainty_seg.ros.topics import (
    camera_qos,
    conflict_sentences,
    flag_qos,
    SETTLE_S,
    Topic,
    TopicWatch,
    UNKNOWN_NAME,
)

STALE_TIMEOUT_S = 1.0
FLAG = Topic('/uncertainty_seg/confident', 'std_msgs/msg/Bool', True,
             flag_qos(STALE_TIMEOUT_S))
CAMERA = Topic('/cam', 'sensor_msgs/msg/Image', False, camera_qos('reliable'))


# --- the watch, without DDS ----------------------------------------------------------------------


class StubGraph:
    """A stub of a node whose graph and log are lists."""

    def __init__(self) -> None:
        self.ends: dict[str, list[Any]] = {}
        self.publishers = [SimpleNamespace(topic_name=FLAG.name)]
        self.subscriptions = [SimpleNamespace(topic_name=CAMERA.name)]
        self.log: list[str] = []

    def get_fully_qualified_name(self) -> str:
        return '/uncertainty_seg'

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=self.log.append)

    def get_publishers_info_by_topic(self, name: str) -> list[Any]:
        return self.ends.get(name, [])

    get_subscriptions_info_by_topic = get_publishers_info_by_topic


class Watched:

    def __init__(self) -> None:
        self.now_s = 0.0
        self.node = StubGraph()
        self.watch = TopicWatch(self.node, lambda: self.now_s)
        self.events = {topic.name: self.watch.events(topic) for topic in (FLAG, CAMERA)}

    def put(self, topic: Topic, qos: QoSProfile, name: str = 'other', **changes: Any) -> None:
        end = {'node_name': name, 'node_namespace': '/', 'topic_type': topic.type_name,
               'qos_profile': qos, **changes}
        self.node.ends.setdefault(topic.name, []).append(SimpleNamespace(**end))

    def alarm(self, topic: Topic) -> None:
        self.events[topic.name].incompatible_qos(None)


BEST_EFFORT = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def test_a_conflict_is_said_once_for_as_long_as_the_graph_shows_it() -> None:
    rig = Watched()
    rig.put(CAMERA, BEST_EFFORT)
    assert rig.watch.report() == ()  # the graph is only read after an event
    rig.alarm(CAMERA)
    for _ in range(3):
        (sentence,) = rig.watch.report()
    assert '/other' in sentence and '/uncertainty_seg' in sentence
    assert rig.node.log == [sentence]
    rig.node.ends.clear()
    assert rig.watch.report() == ()
    rig.put(CAMERA, BEST_EFFORT)
    rig.alarm(CAMERA)
    assert rig.watch.report() == (sentence,)
    assert rig.node.log == [sentence, sentence]


def test_a_node_without_a_name_is_waited_for_and_then_told_without_one() -> None:
    rig = Watched()
    rig.put(CAMERA, BEST_EFFORT, UNKNOWN_NAME)
    rig.alarm(CAMERA)
    assert rig.watch.report() == ()
    rig.now_s = SETTLE_S
    assert 'a node that does not tell its name' in rig.watch.report()[0]


def test_another_type_is_told_beside_the_right_one() -> None:
    rig = Watched()
    rig.put(CAMERA, camera_qos('reliable'))
    assert rig.watch.report() == ()
    rig.put(CAMERA, BEST_EFFORT, 'stranger', topic_type='std_msgs/msg/String')
    (sentence,) = rig.watch.report()
    assert 'std_msgs/msg/String' in sentence and '/stranger' in sentence


def test_missed_deadlines_are_counted_where_there_is_one() -> None:
    rig = Watched()
    rig.events[FLAG.name].deadline(None)
    assert rig.watch.num_missed == {FLAG.name: 1}
    mask = Topic('/mask', 'sensor_msgs/msg/Image', True, camera_qos('reliable'))
    assert rig.watch.events(mask).deadline is None


# --- which endpoints are incompatible, and which QoS images may have -----------------------------

RELIABLE = QoSProfile(depth=1)


@pytest.mark.parametrize(('topic', 'theirs', 'named'), [
    (CAMERA, RELIABLE, []),
    (CAMERA, BEST_EFFORT, ['parameter reliability of /me to best_effort']),
    (FLAG, RELIABLE, []),
    (FLAG, QoSProfile(depth=1, deadline=Duration(seconds=0.125)),
     ['parameter stale_timeout_s of /me to 0.125 or less']),
    (FLAG, QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
                      deadline=Duration(seconds=0.125)), ['ransient local', 'stale_timeout_s']),
])
def test_a_conflict_names_both_sides_each_policy_and_the_fix(
    topic: Topic, theirs: QoSProfile, named: list[str]
) -> None:
    info = SimpleNamespace(node_name='other', node_namespace='/', qos_profile=theirs)
    found = conflict_sentences(topic, '/me', [info])
    assert len(found) == len(named)
    for sentence, words in zip(found, named, strict=True):
        assert topic.name in sentence and '/me' in sentence and '/other' in sentence
        assert words in sentence


LATCHED = QoSProfile(depth=5, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize(('profile', 'settings', 'named'), [
    (camera_qos('best_effort'), {}, ''), (QoSProfile(depth=5), {}, ''),
    (QoSProfile(history=QoSHistoryPolicy.KEEP_ALL), {}, 'keep_all'),
    (QoSProfile(depth=1, reliability=QoSReliabilityPolicy.SYSTEM_DEFAULT), {}, 'system_default'),
    (LATCHED, {}, '5 images may wait'), (LATCHED, {'gate.rise_frames': 6}, ''),
    (QoSProfile(depth=5), {'stamps': 'receipt'}, 'gate.rise_frames is 3'),
    (QoSProfile(depth=5), {'max_age_s': 0.0}, '5 images may wait'),
    (QoSProfile(depth=1), {'max_age_s': 0.0, 'gate.rise_frames': 1}, ''),
])
def test_images_are_requested_so_that_no_old_one_raises_the_flag(
    profile: QoSProfile, settings: dict[str, Any], named: str
) -> None:
    fault = profile_fault(profile, settings_from_dict(settings))
    assert named in fault and bool(fault) == bool(named)


# --- the node, over real DDS ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[NodeRig]:
    with node_rig(folder, reliability='reliable') as rig:
        rig.client.wait_for_camera_match()
        yield rig


def topics_told(rig: NodeRig) -> list[str]:
    """Return the sentences of the newest diagnostics."""
    values = values_of(rig.health[-1]) if rig.health else {}
    return [text for key, text in values.items() if key.startswith('topic.')]


def test_a_camera_that_offers_less_is_named_until_it_is_gone(rig: NodeRig) -> None:
    node = rig.client.node
    camera = node.create_publisher(Image, '/cam', BEST_EFFORT)
    sentence = '/cam: nothing passes from /test_client to /uncertainty_seg'
    rig.wait(lambda: any(sentence in told for told in topics_told(rig)), 'the sentence')
    assert rig.process.output.count(sentence) == 1
    # Images of the matching camera still arrive; the conflict is an additional warning.
    rig.wait(lambda: rig.verdict() and rig.health[-1].status[0].level == b'\x01', 'a warning')
    assert 'nothing passes' in rig.health[-1].status[0].message
    node.destroy_publisher(camera)
    rig.wait(lambda: not topics_told(rig), 'the conflict to be gone')


def test_a_misspelt_topic_is_answered_with_where_the_images_are(rig: NodeRig) -> None:
    # From here on /cam has no publisher.
    node = rig.client.node
    node.destroy_publisher(rig.client.camera)
    camera = node.create_publisher(Image, '/front/image_raw', BEST_EFFORT)
    sentence = 'no publisher on /cam, but images are on /front/image_raw'
    rig.client.wait_until(
        lambda: rig.health and sentence in rig.health[-1].status[0].message, 'the hint')
    assert rig.process.output.count(sentence) == 1
    node.destroy_publisher(camera)


def test_a_camera_here_is_asked_for_reliable_images_if_it_offers_them(tmp_path: Path) -> None:
    with node_rig(tmp_path, reliability='auto') as rig:
        rig.wait(lambda: 'as reliable now' in rig.process.output, 'another subscription')
        rig.raise_flag()
        camera = rig.client.node.create_publisher(Image, '/cam', BEST_EFFORT)
        rig.wait(lambda: 'as best_effort now' in rig.process.output, 'another subscription')
        rig.client.wait_until(camera.get_subscription_count, 'both to be heard')
