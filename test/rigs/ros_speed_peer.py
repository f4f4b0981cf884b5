# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A replacement of the perception node, run as a process.

It publishes `confident` like the node, 20 times a second. The value is the content of the file
UNCERTAINTY_SEG_TEST_FLAG, read each time: true, false, or empty to publish nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import rclpy
from rclpy.node import Node
from std_msgs.msg import Bool

from uncertainty_seg.ros.topics import flag_qos

PERIOD_S = 0.05


def speak(node: Node) -> None:
    file = Path(os.environ['UNCERTAINTY_SEG_TEST_FLAG'])
    deadline_s = float(os.environ.get('UNCERTAINTY_SEG_TEST_DEADLINE_S', '1.0'))
    publisher = node.create_publisher(Bool, 'confident', flag_qos(deadline_s))

    def on_tick() -> None:
        word = file.read_text().strip()
        if word:
            publisher.publish(Bool(data=word == 'true'))

    node.create_timer(PERIOD_S, on_tick)


if __name__ == '__main__':
    rclpy.init()
    peer = rclpy.create_node('perception_stand_in')
    speak(peer)
    try:
        rclpy.spin(peer)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
