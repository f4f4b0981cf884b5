# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The speed governor in this process: the test calls its callbacks and sets its clock.

test_speed_governor has its behaviour over DDS, with peers that die and hang.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from geometry_msgs.msg import Twist, TwistStamped
import pytest
import rclpy
from rclpy.executors import ExternalShutdownException
from ros_helpers import own_domain, values_of
from std_msgs.msg import Bool

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import node_life, topics
from uncertainty_seg.ros import rivals as name_claim
from uncertainty_seg.ros.governor import node as governor_node
from uncertainty_seg.ros.governor.node import (
    FlagLink,
    GONE,
    main,
    set_velocity,
    SpeedGovernorNode,
    velocity_of,
)
from uncertainty_seg.ros.governor.policy import SpeedSettings, STALE
from uncertainty_seg.ros.node_life import steady_s

SLOW, DEADLINE_S = 0.25, 0.5
SYSTEM_S = 1_700_000_000.0


@pytest.fixture(scope='module', autouse=True)
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


class Log:
    """A logger that records its messages."""

    def __init__(self, told: list[tuple[str, str]]) -> None:
        self._told = told

    def info(self, text: str, **_: Any) -> None:
        self._told.append(('info', text))

    def warning(self, text: str, **_: Any) -> None:
        self._told.append(('warning', text))

    def error(self, text: str, **_: Any) -> None:
        self._told.append(('error', text))


def speaker(number: int, kind: str = 'std_msgs/msg/Bool') -> Any:
    """Return a publisher's entry in the ROS graph."""
    return SimpleNamespace(topic_type=kind, endpoint_gid=[number] * 16, node_name=f'node_{number}',
                           node_namespace='/')


class Governor:
    """A governor whose publishers append to lists."""

    def __init__(self, domain: int, parameters: dict[str, Any]) -> None:
        values = {'slow_factor': SLOW, 'deadline_s': DEADLINE_S, 'settle_s': DEADLINE_S,
                  'rise_per_s': 1.0, 'command_timeout_s': 0.5, **parameters}
        words = [word for name, value in values.items()
                 for word in ('-p', f'{name}:={str(value).lower()}')]
        rclpy.init(args=['--ros-args', '--log-level', 'fatal', *words], domain_id=domain)
        self.now_s = 1000.0
        self.asked: list[str] = []  # names of the clocks that were read
        self.log: list[tuple[str, str]] = []
        logged = type('Logged', (SpeedGovernorNode,), {'get_logger': lambda node: Log(self.log)})
        self.node = logged(lambda: self.asked.append('steady') or self.now_s)
        self.said_at_start, self.log[:] = list(self.log), []
        self.said: dict[str, list[Any]] = {}
        for publisher in self.node.publishers:
            self.said[publisher.topic_name] = []
            publisher.publish = self.said[publisher.topic_name].append
        self.acked: list[tuple[str, int]] = []
        for publisher in self.node.publishers:
            publisher.wait_for_all_acked = (
                lambda timeout, name=publisher.topic_name:
                self.acked.append((name, timeout.nanoseconds)))
        self.publishers = [speaker(1)]
        self.others: list[Any] = []  # on the command topic
        self.node.get_publishers_info_by_topic = (
            lambda topic: self.publishers if topic == '/confident' else self.others)
        self.number = 0
        self.system_now_s = SYSTEM_S
        self._callbacks = {one.topic_name: one.callback for one in self.node.subscriptions}
        self._timers = {timer.timer_period_ns: timer.callback for timer in self.node.timers}

    @property
    def factors(self) -> list[float]:
        return [msg.data for msg in self.said['/speed_governor/speed_factor']]

    @property
    def limited(self) -> list[Any]:
        return self.said['/cmd_vel_limited']

    def system_s(self) -> float:
        self.asked.append('system')
        return self.system_now_s

    def hear(self, is_confident: bool, age_s: float = 0.0, number: int | None = None) -> None:
        """Receive a flag that was sent `age_s` ago by the system clock."""
        if number is None:
            number = self.number = self.number + 1
        self._callbacks['/confident'](Bool(data=is_confident), {
            'source_timestamp': round((self.system_now_s - age_s) * 1e9),
            'publication_sequence_number': number})

    def hear_without_a_time(self, **information: Any) -> None:
        self._callbacks['/confident'](Bool(data=True), information)

    def command(self, msg: Any, age_s: float = 0.0) -> None:
        self._callbacks['/cmd_vel'](
            msg, {'source_timestamp': round((self.system_now_s - age_s) * 1e9)})

    def tick(self, step_s: float = 0.1) -> None:
        self.now_s += step_s
        self._timers[100_000_000]()

    def rise(self) -> None:
        """Receive true flags until the factor is 1."""
        for _ in range(40):
            self.hear(True)
            self.tick()
        assert self.factors[-1] == 1.0

    def health(self) -> Any:
        self._timers[1_000_000_000]()
        return self.said['/diagnostics'][-1]

    def reason(self) -> str:
        return self.health().status[0].message


@contextmanager
def governor(domain: int, **parameters: Any) -> Iterator[Governor]:
    with pytest.MonkeyPatch.context() as patch:
        # Skip the search for a node of the same name: the governor is alone in its domain.
        patch.setattr(name_claim, 'LOOK_S', 0)
        patch.setattr(name_claim, 'LOOK_TURNS', 0)
        try:
            one = Governor(domain, parameters)
            patch.setattr(governor_node, 'time', SimpleNamespace(time=one.system_s))
            yield one
            one.node.destroy_node()
        finally:
            rclpy.try_shutdown()


def twist(x: float, yaw: float = 0.0) -> Any:
    msg = Twist()
    msg.linear.x, msg.angular.z = x, yaw
    return msg


def test_a_flag_is_as_old_as_the_time_since_it_was_sent(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        one.hear(True, 0.75 * DEADLINE_S)
        assert one.factors[-1] == 1.0
        one.hear(True, 2 * DEADLINE_S)  # it was delayed in a queue
        assert one.factors[-1] == SLOW
        assert '1.0 s' in one.reason()


def test_where_clocks_are_not_compared_a_flag_is_young_when_it_arrives(domain: int) -> None:
    with governor(domain, compare_clocks=False) as one:
        for _ in range(40):
            one.hear_without_a_time(source_timestamp=1)
            one.tick()
        assert one.factors[-1] == 1.0


def test_a_false_flag_goes_out_at_once_and_a_true_one_at_the_next_tick(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        num_before = len(one.factors)
        one.hear(True)
        assert len(one.factors) == num_before
        one.hear(False)
        assert one.factors[num_before:] == [SLOW]


def test_the_system_clock_is_read_last_so_that_a_pause_makes_the_flag_older(domain: int) -> None:
    with governor(domain) as one:
        one.asked.clear()
        one.hear(True)
        # Two readings by the watch of the publishers, then the pair that is compared.
        assert one.asked == ['steady', 'steady', 'steady', 'system']


class Ears:
    """A node that records the subscription it creates."""

    def __init__(self) -> None:
        self.publishers: list[Any] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def create_subscription(
        self, kind: Any, topic: str, take: Any, qos: Any, event_callbacks: Any = None
    ) -> Any:
        self.kind, self.take, self.qos, self.events = kind, take, qos, event_callbacks
        return SimpleNamespace(topic_name=f'/auv/{topic}')

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        assert topic == '/auv/confident'
        return self.publishers

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=self.warnings.append, error=self.errors.append)


def link(compare_clocks: bool = True) -> tuple[Ears, FlagLink, list[Any], list[str]]:
    ears, heard, lost = Ears(), [], []
    settings = SpeedSettings(deadline_s=DEADLINE_S, compare_clocks=compare_clocks)
    return ears, FlagLink(ears, settings, lambda *words: heard.append(words), lost.append,
                          lambda: 0.0), heard, lost


def test_the_link_passes_on_when_a_flag_was_sent_in_seconds() -> None:
    ears, _, heard, _ = link()
    ears.take(Bool(data=True), {'source_timestamp': 1_700_000_000_500_000_000})
    ears.take(Bool(data=False), {'source_timestamp': 0})
    assert heard == [(True, 1_700_000_000.5), (False, None)]


def test_the_link_asks_for_the_deadline_and_queues_nothing_without_the_time_of_sending() -> None:
    asked = [link(compare_clocks)[0] for compare_clocks in (True, False)]
    assert [ears.kind for ears in asked] == [Bool, Bool]
    assert [ears.qos.deadline.nanoseconds for ears in asked] == [DEADLINE_S * 1e9] * 2
    # Without send times a deeper queue would deliver old flags, each taken for a new one.
    assert asked[0].qos.depth > asked[1].qos.depth == 1


def test_on_humble_a_callback_takes_the_flag_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor_node, 'TELLS_WHEN_SENT', False)
    ears, _, heard, _ = link()
    ears.take(Bool(data=True))
    assert (heard, ears.qos.depth) == ([(True, None)], 1)


def test_the_middleware_says_that_the_flag_is_lost() -> None:
    ears, _, _, lost = link()
    ears.events.deadline(None)
    assert lost == [STALE]
    ears.events.liveliness(SimpleNamespace(alive_count=1))
    assert lost == [STALE]
    ears.events.liveliness(SimpleNamespace(alive_count=0))
    assert lost == [STALE, GONE]


def test_a_publisher_of_another_quality_of_service_is_an_error_that_names_the_policy() -> None:
    from rclpy.qos import QoSPolicyKind

    ears = link()[0]
    ears.events.incompatible_qos(SimpleNamespace(last_policy_kind=QoSPolicyKind.DEADLINE))
    (sentence,) = ears.errors
    assert all(named in sentence for named in ('/auv/confident', 'DEADLINE', '0.5 s'))


def test_the_graph_says_once_that_the_publisher_left_and_always_that_there_are_two() -> None:
    ears, watched, _, lost = link()
    told = []
    for present in ([], [1], [1], [], [], [2], [2, 3], [2, 3], [3], [2, 3], []):
        ears.publishers = [speaker(number) for number in present]
        watched.check_graph()
        told.append((len(lost), len(ears.warnings)))
    assert told == [(0, 0)] * 3 + [(1, 0)] * 3 + [(2, 1), (3, 1), (3, 1), (4, 2), (5, 2)]
    assert (lost[0], lost[-1]) == (GONE, GONE)
    assert all('2 publishers' in reason for reason in lost[1:4])
    assert '/auv/confident' in ears.warnings[0] and '2 publishers' in ears.warnings[0]


def test_no_flag_is_passed_on_from_the_moment_a_second_publisher_is_on_the_graph() -> None:
    ears, watched, heard, lost = link()
    ears.publishers = [speaker(1)]
    ears.take(Bool(data=True), {'source_timestamp': 10**9})
    ears.publishers = [speaker(1), speaker(2)]
    for is_confident in (True, False):  # without a tick in between
        ears.take(Bool(data=is_confident), {'source_timestamp': 10**9})
    assert heard == [(True, 1.0)]
    assert lost == [watched.fault] * 2


def test_a_middleware_without_events_is_listened_to_without_them() -> None:
    class Deaf(Ears):

        def create_subscription(self, *words: Any, **options: Any) -> Any:
            if options:
                raise topics.UnsupportedEventTypeError
            return super().create_subscription(*words)

    ears, heard = Deaf(), []
    FlagLink(ears, SpeedSettings(), lambda *words: heard.append(words), heard.append,
             lambda: 0.0)
    ears.take(Bool(data=True), {'source_timestamp': 10**9})
    assert heard == [(True, 1.0)]


def test_a_rogue_that_is_left_alone_after_the_node_has_died_raises_nothing(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        one.publishers = [speaker(1), speaker(2)]
        one.hear(True)  # from the node; later flags are from the rogue alone
        one.publishers = [speaker(2)]
        num_before = len(one.factors)
        for number in range(1, 100):
            one.hear(True, number=number)
            one.tick()
        assert set(one.factors[num_before:]) == {SLOW}
        assert one.reason() != 'full'
        one.publishers = [speaker(3)]  # the node was restarted
        one.rise()
        assert one.reason() == 'full'


@pytest.mark.parametrize('jump_s', [-3600.0, -0.3, 0.3, 3600.0])
def test_a_jump_of_the_system_clock_raises_nothing_and_is_over_with_the_next_flag(
    domain: int, jump_s: float
) -> None:
    with governor(domain) as one:
        one.rise()
        one.command(twist(1.0))
        one.system_now_s += jump_s
        num_before = len(one.factors)
        one.hear(True, age_s=jump_s)  # in transit while the clock jumped
        one.command(twist(2.0), age_s=jump_s)
        is_small = abs(jump_s) < DEADLINE_S
        assert one.limited[-1].linear.x == (2.0 if is_small else 0.0)
        one.tick()
        assert one.factors[-1] == (1.0 if is_small else SLOW)
        assert one.factors[num_before:] == sorted(one.factors[num_before:], reverse=True)
        one.command(twist(2.0))
        assert one.limited[-1].linear.x == 2.0 * one.factors[-1]
        one.rise()


@pytest.mark.parametrize(('age_s', 'speed'), [
    (-0.6, 0.0), (-0.5, 0.0), (-0.4, 1.0), (0.0, 1.0), (0.4, 1.0), (0.5, 0.0), (3.0, 0.0)])
def test_a_command_that_is_as_old_as_the_timeout_or_as_new_is_zero_said_and_counted(
    domain: int, age_s: float, speed: float
) -> None:
    with governor(domain) as one:
        one.rise()
        one.command(twist(1.0), age_s)
        assert one.limited[-1].linear.x == speed
        health = one.health()
        assert values_of(health)['commands_late'] == str(int(not speed))
        said = health.status[0].message
        assert said == 'full' if speed else f'/cmd_vel was sent {age_s:.1f} s' in said
        warnings = [text for level, text in one.log if level == 'warning']
        assert [said in text for text in warnings] == ([] if speed else [True])
        one.command(twist(1.0))
        assert one.reason() == 'full'


def test_a_command_counts_as_late_by_either_of_its_stamps_but_not_by_a_stamp_of_zero(
    domain: int
) -> None:
    with governor(domain, stamped=True) as one:
        one.rise()
        now_ns = one.node.get_clock().now().nanoseconds
        for stamp_s, age_s, is_passed_on in (
                (None, 0.0, True), (0.0, 0.0, True), (3.0, 0.0, False), (0.0, 3.0, False),
                (-3.0, 0.0, False), (None, 3.0, False), (2e9, 0.0, False)):
            command = TwistStamped(twist=twist(1.0))
            if stamp_s is not None:
                stamp_ns = now_ns - round(stamp_s * 1e9)
                command.header.stamp.sec, command.header.stamp.nanosec = divmod(stamp_ns, 10**9)
            one.command(command, age_s)
            assert (one.limited[-1].twist.linear.x == 1.0) is is_passed_on, (stamp_s, age_s)


def test_a_pause_between_the_clocks_makes_a_command_older(domain: int) -> None:
    with governor(domain) as one:
        one.asked.clear()
        one.command(twist(1.0))
        assert one.asked[:2] == ['steady', 'system']


def test_the_six_velocities_of_a_twist_go_in_and_out_in_one_order() -> None:
    msg, values = Twist(), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    set_velocity(msg, values)
    assert (msg.linear.x, msg.linear.y, msg.linear.z) == values[:3]
    assert (msg.angular.x, msg.angular.y, msg.angular.z) == values[3:]
    assert velocity_of(msg) == values


def test_a_command_is_scaled_slowed_down_when_the_flag_falls_and_ended(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        one.command(twist(2.0, -1.0))
        one.hear(False)
        one.tick(0.6)
        one.tick()
        assert [velocity_of(msg) for msg in one.limited] == [
            (2.0, 0.0, 0.0, 0.0, 0.0, -1.0), (0.5, 0.0, 0.0, 0.0, 0.0, -0.25), (0.0,) * 6]


def test_a_command_is_limited_by_the_factor_of_its_own_moment(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        one.now_s += DEADLINE_S  # no tick since then
        one.command(twist(2.0))
        assert one.limited[-1].linear.x == 2.0 * SLOW


def test_a_stamped_command_keeps_its_frame(domain: int) -> None:
    with governor(domain, stamped=True) as one:
        command = TwistStamped(twist=twist(1.0))
        command.header.frame_id = 'base_link'
        one.command(command)
        one.tick(0.6)
        slowed, zero = one.limited
        assert (slowed.twist.linear.x, zero.twist.linear.x) == (SLOW, 0.0)
        assert slowed.header.frame_id == zero.header.frame_id == 'base_link'
        assert slowed.header.stamp.sec > 0


def test_only_what_the_vehicle_feels_is_logged(domain: int) -> None:
    with governor(domain) as one:
        one.tick()
        one.hear(False)
        assert one.log == []
        one.rise()
        assert one.log == [('info', 'speed rises'), ('info', 'full speed')]
        one.hear(False)
        one.tick()
        assert [(level, 'false' in text) for level, text in one.log[2:]] == [('warning', True)]


def test_diagnostics_name_state_factor_and_what_is_missing(domain: int) -> None:
    with governor(domain) as one:
        one.publishers = []
        one.tick()
        status = one.health().status[0]
        assert status.name == 'speed_governor: speed'
        assert status.level == b'\x01'
        assert '/confident' in status.message
        one.publishers = [speaker(1)]
        one.tick()
        assert '/confident' not in one.reason() and one.reason() != 'full'
        one.rise()
        msg = one.health()
        assert (msg.status[0].level, msg.status[0].message) == (b'\x00', 'full')
        assert values_of(msg) == {'speed_factor': '1.000', 'state': 'full', 'flag_lost': '0',
                                  'commands_refused': '0', 'commands_late': '0'}
        one.hear(False)
        assert values_of(one.health())['flag_lost'] == '1'


def test_a_publisher_of_another_type_is_in_the_diagnostics(domain: int) -> None:
    with governor(domain) as one:
        one.rise()
        one.publishers = [speaker(2, 'std_msgs/msg/String')]
        one.others = [speaker(3, 'geometry_msgs/msg/TwistStamped')]
        message = one.reason()
        assert message.count('; ') >= 1
        assert 'std_msgs/msg/String' in message and 'geometry_msgs/msg/TwistStamped' in message
        one.publishers, one.others = [speaker(1)], []
        assert one.reason() == 'full'


def test_stopping_leaves_the_slow_factor_and_one_zero_where_a_command_was_in_force(
    domain: int
) -> None:
    for has_command in (False, True):
        with governor(domain) as one:
            one.rise()
            if has_command:
                one.command(twist(1.0))
            num_before = len(one.limited)
            one.node.stop()
            assert one.factors[-1] == SLOW
            after = [velocity_of(msg)[0] for msg in one.limited[num_before:]]
            assert after == ([SLOW, 0.0] if has_command else [])
            assert one.acked == [('/speed_governor/speed_factor', 500_000_000),
                                 ('/cmd_vel_limited', 500_000_000)]


def test_the_start_names_the_topics_and_a_parameter_that_there_is_not(domain: int) -> None:
    of_ros = {'qos_overrides./confident.subscription.depth': 3}
    with governor(domain, exposure=0.5, **of_ros) as one:
        (warning, unknown), (info, said) = one.said_at_start
        assert (warning, info) == ('warning', 'info') and 'exposure' in unknown
        assert all(f' {named}' in said for named in (
            '/confident', '/cmd_vel', '/cmd_vel_limited', '0.25'))


def test_the_factor_is_offered_with_a_deadline_of_five_periods(domain: int) -> None:
    with governor(domain, deadline_s=0.1) as one:
        (factors,) = [p for p in one.node.publishers
                      if p.topic_name == '/speed_governor/speed_factor']
        assert factors.qos_profile.deadline.nanoseconds == 250_000_000
        assert sorted(one._timers) == [50_000_000, 1_000_000_000]


def test_its_clock_counts_while_the_machine_sleeps_where_there_is_such_a_clock(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {'CLOCK_BOOTTIME': 7, 'clock_gettime': {7: 42.0}.get, 'monotonic': lambda: 1.0}
    monkeypatch.setattr(node_life, 'time', SimpleNamespace(**clocks))
    assert steady_s() == 42.0
    del clocks['CLOCK_BOOTTIME']
    monkeypatch.setattr(node_life, 'time', SimpleNamespace(**clocks))
    assert steady_s() == 1.0


def run_main(
    domain: int, monkeypatch: pytest.MonkeyPatch, spin: Any
) -> tuple[int, list[str], list[tuple[str, str]]]:
    """Run the entry point with `spin` as its loop; return exit code, recorded calls and log."""
    called: list[str] = []
    log: list[tuple[str, str]] = []
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    monkeypatch.setattr(node_life, 'spin_until', spin)
    monkeypatch.setattr(node_life, 'ignore_signals', lambda: called.append('ignore'))
    monkeypatch.setattr(SpeedGovernorNode, 'get_logger', lambda self: Log(log))
    monkeypatch.setattr(SpeedGovernorNode, 'fall', lambda self, reason: called.append(reason))
    monkeypatch.setattr(SpeedGovernorNode, 'stop', lambda self: called.append('stop'))
    destroy = SpeedGovernorNode.destroy_node
    monkeypatch.setattr(SpeedGovernorNode, 'destroy_node',
                        lambda self: called.append('destroy') or destroy(self))
    code = main(['--ros-args', '--log-level', 'fatal'])
    assert not rclpy.ok()
    return code, called, log[1:]  # without the first message, about what it waits for


def test_a_callback_that_fails_makes_the_factor_fall_and_the_node_lives_on(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spin(stop: Any, executor: Any, on_fault: Any, on_turn: Any) -> None:
        assert [node.get_name() for node in executor.get_nodes()] == ['speed_governor']
        on_fault(ValueError('x'))

    code, called, log = run_main(domain, monkeypatch, spin)
    assert code == 0
    assert len(called) == 4 and called[1:] == ['ignore', 'stop', 'destroy']
    assert [(level, 'ValueError: x' in text) for level, text in log] == [('error', True)]


@pytest.mark.parametrize(('error', 'code', 'called'), [
    (KeyboardInterrupt, 0, ['ignore', 'stop', 'destroy']),  # a second signal
    (ConfigError('x'), 2, ['stop', 'destroy']),  # another governor has the name
    (ExternalShutdownException, 0, ['destroy']),  # nothing can be published any more
])
def test_an_end_from_outside_leaves_the_slow_factor_where_that_is_possible(
    domain: int, monkeypatch: pytest.MonkeyPatch, error: Any, code: int,
    called: list[str],
) -> None:
    def spin(stop: Any, executor: Any, on_fault: Any, on_turn: Any) -> None:
        raise error

    assert run_main(domain, monkeypatch, spin) == (code, called, [])
