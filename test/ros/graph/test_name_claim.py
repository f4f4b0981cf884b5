# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A second node of the same name ends with one sentence; the first continues unaffected."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
import json
from pathlib import Path
import signal

from cases import for_each
import pytest
from ros_helpers import node_arguments, Process
from ros_node_rig import node_rig, NodeRig
from std_msgs.msg import String

from uncertainty_seg.ros.rivals import Claim, Contest, MOST_CLAIMANTS, NAME_SETTLE_S

ME = '/uncertainty_seg'
FLAG, CLAIMS = f'{ME}/confident', f'{ME}/_claim'
OLDER = Claim(100, 'a', 0, False, 1, 'auv')
YOUNGER = replace(OLDER, started_ns=200, identity='b')


# --- which node ends -----------------------------------------------------------------------------


class Race:
    """Nodes that receive each other's claims whenever `is_heard` is true."""

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


@for_each('deaf_s', [0.5, 9.8])
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


@for_each('text', [
    '', 'x', '[]', '{}', '7', 'null', '[' * 900, '{"started_ns": 1}', 'x' * 2000,
    *[json.dumps({**asdict(OLDER), name: value}) for name, value in (
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
    # Despite these, an older claim that is received twice in a row wins.
    for number in range(2):
        contest.hear(replace(OLDER, started_ns=1, identity='first', number=number))
    assert contest.winner is not None and contest.winner.identity == 'first'


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NodeRig]:
    with node_rig(tmp_path, gate__rise_frames=1) as one:
        yield one


@contextmanager
def other(rig: NodeRig) -> Iterator[Claim]:
    """Claim the node's name ten times a second, from a node of this process."""
    import rclpy

    node = rclpy.create_node('uncertainty_seg', context=rig.client.node.context,
                             start_parameter_services=False)
    publisher = node.create_publisher(String, CLAIMS, 10)
    claim = replace(YOUNGER, is_settled=True, started_ns=2**62)

    def tell() -> None:
        nonlocal claim
        claim = replace(claim, number=claim.number + 1)
        publisher.publish(String(data=json.dumps(asdict(claim))))

    rig.client.node.create_timer(0.1, tell)
    yield claim


def sentences(process: Process) -> list[str]:
    # A second node that starts far enough also logs why its first flags are false.
    return [line for line in process.output.splitlines()
            if not any(word in line for word in ('[INFO]', 'not confident: ', 'max_repeats is'))]


def test_the_second_ends_itself_and_the_first_keeps_flag_and_graph(
    rig: NodeRig, tmp_path: Path
) -> None:
    node = rig.client.node
    rig.raise_flag()
    arguments, speakers = node_arguments(tmp_path / 'tiny', gate__rise_frames=1), set()
    with Process(arguments, rig.domain, tmp_path / 'second') as second:
        rig.wait(lambda: rig.verdict() and speakers.add(node.count_publishers(FLAG))
                 or not second.is_running, 'the refusal')
        assert second.wait() == 2, second.output
    (sentence,) = sentences(second)
    assert ME in sentence and f'process {rig.process.pid} on ' in sentence
    if 'cv_bridge' not in second.output:  # the first's claim arrived before it was up
        assert speakers == {1}
    # It leaves the graph at once, not only after Fast DDS's lease.
    rig.wait(lambda: node.get_node_names().count('uncertainty_seg') == 1, 'it to be gone')
    rig.raise_flag()


def test_one_that_is_heard_only_after_the_look_still_ends_the_new_one(rig: NodeRig) -> None:
    rig.wait(lambda: rig.flags, 'the first flag')  # is published after the search
    rig.client.watched = None
    with other(rig) as claim:
        rig.wait(lambda: not rig.process.is_running, 'the refusal')
    assert rig.process.wait() == 2, rig.process.output
    assert f'process {claim.process} on {claim.host}' in sentences(rig.process)[-1]
    assert not any(flag.data for flag in rig.flags) and 'Traceback' not in rig.process.output


@pytest.mark.release
def test_a_node_that_was_killed_does_not_keep_its_name_from_the_next(
    rig: NodeRig, tmp_path: Path
) -> None:
    rig.raise_flag()
    rig.client.watched = None
    rig.process.interrupt(signal.SIGKILL)
    assert rig.client.node.count_publishers(CLAIMS) == 1  # Fast DDS lists the killed node for 20 s
    rig.flags.clear()
    arguments = node_arguments(tmp_path / 'tiny', gate__rise_frames=1)
    with Process(arguments, rig.domain, tmp_path / 'next') as following:
        rig.client.watched = following
        rig.raise_flag()
        rig.client.watched = None
    assert ' runs already' not in following.output
