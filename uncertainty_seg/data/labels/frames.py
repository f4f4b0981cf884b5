# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames that are exported to a labelling tool, and the table of an export.

The table, ``frames.json``, is beside every export. It contains what labelling tools do not give
back: the classes, and the dive, stamp and reason of each file. Corrected labels refer to it.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses
from dataclasses import dataclass
import json
from pathlib import Path
import re
import struct
from typing import Any
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode, decode_unchanged, ImageFile
from uncertainty_seg.core.settings import MAX_PIXELS
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import (
    json_fault,
    MAX_IMAGE_BYTES,
    MAX_JSON_BYTES,
    open_zip,
    parse_json,
    plain_name,
    read_bytes,
    read_entry,
    read_image_file,
    why,
    ZIP_ERRORS,
)
from uncertainty_seg.storage.labelled_folder import ClassTable, ENDINGS, read_classes
from uncertainty_seg.storage.review_record import (
    marked,
    mask_sha256,
    ORIGINS,
    require_texts,
    SELECTED,
    TABLE_FILE,
)

# 2 has the origin of a frame and the digest of its mask.
TABLE_VERSION, OLDER_VERSIONS = 2, (1,)
IMAGES = 'images'
# What FiftyOne and Pascal VOC call it.
DATA, VOC_IMAGES = 'data', 'JPEGImages'
# The masks as they were exported, to tell what was corrected; nobody edits these.
PREDICTIONS = 'predictions'
# CVAT needs its images in the archive; no other tool does.
ARCHIVE_FILE = 'cvat.zip'
_FIX = 'name the folder that export-labels wrote with --frames'

_EXIF, _XMP = b'Exif\0\0', b'http://ns.adobe.com/xap/1.0/\0'
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_PNG_START = b'\x89PNG\r\n\x1a\n'
# Older ways to store EXIF and XMP in a PNG; they are compressed, and are removed.
_PNG_TEXTS = (b'Raw profile type exif\0', b'Raw profile type APP1\0', b'XML:com.adobe.xmp\0')
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation\s*(?:=\s*["\']|>\s*))[2-8]')


@dataclass(frozen=True)
class LabelFrame:
    """
    A frame with the mask predicted by the model.

    Attributes
    ----------
    stem : str
        Name of its files without ending, unique within an export.
    key : str
        Its id in the source: that of a log, or ``SOURCE#TOPIC#INDEX`` with only the last name of
        the source's path.
    dive : str
        Its run; frames of a dive are never split.
    stamp_ns : int
        Stamp of the image in nanoseconds.
    frame_id : str
        ROS frame of the image.
    image_file : bytes
        The image as a file; as received if it was compressed.
    ending : str
        '.jpg' or '.png', the type of `image_file`.
    mask : ndarray of uint8, shape (H, W)
        Class ids; the table's `ignore_index` if unknown.
    uncertainty : ndarray of float32, shape (H, W), or None
        0..1, growing with uncertainty; NaN where it could not be computed.
    reason : str
        Why it was kept or chosen.
    score : float
        Worst score over its threshold; above 1 is not confident. NaN if there is none.
    camera : str
        Name of the camera; empty if it is the only one.
    origin : str
        How it came to be labelled, one of `review_record.ORIGINS`.
    embedding, features : ndarray of float32, shape (D,), or None
        What the network made of it, and what it looks like, where a score table has that.

    """

    stem: str
    key: str
    dive: str
    stamp_ns: int
    frame_id: str
    image_file: bytes
    ending: str
    mask: LabelMap
    uncertainty: FloatMap | None
    reason: str
    score: float
    camera: str = ''
    origin: str = SELECTED
    embedding: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None

    @property
    def height(self) -> int:
        """H in pixels."""
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        """W in pixels."""
        return int(self.mask.shape[1])

    @property
    def file_name(self) -> str:
        """Name of the image file."""
        return f'{self.stem}{self.ending}'

    def image(self) -> ImageU8:
        """Decode the image to BGR, (H, W, 3); `DatasetError` if that fails."""
        return decoded(self.image_file, self.file_name)

    def facts(self) -> dict[str, Any]:
        """Return what a format may store beside the labels; the score is None if unknown."""
        score = self.score if np.isfinite(self.score) else None
        return {'key': self.key, 'dive': self.dive, 'stamp_ns': self.stamp_ns,
                'reason': self.reason, 'score': score, 'camera': self.camera,
                'origin': self.origin}


@dataclass(frozen=True)
class FrameRow:
    """
    A row of the table: a `LabelFrame` without pixels; `file` is the name of its image.

    The score is None if there is none; `mask_sha256` is that of the exported mask. Older tables
    have no camera, origin and digest.
    """

    stem: str
    file: str
    key: str
    dive: str
    stamp_ns: int
    height: int
    width: int
    reason: str
    score: float | None
    camera: str = ''
    origin: str = SELECTED
    mask_sha256: str = ''

    def __post_init__(self) -> None:
        """Refuse names that leave the folder, and sizes that no image has, by a ValueError."""
        for name in (self.stem, self.file):
            plain_name(name)
        require_texts(self, 'key', 'reason', 'camera', 'mask_sha256')
        if Path(self.file).suffix not in ENDINGS:
            raise ValueError(f'{self.file!r} ends with none of {", ".join(ENDINGS[:3])}')
        if not (type(self.height) is type(self.width) is int
                and min(self.height, self.width) > 0 and self.height * self.width <= MAX_PIXELS):
            raise ValueError(f'{self.file} is {self.width!s:.20}x{self.height!s:.20} pixels, '
                             f'at most {MAX_PIXELS} in all')
        if not isinstance(self.dive, str):
            raise TypeError(f'the dive of {self.file} is no text')
        if self.origin not in ORIGINS:
            raise ValueError(f'the origin of {self.file} is none of {", ".join(ORIGINS)}')
        if type(self.stamp_ns) is not int or type(self.score) not in (float, int, type(None)):
            raise ValueError(f'the stamp or score of {self.file} is no number')


@dataclass(frozen=True)
class ExportedFrames:
    """The table of an export in `folder`: its classes, and rows by stem in their order."""

    folder: Path
    classes: ClassTable
    rows: dict[str, FrameRow]

    def row_of(self, name: str, source: object) -> FrameRow:
        """
        Find a frame by a file name, with or without folders and ending.

        `DatasetError`, which names the `source` of the name, if the export has no such frame.
        """
        base = re.split(r'[/\\]', name)[-1]
        # Stems may contain points, so the part after the last one need not be an ending.
        for stem in (base, base.rpartition('.')[0]):
            if stem in self.rows:
                return self.rows[stem]
        raise DatasetError(f'{source} has labels of {name!r}, which is not in '
                           f'{self.folder / TABLE_FILE}', 'frames of that export', _FIX)

    def image_file(self, row: FrameRow) -> bytes:
        """Read the image of a frame; `DatasetError` if it is missing."""
        try:
            if (self.folder / ARCHIVE_FILE).is_file():
                with open_zip(self.folder / ARCHIVE_FILE) as archive:
                    return read_entry(archive, f'{IMAGES}/{row.file}', MAX_IMAGE_BYTES)
            places = [self.folder / name / row.file for name in (IMAGES, DATA, VOC_IMAGES)]
            return read_bytes(next((place for place in places if place.is_file()), places[0]))
        except ZIP_ERRORS as err:
            raise DatasetError(f'image {row.file} of {self.folder} cannot be read ({why(err)})',
                               'the images of the export') from err


def write_image(folder: Path, frame: LabelFrame) -> None:
    """Write the image file of a frame into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / frame.file_name).write_bytes(frame.image_file)


def listed(frames: Iterable[LabelFrame], rows: list[FrameRow]) -> Iterator[LabelFrame]:
    """
    Yield frames without orientation in their images, and append each to `rows`.

    `DatasetError` if two have the same stem, so that one file would overwrite the other.
    """
    seen: set[str] = set()
    for frame in frames:
        if frame.stem in seen:
            raise DatasetError(f'two frames are called {frame.stem!r}', 'a name of its own each',
                               'export their logs one by one')
        seen.add(frame.stem)
        yield dataclasses.replace(frame, image_file=without_orientation(frame.image_file))
        rows.append(FrameRow(frame.stem, frame.file_name, height=frame.height, width=frame.width,
                             mask_sha256=mask_sha256(frame.mask), **frame.facts()))


def write_table(
    folder: Path, classes: ClassTable, rows: Iterable[FrameRow], kind: str
) -> None:
    """Write ``frames.json``; `kind` is the format of the export."""
    content = {'version': TABLE_VERSION, 'format': kind, **classes_as_json(classes),
               'frames': [dataclasses.asdict(row) for row in rows]}
    (folder / TABLE_FILE).write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def read_table(folder: Path) -> ExportedFrames:
    """Read ``frames.json``; `DatasetError` if it is missing, damaged, or of another version."""
    path = folder / TABLE_FILE
    if not path.is_file():
        raise DatasetError(f'{folder} has no {TABLE_FILE}', 'the folder of an export', _FIX)
    content = read_json(path)
    if not isinstance(content, dict) \
            or content.get('version') not in (TABLE_VERSION, *OLDER_VERSIONS):
        raise DatasetError(f'{path} is of another version', str(TABLE_VERSION), 'export again')
    try:
        if not isinstance(content.get('frames'), list):
            raise ValueError('"frames" is no list')
        rows = {row.stem: row for row in map(_frame_row, content['frames'])}
    except (TypeError, ValueError) as err:
        raise DatasetError(f'{path} is damaged ({err})', 'what export-labels wrote') from err
    return ExportedFrames(folder, read_classes(path), rows)


def kind_of_export(folder: Path) -> str:
    """Return the format of an export; errors as of `read_table`."""
    read_table(folder)
    return str(read_json(folder / TABLE_FILE).get('format', ''))


def _frame_row(item: Any) -> FrameRow:
    """Make a row of what JSON has of it; ValueError or TypeError with the reason."""
    if not isinstance(item, dict):
        raise ValueError('a frame is no object of names and values')
    known = {field.name: field.default for field in dataclasses.fields(FrameRow)}
    strange = sorted(set(item) - set(known))
    missing = [name for name, default in known.items()
               if default is dataclasses.MISSING and name not in item]
    if strange or missing:
        raise ValueError(f'a frame has the field "{strange[0]:.40}"' if strange else
                         f'"{missing[0]}" of a frame is missing')
    return FrameRow(**item)


def classes_as_json(classes: ClassTable) -> dict[str, Any]:
    """Return the content of a classes.json, as `labelled_folder.read_classes` reads it."""
    entries = [{'id': index, 'name': name, 'rgb': list(rgb)} for index, (name, rgb) in
               enumerate(zip(classes.names, classes.palette, strict=True))]
    return {'classes': entries, 'ignore_index': classes.ignore_index}


def safe_name(text: str) -> str:
    """Return a text as part of a file name that every tool and archive accepts."""
    return re.sub(r'[^A-Za-z0-9._-]+', '_', text).strip('._') or 'frame'


def hex_color(rgb: tuple[int, int, int]) -> str:
    """Return a colour as '#rrggbb'."""
    return '#' + bytes(rgb).hex()


def read_json(path: Path) -> Any:
    """Read a file of JSON; `DatasetError` if it is none."""
    try:
        return parse_json(read_bytes(path, MAX_JSON_BYTES).decode('utf-8'))
    except (OSError, ValueError) as err:
        raise DatasetError(f'{path} cannot be read as JSON ({json_fault(err)})',
                           'an export of labels') from err


def encoded_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a mask as PNG."""
    return cv2.imencode('.png', pixels)[1].tobytes()


def read_mask(file: Path) -> LabelMap:
    """Read a mask of class ids, (H, W) uint8; `DatasetError` if it is none."""
    wanted = 'a PNG of one channel of 8 bits: class ids'
    try:
        mask = decode_unchanged(read_image_file(file))
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'mask {file} is missing or unreadable ({why(err)})', wanted) from err
    if mask.ndim != 2 or mask.dtype != np.uint8:
        came = '16 bits' if mask.dtype != np.uint8 else \
            f'{mask.shape[2]} channels, or a palette'
        raise DatasetError(f'mask {file} has {came}', wanted,
                           'save the ids themselves, not their colours')
    return np.asarray(mask, np.uint8)


def write_mask(folder: Path, stem: str, mask: LabelMap) -> None:
    """Write a mask of class ids, (H, W) uint8, as ``STEM.png`` into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / f'{stem}.png').write_bytes(encoded_png(mask))


def write_prediction(folder: Path, stem: str, mask: LabelMap) -> None:
    """Write a mask that nobody looked at, with the mark that says so; see `review_record`."""
    folder.mkdir(exist_ok=True)
    (folder / f'{stem}.png').write_bytes(marked(encoded_png(mask), mask))


def decoded(data: bytes, name: str) -> ImageU8:
    """Decode an image file to BGR, (H, W, 3); `DatasetError` if that fails."""
    try:
        return decode(ImageFile(data))
    except ImageError as err:
        raise DatasetError(f'{name} is no image that can be read ({why(err)})',
                           'JPEG or PNG') from err


def without_orientation(data: bytes) -> bytes:
    """
    Remove the orientation from the metadata of a JPEG or PNG, without decoding it.

    The node, the log and every reader here use pixels as stored, as CameraInfo describes them.
    Labelling tools and browsers rotate them by the orientation of EXIF (tag 0x0112) or XMP, and
    the mask would no longer match. The result has the orientation 1, "as stored", and is equal to
    `data` if that has no other. A PNG loses XMP and EXIF that are stored as text. Damaged metadata
    are left unchanged.
    """
    if data.startswith(_PNG_START):
        return _png(data)
    return _jpeg(data) if data.startswith(b'\xff\xd8') else data


def _jpeg(data: bytes) -> bytes:
    """Set the orientation in the segments before the pixels to 1."""
    found, at = bytearray(data), 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        body = data[at + 4:end]
        if data[at + 1] == 0xE1 and body.startswith(_EXIF):
            found[at + 4:end] = _EXIF + _tiff(body[len(_EXIF):])
        elif data[at + 1] == 0xE1 and body.startswith(_XMP):
            found[at + 4:end] = _XMP_ORIENTATION.sub(rb'\g<1>1', body)
        at = end
    return bytes(found)


def _png(data: bytes) -> bytes:
    found, at = bytearray(_PNG_START), len(_PNG_START)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at:at + 4], 'big'), data[at + 4:at + 8]
        chunk, at = data[at:at + 12 + length], at + 12 + length
        if kind == b'eXIf':
            content = kind + _tiff(chunk[8:-4])
            chunk = chunk[:4] + content + struct.pack('>I', zlib.crc32(content))
        if kind not in (b'tEXt', b'zTXt', b'iTXt') or not chunk[8:].startswith(_PNG_TEXTS):
            found += chunk
    return bytes(found + data[at:])


def _tiff(block: bytes) -> bytes:
    """Set the orientation in the first directory of a TIFF header to 1, in place."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(block[:4])
    if order is None or len(block) < 10:
        return block
    found = bytearray(block)
    start = struct.unpack_from(f'{order}I', block, 4)[0]
    if start + 2 > len(block):
        return block
    count = struct.unpack_from(f'{order}H', block, start)[0]
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind = struct.unpack_from(f'{order}HH', block, at)
        if tag == _TAG and kind in (_SHORT, _LONG):
            struct.pack_into(f'{order}{"H" if kind == _SHORT else "I"}', found, at + 8, 1)
    return bytes(found)
