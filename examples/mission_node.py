# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Mission code in one file: slow down when the segmentation is unsure, and ask for a log of it.

It reads `~/verdict` of the node and publishes the largest allowed speed ten times a second:

- `cruise_mps` while the newest verdict is confident;
- `slow_mps` while the network is unsure, or sure again but not yet for long enough;
- 0 after a fault, before the first verdict, and while there is none younger than `timeout_s`.

A verdict may have waited in a queue, as while this process was paused, so its age is counted
twice: from its receipt, and from when it was judged, which is the stamp of its image plus `age_s`.
For that the clock of this node must be synchronised with that of the segmentation, and the stamps
must be what its ages are counted from (its parameter `stamps` is `camera`). Where that is not so,
`compare_clocks:=false` counts from the receipt alone: a verdict that waited is new then.

Whenever the flag falls because the network became unsure it calls `~/trigger_log`, so that the
image is kept for labelling even if its scores alone would not keep it.

    python3 mission_node.py --ros-args -r verdict:=/uncertainty_seg/verdict \
        -r trigger_log:=/uncertainty_seg/trigger_log

mission_cpp/ has the same in C++.

"""

import math
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

KINDS = ('confident', 'uncertain', 'recovering', 'fault', 'unknown')
PERIOD_S = 0.1


def words_of(stamp, values):
    """Say what was judged; a verdict without an image has neither age nor score."""
    if values.get('of_frame') != 1.0:
        return 'no image was judged'
    age_s, ratio = values.get('age_s', math.nan), values.get('score_ratio', math.inf)
    age = f'{age_s:.3f} s old' if math.isfinite(age_s) else 'its age is not known'
    score = f'at {ratio:.2f} of its limit' if math.isfinite(ratio) else 'without a score'
    return f'image of {stamp.sec}.{stamp.nanosec:09d}, {age}, {score}'


class MissionNode(Node):
    """Turn verdicts into a speed limit."""

    def __init__(self):
        super().__init__('mission')
        self._cruise_mps = self.declare_parameter('cruise_mps', 1.0).value
        self._slow_mps = self.declare_parameter('slow_mps', 0.3).value
        # Of this node's own, so that it fits the node's stale_timeout_s, whatever that is.
        self._timeout_s = self.declare_parameter('timeout_s', 1.5).value
        self._compares = self.declare_parameter('compare_clocks', True).value
        self._kind = 'unknown'
        self._heard_s = self._judged_s = float('-inf')
        self._limit = self.create_publisher(Float32, 'speed_limit', 10)
        self._trigger = self.create_client(Trigger, 'trigger_log')
        # Reliable and volatile, as it is offered: no old verdict is received.
        self.create_subscription(JointState, 'verdict', self._on_verdict, 10)
        self.create_timer(PERIOD_S, self._on_timer)

    def _on_verdict(self, msg):
        values, before = dict(zip(msg.name, msg.position, strict=False)), self._kind
        number = values.get('kind')
        kind = KINDS[int(number)] if number in range(len(KINDS)) else 'fault'
        if kind == 'confident' and values.get('confident') != 1.0:
            kind = 'fault'  # never by two values that contradict each other
        self._kind, self._heard_s = kind, time.monotonic()
        stamp, age_s = msg.header.stamp, values.get('age_s', math.nan)
        # Where no age was measured, the stamp is that of the verdict itself, or it is a fault.
        self._judged_s = stamp.sec + stamp.nanosec * 1e-9 + (age_s if math.isfinite(age_s) else 0)
        if self._is_silent():
            self.get_logger().warning(
                'this verdict was not judged now: it waited, or the clocks differ '
                '(compare_clocks)', throttle_duration_sec=10.0)
        if kind != before:
            self.get_logger().info(f'{kind}: {words_of(stamp, values)}')
        if before == 'confident' and kind == 'uncertain':
            self._ask_for_log()

    def _on_timer(self):
        self._limit.publish(Float32(
            data=0.0 if self._is_silent() else self._limit_of(self._kind)))

    def _is_silent(self):
        if time.monotonic() - self._heard_s > self._timeout_s:
            return True
        now_s = self.get_clock().now().nanoseconds * 1e-9
        return self._compares and abs(now_s - self._judged_s) > self._timeout_s

    def _limit_of(self, kind):
        if kind == 'confident':
            return self._cruise_mps
        return self._slow_mps if kind in ('uncertain', 'recovering') else 0.0

    def _ask_for_log(self):
        if not self._trigger.service_is_ready():
            self.get_logger().warning('no log is asked for: trigger_log is not there')
            return
        # Answered later, in a callback: a mission does not wait for a disk.
        self._trigger.call_async(Trigger.Request()).add_done_callback(
            lambda done: self.get_logger().info(f'log: {done.result().message}'))


def main():
    """Run the node."""
    rclpy.init()
    node = MissionNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
