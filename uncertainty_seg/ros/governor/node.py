# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The node `speed_governor`: slows the vehicle down when the flag is false, late or missing.

It runs in its own process, so that it outlives the perception node. `SpeedPolicy` decides the
speed factor, `PublisherWatch` whether the flag has one publisher, and `CommandLimiter` scales the
commands. They use a steady clock: if simulated time stood still, no flag would become stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription
from std_msgs.msg import Bool, Float32

from uncertainty_seg.core.status import OK, Status, WARN
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import node_life, topics
from uncertainty_seg.ros.governor import policy
from uncertainty_seg.ros.health import diagnostics_message
from uncertainty_seg.ros.parameters import declared_settings
from uncertainty_seg.ros.rivals import NameClaim
from uncertainty_seg.storage.parameter_files import require_files_for

# The subscription requests the deadline that the publisher should offer: without it, the loss of a
# publisher could not be detected in time. A flag is passed on only after a look at the graph,
# where a second publisher appears before its first message.

FLAG_TOPIC, LIMITED = 'confident', 'cmd_vel_limited'
GONE = 'the publisher of the flag is gone'
FLAG_TYPE = 'std_msgs/msg/Bool'
# On Humble a callback does not get the time at which a message was sent.
TELLS_WHEN_SENT = hasattr(Subscription, 'CallbackType')


class FlagLink:
    """
    Subscribe to the topic `confident`.

    `on_flag` is called with the flag and its send time by the publisher's system clock, None if
    unknown. `on_lost` is called with a reason when the middleware reports the loss of the flag,
    and for each flag that cannot be attributed to one publisher; `fault` is the reason for that
    at the last look at the graph.
    """

    def __init__(
        self, node: Node, settings: policy.SpeedSettings,
        on_flag: Callable[[bool, float | None], None], on_lost: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._node, self._settings = node, settings
        self._on_flag, self._on_lost, self._steady_s = on_flag, on_lost, clock
        self._watch = policy.PublisherWatch(settings.deadline_s)
        self.fault, self.num_publishers = '', 0
        take = self._take if TELLS_WHEN_SENT else lambda msg: self._take(msg, {})
        qos = topics.flag_qos(settings.deadline_s)
        # Without send times, queued old flags could not be told from new ones.
        if not (TELLS_WHEN_SENT and settings.compare_clocks):
            qos.depth = 1
        events = topics.SubscriptionEventCallbacks(
            deadline=lambda event: on_lost(policy.STALE), incompatible_qos=self._on_incompatible,
            # Fast DDS reports nothing here if no lease is offered; check_graph covers that.
            liveliness=lambda event: None if event.alive_count else on_lost(GONE),
        )
        try:
            self._subscription = node.create_subscription(
                Bool, FLAG_TOPIC, take, qos, event_callbacks=events)
        except topics.UnsupportedEventTypeError:  # only the clock then detects a loss
            self._subscription = node.create_subscription(Bool, FLAG_TOPIC, take, qos)

    @property
    def topic(self) -> str:
        """Return the name of the topic, after remapping."""
        return str(self._subscription.topic_name)

    def _take(self, msg: Bool, info: Any) -> None:
        self._look()
        self._watch.hear(self._steady_s(), info.get('publication_sequence_number'))
        if self.fault:
            self._on_lost(self.fault)
            return
        sent_ns = info.get('source_timestamp', 0) if self._settings.compare_clocks else 0
        self._on_flag(msg.data, sent_ns * 1e-9 if sent_ns > 0 else None)

    def check_graph(self) -> None:
        """Check whether the publisher has left or a second one has come; to be called often."""
        before = self.num_publishers
        self._look()
        if self.fault:
            self._on_lost(self.fault)
        elif before and not self.num_publishers:
            self._on_lost(GONE)

    def _look(self) -> None:
        found = [info for info in self._node.get_publishers_info_by_topic(self.topic)
                 if info.topic_type == FLAG_TYPE]
        self.num_publishers = len(found)
        before = self.fault
        self.fault = self._watch.look(
            self._steady_s(), [bytes(info.endpoint_gid) for info in found])
        if self.fault and self.fault != before:
            self._node.get_logger().warning(f'{self.topic}: {self.fault}')

    def _on_incompatible(self, event: Any) -> None:
        kind = qos_policy_name_from_kind(event.last_policy_kind)
        self._node.get_logger().error(
            f'a publisher on {self.topic} offers another {kind} than requested, so its flag is '
            f'not received: required are reliable and a deadline of {self._settings.deadline_s:g} '
            's; set deadline_s to at least the stale_timeout_s of the node that publishes it')


NODE_NAME = 'speed_governor'
ABOUT = 'Limits the speed of a vehicle by a flag. Its parameters: docs/reference/parameters.md.'
DIAGNOSTICS_PERIOD_S = 1.0
REFUSAL_REPORT_PERIOD_S = 5.0
# Offered deadline of the factor, in publishing periods; this leaves room for a busy machine.
DEADLINE_PERIODS = 5
COMMAND_QOS = topics.keep_last(1)  # the newest command only, reliable


class SpeedGovernorNode(Node):
    """
    Publish a speed factor, and limit velocity commands by it.

    `words` are the command line, which names parameter files. Raises ConfigError if a parameter is
    out of range, a parameter file does not address this node, two of its topics are one, or
    another node has its name.
    """

    def __init__(
        self, clock: Callable[[], float] = node_life.steady_s, words: Sequence[str] = (),
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(NODE_NAME)
        require_files_for(words, self.get_fully_qualified_name())
        names = [self.resolve_topic_name(name) for name in (FLAG_TOPIC, 'cmd_vel', LIMITED)]
        if len(set(names)) < len(names):  # its own command would never be too old
            raise ConfigError(f'the flag, the commands and the limited ones are on {names}',
                              'three topics', 'remap them to different names')
        self._steady_s = clock
        settings = self._settings = declared_settings(
            self, policy.SpeedSettings, policy.speed_settings_from_dict)
        self._claim = NameClaim(self)
        self._claim.wait(is_stopping)
        self._policy = policy.SpeedPolicy(settings, clock())
        self._limiter = policy.CommandLimiter(settings.command_timeout_s)
        self._state, self._frame_id = 'slow', ''
        self._factors = self.create_publisher(
            Float32, '~/speed_factor', topics.flag_qos(DEADLINE_PERIODS * settings.period_s))
        kind = TwistStamped if settings.stamped else Twist
        self._limited = self.create_publisher(kind, LIMITED, COMMAND_QOS)
        # The full name tells two governors apart in an aggregator.
        self._status_name = f'{self.get_fully_qualified_name().lstrip("/")}: speed'
        self._diagnostics = self.create_publisher(
            DiagnosticArray, '/diagnostics', topics.REPORT_QOS)
        take = self._on_command if TELLS_WHEN_SENT else lambda msg: self._on_command(msg, {})
        self._commands = self.create_subscription(kind, 'cmd_vel', take, COMMAND_QOS)
        self._flag = FlagLink(self, settings, self._on_flag, self.fall, clock)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(settings.period_s, self._on_tick, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady)
        self.get_logger().info(
            f'waiting for {self._flag.topic}, {self._commands.topic_name} -> '
            f'{self._limited.topic_name}, at factor {settings.slow_factor:g} until then')

    def require_name(self) -> None:
        """Raise ConfigError if another node of this name has been found."""
        self._claim.require()

    def destroy_node(self) -> None:
        """Leave the ROS graph, which frees the node name."""
        # From Kilted on, rclpy also destroys a node whose `__init__` raised before the claim.
        if hasattr(self, '_claim'):
            self._claim.close()
        super().destroy_node()

    def fall(self, reason: str) -> None:
        """Count the flag as lost, and publish the factor at once."""
        self._publish_factor(self._policy.lose_flag(self._steady_s(), reason))

    def stop(self) -> None:
        """Publish the slow factor, and zero if a command was in force."""
        self.fall('the governor stops')
        self._factors.publish(Float32(data=self._settings.slow_factor))
        self._publish(self._limiter.stop())
        for publisher in (self._factors, self._limited):
            if hasattr(publisher, 'wait_for_all_acked'):  # not on Humble's first releases
                publisher.wait_for_all_acked(Duration(seconds=0.5))

    def _on_flag(self, is_confident: bool, sent_s: float | None) -> None:
        # In this order, a pause between the two readings makes the flag older, never younger.
        now_s = self._steady_s()
        age_s = None if sent_s is None else time.time() - sent_s
        before = self._policy.factor
        factor = self._policy.take_flag(now_s, is_confident, age_s)
        if factor < before:  # at once: the next tick may be too late
            self._publish_factor(factor)

    def _on_command(self, msg: Any, info: Any) -> None:
        now_s = self._steady_s()  # before the age, as in _on_flag
        limiter = self._limiter
        if self._settings.stamped:
            self._frame_id = msg.header.frame_id
        factor = self._policy.factor_at(now_s)
        self._publish(limiter.take(now_s, velocity_of(self._twist_in(msg)), factor,
                                   self._age_of(msg, info.get('source_timestamp', 0))))
        if limiter.reason:
            self.get_logger().warning(
                f'{self._commands.topic_name} {limiter.reason}, a zero is published '
                f'({limiter.num_refused + limiter.num_late} so far)',
                throttle_duration_sec=REFUSAL_REPORT_PERIOD_S)

    def _age_of(self, msg: Any, sent_ns: int) -> float | None:
        """Return the larger age by send time and by stamp, in s; None if neither is known."""
        if not self._settings.compare_clocks:
            return None
        ages_s = [time.time() - sent_ns * 1e-9] if sent_ns > 0 else []
        if self._settings.stamped:
            # A driver that does not stamp sends zero, which is no time.
            stamp = msg.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            age_ns = node_life.now_ns(self.get_clock()) - stamp_ns
            ages_s += [age_ns * 1e-9] if stamp_ns else []
        return max(ages_s, key=abs, default=None)

    def _on_tick(self) -> None:
        self._flag.check_graph()
        self._publish_factor(self._policy.tick(self._steady_s()))

    def _publish_factor(self, factor: float) -> None:
        self._factors.publish(Float32(data=factor))
        self._publish(self._limiter.tick(self._steady_s(), factor))
        self._report_state()

    def _publish(self, velocity: policy.Velocity | None) -> None:
        if velocity is None:
            return
        msg = TwistStamped() if self._settings.stamped else Twist()
        if self._settings.stamped:
            msg.header = node_life.header_now(self.get_clock())
            msg.header.frame_id = self._frame_id
        set_velocity(self._twist_in(msg), velocity)
        self._limited.publish(msg)

    def _twist_in(self, msg: Any) -> Any:
        return msg.twist if self._settings.stamped else msg

    def _report_state(self) -> None:
        # Only changes of the speed are logged, not each change of the flag while slow.
        state, before = self._policy.state, self._state
        if before in ('rising', 'full') and state in ('slow', 'settling'):
            reason = self._policy.reason or 'the flag was lost for a moment'
            self.get_logger().warning(f'slow: {reason}')
        elif state != before and state in ('rising', 'full'):
            self.get_logger().info('full speed' if state == 'full' else 'speed rises')
        self._state = state

    def _on_diagnostics(self) -> None:
        speed, command_topic = self._policy, str(self._commands.topic_name)
        reason = speed.reason
        if reason and not self._flag.num_publishers:
            reason += f'; no publisher on {self._flag.topic}: start the node, or remap confident'
        late = self._limiter.reason and f'{command_topic} {self._limiter.reason}'
        heard = {self._flag.topic: FLAG_TYPE,
                 command_topic: topics.type_name(self._commands.msg_type)}
        conflicts = [topics.type_sentence(name, kind, self.get_fully_qualified_name(),
                                          self.get_publishers_info_by_topic(name))
                     for name, kind in heard.items()]
        reason = '; '.join(text for text in (reason, late, *conflicts) if text)
        values = {
            'speed_factor': f'{speed.factor:.3f}',
            'state': speed.state,
            'flag_lost': str(speed.num_falls),
            'commands_refused': str(self._limiter.num_refused),
            'commands_late': str(self._limiter.num_late),
        }
        self._diagnostics.publish(diagnostics_message(
            node_life.header_now(self.get_clock()),
            Status(WARN if reason else OK, self._status_name, reason or speed.state, values)))


def velocity_of(twist: Twist) -> policy.Velocity:
    """Return the six velocities of a twist, m/s and rad/s."""
    return tuple(getattr(part, axis) for part in (twist.linear, twist.angular) for axis in 'xyz')


def set_velocity(twist: Twist, velocity: policy.Velocity) -> None:
    """Write six velocities, m/s and rad/s, into a twist."""
    values = iter(velocity)
    for part in (twist.linear, twist.angular):
        for axis in 'xyz':
            setattr(part, axis, next(values))


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until a signal ends it, by default with the process's arguments.

    At the end it publishes the slow factor, and zero if a command was in force. Returns the exit
    code.
    """
    return node_life.run_program(NODE_NAME, ABOUT, args, _run)


def _run(words: Sequence[str]) -> int:
    stop = node_life.stop_on_signals()
    node = SpeedGovernorNode(words=words, is_stopping=stop.is_set)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def on_fault(err: Exception) -> None:
        node.get_logger().error(f'a callback failed: {type(err).__name__}: {err}')
        node.fall('internal error, see the log')

    try:
        with contextlib.suppress(KeyboardInterrupt):  # a second signal
            node_life.spin_until(stop, executor, on_fault, node.require_name)
        node_life.ignore_signals()
        node.stop()
        return 0
    except ConfigError:  # another governor has the name
        node.stop()
        raise
    finally:
        executor.shutdown()
        node.destroy_node()


if __name__ == '__main__':
    sys.exit(main())
