# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The camera's quality of service by parameter, as the middleware sees it."""


import pytest
from ros_helpers import (
    HAS_ROS,
    needs_ros,
    SKIP_REASON,
)

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSReliabilityPolicy,
)

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.graph_watch.qos import camera_qos

pytestmark = needs_ros


def test_by_default_the_newest_frame_of_any_camera_is_asked_for() -> None:
    qos = camera_qos(Settings().reliability)
    assert (qos.depth, qos.reliability, qos.durability) == (
        1, QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE)
    assert camera_qos('reliable').reliability == QoSReliabilityPolicy.RELIABLE
