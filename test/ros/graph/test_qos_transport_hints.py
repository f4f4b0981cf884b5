# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One sentence when nothing comes, told from the graph and from the publisher's identifier."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from uncertainty_seg.ros.topics import camera_qos, silence_reason, Topic, Transport

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
    assert 'no publisher on /cam in ROS domain 7 (rmw_fastrtps_cpp)' in said
    assert 'ROS_DOMAIN_ID and RMW_IMPLEMENTATION' in said
    local = Transport('rmw_fastrtps_cpp', '7', is_local=True, has_profile=True)
    assert 'looking on this computer only' in silence_reason(topic(), ME, [], local)


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
    assert 'std_msgs/msg/String from /front/cam' in said and IMAGE in said
    said = silence_reason(topic('reliable'), ME, [publisher()], FAST)
    assert '/front/cam' in said and f'reliability of {ME}' in said


def test_a_conflict_with_one_camera_does_not_hide_the_other() -> None:
    both = [publisher(), publisher(is_reliable=True, name='second')]
    said = silence_reason(topic('reliable'), ME, both, FAST)
    assert '1 publisher(s) on /cam but no frame: if /front/second runs' in said


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
    assert '1 publisher(s) on /cam but no frame: if /front/cam runs' in said
    assert sentence in said
