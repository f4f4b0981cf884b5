# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames of frame logs and of selections, with the masks of the model, for a labelling tool.

A log has images and masks as the vehicle stored them. A selection holds scores, not masks: the
bundle that scored it gives the same masks again, with the same settings. A source may have changed
since: what is exported is the image that was scored, by its stamp, size and hash, or nothing.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
import math
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import check_file, ImageFile
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.data.label_formats import write_export
from uncertainty_seg.data.label_frames import decoded, FrameRow, LabelFrame, safe_name
from uncertainty_seg.data.selection import LeftOut, open_model, PARQUET, Row, scored_frames
from uncertainty_seg.errors import (
    ConfigError,
    DatasetError,
    FrameLogError,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.frame_log.format import FRAMES_FOLDER, iter_frames, LoggedFrame
from uncertainty_seg.storage.frame_sources import SourceFrame, Whereabouts
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.review_record import CONTROL, SELECTED
from uncertainty_seg.storage.score_rows import (
    FILE_COLUMN,
    frame_key,
    read_info,
    read_rows,
    short_digest,
    unique_dives,
)

IGNORE_INDEX = 255
_JPEG_START = b'\xff\xd8'
_COLUMNS = ('frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height',
            'width', 'score_ratio', 'phash', 'origin', 'reason', 'embedding', FILE_COLUMN)
Item = TypeVar('Item')


class FrameFeed(NamedTuple):
    """The classes of all frames to export, the frames, and how many there may be."""

    classes: ClassTable
    frames: Iterator[LabelFrame]
    total: int


def export_labels(
    inputs: Sequence[Path], out: Path, kind: str, *, reasons: Sequence[str] = (),
    image_prefix: str = '', model: str | None = None, root: Path | None = None,
    left_out: LeftOut | None = None,
) -> list[FrameRow]:
    """
    Write frames with the masks of the model for a labelling tool.

    Inputs are frame logs, or one selection: ``selection.parquet`` or its folder. `kind` is a key
    of `label_formats.WRITERS`. Of logs only frames that were kept for one of the `reasons` are
    taken, if there are some; `model` and `root` say where the bundle and the sources of a
    selection are now. `left_out` takes what is not exported, and why; the rows of what was written
    are returned. Raises UncertaintySegError if an input is of no known kind, nothing can be
    exported, or `out` is not empty.
    """
    selections = [path for path in inputs
                  if path.suffix == '.parquet' or (path / PARQUET).is_file()]
    has_uncertainty, left_out = kind == 'fiftyone', left_out or LeftOut()
    if not selections:
        if model or root:
            raise ConfigError('a model or a root for frame logs, which hold their masks',
                              'a selection')
        feed = frames_of_logs([_log(path) for path in inputs], has_uncertainty, left_out, reasons)
    else:
        if len(inputs) > 1:
            raise ConfigError(f'{len(inputs)} inputs with the selection {selections[0]}',
                              'one selection alone, or frame logs')
        if reasons:
            raise ConfigError(f'reasons with the selection {selections[0]}', 'frame logs')
        feed = frames_of_selection(selections[0], has_uncertainty, left_out, model, root)
    bar = progress(feed.frames, desc='export', total=feed.total)
    return write_export(out, kind, bar, feed.classes, image_prefix)


def _log(path: Path) -> Path:
    if not (path / FRAMES_FOLDER).is_dir():
        came = f'{path} is missing' if not path.exists() else \
            f'{path} is neither a frame log nor a selection'
        raise DatasetError(came, f'a folder with {FRAMES_FOLDER}/, or {PARQUET}')
    return path


def frames_of_logs(
    folders: Sequence[Path], has_uncertainty: bool, left_out: LeftOut,
    reasons: Sequence[str] = (),
) -> FrameFeed:
    """
    Open frame logs, also while they are being written: what is finished is read.

    They come dive by dive, in the order of the folders and of the frames. A frame whose image,
    mask or sidecar is missing or damaged is left out and reported. Raises FrameLogError if a
    folder is no frame log; DatasetError if there is no frame in it, or frames have other classes
    than the first one.
    """
    problems: list[str] = []
    logged = [frame for folder in folders for frame in iter_frames(folder, problems)
              if not reasons or frame.sidecar.get('reason') in reasons]
    if not logged:
        kept = f' kept as {" or ".join(reasons)}' if reasons else ''
        first = f' ({problems[0].rstrip(".")})' if problems else ''
        raise DatasetError(f'{", ".join(map(str, folders))} holds no frame{kept}{first}',
                           'at least one finished frame')
    classes = classes_of(logged[0].sidecar)
    for frame in logged:
        if classes_of(frame.sidecar) != classes:
            raise DatasetError(f'{frame.folder} has other classes than {logged[0].folder}',
                               'one set of classes', 'export the logs of each model by themselves')
    logged = dive_by_dive(logged, _dive_of)
    for problem in problems:
        left_out.add(problem)
    frames = _logged_frames(logged, classes, has_uncertainty, left_out)
    return FrameFeed(classes, frames, len(logged))


def classes_of(sidecar: Mapping[str, Any]) -> ClassTable:
    """Return the classes of a frame's sidecar; `DatasetError` if they are not usable."""
    try:
        entries = sorted(sidecar['classes'], key=lambda entry: int(entry['id']))
        palette = tuple((int(r), int(g), int(b)) for r, g, b in
                        (entry['color_rgb'] for entry in entries))
        names = tuple(str(entry['name']) for entry in entries)
        ids = [int(entry['id']) for entry in entries]
    except (KeyError, TypeError, ValueError) as err:
        raise DatasetError(f'classes of frame {sidecar.get("frame_id")!r} are damaged ({err!r})',
                           'id, name and color_rgb of each') from err
    if ids != list(range(len(ids))):
        raise DatasetError(f'frame {sidecar.get("frame_id")!r} has class ids {ids}',
                           'all from 0 on')
    return distinct_classes(names, palette)


def distinct_classes(
    names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...]
) -> ClassTable:
    """Return a table of classes; `DatasetError` if a name comes twice: tools go by the name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise DatasetError(f'class names {", ".join(names) or "of nothing"}',
                           'each name once', 'compile the bundle with names that differ')
    return ClassTable(names, palette, IGNORE_INDEX)


def dive_by_dive(items: Iterable[Item], dive_of: Callable[[Item], str]) -> list[Item]:
    """Return items in the order they have, but those of a dive in a row, behind its first."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(dive_of(item), []).append(item)
    return [item for group in groups.values() for item in group]


def _files_of(dive: str, name: str, image: bytes) -> tuple[str, str]:
    """Return the stem of a frame's files, which tells the dive, and the name of its image."""
    stem = f'{safe_name(dive)}_{safe_name(name)}'
    return stem, stem + ('.jpg' if image.startswith(_JPEG_START) else '.png')


def _known(ratio: float | None) -> float | None:
    return None if ratio is None or not math.isfinite(ratio) else float(ratio)


def _logged_frames(
    logged: Sequence[LoggedFrame], classes: ClassTable, has_uncertainty: bool, left_out: LeftOut
) -> Iterator[LabelFrame]:
    for entry in logged:
        try:
            yield _logged_frame(entry, classes, has_uncertainty)
        except (FrameLogError, DatasetError) as err:
            if entry.folder.exists():  # else its log evicted it while we were reading
                left_out.add(err)


def _logged_frame(entry: LoggedFrame, classes: ClassTable, has_uncertainty: bool) -> LabelFrame:
    sidecar, path = entry.sidecar, entry.image_path
    data = entry.read_bytes(path)
    mask = entry.read_mask()
    require_mask(mask, decoded(data, str(path)).shape[:2], classes, str(entry.mask_path))
    ratio = sidecar.get('verdict', {}).get('score_ratio')
    dive = _dive_of(entry)
    row = FrameRow(
        *_files_of(dive, entry.frame_id, data), key=entry.frame_id, dive=dive,
        stamp_ns=int(sidecar['stamp_ns']), height=mask.shape[0], width=mask.shape[1],
        reason=_reason(sidecar), score=_known(ratio),
        origin=CONTROL if sidecar.get('reason') == CONTROL else SELECTED)
    return LabelFrame(row, data, mask, entry.read_uncertainty() if has_uncertainty else None)


def _dive_of(entry: LoggedFrame) -> str:
    return str(entry.sidecar.get('dive') or entry.folder.parents[1].name)


def require_mask(mask: Any, shape: tuple[int, ...], classes: ClassTable, source: str) -> None:
    """Refuse a mask of another size than its image, or with an id that is no class."""
    if mask.shape != shape:
        raise DatasetError(f'{source} is {mask.shape[1]}x{mask.shape[0]}',
                           f'the {shape[1]}x{shape[0]} of its image')
    strange = (mask >= len(classes.names)) & (mask != classes.ignore_index)
    if strange.any():
        raise DatasetError(f'{source} has the class id {mask[strange][0]}',
                           f'0 to {len(classes.names) - 1}')


def _reason(sidecar: Mapping[str, Any]) -> str:
    """Return why a frame was kept, with the gate's own words where there are some."""
    words = [str(word) for word in sidecar.get('verdict', {}).get('reasons') or ()]
    return ': '.join([str(sidecar.get('reason', '')), '; '.join(words)]).strip(': ')


def frames_of_selection(
    path: Path, has_uncertainty: bool, left_out: LeftOut, model: str | None = None,
    root: Path | None = None,
) -> FrameFeed:
    """
    Open a selection; its masks are computed again, by the bundle at `model` if it was moved.

    They come dive by dive, then source by source. Frames that cannot be read or are not those that
    were scored are left out and reported, as are those of a source that is gone. Raises TableError
    if the file is no selection; ModelBundleError if the bundle is missing or is not the one that
    scored it.
    """
    file = path / PARQUET if path.is_dir() else path
    places = Whereabouts(file, root)
    info = read_info(file)
    rows = _rows(file)
    pipeline = open_model(info, model or places.find_bundle(info.model))
    return FrameFeed(distinct_classes(info.class_names, info.palette),
                     _frames(rows, pipeline, has_uncertainty, left_out, places), len(rows))


def _rows(file: Path) -> list[Row]:
    try:
        table = read_rows(file, _COLUMNS)
        rows: list[Row] = table.to_pylist()
        dives = unique_dives(table)
    except KeyError as err:
        raise TableError(f'{file} lacks {err}', 'a selection') from err
    if rows and 'reason' not in rows[0]:
        raise TableError(f'{file} is a score table', f'the {PARQUET} of a selection',
                         'run uncertainty_seg select on it first')
    if not rows:
        raise TableError(f'{file} holds no frame', 'at least one')
    sources: dict[str, set[str]] = {}
    for row, dive in zip(rows, dives, strict=True):
        row['dive'] = dive
        sources.setdefault(dive, set()).add(row['source'])
    for row in rows:
        row['name'] = _name(row, len(sources[row['dive']]) > 1)
    return dive_by_dive(rows, itemgetter('dive'))


def _name(row: Row, has_sources: bool) -> str:
    """Name a frame within its dive, without its path, which says whose machine it was."""
    source = short_digest(row['source']) if has_sources else ''
    return '_'.join(part for part in (row['topic'], source, f'{row["index"]:06d}') if part)


def _frames(
    rows: list[Row], pipeline: Pipeline, has_uncertainty: bool, left_out: LeftOut,
    places: Whereabouts,
) -> Iterator[LabelFrame]:
    limits = pipeline.settings.decode_limits
    with closing(pipeline):
        for row, frame, image in scored_frames(rows, places, limits, left_out):
            try:
                yield _frame(row, frame, image, pipeline, has_uncertainty)
            except UncertaintySegError as err:
                left_out.add(f'{row["frame_key"]}: {err}')


def _frame(
    row: Row, frame: SourceFrame, image: ImageU8, pipeline: Pipeline, has_uncertainty: bool
) -> LabelFrame:
    raw = frame.raw
    result = pipeline.measure(image, frame.stamp_ns)
    # The mask has the size of what was decoded, which may be reduced.
    is_whole = isinstance(raw, ImageFile) and check_file(raw).size == image.shape[:2]
    data = bytes(raw.data) if is_whole else _png(image)
    vector = np.asarray(row.get('embedding') or (), np.float32)
    mask = result.label
    listed = FrameRow(
        *_files_of(row['dive'], row['name'], data), dive=row['dive'], stamp_ns=row['stamp_ns'],
        key=frame_key(Path(row['source']).name, row['topic'], row['index'], row[FILE_COLUMN]),
        height=mask.shape[0], width=mask.shape[1], reason=row['reason'],
        score=_known(row['score_ratio']), origin=_origin(row, frame))
    return LabelFrame(
        listed, data, mask,
        result.map_at_source(pipeline.settings.map) if has_uncertainty else None,
        vector if vector.size and np.isfinite(vector).all() else None)


def _origin(row: Row, frame: SourceFrame) -> str:
    """Say how a frame was chosen; a log keeps few frames by chance, whatever is drawn of it."""
    is_drawn = row['origin'] == CONTROL and frame.kept_as in ('', CONTROL)
    return CONTROL if is_drawn else SELECTED


def _png(image: ImageU8) -> bytes:
    _, data = cv2.imencode('.png', image)
    return bytes(data.tobytes())
