# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The verdict for mission code: the numbers under a header are never more positive than the flag.

The keys of `~/verdict` and `~/status` are read from their documentation, and every message of the
real node must agree with them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
import re
from typing import Any

import pytest
from ros_helpers import ROOT, solid, values_of
from ros_node_rig import BAD, node_rig, NodeRig
from ros_stubs import StubNode

from uncertainty_seg.core.gate import KINDS, Verdict
from uncertainty_seg.core.status import verdict_numbers
from uncertainty_seg.ros.publishers import VerdictPublishers

PAGE = (ROOT / 'docs' / 'reference' / 'ros.md').read_text(encoding='utf-8')
VERDICT, FLAG = '/uncertainty_seg/verdict', '/uncertainty_seg/confident'
GOOD_VERDICT = Verdict(True, ('within limits',), 0.5, 'confident')
READERS: dict[str, Callable[[str], Any]] = {
    'true/false': lambda text: {'true': True, 'false': False}[text],
    'number': float,
    'whole number': int,
    'text': str,
}


def documented(heading: str) -> dict[str, str]:
    """Return key -> type from the table below a heading of the page."""
    section = PAGE.partition(f'### {heading}\n')[2].partition('\n### ')[0].partition('\n## ')[0]
    rows = re.findall(r'^\| `([^`]+)` \| ([^|]+?) \|', section, re.MULTILINE)
    assert rows, heading
    return dict(rows)


def numbers_of(message: Any) -> dict[str, float]:
    assert len(message.name) == len(message.position)
    return dict(zip(message.name, message.position, strict=True))


class Sent:
    """Records the order in which flags and numbers are published."""

    def __init__(self) -> None:
        any_node: Any = StubNode()
        self.topics = any_node.topics
        self.verdicts = VerdictPublishers(any_node, 2.5)
        self.order: list[tuple[str, bool]] = []
        self.broken = ''
        for name in ('confident', 'verdict'):
            self.topics[f'~/{name}'].publish = lambda msg, name=name: self.note(name, msg)

    def note(self, name: str, msg: Any) -> None:
        if name == self.broken:
            raise OSError('on command')
        flag = msg.data if name == 'confident' else numbers_of(msg)['confident'] == 1
        self.order.append((name, flag))


def test_the_numbers_rise_after_the_flag_and_fall_before_it() -> None:
    sent = Sent()
    sent.verdicts.publish(GOOD_VERDICT, {})
    sent.verdicts.publish_fault('the engine is gone')
    assert sent.order == [('confident', True), ('verdict', True),
                          ('verdict', False), ('confident', False)]


def test_a_flag_falls_even_if_its_numbers_cannot_and_is_tried_again() -> None:
    sent = Sent()
    sent.verdicts.publish(GOOD_VERDICT, {})
    sent.broken = 'verdict'
    with pytest.raises(OSError, match='on command'):
        sent.verdicts.publish_fault('the engine is gone')
    assert sent.order[-1] == ('confident', False)
    assert sent.verdicts.is_confident  # so the owner publishes false again at its next tick
    sent.broken = ''
    sent.verdicts.publish_fault('the engine is gone')
    assert sent.order[-2:] == [('verdict', False), ('confident', False)]
    assert not sent.verdicts.is_confident


@pytest.mark.parametrize('kind', KINDS)
def test_the_number_of_a_kind_is_the_documented_one(kind: str) -> None:
    found = re.search(rf'\b(\d) {kind}\b', PAGE)
    assert found, kind
    numbers = verdict_numbers(Verdict(kind == 'confident', (), 0.5, kind), None, False)
    assert numbers['kind'] == int(found[1])


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[NodeRig]:
    from sensor_msgs.msg import JointState

    # Longer than the default of 1 s, for which a busy machine may pause.
    with node_rig(folder, stale_timeout_s=2.0) as found:
        found.client.listen(VERDICT, JointState, 1000)
        found.client.wait_for_topics(VERDICT, FLAG, '/uncertainty_seg/status')
        found.client.wait_for_camera_match()
        yield found


def verdict_of(rig: NodeRig, status: Any) -> dict[str, float]:
    """Return the numbers with the same header as a status."""
    messages = rig.client.received[VERDICT]
    (message,) = rig.wait(lambda: [m for m in messages if m.header == status.header],
                          'the numbers of a frame')
    return numbers_of(message)


def test_every_frame_has_numbers_with_its_stamp_that_agree_with_flag_and_status(
    rig: NodeRig
) -> None:
    rig.raise_flag()
    seen = set()
    for second, pixels in ((50_000, solid(0, 0, 255)), (50_001, BAD), (50_002, solid(0, 0, 255))):
        status = rig.answer(second, pixels=pixels)
        values, numbers = values_of(status), verdict_of(rig, status)
        assert numbers.keys() == documented('Keys of `~/verdict`').keys()
        assert (numbers['confident'] == 1) == (values['confident'] == 'true')
        assert KINDS[int(numbers['kind'])] == values['kind']
        assert numbers['score_ratio'] == pytest.approx(float(values['score_ratio']), rel=1e-5)
        assert numbers['age_s'] == pytest.approx(float(values['frame_age_ms']) / 1e3, abs=1e-3)
        assert numbers['of_frame'] == 1
        assert (numbers['promise_void'] == 1) == (values['promise'] == 'void')
        assert status.header.frame_id == 'camera_optical'
        seen.add(values['kind'])
    assert seen == {'confident', 'uncertain', 'recovering'}


def test_another_voice_among_the_numbers_lets_the_flag_fall(rig: NodeRig) -> None:
    from sensor_msgs.msg import JointState

    rig.raise_flag()
    other = rig.client.node.create_publisher(JointState, VERDICT, 10)
    try:
        def sees_it() -> bool:
            rig.send(90_000 + len(rig.status))
            rig.client.spin(0.05)
            other.publish(JointState(name=['confident'], position=[1.0]))
            return f'somebody else publishes {VERDICT}' in rig.status[-1].status[0].message
        rig.wait(sees_it, 'the second voice to be told')
        assert not rig.flags[-1].data
    finally:
        rig.client.node.destroy_publisher(other)
