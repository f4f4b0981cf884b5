# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Frames of a selection as `LabelFrame`: images from their sources, masks from the model again.

A selection holds scores, not masks. The bundle that scored it must be here, which its digest
shows; with its settings the pipeline gives the same masks. A source may have changed since: what
is exported is the image that was scored, by its stamp, size and hash, or nothing.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.image_codec import check_file, decode, ImageFile
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.data.labels.frames import decoded, LabelFrame, safe_name
from uncertainty_seg.errors import (
    DatasetError,
    FrameLogError,
    ModelBundleError,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.bags.reader import BagImage, BagReader, CAMERA_NAMES
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.frame_log.format import iter_frames, LoggedFrame
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at, SourceFrame, Whereabouts
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest
from uncertainty_seg.storage.perceptual_hash import hash_distance, perceptual_hash
from uncertainty_seg.storage.review_record import CONTROL, SELECTED
from uncertainty_seg.storage.score_rows import (
    FILE_COLUMN,
    frame_key,
    read_info,
    read_rows,
    short_digest,
    TableInfo,
    unique_dives,
)

# -------------------------------------------------------------------------------------------------
# What a selection does not hold of its frames: the name of the camera, and its ROS frame.


def camera_of(kind: str, topic: str) -> str:
    """
    Name the camera of a row by its topic, or for a log by the camera that it names.

    '/front/image_raw/compressed' is 'front', '/front/image_rect' is 'front/image_rect'.
    """
    if kind != 'bag':
        return topic
    parts = topic.removesuffix('/compressed').strip('/').split('/')
    return '/'.join(parts[:-1] if parts[-1] in CAMERA_NAMES else parts)


def has_cameras(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether a dive has frames of more than one camera, so that they must be named."""
    topics: dict[str, set[str]] = {}
    for row in rows:
        topics.setdefault(row['dive'], set()).add(row['topic'])
    return any(len(names) > 1 for names in topics.values())


def ros_frames(source: str, kind: str, topic: str) -> Callable[[SourceFrame], str]:
    """
    Return a function that gives the ROS frame of a frame of a source.

    Of a log it is the frame's own, of a bag that of the first message on the topic. It is empty
    where it is not known.
    """
    try:
        if kind == 'log':
            sidecars = [frame.sidecar for frame in iter_frames(source, [])]
            known = {(str(sidecar.get('camera', '')), int(sidecar['stamp_ns'])):
                     str(sidecar.get('ros_frame', '')) for sidecar in sidecars}
            return lambda frame: known.get((frame.topic, frame.stamp_ns), '')
        name = _first_ros_frame(source, topic) if kind == 'bag' else ''
    except (UncertaintySegError, OSError):
        name = ''  # whoever reads the frames says what is wrong
    return lambda frame: name


def _first_ros_frame(bag: str, topic: str) -> str:
    with BagReader(bag) as reader:
        for item in reader.images(topic):
            if isinstance(item, BagImage):
                return item.frame_id
    return ''


# -------------------------------------------------------------------------------------------------
# Frames of frame logs as `LabelFrame`: image and mask as the vehicle stored them.

IGNORE_INDEX = 255
_JPEG_START = b'\xff\xd8'
Item = TypeVar('Item')


@dataclass
class LeftOut:
    """
    What is not exported.

    Attributes
    ----------
    sentences : list of str
        Why; one may stand for many frames.
    frames : int
        How many.

    """

    sentences: list[str] = field(default_factory=list)
    frames: int = 0

    def add(self, sentence: object, frames: int = 1) -> None:
        """Note why some frames are left out."""
        self.sentences.append(str(sentence))
        self.frames += frames


@dataclass
class FrameFeed:
    """
    Frames to export.

    Attributes
    ----------
    classes : ClassTable
        Of all of them.
    frames : iterator of LabelFrame
        Read once.
    total : int
        How many there may be, for the progress bar.
    left_out : LeftOut
        Grows while frames are read.

    """

    classes: ClassTable
    frames: Iterator[LabelFrame]
    total: int
    left_out: LeftOut = field(default_factory=LeftOut)


def frames_of_logs(
    folders: Sequence[Path], has_uncertainty: bool, reasons: Sequence[str] = ()
) -> FrameFeed:
    """
    Open frame logs, also while they are being written: what is finished is read.

    Raises FrameLogError if a folder is no frame log; DatasetError if there is no frame in it, or
    frames have other classes than the first one.

    Parameters
    ----------
    folders : sequence of Path
        The logs; those of several dives may be exported together.
    has_uncertainty : bool
        Read the uncertainty maps too.
    reasons : sequence of str
        Keep only frames that were kept for one of these; empty keeps all.

    Returns
    -------
    FrameFeed
        Dive by dive, in the order of the folders and of the frames. A frame whose image, mask or
        sidecar is missing or damaged is left out and reported.

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
    left_out = LeftOut(problems, len(problems))
    frames = _logged_frames(logged, classes, has_uncertainty, left_out)
    return FrameFeed(classes, frames, len(logged), left_out)


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


def stem_of(dive: str, name: str) -> str:
    """Return the name of a frame's files, which tells the dive."""
    return f'{safe_name(dive)}_{safe_name(name)}'


def image_ending(data: bytes) -> str:
    """Return '.jpg' or '.png' by what a file begins with."""
    return '.jpg' if data.startswith(_JPEG_START) else '.png'


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
    return LabelFrame(
        stem=stem_of(dive, entry.frame_id), key=entry.frame_id, dive=dive,
        camera=str(sidecar.get('camera', '')),
        stamp_ns=int(sidecar['stamp_ns']), frame_id=str(sidecar.get('ros_frame', '')),
        image_file=data, ending=image_ending(data), mask=mask,
        uncertainty=entry.read_uncertainty() if has_uncertainty else None,
        origin=CONTROL if sidecar.get('reason') == CONTROL else SELECTED,
        reason=_reason(sidecar), score=float('nan') if ratio is None else float(ratio))


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


SELECTION_FILE = 'selection.parquet'
# `run`, `origin`, `embedding` and `file` are missing from older tables.
_COLUMNS = ('frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height',
            'width', 'score_ratio', 'phash', 'origin', 'reason', 'features',
            'embedding', FILE_COLUMN)
# Another release of a JPEG decoder may move a bit of the hash.
_HASH_SLACK = 2
Row = dict[str, Any]


def frames_of_selection(
    path: Path, has_uncertainty: bool, model: str | None = None, backend: str | None = None,
    root: Path | None = None,
) -> FrameFeed:
    """
    Open a selection.

    Raises TableError if the file is no selection; ModelBundleError if the bundle is missing or is
    not the one that scored it.

    Parameters
    ----------
    path : Path
        ``selection.parquet``, or the folder with it.
    has_uncertainty : bool
        Compute the uncertainty maps too.
    model, backend : str, optional
        Where the bundle is now, and what runs it; as in the table if None.
    root : Path, optional
        Where the sources are now; see `Whereabouts`.

    Returns
    -------
    FrameFeed
        Dive by dive, then source by source. Frames that cannot be read or are not those that
        were scored are left out and reported, as are those of a source that is gone.

    """
    file = path / SELECTION_FILE if path.is_dir() else path
    places = Whereabouts(file, root)
    info = read_info(file)
    rows = _rows(file)
    # The settings of the log do not change a mask, and an older table may have one that is gone.
    changed = {name: value for name, value in info.settings.items()
               if not name.startswith('log.')}
    changed |= {'model': model or places.find_bundle(info.model)}
    if backend:
        changed['backend'] = backend
    settings = settings_from_dict(changed)
    bundle = _bundle(settings.model, info)
    classes = distinct_classes(info.class_names, info.palette)
    feed = FrameFeed(classes, iter(()), len(rows))
    frames = _frames(rows, bundle, settings, has_uncertainty, feed.left_out, places)
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
    left_out: LeftOut, places: Whereabouts,
) -> Iterator[LabelFrame]:
    ignore = load_ignore_mask(settings.ignore_mask)
    by_source: dict[tuple[str, str, str, str], dict[int, Row]] = {}
    for row in rows:
        place = row['dive'], row['source'], row['kind'], row['topic']
        by_source.setdefault(place, {})[row['index']] = row
    # As it was scored, also with masks of a seed that its limits are not for: nothing is judged.
    temperature = bundle.calibration.temperature if bundle.calibration else None
    with closing(open_pipeline(bundle, settings, ignore, temperature)) as pipeline:
        for (_, *source), wanted in by_source.items():
            path, kind, topic = places.find(source[0]), *source[1:]
            missing = dict(wanted)
            if not Path(path).exists():
                left_out.add(f'{len(missing)} frames of {path}: it is not here; name the folder '
                             'that holds it now with --root.', len(missing))
                continue
            try:
                ros_frame_of = ros_frames(path, kind, topic)
                files = {index: row.get(FILE_COLUMN) or '' for index, row in wanted.items()}
                for frame in frames_at(path, kind, topic, wanted, files):
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
    raw = frame.raw
    image = decode(raw, pipeline.settings.decode_limits)
    _require_scored(frame, image, row)
    result = pipeline.measure(image, frame.stamp_ns)
    # The mask has the size of what was decoded, which may be reduced.
    is_whole = isinstance(raw, ImageFile) and check_file(raw).size == image.shape[:2]
    data = bytes(raw.data) if is_whole else _png(image)
    ratio = row['score_ratio']
    key = frame_key(Path(row['source']).name, row['topic'], row['index'], row.get(FILE_COLUMN))
    return LabelFrame(
        stem=stem_of(row['dive'], row['name']), key=key, dive=row['dive'],
        camera=row['camera'], stamp_ns=row['stamp_ns'], frame_id=row['ros_frame'],
        image_file=data, ending=image_ending(data),
        mask=result.label_at_source(),
        uncertainty=result.map_at_source(pipeline.settings.map) if has_uncertainty else None,
        origin=_origin(row, frame), embedding=_vector(row, 'embedding'),
        features=_vector(row, 'features'),
        reason=row['reason'], score=float('nan') if ratio is None else float(ratio))


def _vector(row: Row, name: str) -> NDArray[np.float32] | None:
    """Return a vector of a row; None where the table has none, or of this frame none is known."""
    vector = np.asarray(row.get(name) or (), np.float32)
    return vector if vector.size and np.isfinite(vector).all() else None


def _origin(row: Row, frame: SourceFrame) -> str:
    """Say how a frame was chosen; a log keeps few frames by chance, whatever is drawn of it."""
    is_drawn = row.get('origin') == CONTROL and frame.kept_as in ('', CONTROL)
    return CONTROL if is_drawn else SELECTED


def _require_scored(frame: SourceFrame, image: ImageU8, row: Row) -> None:
    bits = hash_distance(perceptual_hash(image), row['phash'])
    if (frame.stamp_ns != row['stamp_ns'] or image.shape[:2] != (row['height'], row['width'])
            or bits > _HASH_SLACK):
        raise DatasetError('another image is in its place', 'the one that was scored',
                           'its source has changed: score it again, and select')


def _png(image: ImageU8) -> bytes:
    _, data = cv2.imencode('.png', image)
    return bytes(data.tobytes())
