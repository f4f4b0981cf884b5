# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the latency that ROS adds, from a camera in one process to a mask in another.

Camera, node and listener are three processes on this machine: 640x480 bgr8, Fast DDS with
config/fastdds_profile.xml everywhere. The latency of a frame is the time from just before its
publication to the callback of its mask, on the shared monotonic clock. Blocks of the same frames
through `Pipeline.process` in this process alternate with it, so that a slow phase affects both.

The result is `added_median_ms`, the difference of the two medians. It contains the transport of
the image, the hand-over to the worker, decoding, the flag and the transport of the mask.

    python benchmarks/bench_node_latency.py [--model pipeline] [--frames 100] [--backend auto]

The last line is one JSON object. Only the added time is meaningful on other machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Any

from common import camera_pictures

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / 'config' / 'fastdds_profile.xml'
WIDTH, HEIGHT = 640, 480
NUM_BLOCKS, NUM_WARM_UP = 4, 5
START_TIMEOUT_S = 300.0
CAMERA, MASK = '/bench/image', '/uncertainty_seg/mask'
TARGET_MS = 8.0


def publish_on_command() -> int:
    """Run as the camera: each line `COUNT PERIOD_S` on stdin publishes COUNT frames."""
    import rclpy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from uncertainty_seg.ros.conversions import image_to_msg
    from uncertainty_seg.ros.node import keep_frames_on_the_heap
    from uncertainty_seg.ros.topics import camera_qos

    keep_frames_on_the_heap()
    rclpy.init()
    node = rclpy.create_node('bench_camera')
    publisher = node.create_publisher(Image, CAMERA, camera_qos('best_effort'))
    messages = [image_to_msg(Header(frame_id='camera'), picture, 'bgr8')
                for picture in camera_pictures(8, HEIGHT, WIDTH)]
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    print('ready', flush=True)
    index = 0
    for line in sys.stdin:
        count, period_s = line.split()
        due_s = time.monotonic()
        for _ in range(int(count)):
            time.sleep(max(due_s - time.monotonic(), 0.0))
            due_s += float(period_s)
            msg = messages[index % len(messages)]
            index += 1
            now_ns = time.monotonic_ns()
            msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(now_ns, 10**9)
            publisher.publish(msg)
    rclpy.try_shutdown()
    return 0


class MaskListener:
    """Measures the latencies of the masks it receives."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, QoSReliabilityPolicy
        from sensor_msgs.msg import Image

        rclpy.init()
        node = rclpy.create_node('bench_listener')
        quick = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(Image, MASK, self._on_mask, quick)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self.latency_ms: dict[int, float] = {}

    def listen(self, seconds: float) -> None:
        """Handle callbacks for a number of seconds."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def _on_mask(self, msg: Any) -> None:
        stamp_ns = int(msg.header.stamp.sec) * 10**9 + int(msg.header.stamp.nanosec)
        self.latency_ms[stamp_ns] = (time.monotonic_ns() - stamp_ns) * 1e-6


@contextmanager
def child(arguments: list[str], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process and end it on exit."""
    process = subprocess.Popen([sys.executable, *arguments], text=True, **streams)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        process.wait(30)


def bare_block(pipeline: Any, images: list[Any], count: int, period_s: float) -> list[float]:
    """Time the pipeline without ROS, at the camera's rate."""
    times_ms = []
    for index in range(count):
        start_s = time.perf_counter()
        pipeline.process(images[index % len(images)], index)
        elapsed_s = time.perf_counter() - start_s
        times_ms.append(elapsed_s * 1e3)
        time.sleep(max(period_s - elapsed_s, 0.0))
    return times_ms


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run blocks of both kinds alternately and return the figures."""
    from uncertainty_seg.backends.registry import open_pipeline
    from uncertainty_seg.core.settings import settings_from_dict
    from uncertainty_seg.ros.node import keep_frames_on_the_heap
    from uncertainty_seg.storage.model_bundle import load_bundle

    keep_frames_on_the_heap()  # as the node does; without it the bare pipeline is slower
    settings = settings_from_dict({'model': args.model, 'backend': args.backend})
    pipeline = open_pipeline(load_bundle(settings.model), settings)
    images = camera_pictures(8, HEIGHT, WIDTH)
    first = statistics.median(bare_block(pipeline, images, NUM_WARM_UP, 0.0))
    period_s = max(3 * first * 1e-3, 0.1)
    per_block = max(args.frames // NUM_BLOCKS, 1)
    node_arguments = [
        '-m', 'uncertainty_seg.ros.node', '--ros-args', '-r', f'image:={CAMERA}',
        '-p', f'model:={args.model}', '-p', f'backend:={args.backend}',
        '-p', 'stale_timeout_s:=60.0', '--log-level', 'warn',
    ]
    listener, bare_ms = MaskListener(), []
    with child(node_arguments), child(
        [__file__, '--be-the-camera'], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as camera:
        assert camera.stdin is not None and camera.stdout is not None
        camera.stdout.readline()
        _dds_block(camera, listener, NUM_WARM_UP, period_s)
        listener.latency_ms.clear()
        for _ in range(NUM_BLOCKS):
            bare_ms += bare_block(pipeline, images, per_block, period_s)
            _dds_block(camera, listener, per_block, period_s)
    pipeline.close()
    return _summary(args, per_block * NUM_BLOCKS, bare_ms, listener)


def _dds_block(camera: Any, listener: MaskListener, count: int, period_s: float) -> None:
    camera.stdin.write(f'{count} {period_s}\n')
    camera.stdin.flush()
    listener.listen((count + 3) * period_s)


def _summary(
    args: argparse.Namespace, num_sent: int, bare_ms: list[float], listener: MaskListener
) -> dict[str, Any]:
    latency_ms = list(listener.latency_ms.values())
    if len(latency_ms) < num_sent // 2:
        raise SystemExit(f'only {len(latency_ms)} of {num_sent} masks arrived: nothing to report')
    end_to_end, bare = statistics.median(latency_ms), statistics.median(bare_ms)
    return {
        'bench': 'node_latency', 'model': args.model, 'backend': args.backend,
        'frames_sent': num_sent, 'masks_received': len(latency_ms),
        'end_to_end_median_ms': round(end_to_end, 2), 'pipeline_median_ms': round(bare, 2),
        'added_median_ms': round(end_to_end - bare, 2),
        'target_ms': TARGET_MS, 'is_within_target': end_to_end - bare <= TARGET_MS,
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--model', default='pipeline', help='bundle [pipeline]')
    parser.add_argument('--backend', default='auto', help='backend [auto]')
    parser.add_argument('--frames', type=int, default=100, help='of each kind [100]')
    parser.add_argument('--be-the-camera', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    # Must be set before rclpy is imported, here and in the child processes, which inherit it.
    os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', str(PROFILE))
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(PROFILE))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    sys.path.insert(0, str(ROOT))
    if args.be_the_camera:
        return publish_on_command()
    result = measure(args)
    print(f'end to end {result["end_to_end_median_ms"]:.2f} ms, pipeline alone '
          f'{result["pipeline_median_ms"]:.2f} ms, added by ROS '
          f'{result["added_median_ms"]:.2f} ms (target: at most {TARGET_MS:g}), medians')
    print(json.dumps(result), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
