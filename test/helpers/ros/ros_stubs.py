# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A stub of a node and of publishers that record their messages, for tests without DDS."""

from types import SimpleNamespace
from typing import Any

from rclpy.time import Time

from uncertainty_seg.ros.topics import TopicWatch


class Publisher:

    def __init__(self, kind: type, topic: str, qos: Any) -> None:
        self.topic, self.qos = topic, qos
        self.num_subscribers = 0
        self.sent: list[Any] = []

    def get_subscription_count(self) -> int:
        return self.num_subscribers

    def publish(self, msg: Any) -> None:
        self.sent.append(msg)


class StubNode:

    def __init__(self) -> None:
        self.now_ns = 0
        self.num_publishers = 1
        self.topics: dict[str, Publisher] = {}
        self.callbacks: dict[str, Any] = {}
        self.remaps: dict[str, str] = {}
        self.clock = SimpleNamespace(now=lambda: Time(nanoseconds=self.now_ns))
        self.watch = TopicWatch(self)

    def get_clock(self) -> Any:
        return self.clock

    def create_publisher(self, kind: type, topic: str, qos: Any, **_: Any) -> Publisher:
        self.topics[topic] = Publisher(kind, topic, qos)
        return self.topics[topic]

    def create_subscription(
        self, kind: type, topic: str, callback: Any, qos: Any, **_: Any
    ) -> Any:
        self.callbacks[topic] = callback
        return SimpleNamespace(topic_name=topic)

    def destroy_subscription(self, subscription: SimpleNamespace) -> None:
        del self.callbacks[subscription.topic_name]

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        full = f'/{topic.lstrip("/")}'
        return full if only_expand else self.remaps.get(topic, full)

    def get_fully_qualified_name(self) -> str:
        return '/auv/seg'

    def count_publishers(self, topic: str) -> int:
        return self.num_publishers

    def destroy_publisher(self, publisher: Publisher) -> None:
        del self.topics[publisher.topic]
