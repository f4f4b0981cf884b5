# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb select without its files: read the tables, choose, and say what is worth saying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.settings import RUN_UNCALIBRATED
from uncertainty_seg.data.selection.pool import (
    Candidates,
    looks_like_video,
    percentiles,
    SelectionRequest,
)
from uncertainty_seg.data.selection.strategies import select, Selection
from uncertainty_seg.errors import ConfigError, TableError
from uncertainty_seg.storage.review_record import CONTROL, SELECTED
from uncertainty_seg.storage.score_rows import (
    FILE_COLUMN,
    info_of,
    list_parts,
    read_info,
    read_rows,
    schema_of,
    SCORE_PREFIX,
    SHARE_PREFIX,
    TableInfo,
    unique_dives,
)

RATIO = 'score_ratio'
# What ranks the frames of a bundle without a calibration, which has no limits for a ratio.
COLD_SCORE = 'entropy.mean'


@dataclass(frozen=True)
class SelectionOutcome:
    """
    What was chosen, from what, and how.

    Attributes
    ----------
    table : pyarrow.Table
        All rows; dives of one name are told apart.
    info : TableInfo
        Of the table.
    candidates : Candidates
        The same rows.
    request : SelectionRequest
        What was asked for.
    selection : Selection
        What was chosen.
    origins : tuple of str
        Of each chosen frame, one of `review_record.ORIGINS`.
    remarks : list of str
        Sentences for who asked.
    files : tuple of str
        What was written.
    pictures_missing, pictures_changed : int
        Frames without a picture on the contact sheet: those that cannot be read any more, and
        those that are other pictures now.

    """

    table: Any
    info: TableInfo
    candidates: Candidates
    request: SelectionRequest
    selection: Selection
    origins: tuple[str, ...]
    remarks: list[str]
    files: tuple[str, ...] = ()
    pictures_missing: int = 0
    pictures_changed: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts, and what the written table remembers."""
        chosen = self.selection
        return {**asdict(self.request), 'model': self.info.model,
                'model_sha256': self.info.model_sha256, 'chosen': len(chosen.rows),
                'candidates': chosen.num_candidates, 'near_duplicates': chosen.num_duplicates,
                'unscored': chosen.num_unscored, 'over_limit': chosen.num_over_limit,
                'control': self.origins.count(CONTROL),
                'dives': len(set(self.candidates.dives)),
                'dives_chosen': len(set(self.candidates.dives[chosen.rows]))}


def select_frames(
    tables: Sequence[Path], count: int, *, strategy: str, score: str | None, beta: float,
    seed: int, limit: float | None, limit_quantile: float, labelled: Sequence[Path],
    per_dive: int | float | None, min_gap_s: float | None, min_distance: int, skips_unscored: bool,
    min_feature_distance: float = 0.0, distances: str = 'features',
) -> SelectionOutcome:
    """
    Choose frames of tables, and write nothing; `tools.select_frames.select` has the parameters.

    Raises TableError if a table cannot be read, or is of another model; ConfigError if an option
    does not fit the table, or no frame is left to choose.
    """
    remarks: list[str] = []
    table = read_table(tables, remarks)
    if count > len(table):
        raise ConfigError(f'{count} frames were asked of {len(table)}',
                          f'at most {len(table)}', 'give a smaller -n, or more tables')
    info = info_of(table.schema)
    column = score_column(score or _default_score(table, info, remarks), info)
    known = as_in(read_table(labelled, remarks), table) if labelled else None
    table, known = name_dives(table, known, remarks)
    pool = candidates_of(table, info, column, remarks, distances)
    labels = None if known is None else _labelled(known, info, column, remarks, distances)
    if strategy == 'threshold' and limit is None:
        limit = _limit(column, labels, limit_quantile)
    if isinstance(per_dive, float):
        per_dive = max(1, math.ceil(per_dive * count - 1e-9))
    request = SelectionRequest(
        strategy, count, column.removeprefix('score.'), seed, beta,
        limit if strategy == 'threshold' else None, per_dive, min_gap_s, min_distance,
        skips_unscored, min_feature_distance)
    chosen = select(pool, request, labels)
    if not len(chosen.rows):
        raise _nothing_left(pool, request, chosen)
    num_known = 0 if labels is None else len(set(pool.keys) & set(labels.keys))
    why = _why_no_draw(request, chosen, num_known)
    before = selected_keys(tables)
    is_drawn = request.strategy == 'random' and not why
    origins = tuple(CONTROL if is_drawn and key not in before else SELECTED
                    for key in pool.keys[chosen.rows])
    return SelectionOutcome(
        table, info, pool, request, chosen, origins,
        remarks + _remarks(request, chosen) + _draw_remarks(request, why, origins))


def _why_no_draw(request: SelectionRequest, chosen: Selection, num_known: int) -> list[str]:
    """Say what keeps a random draw from being one of all frames; empty if it is one."""
    why = []
    if chosen.num_duplicates:
        options = [name for name, value in (
            ('--min-distance', request.min_distance),
            ('--min-feature-distance', request.min_feature_distance)) if value]
        why.append(f'{chosen.num_duplicates} near duplicates were left out '
                   f'({", ".join(options)})')
    if num_known:
        why.append(f'{num_known} labelled frames were left out (--labelled)')
    if request.skips_unscored and chosen.num_unscored:
        why.append(f'{chosen.num_unscored} frames without a score were left out (--unscored)')
    if request.per_dive is not None:
        why.append('a dive had a limit (--per-dive)')
    if request.min_gap_s:
        why.append('frames had to be apart in time (--min-gap)')
    return why


def _draw_remarks(
    request: SelectionRequest, why: Sequence[str], origins: Sequence[str]
) -> list[str]:
    if request.strategy != 'random' or SELECTED not in origins:
        return []
    count = origins.count(SELECTED)
    if not why:
        why = ['the tables are selections by a score, or of an older release']
    return [f'{count} of the {len(origins)} frames do not count as drawn by chance, since '
            f'{" and ".join(why)}: they train a network, and calibrate leaves them aside.']


def _labelled(
    table: Any, info: TableInfo, column: str, remarks: list[str], distances: str
) -> Candidates:
    """Return the frames that have labels; of another model, by what the images say alone."""
    if info_of(table.schema) == info:
        return candidates_of(table, info, column, distances=distances)
    remarks.append(f'{len(table)} labelled frames were scored with another model or settings: '
                   'they and what looks like them are left out, and their scores do not count.')
    return Candidates(
        keys=_objects(table, 'frame_key'), dives=_objects(table, 'dive'),
        scores=np.full(len(table), np.nan),
        hashes=_hashes(table) if 'phash' in table.column_names else None)


def _default_score(table: Any, info: TableInfo, remarks: list[str]) -> str:
    if info.settings.get('uncalibrated') != RUN_UNCALIBRATED:
        return RATIO
    remarks.append(f'The table is of a bundle without a calibration: it has no {RATIO}, and '
                   f'{COLD_SCORE} ranks the frames.')
    return COLD_SCORE


def _limit(column: str, labelled: Candidates | None, quantile: float) -> float:
    if labelled is not None:
        known = labelled.scores[np.isfinite(labelled.scores)]
        if not len(known):
            raise ConfigError(f'no labelled frame has a {column} of this model', 'some',
                              'give a --limit')
        return float(np.quantile(known, quantile))
    if column == RATIO:
        return 1.0  # where the gate's own limit is
    raise ConfigError(f'the strategy threshold has no limit for {column}', 'a number',
                      'give --limit, or --labelled tables to take it from')


def _nothing_left(pool: Candidates, request: SelectionRequest, chosen: Selection) -> ConfigError:
    if request.strategy == 'threshold' and chosen.num_candidates > chosen.num_duplicates:
        known = pool.scores[np.isfinite(pool.scores)]
        largest = f'the largest is {known.max():.6g}' if len(known) else 'none has one'
        return ConfigError(f'no frame has a {request.score_name} above the limit '
                           f'{request.limit:.6g}: {largest}', '', 'give a lower --limit')
    return ConfigError(
        f'no frame is left of {chosen.num_candidates}: {chosen.num_duplicates} look like others, '
        f'{chosen.num_unscored} could not be scored', 'some', 'score more dives')


def _remarks(request: SelectionRequest, chosen: Selection) -> list[str]:
    said = []
    if len(chosen.rows) < request.count:
        why = [f'{chosen.num_duplicates} look like others']
        if request.limit is not None:
            why.append(f'{chosen.num_over_limit} are above the limit {request.limit:.6g}')
        if request.skips_unscored:
            why.append(f'{chosen.num_unscored} could not be scored')
        if chosen.is_capped:
            why.append(f'no dive may give more than {request.per_dive}')
        if request.min_gap_s:
            why.append(f'those of a dive are {request.min_gap_s:g} s apart')
        said.append(f'only {len(chosen.rows)} of the {request.count} frames asked for were left '
                    f'of {chosen.num_candidates}: {", ".join(why)}.')
    if chosen.num_unscored and not request.skips_unscored:
        said.append(f'{chosen.num_unscored} of the frames could not be scored: '
                    + ('drawn as any other.' if request.strategy == 'random'
                       else 'first to be chosen (--unscored skip leaves them out).'))
    return said


# What is said of a pick: of each kind of score that it is high in the highest, so many of them.
_SHOWN_KINDS, _HIGH_PERCENTILE = 3, 0.75


def high_scores(table: Any, info: TableInfo, rows: Iterable[int]) -> list[str]:
    """
    Say of rows which kinds of score are high in them, of all frames of the table.

    A kind is what stands before the first dot: entropy, density. Empty where none is above three
    quarters of the frames.
    """
    ranks = {}
    for name in info.score_names:
        column = _floats(table, f'{SCORE_PREFIX}{name}')
        known = column[np.isfinite(column)]
        if len(known) and known.min() < known.max() and '.class.' not in name:
            ranks[name] = percentiles(np.where(np.isfinite(column), column, np.nan))
    return [_highest(table, {name: float(rank[row]) for name, rank in ranks.items()}, int(row))
            for row in rows]


def _highest(table: Any, ranks: Mapping[str, float], row: int) -> str:
    best: dict[str, str] = {}
    for name, rank in ranks.items():
        kind = name.partition('.')[0]
        if rank >= _HIGH_PERCENTILE and rank > ranks.get(best.get(kind, ''), 0.0):
            best[kind] = name
    order = sorted(best.values(), key=lambda name: (-ranks[name], name))[:_SHOWN_KINDS]
    return ', '.join(f'{name} {table.column(SCORE_PREFIX + name)[row].as_py():.4g} (above '
                     f'{math.floor(1e3 * ranks[name]) / 10:g} %)' for name in order)


# -------------------------------------------------------------------------------------------------
# From a score table to the candidates of a selection.

# What a selection has, and a table does not.
_CHOSEN = ('rank', 'origin')
_NEEDED = ('frame_key', 'dive', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'score_ratio')


def read_table(paths: Sequence[Path], remarks: list[str]) -> Any:
    """
    Read score tables as one.

    Raises TableError if one cannot be read, has no row or lacks a column, or they are of different
    models.

    Parameters
    ----------
    paths : sequence of Path
        Tables, their parts, or earlier selections.
    remarks : list of str
        Takes a sentence for frames that are there more than once.

    Returns
    -------
    pyarrow.Table
        Each frame once, the first of several.

    """
    listed = ', '.join(str(path) for path in paths)
    table = _read(paths, listed)
    lacking = [name for name in _NEEDED if name not in table.column_names]
    if lacking:
        raise TableError(f'{listed} has no column {", ".join(lacking)}',
                         'a table of uncertainty_seg score', 'score the sources again')
    if not len(table):
        raise TableError(f'{listed} has no frame', 'at least one', 'score a source with frames')
    keys = table.column('frame_key').to_numpy()
    first = list({key: row for row, key in zip(range(len(keys) - 1, -1, -1), keys[::-1],
                                               strict=True)}.values())
    if len(first) < len(keys):
        remarks.append(f'{len(keys) - len(first)} rows of {listed} are of frames that are there '
                       'already and were left out.')
        table = table.take(np.sort(first))
    return table


def selected_keys(paths: Sequence[Path]) -> set[str]:
    """
    Return the keys of frames that are only in earlier selections, where no chance drew them.

    What is drawn of them is drawn of those with a high score. A selection of an older release does
    not say how its frames were drawn: they count as selected.
    """
    selected, others = set[str](), set[str]()
    for part in (part for path in paths for part in list_parts(path)):
        rows = read_rows(part, ['frame_key', *_CHOSEN])
        keys = rows.column('frame_key').to_pylist()
        if 'rank' not in rows.column_names:
            others.update(keys)
            continue
        origins = rows.column('origin').to_pylist() if 'origin' in rows.column_names else \
            [SELECTED] * len(keys)
        for key, origin in zip(keys, origins, strict=True):
            (others if origin == CONTROL else selected).add(key)
    return selected - others


def as_in(labelled: Any, table: Any) -> Any:
    """
    Give labelled frames the key, source and run that they have in a table.

    A source that was scored by another path has other keys there, and its frames are the same:
    those with the camera, stamp, position and hash of the image of a frame of the table. A frame
    whose key is in the table is that one, whatever else looks like it.
    """
    import pyarrow as pa
    from pyarrow import compute

    names = [name for name in ('frame_key', 'source', 'run') if name in table.column_names
             and name in labelled.column_names]
    if any('phash' not in one.column_names for one in (labelled, table)):
        return labelled
    has_files = all(FILE_COLUMN in one.column_names for one in (labelled, table))
    identity = [*_IDENTITY, FILE_COLUMN] if has_files else list(_IDENTITY)
    theirs = [_same_frame(row) for row in labelled.select(identity).to_pylist()]
    is_there = compute.is_in(labelled.column('frame_key'),
                             value_set=table.column('frame_key').combine_chunks()).to_pylist()
    hashes = pa.array([row[-1] for row in theirs], pa.uint64())
    near = table.filter(compute.is_in(table.column('phash'), value_set=hashes))
    ours = {_same_frame(row): row
            for row in near.select(list({*identity, *names})).to_pylist()}
    for name in names:
        old = labelled.column(name).to_pylist()
        new = [ours[same][name] if same in ours and not known else value
               for same, known, value in zip(theirs, is_there, old, strict=True)]
        labelled = labelled.set_column(labelled.column_names.index(name), name,
                                       pa.array(new, pa.string()))
    return labelled


# What a frame is known by, wherever its source is.
_IDENTITY = ('source', 'kind', 'topic', 'index', 'stamp_ns', 'phash')


def _same_frame(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Frames that a log evicts move those behind them; a picture's stamp is its position.
    where = '' if row['kind'] == 'bag' else Path(row['source']).name
    if file := row.get(FILE_COLUMN):
        return row['kind'], where, row['topic'], file, None, row['phash']
    index = None if row['kind'] == 'log' else row['index']
    return row['kind'], where, row['topic'], index, row['stamp_ns'], row['phash']


def name_dives(table: Any, labelled: Any, remarks: list[str]) -> tuple[Any, Any]:
    """
    Name the dives so that two runs of one name, which were scored one by one, are two dives.

    Parameters
    ----------
    table : pyarrow.Table
        As `read_table` gives it.
    labelled : pyarrow.Table or None
        Another one: its runs are not those of the table either.
    remarks : list of str
        Takes a sentence if names had to be changed.

    Returns
    -------
    pyarrow.Table, pyarrow.Table or None
        The same rows; `dive` is what `unique_dives` says of all of them together.

    """
    import pyarrow as pa

    tables = [table] if labelled is None else [table, labelled]
    shared = [name for name in ('dive', 'source', 'run')
              if all(name in one.column_names for one in tables)]
    together = pa.concat_tables([one.select(shared) for one in tables])
    names = unique_dives(together)
    changed = {new for old, new in zip(together.column('dive').to_pylist(), names, strict=True)
               if (old or '') != new}
    if changed:
        remarks.append(f'{len(changed)} dives of different paths share a name and are told apart '
                       f'by 6 digits ({", ".join(sorted(changed)[:3])}); score files of one dive '
                       'with --dive.')
    table = _with_dives(table, names[:len(table)])
    return table, None if labelled is None else _with_dives(labelled, names[len(table):])


def _with_dives(table: Any, names: Sequence[str]) -> Any:
    import pyarrow as pa

    return table.set_column(table.column_names.index('dive'), 'dive', pa.array(names, pa.string()))


def _read(paths: Sequence[Path], listed: str) -> Any:
    parts = [part for path in paths for part in list_parts(path)]
    # A selection has more columns, which are left out: it may be read beside a table.
    columns = schema_of(read_info(parts[0])).names if parts else None
    try:
        return read_rows(paths, columns)
    except ValueError as err:  # of pyarrow, joining parts
        raise TableError(f'{listed} have different columns', 'tables of the same version',
                         'score the sources again') from err


def score_column(name: str, info: TableInfo) -> str:
    """
    Find the column of a score.

    Raises ConfigError if the table has no such score; the sentence lists those it has.
    """
    short = name.removeprefix(SCORE_PREFIX)
    if short in info.score_names:
        return f'{SCORE_PREFIX}{short}'
    if name == 'score_ratio':
        return name
    raise ConfigError(f'the table has no score {name!r}',
                      f'one of {", ".join(("score_ratio", *info.score_names))}')


def candidates_of(
    table: Any, info: TableInfo, column: str, remarks: list[str] | None = None,
    distances: str = 'features',
) -> Candidates:
    """
    Return the rows of a table as candidates.

    Raises TableError if the column of the score is missing; ConfigError if that of the distances
    is.

    Parameters
    ----------
    table : pyarrow.Table
        As `read_table` gives it.
    info : TableInfo
        Of the table.
    column : str
        Column of the score.
    remarks : list of str, optional
        Takes a sentence for dives without stamps.
    distances : str
        Column of the vectors whose distances spread a choice: 'features' or 'embedding'.

    Returns
    -------
    Candidates
        Without hashes, features or shares where the table has no such columns.

    """
    have = set(table.column_names)
    if column not in have:
        raise TableError(f'the table has no column {column}', 'one for each of its scores',
                         'score the sources again')
    shares = [f'{SHARE_PREFIX}{name}' for name in info.share_names]
    has_shares = bool(shares) and have.issuperset(shares)
    dives, features, embeddings = _objects(table, 'dive'), vectors_of(table, 'features'), \
        vectors_of(table, 'embedding')
    if distances == 'embedding' and embeddings is None:
        raise ConfigError('the table has no embeddings of the network', 'a column embedding for '
                          'the distances', 'score the frames again on the processor, or leave '
                          '--distances out')
    times_s = _times_s(table, dives, [] if remarks is None else remarks)
    return Candidates(
        keys=_objects(table, 'frame_key'), dives=dives, scores=_floats(table, column),
        hashes=_hashes(table) if 'phash' in have else None,
        features=embeddings if distances == 'embedding' else features, embeddings=embeddings,
        shares=np.stack([_floats(table, name) for name in shares], 1) if has_shares else None,
        times_s=times_s, is_video=_is_video(table, dives, times_s, features),
        class_names=info.share_names)


def _times_s(table: Any, dives: NDArray[np.object_], remarks: list[str]) -> NDArray[np.float64]:
    """Return the time of each row; of a dive whose stamps say nothing its index, in seconds."""
    stamps = np.asarray(table.column('stamp_ns').to_numpy(), np.int64)
    times_s, without = stamps / 1e9, []
    for name in dict.fromkeys(dives):
        rows = np.flatnonzero(dives == name)
        if len(rows) > 1 and 2 * len(np.unique(stamps[rows])) <= len(rows):
            times_s[rows] = np.asarray(table.column('index').to_numpy(), np.int64)[rows]
            without.append(str(name))
    if without:
        remarks.append(f'{len(without)} dives have no stamps, or hardly any that differ '
                       f'({", ".join(sorted(without)[:3])}): their frames count as 1 s apart.')
    return times_s


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
    values = table.column(name).to_numpy()
    return np.array(['' if value is None else value for value in values], object)


def _floats(table: Any, name: str) -> NDArray[np.float64]:
    # A null is not a number either.
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _hashes(table: Any) -> NDArray[np.uint64]:
    column = table.column('phash')
    if column.null_count:
        raise TableError(f'{column.null_count} frames have no phash', 'one each',
                         'score the sources again')
    return np.asarray(column.to_numpy(), np.uint64)


def vectors_of(table: Any, name: str) -> NDArray[np.float32] | None:
    """Return a column of vectors, (n, D); None where the table has none for every row."""
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    width = column.type.list_size
    if column.null_count or not width:
        return None
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(-1, width)
