# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Takes one image message through the pipeline and publishes what came of it.

Runs in the worker's thread; parameters and transitions reach the gate from the executor's, under
the lock of the verdict's publishers. Whatever goes wrong with a frame ends as a flag that is down,
with the reason; the next frame is a new chance.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import math
import time

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import decode, ImageFile, RawImage
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.ros.conversions import AnyImage, as_image, image_from_msg, stamp_ns
from uncertainty_seg.ros.frame_log_link import message_frame
from uncertainty_seg.ros.health import FrameStatistics
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.watchdog import Watchdog
from uncertainty_seg.storage.frame_log.log import FrameLog

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Where the outcome of a frame goes."""

    verdicts: VerdictPublishers
    pictures: PicturePublishers
    statistics: FrameStatistics
    log: FrameLog | None = None
    camera: str = ''


class FrameProcessor:
    """
    Handle frames one after the other.

    Parameters
    ----------
    pipeline : Pipeline
        Runs and judges the frame.
    outputs : Outputs
        Gets what came of it.
    watchdog : Watchdog
        Is fed with every verdict; if it tripped meanwhile, the verdict comes too late.
    settings : callable
        Returns the settings in force.
    veto : callable, optional
        Returns why no flag may be true now, whatever the frame; empty if it may.

    """

    def __init__(
        self, pipeline: Pipeline, outputs: Outputs, watchdog: Watchdog,
        settings: Callable[[], Settings], veto: Callable[[], str] = str,
    ) -> None:
        self._pipeline, self._outputs = pipeline, outputs
        self._watchdog, self._settings, self._veto = watchdog, settings, veto
        self._is_muted = False
        self._kind = 'unknown'
        self._busy_since_s = math.nan

    @property
    def busy_s(self) -> float:
        """For how long a frame has been in work, in seconds; 0 if none is."""
        since_s = self._busy_since_s
        return 0.0 if math.isnan(since_s) else time.monotonic() - since_s

    def __call__(self, msg: AnyImage, waited_s: float = 0.0) -> None:
        """Process and publish one frame that waited; never raises for a frame."""
        self._busy_since_s = time.monotonic()
        try:
            self._handle(msg, time.perf_counter() - waited_s)
        except Exception as err:  # a fault of ours must not end the thread, nor leave the flag up
            _log.exception('a frame could not be processed')
            self._answer_fault(msg, f'internal error {type(err).__name__}: {err}')
        finally:
            self._busy_since_s = math.nan

    def mute(self) -> None:
        """Publish no verdict from here on, even if an engine comes back from the dead."""
        with self._outputs.verdicts.order:
            self._is_muted = True

    def _handle(self, msg: AnyImage, came_s: float) -> None:
        waited_ms = (time.perf_counter() - came_s) * 1e3
        if self._watchdog.take_trip():
            self._begin_anew()
        try:
            received = image_from_msg(msg)
            image = decode(received)
            result = self._pipeline.process(image, stamp_ns(msg.header))
        except UncertaintySegError as err:
            self._answer(msg, self._fault(str(err)), None)
            return
        if result.verdict.kind == 'fault':
            self._note_fault('; '.join(result.verdict.reasons))
        verdict = self._answer(msg, result.verdict, result)
        if verdict is None:
            return
        to_flag_ms = (time.perf_counter() - came_s) * 1e3
        self._outputs.statistics.add_latency(to_flag_ms, self._settings().budget_ms)
        self._show(msg, image, result, verdict)
        self._log(msg, received, image, result, verdict)
        total_ms = (time.perf_counter() - came_s) * 1e3
        self._outputs.statistics.add_frame({
            'wait': waited_ms, **result.timings_ms, 'to_flag': to_flag_ms, 'total': total_ms})

    def _begin_anew(self) -> None:
        """Let the flag fall, if the timer has not done so; the gate rises from nothing."""
        verdicts = self._outputs.verdicts
        verdict = self._pipeline.fault('frames had stopped')
        with verdicts.order:
            if verdicts.is_confident and not self._is_muted:
                verdicts.publish(verdict, self._pipeline.thresholds)
        self._outputs.statistics.clear_latency()
        self._watchdog.feed()

    def _answer(
        self, msg: AnyImage, verdict: Verdict, result: FrameResult | None
    ) -> Verdict | None:
        """Publish what holds now; None if nothing may be published any more."""
        verdicts = self._outputs.verdicts
        with verdicts.order:
            if self._is_muted:
                return None
            if result is not None and self._watchdog.take_trip():
                limit_s = self._watchdog.timeout_s
                reason = f'no verdict for {limit_s:g} s: the frame came or was computed too late'
                verdict = self._fault(reason)
            elif result is not None and verdict != self._pipeline.verdict:
                # Of a gate that was replaced meanwhile; its limits no longer hold.
                verdict = self._pipeline.fault('the gate was changed while the frame was in work')
            if verdict.is_confident and (veto := self._veto()):
                verdict = self._fault(veto)
            verdicts.publish(verdict, self._pipeline.thresholds, msg.header, result)
            self._watchdog.feed()
        if verdict.kind != 'fault':
            self._outputs.statistics.clear_fault()
        self._log_change(verdict)
        return verdict

    def _answer_fault(self, msg: AnyImage, reason: str) -> None:
        try:
            self._answer(msg, self._fault(reason), None)
        except Exception:  # the watchdog is not fed: the flag falls when its time is over
            _log.exception('the fault of a frame could not be published')

    def _fault(self, reason: str) -> Verdict:
        self._note_fault(reason)
        return self._pipeline.fault(reason)

    def _note_fault(self, reason: str) -> None:
        if self._outputs.statistics.add_fault(reason):
            _log.warning('not confident: %s', reason)

    def _show(
        self, msg: AnyImage, image: ImageU8, result: FrameResult, verdict: Verdict
    ) -> None:
        pipeline, settings = self._pipeline, self._settings()
        view = FrameView(
            image, result, verdict, pipeline.card, settings, pipeline.calibrated
        )
        self._outputs.pictures.publish(msg.header, view)
        is_bad = not verdict.is_confident and verdict.kind != 'recovering'
        if is_bad and self._outputs.log is None and self._outputs.pictures.wants_flagged:
            # While the gate only waits for more good frames, the frame itself needs no label.
            self._outputs.pictures.publish_flagged(
                as_image(msg), settings.flagged_min_interval_s)

    def _log(
        self, msg: AnyImage, received: RawImage | ImageFile, image: ImageU8, result: FrameResult,
        verdict: Verdict,
    ) -> None:
        outputs = self._outputs
        if outputs.log is not None:
            outputs.log.offer(message_frame(
                outputs.camera, msg, received, image, result, verdict,
                self._pipeline.thresholds, self._settings().map))

    def _log_change(self, verdict: Verdict) -> None:
        if verdict.kind != self._kind and verdict.kind != 'fault':
            _log.info('%s, was %s: %s', verdict.kind, self._kind, '; '.join(verdict.reasons))
        self._kind = verdict.kind
