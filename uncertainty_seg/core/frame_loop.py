# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Handle each frame: decode it, check stamp and pixels, measure and judge it, or refuse it.

The node, `replay` and `score` share this loop, so that an image gets the same verdict in all
three, usable or not. It depends on neither messages nor files: the caller passes a function that
decodes the frame, and receives the outcome. The judge is the gate of the pipeline or, in the node,
the owner of the verdict, which also publishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
import math
from typing import Any, Protocol

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_guard import FrameGuard, UNPROVEN
from uncertainty_seg.core.gate import Verdict, WITHIN
from uncertainty_seg.core.pipeline import Epoch, FrameResult, Pipeline
from uncertainty_seg.errors import UncertaintySegError


@dataclass(frozen=True)
class Outcome:
    """
    The result of one frame.

    `result` has the measurements and the verdict, None if the frame was refused; `image_bgr` is
    the decoded image; `thresholds` are those it was judged by. `doubt` says why a measured frame
    is unusable by its stamp or pixels; otherwise it is empty.
    """

    verdict: Verdict
    image_bgr: ImageU8 | None = None
    result: FrameResult | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    doubt: str = ''

    @property
    def problem(self) -> str:
        """Return why the frame could not be used, in one line; empty if it could."""
        if self.result is not None and not self.doubt:
            return ''
        return ' '.join('; '.join(self.verdict.reasons).split())


# Called when the frame is judged: returns why it is unusable by then; empty if it is not.
Doubt = Callable[[], str]


class Judge(Protocol):
    """Judges frames; every method returns None once the judge has stopped."""

    def begin(self) -> Epoch | None:
        """Return the epoch that the next frame is measured in."""
        ...

    def judge(
        self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any
    ) -> Verdict | None:
        """Return the verdict on a measured frame; a fault if `doubt` returns a reason."""
        ...

    def refuse(self, reason: str, about: Any, kind: str) -> Verdict | None:
        """Return the verdict, of this kind, on a frame that cannot be used."""
        ...


class PlainJudge:
    """Judge by the gate of a pipeline, and publish nothing."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def begin(self) -> Epoch:
        """Return the current epoch of the pipeline."""
        return self._pipeline.begin()

    def judge(self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any) -> Verdict:
        """Judge by the gate, or make the flag fall if `doubt` returns a reason."""
        if reason := doubt():
            return self._pipeline.fault(reason)
        return self._pipeline.judge(epoch, result)

    def refuse(self, reason: str, about: Any, kind: str) -> Verdict:
        """Make the flag fall."""
        return self._pipeline.fault(reason, kind)


class PhotographJudge(PlainJudge):
    """
    Judge each photograph by itself: confident if its gated scores are within their thresholds.

    Earlier photographs and the hold have no effect; they are for the stream of a camera. A
    photograph that looks damaged is uncertain, not a camera fault.
    """

    def judge(self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any) -> Verdict:
        """Judge the scores of this frame only, whatever the state of the flag."""
        verdict = super().judge(epoch, result, lambda: '', about)
        if reason := doubt():
            # Without the advice on the camera, which follows the last colon.
            return replace(verdict, is_confident=False, kind='uncertain',
                           reasons=(reason.rpartition(': ')[0] or reason,))
        if verdict.kind == 'recovering' and verdict.score_ratio <= 1:
            return replace(verdict, is_confident=True, kind='confident', reasons=WITHIN)
        if verdict.is_confident and verdict.reasons != WITHIN:
            return replace(verdict, is_confident=False, kind='uncertain')
        return verdict


class FrameLoop:
    """
    Process the frames of one camera, one after the other.

    The `judge` decides and, in the node, publishes; by default it is the pipeline's gate. The
    `guard` of this camera checks stamps and pixels. With `measures_damaged`, an image that looks
    damaged is measured as well, and the damage is its `doubt`. The flag falls after `timeout_s`
    without a frame, by `clock_ns` of `take`; in the node, its judge sees to that.
    """

    def __init__(
        self, pipeline: Pipeline, judge: Judge | None = None, guard: FrameGuard | None = None,
        *, measures_damaged: bool = False, timeout_s: float = math.inf,
    ) -> None:
        self.pipeline = pipeline
        self._timeout_s, self._taken_ns = timeout_s, 0
        self._judge, self._guard = judge or PlainJudge(pipeline), guard
        self._measures_damaged = measures_damaged

    def take(
        self, read: Callable[[], ImageU8], stamp_ns: int, about: Any = None,
        clock_ns: Callable[[], int] | None = None,
    ) -> Outcome | None:
        """
        Process one frame; anything wrong with it results in a verdict, None if the judge stopped.

        `read` decodes the image, BGR; an UncertaintySegError is a fault of the frame. Other
        exceptions are bugs and pass through: a tool ends, the node publishes a fault and
        continues. `about` is passed to the judge: the header to publish under. `clock_ns` returns
        the time to compare the stamp with; it is called when the frame is taken and again when it
        is judged. Without it, as for a folder of pictures, the guard is not used.
        """
        if clock_ns is not None:
            before_ns, self._taken_ns = self._taken_ns, clock_ns()
            if (self._taken_ns - before_ns) / 1e9 >= self._timeout_s:
                self._judge.refuse('frames had stopped', about, 'fault')
        epoch = self._judge.begin()
        if epoch is None:
            return None
        guard = self._guard if clock_ns is not None else None
        reason, now_ns = '', clock_ns or (lambda: stamp_ns)
        try:
            # The stamp first: the guard must record it even if the image cannot be read.
            if guard is not None:
                reason = guard.stamp_fault(stamp_ns, self._taken_ns)
            image = read()
            if guard is not None:
                pixels = guard.pixel_fault(image, self.pipeline.ignore)
                reason = reason or pixels
                if guard.is_unproven and epoch.settings.gate.rise_frames == 1:
                    reason = reason or UNPROVEN
            # Damage alone is no fault: the stream works, and a scene may happen to look like this.
            problem, kind = self.pipeline.damage(image), 'fault' if reason else 'uncertain'
            if problem and not self._measures_damaged:
                return self.refuse(reason or problem, about, kind)
            result = self.pipeline.measure(image, stamp_ns, epoch)
        except UncertaintySegError as err:
            return self.refuse(str(err), about)

        def doubt() -> str:
            return reason or problem or (guard.age_fault(stamp_ns, now_ns()) if guard else '')

        age_s = math.nan if clock_ns is None else (now_ns() - stamp_ns) / 1e9
        result = replace(result, age_s=age_s)
        if problem and not isinstance(self._judge, PhotographJudge):
            verdict = self._judge.refuse(reason or problem, about, kind)
        else:
            verdict = self._judge.judge(epoch, result, doubt, about)
        if verdict is None:
            return None
        return Outcome(verdict, image, replace(result, verdict=verdict), epoch.thresholds,
                       '' if verdict.is_confident else doubt())

    def refuse(self, reason: str, about: Any = None, kind: str = 'fault') -> Outcome | None:
        """Make the flag fall for an unusable frame, for a reason in words; None as in `take`."""
        verdict = self._judge.refuse(reason, about, kind)
        return None if verdict is None else Outcome(verdict)
