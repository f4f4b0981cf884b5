# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Publishes class names as the node does, or listens to them; run as a process.

``publish`` is a lifecycle node with two cameras. It is configured with one model, cleaned up, and
configured with another, says so, and spins. ``listen TOPIC`` joins late, and writes each message
as a line of JSON until SIGINT, with what the publishers on the topic offer.

"""

from __future__ import annotations

import json
import sys
from typing import Any

from conftest import tiny_card
import rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from uncertainty_seg.ros.node_life import ros_logging
from uncertainty_seg.ros.publishers import LabelInfoPublisher
from uncertainty_seg.ros.topics import label_qos

CAMERAS = ('front', 'down')
MODELS = (('mud', 'rock', 'weed'), ('seabed', 'pipeline', 'Bewuchs, grün'))


class TwoCameras(LifecycleNode):  # type: ignore[misc]

    def __init__(self) -> None:
        super().__init__('uncertainty_seg')
        self.labels: list[LabelInfoPublisher] = []
        self.models = list(MODELS)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        card = tiny_card(class_names=self.models.pop(0))
        self.labels = [
            LabelInfoPublisher(self, f'~/{name}/label_info', card) for name in CAMERAS]
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for labels in self.labels:
            labels.close()
        return TransitionCallbackReturn.SUCCESS


def publish() -> Node:
    node = TwoCameras()
    with ros_logging(node.get_logger()):
        results = [node.trigger_configure(), node.trigger_cleanup(), node.trigger_configure()]
    assert set(results) == {TransitionCallbackReturn.SUCCESS}
    print('ready', flush=True)
    return node


def listen(topic: str) -> Node:
    from vision_msgs.msg import LabelInfo

    node = rclpy.create_node('late_listener')

    def on_names(msg: Any) -> None:
        offers = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
        print(json.dumps({
            'classes': {entry.class_id: entry.class_name for entry in msg.class_map},
            'threshold': msg.threshold,
            'frame_id': msg.header.frame_id,
            'stamp_ns': msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec,
            'now_ns': node.get_clock().now().nanoseconds,
            'offers': [[qos.reliability.name, qos.durability.name] for qos in offers],
        }), flush=True)

    node.create_subscription(LabelInfo, topic, on_names, label_qos())
    return node


if __name__ == '__main__':
    rclpy.init()
    peer = publish() if sys.argv[1] == 'publish' else listen(sys.argv[2])
    try:
        rclpy.spin(peer)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
