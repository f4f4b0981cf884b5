# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a selection does not hold of its frames: the name of the camera, and its ROS frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.bag_reader import BagImage, BagReader, CAMERA_NAMES
from uncertainty_seg.storage.frame_log_format import iter_frames
from uncertainty_seg.storage.frame_sources import SourceFrame


def camera_of(kind: str, topic: str) -> str:
    """
    Name the camera of a row.

    Parameters
    ----------
    kind, topic : str
        Of the row: the topic of a bag, or the camera of a log.

    Returns
    -------
    str
        '/front/image_raw/compressed' is 'front', '/front/image_rect' is 'front/image_rect'.

    """
    if kind != 'bag':
        return topic
    parts = topic.removesuffix('/compressed').strip('/').split('/')
    return '/'.join(parts[:-1] if parts[-1] in CAMERA_NAMES else parts)


def has_cameras(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether a dive has frames of more than one camera, so that they must be named."""
    topics: dict[str, set[str]] = {}
    for row in rows:
        topics.setdefault(row['dive'], set()).add(row['topic'])
    return any(len(names) > 1 for names in topics.values())


def ros_frames(source: str, kind: str, topic: str) -> Callable[[SourceFrame], str]:
    """
    Find the ROS frames of a source.

    Parameters
    ----------
    source, kind, topic : str
        As in a row of the table.

    Returns
    -------
    callable
        Gives the ROS frame of a frame of that source: of a log its own, of a bag that of the
        first message on the topic. Empty where nobody knows.

    """
    try:
        if kind == 'log':
            sidecars = [frame.sidecar for frame in iter_frames(source, [])]
            known = {(str(sidecar.get('camera', '')), int(sidecar['stamp_ns'])):
                     str(sidecar.get('ros_frame', '')) for sidecar in sidecars}
            return lambda frame: known.get((frame.topic, frame.stamp_ns), '')
        name = _first_ros_frame(source, topic) if kind == 'bag' else ''
    except (UncertaintySegError, OSError):
        name = ''  # whoever reads the frames says what is wrong
    return lambda frame: name


def _first_ros_frame(bag: str, topic: str) -> str:
    with BagReader(bag) as reader:
        for item in reader.images(topic):
            if isinstance(item, BagImage):
                return item.frame_id
    return ''
