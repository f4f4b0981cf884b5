# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Topics of optional message packages: class names (vision_msgs), and Nav2's bond (bond)."""

import sys
from types import SimpleNamespace
from typing import Any

from conftest import tiny_card
import pytest
from rclpy.qos import QoSDurabilityPolicy
from ros_stubs import StubNode
from std_msgs.msg import Header

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import publishers
from uncertainty_seg.ros.health import PartFaults
from uncertainty_seg.ros.process_watch import BOND_PERIOD_S, LifecycleBond


def made(**fields: Any) -> Any:
    """Return a fake message of a package that is not installed."""
    return SimpleNamespace(**{'header': Header(), **fields})


def test_class_names_are_latched_in_the_order_of_their_ids(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'vision_msgs', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg',
                        SimpleNamespace(LabelInfo=made, VisionClass=made))
    node: Any = StubNode()
    publisher = publishers.publish_labels(node, '~/label_info', tiny_card())
    (msg,) = publisher.sent
    assert [(one.class_id, one.class_name) for one in msg.class_map] == [
        (0, 'blue'), (1, 'green'), (2, 'red')]
    assert publisher.qos.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL


def test_without_the_packages_no_topic_is_made_and_a_bond_is_refused(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ('vision_msgs', 'bond'):
        monkeypatch.setitem(sys.modules, package, None)
    node: Any = StubNode()
    assert publishers.publish_labels(node, '~/label_info', tiny_card()) is None
    assert not node.topics
    with pytest.raises(ConfigError, match='bond'):
        LifecycleBond(node, PartFaults())


def test_a_bond_beats_under_the_nodes_name_and_parts_with_a_word(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'bond', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'bond.msg', SimpleNamespace(Status=made))
    node: Any = StubNode()
    timers: list[Any] = []
    node.get_name = lambda: 'seg'
    node.create_timer = lambda period_s, beat, clock: timers.append((period_s, beat)) or beat
    node.destroy_timer = lambda timer: timers.clear()
    bond, instances = LifecycleBond(node, PartFaults()), set()
    for _ in range(2):
        bond.start()
        ((period_s, beat),) = timers
        said = node.topics['bond'].sent
        for _ in range(3):  # called by the executor, so that a hanging node stops beating
            beat()
        bond.stop()
        assert [msg.active for msg in said] == [True, True, True, False]
        assert {msg.id for msg in said} == {'seg'}
        assert said[0].heartbeat_period == period_s == BOND_PERIOD_S < said[0].heartbeat_timeout
        instances.add(*{msg.instance_id for msg in said})
        assert timers == [] and 'bond' not in node.topics
    assert len(instances) == 2  # a new instance each time, as the manager creates one too
