# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One code base from Humble to Rolling: what an older ROS lacks is not used, or done without.

The lists are what rclpy, launch and launch_ros of Humble (rclpy 3.3.15) do not have and those of
Jazzy (7.1.3), Kilted (9.1.2) or Rolling (8.0.0) have, read from their sources. Each place that
asks whether something is there is run here without it.

"""

from __future__ import annotations

import ast
from collections.abc import Iterator
import importlib.util
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
import warnings

import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # the place is deprecated, and is Humble's only one
    import rclpy.qos_event

from ros_stubs import Publisher, StubNode
from std_msgs.msg import Bool

from uncertainty_seg.ros import parameters, publishers
from uncertainty_seg.ros.governor import node as speed_governor
from uncertainty_seg.ros.governor.policy import SpeedSettings

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((*(ROOT / 'uncertainty_seg' / 'ros').rglob('*.py'),
                  *(ROOT / 'launch').glob('*.py')))
# Names that Humble does not know, and keywords of calls, which end with `=`.
NOT_ON_HUMBLE = {
    # rclpy
    'add_post_set_parameters_callback', 'add_pre_set_parameters_callback', 'BEST_AVAILABLE',
    'BestAvailable', 'qos_profile_best_available', 'ROSOUT_DEFAULT', 'MessageInfo', 'TimerInfo',
    'matched=', 'incompatible_type=', 'get_publisher_count', 'count_clients', 'count_services',
    'CallbackType', 'ContentFilterOptions', 'content_filter_options=', 'set_content_filter',
    'EventsExecutor', 'ParameterEventHandler', 'AsyncParameterClient', 'parameter_client',
    'configure_introspection', 'ServiceIntrospectionState', 'enable_logger_service=', 'autostart=',
    'wait_for_node', 'topic_type_hash', 'InitContextManager', 'event_handler', 'EventHandler',
    'get_logger_level', 'create_future', 'get_fully_qualified_node_names',
    # launch and launch_ros
    'AllSubstitution', 'AnySubstitution', 'EqualsSubstitution', 'FileContent',
    'IfElseSubstitution', 'LaunchLogDir', 'NotEqualsSubstitution', 'LifecycleTransition',
    'PushROSNamespace', 'ROSTimer', 'SetROSLogDir',
}
# Deprecated after Humble, with a name that Humble has as well.
NOT_ON_ROLLING = {'warn', 'QoSEventHandler'}
# Places that ask first, and are tested without it below.
GUARDED = {('topics.py', 'event_handler')}


def words_of(path: Path) -> Iterator[str]:
    """Yield each name, attribute, imported part and `keyword=` that a file uses."""
    for part in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.keyword) and part.arg:
            yield f'{part.arg}='
        elif isinstance(part, ast.ImportFrom):
            yield from (*(part.module or '').split('.'), *(alias.name for alias in part.names))
        elif isinstance(part, ast.Import):
            yield from (word for alias in part.names for word in alias.name.split('.'))


def afresh(module: str) -> ModuleType:
    """Load a module of the room once more, beside the one in use."""
    path = ROOT / 'uncertainty_seg' / 'ros' / f'{module}.py'
    spec = importlib.util.spec_from_file_location(f'{path.stem}_on_humble', path)
    assert spec is not None and spec.loader is not None
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# --- what is used --------------------------------------------------------------------------------


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.name)
def test_nothing_is_used_that_a_distribution_lacks(path: Path) -> None:
    used = set(words_of(path))
    assert {word for word in used & NOT_ON_HUMBLE if (path.name, word) not in GUARDED} == set()
    assert used & NOT_ON_ROLLING == set()


# --- without it ----------------------------------------------------------------------------------


@pytest.fixture
def humble(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Lay rclpy out as Humble does: events in qos_event, callbacks without message info."""
    classes = SimpleNamespace(
        PublisherEventCallbacks=type('PublisherEventCallbacks', (SimpleNamespace,), {}),
        SubscriptionEventCallbacks=type('SubscriptionEventCallbacks', (SimpleNamespace,), {}),
        UnsupportedEventTypeError=type('UnsupportedEventTypeError', (Exception,), {}))
    for name, value in vars(classes).items():
        monkeypatch.setattr(rclpy.qos_event, name, value, raising=False)
        monkeypatch.setattr(speed_governor, name, value, raising=False)
    monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)
    monkeypatch.delattr('rclpy.event_handler', raising=False)
    monkeypatch.setattr(speed_governor, 'TELLS_WHEN_SENT', False)
    return classes


def test_events_are_found_where_humble_keeps_them(humble: SimpleNamespace) -> None:
    loaded = afresh('topics')
    assert loaded.SubscriptionEventCallbacks is humble.SubscriptionEventCallbacks


def test_a_flag_is_taken_by_a_callback_of_one_argument_on_humble(humble: SimpleNamespace) -> None:
    made: list[tuple[Any, ...]] = []

    class Node(StubNode):

        def create_subscription(
            self, kind: type, topic: str, callback: Any, qos: Any, event_callbacks: Any = None,
        ) -> Any:
            made.append((callback, qos, event_callbacks))
            return SimpleNamespace(topic_name='/confident')

        def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
            return []

    flags: list[tuple[bool, float | None]] = []
    speed_governor.FlagLink(
        Node(), SpeedSettings(), lambda *flag: flags.append(flag), print, lambda: 0.0)
    (callback, qos, events), = made
    callback(Bool(data=True))
    assert flags == [(True, None)]
    # Its age is not known, so an old one must not wait behind another.
    assert qos.depth == 1
    assert isinstance(events, humble.SubscriptionEventCallbacks)


class Acknowledging(Publisher):
    """A publisher that is told what has arrived."""

    def wait_for_all_acked(self, timeout: Any) -> bool:
        self.waited_s = timeout.nanoseconds * 1e-9
        return True


def test_a_flag_is_waited_for_only_where_ros_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    publishers.VerdictPublishers(StubNode(), 1.0).flush(0.25)
    node = StubNode()
    monkeypatch.setattr('ros_stubs.Publisher', Acknowledging)
    publishers.VerdictPublishers(node, 1.0).flush(0.25)
    waited_s = {topic: publisher.waited_s for topic, publisher in node.topics.items()
                if hasattr(publisher, 'waited_s')}
    # The numbers have what the flag leaves of the time.
    assert set(waited_s) == {'~/confident', '~/verdict'}
    assert 0.25 >= waited_s['~/confident'] >= waited_s['~/verdict'] >= 0.2


def test_without_the_private_list_of_parameters_none_is_called_strange() -> None:
    said: list[str] = []
    logger = SimpleNamespace(warning=said.append)
    node: Any = SimpleNamespace(
        get_logger=lambda: logger, has_parameter=lambda name: False,
        declare_parameter=lambda name, value, _: SimpleNamespace(value=value),
        set_descriptor=lambda *_: None)
    for expected in (0, 1):
        parameters.declared_settings(node, SpeedSettings, lambda values: None)
        assert len(said) == expected
        node._parameter_overrides = {'tresholds': 1}
    assert 'tresholds' in said[0]


