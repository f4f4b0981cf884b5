# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Runs one image message through the frame loop, and passes on the result after the verdict.

The worker thread judges the frame, publishes the verdict and offers the frame to the log. A
failure before the verdict publishes a false flag with the reason. A separate thread renders the
pictures of the newest judged frame, if they have subscribers, so that a slow or failing picture
delays no verdict. A failure after the verdict (picture, log, count) is counted for its part and
does not change the flag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import logging
import math
import time

from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.conversions import AnyImage, as_image, image_from_msg
from uncertainty_seg.ros.frame_log_link import message_frame
from uncertainty_seg.ros.health import FrameStatistics, PartFaults
from uncertainty_seg.ros.publishers import PicturePublishers
from uncertainty_seg.ros.verdict_owner import Activation
from uncertainty_seg.storage.frame_log.log import FrameLog

_log = logging.getLogger(__name__)
# Shortest time between two frames on `~/flagged` while nothing is logged.
FLAGGED_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Arrival:
    """An image message that waits for inference, and its stamp (the camera's or of receipt)."""

    msg: AnyImage
    stamp_ns: int


@dataclass(frozen=True)
class JudgedFrame:
    """A frame whose verdict is published: message, pictures, and whether it is worth a label."""

    msg: AnyImage
    view: FrameView
    is_flagged: bool


@dataclass(frozen=True)
class Outputs:
    """The receivers of a frame's outcome, apart from its verdict."""

    pictures: PicturePublishers
    statistics: FrameStatistics
    log: FrameLog | None = None
    camera: str = ''
    faults: PartFaults = field(default_factory=PartFaults)


class FrameProcessor:
    """
    Handle frames one after the other.

    The activation judges a frame and publishes the verdict; `outputs` receive the rest.
    `settings` returns the current settings, stamps are compared with `clock_ns`, and `show` takes
    a judged frame for rendering, without blocking.
    """

    def __init__(
        self, activation: Activation, outputs: Outputs, settings: Callable[[], Settings],
        clock_ns: Callable[[], int], show: Callable[[JudgedFrame], None],
    ) -> None:
        self._activation, self._outputs, self._settings = activation, outputs, settings
        self._pipeline, self._clock_ns, self._show = activation.pipeline, clock_ns, show
        self._loop = FrameLoop(activation.pipeline, activation, FrameGuard(settings()))
        self._kind = 'unknown'
        self._busy_since_s = math.nan

    @property
    def busy_s(self) -> float:
        """Return how long the current frame has been in work, in seconds; 0 without one."""
        since_s = self._busy_since_s
        return 0.0 if math.isnan(since_s) else time.monotonic() - since_s

    def __call__(self, arrival: Arrival, waited_s: float = 0.0) -> None:
        """Process one frame that waited `waited_s` seconds; no fault of a frame raises."""
        self._busy_since_s = time.monotonic()
        try:
            self._handle(arrival, time.perf_counter() - waited_s)
        except Exception as err:  # a bug must neither end the thread nor leave the flag true
            _log.exception('a frame could not be processed')
            self._refuse(arrival.msg, f'internal error {type(err).__name__}: {err}')
        finally:
            self._busy_since_s = math.nan

    def _handle(self, arrival: Arrival, came_s: float) -> None:
        msg = arrival.msg
        waited_ms = (time.perf_counter() - came_s) * 1e3
        alone = self._outputs.faults.alone
        with alone('statistics'):
            if self._activation.is_late():
                self._outputs.statistics.over_since_s = None  # frames before the gap do not count
        outcome = self._loop.take(
            lambda: decode(image_from_msg(msg), self._settings().decode_limits),
            arrival.stamp_ns, msg.header, self._clock_ns)
        to_flag_ms = (time.perf_counter() - came_s) * 1e3
        with alone('statistics'):
            self._note(outcome)
        if outcome is None or outcome.result is None:
            return
        with alone('statistics'):
            self._outputs.statistics.add_latency(to_flag_ms, self._settings().budget_ms)
        with alone('statistics'):
            self._outputs.statistics.add_frame({
                'wait': waited_ms, **outcome.result.timings_ms, 'to_flag': to_flag_ms,
            }, outcome.result.age_s)
        with alone('pictures'):
            self._hand_on(msg, outcome)
        with alone('frame_log'):
            self._log(msg, outcome)

    def _refuse(self, msg: AnyImage, reason: str) -> None:
        try:
            self._note(self._loop.refuse(reason, msg.header))
        except Exception:  # no verdict was published: the flag falls once it is stale
            _log.exception('the fault of a frame could not be published')

    def _note(self, outcome: Outcome | None) -> None:
        """Count a fault, and log a verdict of another kind than the last."""
        if outcome is None:
            return
        verdict, statistics = outcome.verdict, self._outputs.statistics
        reasons = '; '.join(verdict.reasons)
        if verdict.kind != 'fault' and outcome.result is not None:
            statistics.is_faulty = False
            if verdict.kind != self._kind:
                _log.info('%s, was %s: %s', verdict.kind, self._kind, reasons)
        elif statistics.add_fault(reasons):
            _log.warning('not confident: %s', reasons)
        self._kind = verdict.kind

    def _hand_on(self, msg: AnyImage, outcome: Outcome) -> None:
        if not self._outputs.pictures.are_watched:
            return
        assert outcome.image_bgr is not None and outcome.result is not None
        view = FrameView(outcome.image_bgr, outcome.result, self._pipeline.card,
                         self._settings(), self._pipeline.calibrated)
        # With a log, `~/flagged` carries the logged frames instead.
        is_flagged = self._outputs.log is None and outcome.verdict.is_worth_a_label \
            and not outcome.doubt
        self._show(JudgedFrame(msg, view, is_flagged))

    def _log(self, msg: AnyImage, outcome: Outcome) -> None:
        outputs = self._outputs
        if outputs.log is not None:
            assert outcome.image_bgr is not None and outcome.result is not None
            outputs.log.offer(message_frame(
                outputs.camera, msg, outcome.image_bgr, outcome.result,
                outcome.thresholds, self._settings().map, bool(outcome.doubt)))


def show_frame(
    outputs: Outputs, settings: Callable[[], Settings], frame: JudgedFrame, waited_s: float = 0.0
) -> None:
    """Render and publish the pictures of a judged frame that have subscribers."""
    start_s, pictures = time.perf_counter(), outputs.pictures
    with outputs.faults.alone('pictures'):
        pictures.publish(frame.msg.header, frame.view)
    with outputs.faults.alone('flagged'):
        if frame.is_flagged:
            pictures.publish_flagged(
                lambda: as_image(frame.msg, settings().decode_limits), FLAGGED_INTERVAL_S)
    with outputs.faults.alone('statistics'):
        outputs.statistics.add_timings({'pictures': (time.perf_counter() - start_s) * 1e3})
