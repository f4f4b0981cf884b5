# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A verdict does not wait for pictures; pictures without subscribers are not made. Real DDS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_helpers import FAULT_NODE, values_of
from ros_node_rig import node_rig, NodeRig

# Every picture, and the topics of the verdict.
PICTURES = ('mask', 'confidence', 'uncertainty', 'unknown', 'heatmap', 'overlay', 'mask_color',
            'flagged')
VERDICT = ('verdict', 'status')


class Rig:
    """A node, and the system times at which it sent each topic's message of each frame."""

    def __init__(self, rig: NodeRig, folder: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image, JointState

        self.node, self.client = rig, rig.client
        self.made, self.hold, self.end = (
            folder / 'failures' / name for name in ('made', 'wait', 'end'))
        self.sent: dict[str, dict[int, int]] = {}
        self._kinds = {**dict.fromkeys(PICTURES, Image), 'verdict': JointState,
                       'status': DiagnosticArray}
        self._second = 10_000
        self.unsubscribe()  # from the pictures that NodeRig subscribes to
        for name in VERDICT:
            self.subscribe(name)
        self.client.wait_for_camera_match()
        rig.raise_flag()

    def unsubscribe(self) -> None:
        node = self.client.node
        for one in list(node.subscriptions):
            if one.topic_name.rpartition('/')[2] in PICTURES:
                node.destroy_subscription(one)

    def subscribe(self, name: str) -> None:
        sent = self.sent[name] = {}

        def take(msg: Any, info: Any) -> None:
            sent[msg.header.stamp.sec] = info['source_timestamp']
        topic = f'/uncertainty_seg/{name}'
        self.client.node.create_subscription(self._kinds[name], topic, take, 50)
        self.client.wait_for_topics(topic)

    def judged(self) -> int:
        """Send a good frame, wait for its verdict, which must be true; return its second."""
        self._second += 1
        assert values_of(self.node.answer(self._second))['confident'] == 'true'
        self.node.wait(lambda: self._second in self.sent['verdict'], 'the numbers')
        return self._second

    def shown(self, name: str, second: int) -> None:
        self.node.wait(lambda: second in self.sent[name], f'{name} of the frame {second}')


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[Rig]:
    with node_rig(folder, FAULT_NODE, stale_timeout_s=600.0,
                  gate__rise_frames=1, map='entropy') as found:
        try:
            yield Rig(found, folder)
        finally:
            (folder / 'failures' / 'wait').unlink(missing_ok=True)


def test_nothing_of_the_size_of_an_image_is_made_for_a_frame_that_nobody_watches(
    rig: Rig
) -> None:
    count = rig.client.node.count_subscribers
    rig.node.wait(lambda: not any(count(f'/uncertainty_seg/{n}') for n in PICTURES), 'nobody')
    rig.judged()
    rig.made.unlink(missing_ok=True)
    for _ in range(5):
        rig.judged()
    assert not rig.made.exists()


def test_verdicts_go_on_while_a_picture_takes_long_and_come_before_it(rig: Rig) -> None:
    # Uses the map whose mean is a score too: score and picture must not wait for each other.
    rig.subscribe('uncertainty')
    rig.node.wait(lambda: rig.judged() and rig.sent['uncertainty'], 'a map')
    rig.shown('uncertainty', rig.judged())
    before = int(rig.node.next_health()['frames_not_shown'])
    rig.made.unlink()
    rig.hold.touch()
    first = rig.judged()
    rig.node.wait(rig.made.exists, 'the map to be in work')
    late = [rig.judged() for _ in range(5)]
    assert rig.made.read_text().split() == ['map_at_source', 'spread']  # of the first frame
    assert not {first, *late} & set(rig.sent['uncertainty'])
    assert int(rig.node.next_health()['frames_not_shown']) == before + 4
    rig.hold.unlink()
    rig.shown('uncertainty', late[-1])
    # The newest frame replaced those between, as in the queue of the network.
    assert {first, *late} & set(rig.sent['uncertainty']) == {first, late[-1]}
    for second in (first, late[-1]):
        for topic in VERDICT:
            assert rig.sent[topic][second] < rig.sent['uncertainty'][second]
    assert rig.sent['uncertainty'][first] > rig.sent['verdict'][late[-1]]
    assert all(flag.data for flag in rig.node.flags[-5:])
    assert 'label' not in rig.made.read_text()  # the mask has no subscriber


def test_a_picture_that_ends_its_thread_is_a_warning_and_changes_no_verdict(rig: Rig) -> None:
    rig.subscribe('overlay')
    rig.node.wait(lambda: rig.judged() and rig.sent['overlay'], 'an overlay')
    rig.end.touch()
    rig.node.wait(lambda: rig.judged() and rig.node.health[-1].status[0].level == b'\x01'
                  and 'no picture' in rig.node.health[-1].status[0].message, 'the warning')
    rig.end.unlink()
    assert all(flag.data for flag in rig.node.flags[-5:]) and rig.node.process.is_running
    assert rig.client.change_state('deactivate') and rig.client.change_state('activate')
    rig.client.wait_for_camera_match()
    rig.node.raise_flag()
    rig.shown('overlay', rig.judged())
