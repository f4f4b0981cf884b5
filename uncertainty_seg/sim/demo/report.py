# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The summary of a dive on one screen, and the check that the flag reacted to the events."""

from __future__ import annotations

from collections.abc import Iterator
import math
import statistics

from uncertainty_seg.core.confusion import ConfusionMatrix
from uncertainty_seg.sim.demo.timeline import DemoFrame, FlagEvent, Moment, Timeline

# Events at which the flag must become false at any threshold, and how many of them a dive must
# have. Burial is not among them: the network was trained on sand over a pipe.
MUST_FALL = ('silt_cloud', 'diver', 'wreck')
NUM_MUST_FALL = 2
# A flag that is false most of the time says nothing about the events.
LEAST_PLAIN_SHARE = 0.6
STRIP_WIDTH = 72
STRIP_KEY = '# confident   . not   - recovering   x fault   (blank) not processed'
_MARKS = {'confident': '#', 'uncertain': '.', 'recovering': '-', 'fault': 'x', 'dropped': ' '}


class Accuracy:
    """
    Mean IoU against a dive's ground truth, over all frames and over the confident ones.

    Parameters
    ----------
    num_classes : int
        C.
    ignore_index : int
        Class id of pixels that do not count.

    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self._ignore_index = ignore_index
        self._all = ConfusionMatrix(num_classes)
        self._confident = ConfusionMatrix(num_classes)

    def add(self, frame: DemoFrame) -> None:
        """Count a frame that has both masks."""
        if frame.truth is None or frame.label is None:
            return
        self._all.add(frame.truth, frame.label, self._ignore_index)
        if frame.moment.is_confident:
            self._confident.add(frame.truth, frame.label, self._ignore_index)

    @property
    def mean_iou(self) -> float:
        """Over all processed frames; NaN if there was none."""
        return self._all.mean_iou() if self._all.counts.any() else math.nan

    @property
    def mean_iou_confident(self) -> float:
        """Over the confident frames; NaN if there was none."""
        return self._confident.mean_iou() if self._confident.counts.any() else math.nan


def problems_of(timeline: Timeline) -> list[str]:
    """
    Return sentences that say how the flag did not react to a whole dive as it must.

    There is none if the flag became false at every event of `MUST_FALL`, and true after it.
    """
    found = []
    for event in timeline.events:
        title = f'the {event.title} at {event.start_s:.1f} s'
        if event.name in MUST_FALL:
            if not event.was_up_before:
                found.append(f'The flag was not up before {title}.')
            if math.isinf(event.fell_after_s):
                found.append(f'The flag did not fall at {title}.')
        if math.isfinite(event.fell_after_s) and math.isinf(event.recovered_after_s):
            found.append(f'The flag did not rise again after {title}.')
    # NaN, of a dive without plain inspection, is a problem too.
    if not timeline.plain_share >= LEAST_PLAIN_SHARE:
        found.append(f'The flag was up in {_percent(timeline.plain_share)} of plain inspection, '
                     f'not in {LEAST_PLAIN_SHARE:.0%} or more.')
    if sum(event.name in MUST_FALL for event in timeline.events) < NUM_MUST_FALL:
        found.append('The dive is too short to have a silt cloud and an unknown object.')
    return found


def median_latency_ms(timeline: Timeline) -> float:
    """Return the median time of the pipeline a frame; NaN without a known one."""
    known = [m.latency_ms for m in timeline.taken if math.isfinite(m.latency_ms)]
    return statistics.median(known) if known else math.nan


def summary_lines(timeline: Timeline, accuracy: Accuracy) -> Iterator[str]:
    """Summarise a dive and the accuracy of its masks in lines of at most about 90 characters."""
    num, taken = len(timeline.moments), len(timeline.taken)
    yield f'frames     {num} in the dive, {taken} processed, {num - taken} dropped'
    latency = median_latency_ms(timeline)
    if math.isfinite(latency):
        yield f'latency    {latency:.0f} ms a frame, median'
    yield f'flag       {flag_strip(timeline.moments)}'
    yield f'           {event_strip(timeline)}'
    yield f'           {STRIP_KEY}'
    for event in timeline.events:
        yield f'           {_event_line(event)}'
    yield f'confident  {_percent(timeline.plain_share)} of the frames in plain inspection'
    yield (f'mean IoU   {accuracy.mean_iou:.3f} against the ground truth, '
           f'{accuracy.mean_iou_confident:.3f} where the flag was up')


def flag_strip(moments: tuple[Moment, ...], width: int = STRIP_WIDTH) -> str:
    """Draw the flag over time as a line of `width` characters, each the worst of its frames."""
    worst_first = 'x.-# '
    strip = ''
    for k in range(min(width, len(moments))):
        start = k * len(moments) // min(width, len(moments))
        stop = max((k + 1) * len(moments) // min(width, len(moments)), start + 1)
        marks = {_MARKS.get(m.kind, 'x') for m in moments[start:stop]}
        strip += min(marks, key=worst_first.index)
    return strip


def event_strip(timeline: Timeline, width: int = STRIP_WIDTH) -> str:
    """Write the names of the events below the flag's strip, each where it starts."""
    width = min(width, len(timeline.moments))
    line = ''
    for event in timeline.events:
        column = int(event.start_s / max(timeline.duration_s, 1e-6) * width)
        line = f'{line.ljust(column)}|{event.title} '
    return line.rstrip()


def _event_line(event: FlagEvent) -> str:
    words = f'{event.title}, {event.start_s:.1f} to {event.stop_s:.1f} s:'
    if math.isinf(event.fell_after_s):
        return f'{words} the flag stayed up'
    rose = 'did not rise again'
    if math.isfinite(event.recovered_after_s):
        side = 'after' if event.recovered_after_s >= 0 else 'before'
        rose = f'rose {abs(event.recovered_after_s):.1f} s {side} its end'
    return f'{words} the flag fell after {event.fell_after_s:.1f} s, {rose}'


def _percent(share: float) -> str:
    return 'none' if math.isnan(share) else f'{share:.0%}'
