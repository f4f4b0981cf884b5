# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is done with each frame: decode, process, judge; or refuse, with the reason.

The node, `replay` and `score` share this loop, so that the same image gets the same verdict in
all three, and so does an image that cannot be used. It depends on neither messages nor files: the
caller passes a function that decodes the frame, and gets the outcome. The judge is the gate of the
pipeline, or in the node the owner of the verdict, which publishes in the same step.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.pipeline import Epoch, Pipeline
from uncertainty_seg.errors import UncertaintySegError


@dataclass(frozen=True)
class Outcome:
    """
    What came of a frame.

    Attributes
    ----------
    verdict : Verdict
        The flag and why.
    image_bgr : ndarray of uint8, shape (H, W, 3), or None
        The decoded image.
    result : FrameResult or None
        What was measured, with the verdict; None if the frame could not be used.
    thresholds : mapping of str to float
        Limits that it was judged by.

    """

    verdict: Verdict
    image_bgr: ImageU8 | None = None
    result: FrameResult | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """Return why the frame could not be used, in one line; empty if it could."""
        return '' if self.result else ' '.join('; '.join(self.verdict.reasons).split())


class Judge(Protocol):
    """Decides about frames; returns None once it has stopped."""

    def begin(self) -> Epoch | None:
        """Return what the next frame is measured by."""
        ...

    def judge(self, epoch: Epoch, result: FrameResult, about: Any) -> Verdict | None:
        """Return the verdict about a measured frame."""
        ...

    def refuse(self, reason: str, about: Any) -> Verdict | None:
        """Return the verdict about a frame that cannot be used."""
        ...


class PlainJudge:
    """
    Judge by the gate of a pipeline, and publish nothing.

    Parameters
    ----------
    pipeline : Pipeline
        Its gate.

    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def begin(self) -> Epoch:
        """Return what is in epoch."""
        return self._pipeline.begin()

    def judge(self, epoch: Epoch, result: FrameResult, about: Any) -> Verdict:
        """Let the gate judge."""
        return self._pipeline.judge(epoch, result)

    def refuse(self, reason: str, about: Any) -> Verdict:
        """Let the flag fall."""
        return self._pipeline.fault(reason)


class FrameLoop:
    """
    Take the frames of one camera, one after the other.

    Parameters
    ----------
    pipeline : Pipeline
        Runs the network.
    judge : Judge, optional
        Decides and, in the node, publishes; the pipeline's gate if it is left out.

    """

    def __init__(self, pipeline: Pipeline, judge: Judge | None = None) -> None:
        self.pipeline = pipeline
        self._judge = judge or PlainJudge(pipeline)

    def take(
        self, read: Callable[[], ImageU8], stamp_ns: int, about: Any = None
    ) -> Outcome | None:
        """
        Take one frame; whatever is wrong with it becomes a verdict.

        Errors that are not the package's own are bugs and pass through: a tool ends with them,
        the node publishes a fault and goes on.

        Parameters
        ----------
        read : callable
            Decodes the image, ndarray of uint8, shape (H, W, 3), BGR. An UncertaintySegError is
            a fault of the frame.
        stamp_ns : int
            Its stamp.
        about : object, optional
            Handed to the judge: the header to publish under.

        Returns
        -------
        Outcome or None
            None if the judge decides about no frame any more.

        """
        epoch = self._judge.begin()
        if epoch is None:
            return None
        try:
            image = read()
            result = self.pipeline.measure(image, stamp_ns, epoch)
        except UncertaintySegError as err:
            return self.refuse(str(err), about)
        verdict = self._judge.judge(epoch, result, about)
        if verdict is None:
            return None
        return Outcome(verdict, image, replace(result, verdict=verdict), epoch.thresholds)

    def refuse(self, reason: str, about: Any = None) -> Outcome | None:
        """Let the flag fall for a frame that cannot be used, for a reason in words; see `take`."""
        verdict = self._judge.refuse(reason, about)
        return None if verdict is None else Outcome(verdict)
