# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Corrected labels as a training folder: images/, masks/, classes.json, splits.json, blocks.json.

It is what `labelled_folder.load_folder` reads; blocks.json, which says the dive of each frame, is
for ``calibrate --blocks``.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import json
from pathlib import Path

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.label_folder import write_classes, write_mask
from uncertainty_seg.storage.label_frames import decoded, FrameRow, ExportedFrames, IMAGES
from uncertainty_seg.storage.label_splits import split_by_dive


@dataclass(frozen=True)
class TrainingFolder:
    """
    What was written.

    Attributes
    ----------
    frames, unlabelled, dives : int
        Labelled frames; those of the export that nobody labelled; dives of the labelled ones.
    splits : mapping of str to int
        Frames of each split.

    """

    frames: int
    unlabelled: int
    dives: int
    splits: Mapping[str, int]


def write_training_folder(
    folder: Path, table: ExportedFrames, labels: Iterable[tuple[str, LabelMap]],
    shares: Mapping[str, float], seed: int,
) -> TrainingFolder:
    """
    Write corrected labels with the images of their export.

    Parameters
    ----------
    folder : Path
        An empty one.
    table : FrameTable
        The export.
    labels : iterable of (str, ndarray of uint8 of shape (H, W))
        Stem and mask; where a stem comes twice the later one holds.
    shares, seed : mapping of str to float, int
        See `split_by_dive`.

    Returns
    -------
    TrainingFolder
        Numbers for the report.

    Raises
    ------
    DatasetError
        If no frame is labelled, or an image is gone or of another size.
    ConfigError
        If the shares are no shares.

    """
    split_by_dive({}, shares, seed)  # refuses wrong shares before the work
    (folder / IMAGES).mkdir()
    dive_of: dict[str, str] = {}
    for stem, mask in labels:
        row = table.rows[stem]
        if stem not in dive_of:
            (folder / IMAGES / row.file).write_bytes(_checked_image(table, row))
        write_mask(folder, stem, mask)
        dive_of[stem] = row.dive
    if not dive_of:
        raise DatasetError(f'none of the {len(table.rows)} frames of {table.folder} is labelled',
                           'at least one', 'submit annotations in the tool, then export again')
    splits = split_by_dive(dive_of, shares, seed)
    write_classes(folder, table.classes)
    _write_json(folder / 'splits.json', splits)
    _write_json(folder / 'blocks.json', dict(sorted(dive_of.items())))
    return TrainingFolder(len(dive_of), len(table.rows) - len(dive_of), len(set(dive_of.values())),
                          {name: len(stems) for name, stems in splits.items()})


def _checked_image(table: ExportedFrames, row: FrameRow) -> bytes:
    data = table.image_file(row)
    height, width = decoded(data, row.file).shape[:2]
    if (height, width) != (row.height, row.width):
        raise DatasetError(f'image {row.file} of {table.folder} is {width}x{height}',
                           f'{row.width}x{row.height}, as it was sent')
    return data


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
