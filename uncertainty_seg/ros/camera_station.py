# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Everything that belongs to one camera: its topics, its verdict, its health.

Cameras share only the node, the network and the worker, so a fault of one does not affect another.
The verdict's topics exist as long as the node, the image topics from configure to cleanup, the
subscription from activate to deactivate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
import logging
import math
from typing import Any

from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool

from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import (
    AUTO_RELIABILITY,
    RELIABILITIES,
    require_no_history,
    Settings,
)
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros import topics
from uncertainty_seg.ros.conversions import AnyImage, as_image, stamp_ns
from uncertainty_seg.ros.frame_log_link import MessageFrame
from uncertainty_seg.ros.frame_processor import (
    Arrival,
    FrameProcessor,
    JudgedFrame,
    Outputs,
    show_frame,
)
from uncertainty_seg.ros.frame_scheduler import FrameScheduler, Slot
from uncertainty_seg.ros.health import FrameStatistics, Health, NodeHealth, PartFaults
from uncertainty_seg.ros.node_life import now_ns, steady_s
from uncertainty_seg.ros.publishers import PicturePublishers, publish_labels, VerdictPublishers
from uncertainty_seg.ros.rivals import CameraRivals, RivalWatch
from uncertainty_seg.ros.topics import WatchedTopicsNode
from uncertainty_seg.ros.verdict_owner import VerdictOwner
from uncertainty_seg.storage.frame_log.log import FrameLog

SILENCE_HINT_S = 5.0
# Report a loss from this many images on; each check keeps this share of the earlier count.
MANY_LOST, LOSS_KEPT = 3, 0.8
_log = logging.getLogger(__name__)


def profile_fault(profile: QoSProfile, settings: Settings) -> str:
    """Return why a profile is refused for images (old ones could raise the flag), else empty."""
    for name, accepted in (('history', ('keep_last',)), ('reliability', RELIABILITIES),
                           ('durability', ('volatile', 'transient_local'))):
        value = getattr(profile, name).name.lower()
        if value not in accepted:
            return f'{name} is {value}, expected {" or ".join(accepted)}'
    try:
        require_no_history(settings, profile.depth, profile.durability.name == 'TRANSIENT_LOCAL')
    except ConfigError as err:
        return str(err)
    return ''


class CameraStation:
    """
    One camera of a node: its index in the settings, and its name, empty for a single camera.

    `settings` returns the current settings; `doubt` returns why no flag of the node may be true,
    empty if a flag may. `owner` decides the camera's flag, and `verdicts` publishes it.
    """

    def __init__(
        self, node: WatchedTopicsNode, settings: Callable[[], Settings], index: int, name: str,
        doubt: Callable[[], str] = str,
    ) -> None:
        self._node, self._settings = node, settings
        assert node.watch is not None
        self._watch = node.watch
        self._index, self.name = index, name
        timeout_s = settings().stale_timeout_s
        self._faults = PartFaults()
        self.verdicts = VerdictPublishers(
            node, timeout_s, name, settings().stamps, self._faults)
        # No other node may publish on the topics of the flag and of the verdict's numbers.
        self._rivals = tuple(
            RivalWatch(node, str(node.resolve_topic_name(topics.output_topic(topic, name))),
                       lambda: self.verdicts.num_sent, kind=kind)
            for topic, kind in (('confident', Bool), ('verdict', JointState)))
        self.owner = VerdictOwner(
            self.verdicts, timeout_s, lambda: doubt() or self._rival())
        self._statistics = FrameStatistics()
        self._pipeline: Pipeline | None = None
        self._pictures: PicturePublishers | None = None
        self._labels: Any = None
        self._processor: FrameProcessor | None = None
        self._slot: Slot[Arrival] | None = None
        self._shown: Slot[JudgedFrame] | None = None
        self._subscription: Any = None
        self._camera_rivals: CameraRivals | None = None
        self._hint, self._alone_s = '', -math.inf
        self._num_lost, self._lately_lost = 0, 0.0

    @property
    def busy_s(self) -> float:
        """Return how long the camera's current frame is in work, in seconds; 0 without one."""
        processor = self._processor
        return processor.busy_s if processor is not None else 0.0

    @property
    def is_stuck(self) -> bool:
        """Return whether a frame has been in work for at least half the stale timeout."""
        return self.busy_s >= self.owner.timeout_s / 2

    @property
    def topic(self) -> str:
        """Return the image topic after remapping; empty while not subscribed."""
        return str(self._subscription.topic_name) if self._subscription is not None else ''

    def configure(self, pipeline: Pipeline) -> None:
        """Take over the camera's pipeline, and create the image topics."""
        self._pipeline = pipeline
        self.owner.take_over(pipeline)
        self._pictures = PicturePublishers(self._node, self.name, self._faults)
        with self._faults.alone('label_info'):
            self._labels = publish_labels(
                self._node, topics.output_topic('label_info', self.name), pipeline.card)

    def listen(
        self, scheduler: FrameScheduler[Arrival], painter: FrameScheduler[JudgedFrame],
        log: FrameLog | None = None,
    ) -> None:
        """
        Subscribe to the camera; reset the gate and all counts.

        Frames wait for inference in `scheduler`, and judged frames for rendering in `painter`.
        """
        assert self._pipeline is not None and self._pictures is not None
        settings = self._settings()
        self._statistics = FrameStatistics()
        outputs = Outputs(self._pictures, self._statistics, log, self.name, self._faults)
        self._shown = painter.add(partial(show_frame, outputs, self._settings))
        self._processor = FrameProcessor(
            self.owner.start(), outputs, self._settings, self._now_ns, self._shown.put)
        self._slot = scheduler.add(self._processor)
        self._slot.limit(settings.rate_of(self._index))
        self._subscribe(topics.camera_qos(settings.reliability), topics.overridable(
            lambda profile: profile_fault(profile, settings)))
        self._camera_rivals = CameraRivals(self.topic, self._num_senders)

    def _subscribe(
        self, profile: QoSProfile, overriding: QoSOverridingOptions | None = None
    ) -> None:
        transport = self._settings().image_transport
        self._subscription = self._node.create_subscription(
            CompressedImage if transport == 'compressed' else Image,
            topics.image_topic(self._node, transport, self.name), self._on_image, profile,
            qos_overriding_options=overriding)

    def _fit_reliability(self) -> None:
        """Resubscribe if the publishers now in the graph call for another reliability."""
        name = f'qos_overrides.{self.topic}.subscription.reliability'
        if not self.topic or self._settings().reliability != AUTO_RELIABILITY \
                or name in getattr(self._node, '_parameter_overrides', {}):
            return
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        best = topics.best_reliability(publishers, topics.Transport.of_node(self._node))
        profile, policy = self._subscription.qos_profile, topics.camera_qos(best).reliability
        if publishers and profile.reliability != policy:
            profile.reliability = policy
            self._node.destroy_subscription(self._subscription)
            self._subscribe(profile)
            _log.info('%s is subscribed to as %s now', self.topic, best)

    def _num_senders(self) -> int:
        """Count the publishers in the graph whose images can be received."""
        topic, me = self._watch.topics[self.topic, False], self._node.get_fully_qualified_name()
        return sum(info.topic_type == topic.type_name
                   and not topics.conflict_sentences(topic, me, [info])
                   for info in self._node.get_publishers_info_by_topic(self.topic))

    def _now_ns(self) -> int:
        return now_ns(self._node.get_clock())

    def _on_image(self, msg: AnyImage, information: Mapping[str, Any]) -> None:
        if self._camera_rivals is not None:
            with self._faults.alone('rival_watch'):
                self._camera_rivals.hear(information)
        if self._slot is not None:
            self.owner.note_arrival()
            is_of_receipt = self._settings().stamps == 'receipt'
            self._slot.put(Arrival(
                msg, self._now_ns() if is_of_receipt else stamp_ns(msg.header)))

    def publish_kept(self, frame: MessageFrame) -> None:
        """Publish a frame that the log has written; called in the log's thread."""
        pictures, msg = self._pictures, frame.message
        with self._faults.alone('flagged'):
            if pictures is not None and msg is not None:
                pictures.publish_flagged(
                    lambda: as_image(msg, self._settings().decode_limits), 0.0)

    def stop_listening(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._processor = self._camera_rivals = None

    def free(self) -> None:
        """Destroy the image topics, and release the pipeline without closing it."""
        if self._pictures is not None:
            self._pictures.close()
        if self._labels is not None:
            self._node.destroy_publisher(self._labels)
        for rival in self._rivals:
            rival.close()
        self.owner.take_over(None)
        # The slots reference the processor, and through it the model and the log.
        self._pipeline = self._pictures = self._labels = self._slot = self._shown = None

    def require(self, settings: Settings) -> None:
        """Raise ConfigError if settings contradict the profile of the image subscription."""
        if self._subscription is not None and (
                fault := profile_fault(self._subscription.qos_profile, settings)):
            raise ConfigError(f'images cannot be received: {fault}')

    def reconfigure(self, settings: Settings) -> None:
        """Apply live settings; raise ConfigError, and change nothing, if the gate refuses them."""
        self.owner.reconfigure(settings)
        if self._slot is not None:
            self._slot.limit(settings.rate_of(self._index))

    def reset(self) -> None:
        """Reset the gate and all counts."""
        self.owner.reset()
        self._statistics.clear()
        self._faults.clear()
        for part in (self._slot, self._shown, self._pictures):
            if part is not None:
                part.clear_counts()

    def tick(self, holder: str, worker_end: str = '') -> None:
        """Publish false if the flag is stale, and repeat a false flag."""
        self.owner.tick(lambda: self._why_stale(holder, worker_end))

    def check_graph(self) -> None:
        """Check the graph, once a second: why no or few frames arrive, and who else publishes."""
        with self._faults.alone('silence_hint'):
            hint, self._hint = self._hint, ''  # empty if the check fails
            self._hint = self._why_no_message() or self._why_few()
            if self._hint and self._hint not in (hint, *self._watch.reported):
                _log.warning(self._hint)
        with self._faults.alone('camera_reliability'):
            self._fit_reliability()
        with self._faults.alone('rival_watch'):
            for rival in self._all_rivals():
                rival.look()

    def _all_rivals(self) -> list[RivalWatch | CameraRivals]:
        cameras = self._camera_rivals
        return [*self._rivals, *([] if cameras is None else [cameras])]

    def _rival(self) -> str:
        return next((rival.reason for rival in self._all_rivals() if rival.reason), '')

    def health(self, node: NodeHealth) -> Health:
        """Return the health of the camera, whose `ignore_mask` may weaken its own promise."""
        return Health(
            camera=self.name, node=replace(node, pipeline=node.pipeline and self._pipeline),
            is_stale=self._subscription is not None and self.owner.is_stale(),
            is_confident=self.owner.is_confident, why_down=self.owner.why_down, hint=self._hint,
            rival=self._rival(), statistics=self._statistics, counts=self._counts(),
            faults=self._faults,
        )

    def _counts(self) -> dict[str, int]:
        slot = self._slot
        published = self._pictures.counts if self._pictures is not None else {}
        return {
            'frames_received': slot.num_received if slot is not None else 0,
            'frames_dropped': slot.num_dropped if slot is not None else 0,
            'frames_over_rate': slot.num_over_rate if slot is not None else 0,
            'frames_not_shown': self._shown.num_dropped if self._shown is not None else 0,
            'frames_lost_in_transport': self._watch.num_lost.get(self.topic, 0),
            **{f'published.{name}': number for name, number in published.items()},
        }

    def _why_no_message(self) -> str:
        # Judged by messages, not by verdicts: if frames arrive and the worker gives no verdict,
        # the transport is not at fault.
        if self._subscription is None or self._has_company() or \
                self.owner.silence_s() < SILENCE_HINT_S:
            return ''
        return topics.why_silent(self._node, self._watch.topics[self.topic, False],
                                 topics.input_topic('image', self.name))

    def _why_few(self) -> str:
        before, self._num_lost = self._num_lost, self._watch.num_lost.get(self.topic, 0)
        self._lately_lost = LOSS_KEPT * self._lately_lost + self._num_lost - before
        if self._subscription is None or self._lately_lost < MANY_LOST:
            return ''
        return topics.why_lossy(self._node, self.topic)

    def _has_company(self) -> bool:
        """Return whether the first publisher has just appeared and may still begin to publish."""
        now_s = steady_s()
        if not self._node.count_publishers(self.topic):
            self._alone_s = now_s
        return self._alone_s < now_s < self._alone_s + SILENCE_HINT_S

    def _why_stale(self, holder: str, worker_end: str) -> str:
        silence_s, unjudged_s = self.owner.silence_s(), self.owner.unjudged_s()
        if worker_end:
            return f'the worker has ended: {worker_end}'
        if self.is_stuck:
            return f'processing a frame takes too long, no verdict for {unjudged_s:.1f} s'
        if holder:
            return (f'processing a frame of {holder} takes too long, no verdict for '
                    f'{unjudged_s:.1f} s')
        if silence_s < self.owner.timeout_s / 2:
            return f'frames arrive on {self.topic}, but none was judged for {unjudged_s:.1f} s'
        return f'no frame on {self.topic or "image"} for {silence_s:.1f} s'
