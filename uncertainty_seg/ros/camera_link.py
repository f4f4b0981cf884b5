# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The subscription to the camera."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.camera_topics import image_topic
from uncertainty_seg.ros.conversions import AnyImage
from uncertainty_seg.ros.qos import camera_qos


class CameraLink:
    """
    Listen to the topic `image`, or to that of one of several cameras.

    Parameters
    ----------
    node : Node
        Owns the subscription.
    settings : Settings
        Quality of service and transport; 'compressed' takes CompressedImage below the topic.
    on_image : callable
        Called in the executor's thread with each message; must return at once.
    camera : str, optional
        Name of one of several.

    """

    def __init__(
        self, node: Node, settings: Settings, on_image: Callable[[AnyImage], None],
        camera: str = '',
    ) -> None:
        self._node = node
        transport = settings.image_transport
        self._subscription = node.create_subscription(
            CompressedImage if transport == 'compressed' else Image,
            image_topic(node, transport, camera), on_image,
            camera_qos(settings.reliability, settings.durability, settings.queue_depth)
        )

    @property
    def topic(self) -> str:
        """Return the topic listened to, after remapping."""
        return str(self._subscription.topic_name)

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)
