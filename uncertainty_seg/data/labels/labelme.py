# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as LabelMe: ``images/STEM.json`` beside each image, as ``labelme images`` opens them.

Each class is a shape of type `mask`, or its parts are masks or polygons. Dive, reason, score and
stamp are additional keys, which LabelMe preserves. Masks, polygons and rectangles are read back.

"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.image_codec import check_file, decode, ImageFile
from uncertainty_seg.data.labels.frames import (
    encoded_png,
    ExportedFrames,
    IMAGES,
    LabelFrame,
    read_json,
    write_image,
)
from uncertainty_seg.data.labels.regions import (
    BoolMask,
    damage,
    INSTANCES,
    LabelCanvas,
    Labelled,
    MALFORMED,
    MASKS,
    outlines_of,
    parts_of,
    POLYGONS,
    Region,
    regions_of,
)
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import why
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.review_record import TABLE_FILE

LABELS_FILE = 'labels.txt'
# A flag of the file, which LabelMe shows with a box to tick.
MARK = 'reviewed'
# The first version of LabelMe with masks.
_VERSION = '5.2.0'
_KINDS = ('mask', 'polygon', 'rectangle')
_DAMAGE = (*MALFORMED, binascii.Error)


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, shapes: str = MASKS
) -> None:
    """Write frames into an empty folder, and ``labels.txt`` for ``labelme --labels``."""
    for frame in frames:
        write_image(folder / IMAGES, frame)
        drawn = list(_shapes(frame, classes, shapes))
        content = {'version': _VERSION, 'flags': {MARK: False}, 'shapes': drawn,
                   'imagePath': frame.file_name, 'imageData': None, 'imageHeight': frame.height,
                   'imageWidth': frame.width, **frame.facts()}
        text = json.dumps(content, indent=2)
        (folder / IMAGES / f'{frame.stem}.json').write_text(text, encoding='utf-8')
    (folder / LABELS_FILE).write_text('\n'.join(classes.names) + '\n', encoding='utf-8')


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    A folder with a JSON file a frame, or with such a folder ``images``; shapes in order. A frame
    is marked as finished by the flag `reviewed`.
    """
    places = sorted(p for place in (path, path / IMAGES) if place.is_dir()
                    for p in place.glob('*.json') if p.name != TABLE_FILE)
    if not places:
        raise DatasetError(f'{path} holds no JSON files', 'a folder that LabelMe saved to')
    for place in places:
        content = read_json(place)
        try:
            row = table.row_of(str(content['imagePath']), place)
            canvas = LabelCanvas(row, table.classes)
            canvas.require_size(int(content['imageHeight']), int(content['imageWidth']))
            for shape in content['shapes']:
                _paint(canvas, shape)
            is_marked = (content.get('flags') or {}).get(MARK) is True
        except _DAMAGE as err:
            raise DatasetError(f'{place} is no file of LabelMe ({damage(err)})',
                               'one with imagePath, imageHeight, imageWidth and shapes') from err
        yield from canvas.labelled(f'{MARK} in LabelMe' if is_marked else '')


def _shapes(frame: LabelFrame, classes: ClassTable, kind: str) -> Iterator[dict[str, Any]]:
    count = len(classes.names)
    if kind == POLYGONS:
        for outline in outlines_of(frame.mask, count):
            yield {'label': classes.names[outline.class_id], 'points': outline.points.tolist(),
                   'group_id': None, 'description': '', 'shape_type': 'polygon', 'flags': {}}
    else:
        cut = parts_of if kind == INSTANCES else regions_of
        yield from (_shape(region, classes) for region in cut(frame.mask, count))


def _shape(region: Region, classes: ClassTable) -> dict[str, Any]:
    png = encoded_png(region.crop.astype(np.uint8))
    return {
        'label': classes.names[region.class_id],
        'points': [[float(region.left), float(region.top)],
                   [float(region.right), float(region.bottom)]],
        'group_id': None, 'description': '', 'shape_type': 'mask', 'flags': {},
        'mask': base64.b64encode(png).decode('ascii'),
    }


def _paint(canvas: LabelCanvas, shape: dict[str, Any]) -> None:
    name, kind = str(shape['label']), shape.get('shape_type') or 'polygon'
    points = np.asarray(shape['points'], np.float64).reshape(-1, 2)
    if kind == 'mask':
        left, top = (int(n) for n in points[0])
        canvas.paint(name, _crop(shape['mask'], canvas), left, top)
    elif kind == 'polygon':
        canvas.paint_polygons(name, [points])
    elif kind == 'rectangle':
        (left, top), (right, bottom) = points.min(0), points.max(0)
        canvas.paint_box(name, left, top, right, bottom)
    else:
        raise DatasetError(f'{canvas.row.file} has a {kind} of {name!r} in LabelMe',
                           f'a shape of type {", ".join(_KINDS)}')


def _crop(text: str, canvas: LabelCanvas) -> BoolMask:
    file = ImageFile(base64.b64decode(text))
    try:
        canvas.require_part(*check_file(file).size)
        return np.asarray(decode(file).any(axis=2), np.bool_)
    except ImageError as err:
        raise DatasetError(f'a mask of {canvas.row.file} is no picture ({why(err)})',
                           'a PNG in base64') from err
