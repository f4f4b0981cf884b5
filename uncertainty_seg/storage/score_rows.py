# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The score table on disk: Parquet, one row per frame, one file (a part) per shard.

A shard is one topic of a bag, a folder or a log. A table is a folder of parts; the metadata of
each part records how it was made, so that no other file is needed to distinguish parts. This
module does not depend on the meaning of the scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import TableError
from uncertainty_seg.storage import foreign_files
from uncertainty_seg.storage.whole_files import whole_file

PART_ENDING = '.parquet'
VERSION = 4
SCORE_PREFIX, SHARE_PREFIX = 'score.', 'share.'
TABLE_KEY = b'uncertainty_seg.table'
FILE_COLUMN = 'file'
_SHARD_KEY = b'uncertainty_seg.shard'
# Rows that are written at once, about 30 MB: the time to read grows with columns and groups.
_GROUP = 4096


@dataclass(frozen=True)
class TableInfo:
    """
    What is common to all rows of a table.

    `model` is a shipped name, or the path of the bundle; it may have been moved, so that only
    `model_sha256`, its `model_digest`, is compared. With the model and `settings`, by dotted name,
    the pipeline reproduces the masks. `num_features` is the length of the column `features`.
    """

    model: str = field(compare=False)
    model_sha256: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    passes: int
    seed: int
    score_names: tuple[str, ...]
    num_features: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreRow:
    """
    A row of the table, one frame.

    `run` distinguishes runs of one name, by default by the source; `source` is the path as it was
    given and `kind` 'bag', 'folder' or 'log'. `topic` is that of the image, or the camera of a
    log, and `index` the position of the message in its topic, or of the file in sorted order;
    unreadable ones count too. `scores` are in the order of `TableInfo.score_names`, NaN if
    unknown, `shares` those of each class in the mask. `features` describe the image and the
    result of the network. `file` identifies a picture of a folder when others are added or
    removed; `verdict_reason` is the verdict in words.
    """

    dive: str
    source: str
    kind: str
    topic: str
    index: int
    stamp_ns: int
    height: int
    width: int
    is_confident: bool
    verdict: str
    score_ratio: float
    scores: Sequence[float]
    shares: Sequence[float]
    phash: int
    features: NDArray[np.float32]
    run: str = ''
    file: str = ''
    verdict_reason: str = ''


def frame_key(source: str, topic: str, index: int, file: str | None = '') -> str:
    """
    Return the name of a frame in a table: ``<source>#<topic>#<index>``.

    A picture of a folder has its file name instead of the index.
    """
    return f'{source}#{topic}#{file or index}'


def info_of(schema: Any) -> TableInfo:
    """Read the metadata of a `pyarrow.Schema`; TableError if they are of no score table."""
    raw = (schema.metadata or {}).get(TABLE_KEY)
    if raw is None:
        raise TableError('a Parquet file without the metadata of a score table',
                         'one that uncertainty_seg score wrote')
    try:
        values = json.loads(raw)
        version = values.pop('version', None)
        if version != VERSION:
            raise TableError(f'a score table of version {version}', str(VERSION),
                             'score again with this version of uncertainty_seg')
        for name in ('class_names', 'score_names'):
            values[name] = tuple(values[name])
        values['palette'] = tuple((r, g, b) for r, g, b in values['palette'])
        values['model'] = str(values['model'])
        return TableInfo(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise TableError(f'metadata of a score table that are damaged ({err!s:.80})',
                         'those that were written', 'score again') from err


def schema_of(info: TableInfo) -> Any:
    """Return the `pyarrow.Schema` of a table."""
    import pyarrow as pa

    words = [('frame_key', pa.string()), ('dive', pa.string()), ('run', pa.string()),
             ('source', pa.string()), ('kind', pa.string()), ('topic', pa.string()),
             ('index', pa.int64()), ('stamp_ns', pa.int64()), ('height', pa.int32()),
             ('width', pa.int32()), ('confident', pa.bool_()), ('verdict', pa.string()),
             ('verdict_reason', pa.string()), ('score_ratio', pa.float32()),
             (FILE_COLUMN, pa.string())]
    scores = [(f'{SCORE_PREFIX}{name}', pa.float32()) for name in info.score_names]
    shares = [(f'{SHARE_PREFIX}{name}', pa.float32()) for name in info.class_names]
    image = [('phash', pa.uint64()), ('features', pa.list_(pa.float32(), info.num_features))]
    text = json.dumps({'version': VERSION, **asdict(info)}, sort_keys=True)
    return pa.schema([*words, *scores, *shares, *image], metadata={TABLE_KEY: text.encode()})


def _record(row: ScoreRow, info: TableInfo) -> dict[str, Any]:
    """Return the values of a frame by column, and other values that no column has."""
    return {
        **vars(row), 'frame_key': frame_key(row.source, row.topic, row.index, row.file),
        'run': row.run or row.source, 'confident': row.is_confident,
        **{f'{SCORE_PREFIX}{name}': value
           for name, value in zip(info.score_names, row.scores, strict=True)},
        **{f'{SHARE_PREFIX}{name}': value
           for name, value in zip(info.class_names, row.shares, strict=True)},
    }


@contextmanager
def new_part(path: Path, info: TableInfo) -> Iterator[ScoreWriter]:
    """
    Write a part, which replaces an older one; it appears whole at the end of the block, or not.

    Raises TableError if the file cannot be written.
    """
    from pyarrow.parquet import ParquetWriter

    schema = schema_of(info)
    words = ['frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'verdict', FILE_COLUMN]
    with _as_table_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Arrow does not accept a path that is not UTF-8.
        with whole_file(path) as draft, draft.open('wb') as file, ParquetWriter(
                file, schema, compression='zstd', use_dictionary=words) as writer:
            part = ScoreWriter(path, info, schema, writer)
            yield part
            part.finish()


class ScoreWriter:
    """A part under construction; see `new_part`."""

    def __init__(self, path: Path, info: TableInfo, schema: Any, writer: Any) -> None:
        self._path, self._info, self._schema, self._writer = path, info, schema, writer
        self._rows: list[ScoreRow] = []
        self._facts: Mapping[str, Any] = {}

    def add(self, row: ScoreRow) -> None:
        """Add a frame; TableError if it cannot be written."""
        self._rows.append(row)
        if len(self._rows) == _GROUP:
            self._flush()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Store facts of JSON types in the part, for `read_facts`."""
        self._facts = facts

    def finish(self) -> None:
        """Write the remaining rows and the facts."""
        if self._rows:
            self._flush()
        text = json.dumps(self._facts, sort_keys=True)
        self._writer.add_key_value_metadata({_SHARD_KEY.decode(): text})

    def _flush(self) -> None:
        import pyarrow as pa

        records = [_record(row, self._info) for row in self._rows]
        with _as_table_error(self._path):
            self._writer.write_table(pa.Table.from_pylist(records, self._schema))
        self._rows = []


@contextmanager
def _as_table_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise TableError(f'{path} cannot be written ({err.strerror or err})',
                         'a writable folder with free space') from err


def list_parts(path: Path) -> list[Path]:
    """List the parts of a table, sorted, or a part itself; TableError if the path is missing."""
    if path.is_dir():
        return sorted(part for part in path.glob(f'*{PART_ENDING}')
                      if not part.name.startswith('.'))
    if not path.is_file():
        raise TableError(f'no table at {path}', 'the folder that uncertainty_seg score wrote')
    return [path]


def read_rows(paths: Path | Sequence[Path], columns: Sequence[str] | None = None) -> Any:
    """
    Read parts, or folders of parts, as one table; all columns if none is named.

    Rows are in the order of the paths, of the parts' names and of the frames; `info_of` reads the
    table's metadata. Raises TableError if a file is not a part, there is none, or their models or
    settings differ.
    """
    asked = [paths] if isinstance(paths, Path) else list(paths)
    parts = [part for path in asked for part in list_parts(path)]
    if not parts:
        raise TableError(f'no part in {", ".join(map(str, asked))}', 'at least one',
                         'run uncertainty_seg score')
    infos = [read_info(part) for part in parts]
    for part, info in zip(parts, infos, strict=True):
        if info != infos[0]:
            raise TableError(f'{part} was scored with another model or settings than {parts[0]}',
                             'tables of the same', 'score its source again')
    import pyarrow

    return pyarrow.concat_tables([_read(part, columns) for part in parts])


def read_keys(paths: Sequence[Path], keys: Sequence[str], columns: Sequence[str]) -> Any:
    """
    Read the rows with these frame keys, in the order of the keys, without holding the others.

    The columns must include `frame_key`. Of several rows of a key the first is read; keys that are
    in no part are left out. Raises TableError if a part is missing or unreadable.
    """
    import pyarrow
    from pyarrow import compute

    wanted, found = pyarrow.array(keys, pyarrow.string()), []
    for part in (part for path in paths for part in list_parts(path)):
        found.append(_read(part, columns, lambda batch: batch.filter(
            compute.is_in(batch.column('frame_key'), value_set=wanted))))
    rows = pyarrow.concat_tables(found)
    place = {key: row for row, key in reversed(list(enumerate(
        rows.column('frame_key').to_pylist())))}
    return rows.take(pyarrow.array([place[key] for key in keys if key in place], pyarrow.int64()))


def read_info(part: Path) -> TableInfo:
    """Read the `TableInfo` of a part; TableError if it lacks a column, and as `info_of`."""
    schema = _opened(part, lambda parquet: parquet.schema_arrow)
    info = info_of(schema)
    for column in schema_of(info):
        at = schema.get_field_index(column.name)
        if at < 0 or schema.field(at).type != column.type:
            raise TableError(f'{part} has no column {column.name!r:.80} of {column.type}',
                             'a part as it was written', 'score its source again')
    return info


def read_facts(part: Path) -> dict[str, Any]:
    """Read what `ScoreWriter.note` stored in a part; errors as `read_rows`."""
    metadata = _opened(part, lambda parquet: parquet.metadata.metadata or {})
    facts: dict[str, Any] = json.loads(metadata.get(_SHARD_KEY, b'{}'))
    return facts


def unique_dives(table: Any) -> list[str]:
    """
    Return the name of the dive of each row, with different names for different runs.

    `table` has all rows that are to be distinguished. A name gets '_' and the `short_digest` of
    its run if rows of another run have the same name. A run of several files is one dive.
    """
    pairs = list(zip(table.column('dive').to_pylist(), table.column('run').to_pylist(),
                     strict=True))
    runs_of = Counter(name for name, _ in set(pairs))
    unique = {(name, run): f'{name}_{short_digest(run)}' if runs_of[name] > 1 else name
              for name, run in set(pairs)}
    return [unique[pair] for pair in pairs]


def short_digest(text: str) -> str:
    """Return 6 hex digits in place of a path, which may contain private names."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:6]


def _read(
    part: Path, columns: Sequence[str] | None, keep: Callable[[Any], Any] = lambda batch: batch
) -> Any:
    # Not read_table of the folder, which silently omits or casts columns that differ.
    names = None if columns is None else list(columns)
    most = foreign_files.most_expanded(part.stat().st_size)
    table = _opened(part, lambda parquet: _read_within(parquet, names, most, keep))
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise TableError(f'{part} has rows without {name!r:.80}', 'values in all of them',
                             'score its source again')
    # Without the facts, which hold for one part only.
    return table.replace_schema_metadata({TABLE_KEY: table.schema.metadata[TABLE_KEY]})


def _read_within(
    parquet: Any, names: list[str] | None, most: int, keep: Callable[[Any], Any]
) -> Any:
    """Read batch by batch; ValueError once rows take more than `most` bytes."""
    from pyarrow import Table

    batches, taken = [], 0
    for batch in parquet.iter_batches(_GROUP, columns=names):
        batches.append(keep(batch))
        taken += batch.nbytes
        if taken > most:
            raise ValueError(f'its rows take more than {most} bytes')
    if not batches:
        return parquet.read(names)
    return Table.from_batches(batches).replace_schema_metadata(parquet.schema_arrow.metadata)


def _opened(part: Path, read: Callable[[Any], Any]) -> Any:
    from pyarrow.parquet import ParquetFile

    try:
        with part.open('rb') as file:
            return read(ParquetFile(file))
    except (OSError, ValueError) as err:  # errors of pyarrow are ValueErrors
        raise TableError(f'{part} cannot be read ({err})', 'a part of a score table',
                         'delete it and score its source again') from err
