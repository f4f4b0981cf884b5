# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as plain files: images, masks of class ids, classes.json, as `labelled_folder` reads them.

A painting program corrects the masks. The verbs that train or measure read what is imported again.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import json
from pathlib import Path

from uncertainty_seg.data.labels.frames import (
    classes_as_json,
    ExportedFrames,
    IMAGES,
    LabelFrame,
    read_mask,
    write_image,
    write_prediction,
)
from uncertainty_seg.data.labels.regions import LabelCanvas, Labelled
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import ClassTable, read_classes

MASKS = 'masks'
CLASSES_FILE = 'classes.json'


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; dive, reason and score are only in frames.json."""
    for frame in frames:
        write_image(folder / IMAGES, frame)
        write_prediction(folder / MASKS, frame.stem, frame.mask)
    write_classes(folder, classes)


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    A folder of ``STEM.png``, or one with such a folder ``masks``. No frame can be marked
    as finished.
    """
    _require_same_classes(path, table.classes)
    place = path / MASKS if (path / MASKS).is_dir() else path
    files = sorted(place.glob('*.png'))
    if not files:
        raise DatasetError(f'{place} holds no masks', 'files STEM.png')
    for file in files:
        row = table.row_of(file.name, place)
        canvas = LabelCanvas(row, table.classes)
        canvas.paint_ids(read_mask(file))
        yield from canvas.labelled()


def write_classes(folder: Path, classes: ClassTable) -> None:
    """Write classes.json into a folder."""
    text = json.dumps(classes_as_json(classes), indent=1)
    (folder / CLASSES_FILE).write_text(text + '\n', encoding='utf-8')


def _require_same_classes(path: Path, classes: ClassTable) -> None:
    """Refuse masks of a folder whose own list gives the ids other names."""
    file = path / CLASSES_FILE
    if file.is_file() and (names := read_classes(file).names) != classes.names:
        raise DatasetError(f'{file} has the classes {", ".join(names)}',
                           f'those of the export, {", ".join(classes.names)}',
                           'keep the list as it was exported, or export with a bundle of the new '
                           'classes')
