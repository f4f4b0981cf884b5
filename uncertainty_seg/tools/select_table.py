# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From a score table to the candidates of a selection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.selection_pool import Candidates
from uncertainty_seg.errors import ConfigError, TableError
from uncertainty_seg.storage.score_rows import (
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

_NEEDED = ('frame_key', 'dive', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'score_ratio')


def read_table(
    paths: Sequence[Path], remarks: list[str], of: tuple[TableInfo, Path] | None = None
) -> Any:
    """
    Read score tables as one.

    Parameters
    ----------
    paths : sequence of Path
        Tables, their parts, or earlier selections.
    remarks : list of str
        Takes a sentence for frames that are there more than once.
    of : (TableInfo, Path), optional
        Another table, whose model it must be.

    Returns
    -------
    pyarrow.Table
        Each frame once, the first of several.

    Raises
    ------
    TableError
        If one cannot be read, has no row or lacks a column, or they are of different models.

    """
    listed = ', '.join(str(path) for path in paths)
    table = _read(paths, listed)
    lacking = [name for name in _NEEDED if name not in table.column_names]
    if lacking:
        raise TableError(f'{listed} has no column {", ".join(lacking)}',
                         'a table of uncertainty_seg score', 'score the sources again')
    if not len(table):
        raise TableError(f'{listed} has no frame', 'at least one', 'score a source with frames')
    if of is not None and info_of(table.schema) != of[0]:
        raise TableError(f'{listed} was scored with another model or settings than {of[1]}',
                         'tables of the same', 'score its sources again')
    keys = table.column('frame_key').to_numpy()
    first = list({key: row for row, key in zip(range(len(keys) - 1, -1, -1), keys[::-1],
                                               strict=True)}.values())
    if len(first) < len(keys):
        remarks.append(f'{len(keys) - len(first)} rows of {listed} are of frames that are there '
                       'already and were left out.')
        table = table.take(np.sort(first))
    return table


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

    Raises
    ------
    ConfigError
        If the table has no such score; the sentence lists those it has.

    """
    short = name.removeprefix(SCORE_PREFIX)
    if short in info.score_names:
        return f'{SCORE_PREFIX}{short}'
    if name == 'score_ratio':
        return name
    raise ConfigError(f'the table has no score {name!r}',
                      f'one of {", ".join(("score_ratio", *info.score_names))}')


def candidates_of(table: Any, info: TableInfo, column: str) -> Candidates:
    """
    Return the rows of a table as candidates.

    Parameters
    ----------
    table : pyarrow.Table
        As `read_table` gives it.
    info : TableInfo
        Of the table.
    column : str
        Column of the score.

    Returns
    -------
    Candidates
        Without hashes, features or shares where the table has no such columns.

    Raises
    ------
    TableError
        If the column of the score is missing.

    """
    have = set(table.column_names)
    if column not in have:
        raise TableError(f'the table has no column {column}', 'one for each of its scores',
                         'score the sources again')
    shares = [f'{SHARE_PREFIX}{name}' for name in info.share_names]
    has_shares = bool(shares) and have.issuperset(shares)
    return Candidates(
        keys=_objects(table, 'frame_key'), dives=_objects(table, 'dive'),
        scores=_floats(table, column),
        hashes=_hashes(table) if 'phash' in have else None,
        features=_features(table) if 'features' in have else None,
        shares=np.stack([_floats(table, name) for name in shares], 1) if has_shares else None,
        times_s=np.asarray(table.column('stamp_ns').to_numpy(), np.int64) / 1e9,
        class_names=info.share_names)


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


def _features(table: Any) -> NDArray[np.float32] | None:
    column = table.column('features').combine_chunks()
    width = column.type.list_size
    if column.null_count or not width:
        return None
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(-1, width)
