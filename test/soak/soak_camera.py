# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The camera of the soak, a process: sends frames at its rate, and says of each what was done to it.

A line of standard input is a command, one JSON object: {"plan": KIND} sends that kind next,
{"storm": true} mixes all kinds, {"silence_s": S} sends nothing for a while. A line of standard
output is a frame, written before it is sent: its time, its name, its kind, whether a flag about it
may be true, and by how much it is stamped later than that time.

"""

from __future__ import annotations

import array
from collections import deque
import json
import sys
import threading
import time
from typing import Any

from builtin_interfaces.msg import Time
import rclpy
from sensor_msgs.msg import Image
from soak_frames import FaultyCamera, Shot


def message(shot: Shot, name: str) -> Image:
    """Return a frame as a message that tells its name."""
    image = shot.image
    msg = Image(height=image.height, width=image.width, encoding=image.encoding, step=image.step)
    msg.header.stamp = Time(sec=shot.stamp_ns // 10**9, nanosec=shot.stamp_ns % 10**9)
    msg.header.frame_id = name
    msg.data = array.array('B', bytes(image.data))
    return msg


class SoakCamera:
    """A camera that does as it is told."""

    def __init__(self, seed: int, rate_hz: float, prefix: str) -> None:
        self._prefix, self._period_s = prefix, 1 / rate_hz
        self._frames = FaultyCamera(seed)
        self._commands: deque[dict[str, Any]] = deque()
        self._is_storm = False
        self._silent_until_s = 0.0
        rclpy.init()
        self._node = rclpy.create_node(f'camera_{prefix.rstrip(".")}')
        self._images = self._node.create_publisher(Image, '/cam', 30)

    def run(self) -> None:
        """Send frames until standard input ends."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        number, due_s = 0, time.monotonic()
        while reader.is_alive():
            due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
            time.sleep(max(due_s - time.monotonic(), 0.0))
            while self._commands:
                self._obey(self._commands.popleft())
            if time.monotonic() >= self._silent_until_s:
                number += 1
                self._send(f'{self._prefix}{number}')

    def _read(self) -> None:
        for line in sys.stdin:
            self._commands.append(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        if 'plan' in command:
            self._frames.plan(command['plan'])
        self._is_storm = command.get('storm', self._is_storm)
        if 'silence_s' in command:
            self._silent_until_s = time.monotonic() + command['silence_s']
    def _send(self, name: str) -> None:
        now_s = time.time()
        taken_ns = int(now_s * 1e9)
        shot = self._frames.draw(taken_ns, is_storm=self._is_storm)
        lead_s = (shot.stamp_ns - taken_ns) / 1e9
        print(json.dumps([now_s, name, shot.kind, shot.is_good, lead_s]), flush=True)
        self._images.publish(message(shot, name))


if __name__ == '__main__':
    SoakCamera(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]).run()
