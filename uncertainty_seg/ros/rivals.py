# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Enforces one running node for each name, and one publisher for each flag.

ROS silently allows two nodes of one name, whose flags then cannot be told apart. Each node
therefore claims its name on the hidden topic `~/_claim`, ten times a second while it is new, and
later only while another node subscribes. The graph alone proves nothing, since a killed node stays
in it for 20 s. A claim proves a running node, unless a node of another name plays it from a bag.

A new node gives way to a settled one, and the later of two new nodes to the earlier. A settled
node never gives way, so two that could not hear each other for `NAME_SETTLE_S` both continue, both
with a false flag (`RivalWatch`). A forged claim can keep a new node from starting but raises no
flag. A separate thread sends the claims, since the executor stands still during configure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
import json
import os
import socket
import threading
import time
from typing import Any
import uuid

from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from std_msgs.msg import Bool, String

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import topics
from uncertainty_seg.ros.topics import full_name, SubscriptionEventCallbacks

CLAIM_TOPIC = '~/_claim'
PERIOD_S = 0.1
# How long to listen before anything is published, and how long if the graph has another node of
# this name, alive or dead. Discovery and two claims take 0.2 s on one machine.
LOOK_S, LOOK_AT_GHOST_S = 0.5, 1.5
# Also wait for as many turns of the thread, which take longer on a busy machine.
LOOK_TURNS = 5
# How long after its start a node publishes no true flag, and how long it gives way.
WITHHELD_S, NAME_SETTLE_S = 2.0, 10.0
WITHHELD = 'the node has just started and still checks for another node of its name'
# Characters of a claim and of its host's name; a longer one is ignored.
LONGEST_TEXT, LONGEST_HOST = 1000, 255
# Claimants that are remembered, and seconds between two log lines about new ones: a forger may
# use a new identity for each claim.
MOST_CLAIMANTS, REPORT_PERIOD_S = 64, 5.0


@dataclass(frozen=True)
class Claim:
    """A node's claim of its name; `started_ns` is by the clock of its computer."""

    started_ns: int
    identity: str
    number: int
    is_settled: bool
    process: int
    host: str

    @classmethod
    def read(cls, text: str) -> Claim | None:
        """Return the claim in a message; None if the text is not a valid claim."""
        try:
            values = json.loads(text) if len(text) <= LONGEST_TEXT else None
            claim = cls(**values) if isinstance(values, dict) else None
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {'int': int, 'str': str, 'bool': bool}
        is_sound = claim is not None and all(
            type(getattr(claim, field.name)) is kinds[str(field.type)]
            for field in cls.__dataclass_fields__.values())
        # The host's name is printed to logs and terminals.
        return claim if is_sound and claim is not None and claim.host.isprintable() and \
            len(claim.host) <= LONGEST_HOST else None

    def goes_before(self, other: Claim) -> bool:
        """Return whether this node, of two new ones, keeps the name."""
        return (self.started_ns, self.identity) < (other.started_ns, other.identity)


class Contest:
    """
    Decide from received claims to which node this one gives way, the `winner`; uses no ROS.

    `other` is the newest claim of another node.
    """

    def __init__(self, mine: Claim, clock: Callable[[], float] = time.monotonic) -> None:
        self._mine, self._clock, self._since_s = mine, clock, clock()
        self._numbers: dict[str, int] = {}
        self.winner: Claim | None = None
        self.other: Claim | None = None

    @property
    def age_s(self) -> float:
        """Return for how long the node has claimed its name, in seconds."""
        return self._clock() - self._since_s

    @property
    def is_settled(self) -> bool:
        """Return whether the node keeps its name against any other."""
        return self.winner is None and self.age_s >= NAME_SETTLE_S

    def hear(self, claim: Claim) -> None:
        """Evaluate a claim; a single one may come from a process that has just been killed."""
        if claim.identity == self._mine.identity:
            return
        self.other = claim
        if claim.identity not in self._numbers and len(self._numbers) >= MOST_CLAIMANTS:
            del self._numbers[next(iter(self._numbers))]  # the oldest
        if claim.number <= self._numbers.setdefault(claim.identity, claim.number):
            return
        if not self.is_settled and (claim.is_settled or claim.goes_before(self._mine)):
            self.winner = self.winner or claim


class NameClaim:
    """Claim the name of a node from now on, on a topic that the node owns."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._me = node.get_fully_qualified_name()
        self._mine = Claim(
            time.time_ns(), uuid.uuid4().hex, 0, False, os.getpid(), socket.gethostname())
        self._contest = Contest(self._mine)
        self._lost, self._closed, self._reported = threading.Event(), threading.Event(), ''
        self._num_turns = 0
        self._publisher = node.create_publisher(String, CLAIM_TOPIC, topics.REPORT_QOS)
        self._subscription = node.create_subscription(
            String, CLAIM_TOPIC, self._on_claim, topics.REPORT_QOS)
        self._thread = threading.Thread(target=self._run, name='name-claim', daemon=True)
        self._thread.start()

    @property
    def refusal(self) -> str:
        """Return why the node must end, in one sentence; empty while it keeps its name."""
        winner = self._contest.winner
        return '' if winner is None else str(self._error(winner))

    @property
    def doubt(self) -> str:
        """Return why the name forbids a true flag; empty if it does not."""
        return self.refusal or (WITHHELD if self._contest.age_s < WITHHELD_S else '')

    def wait(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Listen before publishing; if the name is taken, destroy the node: ConfigError."""
        while not is_stopping() and not self._lost.wait(PERIOD_S / 2):
            look_s = LOOK_AT_GHOST_S if self._num_named() > 1 else LOOK_S
            if self._contest.age_s >= look_s and self._num_turns >= LOOK_TURNS:
                break
        try:
            self.require()
        except ConfigError:
            self._node.destroy_node()
            raise

    def require(self) -> None:
        """Raise ConfigError if the name is taken."""
        if self._contest.winner is not None:
            raise self._error(self._contest.winner)

    def close(self) -> None:
        """Stop claiming the name."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set() and self._node.context.ok():
            try:
                if not self._contest.is_settled:
                    self._take()
                self._tell()
            except Exception as err:  # raised by a middleware; the next turn tries again
                self._node.get_logger().debug(f'the claim of the name failed: {err}')
            self._num_turns += 1
            self._closed.wait(PERIOD_S)

    def _take(self) -> None:
        """Take the claims that have arrived; so does the executor, once it runs."""
        handle = self._subscription.handle
        with handle:
            while (found := handle.take_message(self._subscription.msg_type, False)) is not None:
                self._on_claim(found[0])

    def _tell(self) -> None:
        # A settled node sends claims only while another node subscribes.
        if self._lost.is_set() or (
                self._contest.is_settled and self._publisher.get_subscription_count() <= 1):
            return
        self._mine = replace(
            self._mine, number=self._mine.number + 1, is_settled=self._contest.is_settled)
        self._publisher.publish(String(data=json.dumps(asdict(self._mine))))

    def _on_claim(self, msg: String) -> None:
        claim = Claim.read(msg.data)
        if claim is None or claim.identity == self._mine.identity or self._num_named() < 2:
            return
        self._contest.hear(claim)
        other = self._contest.other
        if self._contest.winner is not None:
            self._lost.set()
        elif other is not None and other.identity != self._reported and (
                self._contest.is_settled or
                not other.is_settled and self._mine.goes_before(other)):
            self._reported = other.identity
            self._node.get_logger().warning(
                f'process {other.process} on {other.host} was started under the name of this '
                f'node, {self._me}: ' + ('neither ends, and while both run no flag of theirs is '
                                         'true' if other.is_settled else 'it is to end itself'),
                throttle_duration_sec=REPORT_PERIOD_S)

    def _num_named(self) -> int:
        """Count the claimants of this name in the graph, including this node."""
        try:
            found = self._node.get_publishers_info_by_topic(self._publisher.topic_name)
        except Exception:  # the name of another node is not valid text
            return 1
        return sum(full_name(info) == self._me for info in found)

    def _error(self, winner: Claim) -> ConfigError:
        return ConfigError(
            f'a node of the name {self._me} runs already, process {winner.process} on '
            f'{winner.host}', 'unique node names',
            'start this one with -r __node:=NAME, or -r __ns:=/NAMESPACE (namespace:=NAMESPACE of '
            'the launch file), or stop the other one')


# Another publisher on the topic of the flag: a second node, or a bag with the flag in it. The
# graph only raises the suspicion: the proof is to receive more messages than were sent. A
# best-effort publisher cannot be received reliably, and counts while it is in the graph.

# How long to listen, at least and at most: a dead publisher leaves the graph by then.
PROBE_S, LONGEST_PROBE_S = 3.0, 20.0
# How long in offered deadlines, since a node repeats its flag every half; without one, longest.
PROBE_DEADLINES = 2
# From here on a deadline means none: rmw reports none as centuries.
UNLIMITED_S = 1e6
# Own flags that may be in transit when counting begins.
MAX_ON_THE_WAY = 2


class RivalWatch:
    """
    Check the flag's topic for other publishers, about once a second.

    `reason` is why the flag must not be trusted, empty while there is no rival; it stands until
    the next check. If the checks raise for `PROBE_S`, the reason says so, and no flag is true.

    `num_sent` returns how many flags this node has published.
    """

    def __init__(
        self, node: Any, topic: str, num_sent: Callable[[], int],
        clock: Callable[[], float] = time.monotonic, kind: Any = Bool,
    ) -> None:
        self._node, self._topic, self._kind = node, topic, kind
        self._num_sent, self._clock = num_sent, clock
        self._subscription: Any = None
        self._num_heard = self._excess = 0
        self._since_s, self._is_new = 0.0, True
        self._failing_since_s: float | None = None
        self.reason = ''

    def look(self) -> None:
        """Check the graph and the received messages; re-raise what the check raised."""
        try:
            self._look()
        except Exception as err:
            if self._failing_since_s is None:
                self._failing_since_s = self._clock()
            if self._clock() - self._failing_since_s >= PROBE_S:
                self.reason = (f'cannot check whether another node publishes {self._topic} '
                               f'({type(err).__name__}: {err})')
            raise
        self._failing_since_s = None

    def _look(self) -> None:
        speakers = [info.qos_profile for info in
                    self._node.get_publishers_info_by_topic(self._topic)
                    if info.topic_type == topics.type_name(self._kind)]
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
        excess = self._num_heard - self._num_sent()
        if self._is_new:  # own flags before the subscription was matched were not heard
            self._is_new, self._excess = False, excess
        gain = excess - self._excess
        if gain > MAX_ON_THE_WAY:
            self.reason = self._sentence()
            self._begin()
        elif self.reason and self._clock() - self._since_s >= _probe_s(speakers):
            # A single message keeps the reason. Without a reason the messages of any time add up:
            # otherwise one that speaks rarely would count as silent for ever.
            self.reason = self.reason if gain > 0 else ''
            self._begin()

    def close(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self.reason = None, ''

    def _listen(self) -> None:
        self._num_heard, self._is_new = 0, True
        self._subscription = self._node.create_subscription(
            self._kind, self._topic, self._on_flag, topics.RIVAL_QOS,
            # Without the node's callbacks: users cannot change the QoS of this subscription.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self._begin()

    def _begin(self) -> None:
        self._excess = self._num_heard - self._num_sent()
        self._since_s = self._clock()

    def _on_flag(self, msg: Any) -> None:
        self._num_heard += 1

    def _sentence(self) -> str:
        return (f'somebody else publishes {self._topic}: the flags cannot be distinguished; give '
                'each node its own name or namespace, and play no flag from a bag')


def _probe_s(speakers: Sequence[QoSProfile]) -> float:
    deadlines_s = [speaker.deadline.nanoseconds / 1e9 for speaker in speakers]
    longest_s = max(s if 0 < s < UNLIMITED_S else LONGEST_PROBE_S for s in deadlines_s)
    return min(max(PROBE_S, PROBE_DEADLINES * longest_s), LONGEST_PROBE_S)


# Another publisher of the camera's images: two cameras, or a bag beside one. The graph raises the
# suspicion. Each publisher numbers its messages, so the numbers of two that alternate go back
# again and again; those of a driver that was killed and restarted go back once.

NO_NUMBER = 2**64 - 1  # rmw's value for an unsupported sequence number


class CameraRivals:
    """
    Check who publishes a camera's images, about once a second and when their numbers go back.

    `count` returns how many publishers in the graph can be received. Without numbers from the
    middleware none can be proven dead: the reason stays until the graph has one publisher.
    """

    def __init__(
        self, topic: str, count: Callable[[], int], clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic, self._count, self._clock = topic, count, clock
        self._number: int | None = None
        self._num_back, self._num_there, self._since_s = 0, 0, clock()

    @property
    def reason(self) -> str:
        """Return why the images must not be trusted; empty while there is no rival."""
        is_alone = self._num_there < 2 or (
            self._number is not None and self._num_back < 2
            and self._clock() - self._since_s >= PROBE_S)
        return '' if is_alone else (
            f'{self._num_there} publishers send images on {self._topic}: give each camera its own '
            'topic, and play no bag beside it')

    def hear(self, information: Mapping[str, Any]) -> None:
        """Record the sequence number of an image, from rclpy's information on the message."""
        number = information.get('publication_sequence_number', NO_NUMBER)
        before, self._number = self._number, None if number == NO_NUMBER else int(number)
        if before is None or self._number is None or self._number == before + 1:
            return
        self._since_s = self._clock()  # an image was lost, or this is the first of a rival
        if self._number <= before:
            self._num_back += 1
            self.look()

    def look(self) -> None:
        """Count the publishers in the graph; raises what `count` raises."""
        before, self._num_there = self._num_there, self._count()
        if self._num_there < 2:
            self._num_back = 0
        elif self._num_there > before:
            self._since_s = self._clock()
