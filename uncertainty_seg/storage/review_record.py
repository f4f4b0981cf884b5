# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The record of the labels in a folder: whether they were reviewed, and how frames were selected.

``review.json`` is in the folder of images whose labels were imported. A folder without it counts
as reviewed, since most come from other sources; an export for labelling, whose masks are the
model's predictions, does not. Each of these masks has a mark, which is copied with its PNG: a text
chunk with the digest of the decoded pixels, class ids or colours of a palette. Paint programs
either drop it or keep it with other pixels; then it has no effect any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import re
import struct
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged, ImageFile
from uncertainty_seg.errors import DatasetError, ImageError, some_of
from uncertainty_seg.storage.foreign_files import (
    json_fault,
    MAX_JSON_BYTES,
    parse_json,
    read_bytes,
)
from uncertainty_seg.storage.whole_files import replace_file

REVIEW_FILE = 'review.json'
REVIEW_VERSION = 1
# The table of an export.
TABLE_FILE = 'frames.json'
# How a frame was selected for labelling: at random, or by a score, an event or a person.
CONTROL, SELECTED = 'control', 'selected'
ORIGINS = (CONTROL, SELECTED)
# The split of control frames that were drawn in addition to selected ones: never used in training.
CONTROL_SPLIT = 'control'
_SEEN = 'masks that a person corrected or confirmed'
_FORM = '{"version": 1, "frames": {"STEM": {"reviewed": true, "evidence": "corrected", ' \
    '"origin": "control"}, ...}}'
_KEY = b'uncertainty_seg prediction\0'
_TEXT = b'tEXt' + _KEY
_SHA_BYTES = 64
_MOST_NAMED = 100  # frames in an error
# Signature and IHDR; the mark comes next. Programs move it: ImageMagick to the end of the pixels.
_HEAD_BYTES = 33
# In a chunk of UTF-8 text (iTXt) two flags and two empty strings come first.
_DIGEST = re.compile(rb'\0{0,4}([0-9a-f]{64})')


@dataclass(frozen=True)
class FrameReview:
    """
    The record of the labels of a frame.

    `reviewed`: a person corrected or confirmed the mask, as shown by `evidence`. `origin` is one
    of `ORIGINS` and `reason` why it was kept or selected; `dive` and `frame` are the run, and the
    key of the frame in its source; `score` the largest ratio of a score to its threshold.
    `labeller` is who labelled it, if the tool records it; `split` is that of the frame, if it was
    decided when the frame was drawn.
    """

    reviewed: bool
    evidence: str
    origin: str = SELECTED
    dive: str = ''
    frame: str = ''
    reason: str = ''
    score: float | None = None
    labeller: str = ''
    split: str = ''

    def __post_init__(self) -> None:
        """Raise ValueError for values of wrong type or meaning, as in a file edited by hand."""
        if type(self.reviewed) is not bool:
            raise ValueError(f'"reviewed" is {self.reviewed!s:.20}, not true or false')
        require_texts(self, 'evidence', 'origin', 'dive', 'frame', 'reason', 'labeller',
                      'split')
        if self.origin not in ORIGINS:
            raise ValueError(f'"origin" is {self.origin!s:.20}, not {" or ".join(ORIGINS)}')
        if type(self.score) not in (float, int, type(None)):
            raise ValueError(f'"score" is {self.score!s:.20}, not a number or null')


def require_texts(owner: object, *names: str) -> None:
    """Raise ValueError if one of these attributes is not a string."""
    for name in names:
        if not isinstance(value := getattr(owner, name), str):
            raise ValueError(f'"{name}" is {value!s:.20}, which is no text')


def write_review(folder: Path, reviews: Mapping[str, FrameReview]) -> None:
    """Write ``review.json`` of a folder, by the stems of its frames."""
    frames = {stem: dataclasses.asdict(one) for stem, one in sorted(reviews.items())}
    content = {'version': REVIEW_VERSION, 'frames': frames}
    replace_file(folder / REVIEW_FILE, json.dumps(content, indent=1) + '\n')


def read_review(folder: Path) -> dict[str, FrameReview] | None:
    """Read ``review.json``; None if it is missing, DatasetError if it has another format."""
    path = folder / REVIEW_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        if content['version'] != REVIEW_VERSION:
            raise ValueError(f'version {content["version"]!s:.20}')
        return {stem: FrameReview(**one) for stem, one in content['frames'].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise DatasetError(f'{path} has another form ({err})', _FORM) from err


def require_reviewed(folder: Path, stems: Sequence[str]) -> None:
    """
    Refuse frames whose masks were not reviewed.

    Raises DatasetError if a folder is an export for labelling, has masks that were copied from
    one, or some of the frames are not in its ``review.json`` or not reviewed there.
    """
    reviews = read_review(folder)
    if reviews is None:
        refuse_export(folder)
    else:
        _refuse_any([s for s in stems if s not in reviews], stems, folder,
                    f'are not in its {REVIEW_FILE}', 'every frame there',
                    'put frames that were labelled elsewhere into a folder of their own')
        _refuse_any([s for s in stems if not reviews[s].reviewed], stems, folder,
                    'are not reviewed', _SEEN, 'correct them and import them again, or look at '
                    f'each and set "reviewed" to true in {REVIEW_FILE}')
    _refuse_any([s for s in stems if is_prediction(folder / 'masks' / f'{s}.png')], stems, folder,
                'have the mask of the export, which is what the model predicted', _SEEN,
                'import the labels, which asks for what was reviewed')


def _refuse_any(
    found: Sequence[str], stems: Sequence[str], folder: Path, what: str, expected: str, fix: str,
) -> None:
    if found:
        raise DatasetError(f'{len(found)} of {len(stems)} frames of {folder} {what} '
                           f'({some_of(map(repr, found), _MOST_NAMED)})', expected, fix)


def refuse_export(folder: Path) -> None:
    """Raise DatasetError if a folder is an export for labelling."""
    path = folder / TABLE_FILE
    if not path.is_file():
        return
    content = read_json(path)
    if isinstance(content, dict) and {'version', 'format', 'frames'} <= set(content):
        raise DatasetError(
            f'{folder} is an export for labelling, so that its masks may be those of the model',
            'labels that came back',
            f'import its labels, of the format {content["format"]}, into a new folder')


def read_json(path: Path) -> Any:
    """Read a JSON file; DatasetError if it is not one."""
    try:
        return parse_json(read_bytes(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise DatasetError(f'{path} cannot be read as JSON ({json_fault(err)})',
                           'a file as it was written') from err


# -------------------------------------------------------------------------------------------------
# The mark of a prediction.


def mask_sha256(mask: LabelMap | NDArray[np.uint8]) -> str:
    """Return the digest of the size and the ids of a mask, (H, W) uint8, or of its colours."""
    size = np.array(mask.shape, '<i8').tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(mask).tobytes()).hexdigest()


def marked(png: bytes, mask: LabelMap | NDArray[np.uint8]) -> bytes:
    """Return the PNG of a mask, or of the colours of its palette, with the mark."""
    chunk = _TEXT + mask_sha256(mask).encode()
    framed = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return png[:_HEAD_BYTES] + framed + png[_HEAD_BYTES:]


def is_prediction(file: Path) -> bool:
    """Return whether a file has the mark, and still the pixels of its digest."""
    try:
        data = read_bytes(file) if file.is_file() else b''
        digest = _digest_in(data)
        return bool(digest) and digest == mask_sha256(decode_unchanged(ImageFile(data)))
    except (OSError, ValueError, zlib.error, ImageError):
        return False  # the reader of the mask reports the error


def _digest_in(data: bytes) -> str:
    """Return the digest of the mark in a PNG, from any kind of text chunk; else ''."""
    at = data.find(_KEY)
    if at < 0:
        return ''
    text = data[at + len(_KEY):]
    if data[at - 4:at] == b'zTXt':
        text = zlib.decompressobj().decompress(text[1:], _SHA_BYTES)
    found = _DIGEST.match(text)
    return found[1].decode() if found else ''
