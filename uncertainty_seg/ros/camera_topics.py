# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where image_transport puts what belongs to an image topic.

rclpy has no image_transport, so its two conventions are kept here: a compressed image is below
the topic of the image, and the calibration beside it. Whoever remaps `image` gets both. With
several cameras each has a room of its own: `front/image` comes in, `~/front/mask` goes out.

"""

from __future__ import annotations

from rclpy.node import Node

COMPRESSED = '/compressed'


def image_topic(node: Node, transport: str, camera: str = '') -> str:
    """
    Return the topic to take images from.

    Parameters
    ----------
    node : Node
        Knows the remappings.
    transport : str
        'raw' or 'compressed'.
    camera : str, optional
        Name of one of several.

    Returns
    -------
    str
        `image` or `<camera>/image` after remapping, with '/compressed' if that is asked for and
        not given already.

    """
    topic = str(node.resolve_topic_name(input_topic('image', camera)))
    if transport == 'compressed' and not topic.endswith(COMPRESSED):
        return f'{topic}{COMPRESSED}'
    return topic


def camera_info_topic(node: Node, camera: str = '') -> str:
    """Return `camera_info` where it is remapped, else the one beside the image."""
    own = input_topic('camera_info', camera)
    topic = str(node.resolve_topic_name(own))
    if topic != node.resolve_topic_name(own, only_expand=True):
        return topic
    base = str(node.resolve_topic_name(input_topic('image', camera))).removesuffix(COMPRESSED)
    return f'{base.rpartition("/")[0]}/camera_info'


def output_topic(name: str, camera: str = '') -> str:
    """Return where an output is published: `~/name`, or `~/<camera>/name`."""
    return f'~/{camera}/{name}' if camera else f'~/{name}'


def input_topic(name: str, camera: str = '') -> str:
    """Return where an input is taken from: `name`, or `<camera>/name`."""
    return f'{camera}/{name}' if camera else name
