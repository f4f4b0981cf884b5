# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Says why two ends of a topic do not meet, and when a promised deadline was missed.

The middleware reports that the quality of service of some endpoint does not fit, but neither which
endpoint nor what to do. That event only triggers a look at the graph, which names the other side
and what it offers or asks for. A conflict is reported for as long as the graph shows it.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError
from std_msgs.msg import Bool

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.graph_watch import qos
from uncertainty_seg.ros.graph_watch.qos_sentences import (
    conflict_sentences,
    deadline_sentence,
    End,
    has_deadline,
    Topic,
    type_sentence,
)

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

# -------------------------------------------------------------------------------------------------
# Detects another publisher on the topic of the flag.
# With two nodes of one name, or a bag that is played with the flag in it, a subscriber receives
# a mixture of two flags and cannot separate them. ROS 2 allows that silently. A node that was
# killed stays in the graph for a while (20 s with Fast DDS) and publishes nothing any more, so
# the graph only raises the suspicion: messages received beyond those sent are the proof. How long
# to listen follows from the deadline that the other publisher offers; one that offers best effort
# cannot be received reliably, and counts as long as it is there.

# How long to listen, at least and at most: what is dead leaves the graph by then.
PROBE_S, LONGEST_PROBE_S = 3.0, 20.0
# A node repeats its flag every half of the deadline it offers: this many deadlines are enough.
PROBE_DEADLINES = 2
# No deadline reads as centuries.
UNLIMITED_S = 1e6
# Own flags that were on the way when counting began.
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
    kind : type, optional
        Message of the topic.

    Attributes
    ----------
    reason : str
        Why the flag must not be trusted; empty while there is no rival.

    Notes
    -----
    What cannot be checked is not known to be right: after `PROBE_S` of looks that raise, the
    reason says so, and no flag is true. Until then the last answer stands, as it does between two
    looks.

    """

    def __init__(
        self, node: Any, topic: str, num_sent: Callable[[], int],
        clock: Callable[[], float] = time.monotonic, kind: Any = Bool,
    ) -> None:
        self._node, self._topic, self._kind = node, topic, kind
        self._num_sent, self._clock = num_sent, clock
        self._subscription: Any = None
        self._num_heard = 0
        self._excess = 0
        self._since_s = 0.0
        self._failing_since_s: float | None = None
        self.reason = ''

    def look(self) -> None:
        """
        Look at the graph and at what was received. From the executor's thread.

        Passes on what the look raised.

        """
        try:
            self._look()
        except Exception as err:
            if self._failing_since_s is None:
                self._failing_since_s = self._clock()
            if self._clock() - self._failing_since_s >= PROBE_S:
                self.reason = (f'it cannot be checked whether somebody else publishes '
                               f'{self._topic} ({type(err).__name__}: {err})')
            raise
        self._failing_since_s = None

    def _look(self) -> None:
        speakers = [info.qos_profile for info in
                    self._node.get_publishers_info_by_topic(self._topic)
                    if info.topic_type == _type_name(self._kind)]
        if len(speakers) <= 1:
            self.close()
            return
        if any(one.reliability == QoSReliabilityPolicy.BEST_EFFORT for one in speakers):
            self.reason = self._sentence()
            return
        if self._subscription is None:
            self._listen()
            # Until it is known whether the other publisher is alive, the flag cannot be trusted.
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
            self._kind, self._topic, self._on_flag, qos.rival_qos(),
            # None of the node's own: users cannot change the quality of service of this one.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self._begin()

    def _begin(self) -> None:
        self._excess = self._num_heard - self._num_sent()
        self._since_s = self._clock()

    def _on_flag(self, msg: Any) -> None:
        self._num_heard += 1

    def _sentence(self) -> str:
        return (f'somebody else publishes {self._topic}: nobody can tell whose flag it is; give '
                'each node its own name or namespace, and play no flag from a bag')


def _probe_s(speakers: Sequence[QoSProfile]) -> float:
    deadlines_s = [speaker.deadline.nanoseconds / 1e9 for speaker in speakers]
    longest_s = max((s for s in deadlines_s if 0 < s < UNLIMITED_S), default=0.0)
    return min(max(PROBE_S, PROBE_DEADLINES * longest_s), LONGEST_PROBE_S)


# -------------------------------------------------------------------------------------------------

# Endpoints are known before the node that owns them: its name comes with a later message.
SETTLE_S = 3.0
DEADLINE_MEMORY_S = 10.0
# When frames stop, the flag is published as false a moment after its deadline: that is no fault.
LATE_FACTOR = 1.5
# Heard by rclpy itself.
CLOCK = '/clock', 'rosgraph_msgs/msg/Clock'
NOT_SIMULATED = Parameter('use_sim_time', value=False)


class TopicWatch:
    """
    What is wrong with a node's topics.

    Parameters
    ----------
    node : Node
        Asked for the graph.
    clock : callable, optional
        Seconds that never stand still or go back.

    Attributes
    ----------
    num_missed : dict of str to int
        How often a deadline was missed, by name.
    num_lost : dict of str to int
        Messages that the middleware reports as lost on the way, by name.

    """

    def __init__(self, node: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._topics: dict[End, Topic] = {}
        self._alarmed_s: dict[End, float] = {}
        self._missed_s: dict[End, float] = {}
        self._silences: dict[End, tuple[float, float]] = {}  # when seen, how long
        self.num_missed: dict[str, int] = {}
        self.num_lost: dict[str, int] = {}
        self._reported: tuple[str, ...] = ()

    def events(self, topic: Topic) -> Any:
        """Return the event callbacks that an end of a topic is created with."""
        self._topics[topic.end] = topic
        self._silences.pop(topic.end, None)  # by an older deadline
        kind = PublisherEventCallbacks if topic.is_publisher else SubscriptionEventCallbacks
        deadline = (lambda event: self._on_missed(topic)) if has_deadline(topic.qos) else None
        callbacks = {'incompatible_qos': lambda event: self._on_alarm(topic), 'deadline': deadline}
        if not topic.is_publisher:
            callbacks['message_lost'] = (
                lambda event: self._on_lost(topic, event.total_count_change))
        return kind(**callbacks)

    def subscription(self, name: str) -> Topic:
        """Return what was subscribed under a name, as it is after remapping."""
        return self._topics[name, False]

    def sentences(self) -> tuple[str, ...]:
        """
        Say what is wrong now.

        Returns
        -------
        tuple of str
            A sentence for each conflict the graph shows and each deadline missed lately.

        """
        now_s = self._clock()
        found = []
        for end, alarmed_s in list(self._alarmed_s.items()):
            topic = self._topics[end]
            is_settled = now_s - alarmed_s >= SETTLE_S
            others = self._others(topic) if self._has(topic) else []
            here = conflict_sentences(topic, self._me(), others, is_settled)
            found += here
            if is_settled and not here:
                del self._alarmed_s[end]  # the next one gives a new event
        found += self._late(now_s)
        found += self._of_other_types()
        return tuple(sorted(set(found)))

    def note_silence(self, name: str, silence_s: float) -> None:
        """
        Take note of how long the node has published nothing on a topic.

        Parameters
        ----------
        name : str
            Of the topic, after remapping.
        silence_s : float
            Seconds so far.

        """
        now_s = self._clock()
        seen_s, worst_s = self._silences.get((name, True), (now_s, 0.0))
        if silence_s >= worst_s or now_s - seen_s >= DEADLINE_MEMORY_S:
            self._silences[name, True] = now_s, silence_s

    @property
    def reported(self) -> tuple[str, ...]:
        """Return what `report` returned last."""
        return self._reported

    def report(self) -> tuple[str, ...]:
        """Log what is newly wrong, once, and return all that is wrong now."""
        found = self.sentences()
        for sentence in found:
            if sentence not in self._reported:
                self._node.get_logger().warning(sentence)
        self._reported = found
        return found

    def _late(self, now_s: float) -> list[str]:
        # Not by the event where we publish: a process that was stopped may publish again before
        # the middleware looks at its deadline.
        silences = {end: silence_s for end, (seen_s, silence_s) in self._silences.items()
                    if now_s - seen_s < DEADLINE_MEMORY_S and silence_s >= self._too_long_s(end)}
        silences |= {end: 0.0 for end, missed_s in self._missed_s.items()
                     if now_s - missed_s < DEADLINE_MEMORY_S and not end[1]}
        return [deadline_sentence(self._topics[end], self._me(), silence_s)
                for end, silence_s in silences.items()]

    def _too_long_s(self, end: End) -> float:
        topic = self._topics.get(end)
        if topic is None or not has_deadline(topic.qos):
            return math.inf
        return LATE_FACTOR * topic.qos.deadline.nanoseconds / 1e9

    def _of_other_types(self) -> list[str]:
        listened = {(topic.name, topic.type_name) for topic in list(self._topics.values())
                    if not topic.is_publisher and self._has(topic)}
        if self._node.get_parameter_or('use_sim_time', NOT_SIMULATED).value is True:
            listened.add(CLOCK)
        found = [type_sentence(name, kind, self._me(),
                               self._node.get_publishers_info_by_topic(name))
                 for name, kind in listened]
        return [sentence for sentence in found if sentence]

    def _on_alarm(self, topic: Topic) -> None:
        self._alarmed_s[topic.end] = self._clock()

    def _on_missed(self, topic: Topic) -> None:
        self._missed_s[topic.end] = self._clock()
        self.num_missed[topic.name] = self.num_missed.get(topic.name, 0) + 1

    def _on_lost(self, topic: Topic, count: int) -> None:
        self.num_lost[topic.name] = self.num_lost.get(topic.name, 0) + count

    def _me(self) -> str:
        return str(self._node.get_fully_qualified_name())

    def _has(self, topic: Topic) -> bool:
        ends = self._node.publishers if topic.is_publisher else self._node.subscriptions
        return any(end.topic_name == topic.name for end in ends)

    def _others(self, topic: Topic) -> list[Any]:
        look = (self._node.get_subscriptions_info_by_topic if topic.is_publisher
                else self._node.get_publishers_info_by_topic)
        return [info for info in look(topic.name) if info.topic_type == topic.type_name]


class WatchedTopicsNode(LifecycleNode):
    """A lifecycle node of which every topic made after `watch_topics` is watched."""

    watch: TopicWatch | None = None
    # The callback group of new topics unless another is given; None is the node's own.
    topic_group: CallbackGroup | None = None

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Return what is wrong with the topics, as it was reported last."""
        return self.watch.reported if self.watch is not None else ()

    def watch_topics(self) -> TopicWatch:
        """Watch what is created from now on."""
        self.watch = TopicWatch(self)
        return self.watch

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: Any, *args: Any, **options: Any
    ) -> Any:
        """Create a publisher as rclpy does, with our events where none are given."""
        return self._create(super().create_publisher, True, (msg_type, topic),
                            (qos_profile, *args), options)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Any, qos_profile: Any, *args: Any,
        **options: Any,
    ) -> Any:
        """Create a subscription as rclpy does, with our events where none are given."""
        return self._create(super().create_subscription, False, (msg_type, topic, callback),
                            (qos_profile, *args), options)

    def _create(
        self, create: Callable[..., Any], is_publisher: bool, what: tuple[Any, ...],
        how: tuple[Any, ...], options: dict[str, Any],
    ) -> Any:
        try:
            return self._create_watched(create, is_publisher, what, how, options)
        except _OVERRIDE_ERRORS as err:
            if 'qos_overriding_options' not in options or not _is_of_override(err):
                raise
            raise ConfigError(
                f'qos_overrides of {self.resolve_topic_name(what[1])} cannot be used ({err})',
                'values of rmw_qos_profile', 'see docs/ros_interface.md') from err

    def _create_watched(
        self, create: Callable[..., Any], is_publisher: bool, what: tuple[Any, ...],
        how: tuple[Any, ...], options: dict[str, Any],
    ) -> Any:
        qos = how[0]
        if self.topic_group is not None:
            options = {'callback_group': self.topic_group, **options}
        if self.watch is None or 'event_callbacks' in options or not isinstance(qos, QoSProfile):
            return create(*what, *how, **options)
        topic = Topic(self.resolve_topic_name(what[1]), _type_name(what[0]), is_publisher, qos)
        try:
            return create(*what, *how, event_callbacks=self.watch.events(topic), **options)
        except UnsupportedEventTypeError:  # of a middleware without events: then without
            return create(*what, *how, **options)


# What rclpy raises for a word, a type or a number that is no policy, and if our check refuses it.
_OVERRIDE_ERRORS = (RuntimeError, InvalidQosOverridesError, InvalidParameterTypeException,
                    AssertionError)


def _is_of_override(err: Exception) -> bool:
    return type(err) is not RuntimeError or 'QoS override' in str(err)


def _type_name(msg_type: Any) -> str:
    return f'{msg_type.__module__.partition(".")[0]}/msg/{msg_type.__name__}'
