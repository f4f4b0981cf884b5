# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The names of the classes in the mask, latched, as `vision_msgs/LabelInfo`.

vision_msgs is optional: without it the node runs and the topic is missing. Its `LabelInfo` came
with 4.1.0 and has not changed since; Humble and all later distributions take the branch `ros2`.

"""

from __future__ import annotations

import functools
import logging
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from std_msgs.msg import Header

from uncertainty_seg.core.model_card import ModelCard

_log = logging.getLogger(__name__)

# The message wants the confidence below which a pixel was withheld; the mask withholds none.
NO_THRESHOLD = 0.0


class LabelInfoPublisher:
    """
    Say once what the ids of a mask mean; who joins later is told too.

    Parameters
    ----------
    node : Node
        Owns the publisher.
    topic : str
        Beside the mask: '~/label_info', or '~/front/label_info' for a camera.

    Notes
    -----
    Where vision_msgs cannot be imported nothing is published, and one line of the process's log
    says so, however many cameras there are.

    """

    def __init__(self, node: Node, topic: str) -> None:
        self._node = node
        types = _message_types()
        self._publisher = None if types is None else node.create_publisher(
            types[0], topic, label_qos())

    def publish(self, card: ModelCard) -> bool:
        """
        Publish the names of a model's classes, stamped with the node's time.

        Parameters
        ----------
        card : ModelCard
            Of the model that makes the masks.

        Returns
        -------
        bool
            Whether it was published.

        """
        if self._publisher is None:
            return False
        self._publisher.publish(label_message(card, self._node.get_clock().now().to_msg()))
        return True

    def close(self) -> None:
        """Take the topic and its latched message off the graph."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
        self._publisher = None


def label_qos() -> QoSProfile:
    """Offer the newest names to everybody, also late: reliable, transient local, depth 1."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=1,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
        reliability=QoSReliabilityPolicy.RELIABLE,
    )


def label_message(card: ModelCard, stamp: Any) -> Any:
    """
    Build the message; needs vision_msgs.

    Parameters
    ----------
    card : ModelCard
        Of the model that makes the masks.
    stamp : builtin_interfaces/Time
        When this was said. It belongs to no image and no frame.

    Returns
    -------
    vision_msgs/LabelInfo
        A name for each id of the mono8 mask, in the order of the ids. 255 is "unlabelled" by the
        convention of vision_msgs and of the card; it is not listed, for no mask has it, and a
        consumer such as Nav2's semantic layer takes each entry for a class it must know.

    """
    label_info, vision_class = _message_types()
    class_map = [vision_class(class_id=number, class_name=name)
                 for number, name in enumerate(card.class_names)]
    return label_info(header=Header(stamp=stamp), class_map=class_map, threshold=NO_THRESHOLD)


@functools.cache
def _message_types() -> Any:
    """Return LabelInfo and VisionClass, or None; cached so that their lack is said once."""
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError as err:
        _log.info(f'class names are not published on label_info: {err}; '
                  'to have them, install vision_msgs 4.1 or newer')
        return None
    return LabelInfo, VisionClass
