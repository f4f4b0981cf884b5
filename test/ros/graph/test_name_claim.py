# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A second node of a name ends itself in one sentence, and the first goes on as if alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
import json
from pathlib import Path
import signal
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    SKIP_REASON,
    solid,
)
from ros_speed_rig import governor_arguments

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from std_msgs.msg import Bool, Float32, String  # noqa: I100

from uncertainty_seg.ros.rivals import (
    Claim,
    Contest,
    MOST_CLAIMANTS,
    NAME_SETTLE_S,
)

pytestmark = needs_ros
ME = '/uncertainty_seg'
FLAG, CLAIMS = f'{ME}/confident', f'{ME}/_claim'
OLDER = Claim(100, 'a', 0, False, 1, 'auv')
YOUNGER = replace(OLDER, started_ns=200, identity='b')


# --- who gives way -------------------------------------------------------------------------------


class Race:
    """Two nodes that hear each other from a time on."""

    def __init__(self, *starts_s: float) -> None:
        self.now_s = 0.0
        self.starts_s = starts_s
        self.claims = [replace(OLDER, started_ns=int(start_s * 1e9), identity=str(k))
                       for k, start_s in enumerate(starts_s)]
        self.contests: list[Contest] = []

    def run(self, until_s: float, is_heard: Callable[[float], bool] = lambda s: True) -> None:
        while self.now_s < until_s:
            self.now_s += 0.1
            while len(self.contests) < sum(s <= self.now_s for s in self.starts_s):
                self.contests.append(
                    Contest(self.claims[len(self.contests)], lambda: self.now_s))
            said = []
            for k, contest in enumerate(self.contests):
                self.claims[k] = replace(self.claims[k], number=self.claims[k].number + 1,
                                         is_settled=contest.is_settled)
                said += [] if contest.winner else [self.claims[k]]
            for contest in self.contests if is_heard(self.now_s) else ():
                for claim in said:
                    contest.hear(claim)

    def stay(self) -> list[int]:
        return [k for k, contest in enumerate(self.contests) if contest.winner is None]


@pytest.mark.parametrize('starts_s', [(0, 0), (0, 0, 0), (0, 0.3), (0, 30), (0, 9.9)])
def test_of_nodes_that_hear_each_other_the_first_stays(starts_s: tuple[float, ...]) -> None:
    race = Race(*starts_s)
    race.run(60.0)
    assert race.stay() == [0]


@pytest.mark.parametrize('deaf_s', [0.5, 9.8])
def test_one_stays_too_where_they_hear_each_other_late(deaf_s: float) -> None:
    for second_s in (0, 0.3, 5, 30):
        race = Race(0, second_s)
        race.run(90.0, lambda s, end_s=second_s + deaf_s: s > end_s)
        assert race.stay() == [0]


def test_nobody_ends_where_they_were_apart_until_both_had_settled() -> None:
    race = Race(0, 5)
    race.run(90.0, lambda s: s > 5 + NAME_SETTLE_S + 0.2)
    assert race.stay() == [0, 1]


def test_a_settled_one_stays_though_the_clock_of_the_new_ones_computer_is_behind() -> None:
    contest = Contest(YOUNGER, iter([0.0, *[NAME_SETTLE_S] * 20]).__next__)
    for number in range(5):
        contest.hear(replace(OLDER, number=number))
    assert contest.winner is None
    new = Contest(OLDER, lambda: 0.0)
    for number in range(2):
        new.hear(replace(YOUNGER, number=number, is_settled=True))
    assert new.winner is not None


def test_one_claim_that_was_on_the_way_when_its_sender_died_is_no_proof() -> None:
    contest = Contest(YOUNGER, lambda: 0.0)
    for _ in range(3):
        contest.hear(replace(OLDER, number=7, is_settled=True))
    assert contest.winner is None
    contest.hear(replace(OLDER, number=8, is_settled=True))
    assert contest.winner is not None


@pytest.mark.parametrize('text', [
    '', 'x', '[]', '{}', '7', 'null', '[' * 900, '{"started_ns": 1}', 'x' * 2000,
    *[json.dumps({**json.loads(OLDER.text()), name: value}) for name, value in (
        ('number', '7'), ('number', None), ('number', 1.0), ('is_settled', 1),
        ('identity', 7), ('started_ns', True), ('host', 'h' * 2000),
        ('host', 'h' * 256), ('host', 'auv\n[INFO] all is well'), ('host', '\x1b[2J'),
        ('other', 1))]])
def test_what_is_no_claim_is_passed_over(text: str) -> None:
    assert Claim.read(text) is None


def test_a_forger_of_many_identities_takes_no_memory() -> None:
    contest = Contest(OLDER, lambda: 0.0)
    for number in range(1000):
        contest.hear(replace(YOUNGER, identity=str(number)))
    assert len(contest._numbers) == MOST_CLAIMANTS
    # Who is heard twice in a row wins beside it.
    for number in range(2):
        contest.hear(replace(OLDER, started_ns=1, identity='first', number=number))
    assert contest.winner is not None and contest.winner.identity == 'first'


# --- processes -----------------------------------------------------------------------------------


class Rig:
    """Nodes of a test, a camera, and what is heard of their flag."""

    def __init__(self, domain: int, folder: Path) -> None:
        self.domain, self.folder = domain, folder
        self.bundle = make_tiny_bundle(folder / 'tiny')
        self.client = Client(domain)
        self.flags = self.client.listen(FLAG, Bool)
        self.processes: list[Process] = []
        self._seconds = iter(range(1000, 10**6))

    def start(self, *words: str) -> Process:
        arguments = [*node_arguments(self.bundle, gate__rise_frames=1), *words]
        return self.run(arguments)

    def run(self, arguments: list[str]) -> Process:
        process = Process(arguments, self.domain, self.folder / str(len(self.processes)))
        self.processes.append(process)
        return process

    def feed_until(self, condition: Callable[[], Any], what: str) -> None:
        def feed() -> None:
            self.client.camera.publish(image_message(
                solid(0, 0, 255), next(self._seconds) * 10**9))
            self.client.spin(0.05)

        self.client.wait_until(lambda: feed() or condition(), what)

    def wait_for_flag(self) -> None:
        self.feed_until(lambda: self.flags and self.flags[-1].data, 'the flag')

    def names(self) -> list[str]:
        return [name for name in self.client.node.get_node_names() if name != 'test_client']

    @contextmanager
    def other(self, name: str, is_settled: bool = True) -> Iterator[Claim]:
        """Claim the node's name ten times a second, from a node of this process."""
        import rclpy

        node = rclpy.create_node(
            name, context=self.client.node.context, start_parameter_services=False)
        publisher = node.create_publisher(String, CLAIMS, 10)
        claim = replace(YOUNGER, is_settled=is_settled, started_ns=2**62)

        def tell() -> None:
            nonlocal claim
            claim = replace(claim, number=claim.number + 1)
            publisher.publish(String(data=claim.text()))

        self.client.node.create_timer(0.1, tell)
        yield claim

    def end(self) -> None:
        self.client.close()
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.end()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with own_domain() as domain:
        one = Rig(domain, tmp_path)
        try:
            yield one
        finally:
            one.end()


def sentences(process: Process) -> list[str]:
    # Why its first frames have no true flag is said too, if a newcomer gets that far.
    return [line for line in process.output.splitlines()
            if '[INFO]' not in line and 'not confident: ' not in line]


def test_the_second_ends_itself_and_the_first_keeps_flag_and_graph(rig: Rig) -> None:
    first = rig.start()
    rig.wait_for_flag()
    for _ in range(2):
        speakers = set()
        second = rig.start()
        rig.feed_until(lambda speakers=speakers, second=second: speakers.add(
            rig.client.node.count_publishers(FLAG)) or not second.is_running, 'the refusal')
        assert second.wait() == 2, second.output
        assert len(sentences(second)) == 1, second.output
        (sentence,) = sentences(second)
        assert ME in sentence and f'process {first.pid} on ' in sentence
        if 'cv_bridge' not in second.output:  # it heard the first before it was up itself
            assert speakers == {1}
        # It has left the graph, too, and not only when Fast DDS gives it up.
        rig.feed_until(lambda: rig.names() == ['uncertainty_seg'], 'the second to leave the graph')
    rig.wait_for_flag()
    assert first.is_running
    told = [line for line in sentences(first) if 'under the name of this node' in line]
    assert all(line.endswith('it is to end itself') for line in told)


@pytest.mark.release
def test_one_that_was_killed_does_not_keep_the_next_away(rig: Rig) -> None:
    first = rig.start()
    rig.wait_for_flag()
    first.send_signal(signal.SIGKILL)
    first.wait()
    rig.flags.clear()
    second = rig.start()
    rig.client.watched = second
    assert rig.names() == ['uncertainty_seg']  # the dead one is in the graph
    rig.wait_for_flag()
    assert sentences(second) == []


@pytest.mark.parametrize('autostart', [
    'true', pytest.param('false', marks=pytest.mark.release)])
def test_one_that_is_heard_only_after_the_look_still_ends_the_new_one(
    rig: Rig, autostart: str
) -> None:
    process = rig.start('-p', f'autostart:={autostart}')
    rig.client.watched = process
    rig.client.wait_until(lambda: rig.flags, 'the first flag')  # comes after the look
    rig.client.watched = None
    with rig.other('uncertainty_seg') as claim:
        rig.client.wait_until(lambda: not process.is_running, 'the refusal')
    assert process.wait() == 2, process.output
    assert f'process {claim.process} on {claim.host}' in sentences(process)[-1]
    assert process.output.count('runs already') == 1
    assert not any(flag.data for flag in rig.flags) and 'Traceback' not in process.output


@pytest.mark.release
def test_claims_that_are_played_from_a_bag_are_no_node(rig: Rig) -> None:
    with rig.other('rosbag2_player'):
        process = rig.start()
        rig.client.watched = process
        rig.wait_for_flag()
        assert sentences(process) == []


def test_a_second_governor_ends_itself_and_drives_nobody(rig: Rig) -> None:
    from geometry_msgs.msg import Twist

    topic = '/speed_governor/speed_factor'
    factors = rig.client.listen(topic, Float32)
    rig.client.listen('/cmd_vel_limited', Twist)
    first = rig.run(governor_arguments())
    rig.client.wait_until(lambda: factors, 'the first governor')
    second, speakers = rig.run(governor_arguments()), set()
    rig.client.wait_until(lambda: speakers.add(
        rig.client.node.count_publishers('/cmd_vel_limited')) or not second.is_running, 'its end')
    assert second.wait() == 2
    if 'waiting for' not in second.output:
        assert speakers == {1}
    (sentence,) = sentences(second)
    assert '/speed_governor' in sentence and f'process {first.pid} on ' in sentence
    factors.clear()
    rig.client.wait_until(lambda: factors, 'the first to go on')
