# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as COCO: ``annotations/instances_default.json``, in run lengths, and ``images/``.

One lossless annotation for each class in a frame. Category ids are class ids + 1, since many tools
take 0 for background; categories and frames are identified by name when labels are read back.
Polygons are read too, as pycocotools draws them.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.data.labels.frames import (
    ExportedFrames,
    IMAGES,
    LabelFrame,
    read_json,
    write_image,
)
from uncertainty_seg.data.labels.regions import (
    damage,
    INSTANCES,
    LabelCanvas,
    Labelled,
    MALFORMED,
    MASKS,
    Outline,
    outlines_of,
    parts_of,
    POLYGONS,
    Region,
    regions_of,
)
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import ClassTable

# Where datumaro and others look for it in a folder; tools also export it under the second name.
FILE, OTHER_FILE = 'annotations/instances_default.json', 'annotations.json'
# COCO itself has none: a field of an image, or of the attributes of all its annotations.
MARK = 'reviewed'


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, shapes: str = MASKS
) -> None:
    """Write frames into an empty folder; `images[]` carries dive, reason, score and stamp."""
    import pycocotools.mask  # noqa: F401  (fails before an image is written)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frame in frames:
        write_image(folder / IMAGES, frame)
        images.append({'id': len(images) + 1, 'file_name': frame.file_name, 'width': frame.width,
                       'height': frame.height, MARK: False, **frame.facts()})
        annotations += [
            {'id': len(annotations) + number, 'image_id': len(images), **item}
            for number, item in enumerate(_items(frame, len(classes.names), shapes), start=1)]
    categories = [{'id': index + 1, 'name': name, 'supercategory': '', 'color': list(rgb)}
                  for index, (name, rgb) in
                  enumerate(zip(classes.names, classes.palette, strict=True))]
    content = {'info': {'description': 'exported by uncertainty_seg'}, 'licenses': [],
               'images': images, 'annotations': annotations, 'categories': categories}
    (folder / FILE).parent.mkdir()
    (folder / FILE).write_text(json.dumps(content), encoding='utf-8')


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    The JSON file, or a folder with it: `OTHER_FILE`, else `FILE`. A frame is marked as finished by
    ``"reviewed": true`` of its image, or in the attributes of all its annotations.
    """
    file = _place(path)
    content = read_json(file)
    try:
        names = {item['id']: str(item['name']) for item in content['categories']}
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for item in content['annotations']:
            by_image.setdefault(item['image_id'], []).append(item)
        for image in content['images']:
            canvas = LabelCanvas(table.row_of(str(image['file_name']), file), table.classes)
            canvas.require_size(int(image['height']), int(image['width']))
            items = by_image.get(image['id'], [])
            for item in items:
                name = names.get(item['category_id'], str(item['category_id']))
                _paint(canvas, name, item['segmentation'])
            yield from canvas.labelled(_mark(image, items))
    except MALFORMED as err:
        raise DatasetError(f'{file} is no COCO file ({damage(err)})',
                           'images, annotations and categories') from err


def _place(path: Path) -> Path:
    if not path.is_dir():
        return path
    # The first is none of the export, so that it is what came back.
    return next((path / name for name in (OTHER_FILE, FILE) if (path / name).is_file()),
                path / FILE)


def _mark(image: dict[str, Any], items: list[dict[str, Any]]) -> str:
    """Return what says that an image is finished: its own field, or one of all annotations."""
    flags = [(item.get('attributes') or {}).get(MARK) for item in items]
    is_marked = image.get(MARK) is True or bool(flags) and all(flag is True for flag in flags)
    return f'{MARK} in COCO' if is_marked else ''


def _items(frame: LabelFrame, num_classes: int, shapes: str) -> Iterator[dict[str, Any]]:
    if shapes == POLYGONS:
        yield from (_polygon(outline) for outline in outlines_of(frame.mask, num_classes))
    else:
        cut = parts_of if shapes == INSTANCES else regions_of
        yield from (_annotation(region) for region in cut(frame.mask, num_classes))


def _polygon(outline: Outline) -> dict[str, Any]:
    (left, top), (right, bottom) = outline.points.min(0).tolist(), outline.points.max(0).tolist()
    return {'category_id': outline.class_id + 1, 'iscrowd': 0, 'area': outline.area_px,
            'segmentation': [outline.points.ravel().tolist()],
            'bbox': [left, top, right - left, bottom - top]}


def _annotation(region: Region) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    packed = coco_mask.encode(np.asfortranarray(region.pixels, np.uint8))
    return {
        'category_id': region.class_id + 1,
        'segmentation': {'size': [int(n) for n in packed['size']],
                         'counts': packed['counts'].decode('ascii')},
        'area': int(np.count_nonzero(region.pixels)),
        'bbox': [region.left, region.top, region.right - region.left + 1,
                 region.bottom - region.top + 1],
        'iscrowd': 0,
    }


def _paint(canvas: LabelCanvas, name: str, segmentation: Any) -> None:
    """Paint a segmentation of COCO: polygons, or run lengths as a list or packed as text."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        canvas.paint_polygons(name, segmentation)
        return
    height, width = (int(n) for n in segmentation['size'])
    canvas.require_size(height, width)
    packed = segmentation if isinstance(segmentation['counts'], (str, bytes)) else \
        coco_mask.frPyObjects(segmentation, height, width)
    pixels = np.asarray(coco_mask.decode(packed), np.uint8)
    # pycocotools leaves memory uninitialised where run lengths end before the image does.
    if pixels.max(initial=0) > 1 or int(pixels.sum()) != int(coco_mask.area(packed)):
        raise DatasetError(f'run lengths of {canvas.row.file} do not fill {width}x{height}',
                           'those of all pixels of its image')
    canvas.paint(name, pixels.astype(bool))
