# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames of frame logs and of selections, with the masks of the model, for a labelling tool.

A log has images and masks as the vehicle stored them. A selection holds scores, not masks: the
bundle that scored it computes the same masks again, with the same settings. Since a source may
have changed, an image is exported only if its stamp, size and hash are those that were scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
import math
from operator import itemgetter
from pathlib import Path
import re
from typing import Any

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.data.label_formats import write_export, WRITERS
from uncertainty_seg.data.label_frames import (
    decoded,
    encoded_png,
    FrameRow,
    LabelFrame,
    safe_name,
)
from uncertainty_seg.data.selection import LeftOut, open_model, PARQUET, Row, scored_frames
from uncertainty_seg.errors import (
    ConfigError,
    DatasetError,
    FrameLogError,
    require_known,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.foreign_files import as_paths
from uncertainty_seg.storage.frame_log.format import (
    FRAMES_FOLDER,
    iter_frames,
    LoggedFrame,
    REASONS,
)
from uncertainty_seg.storage.frame_sources import SourceFrame, Whereabouts
from uncertainty_seg.storage.labelled_folder import class_table, ClassTable, require_ids
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

_JPEG_START = b'\xff\xd8'
_COLUMNS = ('frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height',
            'width', 'score_ratio', 'phash', 'origin', 'reason', 'split', FILE_COLUMN)


def export_labels(
    inputs: Path | str | Sequence[Path | str], out: Path | str, kind: str, *,
    reasons: Sequence[str] = (), image_prefix: str = '', root: Path | str | None = None,
    left_out: LeftOut | None = None,
) -> list[FrameRow]:
    """
    Write frames with the masks of the model for a labelling tool.

    Parameters
    ----------
    inputs : Path, str or sequence of them
        Frame logs, or one selection: ``selection.parquet`` or its folder.
    out : Path or str
        A new folder.
    kind : str
        Format, a key of `label_formats.WRITERS`: 'coco', 'label-studio', 'folder' or 'fiftyone'.
    reasons : sequence of str
        For logs: only frames that were logged for one of these reasons; empty for all.
    image_prefix : str
        For 'label-studio': address of the images up to their names; empty: inside the tasks.
    root : Path or str, optional
        New folder of the bundle and the sources of a selection, if they were moved.
    left_out : LeftOut, optional
        Receives what is not exported, and why.

    Returns
    -------
    list of FrameRow
        One row per written frame.

    Raises
    ------
    UncertaintySegError
        If an input is of an unknown kind, nothing can be exported, or `out` is not empty.

    """
    require_known('the format', [kind], WRITERS)
    require_known('the reason', reasons, REASONS)
    inputs, out = as_paths(inputs), Path(out)
    selections = [path for path in inputs
                  if path.suffix == '.parquet' or (path / PARQUET).is_file()]
    left_out = left_out or LeftOut()
    if not selections:
        if root:
            raise ConfigError(f'the root {root} with frame logs', 'a selection')
        logs = [_log(path) for path in inputs]
        classes, frames, total = frames_of_logs(logs, left_out, reasons)
    else:
        if len(inputs) > 1:
            raise ConfigError(f'{len(inputs)} inputs with the selection {selections[0]}',
                              'one selection alone, or frame logs')
        if reasons:
            raise ConfigError(f'reasons with the selection {selections[0]}', 'frame logs')
        classes, frames, total = frames_of_selection(selections[0], left_out, root)
    bar = progress(frames, desc='export', total=total)
    return write_export(out, kind, bar, classes, image_prefix)


def _log(path: Path) -> Path:
    if not (path / FRAMES_FOLDER).is_dir():
        came = f'{path} is missing' if not path.exists() else \
            f'{path} is neither a frame log nor a selection'
        raise DatasetError(came, f'a folder with {FRAMES_FOLDER}/, or {PARQUET}')
    return path


def frames_of_logs(
    folders: Sequence[Path], left_out: LeftOut, reasons: Sequence[str] = (),
) -> tuple[ClassTable, Iterator[LabelFrame], int]:
    """
    Open frame logs, also while they are being written: finished frames are read.

    Returns the classes of all frames, the frames by dive, and how many there are at most. A frame
    whose image, mask or sidecar is missing or damaged is left out and reported. Raises
    FrameLogError if a folder is no frame log; DatasetError if no frame is found, or frames have
    other classes than the first one.
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
    logged.sort(key=_dive_of)
    for problem in problems:
        left_out.add(problem)
    return classes, _logged_frames(logged, classes, left_out), len(logged)


def classes_of(sidecar: Mapping[str, Any]) -> ClassTable:
    """Return the classes of a frame's sidecar; `DatasetError` if they are not usable."""
    try:
        entries = [{'id': one['id'], 'name': one['name'], 'rgb': one['color_rgb']}
                   for one in sidecar['classes']]
    except (KeyError, TypeError) as err:
        raise DatasetError(f'classes of frame {sidecar.get("frame_id")!r} are damaged ({err!r})',
                           'id, name and color_rgb of each') from err
    return class_table(entries, f'frame {sidecar.get("frame_id")!r}')


def _files_of(stem: str, image: bytes) -> tuple[str, str]:
    """Return the stem of a frame's files, and the name of its image."""
    return stem, stem + ('.jpg' if image.startswith(_JPEG_START) else '.png')


def _known(ratio: float | None) -> float | None:
    return None if ratio is None or not math.isfinite(ratio) else float(ratio)


def _logged_frames(
    logged: Sequence[LoggedFrame], classes: ClassTable, left_out: LeftOut
) -> Iterator[LabelFrame]:
    for entry in logged:
        try:
            yield _logged_frame(entry, classes)
        except (FrameLogError, DatasetError) as err:
            if entry.folder.exists():  # else its log has evicted it meanwhile
                left_out.add(err)


def _logged_frame(entry: LoggedFrame, classes: ClassTable) -> LabelFrame:
    sidecar, path = entry.sidecar, entry.image_path
    data = entry.read_bytes(path)
    mask = entry.read_mask()
    if mask.shape != decoded(data, str(path)).shape[:2]:
        raise DatasetError(f'the mask of {path} is {mask.shape[1]}x{mask.shape[0]}',
                           'the size of its image')
    require_ids(mask, len(classes.names), classes.ignore_index, f'the mask of {path}')
    ratio = sidecar.get('verdict', {}).get('score_ratio')
    dive = _dive_of(entry)
    stem = f'{safe_name(dive)}_{safe_name(entry.frame_id)}'
    row = FrameRow(
        *_files_of(stem, data), key=entry.frame_id, dive=dive,
        stamp_ns=int(sidecar['stamp_ns']), height=mask.shape[0], width=mask.shape[1],
        reason=_reason(sidecar), score=_known(ratio),
        origin=CONTROL if sidecar.get('reason') == CONTROL else SELECTED)
    return LabelFrame(row, data, mask)


def _dive_of(entry: LoggedFrame) -> str:
    return str(entry.sidecar.get('dive') or entry.folder.parents[1].name)


def _reason(sidecar: Mapping[str, Any]) -> str:
    """Return why a frame was logged, with the reasons of its verdict, if any."""
    words = [str(word) for word in sidecar.get('verdict', {}).get('reasons') or ()]
    return ': '.join([str(sidecar.get('reason', '')), '; '.join(words)]).strip(': ')


def frames_of_selection(
    path: Path, left_out: LeftOut, root: Path | str | None = None,
) -> tuple[ClassTable, Iterator[LabelFrame], int]:
    """
    Open a selection; its masks are computed again.

    Returns the same as `frames_of_logs`, with the frames by dive and source. Frames that cannot be
    read, have changed since they were scored, or whose source is missing are left out and
    reported. Raises TableError if the file is no selection; ModelBundleError if the bundle is
    missing or is not the one that scored it.
    """
    file = path / PARQUET if path.is_dir() else path
    places = Whereabouts(file, None if root is None else Path(root))
    info = read_info(file)
    rows = _rows(file)
    pipeline = open_model(info, places.find_bundle(info.model))
    classes = [{'id': index, 'name': name, 'rgb': rgb} for index, (name, rgb) in
               enumerate(zip(info.class_names, info.palette, strict=True))]
    return (class_table(classes, str(file)), _frames(rows, pipeline, left_out, places),
            len(rows))


def _rows(file: Path) -> list[Row]:
    table = read_rows(file, _COLUMNS)
    rows: list[Row] = table.to_pylist()
    dives = unique_dives(table)
    if rows and not {'reason', 'origin'} <= set(rows[0]):
        raise TableError(f'{file} is a score table', f'the {PARQUET} of a selection',
                         'run uncertainty_seg select on it first')
    if not rows:
        raise TableError(f'{file} holds no frame', 'at least one')
    sources: dict[str, set[str]] = {}
    for row, dive in zip(rows, dives, strict=True):
        row['dive'] = dive
        sources.setdefault(dive, set()).add(row['source'])
    names = Counter(map(_photograph, rows))
    for row in rows:
        own = _photograph(row)
        row['stem'] = own if own and names[own] == 1 else \
            f'{safe_name(row["dive"])}_{safe_name(_name(row, len(sources[row["dive"]]) > 1))}'
    return sorted(rows, key=itemgetter('dive'))


def _photograph(row: Row) -> str:
    """Return the name of a picture of a folder without suffix; empty for other frames."""
    name = re.sub(r'[^A-Za-z0-9._-]+', '_', Path(row[FILE_COLUMN] or '').stem)
    # No name may be that of another file: a.jpg.png is no mask of a.jpg.
    return re.sub(r'\.(jpe?g|png)$', r'_\1', name, flags=re.IGNORECASE)


def _name(row: Row, has_sources: bool) -> str:
    """Name a frame within its dive, without its path, which would identify a machine."""
    source = short_digest(row['source']) if has_sources else ''
    return '_'.join(part for part in (row['topic'], source, f'{row["index"]:06d}') if part)


def _frames(
    rows: list[Row], pipeline: Pipeline, left_out: LeftOut, places: Whereabouts
) -> Iterator[LabelFrame]:
    limits = pipeline.settings.decode_limits
    with closing(pipeline):
        for row, frame, image in scored_frames(rows, places, limits, left_out):
            try:
                yield _frame(row, frame, image, pipeline)
            except UncertaintySegError as err:
                left_out.add(f'{row["frame_key"]}: {err}')


def _frame(row: Row, frame: SourceFrame, image: ImageU8, pipeline: Pipeline) -> LabelFrame:
    raw, mask = frame.raw, pipeline.measure(image, frame.stamp_ns).label
    data = bytes(raw.data) if isinstance(raw, ImageFile) else encoded_png(image)
    listed = FrameRow(
        *_files_of(row['stem'], data), dive=row['dive'], stamp_ns=row['stamp_ns'],
        key=frame_key(Path(row['source']).name, row['topic'], row['index'], row[FILE_COLUMN]),
        height=mask.shape[0], width=mask.shape[1], reason=row['reason'],
        score=_known(row['score_ratio']), origin=_origin(row, frame), split=row.get('split') or '')
    return LabelFrame(listed, data, mask)


def _origin(row: Row, frame: SourceFrame) -> str:
    """Return how a frame was chosen; few frames of a log are random, even in a random draw."""
    is_drawn = row['origin'] == CONTROL and frame.kept_as in ('', CONTROL)
    return CONTROL if is_drawn else SELECTED
