# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The camera calibration that is published with a mask fits the mask's image."""

import logging
import math
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
import pytest
import rclpy
from ros_stubs import StubNode
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from uncertainty_seg.ros.publishers import CameraInfoRelay, fit_camera_info
from uncertainty_seg.ros.topics import (
    camera_info_topic,
    image_topic,
    TopicWatch,
    WatchedTopicsNode,
)

FRAME = Header(stamp=Time(sec=12, nanosec=345), frame_id='camera_optical')
FOCAL, CX, CY = 400.0, 319.5, 200.25


def calibration(width: int = 640, height: int = 480, **changes: Any) -> CameraInfo:
    facts = {
        'header': Header(stamp=Time(sec=1), frame_id='other'), 'width': width, 'height': height,
        'distortion_model': 'plumb_bob', 'd': [0.1, -0.2, 0.001, 0.002, 0.03],
        'k': [FOCAL, 0.0, CX, 0.0, FOCAL, CY, 0.0, 0.0, 1.0],
        'r': [float(v) for v in np.eye(3).ravel()],
        'p': [FOCAL, 0.0, CX, -24.0, 0.0, FOCAL, CY, 0.0, 0.0, 0.0, 1.0, 0.0],
    }
    return CameraInfo(**{**facts, **changes})


def fields_of(info: Any) -> dict[str, Any]:
    names = [name for name in info.get_fields_and_field_types() if name != 'header']
    return {name: str(getattr(info, name)) for name in names}


@pytest.mark.parametrize('info', [
    calibration(),
    calibration(1280, 960, binning_x=2, binning_y=2),
    calibration(1920, 1080, binning_x=2, binning_y=2,
                roi=RegionOfInterest(width=1280, height=960)),
    CameraInfo(),
], ids=['same size', 'binned', 'binned region', 'uncalibrated'])
def test_a_calibration_of_the_images_is_relayed_as_it_is_under_the_frames_header(
    info: CameraInfo
) -> None:
    fitting = fit_camera_info(info, FRAME, 480, 640)
    assert fitting is not None and fitting is not info
    assert fitting.header == FRAME
    assert fields_of(fitting) == fields_of(info)
    assert info.header != FRAME


@pytest.mark.parametrize('info', [
    calibration(640, 400), calibration(480, 640), calibration(320, 240),
    calibration(1280, 960, roi=RegionOfInterest(width=100, height=100))])
def test_a_calibration_of_another_size_is_not_guessed_at(info: CameraInfo) -> None:
    assert fit_camera_info(info, FRAME, 480, 640) is None


def test_the_newest_calibration_is_fitted_to_each_frame() -> None:
    relay = CameraInfoRelay()
    assert relay.fit(FRAME, 480, 640) is None
    for focal in (1.0, 2.0):
        relay.take(calibration(k=[focal] * 9))
    fitting = relay.fit(FRAME, 480, 640)
    assert fitting is not None and (fitting.header, fitting.k[0]) == (FRAME, 2.0)


@pytest.mark.parametrize(('info', 'named'), [
    (calibration(640, 400), '640x400'), (calibration(1, 0), '1x0'),
    (calibration(k=[math.nan] * 9), 'k holds nan'), (calibration(binning_x=641), 'binning'),
    (calibration(roi=RegionOfInterest(x_offset=1, width=640, height=480)), 'roi'),
])
def test_why_a_calibration_is_not_relayed_is_said_once(
    caplog: pytest.LogCaptureFixture, info: CameraInfo, named: str
) -> None:
    relay = CameraInfoRelay()
    relay.take(info)
    with caplog.at_level(logging.WARNING):
        assert [relay.fit(FRAME, 480, 640) for _ in range(3)] == [None] * 3
    (line,) = caplog.messages
    assert named in line


@pytest.mark.parametrize(('image', 'compressed', 'info'), [
    ('/front/image_raw', '/front/image_raw/compressed', '/front/camera_info'),
    ('/front/image_raw/compressed', '/front/image_raw/compressed', '/front/camera_info'),
    ('/cam', '/cam/compressed', '/camera_info'),
])
def test_a_compressed_image_is_below_the_image_and_the_calibration_beside_it(
    image: str, compressed: str, info: str
) -> None:
    node: Any = StubNode()
    node.remaps = {'image': image}
    assert node.resolve_topic_name(image_topic(node, 'raw')) == image
    assert node.resolve_topic_name(image_topic(node, 'compressed')) == compressed
    assert camera_info_topic(node) == info
    node.remaps['camera_info'] = '/other'
    assert node.resolve_topic_name(camera_info_topic(node)) == '/other'


def test_two_cameras_can_be_exchanged(domain: int) -> None:
    topics = {'front': '/down/image', 'down': '/front/image'}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain, args=['--ros-args', *(
        word for name, topic in topics.items() for word in ('-r', f'{name}/image:={topic}'))])
    node = WatchedTopicsNode('exchanged', context=context)
    node.watch = TopicWatch(node)
    for name, topic in topics.items():
        asked = image_topic(node, 'raw', name)
        assert node.create_subscription(Image, asked, print, 1).topic_name == topic
    node.create_publisher(Image, 'front/image', 1)
    found = {topic: len(node.get_publishers_info_by_topic(topic)) for topic in topics.values()}
    assert found == {'/down/image': 1, '/front/image': 0}
    node.destroy_node()
    context.try_shutdown()
