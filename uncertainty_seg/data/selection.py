# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose frames of score tables that are worth a label, and find the frames behind rows of a table.

The strategies are in `strategies`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import (
    DecodeLimits,
    MAX_PIXELS,
    RUN_UNCALIBRATED,
    settings_from_dict,
)
from uncertainty_seg.data.strategies import (
    Candidates,
    draw_control,
    joined,
    looks_like_video,
    Selection,
    SelectionRequest,
    STRATEGIES,
)
from uncertainty_seg.data.strategies import (
    select as choose,
)
from uncertainty_seg.errors import (
    ConfigError,
    ImageError,
    ModelBundleError,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.foreign_files import as_paths, load_ignore_mask
from uncertainty_seg.storage.frame_sources import BadFrame, frames_at, SourceFrame, Whereabouts
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.review_record import CONTROL, CONTROL_SPLIT, SELECTED
from uncertainty_seg.storage.score_rows import (
    FILE_COLUMN,
    frame_key,
    info_of,
    list_parts,
    read_info,
    read_keys,
    read_rows,
    schema_of,
    SCORE_PREFIX,
    TableInfo,
    unique_dives,
)
from uncertainty_seg.storage.whole_files import json_text, whole_file

RATIO = 'score_ratio'
# Ranks the frames of a bundle without a calibration, which has no thresholds for a ratio.
COLD_SCORE = 'entropy.mean'
PARQUET = 'selection.parquet'
METADATA_KEY = b'uncertainty_seg.selection'
# Bits by which a picture's hash may differ: releases of a JPEG decoder round differently.
_DECODERS_DIFFER = 2
# Columns that identify and locate a frame.
_WHERE = ('frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'index', 'stamp_ns', FILE_COLUMN)
Row = dict[str, Any]


@dataclass(frozen=True)
class SelectionOutcome:
    """
    What was chosen, from which rows, and how.

    Attributes
    ----------
    table : pyarrow.Table
        All rows, with the columns that identify and locate each; dives that share a name have
        different names here.
    info : TableInfo
        Of the table.
    candidates, request, selection : Candidates, SelectionRequest, Selection
        The same rows, the request, and what was chosen.
    origins : tuple of str
        Of each chosen frame, one of `review_record.ORIGINS`.
    num_control : int
        How many of the last chosen frames are for the split of control frames.
    remarks : list of str
        Sentences for the user.

    """

    table: Any
    info: TableInfo
    candidates: Candidates
    request: SelectionRequest
    selection: Selection
    origins: tuple[str, ...]
    remarks: list[str]
    num_control: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts, which the written table also stores."""
        chosen = self.selection
        return {**asdict(self.request), 'model': self.info.model,
                'model_sha256': self.info.model_sha256, 'chosen': len(chosen.rows),
                'candidates': chosen.num_candidates, 'near_duplicates': chosen.num_duplicates,
                'unscored': chosen.num_unscored, 'control': self.origins.count(CONTROL),
                'control_split': self.num_control,
                'dives': len(set(self.candidates.dives)),
                'dives_chosen': len(set(self.candidates.dives[chosen.rows]))}


def select(
    tables: Path | str | Sequence[Path | str],
    count: int,
    out: Path | str | None = None,
    *,
    strategy: str = next(iter(STRATEGIES)),
    score: str | None = None,
    seed: int = 0,
    limit: float | None = None,
    labelled: Path | str | Sequence[Path | str] = (),
    per_dive: int | None = None,
    min_gap: float | None = None,
    min_distance: int = 12,
    control: int = 0,
    force: bool = False,
) -> SelectionOutcome:
    """
    Choose the frames of score tables that are worth a label, with a reason for each.

    Parameters
    ----------
    tables : Path, str or sequence of them
        Score tables (folders or parts), of one model and its settings.
    count : int
        Frames wanted.
    out : Path or str, optional
        Folder to write the selection to; if omitted, nothing is written.
    strategy : str
        A key of `strategies.STRATEGIES`.
    score : str, optional
        Score to choose by; default 'score_ratio', or 'entropy.mean' for a bundle without a
        calibration.
    seed : int
        Of the random choices.
    limit : float, optional
        Of the strategy 'threshold'; 1, where the flag falls, for 'score_ratio'.
    labelled : Path, str or sequence of them
        Tables or selections of labelled frames. These and their near duplicates are left out, and
        distances include them.
    per_dive : int, optional
        Maximum number of frames per dive.
    min_gap : float, optional
        Minimum time between two selected frames of a dive, in seconds. If omitted, strategies with
        distances use half of an even spread over the time of videos, and less if too few frames
        remain.
    min_distance : int
        Frames whose perceptual hashes differ in fewer of their 64 bits are duplicates; 0: none.
    control : int
        Number of additional frames that are drawn at random from all, to measure on: see
        `draw_control`. The other frames are from other videos and do not look like them.
    force : bool
        Replace a selection that is in `out`.

    Returns
    -------
    SelectionOutcome
        Rows, reasons and counts, and remarks for the user.

    Raises
    ------
    TableError
        If a table cannot be read, or is of another model.
    ConfigError
        If an option does not fit the table, no frame is left to choose, or `out` is taken.

    """
    if out is not None:
        _require_place(Path(out), force)
    remarks: list[str] = []
    paths = as_paths(tables)
    info = read_info(first_part(paths))
    column = score_column(score or first_score(info), info)
    names = (*_WHERE, column, 'phash', 'features')
    table = read_table(paths, remarks, names)
    if count + control > len(table):
        raise ConfigError(f'{count + control} frames were requested of {len(table)}',
                          f'at most {len(table)}',
                          'ask for fewer, or give more tables')
    if column == SCORE_PREFIX + COLD_SCORE and not score:
        remarks.append(f'The table is of a bundle without a calibration: it has no {RATIO}, and '
                       f'{COLD_SCORE} ranks the frames.')
    known = read_table(as_paths(labelled), remarks, names) if labelled else None
    table, known = name_dives(table, known, remarks)
    pool = candidates_of(table, column)
    table = table.select(_WHERE)
    labels = None if known is None else _labelled(known, info, column, remarks)
    request = SelectionRequest(
        strategy, count, column.removeprefix(SCORE_PREFIX), seed,
        _limit(column, limit) if strategy == 'threshold' else None, per_dive, min_gap,
        min_distance)
    num_known = 0 if labels is None else len(set(pool.keys) & set(labels.keys))
    drawn, is_held = np.zeros(0, np.int64), np.isin(pool.dives, _set_aside(as_paths(labelled)))
    if is_held.any():
        remarks.append(f'{int(is_held.sum())} frames are left out, since control frames were '
                       'drawn from their dives before.')
    if control:
        drawn, is_of_control = _draw_control(pool, control, request, num_known)
        is_held |= is_of_control
        labels = _beside(pool.cut(drawn), labels)
    chosen = choose(pool.cut(~is_held) if is_held.any() else pool, request, labels)
    chosen = replace(chosen, rows=np.flatnonzero(~is_held)[chosen.rows])
    if not len(chosen.rows):
        raise ConfigError(f'no frame is left of {chosen.num_candidates}: '
                          f'{_why_fewer(pool, request, chosen, num_known)}', 'at least one',
                          'score more dives')
    origins = (SELECTED,) * len(chosen.rows) if control else _origins(
        pool, request, chosen, num_known, selected_keys(paths), remarks)
    remarks += _remarks(pool, request, chosen, num_known)
    found = SelectionOutcome(table, info, pool, request, _with_control(chosen, drawn, seed),
                             origins + (CONTROL,) * len(drawn), remarks, len(drawn))
    return found if out is None else _write(Path(out), found, paths)


def first_part(paths: Sequence[Path]) -> Path:
    """Return the first part of score tables; TableError if there is none."""
    parts = [part for path in paths for part in list_parts(path)]
    if not parts:
        raise TableError(f'no part in {", ".join(map(str, paths))}', 'at least one',
                         'run uncertainty_seg score')
    return parts[0]


def _set_aside(labelled: Sequence[Path]) -> list[str]:
    """Return the dives from which earlier selections drew control frames."""
    tables = [read_rows(part, ['dive', 'split']) for path in labelled for part in list_parts(path)]
    return [dive for rows in tables if 'split' in rows.column_names
            for dive, split in zip(*(rows.column(name).to_pylist() for name in ('dive', 'split')),
                                   strict=True) if split == CONTROL_SPLIT]


def _draw_control(
    pool: Candidates, control: int, request: SelectionRequest, num_known: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if num_known:
        raise ConfigError(f'control frames were requested, but {num_known} frames have labels',
                          'tables without labelled frames, so all frames have the same chance',
                          'draw control frames with the first selection of a dive')
    return draw_control(pool, control, request.count, request.seed)


def _beside(drawn: Candidates, labels: Candidates | None) -> Candidates:
    """Add control frames to the labelled frames: frames that look like them are left out too."""
    # Without features, because distances are measured only to frames that are trained on.
    features = None if drawn.features is None else np.full_like(drawn.features, np.nan)
    return joined(replace(drawn, features=features), labels)


def _with_control(chosen: Selection, drawn: NDArray[np.int64], seed: int) -> Selection:
    why = f'control: drawn at random from all frames, seed {seed}, to measure on.'
    return replace(chosen, rows=np.concatenate([chosen.rows, drawn]),
                   reasons=chosen.reasons + (why,) * len(drawn),
                   stands_for=np.concatenate([chosen.stands_for, np.zeros_like(drawn)]))


def _origins(
    pool: Candidates, request: SelectionRequest, chosen: Selection, num_known: int,
    before: set[str], remarks: list[str],
) -> tuple[str, ...]:
    """
    Return the origin of each chosen frame, and remark on draws that do not count as random.

    A random draw represents its dives only if every frame had the same chance: nothing was left
    out, and no frame is only in an earlier selection by a score, as those in `before` are.
    """
    if request.strategy != 'random':
        return (SELECTED,) * len(chosen.rows)
    why = []
    if chosen.num_duplicates:
        why.append(f'{chosen.num_duplicates} near duplicates were left out')
    if num_known:
        why.append(f'{num_known} labelled frames were left out')
    if request.per_dive is not None:
        why.append('frames per dive were limited')
    if request.min_gap_s:
        why.append('a minimum gap was set')
    origins = tuple(SELECTED if why or key in before else CONTROL
                    for key in pool.keys[chosen.rows])
    if SELECTED in origins:
        why = why or ['the tables are selections by a score']
        remarks.append(
            f'{origins.count(SELECTED)} of the {len(origins)} frames do not count as randomly '
            f'drawn, since {" and ".join(why)}: use them for training; calibrate leaves them out.')
    return origins


def _labelled(
    table: Any, info: TableInfo, column: str, remarks: list[str]
) -> Candidates:
    """Return the labelled frames; those of another model with their hashes alone."""
    if info_of(table.schema) == info:
        return candidates_of(table, column)
    remarks.append(f'{len(table)} labelled frames were scored with another model or settings: '
                   'they and their near duplicates are left out, and their scores are not used.')
    return Candidates(_objects(table, 'frame_key'), _objects(table, 'dive'),
                      np.full(len(table), np.nan), _hashes(table))


def first_score(info: TableInfo) -> str:
    """Return the score that ranks the frames of a table unless another one is named."""
    is_cold = info.settings.get('uncalibrated') == RUN_UNCALIBRATED
    return COLD_SCORE if is_cold else RATIO


def _limit(column: str, limit: float | None) -> float:
    if limit is None and column != RATIO:
        raise ConfigError(f'the strategy threshold has no limit for {column}', 'a number')
    return 1.0 if limit is None else limit  # the ratio at which the gate's thresholds are


def _why_fewer(
    pool: Candidates, request: SelectionRequest, chosen: Selection, num_known: int
) -> str:
    why = [f'{num_known} are labelled'] if num_known else []
    why.append(f'{chosen.num_duplicates} look like others')
    if request.limit is not None:
        known = pool.scores[np.isfinite(pool.scores)]
        why.append(f'the limit of {request.score_name} is {request.limit:.6g} and the largest '
                   f'{known.max() if len(known) else math.nan:.6g}')
    if request.per_dive is not None:
        why.append(f'frames per dive are limited to {request.per_dive}')
    if request.min_gap_s:
        why.append(f'frames of a dive must be {request.min_gap_s:g} s apart')
    return ', '.join(why)


def _remarks(
    pool: Candidates, request: SelectionRequest, chosen: Selection, num_known: int
) -> list[str]:
    said = []
    if len(chosen.rows) < request.count:
        why = _why_fewer(pool, request, chosen, num_known)
        said.append(f'only {len(chosen.rows)} of the {request.count} requested frames were left '
                    f'of {chosen.num_candidates}: {why}.')
    if chosen.num_unscored:
        said.append(f'{chosen.num_unscored} of the frames could not be scored: '
                    + ('drawn like the others.' if request.strategy == 'random'
                       else 'chosen first.'))
    return said


# -------------------------------------------------------------------------------------------------
# From a score table to the candidates of a selection.


def read_table(
    paths: Sequence[Path], remarks: list[str], columns: Sequence[str] | None = None
) -> Any:
    """
    Read score tables, their parts or earlier selections as one `pyarrow.Table`.

    Each frame appears once, with the first of its rows; duplicates are remarked on. `columns` are
    those of a score table to read, with `frame_key`; default all. Raises TableError if a table
    cannot be read, has no row or lacks a column, or the tables are of different models.
    """
    listed = ', '.join(str(path) for path in paths)
    # The additional columns of a selection are left out, so that it can be read beside a table.
    columns = columns or schema_of(read_info(first_part(paths))).names
    table = read_rows(paths, columns)
    _require_columns(table, columns, listed)
    if not len(table):
        raise TableError(f'{listed} has no frame', 'at least one', 'score a source with frames')
    first = first_rows(table)
    if len(first) < len(table):
        remarks.append(f'{len(table) - len(first)} duplicate rows of {listed} were left out.')
        table = table.take(first)
    return table


def first_rows(table: Any) -> NDArray[np.int64]:
    """Return the first row of each frame, in order."""
    keys = table.column('frame_key').to_pylist()
    return np.sort(list({key: row for row, key in reversed(list(enumerate(keys)))}.values()))


def _require_columns(table: Any, columns: Sequence[str], listed: str) -> None:
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise TableError(f'{listed} has no column {", ".join(lacking)}',
                         'a table of uncertainty_seg score', 'score the sources again')


def selected_keys(paths: Sequence[Path]) -> set[str]:
    """
    Return the keys of frames that are only in earlier selections that were not random draws.

    A draw from these is a draw from frames with a high score.
    """
    selected, others = set[str](), set[str]()
    for part in (part for path in paths for part in list_parts(path)):
        rows = read_rows(part, ['frame_key', 'rank', 'origin'])
        keys = rows.column('frame_key').to_pylist()
        if 'rank' not in rows.column_names:
            others.update(keys)
            continue
        for key, origin in zip(keys, rows.column('origin').to_pylist(), strict=True):
            (others if origin == CONTROL else selected).add(key)
    return selected - others


def name_dives(table: Any, labelled: Any, remarks: list[str]) -> tuple[Any, Any]:
    """
    Name the dives of one or two tables so that two runs of one name are two dives.

    `dive` becomes the name by `unique_dives` of both together; changes are remarked on.
    """
    import pyarrow as pa

    if labelled is not None:
        labelled = _by_paths_of(table, labelled)
    together = pa.concat_tables([one.select(['dive', 'source', 'run'])
                                 for one in (table, labelled) if one is not None])
    names = unique_dives(together)
    changed = {new for old, new in zip(together.column('dive').to_pylist(), names, strict=True)
               if (old or '') != new}
    if changed:
        remarks.append(f'{len(changed)} dives of different paths share a name and are '
                       f'distinguished by 6 digits ({", ".join(sorted(changed)[:3])}); if they '
                       'are one dive, give it one name when scoring.')
    own, others = names[:len(table)], names[len(table):]
    return with_values(table, 'dive', own), \
        None if labelled is None else with_values(labelled, 'dive', others)


def _by_paths_of(table: Any, labelled: Any) -> Any:
    """Name the sources of labelled frames as the table does, if they are the same files."""
    for column in ('source', 'run'):
        known = {os.path.realpath(path): path for path in set(table.column(column).to_pylist())}
        paths = labelled.column(column).to_pylist()
        names = {path: known.get(os.path.realpath(path), path) for path in set(paths)}
        labelled = with_values(labelled, column, [names[path] for path in paths])
    parts = zip(*(labelled.column(name).to_pylist()
                  for name in ('source', 'topic', 'index', FILE_COLUMN)), strict=True)
    return with_values(labelled, 'frame_key', [frame_key(*part) for part in parts])


def with_values(table: Any, column: str, values: Sequence[str]) -> Any:
    """Return a table with other texts in a column."""
    import pyarrow as pa

    return table.set_column(table.column_names.index(column), column,
                            pa.array(values, pa.string()))


def score_column(name: str, info: TableInfo) -> str:
    """Find the column of a score; ConfigError, which lists the scores, if there is none."""
    if name == RATIO:
        return name
    if name not in info.score_names:
        raise ConfigError(f'the table has no score {name!r}',
                          f'one of {", ".join((RATIO, *info.score_names))}')
    return f'{SCORE_PREFIX}{name}'


def candidates_of(table: Any, column: str) -> Candidates:
    """Return the rows of a table as candidates, with the score of a column."""
    dives, features = _objects(table, 'dive'), vectors_of(table, 'features')
    times_s = np.asarray(table.column('stamp_ns').to_numpy(), np.int64) / 1e9
    scores = np.asarray(table.column(column).to_numpy(), np.float64)
    return Candidates(
        _objects(table, 'frame_key'), dives, scores, _hashes(table), features, times_s,
        _is_video(table, dives, times_s, features))


def _is_video(
    table: Any, dives: NDArray[np.object_], times_s: NDArray[np.float64],
    features: NDArray[np.float32] | None,
) -> NDArray[np.bool_]:
    kinds = _objects(table, 'kind')
    is_video = kinds != 'folder'
    for name in dict.fromkeys(dives[~is_video]):
        rows = np.flatnonzero((dives == name) & (kinds == 'folder'))
        rows = rows[np.argsort(times_s[rows], kind='stable')]
        is_video[rows] = looks_like_video(None if features is None else features[rows])
    return is_video


def _objects(table: Any, name: str) -> NDArray[np.object_]:
    return np.array(table.column(name).to_pylist(), object)


def _hashes(table: Any) -> NDArray[np.uint64]:
    return np.asarray(table.column('phash').to_numpy(), np.uint64)


def vectors_of(table: Any, name: str) -> NDArray[np.float32] | None:
    """Return a column of vectors, (n, D); None if the table lacks it."""
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(-1, column.type.list_size)


# -------------------------------------------------------------------------------------------------
# The frames behind the rows of a table: their images, and the model that scored them.


@dataclass
class LeftOut:
    """Frames that are not available: why, and how many."""

    sentences: list[str] = field(default_factory=list)
    frames: int = 0

    def add(self, sentence: object, frames: int = 1) -> None:
        """Record why some frames are left out."""
        self.sentences.append(' '.join(str(sentence).split()))
        self.frames += frames


def scored_frames(
    rows: Iterable[Row], where: Whereabouts, limits: DecodeLimits, left_out: LeftOut,
) -> Iterator[tuple[Row, SourceFrame, ImageU8]]:
    """
    Read the frames of rows of a table, source by source, if they have not changed since scoring.

    Each source is read once, from its start to the last of the frames, unless they are few. Stamp,
    size and hash show if a source has changed and has another picture in the same place.
    """
    by_source: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        place = row['dive'], row['source'], row['kind'], row['topic']
        by_source.setdefault(place, {})[row['index']] = row
    for (_, source, kind, topic), wanted in by_source.items():
        path, missing = where.find(source), dict(wanted)
        if not Path(path).exists():
            left_out.add(f'{len(missing)} frames of {path}: it is missing; if moved, name its new '
                         'folder.', len(missing))
            continue
        files = {index: row[FILE_COLUMN] or '' for index, row in wanted.items()}
        try:
            stamps = {index: row['stamp_ns'] for index, row in wanted.items()}
            for frame in frames_at(path, kind, topic, wanted, files, stamps):
                row = missing.pop(frame.index)
                image = _scored_image(frame, row, limits, left_out)
                if image is not None and isinstance(frame, SourceFrame):
                    yield row, frame, image
        except (UncertaintySegError, OSError) as err:
            left_out.add(f'{len(missing)} frames of {path}: {err}', len(missing))
        else:
            for row in missing.values():
                left_out.add(f'{row["frame_key"]} is missing in its source.')


def _scored_image(
    frame: SourceFrame | BadFrame, row: Row, limits: DecodeLimits, left_out: LeftOut
) -> ImageU8 | None:
    if isinstance(frame, BadFrame):
        left_out.add(f'{row["frame_key"]}: {frame.reason}')
        return None
    try:
        image = decode(frame.raw, limits)
    except ImageError as err:
        left_out.add(f'{row["frame_key"]}: {err}')
        return None
    bits_apart = (row['phash'] ^ perceptual_hash(image)).bit_count()
    if frame.stamp_ns != row['stamp_ns'] or bits_apart > _DECODERS_DIFFER \
            or image.shape[:2] != (row['height'], row['width']):
        left_out.add(f'{row["frame_key"]}: the image has changed since it was scored: score its '
                     'source again.')
        return None
    return image


def decode_limits(info: TableInfo) -> DecodeLimits:
    """Return the decoding limits with which the frames of a table were scored."""
    return DecodeLimits(int(info.settings.get('max_image_px', MAX_PIXELS)))


def open_model(info: TableInfo, model: str) -> Pipeline:
    """
    Open the bundle that scored a table, at its present place, with the settings of the table.

    Its flag stays false. Raises ModelBundleError if the bundle is missing or is another one.
    """
    bundle = load_bundle(model)
    found = model_digest(bundle.card)
    if found != info.model_sha256:
        raise ModelBundleError(
            f'bundle {model} has the digest {found[:12]}',
            f'{info.model_sha256[:12]}, the one that scored the table',
            'name that bundle, or score and select again')
    settings = replace(settings_from_dict(dict(info.settings)), backend='auto', model=model)
    # As in scoring, even if the thresholds are for the masks of another seed: nothing is judged.
    temperature = bundle.calibration.temperature if bundle.calibration else 1.0
    return open_pipeline(bundle, settings, load_ignore_mask(settings.ignore_mask), temperature)


# -------------------------------------------------------------------------------------------------
# The table of a selection.


def _require_place(folder: Path, is_replacing: bool) -> None:
    """Refuse a file, what is no selection, and a selection, unless it may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f'{folder} is a file', 'a folder for the selection')
    is_selection = (folder / PARQUET).exists()
    if folder.exists() and not is_selection and any(folder.glob('[!.]*')):
        # A selection inside would count as a part of a table.
        raise ConfigError(f'{folder} holds something else', 'a new folder', 'name another one')
    if is_selection and not is_replacing:
        raise ConfigError(f'{folder} holds a selection already', 'a new folder',
                          'name another one, or allow to replace it')


def _write(folder: Path, found: SelectionOutcome, paths: Sequence[Path]) -> SelectionOutcome:
    """Write the table of a selection, whole or not at all."""
    from pyarrow.parquet import write_table

    rows = _chosen_rows(found, paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Arrow accepts only UTF-8 paths.
        with whole_file(folder / PARQUET) as draft, draft.open('wb') as file:
            write_table(rows, file, compression='zstd')
    except OSError as err:
        raise ConfigError(f'{folder} cannot be written ({err.strerror})',
                          'a writable folder with free space') from err
    return found


def _drawn_dives(found: SelectionOutcome) -> list[str]:
    """Return the dives of chosen rows; with control frames, each photograph is its own dive."""
    pool, rows = found.candidates, found.selection.rows
    files = found.table.column(FILE_COLUMN).to_pylist()
    is_alone = np.zeros(len(pool), np.bool_)
    if found.num_control and pool.is_video is not None:
        is_alone = ~pool.is_video
    return [f'{pool.dives[row]}/{Path(files[row]).stem}' if is_alone[row] else pool.dives[row]
            for row in rows]


def _chosen_rows(found: SelectionOutcome, paths: Sequence[Path]) -> Any:
    """Return the chosen rows, with rank, strategy, origin, reason etc., as a `pyarrow.Table`."""
    import pyarrow as pa

    selection, names = found.selection, schema_of(found.info).names
    rows = read_keys(paths, found.candidates.keys[selection.rows].tolist(), names)
    _require_columns(rows, names, ', '.join(map(str, paths)))
    num_hard = len(rows) - found.num_control
    rows = with_values(rows, 'dive', _drawn_dives(found))
    ends = {
        'rank': pa.array(range(1, len(rows) + 1), pa.int32()),
        'strategy': pa.array([found.request.strategy] * len(rows), pa.string()),
        'origin': pa.array(found.origins, pa.string()),
        'split': pa.array([''] * num_hard + [CONTROL_SPLIT] * found.num_control, pa.string()),
        'reason': pa.array(selection.reasons, pa.string()),
        'stands_for': pa.array(selection.stands_for, pa.int64()),
    }
    for name, values in ends.items():
        rows = rows.append_column(name, values)
    return rows.replace_schema_metadata({
        **(rows.schema.metadata or {}), METADATA_KEY: json_text(found.summary()).encode()})
