# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames of a selection as `LabelFrame`: images from their sources, masks from the model again.

A selection holds scores, not masks. The bundle that scored it must be here, which its digest
shows; with its settings the pipeline gives the same masks. A source may have changed since: what
is exported is the image that was scored, by its stamp, size and hash, or nothing.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.image_files import ImageFile
from uncertainty_seg.core.perceptual_hash import hash_distance, perceptual_hash
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.errors import (
    DatasetError,
    ModelBundleError,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at, SourceFrame
from uncertainty_seg.storage.ignore_mask import load_ignore_mask
from uncertainty_seg.storage.label_frames import LabelFrame
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest
from uncertainty_seg.storage.score_rows import (
    read_info,
    read_rows,
    short_digest,
    TableInfo,
    unique_dives,
)
from uncertainty_seg.tools.export_labels_camera import camera_of, has_cameras, ros_frames
from uncertainty_seg.tools.export_labels_log import (
    distinct_classes,
    dive_by_dive,
    FrameFeed,
    image_ending,
    LeftOut,
    stem_of,
)

SELECTION_FILE = 'selection.parquet'
# `run` is missing from older tables.
_COLUMNS = ('frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height',
            'width', 'score_ratio', 'phash', 'reason')
# Another release of a JPEG decoder may move a bit of the hash.
_HASH_SLACK = 2
Row = dict[str, Any]


def frames_of_selection(
    path: Path, has_uncertainty: bool, model: str | None = None, backend: str | None = None
) -> FrameFeed:
    """
    Open a selection.

    Parameters
    ----------
    path : Path
        ``selection.parquet``, or the folder with it.
    has_uncertainty : bool
        Compute the uncertainty maps too.
    model, backend : str, optional
        Where the bundle is now, and what runs it; as in the table if None.

    Returns
    -------
    FrameFeed
        Dive by dive, then source by source. Frames that cannot be read or are not those that
        were scored are left out and said, and so are those of a source that is gone.

    Raises
    ------
    TableError
        If the file is no selection.
    ModelBundleError
        If the bundle is missing or is not the one that scored it.

    """
    file = path / SELECTION_FILE if path.is_dir() else path
    info = read_info(file)
    rows = _rows(file)
    changed = {**info.settings, 'model': model or info.settings.get('model', info.model)}
    if backend:
        changed['backend'] = backend
    settings = settings_from_dict(changed)
    bundle = _bundle(settings.model, info)
    classes = distinct_classes(info.class_names, info.palette)
    feed = FrameFeed(classes, iter(()), len(rows))
    frames = _frames(rows, bundle, settings, has_uncertainty, feed.left_out)
    return replace(feed, frames=frames)


def _rows(file: Path) -> list[Row]:
    try:
        table = read_rows(file, _COLUMNS)
        rows: list[Row] = table.to_pylist()
        dives = unique_dives(table)
    except KeyError as err:
        raise TableError(f'{file} lacks {err}', 'a selection') from err
    if rows and 'reason' not in rows[0]:
        raise TableError(f'{file} is a score table', f'the {SELECTION_FILE} of a selection',
                         'run uncertainty_seg select on it first')
    if not rows:
        raise TableError(f'{file} holds no frame', 'at least one')
    sources: dict[str, set[str]] = {}
    for row, dive in zip(rows, dives, strict=True):
        row['dive'] = dive
        sources.setdefault(dive, set()).add(row['source'])
    rows = dive_by_dive(rows, itemgetter('dive'))
    is_named = has_cameras(rows)
    for row in rows:
        row['name'] = _name(row, len(sources[row['dive']]) > 1)
        # A log names cameras only where the node had several.
        is_one = row['kind'] == 'bag' and not is_named
        row['camera'] = '' if is_one else camera_of(row['kind'], row['topic'])
    return rows


def _name(row: Row, has_sources: bool) -> str:
    """Name a frame within its dive, without its path, which says whose machine it was."""
    source = short_digest(row['source']) if has_sources else ''
    return '_'.join(part for part in (row['topic'], source, f'{row["index"]:06d}') if part)


def _bundle(model: str, info: TableInfo) -> ModelBundle:
    bundle = load_bundle(model)
    found = model_digest(bundle.card)
    if found != info.model_sha256:
        raise ModelBundleError(
            f'bundle {model} has the digest {found[:12]}',
            f'{info.model_sha256[:12]}, the one that scored the selection',
            'name that bundle with --model, or score and select again')
    return bundle


def _frames(
    rows: list[Row], bundle: ModelBundle, settings: Settings, has_uncertainty: bool,
    left_out: LeftOut,
) -> Iterator[LabelFrame]:
    ignore = load_ignore_mask(settings.ignore_mask)
    by_source: dict[tuple[str, str, str, str], dict[int, Row]] = {}
    for row in rows:
        place = row['dive'], row['source'], row['kind'], row['topic']
        by_source.setdefault(place, {})[row['index']] = row
    with closing(open_pipeline(bundle, settings, ignore)) as pipeline:
        for (_, *source), wanted in by_source.items():
            path, kind, topic = source
            missing = dict(wanted)
            try:
                ros_frame_of = ros_frames(path, kind, topic)
                for frame in frames_at(path, kind, topic, wanted):
                    row = missing.pop(frame.index)
                    if isinstance(frame, SourceFrame):
                        row['ros_frame'] = ros_frame_of(frame)
                    yield from _usable(frame, row, pipeline, has_uncertainty, left_out)
            except (UncertaintySegError, OSError) as err:
                left_out.add(f'{len(missing)} frames of {path}: {err}', len(missing))
            else:
                for row in missing.values():
                    left_out.add(f'{row["frame_key"]} is not in its source any more.')


def _usable(
    frame: SourceFrame | BadFrame, row: Row, pipeline: Pipeline, has_uncertainty: bool,
    left_out: LeftOut,
) -> Iterator[LabelFrame]:
    if isinstance(frame, BadFrame):
        left_out.add(f'{row["frame_key"]}: {frame.reason}')
        return
    try:
        yield _frame(frame, row, pipeline, has_uncertainty)
    except UncertaintySegError as err:
        left_out.add(f'{row["frame_key"]}: {err}')


def _frame(
    frame: SourceFrame, row: Row, pipeline: Pipeline, has_uncertainty: bool
) -> LabelFrame:
    image = decode(frame.raw)
    _require_scored(frame, image, row)
    result = pipeline.measure(image, frame.stamp_ns)
    data = bytes(frame.raw.data) if isinstance(frame.raw, ImageFile) else _png(image)
    ratio = row['score_ratio']
    key = f'{Path(row["source"]).name}#{row["topic"]}#{row["index"]}'
    return LabelFrame(
        stem=stem_of(row['dive'], row['name']), key=key, dive=row['dive'],
        camera=row['camera'], stamp_ns=row['stamp_ns'], frame_id=row['ros_frame'],
        image_file=data, ending=image_ending(data),
        mask=result.label_at_source(),
        uncertainty=result.map_at_source(pipeline.settings.map) if has_uncertainty else None,
        reason=row['reason'], score=float('nan') if ratio is None else float(ratio))


def _require_scored(frame: SourceFrame, image: ImageU8, row: Row) -> None:
    bits = hash_distance(perceptual_hash(image), row['phash'])
    if (frame.stamp_ns != row['stamp_ns'] or image.shape[:2] != (row['height'], row['width'])
            or bits > _HASH_SLACK):
        raise DatasetError('another image is in its place', 'the one that was scored',
                           'its source has changed: score it again, and select')


def _png(image: ImageU8) -> bytes:
    _, data = cv2.imencode('.png', image)
    return bytes(data.tobytes())
