# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What people label in a round of active learning: its export, and the labels that came back.

A round is exported to ROUND/to_label, with the masks of the network before to correct. Its labels
are expected in ROUND/labelled, as importing that export writes them. Only what a person reviewed
counts.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.label_formats import write_export
from uncertainty_seg.data.label_frames import FrameRow, LabelFrame, safe_name
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.foreign_files import read_bytes
from uncertainty_seg.storage.labelled_folder import (
    ClassTable,
    read_classes,
    read_mask,
    require_ids,
)
from uncertainty_seg.storage.review_record import (
    is_prediction,
    read_review,
    refuse_export,
    SELECTED,
    TABLE_FILE,
)
from uncertainty_seg.training.train import require_same_classes

_MOST_IMAGE_BYTES = 2**28


@dataclass(frozen=True)
class Picks:
    """
    What a round asks for.

    Attributes
    ----------
    frames, scores, reasons
        Names, scores (NaN where there is none) and why, of each frame.
    threshold : float
        Above which scores were taken; NaN where there was none.

    """

    frames: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]
    threshold: float = math.nan


def ask_for(
    place: Path, label_format: str, classes: ClassTable, paths: Mapping[str, Path], asked: Picks,
    masks: Iterable[LabelMap],
) -> None:
    """
    Write what is to be labelled, once, in the folder of a round.

    `label_format` is as `write_export` knows it, `paths` has the image of each frame. `masks`,
    uint8 (H, W) each, are those to correct, read only if there is no export yet. Raises
    ConfigError if a folder is in its place that is no export.
    """
    export = place / 'to_label'
    if not export.is_dir():
        write_export(export, label_format, _frames(paths, asked, masks), classes)
    elif not (export / TABLE_FILE).is_file():
        raise ConfigError(f'{export} has no {TABLE_FILE}', 'an export',
                          'delete the folder and run the same command again, which writes the '
                          'same frames')


def _frames(
    paths: Mapping[str, Path], asked: Picks, masks: Iterable[LabelMap]
) -> Iterator[LabelFrame]:
    for number, (frame, score, reason, mask) in enumerate(zip(
            asked.frames, asked.scores, asked.reasons, masks, strict=True)):
        path = paths[frame]
        ending = '.png' if path.suffix.lower() == '.png' else '.jpg'
        # Each is a dive of its own, so that an import may divide them.
        stem = f'{number:04d}_{safe_name(frame)}'  # no two alike, whatever their capitals
        row = FrameRow(stem, stem + ending, frame, frame, 0, mask.shape[0], mask.shape[1], reason,
                       score if math.isfinite(score) else None, SELECTED)
        yield LabelFrame(row, read_bytes(path, _MOST_IMAGE_BYTES), mask)


def read_labelled(
    place: Path, frames: Sequence[str], classes: ClassTable
) -> dict[str, NDArray[np.uint8]]:
    """
    Read the reviewed masks of a round, uint8 (H, W) by frame, in the order of `frames`.

    They are in the folder `labelled` of the round; `frames` are what was asked for. Raises
    DatasetError if labels are of other frames or classes, or the folder is an export that was
    copied.
    """
    folder, found = place / 'labelled', dict[str, NDArray[np.uint8]]()
    if not folder.is_dir():
        return found
    require_same_classes(read_classes(folder / 'classes.json'), classes, str(folder),
                         'the images to measure on')
    for frame, file, is_reviewed in _masks_of(folder):
        if frame not in frames:
            raise DatasetError(f'{folder} has labels of {frame!r}, which {place.name} did not '
                               'ask for', f'frames of {place / "to_label"}')
        if is_reviewed:
            found[frame] = read_mask(file)
            require_ids(found[frame], len(classes.names), classes.ignore_index,
                        f'the mask of {frame!r}')
    return {frame: found[frame] for frame in frames if frame in found}


def _masks_of(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield the frame of each mask, its file, and whether a person looked at it."""
    reviews = read_review(folder)
    if reviews is None:  # made elsewhere, by hand
        refuse_export(folder)
    for file in sorted((folder / 'masks').glob('*.png')):
        review = None if reviews is None else reviews.get(file.stem)
        frame = file.stem if review is None else review.frame or file.stem
        is_reviewed = reviews is None or (review is not None and review.reviewed)
        # What was copied out of an export says that a model made it.
        yield frame, file, is_reviewed and not is_prediction(file)
