# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The timeline of a dive, frame by frame, and its summary on one screen.

The bag of the dive and the bag of the node's outputs are joined by stamp. Verdicts fit in memory;
pictures do not, and are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
import math
from pathlib import Path
import statistics
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode, RawImage
from uncertainty_seg.core.status import NODE_NAME, VERDICT_NAME
from uncertainty_seg.errors import BagError
from uncertainty_seg.sim.dive import EVENT_TOPIC, IMAGE_TOPIC
from uncertainty_seg.storage.bags.reader import (
    BadMessage,
    BagImage,
    BagMessage,
    BagReader,
    header_stamp_ns,
)

STATUS_TOPIC, MASK_TOPIC, HEATMAP_TOPIC = (
    f'{NODE_NAME}/{name}' for name in ('status', 'mask', 'heatmap'))
# The event of a frame outside all events.
PLAIN_EVENT = 'inspection'
# Events at which the flag must become false at any threshold, and how many of them a dive must
# have. Burial is not among them: the network was trained on sand over a pipe.
MUST_FALL = ('silt_cloud', 'diver')
NUM_MUST_FALL = 2
# If the flag is false most of the time, its falls at events prove nothing.
LEAST_PLAIN_SHARE = 0.6


@dataclass(frozen=True)
class Moment:
    """
    One frame of the dive: its stamp, its event, and the verdict.

    The kind is 'dropped' if the node did not process the frame. `ratio` is the largest ratio of a
    score to its threshold: NaN for a dropped frame, infinite after a fault.
    """

    stamp_ns: int
    time_s: float
    event: str
    kind: str = 'dropped'
    reason: str = ''
    ratio: float = math.nan
    latency_ms: float = math.nan

    @property
    def is_confident(self) -> bool:
        """Return the flag."""
        return self.kind == 'confident'


@dataclass(frozen=True)
class FlagEvent:
    """
    An event of the dive, and how the flag reacted to it.

    `fell_after_s` counts from the start, `recovered_after_s` from the stop: negative if the flag
    was true again before. Each is infinite if that never happened.
    """

    name: str
    start_s: float
    stop_s: float
    fell_after_s: float
    recovered_after_s: float
    was_up_before: bool

    @property
    def title(self) -> str:
        """Return the name for pictures and summaries."""
        return self.name.replace('_', ' ')


@dataclass(frozen=True)
class Timeline:
    """Every frame of the dive, and every run of frames that are not plain inspection."""

    moments: tuple[Moment, ...]
    events: tuple[FlagEvent, ...]

    @property
    def taken(self) -> tuple[Moment, ...]:
        """Return the frames that have a verdict."""
        return tuple(m for m in self.moments if m.kind != 'dropped')

    @property
    def duration_s(self) -> float:
        """Return the time of the last frame."""
        return self.moments[-1].time_s

    @property
    def plain_share(self) -> float:
        """Return the share of confident among processed frames of plain inspection, or NaN."""
        plain = [m.is_confident for m in self.taken if m.event == PLAIN_EVENT]
        return sum(plain) / len(plain) if plain else math.nan


def read_timeline(dive: Path, outputs: Path) -> Timeline:
    """Join a dive and its verdicts by frame; BagError if a bag is unreadable or has no frame."""
    verdicts: dict[int, dict[str, Any]] = {}
    # The node's clock is the time of the dive, so a status without a frame may have the stamp of a
    # frame: the measured verdict counts, in whatever order they are recorded.
    for stamp_ns, is_measured, verdict in _verdicts(outputs):
        if is_measured or stamp_ns not in verdicts:
            verdicts[stamp_ns] = verdict
    moments: list[Moment] = []
    for stamp_ns, event in _frames(dive):
        start_ns = moments[0].stamp_ns if moments else stamp_ns
        time_s = (stamp_ns - start_ns) / 1e9
        moments.append(Moment(stamp_ns, time_s, event, **verdicts.get(stamp_ns, {})))
    if not moments:
        raise BagError(f'dive {dive} has no frame', 'at least one')
    return Timeline(tuple(moments), tuple(find_events(moments)))


def find_events(moments: Sequence[Moment]) -> Iterator[FlagEvent]:
    """Yield the events; a flag that rises only in the next event has not recovered."""
    stretches = [list(group) for _, group in groupby(moments, key=lambda m: m.event)]
    for k, stretch in enumerate(stretches):
        if stretch[0].event == PLAIN_EVENT:
            continue
        after = stretches[k + 1] if k + 1 < len(stretches) else []
        after = after if after and after[0].event == PLAIN_EVENT else []
        before = stretches[k - 1] if k else []
        start_s, last_s = stretch[0].time_s, stretch[-1].time_s
        stop_s = after[0].time_s if after else last_s
        falls = [m.time_s for m in stretch if m.kind not in ('confident', 'dropped')]
        yield FlagEvent(
            stretch[0].event, start_s, stop_s,
            falls[0] - start_s if falls else math.inf,
            _rise_s(stretch, after) - stop_s if falls else 0.0,
            any(m.is_confident for m in before),
        )


def _rise_s(stretch: Sequence[Moment], after: Sequence[Moment]) -> float:
    # If the flag is true again when the event ends, as in a thinning cloud, it rose at the start
    # of the last run of confident frames.
    rise_s = math.inf
    for moment in stretch:
        if moment.kind != 'dropped':
            rise_s = min(rise_s, moment.time_s) if moment.is_confident else math.inf
    rises = [m.time_s for m in after if m.is_confident]
    return min(rise_s, rises[0]) if rises else math.inf


def _frames(dive: Path) -> Iterator[tuple[int, str]]:
    event = PLAIN_EVENT
    with BagReader(dive) as bag:
        # The event of a frame is written before the frame, at the same bag time.
        for item in bag.messages(EVENT_TOPIC, IMAGE_TOPIC):
            if isinstance(item, BadMessage):
                continue
            if item.topic == EVENT_TOPIC:
                event = item.message.data or PLAIN_EVENT
            else:
                yield header_stamp_ns(item.message), event


def _verdicts(outputs: Path) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    with BagReader(outputs) as bag:
        for item in bag.messages(STATUS_TOPIC):
            if isinstance(item, BagMessage):
                for status in item.message.status:
                    if status.name == VERDICT_NAME:
                        values = {pair.key: pair.value for pair in status.values}
                        yield (header_stamp_ns(item.message), 'passes' in values,
                               _verdict(status, values))


def _verdict(status: Any, values: Mapping[str, str]) -> dict[str, Any]:
    latencies = [float(v) for k, v in values.items() if k.startswith('latency.')]
    return {
        'kind': values['kind'], 'reason': status.message, 'ratio': float(values['score_ratio']),
        'latency_ms': sum(latencies) if latencies else math.nan,
    }


@dataclass(frozen=True)
class DemoFrame:
    """
    One frame with its pictures; a picture that is not in the bags is None.

    `label` holds class ids, `heatmap` is the published one.
    """

    moment: Moment
    image: ImageU8
    label: LabelMap | None
    heatmap: ImageU8 | None


def iter_frames(dive: Path, outputs: Path, moments: Sequence[Moment]) -> Iterator[DemoFrame]:
    """
    Read frames of a dive with their pictures, one for each moment; moments are in order.

    Raises UncertaintySegError if a bag ends early or a picture in it cannot be decoded.
    """
    with BagReader(dive) as in_bag, BagReader(outputs) as out_bag:
        images, masks = _Cursor(in_bag, IMAGE_TOPIC), _Cursor(out_bag, MASK_TOPIC)
        heatmaps = _Cursor(out_bag, HEATMAP_TOPIC)
        for moment in moments:
            image = images.at(moment.stamp_ns)
            assert image is not None  # the timeline was made from these images
            heat = heatmaps.at(moment.stamp_ns)
            yield DemoFrame(
                moment, decode(image.raw), _ids(masks.at(moment.stamp_ns)),
                decode(heat.raw) if heat else None)


def stamps_of_heatmaps(outputs: Path) -> frozenset[int]:
    """Return the stamps of the frames whose heatmap is in a bag, ns."""
    with BagReader(outputs) as bag:
        items = bag.images(HEATMAP_TOPIC) if HEATMAP_TOPIC in bag.topics() else ()
        return frozenset(item.stamp_ns for item in items if isinstance(item, BagImage))


class _Cursor:
    """Finds the message of a stamp; stamps must be given in rising order."""

    def __init__(self, bag: BagReader, topic: str) -> None:
        is_there = topic in bag.topics()
        self._items: Iterator[Any] = bag.images(topic) if is_there else iter(())
        self._next: BagImage | None = None

    def at(self, stamp_ns: int) -> BagImage | None:
        while self._next is None or self._next.stamp_ns < stamp_ns:
            item = next(self._items, None)
            if item is None:
                return None
            if isinstance(item, BagImage):
                self._next = item
        return self._next if self._next.stamp_ns == stamp_ns else None


def _ids(item: BagImage | None) -> LabelMap | None:
    if item is None or not isinstance(item.raw, RawImage):  # class ids are never compressed
        return None
    rows = np.frombuffer(item.raw.data, np.uint8).reshape(item.raw.height, item.raw.step)
    return rows[:, : item.raw.width]


def problems_of(timeline: Timeline) -> list[str]:
    """List where the flag did not fall at an event of `MUST_FALL`, or did not rise after one."""
    found = []
    for event in timeline.events:
        title = f'the {event.title} at {event.start_s:.1f} s'
        if event.name in MUST_FALL:
            if not event.was_up_before:
                found.append(f'The flag was not true before {title}.')
            if math.isinf(event.fell_after_s):
                found.append(f'The flag did not fall at {title}.')
        if math.isfinite(event.fell_after_s) and math.isinf(event.recovered_after_s):
            found.append(f'The flag did not rise again after {title}.')
    # NaN, for a dive without plain inspection, is a problem too.
    if not timeline.plain_share >= LEAST_PLAIN_SHARE:
        found.append(f'The flag was true in {_percent(timeline.plain_share)} of plain inspection, '
                     f'expected {LEAST_PLAIN_SHARE:.0%} or more.')
    if sum(event.name in MUST_FALL for event in timeline.events) < NUM_MUST_FALL:
        found.append('The dive is too short to have a silt cloud and an unknown object.')
    return found


def median_latency_ms(timeline: Timeline) -> float:
    """Return the median time of the pipeline per frame; NaN if no time is known."""
    known = [m.latency_ms for m in timeline.taken if math.isfinite(m.latency_ms)]
    return statistics.median(known) if known else math.nan


def summary_lines(timeline: Timeline) -> Iterator[str]:
    """Summarise a dive in lines of at most about 90 characters."""
    num, taken = len(timeline.moments), len(timeline.taken)
    yield f'frames     {num} in the dive, {taken} processed, {num - taken} dropped'
    latency = median_latency_ms(timeline)
    if math.isfinite(latency):
        yield f'latency    {latency:.0f} ms a frame, median'
    for event in timeline.events:
        yield f'event      {_event_line(event)}'
    yield f'confident  {_percent(timeline.plain_share)} of the frames in plain inspection'


def _event_line(event: FlagEvent) -> str:
    words = f'{event.title}, {event.start_s:.1f} to {event.stop_s:.1f} s:'
    if math.isinf(event.fell_after_s):
        return f'{words} the flag stayed true'
    rose = 'did not rise again'
    if math.isfinite(event.recovered_after_s):
        side = 'after' if event.recovered_after_s >= 0 else 'before'
        rose = f'rose {abs(event.recovered_after_s):.1f} s {side} its end'
    return f'{words} the flag fell after {event.fell_after_s:.1f} s, {rose}'


def _percent(share: float) -> str:
    return 'none' if math.isnan(share) else f'{share:.0%}'
