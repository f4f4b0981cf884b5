# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What needs messages of optional packages: class names (vision_msgs), and Nav2's bond (bond)."""

from dataclasses import dataclass, field
import logging
import sys
from types import ModuleType
from typing import Any

from conftest import tiny_card
import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from rclpy.qos import QoSDurabilityPolicy, QoSReliabilityPolicy  # noqa: I100
from ros_stubs import StubNode
from std_msgs.msg import Header

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import publishers
from uncertainty_seg.ros.health import PartFaults
from uncertainty_seg.ros.process_watch import BOND_PERIOD_S, LifecycleBond

pytestmark = pytest.mark.ros


# The fields of https://github.com/ros-perception/vision_msgs and https://github.com/ros/bond_core,
# branches ros2; keywords that are no field are refused as ROS's classes refuse them.
@dataclass
class VisionClass:
    class_id: int = 0
    class_name: str = ''


@dataclass
class LabelInfo:
    header: Header = field(default_factory=Header)
    class_map: list[VisionClass] = field(default_factory=list)
    threshold: float = 0.0


@dataclass
class Status:
    header: Header = field(default_factory=Header)
    id: str = ''  # noqa: A003
    instance_id: str = ''
    active: bool = False
    heartbeat_timeout: float = 0.0
    heartbeat_period: float = 0.0


def install(monkeypatch: pytest.MonkeyPatch, package: str, *messages: type) -> None:
    """Let a package of messages be importable; without messages, let it be missing."""
    module = ModuleType(f'{package}.msg')
    for message in messages:
        setattr(module, message.__name__, message)
    monkeypatch.setitem(sys.modules, package, ModuleType(package) if messages else None)
    monkeypatch.setitem(sys.modules, f'{package}.msg', module if messages else None)
    publishers._message_types.cache_clear()
    monkeypatch.setattr(publishers, '_message_types', publishers._message_types.__wrapped__)


def test_class_names_are_latched_in_the_order_of_their_ids(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, 'vision_msgs', LabelInfo, VisionClass)
    node: Any = StubNode()
    publisher = publishers.publish_labels(node, '~/label_info', tiny_card())
    (msg,) = publisher.sent
    assert [(one.class_id, one.class_name) for one in msg.class_map] == [
        (0, 'blue'), (1, 'green'), (2, 'red')]
    assert (msg.threshold, msg.header.frame_id) == (0.0, '')
    assert (publisher.qos.durability, publisher.qos.reliability) == (
        QoSDurabilityPolicy.TRANSIENT_LOCAL, QoSReliabilityPolicy.RELIABLE)


def test_without_vision_msgs_nothing_is_created_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, 'vision_msgs', None)
    publishers._message_types.cache_clear()
    node: Any = StubNode()
    with caplog.at_level(logging.DEBUG, 'uncertainty_seg'):
        made = [publishers.publish_labels(node, f'~/{name}', tiny_card()) for name in 'ab']
    publishers._message_types.cache_clear()
    assert made == [None, None] and not node.topics
    record, = caplog.records
    assert record.levelno == logging.INFO


def test_without_bond_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 'bond')
    with pytest.raises(ConfigError, match='ros-[$]ROS_DISTRO-bond'):
        LifecycleBond(StubNode(), PartFaults())  # type: ignore[arg-type]


def test_it_beats_under_the_nodes_name_and_parts_with_a_word(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, 'bond', Status)
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
        for _ in range(3):  # by the executor: a node whose callbacks hang does not beat
            beat()
        bond.stop()
        assert [msg.active for msg in said] == [True, True, True, False]
        assert {msg.id for msg in said} == {'seg'}
        assert said[0].heartbeat_period == period_s == BOND_PERIOD_S < said[0].heartbeat_timeout
        instances.add(*{msg.instance_id for msg in said})
        assert timers == [] and 'bond' not in node.topics
    assert len(instances) == 2  # another end each time, as the manager makes a new one too
