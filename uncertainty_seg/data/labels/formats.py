# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The label formats by name, and an export in any of them.

The module of a format has ``write_labels(folder, frames, classes)``, which writes into an empty
folder, and ``read_labels(path, table)`` if corrected labels can be read back. That yields the
`Labelled` of each frame, and more than one if more than one labeller had it. It raises a
DatasetError if a file is damaged, or a frame, class or size is not that of the export, which
`table` lists.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import dataclasses
from functools import partial
from pathlib import Path

from uncertainty_seg.data.labels import (
    bag,
    coco,
    cvat,
    fiftyone,
    folder,
    label_studio,
    labelme,
    voc,
    yolo,
)
from uncertainty_seg.data.labels.frames import (
    ExportedFrames,
    FrameRow,
    LabelFrame,
    listed,
    PREDICTIONS,
    write_prediction,
    write_table,
)
from uncertainty_seg.data.labels.regions import LabelCanvas, Labelled, MASKS, outlines_of, POLYGONS
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.foreign_files import why
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.review_record import TABLE_FILE
from uncertainty_seg.storage.whole_files import whole_folder

Writer = Callable[[Path, Iterable[LabelFrame], ClassTable], None]
Reader = Callable[[Path, ExportedFrames], Iterator[Labelled]]
BAGS = {'mcap': 'mcap', 'rosbag2': 'sqlite3'}
WRITERS: dict[str, Writer] = {
    'coco': coco.write_labels,
    'cvat': cvat.write_labels,
    'label-studio': label_studio.write_labels,
    'labelme': labelme.write_labels,
    'folder': folder.write_labels,
    'fiftyone': fiftyone.write_labels,
    'yolo': yolo.write_labels,
    'voc': voc.write_labels,
    **{name: partial(bag.write_labels, storage=storage) for name, storage in BAGS.items()},
}
READERS: dict[str, Reader] = {
    'coco': coco.read_labels,
    'cvat': cvat.read_labels,
    'label-studio': label_studio.read_labels,
    'labelme': labelme.read_labels,
    'folder': folder.read_labels,
    'fiftyone': fiftyone.read_labels,
}
WITH_SHAPES: dict[str, Callable[..., None]] = {
    'coco': coco.write_labels, 'cvat': cvat.write_labels, 'labelme': labelme.write_labels,
}
# How a labeller marks a frame as finished, for a sentence; a folder of masks has no place for it.
HOW_TO_MARK = {
    'coco': 'set "reviewed" to true in its entry of "images"',
    'cvat': 'tick the attribute "reviewed" of its tag uncertainty_seg in CVAT',
    'label-studio': 'open and submit them in Label Studio',
    'labelme': 'tick its flag "reviewed" in LabelMe',
    'folder': '',
    'fiftyone': 'tag them "reviewed" in FiftyOne',
}


def write_export(
    out: Path, kind: str, frames: Iterable[LabelFrame], classes: ClassTable,
    image_prefix: str = '', shapes: str = MASKS,
) -> list[FrameRow]:
    """
    Write an export, whole or not at all.

    Raises DatasetError if the folder is not empty, two frames share a name, or there is none.

    Parameters
    ----------
    out : Path
        A folder that does not exist yet, or is empty.
    kind : str
        A key of `WRITERS`.
    frames : iterable of LabelFrame
        Read once, one at a time.
    classes : ClassTable
        Names, colours and ignore index.
    image_prefix : str
        For label-studio only; see `label_studio.write_labels`.
    shapes : str
        One of `regions.SHAPES`; other than masks only of a format in `WITH_SHAPES`.

    Returns
    -------
    list of FrameRow
        What was written, in order.

    """
    writer = WRITERS[kind]
    if kind == 'label-studio':
        writer = partial(label_studio.write_labels, image_prefix=image_prefix)
    if shapes != MASKS:
        writer = partial(WITH_SHAPES[kind], shapes=shapes)
    if shapes == POLYGONS or kind == 'yolo':
        frames = _as_drawn(frames, classes)
    rows: list[FrameRow] = []
    with new_folder(out) as work:
        every = listed(frames, rows)
        writer(work, every if kind in BAGS else _remembered(work, every), classes)
        if not rows:
            raise DatasetError('no frame to export', 'at least one that can be read')
        write_table(work, classes, rows, kind)
    return rows


def _as_drawn(frames: Iterable[LabelFrame], classes: ClassTable) -> Iterator[LabelFrame]:
    """Yield frames with the masks that their polygons give back, which have no unknown holes."""
    for frame in frames:
        row = FrameRow(frame.stem, frame.file_name, height=frame.height, width=frame.width,
                       **frame.facts())
        canvas = LabelCanvas(row, classes)
        for outline in outlines_of(frame.mask, len(classes.names)):
            canvas.paint_polygons(classes.names[outline.class_id], [outline.points])
        yield frame if canvas.mask is None else dataclasses.replace(frame, mask=canvas.mask)


def _remembered(folder: Path, frames: Iterable[LabelFrame]) -> Iterator[LabelFrame]:
    """Keep the mask of each frame, with which the corrected one is compared."""
    for frame in frames:
        write_prediction(folder / PREDICTIONS, frame.stem, frame.mask)
        yield frame


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """
    Yield a folder to write into, which becomes `out` at the end of the block.

    `DatasetError` if `out` exists and is not an empty folder, or the disk refuses: then nothing of
    it is left.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DatasetError(f'{out} exists and is not empty', 'a new folder',
                           'give another name')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Thousands of small files, which can be exported again.
        with whole_folder(out, is_synced=False) as work:
            yield work
    except OSError as err:
        raise DatasetError(f'{out} cannot be written ({why(err)})',
                           'a disk with room and a folder that this user may write to',
                           'make room, or name another folder; nothing was written') from err


def find_table(labels: Path, frames: Path | None) -> Path:
    """Return the folder with frames.json: `frames`, or else the labels or one around them."""
    if frames is not None:
        return frames
    around = (labels, labels.parent, labels.parent.parent)
    return next((place for place in around if (place / TABLE_FILE).is_file()), labels.parent)
