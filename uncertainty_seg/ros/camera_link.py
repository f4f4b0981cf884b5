# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The subscription to the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.core.settings import (
    require_no_history,
    Settings,
    settings_from_dict,
    settings_to_dict,
)
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.conversions import AnyImage
from uncertainty_seg.ros.graph_watch.qos import camera_qos, overridable

# -------------------------------------------------------------------------------------------------
# Where image_transport puts what belongs to an image topic.
# rclpy has no image_transport, so its two conventions are kept here: a compressed image is below
# the topic of the image, and the calibration beside it. Whoever remaps `image` gets both. With
# several cameras each has a room of its own: `front/image` comes in, `~/front/mask` goes out.

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


# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """
    An image as it waits for the network.

    Attributes
    ----------
    msg : Image or CompressedImage
        As received.
    stamp_ns : int
        When it was taken, by the setting `stamps`.

    """

    msg: AnyImage
    stamp_ns: int


def require_profile(profile: QoSProfile, settings: Settings) -> None:
    """Raise ConfigError if images cannot be asked for so by the rules of the settings."""
    if profile.history != QoSHistoryPolicy.KEEP_LAST:
        raise ConfigError(f'history is {profile.history.name.lower()}', 'keep_last',
                          'the node takes the newest image')
    settings_from_dict({
        **settings_to_dict(settings), 'reliability': profile.reliability.name.lower()})
    durability = profile.durability.name.lower()
    if durability not in ('volatile', 'transient_local'):
        raise ConfigError(f'durability is {durability}', 'volatile or transient_local')
    require_no_history(settings, profile.depth, durability == 'transient_local')


class CameraLink:
    """
    Listen to the topic `image`, or to that of one of several cameras.

    Parameters
    ----------
    node : Node
        Owns the subscription.
    settings : Settings
        Quality of service and transport; 'compressed' takes CompressedImage below the topic.
    on_image : callable
        Called in the executor's thread with each message; must return at once.
    camera : str, optional
        Name of one of several.

    """

    def __init__(
        self, node: Node, settings: Settings, on_image: Callable[[AnyImage], None],
        camera: str = '',
    ) -> None:
        self._node = node
        transport = settings.image_transport

        def check(profile: QoSProfile) -> str:
            try:
                require_profile(profile, settings)
            except ConfigError as err:
                return str(err)
            return ''

        self._subscription = node.create_subscription(
            CompressedImage if transport == 'compressed' else Image,
            image_topic(node, transport, camera), on_image,
            camera_qos(settings.reliability),
            qos_overriding_options=overridable(check),
        )

    @property
    def topic(self) -> str:
        """Return the topic listened to, after remapping."""
        return str(self._subscription.topic_name)

    def require(self, settings: Settings) -> None:
        """
        Judge settings by what the images are asked for with.

        Parameters
        ----------
        settings : Settings
            Those to come; the parameters `qos_overrides` may have changed it.

        Raises
        ------
        ConfigError
            If the subscription would contradict them.

        """
        require_profile(self._subscription.qos_profile, settings)

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)
