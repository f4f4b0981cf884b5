# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Everything the node publishes; status and pictures only if they have subscribers.

The topics of the verdict exist as long as the node; those of the pictures from configure to
cleanup.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Mapping
from functools import partial
import logging
import math
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float32, Header

from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import FrameResult
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.status import verdict_numbers, verdict_status
from uncertainty_seg.ros import topics
from uncertainty_seg.ros.conversions import image_to_msg, jpeg_to_msg
from uncertainty_seg.ros.health import diagnostics_message, PartFaults
from uncertainty_seg.ros.node_life import header_now, now_ns, steady_s
from uncertainty_seg.ros.topics import COMPRESSED, output_topic

_log = logging.getLogger(__name__)

# The camera's calibration, relayed so that pixels of the mask can be projected.


class CameraInfoRelay:
    """Keep the newest `camera_info` of a camera, and fit it to frames."""

    def __init__(self) -> None:
        self._newest: CameraInfo | None = None
        self._reported = ''

    def take(self, msg: CameraInfo) -> None:
        """Keep the newest calibration."""
        self._newest = msg

    def fit(self, header: Any, height: int, width: int) -> CameraInfo | None:
        """Return the calibration for a frame; None, with a log line, if the last does not fit."""
        info = self._newest
        if info is None:
            return None
        problem = camera_info_problem(info)
        fitting = None if problem else fit_camera_info(info, header, height, width)
        problem = problem or f'images of {width}x{height} have another size'
        if fitting is None and problem != self._reported:
            self._reported = problem
            _log.warning('camera_info of %dx%d is not relayed: %s', info.width, info.height,
                         problem)
        return fitting


def camera_info_problem(info: CameraInfo) -> str:
    """Return why a calibration fits no image; empty if it may fit one, as with all zeros."""
    roi = info.roi
    if (info.width == 0) != (info.height == 0):
        return 'a size of zero has no pixels; correct what the driver publishes'
    for name in ('d', 'k', 'r', 'p'):
        odd = [value for value in getattr(info, name) if not math.isfinite(value)]
        if odd:
            return f'{name} holds {odd[0]}, expected finite numbers; calibrate the camera anew'
    if info.width and (roi.x_offset + roi.width > info.width
                       or roi.y_offset + roi.height > info.height or 0 in _described_size(info)):
        return 'its roi reaches over the image, or its binning leaves no pixel of it'
    return ''


def fit_camera_info(
    info: CameraInfo, header: Any, height: int, width: int
) -> CameraInfo | None:
    """
    Return a calibration for images of a size, in pixels, under another header.

    It has the numbers of `info`, whose size must be that of the images: the full size, or that of
    its region and binning. An uncalibrated camera (size 0) fits any image. None if it does not
    fit, since it is unknown how the image was cropped or scaled.
    """
    sizes = (info.width, info.height), _described_size(info)
    if info.width and (width, height) not in sizes:
        return None
    fields = {name: getattr(info, name) for name in info.get_fields_and_field_types()}
    return CameraInfo(**{**fields, 'header': header})


def _described_size(info: CameraInfo) -> tuple[int, int]:
    """Return (W, H) of the images of a calibration; a region of zeros is the full image."""
    width, height = info.roi.width or info.width, info.roi.height or info.height
    return width // max(info.binning_x, 1), height // max(info.binning_y, 1)


def publish_labels(node: Node, topic: str, card: ModelCard) -> Any:
    """
    Publish the class names of a mask's ids once, latched; return the publisher, to be kept.

    255, "unlabelled" by convention, is not listed: no mask has it, and a consumer such as Nav2's
    semantic layer treats each entry as a class that it must know. None, with a log line, if
    vision_msgs 4.1 or later, which is optional, cannot be imported.
    """
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError as err:
        _log.info(f'class names are not published on label_info: {err}; '
                  'to have them, install vision_msgs 4.1 or newer')
        return None
    publisher = node.create_publisher(LabelInfo, topic, topics.LABEL_QOS)
    # The threshold is the confidence below which pixels are withheld; the mask withholds none.
    publisher.publish(LabelInfo(
        header=header_now(node.get_clock()), threshold=0.0,
        class_map=[VisionClass(class_id=number, class_name=name)
                   for number, name in enumerate(card.class_names)]))
    return publisher


# Name -> encoding and pixels.
PICTURES: dict[str, tuple[str, Callable[[FrameView], Any]]] = {
    'mask': ('mono8', lambda view: view.mask),
    'confidence': ('mono8', lambda view: view.confidence),
    'uncertainty': ('32FC1', lambda view: view.uncertainty),
    'unknown': ('32FC1', lambda view: view.unknown),
    'heatmap': ('bgr8', lambda view: view.heatmap),
    'overlay': ('bgr8', lambda view: view.overlay),
    'mask_color': ('bgr8', lambda view: view.mask_color),
}
# Where subscribers of image_transport expect the overlay as JPEG.
OVERLAY_JPEG = f'overlay{COMPRESSED}'


class VerdictPublishers:
    """
    Publish the flag, the verdict as numbers, score and reasons; used by `VerdictOwner` alone.

    The numbers never promise more than the flag: they are published after a true flag and before
    a false one, and a false flag is published even if they cannot be. A late subscriber of either
    receives no old true.

    The flag is offered with the deadline `stale_timeout_s`. `is_confident` is the flag published
    last, `num_sent` the number published; the owner sets `weakened_by`, the settings that weaken
    the promise.
    """

    def __init__(
        self, node: Node, stale_timeout_s: float, camera: str = '', stamps: str = 'camera',
        faults: PartFaults | None = None,
    ) -> None:
        self._node, self._clock, self._stamps = node, node.get_clock(), stamps
        self._faults = faults or PartFaults()
        self._flag_topic = output_topic('confident', camera)
        self._numbers_topic = output_topic('verdict', camera)
        self._sent_s = -math.inf
        self.is_confident = False
        self.num_sent = 0
        self.weakened_by: tuple[str, ...] = ()
        self._flag, self._numbers = self._make_flag(stale_timeout_s)
        self._score = node.create_publisher(
            Float32, output_topic('score', camera), topics.REPORT_QOS,
            qos_overriding_options=topics.overridable(is_verdict=True))
        self._status = node.create_publisher(
            DiagnosticArray, output_topic('status', camera), topics.REPORT_QOS,
            qos_overriding_options=topics.overridable(is_verdict=True))

    def promise(self, stale_timeout_s: float) -> None:
        """
        Offer the flag, and the numbers, with another deadline.

        The flag must be false: a subscriber that requests the old deadline may not match the new
        one, and must not be left with a true flag.
        """
        self.flush(0.2)
        for publisher in (self._numbers, self._flag):
            self._node.destroy_publisher(publisher)
        self._flag, self._numbers = self._make_flag(stale_timeout_s)

    def _make_flag(self, stale_timeout_s: float) -> tuple[Any, Any]:
        qos = topics.flag_qos(stale_timeout_s)
        return (self._node.create_publisher(Bool, self._flag_topic, qos),
                self._node.create_publisher(JointState, self._numbers_topic, qos))

    def publish(
        self, verdict: Verdict, thresholds: Mapping[str, float],
        header: Header | None = None, result: FrameResult | None = None,
    ) -> None:
        """Publish a verdict, under the frame's header, or the node's time without one."""
        is_of_frame = header is not None
        header = header or header_now(self._clock)

        def numbers() -> JointState:
            # JointState holds named numbers in every ROS 2, and plotting tools show it.
            values = verdict_numbers(verdict, result, is_of_frame, self.weakened_by)
            return JointState(header=header, name=list(values),
                              position=array.array('d', values.values()))

        # Before sending: if the process is paused between the two, the pause counts as silence.
        self._sent_s = steady_s()
        self._send(verdict.is_confident, numbers)
        with self._faults.alone('score'):
            self._score.publish(Float32(data=verdict.score_ratio))
        with self._faults.alone('status'):
            if self._status.get_subscription_count():
                status = verdict_status(verdict, result, thresholds, weakened_by=self.weakened_by,
                                        stamps=self._stamps)
                self._status.publish(diagnostics_message(header, status))

    def _send(self, is_confident: bool, numbers: Callable[[], JointState]) -> None:
        flag = Bool(data=is_confident)
        if is_confident:
            self._flag.publish(flag)
            self.is_confident = True
            self.num_sent += 1
            self._numbers.publish(numbers())
            return
        try:
            self._numbers.publish(numbers())
        finally:
            self._flag.publish(flag)
            self.num_sent += 1
        self.is_confident = False  # after both: while it is true, the timer retries at once

    def publish_fault(self, reason: str) -> None:
        """Publish a false flag for a reason that is not a frame."""
        self.publish(Verdict(False, (reason,), math.inf, 'fault'), {})

    def silence_s(self) -> float:
        """Return the seconds since the flag was last published."""
        return steady_s() - self._sent_s

    def flush(self, timeout_s: float) -> None:
        """Wait until the last verdict has reached its subscribers, where ROS reports that."""
        if hasattr(self._flag, 'wait_for_all_acked'):
            end_s = time.monotonic() + timeout_s
            for publisher in (self._flag, self._numbers):
                left_s = max(end_s - time.monotonic(), 0.0)
                publisher.wait_for_all_acked(Duration(seconds=left_s))


class PicturePublishers:
    """
    Publish the images of a frame and their calibration, if they have subscribers.

    A failure of one affects no other. `counts` holds how often each was published.
    """

    def __init__(
        self, node: Node, camera: str = '', faults: PartFaults | None = None
    ) -> None:
        self._node, self._clock = node, node.get_clock()
        self._faults = faults or PartFaults()
        self._publishers: dict[str, Any] = {}
        self._relay, self._calibration = CameraInfoRelay(), None
        self._flagged_ns: int | None = None
        kinds = {**dict.fromkeys((*PICTURES, 'flagged'), Image), OVERLAY_JPEG: CompressedImage,
                 'camera_info': CameraInfo}
        try:
            for name, kind in kinds.items():
                self._publishers[name] = node.create_publisher(
                    kind, output_topic(name, camera), topics.PICTURE_QOS,
                    qos_overriding_options=topics.overridable())
            # Best effort matches every camera.
            self._calibration = node.create_subscription(
                CameraInfo, topics.camera_info_topic(node, camera), self._relay.take,
                topics.camera_qos('best_effort'))
        except BaseException:
            self.close()  # else the publishers made so far would stay on the node
            raise
        self.clear_counts()

    def publish(self, header: Header, view: FrameView) -> None:
        """Render and publish the pictures that have subscribers, under the image's own header."""
        for name in self._publishers:
            if name != 'flagged':
                self._publish(name, partial(self._message, name, header, view))

    def _message(self, name: str, header: Header, view: FrameView) -> Any:
        if name == 'camera_info':
            return self._relay.fit(header, *view.size)
        if name == OVERLAY_JPEG:
            return jpeg_to_msg(header, view.overlay_jpeg)
        encoding, make = PICTURES[name]
        return image_to_msg(header, make(view), encoding)

    def publish_flagged(self, make: Callable[[], Image], min_interval_s: float) -> None:
        """
        Republish an image that is worth a label, at a limited rate by the node's clock.

        A clock that goes back, as when a bag starts again, begins a new interval.
        """
        time_ns, before_ns = now_ns(self._clock), self._flagged_ns
        if before_ns is not None and 0 <= time_ns - before_ns < min_interval_s * 1e9:
            return
        if self._publish('flagged', make):
            self._flagged_ns = time_ns

    def _publish(self, name: str, make: Callable[[], Any]) -> bool:
        """Make and publish a message, if it has subscribers; return whether it was published."""
        with self._faults.alone(name):
            if self._is_wanted(name) and (msg := make()) is not None:
                self._publishers[name].publish(msg)
                self.counts[name] += 1
                return True
        return False

    @property
    def are_watched(self) -> bool:
        """Return whether any picture of a judged frame has a subscriber."""
        return any(map(self._is_wanted, self._publishers))

    def _is_wanted(self, name: str) -> bool:
        return bool(self._publishers and self._publishers[name].get_subscription_count())

    def clear_counts(self) -> None:
        """Reset the counts."""
        self.counts = dict.fromkeys(self._publishers, 0)

    def close(self) -> None:
        """Destroy the publishers and the subscription."""
        if self._calibration is not None:
            self._node.destroy_subscription(self._calibration)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers = {}
