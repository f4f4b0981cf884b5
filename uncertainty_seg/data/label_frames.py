# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames for a labelling tool, the table of an export, and the masks of labels that come back.

Every export contains the table, ``frames.json``. It holds what labelling tools do not give back:
the classes, and the dive, stamp and reason of each file. Corrected labels refer to it. A pixel
outside all regions has an unknown class; of overlapping regions the last one counts, so that a
labeller may paint over a region without erasing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import re
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.core.settings import MAX_PIXELS
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import (
    plain_name,
    read_bytes,
    why,
)
from uncertainty_seg.storage.labelled_folder import (
    ClassTable,
    ENDINGS,
    read_classes,
    require_ids,
)
from uncertainty_seg.storage.review_record import (
    marked,
    ORIGINS,
    read_json,
    require_texts,
    TABLE_FILE,
)

TABLE_VERSION = 4
IMAGES, MASKS, CLASSES_FILE = 'images', 'masks', 'classes.json'
# FiftyOne's folder of images.
DATA = 'data'
# The exported masks, not to be edited: a comparison shows what was corrected.
PREDICTIONS = 'predictions'
_FIX = 'name the folder that was exported'
BoolMask = NDArray[np.bool_]
# datumaro's name of Pascal VOC's void: a label of this name marks unknown pixels.
VOID_NAME = 'ignored'
# Painting a region may take as long as painting the whole image.
MAX_REGIONS, MAX_PAINTED_PX = 10_000, 2**33
# 150 MB in pycocotools.
MAX_OUTLINE_PX = 2**20
# Raised when a file does not follow its format.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class FrameRow:
    """
    A row of the table of an export.

    `stem` names its files, without suffix and unique within an export, and `file` its image. `key`
    is its id in the source: that of a log, or ``SOURCE#TOPIC#INDEX`` with only the last part of
    the source's path. All frames of a `dive` are in one split. `stamp_ns` is the stamp of the
    image in nanoseconds, `height` and `width` are in pixels.

    `reason` says why it was logged or selected. `score` is its largest ratio of a score to its
    threshold, above 1 not confident, None if unknown. `origin`, one of `review_record.ORIGINS`,
    says how it was chosen for labelling. `mask_sha256` and `image_sha256` are digests of the
    exported mask and of the image file. `split` is that of its labels, if that was decided when
    it was drawn; else empty.
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
    origin: str
    mask_sha256: str = ''
    image_sha256: str = ''
    split: str = ''

    def __post_init__(self) -> None:
        """Raise ValueError for names that leave the folder, and for impossible sizes."""
        for name in (self.stem, self.file):
            plain_name(name)
        require_texts(self, 'key', 'dive', 'reason', 'mask_sha256', 'image_sha256', 'split')
        if Path(self.file).suffix not in ENDINGS:
            raise ValueError(f'{self.file!r} ends with none of {", ".join(ENDINGS[:3])}')
        if not (type(self.height) is type(self.width) is int
                and min(self.height, self.width) > 0 and self.height * self.width <= MAX_PIXELS):
            raise ValueError(f'{self.file} is {self.width!s:.20}x{self.height!s:.20} pixels, '
                             f'at most {MAX_PIXELS} in all')
        if self.origin not in ORIGINS:
            raise ValueError(f'the origin of {self.file} is none of {", ".join(ORIGINS)}')
        if type(self.stamp_ns) is not int or type(self.score) not in (float, int, type(None)):
            raise ValueError(f'the stamp or score of {self.file} is no number')

    def facts(self) -> dict[str, Any]:
        """Return the facts that a format may store beside the labels."""
        return {name: getattr(self, name)
                for name in ('key', 'dive', 'stamp_ns', 'reason', 'score', 'origin')}


@dataclass(frozen=True)
class LabelFrame:
    """A frame with the mask predicted by the model."""

    row: FrameRow  # Its row of the table.
    image_file: bytes  # The image as a file; as received if it was compressed.
    mask: LabelMap  # Class ids; the table's `ignore_index` if unknown.


@dataclass(frozen=True)
class ExportedFrames:
    """The table of an export in `folder`: its format, classes, and rows by stem in order."""

    folder: Path
    kind: str
    classes: ClassTable
    rows: dict[str, FrameRow]

    def row_of(self, name: str, source: object) -> FrameRow:
        """
        Find a frame by a file name, with or without folders and suffix.

        Raises DatasetError, which names the `source` of the name, if the export has no such frame.
        """
        base = re.split(r'[/\\]', name)[-1]
        # Stems may contain dots, so the part after the last dot need not be a suffix.
        for stem in (base, base.rpartition('.')[0]):
            if stem in self.rows:
                return self.rows[stem]
        raise DatasetError(f'{source} has labels of {name!r}, which is not in '
                           f'{self.folder / TABLE_FILE}', 'frames of that export', _FIX)

    def image_file(self, row: FrameRow) -> bytes:
        """Read the image of a frame; `DatasetError` if it is missing or not the exported one."""
        places = [self.folder / name / row.file for name in (IMAGES, DATA)]
        try:
            data = read_bytes(next((place for place in places if place.is_file()), places[0]))
            if hashlib.sha256(data).hexdigest() != row.image_sha256:
                raise ValueError('it is not the image that was exported')
            return data
        except (OSError, ValueError) as err:
            raise DatasetError(f'image {row.file} of {self.folder} cannot be read ({why(err)})',
                               'the images as they were exported') from err


def write_image(folder: Path, frame: LabelFrame) -> None:
    """Write the image file of a frame into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / frame.row.file).write_bytes(frame.image_file)


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
    if not isinstance(content, dict) or content.get('version') != TABLE_VERSION:
        raise DatasetError(f'{path} is of another version', str(TABLE_VERSION), 'export again')
    try:
        if not isinstance(content.get('frames'), list):
            raise ValueError('"frames" is no list')
        rows = {row.stem: row for row in map(_frame_row, content['frames'])}
    except (TypeError, ValueError) as err:
        raise DatasetError(f'{path} is damaged ({err})', 'the file as it was exported') from err
    return ExportedFrames(folder, str(content.get('format', '')), read_classes(path), rows)


def _frame_row(item: Any) -> FrameRow:
    """Make a row from its JSON value; ValueError or TypeError with the reason."""
    if not isinstance(item, dict):
        raise ValueError('a frame is no object of names and values')
    known = [field.name for field in dataclasses.fields(FrameRow)]
    strange = sorted(set(item) - set(known))
    missing = [name for name in known if name not in item]
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


def write_classes(folder: Path, classes: ClassTable) -> None:
    """Write classes.json into a folder."""
    text = json.dumps(classes_as_json(classes), indent=1)
    (folder / CLASSES_FILE).write_text(text + '\n', encoding='utf-8')


def encoded_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a mask, or an image in BGR, as PNG."""
    return cv2.imencode('.png', pixels)[1].tobytes()


def write_mask(folder: Path, stem: str, mask: LabelMap) -> None:
    """Write a mask of class ids, (H, W) uint8, as ``STEM.png`` into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / f'{stem}.png').write_bytes(encoded_png(mask))


def write_prediction(folder: Path, stem: str, mask: LabelMap) -> None:
    """Write an unreviewed mask, with the mark that shows this: `review_record.marked`."""
    folder.mkdir(exist_ok=True)
    (folder / f'{stem}.png').write_bytes(marked(encoded_png(mask), mask))


def decoded(data: bytes, name: str) -> ImageU8:
    """Decode an image file to BGR, (H, W, 3); `DatasetError` if that fails."""
    try:
        return decode(ImageFile(data))
    except ImageError as err:
        raise DatasetError(f'{name} is no image that can be read ({why(err)})',
                           'JPEG or PNG') from err


def without_metadata(data: bytes) -> bytes:
    """
    Remove EXIF, XMP and texts from a JPEG, without decoding it, or from a PNG.

    The node, the log and every reader here use pixels as stored, as CameraInfo describes them.
    Labelling tools and browsers rotate them by an orientation in EXIF or XMP, so that the mask
    would no longer match.
    """
    if not data.startswith(b'\xff\xd8'):
        return encoded_png(decoded(data, 'an image'))
    # Copy the segments before the pixels except APP1, which holds EXIF and XMP.
    found, at = bytearray(data[:2]), 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        is_fill = data[at + 1] == 0xFF
        end = at + 1 if is_fill else at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if data[at + 1] != 0xE1:
            found += data[at:end]
        at = end
    return bytes(found + data[at:])


# -------------------------------------------------------------------------------------------------
# Labels that a tool gives back.


def damage(err: Exception) -> str:
    """Describe the damage of a file: Python's message would name its own types."""
    if isinstance(err, KeyError) and err.args:
        return f'"{err.args[0]!s:.40}" is missing'
    return 'a value is of another type, or out of range'


class Labelled(NamedTuple):
    """The labels of a frame, as a tool gives them back."""

    stem: str  # Name of the frame's files.
    mask: LabelMap  # Class ids, and the ignore index where the class is unknown.
    # The evidence in the file that a person has finished the frame; empty without.
    mark: str = ''
    labeller: str = ''  # Who labelled it; empty if unknown.
    # Whether labels are outlines, by whose pixels an unchanged mask may differ.
    has_polygons: bool = False


class LabelCanvas:
    """The mask of a frame, into which the regions of a tool are painted by class name."""

    def __init__(self, row: FrameRow, classes: ClassTable) -> None:
        self.row = row
        self._num_regions = 0
        self._has_polygons = False
        self._ids = {name: index for index, name in enumerate(classes.names)}
        self._ignore_index = classes.ignore_index
        self._mask = np.full((row.height, row.width), classes.ignore_index, np.uint8)

    @property
    def mask(self) -> LabelMap | None:
        """Return the mask; None if every pixel is unknown, so that the frame is unlabelled."""
        return self._mask if (self._mask != self._ignore_index).any() else None

    def labelled(self, mark: str = '', labeller: str = '') -> Iterator[Labelled]:
        """Yield the frame with the facts of the file, unless it is unlabelled."""
        if self.mask is not None:
            yield Labelled(self.row.stem, self.mask, mark, labeller, self._has_polygons)

    def paint(self, name: str, pixels: BoolMask) -> None:
        """
        Assign pixels of the frame, bool (H, W), to a class.

        Raises DatasetError for an unknown name, another size, or too many regions.
        """
        class_id = self.class_id(name)
        self.require_size(*pixels.shape)
        self._num_regions += 1
        most = min(MAX_REGIONS, MAX_PAINTED_PX // self._mask.size)
        if self._num_regions > most:
            raise DatasetError(f'{self.row.file} has more than {most} regions', 'fewer',
                               'merge those of a class')
        self._mask[pixels] = class_id

    def paint_ids(self, mask: LabelMap) -> None:
        """
        Take a whole mask of class ids, (H, W) uint8, with the ignore index for unknown pixels.

        Raises DatasetError if its size is not the frame's, or an id is no class.
        """
        self.require_size(*mask.shape)
        require_ids(mask, len(self._ids), self._ignore_index, f'the mask of {self.row.file}')
        self._mask[:] = mask

    def paint_polygons(self, name: str, polygons: Sequence[ArrayLike]) -> None:
        """
        Assign the inside of polygons, as pycocotools draws them, to a class by its name.

        Each is (n, 2) of x, y, or the same flat; pixel i reaches from i to i + 1. Raises
        DatasetError if the name is unknown, a polygon has fewer than 3 corners, or their outlines
        are too long for pycocotools, which makes a point for each fifth of a pixel.
        """
        from pycocotools import mask as coco_mask

        corners = [np.asarray(points, np.float64).reshape(-1) for points in polygons]
        if any(flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all() for flat in corners):
            raise DatasetError(f'a polygon of {self.row.file} has less than 3 corners',
                               'corners that are finite')
        rings = [flat.reshape(-1, 2) for flat in corners]
        length_px = sum(len(ring) + float(np.abs(ring - np.roll(ring, 1, 0)).max(1).sum())
                        for ring in rings)
        if length_px > MAX_OUTLINE_PX:
            raise DatasetError(f'a region of {self.row.file} has an outline of {length_px:.0f} '
                               'pixels', f'at most {MAX_OUTLINE_PX}',
                               'label the images of the export in their own size, or export masks')
        self._has_polygons = True
        packed = coco_mask.frPyObjects([flat.tolist() for flat in corners], self.row.height,
                                       self.row.width)
        self.paint(name, np.asarray(coco_mask.decode(coco_mask.merge(packed)), bool))

    def class_id(self, name: str) -> int:
        """Return the id of a class, or of unknown pixels; `DatasetError` for another name."""
        if name not in self._ids and name == VOID_NAME:
            return self._ignore_index
        if name not in self._ids:
            raise DatasetError(f'{self.row.file} has the class {name!r}',
                               f'one of {", ".join(self._ids)}',
                               'rename the label, or export with a bundle that knows it')
        return self._ids[name]

    def require_size(self, height: int, width: int) -> None:
        """Raise `DatasetError` for labels of an image of another size."""
        if (height, width) != (self.row.height, self.row.width):
            raise DatasetError(f'the labels of {self.row.file} are {width}x{height}',
                               f'the {self.row.width}x{self.row.height} of its image',
                               'label the images of the export in their own size')
