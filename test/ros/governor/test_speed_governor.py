# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The speed governor over real DDS: what dies, hangs or lies must not leave the vehicle fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import re
import signal
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    image_message,
    needs_ros,
    node_arguments,
    Process,
    ROOT,
    solid,
    values_of,
)
from ros_speed_rig import DEADLINE_S, now_s, SLOW, speed_rig, SpeedRig

pytestmark = needs_ros


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[SpeedRig]:
    with speed_rig(tmp_path_factory.mktemp('governor')) as rig:
        yield rig


def test_the_page_names_every_topic_of_the_node_and_its_type(rig: SpeedRig) -> None:
    node = rig.client.node
    rig.wait(lambda: 'speed_governor' in node.get_node_names(), 'the governor on the graph')

    def topics() -> dict[str, str]:
        return {
            name.replace('/speed_governor/', '~/').removeprefix('/'): kind[0].replace('/msg/', '/')
            for found in (node.get_publisher_names_and_types_by_node('speed_governor', '/'),
                          node.get_subscriber_names_and_types_by_node('speed_governor', '/'))
            for name, kind in found if name not in ('/rosout', '/parameter_events')
        }

    rig.wait(lambda: len(topics()) >= 6, 'its topics on the graph')
    page = (ROOT / 'docs' / 'speed_governor.md').read_text(encoding='utf-8')
    table = page.split('| topic |')[1].split('\n\n')[0]
    listed = {name.removeprefix('/'): kind for name, kind
              in re.findall(r'^\| `([^`]+)`[^|]*\| ([^ ,]+)', table, re.MULTILINE)}
    listed['cmd_vel_limited'] = listed['cmd_vel']
    assert listed == topics()


def twist(x: float, yaw: float = 0.0) -> Any:
    from geometry_msgs.msg import Twist

    msg = Twist()
    msg.linear.x, msg.angular.z = x, yaw
    return msg


def pass_on(rig: SpeedRig, command: Any, is_passed_on: Callable[[Any], bool]) -> None:
    """Send a command, again where a busy machine let it wait until it was a late one."""
    def is_answered() -> bool:
        rig.limited.clear()
        rig.commands.publish(command)
        rig.wait(lambda: rig.limited, 'an answer')
        return is_passed_on(rig.limited[0])
    rig.wait(is_answered, 'the command to be passed on')


def test_a_flag_that_is_false_is_slow_at_once_and_a_true_one_rises_again(rig: SpeedRig) -> None:
    peer = rig.speak('true')
    rig.wait_for_rise()
    num_before = len(rig.factors)
    rig.say('false')
    rig.wait_for_slow()
    assert set(rig.hear()) == {SLOW}
    rig.wait_for_reason('the flag is false')
    rig.say('true')
    rig.wait_for_rise(0.99)
    assert all(factor <= 1.0 for _, factor in rig.factors[num_before:])
    peer.end()
    rig.wait_for_reason('the publisher of the flag is gone')


def test_a_killed_publisher_slows_the_vehicle_and_the_command_it_has(rig: SpeedRig) -> None:
    peer = rig.speak('true')
    rig.wait_for_rise()

    def is_driven() -> bool:
        rig.commands.publish(twist(2.0, -1.0))
        rig.client.spin(0.1)
        return bool(rig.limited and rig.limited[-1].linear.x > 2.0 * SLOW)

    rig.wait(is_driven, 'a command faster than slow')
    # From here on no command comes: it is the governor that must act.
    peer.interrupt(signal.SIGKILL)
    rig.assert_slow_in_time(now_s())
    rig.wait(lambda: rig.limited[-1].linear.x == 2.0 * SLOW, 'the command to be slowed down')
    assert rig.limited[-1].angular.z == -SLOW


def test_a_publisher_that_only_stops_talking_slows_the_vehicle(rig: SpeedRig) -> None:
    peer = rig.speak('true')
    rig.wait_for_rise()
    before_s = now_s()
    rig.say('')
    rig.assert_slow_in_time(before_s)
    rig.wait_for_reason('the flag is stale, last heard')
    peer.end()


def test_a_governor_that_slept_does_not_believe_what_waited_for_it(rig: SpeedRig) -> None:
    peer = rig.speak('true')
    rig.wait_for_rise()
    rig.governor.send_signal(signal.SIGSTOP)
    try:
        # It talks on for longer than the deadline, into the queue of who sleeps, and dies.
        rig.client.spin(3 * DEADLINE_S)
        peer.interrupt(signal.SIGKILL)
        rig.client.spin(1.5 * DEADLINE_S)  # all of it is stale
        num_before = len(rig.factors)
    finally:
        rig.governor.send_signal(signal.SIGCONT)
    assert set(rig.hear(8)) == {SLOW}
    assert len(rig.factors) >= num_before + 8


@pytest.mark.release
def test_a_node_started_anew_is_relied_on_when_the_dead_one_has_left_the_graph(
    rig: SpeedRig
) -> None:
    dead = rig.speak('true')
    rig.wait_for_rise()
    dead.interrupt(signal.SIGKILL)
    rig.speak('true')
    rig.wait_for_reason('2 publishers of the flag, expected one')
    assert rig.factor == SLOW
    rig.wait_for_rise()


@pytest.mark.release
def test_a_second_publisher_is_slow_whatever_it_says_and_is_never_relied_on(
    rig: SpeedRig
) -> None:
    node = rig.speak('true')
    rig.wait_for_rise()
    rogue = rig.speak_beside('false')
    rig.wait_for_reason('2 publishers of the flag, expected one')
    assert set(rig.hear(15)) == {SLOW}  # one says true and one says false
    rig.say_beside('true')
    assert set(rig.hear(15)) == {SLOW}
    node.send_signal(signal.SIGSTOP)  # the rogue speaks alone
    assert set(rig.hear(15)) == {SLOW}
    node.interrupt(signal.SIGKILL)
    rig.wait_for_reason('a publisher that published beside another one')
    assert set(rig.hear(15)) == {SLOW}
    rogue.end()
    rig.speak('true')
    rig.wait_for_rise()


def test_a_command_that_waited_for_a_governor_that_slept_is_zero(tmp_path: Path) -> None:
    with speed_rig(tmp_path, command_timeout_s=0.5) as rig:
        pass_on(rig, twist(1.0), lambda msg: msg.linear.x == SLOW)
        rig.wait(lambda: len(rig.limited) == 2, 'a limited command, and the zero after it')
        rig.governor.send_signal(signal.SIGSTOP)
        try:
            for _ in range(3):
                rig.commands.publish(twist(2.0))
            rig.client.spin(1.0)
        finally:
            rig.governor.send_signal(signal.SIGCONT)
        rig.wait_for_reason('/cmd_vel was sent ')
        assert int(values_of(rig.health[-1])['commands_late']) > 0
        assert {msg.linear.x for msg in rig.limited[1:]} == {0.0}
        assert re.search(r'/cmd_vel was sent \d+\.\d s ago, expected less than 0.5 s',
                         rig.governor.output)
        pass_on(rig, twist(1.0), lambda msg: msg.linear.x == SLOW)


def test_whoever_needs_the_factor_learns_that_the_governor_hangs(rig: SpeedRig) -> None:
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile
    from std_msgs.msg import Float32
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks

    heard: list[Any] = []
    missed: list[Any] = []
    rig.client.node.create_subscription(
        Float32, '/speed_governor/speed_factor', heard.append,
        QoSProfile(depth=10, deadline=Duration(seconds=0.5)),
        event_callbacks=SubscriptionEventCallbacks(deadline=missed.append))
    rig.wait(lambda: heard, 'the factor, by its deadline')
    rig.governor.send_signal(signal.SIGSTOP)
    try:
        missed.clear()
        rig.wait(lambda: missed, 'the missed deadline')
    finally:
        rig.governor.send_signal(signal.SIGCONT)
    rig.hear()


def test_commands_that_stop_coming_end_in_one_zero_stamped_ones_too(tmp_path: Path) -> None:
    from geometry_msgs.msg import TwistStamped

    with speed_rig(tmp_path, stamped=True, command_timeout_s=0.3) as rig:
        command = TwistStamped(twist=twist(1.0, 2.0))
        command.header.frame_id = 'base_link'
        pass_on(rig, command, lambda msg: msg.twist.linear.x == SLOW)
        rig.wait(lambda: len(rig.limited) == 2, 'the zero')
        rig.hear(8)
        slowed, zero = rig.limited
        assert (slowed.twist.linear.x, slowed.twist.angular.z) == (SLOW, 2 * SLOW)
        assert (zero.twist.linear.x, zero.twist.angular.z) == (0.0, 0.0)
        assert slowed.header.frame_id == zero.header.frame_id == 'base_link'
        assert zero.header.stamp.sec >= slowed.header.stamp.sec > 0


def test_a_publisher_that_promises_less_is_not_believed_and_that_is_said(tmp_path: Path) -> None:
    with speed_rig(tmp_path, '-r', 'confident:=/auv/confident', '-p', 'slow_facter:=0.5') as rig:
        rig.client.node.create_publisher(*flag_without_a_deadline())
        rig.wait(lambda: 'offers another' in rig.governor.output, 'the sentence')
        said = next(n for n in rig.governor.output.splitlines() if 'offers another' in n)
        assert 'a publisher on /auv/confident offers another DEADLINE than is asked for' in said
        assert 'set deadline_s to at least the stale_timeout_s' in said
        assert 'there is no parameter slow_facter' in rig.governor.output


def flag_without_a_deadline() -> tuple[Any, str, int]:
    from std_msgs.msg import Bool

    return Bool, '/auv/confident', 10


def test_the_real_node_killed_with_its_flag_up_slows_the_vehicle(tmp_path: Path) -> None:
    bundle, deadline_s = make_tiny_bundle(tmp_path / 'tiny'), 3 * DEADLINE_S
    # A network shares the machine here: with the time of the others it may not rise at all.
    with speed_rig(tmp_path, '-r', 'confident:=/uncertainty_seg/confident',
                   deadline_s=deadline_s, settle_s=deadline_s) as rig:
        arguments = node_arguments(bundle, stale_timeout_s=deadline_s)
        node = Process(arguments, rig.domain, tmp_path / 'node')
        try:
            second = 1000

            def has_risen() -> bool:
                nonlocal second
                second += 1
                rig.client.camera.publish(image_message(solid(0, 0, 255), second * 10**9))
                rig.client.spin(0.05)
                return rig.factor > SLOW + 0.05

            rig.wait(has_risen, 'the factor to rise on the flags of the node')
            node.interrupt(signal.SIGKILL)
            rig.assert_slow_in_time(now_s(), deadline_s)
        finally:
            node.end()
