# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Small pictures of chosen frames, read from the bags, folders and logs they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
from tqdm import tqdm

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at
from uncertainty_seg.tools.report_canvas import data_address

_WIDTH_PX, _HEIGHT_PX, _QUALITY = 256, 192, 75


@dataclass(frozen=True)
class Place:
    """Where a frame is: the columns source, kind, topic and index of its row."""

    source: str
    kind: str
    topic: str
    index: int


def thumbnails(places: Sequence[Place], problems: list[str]) -> dict[Place, str]:
    """
    Read frames and make them small.

    Parameters
    ----------
    places : sequence of Place
        Frames; each source is read once, from its start to the last of them.
    problems : list of str
        Takes a sentence for every source that cannot be read, or not to its end.

    Returns
    -------
    dict of Place to str
        ``data:`` addresses of JPEGs; frames that cannot be had are left out.

    """
    wanted: dict[tuple[str, str, str], dict[int, Place]] = {}
    for place in places:
        wanted.setdefault((place.source, place.kind, place.topic), {})[place.index] = place
    found: dict[Place, str] = {}
    bar = tqdm(total=len(places), desc='pictures', unit='frame', disable=None)
    with bar:
        for source, by_index in wanted.items():
            _read(source, by_index, found, problems, bar)
    return found


def _read(
    source: tuple[str, str, str], by_index: dict[int, Place], found: dict[Place, str],
    problems: list[str], bar: tqdm[None],
) -> None:
    try:
        for frame in frames_at(*source, by_index):
            bar.update()
            if isinstance(frame, BadFrame):
                continue
            try:
                found[by_index[frame.index]] = _small(decode(frame.raw))
            except UncertaintySegError:
                continue
    except (UncertaintySegError, OSError, KeyError) as err:
        problems.append(' '.join(str(err).split()))


def _small(image_bgr: ImageU8) -> str:
    height, width = image_bgr.shape[:2]
    scale = min(_WIDTH_PX / width, _HEIGHT_PX / height, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data_address('image/jpeg', content.tobytes())
