# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The subscription to the flag, and everything by which the middleware says that it is lost.

The deadline is asked for as it is offered, so that a publisher that promises less never matches:
what it sent could not be told from a flag that has died.

"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription
from std_msgs.msg import Bool

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from uncertainty_seg.ros.qos import flag_qos
from uncertainty_seg.ros.speed_policy import STALE

FLAG_TOPIC = 'confident'
GONE = 'the publisher of the flag is gone'
# Humble's callbacks are not told when a message was sent.
TELLS_WHEN_SENT = hasattr(Subscription, 'CallbackType')


class FlagLink:
    """
    Listen to the topic `confident`.

    Parameters
    ----------
    node : Node
        Owns the subscription.
    deadline_s : float
        Asked of the publisher.
    compare_clocks : bool
        Whether to tell when a flag was sent.
    on_flag : callable
        Called with what the flag says and when it was sent, in seconds of the system clock of
        its publisher, or None where that is not known.
    on_lost : callable
        Called with a reason when the middleware says that nothing comes.

    """

    def __init__(
        self, node: Node, deadline_s: float, compare_clocks: bool,
        on_flag: Callable[[bool, float | None], None], on_lost: Callable[[str], None],
    ) -> None:
        self._node, self._deadline_s = node, deadline_s
        self._on_flag, self._on_lost = on_flag, on_lost
        self._num_publishers = 0
        is_told = TELLS_WHEN_SENT and compare_clocks
        take = self._take_with_info if is_told else self._take
        qos = flag_qos(deadline_s)
        if not is_told:  # then old ones must not wait in line behind each other
            qos.depth = 1
        events = SubscriptionEventCallbacks(
            deadline=lambda event: on_lost(STALE), liveliness=self._on_liveliness,
            incompatible_qos=self._on_incompatible,
        )
        try:
            self._subscription = node.create_subscription(
                Bool, FLAG_TOPIC, take, qos, event_callbacks=events)
        except UnsupportedEventTypeError:  # the clock alone tells then
            self._subscription = node.create_subscription(Bool, FLAG_TOPIC, take, qos)

    @property
    def topic(self) -> str:
        """Return the topic listened to, after remapping."""
        return str(self._subscription.topic_name)

    def num_publishers(self) -> int:
        """Return how many publishers the topic has."""
        return int(self._node.count_publishers(self.topic))

    def _take(self, msg: Bool) -> None:
        self._on_flag(msg.data, None)

    def _take_with_info(self, msg: Bool, info: Any) -> None:
        sent_ns = info['source_timestamp']
        self._on_flag(msg.data, sent_ns * 1e-9 if sent_ns > 0 else None)

    def look(self) -> None:
        """Look whether the publisher has left or a second one has come; to be called often."""
        before, self._num_publishers = self._num_publishers, self.num_publishers()
        # A publisher that was killed leaves seconds after the one that took its place came.
        if before and not self._num_publishers:
            self._on_lost(GONE)
        elif before < 2 <= self._num_publishers:
            self._node.get_logger().warning(
                f'{self._num_publishers} publishers on {self.topic}: while one says true, the '
                'death of another is not noticed; give each its own governor')

    def _on_liveliness(self, event: Any) -> None:
        # Fast DDS says nothing here where no lease is offered, so the graph is looked at, too.
        if not event.alive_count:
            self._on_lost(GONE)

    def _on_incompatible(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._node.get_logger().error(
            f'a publisher on {self.topic} offers another {policy} than is asked for, its flag is '
            f'not taken: asked are reliable and a deadline of {self._deadline_s:g} s; set '
            'deadline_s to at least the stale_timeout_s of the node that publishes it')
