# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The camera's quality of service by parameter, as the middleware sees it."""

from pathlib import Path

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    image_message,
    needs_ros,
    NODE,
    node_arguments,
    own_domain,
    Process,
    SKIP_REASON,
    solid,
)

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from diagnostic_msgs.msg import DiagnosticArray  # noqa: I100
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from sensor_msgs.msg import Image

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.graph_watch.qos import camera_qos

pytestmark = needs_ros


def test_by_default_the_newest_frame_of_any_camera_is_asked_for() -> None:
    settings = Settings()
    qos = camera_qos(settings.reliability, settings.durability, settings.queue_depth)
    assert (qos.depth, qos.reliability, qos.durability) == (
        1, QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE)
    assert camera_qos('reliable', 'volatile', 7).depth == 7


@pytest.mark.release
def test_a_node_that_starts_late_gets_the_last_image_of_a_camera_that_keeps_it(
    tmp_path: Path
) -> None:
    keeping = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE,
                         durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with own_domain() as domain:
        client = Client(domain)
        # Before the node is there.
        camera = client.node.create_publisher(Image, '/kept', keeping)
        camera.publish(image_message(solid(0, 0, 255), 5 * 10**9))
        program = [*NODE, '--ros-args', '-r', 'image:=/kept']
        process = Process(node_arguments(
            bundle, program, reliability='reliable', durability='transient_local',
            queue_depth=2), domain, tmp_path / 'log')
        client.watched = process
        try:
            health = client.listen('/diagnostics', DiagnosticArray)
            client.wait_until(lambda: any(
                pair.value == '1' for msg in health for pair in msg.status[0].values
                if pair.key == 'frames_processed'), 'the image that was kept')
            (info,) = client.node.get_subscriptions_info_by_topic('/kept')
            assert info.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            assert info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE
        finally:
            client.close()
            process.end()
