# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One sentence when nothing comes through a subscription.

A subscriber that receives nothing looks the same whether the camera is off, the topic is misspelt,
the quality of service does not match, or large frames are lost on the way. The graph shows which,
and the publisher's identifier shows its middleware and whether it runs on this computer.
Whether its process has a Fast DDS profile cannot be seen from here.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import os
import types
from typing import Any

from uncertainty_seg.ros.camera_link import COMPRESSED
from uncertainty_seg.ros.graph_watch.qos_sentences import conflict_sentences, full_name, Topic

# Humble and Jazzy read the first, Kilted and later the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
PROFILE = 'config/fastdds_profile.xml of uncertainty_seg'
# An identifier begins with its vendor (RTPS 2.3, section 8.3.3.1.3); Fast DDS adds its computer.
VENDORS = {b'\x01\x0f': 'Fast DDS', b'\x01\x10': 'Cyclone DDS', b'\x01\x01': 'Connext'}
VENDOR_BYTES, HOST_BYTES = slice(0, 2), slice(2, 4)
# What the parameter image_transport calls them.
IMAGE_TYPES = {'sensor_msgs/msg/Image': 'raw', 'sensor_msgs/msg/CompressedImage': 'compressed'}
MOST_NAMED = 3


@dataclass(frozen=True)
class Transport:
    """
    The transport of this process.

    Attributes
    ----------
    rmw : str
        Name of the middleware, such as 'rmw_fastrtps_cpp'.
    domain : str
        ROS domain.
    is_local : bool
        Whether it looks for others on this computer only.
    has_profile : bool
        Whether it was started with a Fast DDS profile.
    identifier : bytes
        Of any end of its own; empty if there is none.

    """

    rmw: str
    domain: str
    is_local: bool
    has_profile: bool
    identifier: bytes = b''

    @classmethod
    def of_node(cls, node: Any, environment: Mapping[str, str] = os.environ) -> Transport:
        """Look at the process a node runs in."""
        from rclpy.utilities import get_rmw_implementation_identifier

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

    @property
    def is_fast_dds(self) -> bool:
        """Whether it is Fast DDS, of either kind."""
        return self.rmw.startswith('rmw_fastrtps')


def why_silent(node: Any, topic: Topic, own: str = 'image') -> str:
    """
    Explain why no message comes, from what the graph shows.

    Parameters
    ----------
    node : Node
        Asked for the graph.
    topic : Topic
        The subscription.
    own : str, optional
        What is to be remapped.

    Returns
    -------
    str
        One sentence, with what to do.

    """
    publishers = node.get_publishers_info_by_topic(topic.name)
    me = node.get_fully_qualified_name()
    found = image_topics(node, me) if not publishers else {}
    return silence_reason(topic, me, publishers, Transport.of_node(node), found, own)


def several_cameras(topic: str, publishers: Sequence[str]) -> str:
    """Say that the images on a topic are of several nodes, a few of which are named."""
    named = ', '.join(sorted(publishers)[:MOST_NAMED])
    return (f'{len(publishers)} publishers of images on {topic} ({named}), expected one: each '
            'image is judged by itself, and the flag is about whichever came last; give each '
            'camera a topic of its own (parameter cameras), or stop one of them')


def image_topics(node: Any, me: str) -> dict[str, str]:
    """Return the topics on which other nodes publish images, and their types."""
    names = [name for name, kinds in node.get_topic_names_and_types()
             if set(kinds) & set(IMAGE_TYPES)]
    return {
        name: info.topic_type for name in sorted(names)
        for info in node.get_publishers_info_by_topic(name) if full_name(info) != me
    }


def silence_reason(
    topic: Topic, me: str, publishers: Sequence[Any], transport: Transport,
    elsewhere: Mapping[str, str] = types.MappingProxyType({}), own: str = 'image',
) -> str:
    """
    Explain why no message comes.

    Parameters
    ----------
    topic : Topic
        The subscription.
    me : str
        Full name of the node.
    publishers : sequence of rclpy.topic_endpoint_info.TopicEndpointInfo
        Those on the topic.
    transport : Transport
        Of this process.
    elsewhere : mapping of str to str
        Where images are published, and their types; named if there is no publisher here.
    own : str, optional
        What is to be remapped.

    Returns
    -------
    str
        One sentence, with what to do.

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
    """Return what to remap to, so that a topic is listened to."""
    # The node puts it there again.
    is_compressed = IMAGE_TYPES.get(kind) == 'compressed'
    return name.removesuffix(COMPRESSED) if is_compressed else name


def _way(publisher: bytes, transport: Transport) -> str:
    if not transport.is_fast_dds:
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
            f'{PROFILE}, since the default shared memory segment is smaller than a frame')
