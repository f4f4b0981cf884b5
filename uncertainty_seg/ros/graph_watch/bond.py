# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The bond by which Nav2's lifecycle manager notices that an active node has died.

Both ends publish `bond/msg/Status` on the topic `bond`, each under the node's name and an id of
its own: alive ten times a second, then, when one end wants to part, not active. The manager takes
its nodes down when one of them has been silent for its `bond_timeout`. The node itself does not
depend on the manager: it goes on, and says so once, if that one is gone.

The beats come from a timer of the executor and not from a thread, as bondpy's do: a node whose
callbacks hang must not look alive.

"""

from __future__ import annotations

import logging
from typing import Any
import uuid

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.health import PartFaults

TOPIC = 'bond'
# What Nav2's own nodes take.
PERIOD_S, TIMEOUT_S = 0.1, 4.0
# As bondcpp: reliable, volatile.
SENT_QOS, HEARD_QOS = QoSProfile(depth=5), QoSProfile(depth=100)
_log = logging.getLogger(__name__)


class LifecycleBond:
    """
    The node's end of the bond.

    Raises ConfigError if the messages of bond are not installed.

    Parameters
    ----------
    node : Node
        Owns topics and timer; its name is the bond's.
    faults : PartFaults
        Counts faults of the beats.

    """

    def __init__(self, node: Node, faults: PartFaults) -> None:
        self._node, self._faults = node, faults
        self._status = _status_type()
        self._me, self._sister = '', ''
        self._ends: tuple[Any, ...] = ()

    def start(self) -> None:
        """Beat from now on, as a new end."""
        self.stop()
        self._me, self._sister = str(uuid.uuid4()), ''
        node = self._node
        publisher = node.create_publisher(self._status, TOPIC, SENT_QOS)
        self._ends = (
            publisher, node.create_subscription(self._status, TOPIC, self._on_status, HEARD_QOS),
            node.create_timer(PERIOD_S, self._on_timer, clock=Clock(
                clock_type=ClockType.STEADY_TIME)))

    def stop(self) -> None:
        """Say that the bond is given up, which is no fault, and beat no more."""
        if not self._ends:
            return
        (publisher, subscription, timer), self._ends = self._ends, ()
        with self._faults.alone('bond'):
            self._publish(publisher, False)
            if hasattr(publisher, 'wait_for_all_acked'):
                from rclpy.duration import Duration

                publisher.wait_for_all_acked(Duration(seconds=0.2))
        self._node.destroy_timer(timer)
        self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(publisher)

    def _on_timer(self) -> None:
        if self._ends:
            with self._faults.alone('bond'):
                self._publish(self._ends[0], True)

    def _publish(self, publisher: Any, is_active: bool) -> None:
        msg = self._status(
            id=self._node.get_name(), instance_id=self._me, active=is_active,
            heartbeat_timeout=TIMEOUT_S, heartbeat_period=PERIOD_S)
        msg.header.stamp = self._node.get_clock().now().to_msg()
        publisher.publish(msg)

    def _on_status(self, msg: Any) -> None:
        if msg.id != self._node.get_name() or msg.instance_id == self._me:
            return
        if msg.active and not self._sister:
            self._sister = msg.instance_id
            _log.info('a lifecycle manager watches this node by its bond')
        elif not msg.active and msg.instance_id == self._sister:
            self._sister = ''
            _log.warning('the lifecycle manager has given up its bond; the node goes on')


def _status_type() -> Any:
    try:
        from bond.msg import Status
    except ImportError as err:
        raise ConfigError(
            f'bond is true and the messages of the ROS package bond are missing ({err})',
            fix='install it, as with apt install ros-$ROS_DISTRO-bond, or set bond to false',
        ) from err
    return Status
