# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as plain files: images, masks of class ids, classes.json, as `labelled_folder` reads them.

The verbs `train`, `calibrate` and `evaluate` read it; a painting program can correct the masks.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import json
from pathlib import Path

import numpy as np

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import read_image_file, why
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.labels.frames import (
    classes_as_json,
    encoded_png,
    ExportedFrames,
    IMAGES,
    LabelFrame,
    write_image,
)
from uncertainty_seg.storage.labels.regions import LabelCanvas, regions_of

MASKS = 'masks'
CLASSES_FILE = 'classes.json'


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; dive, reason and score are only in frames.json."""
    for frame in frames:
        write_image(folder / IMAGES, frame)
        write_mask(folder, frame.stem, frame.mask)
    write_classes(folder, classes)


def read_labels(path: Path, table: ExportedFrames) -> Iterator[tuple[str, LabelMap]]:
    """
    Read corrected labels; see `formats`.

    A folder of ``STEM.png``, or one with such a folder ``masks``.
    """
    place = path / MASKS if (path / MASKS).is_dir() else path
    files = sorted(place.glob('*.png'))
    if not files:
        raise DatasetError(f'{place} holds no masks', 'files STEM.png')
    for file in files:
        row = table.row_of(file.name, place)
        canvas = LabelCanvas(row, table.classes)
        _paint(canvas, read_mask(file), table.classes)
        if canvas.mask is not None:
            yield row.stem, canvas.mask


def write_mask(folder: Path, stem: str, mask: LabelMap) -> None:
    """Write a mask of class ids, (H, W) uint8, as ``masks/STEM.png`` of a folder."""
    (folder / MASKS).mkdir(exist_ok=True)
    (folder / MASKS / f'{stem}.png').write_bytes(encoded_png(mask))


def write_classes(folder: Path, classes: ClassTable) -> None:
    """Write classes.json into a folder."""
    text = json.dumps(classes_as_json(classes), indent=1)
    (folder / CLASSES_FILE).write_text(text + '\n', encoding='utf-8')


def read_mask(file: Path) -> LabelMap:
    """Read a mask of class ids, (H, W) uint8; `DatasetError` if it is none."""
    wanted = 'a PNG of one channel of 8 bits: class ids'
    try:
        mask = decode_unchanged(read_image_file(file))
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'mask {file} is missing or unreadable ({why(err)})', wanted) from err
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DatasetError(f'mask {file} is {mask.shape} of {mask.dtype}', wanted)
    return np.asarray(mask, np.uint8)


def _paint(canvas: LabelCanvas, mask: LabelMap, classes: ClassTable) -> None:
    canvas.require_size(*mask.shape)
    strange = (mask >= len(classes.names)) & (mask != classes.ignore_index)
    if strange.any():
        raise DatasetError(f'the mask of {canvas.row.file} has the id {mask[strange][0]}',
                           f'0 to {len(classes.names) - 1} ({", ".join(classes.names)}), or '
                           f'{classes.ignore_index} for unknown')
    for region in regions_of(mask, len(classes.names)):
        canvas.paint(classes.names[region.class_id], region.pixels)
