# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Stands in for the perception node, or listens to the speed governor; run as a process.

``flag`` publishes `confident` as the node does, 20 times a second; what it says is the content of
the file UNCERTAINTY_SEG_TEST_FLAG, true, false or nothing, read each time. ``listen`` writes what
`/speed_governor/speed_factor` says, with the time, to UNCERTAINTY_SEG_TEST_HEARD, a line each.
The time is that of the whole machine, in seconds, also in another network.

"""

from __future__ import annotations

import os
from pathlib import Path
import sys
import time
from typing import Any

import rclpy
from rclpy.node import Node
from std_msgs.msg import Bool, Float32

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


def listen(node: Node) -> None:
    out = Path(os.environ['UNCERTAINTY_SEG_TEST_HEARD']).open('a', buffering=1)

    def on_factor(msg: Any) -> None:
        out.write(f'{time.monotonic()} {msg.data}\n')

    node.create_subscription(Float32, '/speed_governor/speed_factor', on_factor, 10)


if __name__ == '__main__':
    rclpy.init()
    peer = rclpy.create_node('perception_stand_in' if sys.argv[1] == 'flag' else 'listener')
    (speak if sys.argv[1] == 'flag' else listen)(peer)
    try:
        rclpy.spin(peer)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
