# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where image_transport puts what belongs to an image topic.

rclpy has no image_transport, so its two conventions are kept here: a compressed image is below
the topic of the image, and the calibration beside it. Whoever remaps `image` gets both.

"""

from __future__ import annotations

from rclpy.node import Node

COMPRESSED = '/compressed'


def image_topic(node: Node, transport: str) -> str:
    """
    Return the topic to take images from.

    Parameters
    ----------
    node : Node
        Knows the remappings.
    transport : str
        'raw' or 'compressed'.

    Returns
    -------
    str
        `image` after remapping, with '/compressed' if that is asked for and not given already.

    """
    topic = str(node.resolve_topic_name('image'))
    if transport == 'compressed' and not topic.endswith(COMPRESSED):
        return f'{topic}{COMPRESSED}'
    return topic


def camera_info_topic(node: Node) -> str:
    """Return `camera_info` where it is remapped, else the one beside the image."""
    topic = str(node.resolve_topic_name('camera_info'))
    if topic != node.resolve_topic_name('camera_info', only_expand=True):
        return topic
    base = str(node.resolve_topic_name('image')).removesuffix(COMPRESSED)
    return f'{base.rpartition("/")[0]}/camera_info'
