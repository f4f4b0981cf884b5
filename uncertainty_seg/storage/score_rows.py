# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The score table on disk: Parquet, one row a frame, one file (a part) a shard.

A shard is one topic of a bag, a folder or a log. A table is a folder of parts; the metadata of
each part says how it was made, so that no other file is needed to tell parts apart. What the
scores mean is not known here.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import BackendUnavailableError, install_command, TableError
from uncertainty_seg.storage.whole_files import whole_file

PART_ENDING = '.parquet'
VERSION = 1
KINDS = ('bag', 'folder', 'log')
SCORE_PREFIX, SHARE_PREFIX = 'score.', 'share.'
TABLE_KEY = b'uncertainty_seg.table'
FILE_COLUMN = 'file'
_SHARD_KEY = b'uncertainty_seg.shard'
# Rows that are held before they are written: some 2 MB.
_GROUP = 1024


@dataclass(frozen=True)
class TableInfo:
    """
    What is common to all rows of a table.

    Attributes
    ----------
    model, model_sha256 : str
        Shipped name, or where the bundle was; it may have been moved, so that it is not compared.
        `model_digest` of its card, which says what bundle it is.
    class_names, palette : tuple
        C names, in the order of the ids, and RGB colours.
    passes, seed : int
        T and the seed of the masks.
    score_names : tuple of str
        Names of the columns ``score.<name>``.
    num_features, num_embedding : int
        Lengths of `features` and of `embedding`, 0 where the runtime gave none.
    settings : mapping of str to value
        Settings by dotted name: with them and the model the pipeline reproduces the masks.

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
    num_embedding: int = 0

    @property
    def share_names(self) -> tuple[str, ...]:
        """Return the class of each column ``share.<name>``; with its id where names repeat."""
        names = self.class_names
        return tuple(name if names.count(name) == 1 else f'{name} {index}'
                     for index, name in enumerate(names))


@dataclass(frozen=True)
class ScoreRow:
    """
    A frame.

    Attributes
    ----------
    dive, run : str
        Name of the run; what distinguishes runs of one name, by default the source.
    source, kind : str
        Path of the bag, folder or log, as it was given; one of `KINDS`.
    topic : str
        Image topic; the camera of a log; empty for a folder.
    index : int
        Position of the message in its topic, or of the file in sorted order; unreadable ones
        count too.
    stamp_ns, height, width : int
        Of the image.
    is_confident, verdict, score_ratio : bool, str, float
        The gate's flag, its kind, and the worst score over its threshold.
    scores, shares : sequence of float
        In the order of `TableInfo.score_names`, NaN if unknown; share of each class of the mask.
    phash : int
        Unsigned 64-bit perceptual hash.
    features, embedding : ndarray of float32
        Of the image (`core.frame_features`), and of what the network's trunk made of it.
    file : str
        Name of the picture of a folder, by which it is known when others come and go; else empty.

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
    embedding: NDArray[np.float32] | None = None
    file: str = ''


def frame_key(source: str, topic: str, index: int, file: str | None = '') -> str:
    """
    Return the name of a frame in a table: ``<source>#<topic>#<index>``.

    A picture of a folder has its file name in the place of the index.
    """
    return f'{source}#{topic}#{file or index}'


def info_of(schema: Any) -> TableInfo:
    """Read the metadata of a `pyarrow.Schema`; TableError if it is of no score table."""
    raw = (schema.metadata or {}).get(TABLE_KEY)
    if raw is None:
        raise TableError('a Parquet file without the metadata of a score table',
                         'one that uncertainty_seg score wrote')
    values = json.loads(raw)
    version = values.pop('version', None)
    if version != VERSION:
        raise TableError(f'a score table of version {version}', str(VERSION),
                         'score again with this version of uncertainty_seg')
    for name in ('class_names', 'score_names'):
        values[name] = tuple(values[name])
    values['palette'] = tuple((r, g, b) for r, g, b in values['palette'])
    return TableInfo(**values)


def schema_of(info: TableInfo) -> Any:
    """Return the `pyarrow.Schema` of a table; BackendUnavailableError without pyarrow."""
    parquet_module()
    import pyarrow as pa

    words = [('frame_key', pa.string()), ('dive', pa.string()), ('run', pa.string()),
             ('source', pa.string()), ('kind', pa.string()), ('topic', pa.string()),
             ('index', pa.int64()), ('stamp_ns', pa.int64()), ('height', pa.int32()),
             ('width', pa.int32()), ('confident', pa.bool_()), ('verdict', pa.string()),
             ('score_ratio', pa.float32()), (FILE_COLUMN, pa.string())]
    scores = [(f'{SCORE_PREFIX}{name}', pa.float32()) for name in info.score_names]
    shares = [(f'{SHARE_PREFIX}{name}', pa.float32()) for name in info.share_names]
    image = [('phash', pa.uint64()), ('features', pa.list_(pa.float32(), info.num_features))]
    if info.num_embedding:
        image.append(('embedding', pa.list_(pa.float32(), info.num_embedding)))
    return pa.schema([*words, *scores, *shares, *image], metadata=_metadata_of(info))


def _metadata_of(info: TableInfo) -> dict[bytes, bytes]:
    text = json.dumps({'version': VERSION, **asdict(info)}, sort_keys=True)
    return {TABLE_KEY: text.encode()}


def arrow_table(rows: Sequence[ScoreRow], info: TableInfo, schema: Any) -> Any:
    """Return rows as a `pyarrow.Table` of the schema of their table."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        'frame_key': [frame_key(row.source, row.topic, row.index, row.file) for row in rows],
        'run': [row.run or row.source for row in rows],
        'confident': [row.is_confident for row in rows],
    }
    for name in ('dive', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height', 'width',
                 'verdict', 'score_ratio', FILE_COLUMN, 'phash'):
        columns[name] = [getattr(row, name) for row in rows]
    scores = np.array([row.scores for row in rows], np.float32).reshape(len(rows), -1)
    shares = np.array([row.shares for row in rows], np.float32).reshape(len(rows), -1)
    # From numpy: a list would be read as doubles, and NaN could become null.
    for prefix, names, values in ((SCORE_PREFIX, info.score_names, scores),
                                  (SHARE_PREFIX, info.share_names, shares)):
        for k, name in enumerate(names):
            columns[f'{prefix}{name}'] = pa.array(np.ascontiguousarray(values[:, k]))
    features = np.stack([row.features for row in rows]).astype(np.float32)
    columns['features'] = pa.FixedSizeListArray.from_arrays(features.ravel(), info.num_features)
    if info.num_embedding:
        unknown = np.full(info.num_embedding, np.nan, np.float32)
        vectors = np.stack([unknown if row.embedding is None else row.embedding for row in rows])
        columns['embedding'] = pa.FixedSizeListArray.from_arrays(
            vectors.astype(np.float32).ravel(), info.num_embedding)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def parquet_module() -> Any:
    """Import `pyarrow.parquet`; BackendUnavailableError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as err:
        raise BackendUnavailableError('pyarrow is not installed', 'it, for the score table',
                                      install_command('pyarrow')) from err
    return pyarrow.parquet


class ScoreWriter:
    """
    A part under construction; use it with `with`.

    Raises BackendUnavailableError if pyarrow is not installed; TableError if the file cannot be
    written.

    Parameters
    ----------
    path : Path
        The part; it appears whole, or not at all, and replaces an older one.
    info : TableInfo
        Of the table.

    """

    def __init__(self, path: Path, info: TableInfo) -> None:
        self.path, self._info = path, info
        self._schema = schema_of(info)
        self._stack = ExitStack()
        self._rows: list[ScoreRow] = []
        self._facts: Mapping[str, Any] = {}
        self._writer: Any = None
        self.num_rows = 0

    def __enter__(self) -> ScoreWriter:
        """Open the draft."""
        parquet = parquet_module()
        words = ['frame_key', 'dive', 'run', 'source', 'kind', 'topic', 'verdict', FILE_COLUMN]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                draft = stack.enter_context(whole_file(self.path))
                # Arrow takes no path with bytes that are no UTF-8.
                file = stack.enter_context(draft.open('wb'))
                self._writer = stack.enter_context(parquet.ParquetWriter(
                    file, self._schema, compression='zstd', use_dictionary=words))
                self._stack = stack.pop_all()
        except OSError as err:
            raise _not_written(self.path, err) from err
        return self

    def __exit__(self, exc_type: Any, exc: Any, trace: Any) -> Literal[False]:
        """Finish the part, or remove the draft."""
        try:
            if exc_type is not None:
                self._stack.__exit__(exc_type, exc, trace)
                return False
            with self._stack:
                self._finish()
        except OSError as err:
            raise _not_written(self.path, err) from err
        return False

    def add(self, row: ScoreRow) -> None:
        """Add a frame."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == _GROUP:
            self._flush()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Store facts of JSON types in the part, for `read_facts`."""
        self._facts = facts

    def _flush(self) -> None:
        try:
            self._writer.write_table(arrow_table(self._rows, self._info, self._schema))
        except OSError as err:
            raise _not_written(self.path, err) from err
        self._rows = []

    def _finish(self) -> None:
        if self._rows:
            self._flush()
        text = json.dumps(self._facts, sort_keys=True)
        self._writer.add_key_value_metadata({_SHARD_KEY.decode(): text})


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
    table's metadata. Raises TableError if a file is no part, there is none, or their models or
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


def read_info(part: Path) -> TableInfo:
    """Read the `TableInfo` of a part; errors as `info_of` and `read_rows`."""
    return info_of(_opened(part, lambda parquet: parquet.schema_arrow))


def read_facts(part: Path) -> dict[str, Any]:
    """Read what `ScoreWriter.note` stored in a part; errors as `read_rows`."""
    metadata = _opened(part, lambda parquet: parquet.metadata.metadata or {})
    facts: dict[str, Any] = json.loads(metadata.get(_SHARD_KEY, b'{}'))
    return facts


def unique_dives(table: Any) -> list[str]:
    """
    Name the dive of each row so that two runs of one name are two dives.

    `table` holds all rows that are to be distinguished. A name gets '_' and the `short_digest` of
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


def _read(part: Path, columns: Sequence[str] | None) -> Any:
    # Not read_table of the folder, which silently omits or casts columns that differ.
    names = None if columns is None else list(columns)
    table = _opened(part, lambda parquet: parquet.read(names))
    # Without the facts, which hold for one part only.
    return table.replace_schema_metadata({TABLE_KEY: table.schema.metadata[TABLE_KEY]})


def _opened(part: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with part.open('rb') as file:
            return read(parquet_module().ParquetFile(file))
    except (OSError, ValueError) as err:  # those of pyarrow are ValueErrors
        raise TableError(f'{part} cannot be read ({err})', 'a part of a score table',
                         'delete it and score its source again') from err


def _not_written(path: Path, err: OSError) -> TableError:
    reason = err.strerror or str(err)
    return TableError(f'{path} cannot be written ({reason})',
                      'a folder with room that this user may write to')
