# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Two publishers of one flag: two nodes, or a node and a bag; two publishers of images."""

from pathlib import Path
import signal
from types import SimpleNamespace
from typing import Any

from conftest import make_tiny_bundle
import pytest
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_helpers import node_arguments, Process
from ros_node_rig import node_rig

from uncertainty_seg.ros.rivals import CameraRivals, NO_NUMBER, PROBE_S, RivalWatch

TOPIC = '/uncertainty_seg/confident'


def speaker(
    deadline_s: float = 1.0, is_reliable: bool = True, kind: str = 'std_msgs/msg/Bool'
) -> Any:
    policy = QoSReliabilityPolicy
    qos = QoSProfile(
        depth=1, deadline=Duration(seconds=deadline_s),
        reliability=policy.RELIABLE if is_reliable else policy.BEST_EFFORT)
    return SimpleNamespace(topic_type=kind, qos_profile=qos)


class Watched:
    """A watch whose graph, clock and messages the test controls."""

    def __init__(self) -> None:
        self.now_s, self.num_sent = 0.0, 0
        self.others: list[Any] = []
        self.hear: Any = None
        self.graph_fails = False
        node: Any = SimpleNamespace(
            get_publishers_info_by_topic=self._speakers,
            create_subscription=self._subscribe, destroy_subscription=self._forget)
        self.watch = RivalWatch(node, TOPIC, lambda: self.num_sent, lambda: self.now_s)

    def _speakers(self, topic: str) -> list[Any]:
        if self.graph_fails:
            raise UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'the name of a node')
        return [speaker(), *self.others]

    def _subscribe(
        self, kind: Any, topic: str, callback: Any, qos: Any, event_callbacks: Any
    ) -> str:
        self.hear = callback
        return topic

    def _forget(self, subscription: str) -> None:
        self.hear = None

    def run(self, seconds: int, own_hz: int, foreign_hz: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            self.num_sent += own_hz
            for _ in range((own_hz + foreign_hz) if self.hear else 0):
                self.hear(None)
            self.watch.look()


def test_another_voice_is_a_reason_at_once_and_for_as_long_as_it_speaks() -> None:
    rig = Watched()
    rig.others = [speaker(kind='std_msgs/msg/String')]
    rig.run(5, 10, 0)
    assert rig.hear is None and rig.watch.reason == ''
    rig.others = [speaker()]
    for _ in range(30):
        rig.run(1, 10, 2)
        assert TOPIC in rig.watch.reason
    rig.others = []
    rig.run(1, 10, 0)
    assert rig.watch.reason == '' and rig.hear is None


@pytest.mark.parametrize('own_hz', [0, 30])
def test_a_dead_one_in_the_graph_is_believed_dead_after_the_probe(own_hz: int) -> None:
    rig = Watched()
    rig.run(2, own_hz, 0)
    rig.others = [speaker()]
    rig.run(1, own_hz, 0)
    assert rig.watch.reason
    rig.run(int(PROBE_S) + 1, own_hz, 0)
    assert rig.watch.reason == ''
    rig.run(20, own_hz, 0)
    assert rig.watch.reason == ''
    rig.run(int(PROBE_S), own_hz, 5)  # the other publisher returns
    assert rig.watch.reason


@pytest.mark.parametrize(('period_s', 'deadline_s'), [
    (1, 2.0), (2, 1.0), (5, 10.0), (5, 0.0), (10, 0.0)])
def test_a_voice_that_speaks_rarely_is_heard_as_long_as_its_deadline_allows(
    period_s: int, deadline_s: float
) -> None:
    rig = Watched()
    rig.others = [speaker(deadline_s)]
    without_veto = 0
    for second in range(120):
        rig.run(1, 10, int(second % period_s == 0))
        without_veto += not rig.watch.reason
    assert without_veto == 0


def test_one_that_was_silent_and_then_speaks_rarely_is_a_reason_from_its_third_flag_on() -> None:
    rig = Watched()
    rig.others = [speaker()]
    rig.run(10, 10, 0)
    assert rig.watch.reason == ''
    found = []
    for second in range(60):
        rig.run(1, 10, int(second % 2 == 0))
        found.append(bool(rig.watch.reason))
    assert found == [False] * 4 + [True] * 56


def test_a_look_that_raises_keeps_the_last_answer_and_is_a_reason_of_its_own_later() -> None:
    rig = Watched()
    rig.run(2, 10, 0)
    rig.graph_fails = True
    for _ in range(int(PROBE_S)):
        with pytest.raises(UnicodeDecodeError):
            rig.run(1, 10, 0)
        assert rig.watch.reason == ''
    with pytest.raises(UnicodeDecodeError):
        rig.run(1, 10, 0)
    assert TOPIC in rig.watch.reason and 'UnicodeDecodeError' in rig.watch.reason
    rig.graph_fails = False
    rig.run(1, 10, 0)
    assert rig.watch.reason == ''
    rig.others = [speaker()]
    rig.run(1, 10, 2)
    rig.graph_fails = True
    with pytest.raises(UnicodeDecodeError):
        rig.run(1, 10, 2)
    assert rig.watch.reason  # a known second publisher still counts


def test_a_voice_that_cannot_be_listened_to_reliably_counts_while_it_is_there() -> None:
    rig = Watched()
    rig.others = [speaker(is_reliable=False)]
    rig.run(60, 10, 0)
    assert rig.watch.reason and rig.hear is None


def test_our_own_flags_on_the_way_are_no_other_voice() -> None:
    rig = Watched()
    rig.others = [speaker()]
    rig.run(1, 10, 0)
    for second in range(20):  # every second time one of our flags arrives a second late
        rig.run(1, 10, 1 if second % 2 else -1)
    assert rig.watch.reason == ''


class Cameras:
    """Publishers of one topic with separate sequence numbers; a graph check every second."""

    def __init__(self) -> None:
        self.now_s, self.num_there, self.numbers = 0.0, 1, {'first': 500, 'second': 0}
        self.watch = CameraRivals('/cam', lambda: self.num_there, lambda: self.now_s)
        self.watch.look()

    def run(self, seconds: int, *speakers: str, has_numbers: bool = True) -> list[bool]:
        """Send images from publishers in turn, 10 Hz; returns whether each may be true."""
        found = []
        for k in range(10 * seconds):
            self.now_s += 0.1
            name = speakers[k % len(speakers)]
            self.numbers[name] += 1
            self.watch.hear({'publication_sequence_number':
                             self.numbers[name] if has_numbers else NO_NUMBER})
            if k % 10 == 9:
                self.watch.look()
            found.append(not self.watch.reason)
        return found


def test_a_second_camera_is_a_reason_from_its_first_images_to_its_end() -> None:
    rig = Cameras()
    assert all(rig.run(3, 'first'))
    rig.num_there = 2
    found = rig.run(30, 'first', 'second')
    assert not any(found[2:]) and '/cam' in rig.watch.reason
    rig.num_there = 1
    assert all(rig.run(3, 'first')[9:])


@pytest.mark.parametrize('number', [0, 10**6])
def test_the_first_image_of_a_second_camera_that_was_silent_is_not_believed(number: int) -> None:
    rig = Cameras()
    rig.num_there, rig.numbers['second'] = 2, number
    assert all(rig.run(5, 'first')[40:])
    assert not any(rig.run(1, 'second', *['first'] * 9))


def test_a_driver_that_was_killed_and_started_again_is_believed_alone_after_the_probe() -> None:
    rig = Cameras()
    rig.run(3, 'first')
    rig.num_there = 2
    found = rig.run(10, 'second')
    assert not any(found[:29]) and all(found[40:])
    assert not any(rig.run(2, 'first', 'second')[2:])  # it was not dead


def test_without_numbers_nobody_is_believed_dead() -> None:
    rig = Cameras()
    assert all(rig.run(2, 'first', has_numbers=False))
    rig.num_there = 2
    assert not any(rig.run(30, 'first', has_numbers=False)[9:])


def test_a_second_publisher_of_images_lowers_the_flag_at_once(tmp_path: Path) -> None:
    with node_rig(tmp_path, gate__rise_frames=1) as rig:
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        first, node = rig.client.camera, rig.client.node
        other = node.create_publisher(type(rig.send()), '/cam', 1)
        rig.wait(lambda: rig.client.camera.get_subscription_count() == 1
                 and other.get_subscription_count() == 1, 'the second to be matched')

        def tell_in_turn() -> dict[str, str]:
            rig.client.camera = other if rig.client.camera is first else first
            return rig.verdict()

        assert 'true' not in [tell_in_turn()['confident'] for _ in range(15)][3:]
        assert '2 publishers' in rig.status[-1].status[0].message
        rig.wait(lambda: tell_in_turn() and any(
            '2 publishers' in s.status[0].message and s.status[0].level == b'\x02'
            for s in rig.health), 'diagnostics to say so')
        node.destroy_publisher(other)
        rig.client.camera = first
        rig.wait(lambda: rig.verdict()['confident'] == 'true', 'the flag to come back')


@pytest.mark.release
def test_two_nodes_with_one_flag_are_both_not_confident_until_one_is_gone(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with node_rig(tmp_path, gate__rise_frames=1) as rig:
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        remaps = ['-r', '__node:=other', '-r', f'~/confident:={TOPIC}']
        words = [*node_arguments(bundle, gate__rise_frames=1), *remaps]
        with Process(words, rig.domain, tmp_path / 'other') as other:
            rig.wait(lambda: rig.verdict() and any(
                'somebody else publishes' in s.status[0].message and s.status[0].level == b'\x02'
                for s in rig.health), 'the node to notice')
            rig.wait(lambda: rig.verdict() and rig.client.node.count_publishers(TOPIC) == 2
                     and not any(f.data for f in rig.flags[-20:]), 'both to be down')
            # A killed node stays in the graph for 20 s; only received flags show that it lives.
            other.send_signal(signal.SIGKILL)
            rig.wait(lambda: rig.verdict() and rig.flags[-1].data, 'the flag to come back')
