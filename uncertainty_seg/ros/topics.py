# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The node's topics: their names, their quality of service, and why no message passes on them.

The middleware reports that some endpoint does not fit, but neither which nor a remedy. That event
triggers a look at the graph, which names the other endpoint and what it offers or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import os
import time
import types
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy import qos
from rclpy.callback_groups import CallbackGroup
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier

from uncertainty_seg.errors import ConfigError

try:
    from rclpy import event_handler as _events
except ImportError:  # Humble
    from rclpy import qos_event as _events
SubscriptionEventCallbacks = _events.SubscriptionEventCallbacks
UnsupportedEventTypeError = _events.UnsupportedEventTypeError

# rclpy has no image_transport. By its convention the compressed image is below the topic of the
# image, and the calibration beside it.

COMPRESSED = '/compressed'


def input_topic(name: str, camera: str = '') -> str:
    """Return the topic of an input: `name`, or `<camera>/name`."""
    return f'{camera}/{name}' if camera else name


def output_topic(name: str, camera: str = '') -> str:
    """Return the topic of an output: `~/name`, or `~/<camera>/name`."""
    return f'~/{camera}/{name}' if camera else f'~/{name}'


def image_topic(node: Node, transport: str, camera: str = '') -> str:
    """Return the name to subscribe to, which rclpy remaps; 'compressed' is below the raw topic."""
    own = input_topic('image', camera)
    topic = str(node.resolve_topic_name(own))
    if transport == 'compressed' and not topic.endswith(COMPRESSED):
        return f'{topic}{COMPRESSED}'
    return own  # a remapped name could be remapped again, as where two cameras are exchanged


def camera_info_topic(node: Node, camera: str = '') -> str:
    """Return the name `camera_info` if it is remapped, else the topic beside the image."""
    own = input_topic('camera_info', camera)
    if node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return own
    base = str(node.resolve_topic_name(input_topic('image', camera))).removesuffix(COMPRESSED)
    return f'{base.rpartition("/")[0]}/camera_info'


def full_name(info: Any) -> str:
    """Return a node's name with its namespace, or a phrase if the middleware knows none."""
    if info.node_name == UNKNOWN_NAME:
        return 'a node that does not tell its name'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def type_name(msg_type: Any) -> str:
    """Return the name of a message class as the graph has it: 'std_msgs/msg/Bool'."""
    return f'{msg_type.__module__.partition(".")[0]}/msg/{msg_type.__name__}'


# Quality of service.


def keep_last(depth: int, **policies: Any) -> qos.QoSProfile:
    """Return a reliable, volatile profile; given policies replace its own."""
    policies = {'reliability': qos.QoSReliabilityPolicy.RELIABLE,
                'durability': qos.QoSDurabilityPolicy.VOLATILE, **policies}
    return qos.QoSProfile(history=qos.QoSHistoryPolicy.KEEP_LAST, depth=depth, **policies)


# For a watch that must miss no flag; for scores and status; for images, where new replace old;
# for class names, which late subscribers receive, too.
RIVAL_QOS, REPORT_QOS, PICTURE_QOS = keep_last(100), keep_last(10), keep_last(2)
LABEL_QOS = keep_last(1, durability=qos.QoSDurabilityPolicy.TRANSIENT_LOCAL)


def camera_qos(reliability: str) -> qos.QoSProfile:
    """Request the newest frame; 'best_effort' matches every camera, 'reliable' fewer."""
    return keep_last(1, reliability=qos.QoSReliabilityPolicy.RELIABLE if reliability == 'reliable'
                     else qos.QoSReliabilityPolicy.BEST_EFFORT)


def flag_qos(stale_timeout_s: float) -> qos.QoSProfile:
    """Return the flag's profile: no old flag for late subscribers; a deadline shows silence."""
    return keep_last(10, deadline=Duration(seconds=stale_timeout_s))


# What ROS's parameters qos_overrides may change. The settings alone decide deadlines.
_OVERRIDABLE = (qos.QoSPolicyKind.HISTORY, qos.QoSPolicyKind.DEPTH, qos.QoSPolicyKind.RELIABILITY,
                qos.QoSPolicyKind.DURABILITY)


def overridable(
    check: Callable[[qos.QoSProfile], str] = lambda profile: '', is_verdict: bool = False,
) -> QoSOverridingOptions:
    """
    Let the standard parameters `qos_overrides.TOPIC.publisher.depth` and so on change a topic.

    `check` returns why a profile is refused, empty if it is not. With `is_verdict` the topic stays
    volatile, so that a late subscriber reads no old verdict.
    """
    def judge(profile: qos.QoSProfile) -> SetParametersResult:
        reason = check(profile)
        return SetParametersResult(successful=not reason, reason=reason)

    kinds = tuple(kind for kind in _OVERRIDABLE
                  if not (is_verdict and kind == qos.QoSPolicyKind.DURABILITY))
    return QoSOverridingOptions(kinds, callback=judge)


# Which two endpoints do not match, and the fix.

UNKNOWN_NAME = '_NODE_NAME_UNKNOWN_'
# rmw's infinite duration; a duration of 0 means the same.
INFINITE_NS = 9223372036854775807


@dataclass(frozen=True)
class Topic:
    """One of the node's own endpoints: name after remapping, type, direction and profile."""

    name: str
    type_name: str
    is_publisher: bool
    qos: qos.QoSProfile


def conflict_sentences(
    topic: Topic, me: str, others: Sequence[Any], is_settled: bool = True
) -> list[str]:
    """
    Name both sides of each conflict between the node's own endpoint and others, and the fix.

    The others are `rclpy.topic_endpoint_info.TopicEndpointInfo`; those whose node is not known yet
    are reported only if `is_settled`.
    """
    found = []
    for info in others:
        if info.node_name == UNKNOWN_NAME and not is_settled:
            continue
        ends = (topic.qos, info.qos_profile) if topic.is_publisher else (
            info.qos_profile, topic.qos)
        found += [_sentence(topic, me, info, part.removeprefix('ERROR: '))
                  for part in qos.qos_check_compatible(*ends)[1].split(';')
                  if part.startswith('ERROR: ')]
    return found


def _sentence(topic: Topic, me: str, info: Any, reason: str) -> str:
    other = full_name(info)
    publisher, subscriber = (me, other) if topic.is_publisher else (other, me)
    fix = f'change the quality of service of {other}'
    if not topic.is_publisher and 'eliab' in reason:
        fix = f'set the parameter reliability of {me} to best_effort, or {fix}'
    if topic.is_publisher and 'deadline' in reason:  # only the flag and its numbers have one
        asked_s = info.qos_profile.deadline.nanoseconds / 1e9
        fix = f'set the parameter stale_timeout_s of {me} to {asked_s:g} or less, or {fix}'
    return (f'{topic.name}: nothing passes from {publisher} to {subscriber}: '
            f'{reason[:1].lower()}{reason[1:]}; {fix}')


def type_sentence(name: str, kind: str, me: str, others: Sequence[Any]) -> str:
    """Report publishers of another type on a topic that the node subscribes to, or ''."""
    strange = [info for info in others if info.topic_type != kind]
    if not strange:
        return ''
    kinds = ', '.join(sorted({info.topic_type for info in strange}))
    who = ', '.join(sorted({full_name(info) for info in strange}))
    return (f'{name} carries {kinds} from {who}, which {me} cannot receive: it expects '
            f'{kind} there; remap one of them')


# Why no image arrives: the graph shows the publishers, and a publisher's identifier shows its
# middleware and whether it runs on this computer.

# Humble and Jazzy read the first, Kilted and later the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
# An identifier begins with the vendor (RTPS 2.3, section 8.3.3.1.3); Fast DDS adds the computer.
VENDORS = {b'\x01\x0f': 'Fast DDS', b'\x01\x10': 'Cyclone DDS', b'\x01\x01': 'Connext'}
VENDOR_BYTES, HOST_BYTES = slice(0, 2), slice(2, 4)
# The values of the parameter image_transport.
IMAGE_TYPES = {'sensor_msgs/msg/Image': 'raw', 'sensor_msgs/msg/CompressedImage': 'compressed'}


@dataclass(frozen=True)
class Transport:
    """Middleware, domain, reach, Fast DDS profile and an endpoint identifier of this process."""

    rmw: str
    domain: str
    is_local: bool
    has_profile: bool
    identifier: bytes = b''

    @classmethod
    def of_node(cls, node: Any, environment: Mapping[str, str] = os.environ) -> Transport:
        """Describe the process in which a node runs."""
        own = [info for info in node.get_publishers_info_by_topic('/diagnostics')
               if full_name(info) == node.get_fully_qualified_name()]
        return cls(
            rmw=str(get_rmw_implementation_identifier()),
            domain=str(node.context.get_domain_id()),
            is_local=(environment.get('ROS_AUTOMATIC_DISCOVERY_RANGE') == 'LOCALHOST'
                      or environment.get('ROS_LOCALHOST_ONLY') == '1'),
            has_profile=any(environment.get(name) for name in PROFILE_VARIABLES),
            identifier=bytes(own[0].endpoint_gid) if own else b'',
        )


def best_reliability(publishers: Sequence[Any], transport: Transport) -> str:
    """
    Return what to request of a camera: 'reliable' if all publishers are local and offer it.

    Best effort loses an image that the publisher's shared memory does not hold. Over a network,
    'reliable' lets a lost fragment delay the next images: that stays the user's choice.
    """
    here = transport.identifier[:HOST_BYTES.stop]
    is_reliable = bool(publishers and here) and all(
        info.qos_profile.reliability == qos.QoSReliabilityPolicy.RELIABLE
        and bytes(info.endpoint_gid)[:HOST_BYTES.stop] == here for info in publishers)
    return 'reliable' if is_reliable else 'best_effort'


def why_silent(node: Any, topic: Topic, own: str = 'image') -> str:
    """Explain from the graph why no message arrives on a subscription to `own`."""
    publishers = node.get_publishers_info_by_topic(topic.name)
    me, kinds_of = node.get_fully_qualified_name(), dict(node.get_topic_names_and_types())
    # Images beside a flag come from a node like this one, or from a bag of it: not from a camera.
    names = [name for name, kinds in kinds_of.items()
             if not publishers and set(kinds) & set(IMAGE_TYPES)
             and f'{name.removesuffix(COMPRESSED).rpartition("/")[0]}/confident' not in kinds_of]
    found = {name: info.topic_type for name in sorted(names)
             for info in node.get_publishers_info_by_topic(name)}
    return silence_reason(topic, me, publishers, Transport.of_node(node), found, own)


def why_lossy(node: Any, name: str) -> str:
    """Return the remedy for images of a topic that are lost in transport."""
    publishers = node.get_publishers_info_by_topic(name)
    return '' if not publishers else (
        f'images on {name} are lost in transport: '
        + _way(bytes(publishers[0].endpoint_gid), Transport.of_node(node)))


def silence_reason(
    topic: Topic, me: str, publishers: Sequence[Any], transport: Transport,
    elsewhere: Mapping[str, str] = types.MappingProxyType({}), own: str = 'image',
) -> str:
    """
    Explain why no message arrives on a subscription, with the fix.

    `elsewhere` maps other image topics to their types, named if this topic has no publisher; `own`
    is the name to be remapped.
    """
    if not publishers:
        return _nobody(topic, transport, elsewhere, own)
    fitting = [info for info in publishers if info.topic_type == topic.type_name]
    if not fitting:
        kinds = ', '.join(sorted({info.topic_type for info in publishers}))
        return (f'{topic.name} carries {kinds} from {full_name(publishers[0])}, expected '
                f'{topic.type_name}: remap {own} to a topic of that type')
    apart = {id(info): conflict_sentences(topic, me, [info]) for info in fitting}
    if all(apart.values()):
        return apart[id(fitting[0])][0]
    matched = [info for info in fitting if not apart[id(info)]]
    return (f'{len(matched)} publisher(s) on {topic.name} but no frame: if '
            f'{full_name(matched[0])} runs, its frames are lost in transport; '
            + _way(bytes(matched[0].endpoint_gid), transport))


def _nobody(
    topic: Topic, transport: Transport, elsewhere: Mapping[str, str], own: str
) -> str:
    usable = [_base(name, kind) for name, kind in elsewhere.items() if kind == topic.type_name]
    if usable:
        return (f'no publisher on {topic.name}, but images are on {", ".join(usable)}: '
                f'remap {own} to the one that is meant')
    if elsewhere:
        name, kind = next(iter(elsewhere.items()))
        return (f'no publisher on {topic.name}, but {kind} on {", ".join(elsewhere)}: set the '
                f'parameter image_transport to {IMAGE_TYPES[kind]} and remap {own} to '
                f'{_base(name, kind)}')
    scope = ', looking on this computer only' if transport.is_local else ''
    return (f'no publisher on {topic.name} in ROS domain {transport.domain} ({transport.rmw}'
            f'{scope}): start the camera, remap {own} to its topic, or give both the same '
            'ROS_DOMAIN_ID and RMW_IMPLEMENTATION')


def _base(name: str, kind: str) -> str:
    """Return the topic to remap to: the node adds the suffix of a compressed topic itself."""
    return name.removesuffix(COMPRESSED) if IMAGE_TYPES.get(kind) == 'compressed' else name


def _way(publisher: bytes, transport: Transport) -> str:
    if not transport.rmw.startswith('rmw_fastrtps'):
        return ('raise net.core.rmem_max to hold a frame on both computers, '
                'or take compressed images')
    vendor = VENDORS.get(publisher[VENDOR_BYTES])
    if vendor != 'Fast DDS':
        return (f'it speaks {vendor or "another middleware"} and this node {transport.rmw}: '
                'give both the same RMW_IMPLEMENTATION')
    own = transport.identifier
    if own and own[HOST_BYTES] != publisher[HOST_BYTES]:
        return ('it is on another computer, where best effort loses a frame with any one '
                'fragment: raise net.core.rmem_max on both, set reliability to reliable if the '
                'camera offers it, or take compressed images')
    who = 'start its driver, too,' if transport.has_profile else 'start its driver and this node'
    return (f'{who} with {PROFILE_VARIABLES[0]} (from Kilted on {PROFILE_VARIABLES[1]}) set to '
            'config/fastdds_profile.xml of uncertainty_seg, since the default shared memory '
            'segment is smaller than a frame')


# An endpoint is discovered before its node's name, which comes with a later message.
SETTLE_S = 3.0


class TopicWatch:
    """
    Find faults of a node's topics in the graph.

    `num_missed` and `num_lost` count missed deadlines and lost messages by topic; `reported` is
    what `report` returned last, `topics` holds the watched endpoints, by name and direction,
    `asked` the name before remapping of each topic of the node.
    """

    def __init__(self, node: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._node, self._clock, self._me = node, clock, str(node.get_fully_qualified_name())
        self.topics: dict[tuple[str, bool], Topic] = {}
        self.asked: dict[str, str] = {}
        self._alarmed_s: dict[tuple[str, bool], float] = {}
        self.num_missed: dict[str, int] = {}
        self.num_lost: dict[str, int] = {}
        self.reported: tuple[str, ...] = ()

    def events(self, topic: Topic) -> Any:
        """Watch an endpoint; return the event callbacks to create it with."""
        self.topics[topic.name, topic.is_publisher] = topic
        if not topic.is_publisher:
            return SubscriptionEventCallbacks(
                incompatible_qos=lambda event: self._on_alarm(topic),
                message_lost=lambda event: _add(
                    self.num_lost, topic.name, event.total_count_change))
        has_deadline = 0 < topic.qos.deadline.nanoseconds < INFINITE_NS
        return _events.PublisherEventCallbacks(
            incompatible_qos=lambda event: self._on_alarm(topic),
            deadline=(lambda event: _add(self.num_missed, topic.name)) if has_deadline else None)

    def report(self) -> tuple[str, ...]:
        """Log each new fault in the graph once, and return a sentence for every current one."""
        found = set(self._of_other_types())
        for end, alarmed_s in list(self._alarmed_s.items()):
            topic = self.topics[end]
            is_settled = self._clock() - alarmed_s >= SETTLE_S
            here = conflict_sentences(topic, self._me, self._others(topic), is_settled)
            found.update(here)
            if is_settled and not here:
                del self._alarmed_s[end]  # the next conflict triggers a new event
        for sentence in sorted(found.difference(self.reported)):
            self._node.get_logger().warning(sentence)
        self.reported = tuple(sorted(found))
        return self.reported

    def _of_other_types(self) -> list[str]:
        ends = {end.topic_name for end in self._node.subscriptions}
        listened = {(topic.name, topic.type_name) for topic in list(self.topics.values())
                    if not topic.is_publisher and topic.name in ends}
        found = [type_sentence(name, kind, self._me,
                               self._node.get_publishers_info_by_topic(name))
                 for name, kind in listened]
        return [sentence for sentence in found if sentence]

    def _on_alarm(self, topic: Topic) -> None:
        self._alarmed_s[topic.name, topic.is_publisher] = self._clock()

    def _others(self, topic: Topic) -> list[Any]:
        """Return the other endpoints of a topic; none once the node's own is destroyed."""
        node = self._node
        ends, look = ((node.publishers, node.get_subscriptions_info_by_topic)
                      if topic.is_publisher else
                      (node.subscriptions, node.get_publishers_info_by_topic))
        return [info for info in look(topic.name) if info.topic_type == topic.type_name] \
            if any(end.topic_name == topic.name for end in ends) else []


def _add(counts: dict[str, int], name: str, more: int = 1) -> None:
    counts[name] = counts.get(name, 0) + more


class WatchedTopicsNode(LifecycleNode):
    """A lifecycle node that watches every topic created after `watch` is set."""

    watch: TopicWatch | None = None
    # The callback group of new topics unless another is given; None is the node's default.
    topic_group: CallbackGroup | None = None

    def get_publishers_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> Any:
        """Return who publishes on a topic, although rclpy remaps the name, even if it was."""
        if self.watch is not None and self.resolve_topic_name(topic_name) != topic_name:
            topic_name = self.watch.asked.get(topic_name, topic_name)
        return super().get_publishers_info_by_topic(topic_name, no_mangle)

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: Any, **options: Any
    ) -> Any:
        """Create a publisher as rclpy does, with the watch's events if none are given."""
        return self._create(super().create_publisher, True, (msg_type, topic, qos_profile),
                            options)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Any, qos_profile: Any, **options: Any
    ) -> Any:
        """Create a subscription as rclpy does, with the watch's events if none are given."""
        return self._create(super().create_subscription, False,
                            (msg_type, topic, callback, qos_profile), options)

    def _create(
        self, create: Callable[..., Any], is_publisher: bool, what: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        if self.topic_group is not None:
            options = {'callback_group': self.topic_group, **options}
        name, events = self.resolve_topic_name(what[1]), {}
        if self.watch is not None:
            self.watch.asked.setdefault(name, what[1])
        if self.watch is not None and 'event_callbacks' not in options \
                and isinstance(what[-1], qos.QoSProfile):
            topic = Topic(name, type_name(what[0]), is_publisher, what[-1])
            events = {'event_callbacks': self.watch.events(topic)}
        try:
            try:
                return create(*what, **events, **options)
            except UnsupportedEventTypeError:  # the middleware has no such events
                return create(*what, **options)
        except _OVERRIDE_ERRORS as err:
            kinds = dict(self.get_topic_names_and_types()).get(name, [])
            others = [kind for kind in kinds if kind != type_name(what[0])]
            if others and type(err).__name__ == 'RCLError':
                raise ConfigError(f'{name} is a topic of {others[0]} here', type_name(what[0]),
                                  'remap one of them to a topic of its own') from err
            is_of_override = type(err) is not RuntimeError or 'QoS override' in str(err)
            if 'qos_overriding_options' not in options or not is_of_override:
                raise
            raise ConfigError(f'qos_overrides of {name} cannot be used ({err})',
                              'values of rmw_qos_profile', 'see docs/reference/ros.md') from err


# What rclpy raises for a word, type or number that is not a policy, or that our check refuses.
_OVERRIDE_ERRORS = (RuntimeError, InvalidQosOverridesError, InvalidParameterTypeException,
                    AssertionError)
