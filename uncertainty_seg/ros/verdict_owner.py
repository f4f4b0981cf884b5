# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The only owner of a camera's verdict: its gate, the time since its last verdict, its publication.

The worker judges frames; the executor's thread calls for faults, settings, resets, the staleness
timer and the end of the subscription. Each is one method here, which holds the lock from its
decision to its last published message, so no event can make a verdict untrue between decision and
publication. No other class locks anything about the verdict.

Inference runs without the lock. A frame begins in an epoch of the pipeline, which every such event
ends; a frame that is ready in another epoch is published as not confident, with the event as the
reason, and does not count as a fault itself.

A process can be paused at any instruction: the time of a verdict is noted before it is published,
and checked again after a true flag. If the flag was published late, a false one follows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import logging
import math
import threading

from std_msgs.msg import Header

from uncertainty_seg.core.frame_loop import Doubt
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.pipeline import Epoch, FrameResult, Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.ros.node_life import steady_s
from uncertainty_seg.ros.publishers import VerdictPublishers
from uncertainty_seg.ros.rivals import WITHHELD

_log = logging.getLogger(__name__)


class VerdictOwner:
    """
    Decide the flag of one camera, and publish each decision in the same step.

    Its clock is steady and not the node's. With `use_sim_time` the node's clock stands still
    while a bag is paused or its player has died, and the flag would stay true. The price is that
    a bag played so slowly that frames are further apart than the timeout is never confident.

    No other object uses its publishers. The flag falls after `timeout_s` without a frame, or
    without a verdict about one. `veto` returns why no flag may be true now, empty if one may.
    """

    def __init__(
        self, publishers: VerdictPublishers, timeout_s: float, veto: Callable[[], str] = str,
        clock: Callable[[], float] = steady_s,
    ) -> None:
        self._publishers, self._veto, self._clock = publishers, veto, clock
        self._lock = threading.RLock()
        self._pipeline: Pipeline | None = None
        self._activation: Activation | None = None
        self.timeout_s = timeout_s
        # When the newest frame arrived, and when the last verdict about a frame was reached.
        self._arrived_s = self._judged_s = clock()
        # The reason repeated with a false flag: why it fell, if a frame was not the cause.
        self.why_down = ''

    # --- called by the worker, through its activation ------------------------------------------

    def begin(self, activation: Activation) -> Epoch | None:
        """Return the epoch of the next frame; None once the activation has ended."""
        with self._lock:
            if activation is not self._activation:
                return None
            if self.is_stale():
                # The timer may have been late: the flag falls first, then the frame is begun.
                verdict = activation.pipeline.fault('frames had stopped')
                if self._publishers.is_confident:
                    self._publishers.publish(verdict, activation.pipeline.thresholds)
                self._judged_s = self._clock()
            return activation.pipeline.begin()

    def judge(
        self, activation: Activation, epoch: Epoch, result: FrameResult, doubt: Doubt,
        about: Header,
    ) -> Verdict | None:
        """Judge a measured frame and publish; None once the activation has ended."""
        with self._lock:
            if activation is not self._activation:
                return None
            if self.is_stale():
                verdict = activation.pipeline.fault(
                    f'no verdict for {self.timeout_s:g} s: the frame or its result was too late')
            elif reason := doubt():
                verdict = activation.pipeline.fault(reason)
            else:
                verdict = activation.pipeline.judge(epoch, result)
            if verdict.is_confident and (veto := self._veto()):
                return self._withhold(activation, veto, verdict.score_ratio, about, result)
            verdict_s = self._clock()
            self._answer(activation, verdict, about, result)
            if verdict.is_confident and (
                    doubt() or self._clock() - verdict_s >= self.timeout_s):
                self.fall('the process was delayed while it published a verdict')
                verdict = activation.pipeline.verdict
            return verdict

    def _withhold(
        self, activation: Activation, veto: str, score_ratio: float, about: Header,
        result: FrameResult,
    ) -> Verdict:
        """Publish false for a good frame; it keeps its score ratio, and is not worth a label."""
        verdict = activation.pipeline.fault(veto)
        if veto == WITHHELD:  # not a fault: every start begins this way
            verdict = replace(verdict, kind='recovering')
        self._answer(activation, verdict, about, result)
        return replace(verdict, score_ratio=score_ratio)

    def refuse(
        self, activation: Activation, reason: str, about: Header, kind: str
    ) -> Verdict | None:
        """Publish that a frame could not be used; None once the activation has ended."""
        with self._lock:
            if activation is not self._activation:
                return None
            verdict = activation.pipeline.fault(reason, kind)
            self._answer(activation, verdict, about, None)
            return verdict

    def _answer(
        self, activation: Activation, verdict: Verdict, header: Header, result: FrameResult | None
    ) -> None:
        self._judged_s = self._clock()
        try:
            self._publishers.publish(verdict, activation.pipeline.thresholds, header, result)
        except BaseException:
            self._judged_s = -math.inf  # stale, so that the timer tries again to publish false
            raise

    # --- called by the executor's thread ---------------------------------------------------------

    def note_arrival(self) -> None:
        """Record the arrival of a frame."""
        self._arrived_s = self._clock()

    def take_over(self, pipeline: Pipeline | None) -> None:
        """Judge by the gate of a pipeline from now on; None releases the last one."""
        with self._lock:
            self.stop('the model is released')
            self._pipeline = pipeline
            self._publishers.weakened_by = pipeline.weakened_by if pipeline is not None else ()

    def start(self) -> Activation:
        """Begin an activation; reset the gate and the timeout."""
        with self._lock:
            assert self._pipeline is not None
            self._pipeline.fault('the node was just activated')
            self._arrived_s = self._judged_s = self._clock()
            self._activation = Activation(self, self._pipeline)
            return self._activation

    def stop(self, reason: str) -> None:
        """End the activation: the flag falls, and none of its frames is published any more."""
        with self._lock:
            if self._activation is not None:
                self._activation = None
                self.fall(reason)

    def fall(self, reason: str) -> None:
        """Publish the flag as false, and reset the gate."""
        with self._lock:
            self.why_down = reason
            self._publish_fault(reason)

    def _publish_fault(self, reason: str) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            self._publishers.publish_fault(reason)
        else:  # thresholds and promise stay in force
            self._publishers.publish(pipeline.fault(reason), pipeline.thresholds)

    def reconfigure(self, settings: Settings) -> None:
        """
        Apply live settings; the flag falls if they change its meaning.

        Raises ConfigError, and changes nothing, if the gate refuses them.
        """
        with self._lock:
            if self._pipeline is not None:
                has_changed = self._pipeline.reconfigure(settings)
                self._publishers.weakened_by = self._pipeline.weakened_by
                if has_changed and self._activation is not None:
                    self.fall(self._pipeline.cause)
            if settings.stale_timeout_s != self.timeout_s:
                if self._pipeline is not None:
                    self._pipeline.restart()
                self._publish_fault('the deadline was changed')
                self._publishers.promise(settings.stale_timeout_s)
                self.timeout_s = settings.stale_timeout_s

    def reset(self) -> None:
        """Reset the gate."""
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.restart('the node was reset')
            if self._activation is not None:
                self.fall('the node was reset')

    def tick(self, why_stale: Callable[[], str]) -> None:
        """Publish false if the flag is vetoed or stale (`why_stale`), and repeat a false flag."""
        with self._lock:
            if self._activation is not None:
                veto = self._veto() if self._publishers.is_confident else ''
                if not veto and not self.is_stale():
                    return
                self.why_down = veto or why_stale()
            was_confident = self._publishers.is_confident
            if was_confident:
                _log.warning('not confident: %s', self.why_down)
            # Repeated for subscribers that join late, and to keep the deadline.
            if was_confident or self._publishers.silence_s() >= self.timeout_s / 2:
                self.fall(self.why_down)

    # --- state, for any thread -------------------------------------------------------------------

    @property
    def is_confident(self) -> bool:
        """Return the flag as it was published last."""
        return self._publishers.is_confident

    def silence_s(self) -> float:
        """Return the seconds since the newest frame arrived."""
        return self._clock() - self._arrived_s

    def unjudged_s(self) -> float:
        """Return the seconds since the last verdict about a frame."""
        return self._clock() - self._judged_s

    def is_stale(self) -> bool:
        """Return whether the newest frame, or the last verdict about one, is too long ago."""
        return self._clock() - min(self._arrived_s, self._judged_s) >= self.timeout_s


class Activation:
    """
    The frames from one activation to the next deactivation; the judge of their frame loop.

    An engine that hangs may return long after the node was activated again: its frame belongs to
    an activation that has ended, and is not published.
    """

    def __init__(self, owner: VerdictOwner, pipeline: Pipeline) -> None:
        self._owner, self.pipeline = owner, pipeline

    def begin(self) -> Epoch | None:
        """See `VerdictOwner.begin`."""
        return self._owner.begin(self)

    def judge(
        self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Header
    ) -> Verdict | None:
        """See `VerdictOwner.judge`."""
        return self._owner.judge(self, epoch, result, doubt, about)

    def refuse(self, reason: str, about: Header, kind: str) -> Verdict | None:
        """See `VerdictOwner.refuse`."""
        return self._owner.refuse(self, reason, about, kind)

    def is_late(self) -> bool:
        """Return whether frames had stopped before the one that is about to begin."""
        return self._owner.is_stale()
