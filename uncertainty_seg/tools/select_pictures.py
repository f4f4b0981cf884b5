# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Small pictures of chosen frames, read from the bags, folders and logs they came from.

A source may have changed since it was scored, and then another picture stands in the same place:
its stamp and its hash tell.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
from tqdm import tqdm

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.perceptual_hash import hash_distance, perceptual_hash
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at
from uncertainty_seg.tools.report_canvas import data_address

_WIDTH_PX, _HEIGHT_PX, _QUALITY = 256, 192, 75
# Bits of the hash: another release of a JPEG decoder rounds in another way.
_DECODERS_DIFFER = 2


@dataclass(frozen=True)
class PicturePlace:
    """
    Where a frame is, and how to know it again.

    Attributes
    ----------
    source, kind, topic, index : str, str, str, int
        Of its row.
    stamp_ns : int
        Of its row.
    phash : int or None
        Of its row; None where the table has none.

    """

    source: str
    kind: str
    topic: str
    index: int
    stamp_ns: int
    phash: int | None = None


@dataclass
class Pictures:
    """
    What was found.

    Attributes
    ----------
    addresses : dict of Place to str
        ``data:`` addresses of JPEGs; frames that cannot be had are left out.
    changed : set of Place
        Frames left out since another picture is in their place now.
    problems : list of str
        A sentence for every source that has changed, cannot be read, or not to its end.

    """

    addresses: dict[PicturePlace, str] = field(default_factory=dict)
    changed: set[PicturePlace] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def thumbnails(places: Sequence[PicturePlace]) -> Pictures:
    """
    Read frames and make them small.

    Parameters
    ----------
    places : sequence of Place
        Frames; each source is read once, from its start to the last of them.

    Returns
    -------
    Pictures
        Of those that are what was scored.

    """
    wanted: dict[tuple[str, str, str], dict[int, PicturePlace]] = {}
    for place in places:
        wanted.setdefault((place.source, place.kind, place.topic), {})[place.index] = place
    found = Pictures()
    with tqdm(total=len(places), desc='pictures', unit='frame', disable=None) as bar:
        for source, by_index in wanted.items():
            _read(source, by_index, found, bar)
            changed = len(found.changed.intersection(by_index.values()))
            if changed:
                found.problems.append(f'{source[0]} has changed since it was scored: {changed} of '
                                      'its frames are other pictures now; score it again')
    return found


def _read(
    source: tuple[str, str, str], by_index: dict[int, PicturePlace], found: Pictures, bar: tqdm[None]
) -> None:
    try:
        for frame in frames_at(*source, by_index):
            bar.update()
            if isinstance(frame, BadFrame):
                continue
            place = by_index[frame.index]
            try:
                image = decode(frame.raw)
            except UncertaintySegError:
                continue
            if _is_same(place, frame.stamp_ns, image):
                found.addresses[place] = _small(image)
            else:
                found.changed.add(place)
    except (UncertaintySegError, OSError, KeyError) as err:
        found.problems.append(' '.join(str(err).split()))


def _is_same(place: PicturePlace, stamp_ns: int, image_bgr: ImageU8) -> bool:
    if stamp_ns != place.stamp_ns:
        return False
    return place.phash is None or \
        hash_distance(place.phash, perceptual_hash(image_bgr)) <= _DECODERS_DIFFER


def _small(image_bgr: ImageU8) -> str:
    height, width = image_bgr.shape[:2]
    scale = min(_WIDTH_PX / width, _HEIGHT_PX / height, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data_address('image/jpeg', content.tobytes())
