# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is wrong between two ends of a topic, in one sentence that names both and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

# -------------------------------------------------------------------------------------------------
# Which offers satisfy which requests, by the rules of DDS, in words.
# Requested-versus-offered of the DDS specification (OMG DDS 1.4, section 2.2.3): reliability,
# durability, deadline and liveliness. History and depth never conflict.

# What rmw calls infinite; a duration of nothing means the same there.
INFINITE_NS = 9223372036854775807
# Every middleware takes the first of them for the second.
AUTOMATIC = (QoSLivelinessPolicy.SYSTEM_DEFAULT, QoSLivelinessPolicy.AUTOMATIC)


@dataclass(frozen=True)
class Policy:
    """A policy of which the offer does not satisfy the request; both in words."""

    name: str
    offered: str
    requested: str


def conflicts(offered: QoSProfile, requested: QoSProfile) -> list[Policy]:
    """
    List the policies that keep a publisher and a subscriber apart.

    Parameters
    ----------
    offered, requested : QoSProfile
        The publisher's and the subscriber's.

    Returns
    -------
    list of Policy
        Empty if they match. A policy that is unknown or left to the system is no conflict.

    """
    found = []
    if (offered.reliability == QoSReliabilityPolicy.BEST_EFFORT
            and requested.reliability == QoSReliabilityPolicy.RELIABLE):
        found.append(Policy('reliability', 'best effort', 'reliable'))
    if (offered.durability == QoSDurabilityPolicy.VOLATILE
            and requested.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL):
        found.append(Policy('durability', 'volatile', 'transient local'))
    if (offered.liveliness in AUTOMATIC
            and requested.liveliness == QoSLivelinessPolicy.MANUAL_BY_TOPIC):
        found.append(Policy('liveliness', 'automatic liveliness', 'liveliness by topic'))
    for name, what in (('deadline', 'deadline'), ('liveliness_lease_duration', 'lease')):
        promised, wanted = _period_ns(offered, name), _period_ns(requested, name)
        if promised > wanted:
            found.append(Policy(what, _period(what, promised), _period(what, wanted)))
    return found


def has_deadline(qos: QoSProfile) -> bool:
    """Tell whether a deadline is set."""
    return _period_ns(qos, 'deadline') < INFINITE_NS


def seconds_in_words(period_ns: int) -> str:
    """Write a period as people do, in seconds."""
    return f'{period_ns / 1e9:g} s'


def _period_ns(qos: Any, name: str) -> int:
    period_ns = int(getattr(qos, name).nanoseconds)
    return period_ns if 0 < period_ns < INFINITE_NS else INFINITE_NS


def _period(what: str, period_ns: int) -> str:
    if period_ns == INFINITE_NS:
        return f'no {what}'
    return f'a {what} of {seconds_in_words(period_ns)}'


# -------------------------------------------------------------------------------------------------

UNKNOWN_NAME = '_NODE_NAME_UNKNOWN_'
End = tuple[str, bool]
# What mends a conflict from the node's side: of what it publishes only the flag has a deadline.
OWN_FIXES = {
    (False, 'reliability'): 'set the parameter reliability of {me} to best_effort',
    (False, 'durability'): 'leave the qos_overrides of {me} for durability out',
    (True, 'deadline'): 'make the parameter stale_timeout_s of {me} that short',
}


@dataclass(frozen=True)
class Topic:
    """
    One of the node's own ends.

    Attributes
    ----------
    name, type_name : str
        Name after remapping; type as in 'sensor_msgs/msg/Image'.
    is_publisher : bool
        Whether the node publishes it.
    qos : QoSProfile
        What the node offers or requests.

    """

    name: str
    type_name: str
    is_publisher: bool
    qos: QoSProfile

    @property
    def end(self) -> End:
        """Return what distinguishes it from the node's other endpoints."""
        return self.name, self.is_publisher


def conflict_sentences(
    topic: Topic, me: str, others: list[Any], is_settled: bool = True
) -> list[str]:
    """
    Name both sides of each conflict on a topic, and what mends it.

    Parameters
    ----------
    topic : Topic
        The node's own end.
    me : str
        The node's full name.
    others : list of rclpy.topic_endpoint_info.TopicEndpointInfo
        The other ends.
    is_settled : bool
        Whether endpoints whose node is not known yet are reported as well.

    Returns
    -------
    list of str
        One sentence for each node and policy.

    """
    found = []
    for info in others:
        if info.node_name == UNKNOWN_NAME and not is_settled:
            continue
        theirs = info.qos_profile
        pair = (topic.qos, theirs) if topic.is_publisher else (theirs, topic.qos)
        found += [_sentence(topic, me, full_name(info), policy) for policy in conflicts(*pair)]
    return found


def _sentence(topic: Topic, me: str, other: str, policy: Policy) -> str:
    publisher, subscriber = (me, other) if topic.is_publisher else (other, me)
    change = (f'let {other} ask for {policy.offered}' if topic.is_publisher
              else f'let {other} offer {policy.requested}')
    if fix := OWN_FIXES.get((topic.is_publisher, policy.name)):
        change = f'{fix.format(me=me)}, or {change}'
    return (f'{topic.name}: {publisher} offers {policy.offered} and {subscriber} asks for '
            f'{policy.requested}, so nothing passes between them; {change}')


def type_sentence(name: str, type_name: str, me: str, others: Sequence[Any]) -> str:
    """
    Report that a topic carries messages of another type, which are not received.

    Parameters
    ----------
    name, type_name : str
        Of a topic the node listens to.
    me : str
        The node's full name.
    others : sequence of rclpy.topic_endpoint_info.TopicEndpointInfo
        Its publishers.

    Returns
    -------
    str
        One sentence; empty if all publish that type.

    """
    strange = [info for info in others if info.topic_type != type_name]
    if not strange:
        return ''
    kinds = ', '.join(sorted({info.topic_type for info in strange}))
    who = ', '.join(sorted({full_name(info) for info in strange}))
    return (f'{name} carries {kinds} from {who}, of which {me} hears nothing: it expects '
            f'{type_name} there; remap one of them')


def deadline_sentence(topic: Topic, me: str, silence_s: float) -> str:
    """
    Say that a promised deadline was missed, and what to look for.

    Parameters
    ----------
    topic : Topic
        The node's own end.
    me : str
        The node's full name.
    silence_s : float
        Longest silence seen, where the node publishes.

    Returns
    -------
    str
        One sentence.

    """
    limit = seconds_in_words(topic.qos.deadline.nanoseconds)
    if topic.is_publisher:
        return (f'{topic.name}: {me} promises a message each {limit} and was silent for '
                f'{silence_s:.1f} s: the computer is overloaded, or the process was stopped')
    return (f'{topic.name}: {me} asks for a message each {limit} and none came: look for a '
            'publisher that hangs or is too slow')


def full_name(info: Any) -> str:
    """Return a node's name with its namespace, in words where the middleware knows none."""
    if info.node_name == UNKNOWN_NAME:
        return 'a node that does not tell its name'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
