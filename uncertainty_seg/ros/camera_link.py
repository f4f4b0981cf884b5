# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The subscription to the camera, and one sentence when nothing comes through it.

A subscriber that hears nothing looks the same whether the camera is off, the topic is misspelt,
the QoS does not match, or large frames are lost in transport; the graph tells which.

"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.ros.camera_topics import image_topic
from uncertainty_seg.ros.conversions import AnyImage
from uncertainty_seg.ros.qos import camera_qos

IMAGE_TYPE = 'sensor_msgs/msg/Image'


class CameraLink:
    """
    Listen to the topic `image`.

    Parameters
    ----------
    node : Node
        Owns the subscription.
    reliability : str
        'best_effort' or 'reliable'.
    on_image : callable
        Called in the executor's thread with each message; must return at once.
    transport : str, optional
        'raw' takes Image, 'compressed' takes CompressedImage below that topic.

    """

    def __init__(
        self, node: Node, reliability: str,
        on_image: Callable[[AnyImage], None], transport: str = 'raw',
    ) -> None:
        self._node = node
        self._is_reliable = reliability == 'reliable'
        self._subscription = node.create_subscription(
            CompressedImage if transport == 'compressed' else Image,
            image_topic(node, transport), on_image, camera_qos(reliability)
        )

    @property
    def topic(self) -> str:
        """The topic listened to, after remapping."""
        return str(self._subscription.topic_name)

    def num_publishers(self) -> int:
        """Return how many publishers the topic has."""
        return int(self._node.count_publishers(self.topic))

    def why_silent(self) -> str:
        """
        Explain why no frame comes, from what the graph shows.

        Returns
        -------
        str
            One sentence, with what to do.

        """
        return silence_reason(
            self.topic, self._node.get_publishers_info_by_topic(self.topic), self._is_reliable
        )

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)


def silence_reason(topic: str, publishers: list[Any], is_reliable: bool) -> str:
    """
    Explain why no frame comes.

    Parameters
    ----------
    topic : str
        The topic listened to.
    publishers : list of rclpy.topic_endpoint_info.TopicEndpointInfo
        Those on the topic.
    is_reliable : bool
        Whether reliable delivery is asked for.

    Returns
    -------
    str
        One sentence, with what to do.

    """
    if not publishers:
        return f'no publisher on {topic}: start the camera, or remap image to its topic'
    kinds = {info.topic_type for info in publishers}
    if IMAGE_TYPE not in kinds:
        return f'{topic} carries {", ".join(sorted(kinds))}, expected {IMAGE_TYPE}'
    best_effort = QoSReliabilityPolicy.BEST_EFFORT
    if is_reliable and all(i.qos_profile.reliability == best_effort for i in publishers):
        return (f'{topic} is offered best effort and reliable is asked for: '
                'set the parameter reliability to best_effort')
    return (f'{len(publishers)} publisher(s) on {topic} but no frame: if the camera runs, its '
            'frames are lost in transport; start its driver, too, with '
            'FASTRTPS_DEFAULT_PROFILES_FILE set to config/fastdds_profile.xml of uncertainty_seg')
