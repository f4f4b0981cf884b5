# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One sentence on why no frame arrives, from the graph and the publisher's identifier."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from uncertainty_seg.ros.camera_station import CameraStation
from uncertainty_seg.ros.topics import (
    best_reliability,
    camera_qos,
    silence_reason,
    Topic,
    Transport,
    why_silent,
)

IMAGE = 'sensor_msgs/msg/Image'
JPEG = 'sensor_msgs/msg/CompressedImage'
ME = '/auv/uncertainty_seg'
OURS = bytes.fromhex('010f78fd914163970000000000001403')
SAME_COMPUTER = bytes.fromhex('010f78fd9041fc950000000000001303')
OTHER_COMPUTER = bytes.fromhex('010f11229041fc950000000000001303')
CYCLONE = bytes.fromhex('0110aabb9041fc950000000000001303')
FAST = Transport('rmw_fastrtps_cpp', '7', is_local=False, has_profile=True, identifier=OURS)


def topic(reliability: str = 'best_effort') -> Topic:
    return Topic('/cam', IMAGE, False, camera_qos(reliability))


def publisher(
    gid: bytes = SAME_COMPUTER, kind: str = IMAGE, is_reliable: bool = False, name: str = 'cam'
) -> Any:
    policy = QoSReliabilityPolicy
    qos = QoSProfile(depth=1,
                     reliability=policy.RELIABLE if is_reliable else policy.BEST_EFFORT)
    return SimpleNamespace(node_name=name, node_namespace='/front', topic_type=kind,
                           qos_profile=qos, endpoint_gid=list(gid))


def test_nobody_there_is_told_with_domain_and_middleware() -> None:
    said = silence_reason(topic(), ME, [], FAST)
    assert all(named in said for named in (
        '/cam', ' 7 ', 'rmw_fastrtps_cpp', 'ROS_DOMAIN_ID', 'RMW_IMPLEMENTATION'))
    local = Transport('rmw_fastrtps_cpp', '7', is_local=True, has_profile=True)
    assert silence_reason(topic(), ME, [], local) != said


WAITING = dataclasses.replace(topic(), type_name=JPEG, name='/cam/compressed')


@pytest.mark.parametrize(('waiting', 'elsewhere', 'own', 'named'), [
    (topic(), {'/down/image_raw': IMAGE, '/front/image_raw': IMAGE, '/a/compressed': JPEG},
     'image', ['images are on /down/image_raw, /front/image_raw:', 'remap image']),
    (topic(), {'/down/image_raw/compressed': JPEG}, 'image',
     ['image_transport to compressed', 'remap image to /down/image_raw']),
    (WAITING, {'/down/image_raw/compressed': JPEG}, 'down/image',
     ['images are on /down/image_raw:', 'remap down/image']),
])
def test_images_elsewhere_are_what_to_remap_to(
    waiting: Topic, elsewhere: dict[str, str], own: str, named: list[str]
) -> None:
    said = silence_reason(waiting, ME, [], FAST, elsewhere, own)
    assert all(words in said for words in named), said


def test_another_type_and_a_conflict_are_named_with_who_publishes() -> None:
    said = silence_reason(topic(), ME, [publisher(kind='std_msgs/msg/String')], FAST)
    assert all(named in said for named in ('std_msgs/msg/String', '/front/cam', IMAGE))
    said = silence_reason(topic('reliable'), ME, [publisher()], FAST)
    assert '/front/cam' in said and f'reliability of {ME}' in said


def test_a_conflict_with_one_camera_does_not_hide_the_other() -> None:
    both = [publisher(), publisher(is_reliable=True, name='second')]
    said = silence_reason(topic('reliable'), ME, both, FAST)
    assert '/front/second' in said and '/front/cam' not in said


@pytest.mark.parametrize(
    ('gid', 'changes', 'sentence'),
    [
        (SAME_COMPUTER, {}, 'start its driver, too, with FASTRTPS_DEFAULT_PROFILES_FILE'),
        (SAME_COMPUTER, {'has_profile': False}, 'start its driver and this node'),
        (OTHER_COMPUTER, {}, 'on another computer'),
        (CYCLONE, {}, 'Cyclone DDS'),
        (CYCLONE, {'rmw': 'rmw_cyclonedds_cpp'}, 'net.core.rmem_max'),
    ],
)
def test_frames_lost_on_the_way_are_explained_by_the_way_they_take(
    gid: bytes, changes: dict[str, Any], sentence: str
) -> None:
    way = Transport(**{**FAST.__dict__, **changes})
    said = silence_reason(topic(), ME, [publisher(gid)], way)
    assert '/front/cam' in said
    assert sentence in said


@pytest.mark.parametrize(('publishers', 'own', 'best'), [
    ([], OURS, 'best_effort'),
    ([publisher(is_reliable=True)], OURS, 'reliable'),
    ([publisher(is_reliable=True), publisher()], OURS, 'best_effort'),
    ([publisher(OTHER_COMPUTER, is_reliable=True)], OURS, 'best_effort'),
    ([publisher(is_reliable=True)], b'', 'best_effort')])
def test_reliable_is_asked_for_where_every_camera_is_here_and_offers_it(
    publishers: list[Any], own: bytes, best: str
) -> None:
    assert best_reliability(publishers, dataclasses.replace(FAST, identifier=own)) == best


def test_the_pictures_of_such_a_node_are_no_camera() -> None:
    kinds = {'/cam_1/image/compressed': JPEG, '/seg/confident': 'std_msgs/msg/Bool',
             '/seg/heatmap': IMAGE, '/seg/mask/compressed': JPEG}
    node = SimpleNamespace(
        get_publishers_info_by_topic=lambda name: [
            publisher(kind=kinds[name])] if name in kinds else [],
        get_topic_names_and_types=lambda: [(name, [kind]) for name, kind in kinds.items()],
        get_fully_qualified_name=lambda: ME,
        context=SimpleNamespace(get_domain_id=lambda: 7))
    said = why_silent(node, topic())
    assert '/cam_1/image' in said and '/seg' not in said


def test_a_loss_is_said_where_it_is_more_than_one_image_now_and_then(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('uncertainty_seg.ros.topics.why_lossy', lambda node, name: 'lost')
    watch = SimpleNamespace(num_lost={'/cam': 0})
    station: Any = SimpleNamespace(_watch=watch, _node=None, _subscription=1, topic='/cam',
                                   _num_lost=0, _lately_lost=0.0)
    said = []
    for num_lost in (1, 0, 1, 0, 0, 0, 0, 1, 3, 0, *[0] * 20):
        watch.num_lost['/cam'] += num_lost
        said.append(CameraStation._why_few(station))
    assert said[:10] == [''] * 8 + ['lost'] * 2 and said[-1] == ''
