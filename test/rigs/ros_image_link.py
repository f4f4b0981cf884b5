# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The two ends of a camera's topic in processes of their own, run by the transport tests.

``read DEPTH`` takes images of /cam best effort and says on /seen, reliably, the number of each
that is whole. ``send NUM WINDOW PATIENCE_S TOPIC`` sends that many images of 640x480, never
further ahead of the newest one seen on TOPIC (/seen, or the node's ~/status) than WINDOW, so that
whoever reads has time for each; then it prints how many were seen. A number is an image's stamp in
nanoseconds, and its first and last bytes.

"""

from __future__ import annotations

import array
from collections.abc import Callable
import itertools
import json
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import UInt32

HEIGHT, WIDTH = 480, 640
MATCH_S = 60.0
FIRST_TRIAL = 1_000_000  # numbers of the images that only prove the way is open
MAX_LOST = 20


def read(depth: int) -> None:
    """Say the number of every image that comes whole."""
    node = rclpy.create_node('reader')
    seen = node.create_publisher(UInt32, '/seen', 100)

    def on_image(msg: Image) -> None:
        number = msg.header.stamp.nanosec
        mark = number.to_bytes(4, 'little')
        is_whole = (len(msg.data) == HEIGHT * WIDTH * 3
                    and bytes(msg.data[:4]) == mark == bytes(msg.data[-4:]))
        if is_whole or number >= FIRST_TRIAL:
            seen.publish(UInt32(data=number))

    node.create_subscription(Image, '/cam', on_image, best_effort(depth))
    rclpy.spin(node)


class Sender:
    """Sends images as fast as they are seen."""

    def __init__(self, window: int, patience_s: float, topic: str) -> None:
        self._node = rclpy.create_node('sender')
        self._window, self._patience_s, self._topic = window, patience_s, topic
        self._camera = self._node.create_publisher(Image, '/cam', best_effort(window))
        kind = UInt32 if topic == '/seen' else DiagnosticArray
        self._subscription = self._node.create_subscription(kind, topic, self._on_seen, 1000)
        self._msg = Image(height=HEIGHT, width=WIDTH, encoding='bgr8', step=WIDTH * 3)
        self._msg.data = array.array('B', bytes(HEIGHT * WIDTH * 3))
        self._is_open = False
        self._seen: set[int] = set()
        self._newest = 0

    def open(self) -> None:  # noqa: A003
        """Send small images until one is seen, so that both ends know each other."""
        small = Image(height=1, width=1, encoding='bgr8', step=3, data=array.array('B', bytes(3)))
        end_s = time.monotonic() + MATCH_S
        for number in itertools.count(FIRST_TRIAL):
            small.header.stamp.nanosec = number
            self._camera.publish(small)
            if self._wait(lambda: self._is_open, 0.2):
                return
            if time.monotonic() > end_s:
                raise TimeoutError('nobody sees a small image')

    def send(self, num: int) -> None:
        """Send, and print how many were seen; gives up when many were lost."""
        num_lost = 0
        for self._number in range(1, num + 1):
            mark = array.array('B', self._number.to_bytes(4, 'little'))
            self._msg.header.stamp.nanosec = self._number
            self._msg.data[:4] = self._msg.data[-4:] = mark
            self._camera.publish(self._msg)
            num_lost += not self._wait(
                lambda: self._newest > self._number - self._window, self._patience_s)
            if num_lost == MAX_LOST:
                break
        self._wait(lambda: self._newest == self._number, self._patience_s)
        print(json.dumps({'sent': self._number, 'seen': len(self._seen)}), flush=True)

    def _on_seen(self, msg: Any) -> None:
        if isinstance(msg, UInt32):
            number = msg.data
        elif msg.header.stamp.sec == 0:
            number = msg.header.stamp.nanosec
        else:  # the node spoke of itself
            return
        if number >= FIRST_TRIAL:
            self._is_open = True
        else:
            self._seen.add(number)
            self._newest = max(self._newest, number)

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                return False
            rclpy.spin_once(self._node, timeout_sec=min(0.1, timeout_s))
        return True


def best_effort(depth: int) -> QoSProfile:
    """Offer as cameras publish."""
    return QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def main() -> None:
    """Be one end."""
    rclpy.init()
    try:
        if sys.argv[1] == 'read':
            read(int(sys.argv[2]))
        else:
            sender = Sender(int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
            sender.open()
            sender.send(int(sys.argv[2]))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == '__main__':
    main()
