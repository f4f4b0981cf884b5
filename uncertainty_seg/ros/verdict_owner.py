# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The one owner of a camera's verdict: its gate, the time since its last verdict, its publication.

The worker judges frames; the executor's thread brings faults, settings, resets, the timer of
staleness and the end of listening. Each is one method here, which holds the one lock from its
question to the last message it publishes, so nothing can make a verdict untrue between the moment
it is reached and the moment it is published. No other class locks anything about the verdict.

The network runs without the lock. A frame is begun under an epoch of the pipeline, which every
such event ends; one that is ready in another epoch is published as not confident, with the event
as the reason, and counts as no fault itself.

A process can be paused at any instruction: the time of a verdict is noted before it is published,
and once a true is out it is looked at again. If it went out late, a false follows at once.

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
    Decide about the flag of one camera, and publish each decision in the same step.

    Its clock is a steady one and not the node's. With `use_sim_time` the node's clock stands
    still while a bag is paused or its player has died, and the flag would stay up. The price is
    that a bag played so slowly that frames are further apart than the timeout is never confident.

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
        # When the newest frame came, and when the last verdict about one was reached.
        self._arrived_s = self._judged_s = clock()
        # What a false flag is repeated with: why it fell, if that was not a frame.
        self.why_down = ''

    # --- called by the worker, through its activation ------------------------------------------

    def begin(self, activation: Activation) -> Epoch | None:
        """Return what the next frame is measured by; None once the activation has ended."""
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
        """Publish false about a good frame; it keeps its score ratio, and is worth no label."""
        verdict = activation.pipeline.fault(veto)
        if veto == WITHHELD:  # no fault, but what each start begins with
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
            self._judged_s = -math.inf  # the timer tries again to let the flag fall
            raise

    # --- called by the executor's thread ---------------------------------------------------------

    def note_arrival(self) -> None:
        """Note that a frame came."""
        self._arrived_s = self._clock()

    def take_over(self, pipeline: Pipeline | None) -> None:
        """Judge by the gate of a pipeline from now on; None to hold on to none."""
        with self._lock:
            self.stop('the model is released')
            self._pipeline = pipeline
            self._publishers.weakened_by = pipeline.weakened_by if pipeline is not None else ()

    def start(self) -> Activation:
        """Begin an activation; the gate and the timeout start from nothing."""
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
        """Publish the flag as false; the gate rises from nothing after."""
        with self._lock:
            self.why_down = reason
            if self._pipeline is not None:
                self._pipeline.fault(reason)
            self._publishers.publish_fault(reason)

    def reconfigure(self, settings: Settings) -> None:
        """
        Take over live settings; the flag falls if they change what it stands for.

        Raises ConfigError, and changes nothing, if the gate cannot have them.
        """
        with self._lock:
            if self._pipeline is not None:
                has_changed = self._pipeline.reconfigure(settings)
                self._publishers.weakened_by = self._pipeline.weakened_by
                if has_changed and self._activation is not None:
                    self.fall(self._pipeline.cause)
            if settings.stale_timeout_s != self.timeout_s:
                if self._pipeline is not None:
                    self._pipeline.restart('the deadline was changed')
                self._publishers.publish_fault('the deadline was changed')
                self._publishers.promise(settings.stale_timeout_s)
                self.timeout_s = settings.stale_timeout_s

    def reset(self) -> None:
        """Start the gate from nothing."""
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.restart('the node was reset')
            if self._activation is not None:
                self.fall('the node was reset')

    def tick(self, why_stale: Callable[[], str]) -> None:
        """Let the flag fall if its time is over, for the reason asked for, and repeat a false."""
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
        """Return the seconds since the newest frame came."""
        return self._clock() - self._arrived_s

    def unjudged_s(self) -> float:
        """Return the seconds since the last verdict about a frame."""
        return self._clock() - self._judged_s

    def is_stale(self) -> bool:
        """Tell whether that, or the last verdict about a frame, is too long ago."""
        return self._clock() - min(self._arrived_s, self._judged_s) >= self.timeout_s


class Activation:
    """
    The frames from one activation to the next deactivation; the judge of their frame loop.

    An engine that hangs may come back when the node has long been activated anew: its frame
    belongs to an activation that has ended, and is not published.
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
        """Tell whether frames had stopped before the one that is about to begin."""
        return self._owner.is_stale()
