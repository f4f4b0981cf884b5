# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What belongs to an image topic lies where image_transport puts it."""

from typing import Any

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_stubs import StubNode

from uncertainty_seg.ros.camera_link import camera_info_topic, image_topic

pytestmark = pytest.mark.ros


def node_with(**remaps: str) -> Any:
    node = StubNode()
    node.remaps = remaps
    return node


@pytest.mark.parametrize(('remap', 'raw', 'compressed'), [
    (None, '/image', '/image/compressed'),
    ('/cam/image_raw', '/cam/image_raw', '/cam/image_raw/compressed'),
    ('/cam/image_raw/compressed', '/cam/image_raw/compressed', '/cam/image_raw/compressed'),
])
def test_a_compressed_image_is_below_the_image(
    remap: str | None, raw: str, compressed: str
) -> None:
    node = node_with(**({'image': remap} if remap else {}))
    assert image_topic(node, 'raw') == raw
    assert image_topic(node, 'compressed') == compressed


@pytest.mark.parametrize(('remaps', 'topic'), [
    ({}, '/camera_info'),
    ({'image': '/front/image_raw'}, '/front/camera_info'),
    ({'image': '/front/image_raw/compressed'}, '/front/camera_info'),
    ({'image': '/cam'}, '/camera_info'),
    ({'image': '/front/image_raw', 'camera_info': '/other'}, '/other'),
    ({'camera_info': '/other'}, '/other'),
])
def test_the_calibration_is_beside_the_image_unless_it_is_remapped(
    remaps: dict[str, str], topic: str
) -> None:
    assert camera_info_topic(node_with(**remaps)) == topic
