# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What happened in a dive, frame by frame: the event that was on, and the flag that was given.

Joins a dive's bag and the node's output bag by stamp. Numbers only; pixels are `demo_frames`'s.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
import math
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode, RawImage
from uncertainty_seg.core.status import VERDICT_NAME
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags.reader import (
    BadMessage,
    BagImage,
    BagMessage,
    BagReader,
    header_stamp_ns,
)
from uncertainty_seg.tools.replay import NODE_NAME

EVENT_TOPIC = '/ground_truth/event'
IMAGE_TOPIC = '/camera/image_raw'
STATUS_TOPIC = f'{NODE_NAME}/status'
PLAIN_EVENT = 'inspection'


@dataclass(frozen=True)
class Moment:
    """
    One frame of the dive.

    Attributes
    ----------
    stamp_ns, time_s : int, float
        Its stamp; seconds since the first frame.
    event : str
        What goes on, `PLAIN_EVENT` where nothing does.
    kind : str
        The verdict's kind, or 'dropped' if the node did not take the frame.
    reason : str
        Why.
    ratio : float
        Worst score over threshold; NaN if dropped, infinite after a fault.
    latency_ms : float
        The pipeline's time for the frame; NaN if it was not given.

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
    A stretch of the dive with a name, and what the flag did.

    Attributes
    ----------
    name : str
        As the dive calls it.
    start_s, stop_s : float
        Since the first frame of the dive.
    fell_after_s, recovered_after_s : float
        Since start and since stop; infinite where it did not. The second is negative if the flag
        was up again before the event was over, and 0 if it never fell.
    was_up_before : bool
        Whether there was a flag that could fall, at some time since the event before.

    """

    name: str
    start_s: float
    stop_s: float
    fell_after_s: float
    recovered_after_s: float
    was_up_before: bool

    @property
    def title(self) -> str:
        """Return the name for people."""
        return self.name.replace('_', ' ')


@dataclass(frozen=True)
class Timeline:
    """
    The whole dive.

    Attributes
    ----------
    moments : tuple of Moment
        Every frame of the dive, in order.
    events : tuple of Event
        Every stretch that is not plain inspection.

    """

    moments: tuple[Moment, ...]
    events: tuple[FlagEvent, ...]

    @property
    def taken(self) -> tuple[Moment, ...]:
        """Return the frames the node gave a verdict for."""
        return tuple(m for m in self.moments if m.kind != 'dropped')

    @property
    def duration_s(self) -> float:
        """Time of the last frame."""
        return self.moments[-1].time_s

    @property
    def plain_share(self) -> float:
        """Share of confident frames among those taken during plain inspection; NaN if none."""
        plain = [m.is_confident for m in self.taken if m.event == PLAIN_EVENT]
        return sum(plain) / len(plain) if plain else math.nan


def read_timeline(dive: Path, outputs: Path) -> Timeline:
    """
    Join a dive and what the node said about it.

    Parameters
    ----------
    dive : Path
        Bag of `make-dive`.
    outputs : Path
        Bag of the recorder or of `replay`.

    Returns
    -------
    Timeline
        One moment a frame.

    Raises
    ------
    BagError
        If a bag cannot be read or the dive has no frame.

    """
    verdicts = dict(_verdicts(outputs))
    moments: list[Moment] = []
    for stamp_ns, event in _frames(dive):
        start_ns = moments[0].stamp_ns if moments else stamp_ns
        time_s = (stamp_ns - start_ns) / 1e9
        moments.append(Moment(stamp_ns, time_s, event, **verdicts.get(stamp_ns, {})))
    if not moments:
        raise BagError(f'dive {dive} has no frame', 'at least one')
    return Timeline(tuple(moments), tuple(find_events(moments)))


def find_events(moments: Sequence[Moment]) -> Iterator[FlagEvent]:
    """
    Find the events, and when the flag fell and rose again.

    Parameters
    ----------
    moments : sequence of Moment
        The whole dive.

    Yields
    ------
    Event
        In order. A flag that rises only in the next event has not recovered from this one.

    """
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
    # A flag that is up again when the event ends, as in a thinning cloud, rose when its last run
    # of confident frames began.
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


def _verdicts(outputs: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with BagReader(outputs) as bag:
        for item in bag.messages(STATUS_TOPIC):
            if isinstance(item, BagMessage):
                for status in item.message.status:
                    if status.name == VERDICT_NAME:
                        yield header_stamp_ns(item.message), _verdict(status)


def _verdict(status: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in status.values}
    latencies = [float(v) for k, v in values.items() if k.startswith('latency.')]
    return {
        'kind': values['kind'], 'reason': status.message, 'ratio': float(values['score_ratio']),
        'latency_ms': sum(latencies) if latencies else math.nan,
    }


# -------------------------------------------------------------------------------------------------
# The pictures of a dive, frame by frame: camera, true classes, and what the node published.
# Read as a stream from both bags, since a dive's pictures do not fit in memory.

TRUTH_TOPIC = '/ground_truth/mask'
MASK_TOPIC = f'{NODE_NAME}/mask'
HEATMAP_TOPIC = f'{NODE_NAME}/heatmap'


@dataclass(frozen=True)
class DemoFrame:
    """
    One frame; what is not in the bags is None.

    Attributes
    ----------
    moment : Moment
        Its verdict.
    image : ndarray of uint8, shape (H, W, 3)
        Camera, BGR.
    truth, label : ndarray of uint8, shape (H, W), or None
        True and predicted class ids.
    heatmap : ndarray of uint8, shape (H, W, 3), or None
        Uncertainty in colours, BGR.

    """

    moment: Moment
    image: ImageU8
    truth: LabelMap | None
    label: LabelMap | None
    heatmap: ImageU8 | None


def iter_frames(dive: Path, outputs: Path, timeline: Timeline) -> Iterator[DemoFrame]:
    """
    Walk through a dive.

    Parameters
    ----------
    dive, outputs : Path
        The two bags.
    timeline : Timeline
        Of these bags.

    Yields
    ------
    DemoFrame
        One a moment, in order.

    Raises
    ------
    UncertaintySegError
        If a bag breaks off or a picture in it cannot be decoded.

    """
    with BagReader(dive) as in_bag, BagReader(outputs) as out_bag:
        images, truths = _Cursor(in_bag, IMAGE_TOPIC), _Cursor(in_bag, TRUTH_TOPIC)
        masks, heatmaps = _Cursor(out_bag, MASK_TOPIC), _Cursor(out_bag, HEATMAP_TOPIC)
        for moment in timeline.moments:
            image = images.at(moment.stamp_ns)
            assert image is not None  # the timeline was made from these images
            heat = heatmaps.at(moment.stamp_ns)
            yield DemoFrame(
                moment, decode(image.raw), _ids(truths.at(moment.stamp_ns)),
                _ids(masks.at(moment.stamp_ns)), decode(heat.raw) if heat else None,
            )


class _Cursor:
    """Finds the message of a stamp; stamps must be asked for in rising order."""

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
