# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is done with each frame: decode, look at stamp and pixels, process, judge; or refuse.

The node, `replay` and `score` share this loop, so that the same image gets the same verdict in
all three, and so does an image that cannot be used. It depends on neither messages nor files: the
caller passes a function that decodes the frame, and gets the outcome. The judge is the gate of the
pipeline, or in the node the owner of the verdict, which publishes in the same step.

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
    What came of a frame.

    `result` is what was measured, with the verdict, and None if the frame could not be used;
    `image_bgr` the decoded image; `thresholds` are those that it was judged by; `doubt` says why
    its stamp or pixels make it unusable although it was measured, else it is empty.
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


# Asked when the verdict is reached: why the frame is unusable by then; empty if it is not.
Doubt = Callable[[], str]


class Judge(Protocol):
    """Decides about frames; returns None once it has stopped."""

    def begin(self) -> Epoch | None:
        """Return what the next frame is measured by."""
        ...

    def judge(
        self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any
    ) -> Verdict | None:
        """Return the verdict about a measured frame; a fault if there is a doubt about it."""
        ...

    def refuse(self, reason: str, about: Any, kind: str) -> Verdict | None:
        """Return the verdict, of a kind, about a frame that cannot be used."""
        ...


class PlainJudge:
    """Judge by the gate of a pipeline, and publish nothing."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def begin(self) -> Epoch:
        """Return what is in epoch."""
        return self._pipeline.begin()

    def judge(self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any) -> Verdict:
        """Let the gate judge, or the flag fall."""
        if reason := doubt():
            return self._pipeline.fault(reason)
        return self._pipeline.judge(epoch, result)

    def refuse(self, reason: str, about: Any, kind: str) -> Verdict:
        """Let the flag fall."""
        return self._pipeline.fault(reason, kind)


class PhotographJudge(PlainJudge):
    """
    Judge photographs, each by itself: confident is one whose gated scores are within their limits.

    Neither the photographs before it nor a hold count, which are for the stream of a camera. One
    that looks damaged is not confident, and no fault of a camera.
    """

    def judge(self, epoch: Epoch, result: FrameResult, doubt: Doubt, about: Any) -> Verdict:
        """Look at what the gate says of the scores, and not at how its flag stands."""
        verdict = super().judge(epoch, result, lambda: '', about)
        if reason := doubt():
            # Without what to do about a camera.
            return replace(verdict, is_confident=False, kind='uncertain',
                           reasons=(reason.rpartition(': ')[0] or reason,))
        if verdict.kind == 'recovering' and verdict.score_ratio <= 1:
            return replace(verdict, is_confident=True, kind='confident', reasons=WITHIN)
        if verdict.is_confident and verdict.reasons != WITHIN:
            return replace(verdict, is_confident=False, kind='uncertain')
        return verdict


class FrameLoop:
    """
    Take the frames of one camera, one after the other.

    The `judge` decides and, in the node, publishes; it is the pipeline's gate if it is left out.
    The `guard` of this camera looks at stamps and pixels. With `measures_damaged` an image that
    looks damaged is measured too, and its damage is the doubt about it.
    """

    def __init__(
        self, pipeline: Pipeline, judge: Judge | None = None, guard: FrameGuard | None = None,
        *, measures_damaged: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self._judge, self._guard = judge or PlainJudge(pipeline), guard
        self._measures_damaged = measures_damaged

    def take(
        self, read: Callable[[], ImageU8], stamp_ns: int, about: Any = None,
        clock_ns: Callable[[], int] | None = None,
    ) -> Outcome | None:
        """
        Take one frame; whatever is wrong with it becomes a verdict.

        Errors that are not the package's own are bugs and pass through: a tool ends with them, the
        node publishes a fault and goes on.

        Parameters
        ----------
        read : callable
            Decodes the image, BGR; an UncertaintySegError is a fault of the frame.
        stamp_ns : int
            Its stamp.
        about : object, optional
            Handed to the judge: the header to publish under.
        clock_ns : callable, optional
            The time that its stamp is compared with, asked when the frame is taken and again when
            it is judged. Without it, as for a folder of pictures, no guard looks at the frame.

        Returns
        -------
        Outcome or None
            None if the judge decides about no frame any more.

        """
        epoch = self._judge.begin()
        if epoch is None:
            return None
        guard = self._guard if clock_ns is not None else None
        reason, now_ns = '', clock_ns or (lambda: stamp_ns)
        try:
            # The stamp first: a frame whose image cannot be read came all the same.
            if guard is not None:
                reason = guard.stamp_fault(stamp_ns, now_ns())
            image = read()
            if guard is not None:
                pixels = guard.pixel_fault(image, self.pipeline.ignore)
                reason = reason or pixels
                if guard.is_unproven and epoch.settings.gate.rise_frames == 1:
                    reason = reason or UNPROVEN
            # A suspicion: the stream is sound, and a scene may look so. Nobody has to stop.
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
        """Let the flag fall for a frame that cannot be used, for a reason in words; see `take`."""
        verdict = self._judge.refuse(reason, about, kind)
        return None if verdict is None else Outcome(verdict)
