# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Takes one image message through the pipeline and publishes what came of it.

Runs in the worker's thread, which alone talks to the gate. Whatever goes wrong with a frame ends
as a flag that is down, with the reason; the next frame is a new chance.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time

from sensor_msgs.msg import Image

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.ros.conversions import image_from_msg, stamp_ns
from uncertainty_seg.ros.frame_statistics import FrameStatistics
from uncertainty_seg.ros.frame_view import FrameView
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.watchdog import Watchdog

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Where the outcome of a frame goes."""

    verdicts: VerdictPublishers
    pictures: PicturePublishers
    statistics: FrameStatistics


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

    """

    def __init__(
        self, pipeline: Pipeline, outputs: Outputs, watchdog: Watchdog,
        settings: Callable[[], Settings],
    ) -> None:
        self._pipeline, self._outputs = pipeline, outputs
        self._watchdog, self._settings = watchdog, settings
        self._lock = threading.Lock()
        self._is_muted = False
        self._kind = 'unknown'
        self.is_busy = False

    def __call__(self, msg: Image) -> None:
        """Process and publish one frame; never raises for a frame."""
        self.is_busy = True
        start_s = time.perf_counter()
        if self._watchdog.take_trip():
            # The timer has let the flag fall; the gate begins its way back from there.
            self._pipeline.fault('frames had stopped')
            self._watchdog.feed()
        image, result, verdict = self._outcome(msg)
        with self._lock:
            if not self._is_muted:
                self._publish(msg, image, result, verdict, start_s)
        self.is_busy = False

    def mute(self) -> None:
        """Publish nothing from here on, even if an engine comes back from the dead."""
        # A frame that is being published right now is waited for; one in the engine is not.
        with self._lock:
            self._is_muted = True

    def _outcome(self, msg: Image) -> tuple[ImageU8 | None, FrameResult | None, Verdict]:
        pipeline = self._pipeline
        image = None
        try:
            image = decode(image_from_msg(msg))
            result = pipeline.process(image, stamp_ns(msg.header))
        except UncertaintySegError as err:
            return image, None, self._fault(str(err))
        except Exception as err:  # a fault of ours must not end the thread without a word
            _log.exception('a frame could not be processed')
            return image, None, self._fault(f'internal error {type(err).__name__}: {err}')
        if self._watchdog.take_trip():
            limit_s = self._watchdog.timeout_s
            reason = f'no verdict for {limit_s:g} s: the frame came or was computed too late'
            return image, result, self._fault(reason)
        if result.verdict.kind == 'fault':
            self._note_fault('; '.join(result.verdict.reasons))
        return image, result, result.verdict

    def _fault(self, reason: str) -> Verdict:
        self._note_fault(reason)
        return self._pipeline.fault(reason)

    def _note_fault(self, reason: str) -> None:
        if self._outputs.statistics.add_fault(reason):
            _log.warning('not confident: %s', reason)

    def _publish(
        self, msg: Image, image: ImageU8 | None, result: FrameResult | None, verdict: Verdict,
        start_s: float,
    ) -> None:
        pipeline, settings = self._pipeline, self._settings()
        self._outputs.verdicts.publish(verdict, pipeline.thresholds, msg.header, result)
        self._watchdog.feed()
        self._log_change(verdict)
        if result is None or image is None:
            return
        view = FrameView(
            image, result, verdict, pipeline.card, settings, pipeline.calibrated
        )
        self._outputs.pictures.publish(msg.header, view)
        if not verdict.is_confident and verdict.kind != 'recovering':
            # While the gate only waits for more good frames, the frame itself needs no label.
            self._outputs.pictures.publish_flagged(msg, settings.flagged_min_interval_s)
        total_ms = (time.perf_counter() - start_s) * 1e3
        self._outputs.statistics.add_frame({**result.timings_ms, 'total': total_ms})

    def _log_change(self, verdict: Verdict) -> None:
        if verdict.kind != self._kind and verdict.kind != 'fault':
            _log.info('%s, was %s: %s', verdict.kind, self._kind, '; '.join(verdict.reasons))
        self._kind = verdict.kind
