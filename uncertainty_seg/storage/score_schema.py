# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a score table holds: its columns, and what its metadata says of all rows.

What the scores mean is not known here; files are `score_rows`'s.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import BackendUnavailableError, TableError

VERSION = 1
KINDS = ('bag', 'folder', 'log')
SCORE_PREFIX, SHARE_PREFIX = 'score.', 'share.'
TABLE_KEY = b'uncertainty_seg.table'


@dataclass(frozen=True)
class TableInfo:
    """
    What is the same for every row of a table.

    Attributes
    ----------
    model : str
        Shipped name or folder of the bundle, as it was given.
    model_sha256 : str
        `model_digest` of its card.
    class_names : tuple of str
        C names, in the order of the ids.
    palette : tuple of (int, int, int)
        RGB colours.
    passes, seed : int
        T, and the seed of the masks.
    score_names : tuple of str
        Of the columns ``score.<name>``.
    num_features : int
        Length of `features`.
    settings : mapping of str to value
        All settings by dotted name, for `core.settings.settings_from_dict`: with them the
        pipeline gives the masks again.

    """

    model: str
    model_sha256: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    passes: int
    seed: int
    score_names: tuple[str, ...]
    num_features: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share_names(self) -> tuple[str, ...]:
        """Return the class of each column ``share.<name>``; with its id where names repeat."""
        names = self.class_names
        return tuple(name if names.count(name) == 1 else f'{name} {index}'
                     for index, name in enumerate(names))


@dataclass(frozen=True)
class ScoreRow:
    """
    One frame.

    Attributes
    ----------
    dive : str
        Name of the run.
    source : str
        Path of the bag, folder or log, as it was given.
    kind : str
        One of `KINDS`.
    topic : str
        Image topic; the camera of a log; empty for a folder.
    index : int
        Position of the message in its topic, of the file in sorted order; those that cannot be
        read count too.
    stamp_ns : int
        Stamp of the image.
    height, width : int
        H, W of the image in pixels.
    is_confident, verdict, score_ratio : bool, str, float
        The gate's flag, its kind, and the worst score over its limit.
    scores : sequence of float
        In the order of `TableInfo.score_names`; NaN where nothing is known.
    shares : sequence of float
        Share of each class among the pixels of the mask, 0..1.
    phash : int
        Unsigned 64-bit perceptual hash.
    features : ndarray of float32, shape (num_features,)
        `core.frame_features`.
    run : str
        What tells the run from others of its name: the path of the folder that names it,
        or the name itself if somebody gave it. Empty stands for the source.

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


def frame_key(source: str, topic: str, index: int) -> str:
    """Return what names a frame in a table: ``<source>#<topic>#<index>``."""
    return f'{source}#{topic}#{index}'


def info_of(schema: Any) -> TableInfo:
    """
    Return what the metadata of a `pyarrow.Schema` says.

    Raises
    ------
    TableError
        If it is not of a score table, or of another version.

    """
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
    """
    Return the `pyarrow.Schema` of a table.

    Raises
    ------
    BackendUnavailableError
        If pyarrow is not installed.

    """
    parquet_module()
    import pyarrow as pa

    words = [('frame_key', pa.string()), ('dive', pa.string()), ('run', pa.string()),
             ('source', pa.string()), ('kind', pa.string()), ('topic', pa.string()),
             ('index', pa.int64()), ('stamp_ns', pa.int64()), ('height', pa.int32()),
             ('width', pa.int32()), ('confident', pa.bool_()), ('verdict', pa.string()),
             ('score_ratio', pa.float32())]
    scores = [(f'{SCORE_PREFIX}{name}', pa.float32()) for name in info.score_names]
    shares = [(f'{SHARE_PREFIX}{name}', pa.float32()) for name in info.share_names]
    image = [('phash', pa.uint64()), ('features', pa.list_(pa.float32(), info.num_features))]
    text = json.dumps({'version': VERSION, **asdict(info)}, sort_keys=True)
    return pa.schema([*words, *scores, *shares, *image], metadata={TABLE_KEY: text.encode()})


def arrow_table(rows: Sequence[ScoreRow], info: TableInfo, schema: Any) -> Any:
    """Return rows as a `pyarrow.Table` of the schema of their table."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        'frame_key': [frame_key(row.source, row.topic, row.index) for row in rows],
        'run': [row.run or row.source for row in rows],
        'confident': [row.is_confident for row in rows],
    }
    for name in ('dive', 'source', 'kind', 'topic', 'index', 'stamp_ns', 'height', 'width',
                 'verdict', 'score_ratio', 'phash'):
        columns[name] = [getattr(row, name) for row in rows]
    scores = np.array([row.scores for row in rows], np.float32).reshape(len(rows), -1)
    shares = np.array([row.shares for row in rows], np.float32).reshape(len(rows), -1)
    # From numpy, since a list would be read as doubles and NaN could become null.
    for prefix, names, values in ((SCORE_PREFIX, info.score_names, scores),
                                  (SHARE_PREFIX, info.share_names, shares)):
        for k, name in enumerate(names):
            columns[f'{prefix}{name}'] = pa.array(np.ascontiguousarray(values[:, k]))
    features = np.stack([row.features for row in rows]).astype(np.float32)
    columns['features'] = pa.FixedSizeListArray.from_arrays(features.ravel(), info.num_features)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def parquet_module() -> Any:
    """Import `pyarrow.parquet`; BackendUnavailableError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as err:
        raise BackendUnavailableError('pyarrow is not installed', 'it, for the score table',
                                      'pip install pyarrow') from err
    return pyarrow.parquet
