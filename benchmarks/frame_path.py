#!/usr/bin/env python3
# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Count the files of the package that one frame passes in the node, from its message to its flag.

The node runs in this process with a shipped model and receives images over DDS. By default it uses
the fake backend of the tests, so that files of a runtime are not counted.
The count covers calls of package functions in the executor's and the worker's thread, for one
frame after a few warm-up frames; image topics have no subscribers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
import math
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any

from common import camera_pictures

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = os.sep + 'uncertainty_seg' + os.sep
WARM_UP_FRAMES = 3


class FramePath:
    """Record the files of called functions, in order, while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.calls: list[str] = []

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        """Handle a profile event of a thread."""
        if self.is_on and event == 'call':
            name = frame.f_code.co_filename
            if PACKAGE in name and '/test/' not in name:
                self.calls.append(name.rpartition(PACKAGE)[2])


def use_fake_backend() -> str:
    """Replace ONNX Runtime by the fake backend of the tests; return the name of the backend."""
    sys.path.insert(0, str(ROOT / 'test' / 'helpers'))
    from fake_backend import FakeBackend
    import numpy as np

    from uncertainty_seg.backends import registry

    class WithFeatures(FakeBackend):
        """The fake backend with the features that the bundle's calibration requires."""

        def run(self, *args: Any, **more: Any) -> Any:
            features = np.zeros((1, *self._card.feature_shape), np.float32)
            return replace(super().run(*args, **more), features=features)

    registry.OPENERS['onnxruntime'] = lambda bundle, settings: WithFeatures(bundle.card)
    return 'onnxruntime'


def main() -> int:
    """Print the files in the order in which the frame enters them, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='pipeline')
    parser.add_argument('--backend', default='fake', help='fake, or one of the node [fake]')
    args = parser.parse_args()
    path = FramePath()
    threading.setprofile(path)
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image
    from std_msgs.msg import Bool, Float32

    from uncertainty_seg.ros.conversions import image_to_msg
    from uncertainty_seg.ros.node import UncertaintySegNode

    backend = use_fake_backend() if args.backend == 'fake' else args.backend
    rclpy.init(args=['--ros-args', '-p', f'model:={args.model}', '-p', f'backend:={backend}',
                     '-p', 'stale_timeout_s:=60.0', '-p', 'max_age_s:=60.0'])
    node = UncertaintySegNode()
    assert node.autostart()
    camera = rclpy.create_node('camera')
    publisher = camera.create_publisher(Image, 'image', 5)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    listener = SingleThreadedExecutor()
    listener.add_node(camera)
    flags: list[bool] = []
    camera.create_subscription(
        Bool, '/uncertainty_seg/confident', lambda msg: flags.append(msg.data), 5)
    scores: list[float] = []
    camera.create_subscription(
        Float32, '/uncertainty_seg/score', lambda msg: scores.append(msg.data), 5)
    while not publisher.get_subscription_count():
        executor.spin_once(timeout_sec=0.1)
    header = Image().header
    pictures = camera_pictures(WARM_UP_FRAMES, 240, 320)

    def send(second: int) -> None:
        header.stamp = camera.get_clock().now().to_msg()
        publisher.publish(image_to_msg(header, pictures[second - 1], 'bgr8'))
        num_before, end_s = len(flags), time.monotonic() + 60
        while len(flags) == num_before and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.05)
            listener.spin_once(timeout_sec=0)
        assert len(flags) > num_before, 'no flag came'
        time.sleep(1)  # for the worker's steps after the flag

    for second in range(1, WARM_UP_FRAMES):
        send(second)
    # Timers are not part of a frame.
    for timer in list(node.timers):
        timer.cancel()
    sys.setprofile(path)
    path.is_on = True
    send(WARM_UP_FRAMES)
    path.is_on = False
    sys.setprofile(None)
    files = list(dict.fromkeys(path.calls))
    listener.spin_once(timeout_sec=1.0)
    assert scores and math.isfinite(scores[-1]), 'the frame was refused, and its path is short'
    changes = sum(a != b for a, b in zip(path.calls, path.calls[1:], strict=False))
    print(*files, sep='\n')
    print(json.dumps({'files': len(files), 'calls': len(path.calls), 'changes_of_file': changes}))
    node.stop()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
