# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The node `speed_governor`: slows the vehicle down when the flag is false, late or gone.

A process of its own, so that it outlives the perception node; it needs no model and no image.
What a flag is worth is decided by `speed_policy`, what becomes of a command by `command_limiter`;
here they are wired to topics. Their clock is steady and not the node's: simulated time may stand
still, and a flag would not grow old.

"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from std_msgs.msg import Float32, Header

from uncertainty_seg.ros import qos
from uncertainty_seg.ros.command_limiter import CommandLimiter, Velocity
from uncertainty_seg.ros.diagnostics import diagnostics_message
from uncertainty_seg.ros.flag_link import FlagLink
from uncertainty_seg.ros.qos_sentences import type_sentence
from uncertainty_seg.ros.speed_parameters import declared_settings
from uncertainty_seg.ros.speed_policy import SpeedPolicy

NODE_NAME = 'speed_governor'
DIAGNOSTICS_NAME = 'uncertainty_seg: speed_governor'
DIAGNOSTICS_PERIOD_S = 1.0
REFUSAL_SAID_EVERY_S = 5.0
# The deadline that the factor is offered with, in periods of it: room for a busy machine.
DEADLINE_PERIODS = 5


def steady_s() -> float:
    """Return seconds that never stand still or go back, not even while the machine sleeps."""
    # Linux; elsewhere the sleep of the machine is not seen.
    boot = getattr(time, 'CLOCK_BOOTTIME', None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class SpeedGovernorNode(Node):
    """
    Publish a speed factor, and limit velocity commands by it.

    Parameters
    ----------
    clock : callable, optional
        Seconds that never stand still or go back.

    Raises
    ------
    ConfigError
        If a parameter is out of range.

    """

    def __init__(self, clock: Callable[[], float] = steady_s) -> None:
        super().__init__(NODE_NAME)
        self._steady_s = clock
        settings = self._settings = declared_settings(self)
        self._policy = SpeedPolicy(settings, clock())
        self._limiter = CommandLimiter(settings.command_timeout_s)
        self._state, self._frame_id = 'slow', ''
        self._factors = self.create_publisher(
            Float32, '~/speed_factor', qos.flag_qos(DEADLINE_PERIODS / settings.rate_hz))
        kind = TwistStamped if settings.stamped else Twist
        self._limited = self.create_publisher(kind, 'cmd_vel_limited', command_qos())
        self._diagnostics = self.create_publisher(
            DiagnosticArray, '/diagnostics', qos.report_qos())
        self._commands = self.create_subscription(
            kind, 'cmd_vel', self._on_command, command_qos())
        self._flag = FlagLink(
            self, settings.deadline_s, settings.compare_clocks, self._on_flag, self.fall)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / settings.rate_hz, self._on_tick, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady)
        self.get_logger().info(
            f'waiting for {self._flag.topic}, {self._commands.topic_name} -> '
            f'{self._limited.topic_name}, at factor {settings.slow_factor:g} until then')

    def fall(self, reason: str) -> None:
        """Take it that there is no flag, and say so at once."""
        self._give_out(self._policy.lose_flag(self._steady_s(), reason))

    def stop(self) -> None:
        """Leave the vehicle slow, and standing if it was driven by a command."""
        self.fall('the governor stops')
        self._factors.publish(Float32(data=self._settings.slow_factor))
        self._publish(self._limiter.stop())
        for publisher in (self._factors, self._limited):
            if hasattr(publisher, 'wait_for_all_acked'):  # not on Humble's first releases
                publisher.wait_for_all_acked(Duration(seconds=0.5))

    def _on_flag(self, is_confident: bool, sent_s: float | None) -> None:
        # In this order: what comes between the two clocks makes the flag older, never younger.
        now_s = self._steady_s()
        age_s = None if sent_s is None else time.time() - sent_s
        before = self._policy.factor
        factor = self._policy.take_flag(now_s, is_confident, age_s)
        if factor < before:  # not before the next tick would be too late
            self._give_out(factor)

    def _on_command(self, msg: Any) -> None:
        now_s = self._steady_s()
        if self._settings.stamped:
            self._frame_id = msg.header.frame_id
        num_refused = self._limiter.num_refused
        factor = self._policy.factor_at(now_s)
        self._publish(self._limiter.take(now_s, velocity_of(self._twist_in(msg)), factor))
        if self._limiter.num_refused > num_refused:
            self.get_logger().warning(
                f'{self._commands.topic_name} is not finite, zero goes out '
                f'({self._limiter.num_refused} so far)',
                throttle_duration_sec=REFUSAL_SAID_EVERY_S)

    def _on_tick(self) -> None:
        self._flag.look()
        self._give_out(self._policy.tick(self._steady_s()))

    def _give_out(self, factor: float) -> None:
        self._factors.publish(Float32(data=factor))
        self._publish(self._limiter.tick(self._steady_s(), factor))
        self._say_state()

    def _publish(self, velocity: Velocity | None) -> None:
        if velocity is None:
            return
        msg = TwistStamped() if self._settings.stamped else Twist()
        if self._settings.stamped:
            msg.header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        set_velocity(self._twist_in(msg), velocity)
        self._limited.publish(msg)

    def _twist_in(self, msg: Any) -> Any:
        return msg.twist if self._settings.stamped else msg

    def _say_state(self) -> None:
        # Not each flicker of the flag while slow: only what the vehicle feels.
        state, before = self._policy.state, self._state
        if before in ('rising', 'full') and state in ('slow', 'settling'):
            reason = self._policy.reason or 'the flag was lost for a moment'
            self.get_logger().warning(f'slow: {reason}')
        elif state != before and state in ('rising', 'full'):
            self.get_logger().info('full speed' if state == 'full' else 'speed rises')
        self._state = state

    def _of_other_types(self) -> list[str]:
        heard = {self._flag.topic: 'std_msgs/msg/Bool',
                 str(self._commands.topic_name):
                 f'geometry_msgs/msg/{self._commands.msg_type.__name__}'}
        return [type_sentence(name, kind, self.get_fully_qualified_name(),
                              self.get_publishers_info_by_topic(name))
                for name, kind in heard.items()]

    def _on_diagnostics(self) -> None:
        policy = self._policy
        reason = policy.reason
        if reason and not self._flag.num_publishers():
            reason += f'; no publisher on {self._flag.topic}: start the node, or remap confident'
        reason = '; '.join(text for text in (reason, *self._of_other_types()) if text)
        values = {
            'speed_factor': f'{policy.factor:.3f}',
            'state': policy.state,
            'flag_lost': policy.num_falls,
            'commands_refused': self._limiter.num_refused,
        }
        level = DiagnosticStatus.WARN if reason else DiagnosticStatus.OK
        self._diagnostics.publish(diagnostics_message(
            Header(stamp=self.get_clock().now().to_msg()), DIAGNOSTICS_NAME, level,
            reason or policy.state, values))


def command_qos() -> QoSProfile:
    """Take and offer the newest command only, reliably."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1,
                      reliability=QoSReliabilityPolicy.RELIABLE)


def velocity_of(twist: Twist) -> Velocity:
    """Return the six velocities of a twist, m/s and rad/s."""
    return tuple(getattr(part, axis) for part in (twist.linear, twist.angular) for axis in 'xyz')


def set_velocity(twist: Twist, velocity: Velocity) -> None:
    """Write six velocities, m/s and rad/s, into a twist."""
    values = iter(velocity)
    for part in (twist.linear, twist.angular):
        for axis in 'xyz':
            setattr(part, axis, next(values))
