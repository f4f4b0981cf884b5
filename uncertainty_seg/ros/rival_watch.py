# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Notices that somebody else speaks on the topic of our flag.

Two nodes of one name, or a bag that is played with the flag in it: whoever listens hears one flag
made of two, and cannot tell whose word it is. ROS 2 allows it without a word. A node that was
killed stays in the graph for a while (20 s with Fast DDS) and says nothing any more, so the graph
is only the alarm: what is heard beyond what was sent is the proof. How long to listen is told by
the deadline the other one offers; one that offers best effort cannot be listened to reliably, and
counts as long as it is there.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Any

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from std_msgs.msg import Bool

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

from uncertainty_seg.ros import qos

# How long to listen, at least and at most: what is dead leaves the graph by then.
PROBE_S, LONGEST_PROBE_S = 3.0, 20.0
# A node repeats its flag every half of the deadline it offers: this many deadlines are enough.
PROBE_DEADLINES = 2
# No deadline reads as centuries.
UNLIMITED_S = 1e6
FLAG_TYPE = 'std_msgs/msg/Bool'
# Flags of ours that were on the way when counting began.
MAX_ON_THE_WAY = 2


class RivalWatch:
    """
    Look at the flag's topic, about once a second.

    Parameters
    ----------
    node : Node
        Asked for the graph; gets a subscription while another publisher is there.
    topic : str
        Of the flag, after remapping.
    num_sent : callable
        Returns how many flags this node has published.
    clock : callable, optional
        Seconds that never stand still or go back.

    Attributes
    ----------
    reason : str
        Why the flag must not be trusted; empty while there is no rival.

    """

    def __init__(
        self, node: Any, topic: str, num_sent: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._topic = node, topic
        self._num_sent, self._clock = num_sent, clock
        self._subscription: Any = None
        self._num_heard = 0
        self._excess = 0
        self._since_s = 0.0
        self.reason = ''

    def look(self) -> None:
        """Ask the graph, and weigh what was heard. From the executor's thread."""
        speakers = [info.qos_profile for info in
                    self._node.get_publishers_info_by_topic(self._topic)
                    if info.topic_type == FLAG_TYPE]
        if len(speakers) <= 1:
            self.close()
            return
        if any(one.reliability == QoSReliabilityPolicy.BEST_EFFORT for one in speakers):
            self.reason = self._sentence()
            return
        if self._subscription is None:
            self._listen()
            # Until it is known whether the other one lives, nobody can trust the flag.
            self.reason = self._sentence()
            return
        gain = self._num_heard - self._num_sent() - self._excess
        if gain > MAX_ON_THE_WAY:
            self.reason = self._sentence()
        elif self._clock() - self._since_s < _probe_s(speakers):
            return
        else:
            self.reason = ''
        self._begin()

    def close(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self.reason = None, ''

    def _listen(self) -> None:
        self._num_heard = 0
        self._subscription = self._node.create_subscription(
            Bool, self._topic, self._on_flag, qos.rival_qos(),
            # None of the node's own: this one's quality of service is nobody's to mend.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self._begin()

    def _begin(self) -> None:
        self._excess = self._num_heard - self._num_sent()
        self._since_s = self._clock()

    def _on_flag(self, msg: Bool) -> None:
        self._num_heard += 1

    def _sentence(self) -> str:
        return (f'somebody else publishes {self._topic}: nobody can tell whose flag it is; give '
                'each node its own name or namespace, and play no flag from a bag')


def _probe_s(speakers: Sequence[QoSProfile]) -> float:
    deadlines_s = [speaker.deadline.nanoseconds / 1e9 for speaker in speakers]
    longest_s = max((s for s in deadlines_s if 0 < s < UNLIMITED_S), default=0.0)
    return min(max(PROBE_S, PROBE_DEADLINES * longest_s), LONGEST_PROBE_S)
