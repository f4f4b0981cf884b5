# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Everything the node publishes, and only what somebody listens to.

The verdict's topics live as long as the node, because their silence must never be read as
consent; the pictures live from configure to cleanup.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, Float32, Header

from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.ros import qos
from uncertainty_seg.ros.camera_info import CameraInfoRelay
from uncertainty_seg.ros.camera_topics import output_topic
from uncertainty_seg.ros.conversions import image_to_msg
from uncertainty_seg.ros.diagnostics import verdict_message
from uncertainty_seg.ros.frame_view import FrameView

PICTURES: dict[str, tuple[str, Callable[[FrameView], Any]]] = {
    'mask': ('mono8', lambda view: view.mask),
    'confidence': ('mono8', lambda view: view.confidence),
    'uncertainty': ('32FC1', lambda view: view.uncertainty),
    'heatmap': ('bgr8', lambda view: view.heatmap),
    'overlay': ('bgr8', lambda view: view.overlay),
    'mask_color': ('bgr8', lambda view: view.mask_color),
}


class VerdictPublishers:
    """
    The flag, its score and its reasons.

    Parameters
    ----------
    node : Node
        Owns the publishers.
    stale_timeout_s : float
        The deadline the flag is offered with.
    camera : str, optional
        Name of one of several.

    Attributes
    ----------
    is_confident : bool
        The flag as it was published last.
    num_sent : int
        Flags published so far.
    order : RLock
        Held by worker and timer from the question whether a verdict holds until it is published,
        so that nothing can make it untrue in between.

    """

    def __init__(self, node: Node, stale_timeout_s: float, camera: str = '') -> None:
        self._node, self._clock = node, node.get_clock()
        self._flag_topic = output_topic('confident', camera)
        self.order = threading.RLock()
        self._sent_s = -math.inf
        self.is_confident = False
        self.num_sent = 0
        self._flag = self._make_flag(stale_timeout_s)
        self._score = node.create_publisher(
            Float32, output_topic('score', camera), qos.report_qos())
        self._status = node.create_publisher(
            DiagnosticArray, output_topic('status', camera), qos.report_qos())

    @property
    def topic(self) -> str:
        """Return the topic of the flag, after remapping."""
        return str(self._node.resolve_topic_name(self._flag_topic))

    def promise(self, stale_timeout_s: float) -> None:
        """
        Offer the flag with another deadline.

        It falls before: who asked for the old deadline may never hear of the new one, and must
        not be left with a true.
        """
        with self.order:
            self.publish_fault('the deadline was changed')
            self.flush(0.2)
            self._node.destroy_publisher(self._flag)
            self._flag = self._make_flag(stale_timeout_s)

    def _make_flag(self, stale_timeout_s: float) -> Any:
        return self._node.create_publisher(
            Bool, self._flag_topic, qos.flag_qos(stale_timeout_s))

    def publish(
        self, verdict: Verdict, thresholds: Mapping[str, float],
        header: Header | None = None, result: FrameResult | None = None,
    ) -> None:
        """
        Say what holds from now on.

        Parameters
        ----------
        verdict : Verdict
            The flag and why.
        thresholds : mapping of str to float
            Limit of each gated score.
        header : Header or None
            Of the frame; the node's time if there is no frame.
        result : FrameResult or None
            The frame's scores and timings.

        """
        header = header or Header(stamp=self._clock.now().to_msg())
        with self.order:
            # First: a process that is stopped between the two must find its silence afterwards.
            self._sent_s = time.monotonic()
            self._flag.publish(Bool(data=verdict.is_confident))
            self.is_confident = verdict.is_confident
            self.num_sent += 1
            self._score.publish(Float32(data=verdict.score_ratio))
            if self._status.get_subscription_count():
                self._status.publish(verdict_message(header, verdict, result, thresholds))

    def publish_fault(self, reason: str) -> None:
        """Say that the flag is down for a reason that is no frame."""
        self.publish(Verdict(False, (reason,), math.inf, 'fault'), {})

    def silence_s(self) -> float:
        """Return the seconds since the flag was last published."""
        return time.monotonic() - self._sent_s

    def flush(self, timeout_s: float) -> None:
        """Wait until the last flag has reached who listens, where ROS can tell."""
        from rclpy.duration import Duration

        if hasattr(self._flag, 'wait_for_all_acked'):
            self._flag.wait_for_all_acked(Duration(seconds=timeout_s))


class PicturePublishers:
    """
    The images of a frame and their calibration, made only for topics with subscribers.

    Parameters
    ----------
    node : Node
        Owns the publishers.
    camera : str, optional
        Name of one of several.

    """

    def __init__(self, node: Node, camera: str = '') -> None:
        self._node = node
        self._clock: Clock = node.get_clock()
        self._publishers: dict[str, Any] = {}
        self._camera_info: CameraInfoRelay | None = None
        self._flagged_ns: int | None = None
        try:
            for name in (*PICTURES, 'flagged'):
                self._publishers[name] = node.create_publisher(
                    Image, output_topic(name, camera), qos.picture_qos())
            self._camera_info = CameraInfoRelay(node, camera)
        except BaseException:
            self.close()  # what was made would stay on the node
            raise
        self.counts = dict.fromkeys(self._publishers, 0)

    def publish(self, header: Header, view: FrameView) -> None:
        """Make and publish the pictures somebody wants, under the image's own header."""
        for name, (encoding, make) in PICTURES.items():
            if self._publishers[name].get_subscription_count():
                self._publishers[name].publish(image_to_msg(header, make(view), encoding))
                self.counts[name] += 1
        if self._camera_info is not None:
            self._camera_info.publish(header, *view.size)

    @property
    def wants_flagged(self) -> bool:
        """Whether somebody listens to the images that are worth a label."""
        return bool(self._publishers and self._publishers['flagged'].get_subscription_count())

    def publish_flagged(self, msg: Image, min_interval_s: float) -> None:
        """
        Republish an image that is worth a label, not more often than asked.

        Parameters
        ----------
        msg : Image
            As received.
        min_interval_s : float
            Least time on the node's clock since the one before. A clock that was set back, as by
            a bag that starts again, begins a new interval.

        """
        if not self.wants_flagged:
            return
        now_ns = self._clock.now().nanoseconds
        if self._flagged_ns is not None:
            if 0 <= now_ns - self._flagged_ns < min_interval_s * 1e9:
                return
        self._flagged_ns = now_ns
        self._publishers['flagged'].publish(msg)
        self.counts['flagged'] += 1

    def clear_counts(self) -> None:
        """Count from nothing."""
        self.counts = dict.fromkeys(self.counts, 0)

    def close(self) -> None:
        """Take the topics off the graph."""
        if self._camera_info is not None:
            self._camera_info.close()
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers = {}
