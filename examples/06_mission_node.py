# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Mission code: cruise while the verdict is confident, slow down while it is unsure, else stop."""

import math
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

KINDS = ('confident', 'uncertain', 'recovering', 'fault', 'unknown')


class MissionNode(Node):
    """Turn verdicts into a speed limit, ten times a second; docs/guides/mission.md explains it."""

    def __init__(self):
        super().__init__('mission')
        slow_mps = self.declare_parameter('slow_mps', 0.3).value
        self._mps = {'confident': self.declare_parameter('cruise_mps', 1.0).value,
                     'uncertain': slow_mps, 'recovering': slow_mps}
        self._timeout_s = self.declare_parameter('timeout_s', 1.5).value
        self._compares = self.declare_parameter('compare_clocks', True).value
        self._kind, self._heard_s, self._judged_s = 'unknown', -math.inf, -math.inf
        self._limit = self.create_publisher(Float32, 'speed_limit', 10)
        self._trigger = self.create_client(Trigger, 'trigger_log')
        self.create_subscription(JointState, 'verdict', self._on_verdict, 10)
        self.create_subscription(DiagnosticArray, 'status', lambda msg: self.get_logger().info(
            f'why: {msg.status[0].message}', throttle_duration_sec=2.0), 10)
        self.create_timer(0.1, lambda: self._limit.publish(Float32(data=self._limit_mps())))

    def _on_verdict(self, msg):
        values, before = dict(zip(msg.name, msg.position, strict=False)), self._kind
        number, age_s = values.get('kind'), values.get('age_s', math.nan)
        self._kind = KINDS[int(number)] if number in range(len(KINDS)) else 'fault'
        if self._kind == 'confident' and values.get('confident') != 1.0:
            self._kind = 'fault'  # never by two values that contradict each other
        self._heard_s, stamp = time.monotonic(), msg.header.stamp
        # Where no age was measured, the stamp is that of the verdict itself, or it is a fault.
        self._judged_s = stamp.sec + stamp.nanosec * 1e-9 + (age_s if math.isfinite(age_s) else 0)
        if self._kind != before:
            self.get_logger().info(f'{self._kind}: limit {self._limit_mps()} m/s')
        if (before, self._kind) == ('confident', 'uncertain') and self._trigger.service_is_ready():
            self._trigger.call_async(Trigger.Request()).add_done_callback(
                lambda done: self.get_logger().info(f'log: {done.result().message}'))

    def _limit_mps(self):
        now_s = self.get_clock().now().nanoseconds * 1e-9
        is_old = time.monotonic() - self._heard_s > self._timeout_s or (
            self._compares and abs(now_s - self._judged_s) > self._timeout_s)
        return 0.0 if is_old else self._mps.get(self._kind, 0.0)


rclpy.init()
try:
    rclpy.spin(MissionNode())
except (KeyboardInterrupt, ExternalShutdownException):
    rclpy.try_shutdown()
