# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The pictures of a dive, frame by frame: camera, true classes, and what the node published.

Read as a stream from both bags, since a dive's pictures do not fit in memory.

"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode, RawImage
from uncertainty_seg.storage.bags import BagImage, BagReader
from uncertainty_seg.tools.demo_timeline import IMAGE_TOPIC, Moment, Timeline
from uncertainty_seg.tools.replay_outputs import NODE_NAME

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
