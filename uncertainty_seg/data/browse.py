# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A page to browse the frames of a score table, in one file that needs no network.

All frames can be filtered and sorted: each column of numbers is packed, and unpacked on demand.
The page contains the pictures of a limited number of frames, half of them with the highest scores
and half random, so that ordinary frames appear beside the worst; photographs of other frames are
read from their files when they are viewed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.report.page import require_place, write_page_to
from uncertainty_seg.calibration.report.pictures import legend_tile
from uncertainty_seg.core.render import heat_scale
from uncertainty_seg.data.browse_pictures import (
    opened_model,
    pictures_of,
    PictureServer,
    ServedFrames,
)
from uncertainty_seg.data.selection import (
    first_part,
    first_rows,
    first_score,
    name_dives,
    RATIO,
    read_table,
    score_column,
    with_values,
)
from uncertainty_seg.data.strategies import lots
from uncertainty_seg.errors import ConfigError, require_libraries
from uncertainty_seg.storage.foreign_files import as_paths
from uncertainty_seg.storage.frame_sources import Whereabouts
from uncertainty_seg.storage.score_rows import (
    list_parts,
    read_info,
    read_keys,
    read_rows,
    schema_of,
    SCORE_PREFIX,
    SHARE_PREFIX,
    TableInfo,
)
from uncertainty_seg.storage.whole_files import whole_file

# Most sentences on the page about frames that cannot be shown.
_MAX_PROBLEMS = 20
# Most score values in a page, 16 MB: 20 scores of 200 000 frames.
MOST_VALUES = 4_000_000
_COLUMNS = ('frame_key', 'dive', 'run', 'source', 'kind', 'stamp_ns', 'confident', 'verdict')
_SCRIPT = Path(__file__).parents[1] / 'calibration' / 'report' / 'templates' / 'browse.js'


@dataclass(frozen=True)
class BrowsePage:
    """
    A written page: the number of frames, of those with pictures, and remarks for the user.

    `pictures_missing` frames have no picture; `frames` tells a `server` where to read all frames.
    """

    out: Path
    num_frames: int
    num_shown: int
    pictures_missing: int
    remarks: list[str]
    frames: ServedFrames = field(repr=False)

    def server(self, port: int = 0) -> PictureServer:
        """
        Open the page at a port of this computer, with the pictures of every frame.

        Its `serve_forever` answers requests at its `address`; port 0 takes a free one. Raises
        ConfigError if the port cannot be used.
        """
        return PictureServer(self.out, self.frames, port)


def browse(
    tables: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    most: int = 300,
    score: str | None = None,
    root: Path | str | None = None,
    force: bool = False,
) -> BrowsePage:
    """
    Write an HTML page to browse the frames of score tables or selections of one model.

    It filters all frames by as many scores as fit, and has pictures of some frames; a server of
    the page shows the pictures of all.

    Parameters
    ----------
    tables : Path, str or sequence of them
        Score tables (folders or parts) or selections, of one model.
    out : Path or str
        HTML file to write.
    most : int
        Frames whose pictures are in the page, 40 kB each.
    score : str, optional
        Score to sort by at first; default 'score_ratio', or 'entropy.mean' for a bundle without
        a calibration.
    root : Path or str, optional
        New folder of the sources and the model, if they were moved.
    force : bool
        Replace an existing page.

    Returns
    -------
    BrowsePage
        Counts, remarks for the user, and its `server`.

    Raises
    ------
    TableError
        If a table cannot be read, or the tables are of different models.
    ConfigError
        If an option does not fit, or the page exists or cannot be written.

    """
    require_libraries('pyarrow', 'jinja2')
    out, paths, remarks = Path(out), as_paths(tables), list[str]()
    require_place(out, 'page')
    if out.exists() and not force:
        raise ConfigError(f'{out} exists already', 'a new file',
                          'give another name, or allow to replace it')
    info = read_info(first_part(paths))
    column = score_column(score or first_score(info), info)
    table = read_table(paths, remarks, [*_COLUMNS, column])
    table, _ = name_dives(table, None, remarks)
    where = Whereabouts(paths[0], None if root is None else Path(root))
    first = first_rows(read_rows(paths, ['frame_key']))
    keys = table.column('frame_key').to_pylist()
    rows = rows_of_page(np.asarray(table.column(column).to_numpy(), np.float64), keys, most)
    table = table.drop(['frame_key', 'run'])  # 200 000 paths each
    shown = read_keys(paths, [keys[row] for row in rows],
                      [name for name in schema_of(info).names if name != 'features'])
    shown = with_values(shown, 'dive', table.column('dive').take(rows).to_pylist())
    model, why_not = opened_model(info, where)
    if why_not:
        remarks.append(f'Without masks and heatmaps: {why_not}.')
    scale = None if model is None else heat_scale(
        model.settings.map, model.calibrated,
        {name: shown.column(f'{SCORE_PREFIX}{name}').to_pylist() for name in info.score_names})
    with model or nullcontext():
        pictures, left_out = pictures_of(shown, info, where, model, scale)
    names = list(dict.fromkeys([column, RATIO, *(f'{SCORE_PREFIX}{name}'
                                                 for name in info.score_names)]))
    names = names[:max(2, MOST_VALUES // len(table))]
    data = _data(table, keys, shown, names, pictures, _reasons(paths), where, info,
                 1 if model is None else 3)
    columns = _columns(table, paths, first, [*names, *(f'{SHARE_PREFIX}{name}'
                                                       for name in info.class_names)])
    script = _SCRIPT.read_text(encoding='utf-8')
    try:
        with whole_file(out) as draft:
            write_page_to(
                draft, 'browse.html', title=f'{len(table)} frames', data=data, columns=columns,
                script=script,
                digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
                num_shown=len(rows), num_left=len(table) - len(rows), model=info.model,
                passes=info.passes, heat=scale and legend_tile(scale), score=column,
                remarks=remarks, problems=left_out.sentences, max_problems=_MAX_PROBLEMS)
    except OSError as err:
        raise ConfigError(f'{out} cannot be written ({err.strerror})',
                          'a writable folder with free space') from err
    return BrowsePage(out, len(table), len(rows), left_out.frames,
                      [*remarks, *left_out.sentences], ServedFrames(paths, info, where, scale))


def _data(
    table: Any, keys: Sequence[str], shown: Any, names: Sequence[str],
    pictures: Mapping[str, Sequence[str]], reasons: Mapping[str, str], where: Whereabouts,
    info: TableInfo, drawn: int,
) -> str:
    """
    Return what the page's script reads apart from the columns, safe within a script element.

    The pictures of a frame, `drawn` of each, and why it was selected or refused are by its row.
    """
    place = dict(zip(keys, range(len(keys)), strict=True))
    why = zip(*(shown.column(name).to_pylist() for name in ('frame_key', 'verdict_reason')),
              strict=True)
    return script_text({
        'scores': [name.removeprefix(SCORE_PREFIX) for name in names],
        'classes': list(info.class_names), 'keys': keys, 'dives': _words(table, 'dive')[0],
        'verdicts': _words(table, 'verdict')[0], 'places': _places(table, where),
        'pictures': {place[key]: one for key, one in pictures.items()}, 'drawn': drawn,
        'why': {place[key]: text for key, text in why},
        'selected': {place[key]: text for key, text in reasons.items()}})


def _words(table: Any, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct texts of a column, sorted, and the index of each row's text."""
    words, codes = np.unique(np.array(table.column(column).to_pylist(), object),
                             return_inverse=True)
    return words.tolist(), codes


def _places(table: Any, where: Whereabouts) -> dict[str, str]:
    """Return folder of pictures -> the URI from which the page reads its photographs."""
    pairs = set(zip(*(table.column(name).to_pylist() for name in ('source', 'kind')),
                    strict=True))
    return {source: Path(where.find(source)).absolute().as_uri()
            for source, kind in sorted(pairs) if kind == 'folder'}


def _columns(
    table: Any, paths: Sequence[Path], first: NDArray[np.int64], names: Sequence[str]
) -> Iterator[str]:
    """
    Pack the numbers of every frame as float32, column by column.

    `first` are the rows of the frames. The columns are dive, place in the order of dive and time,
    flag and verdict, then scores and shares.
    """
    dives = _words(table, 'dive')[1]
    order = np.empty(len(table))
    order[np.lexsort((table.column('stamp_ns').to_numpy(), dives))] = np.arange(len(table))
    flags = np.array(table.column('confident').to_pylist(), bool)
    yield from map(_packed, (dives, order, flags, _words(table, 'verdict')[1]))
    for name in names:
        yield _packed(read_rows(paths, [name]).column(name).to_numpy()[first])


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.astype('<f4').tobytes()).decode('ascii')


def _reasons(tables: Sequence[Path]) -> dict[str, str]:
    """Return frame key -> why it was selected, from the tables that are selections."""
    found: dict[str, str] = {}
    for part in (part for path in tables for part in list_parts(path)):
        rows = read_rows(part, ['frame_key', 'reason'])
        if 'reason' in rows.column_names:
            found.update(zip(*(rows.column(name).to_pylist() for name in ('frame_key', 'reason')),
                             strict=True))
    return found


def rows_of_page(
    scores: NDArray[np.float64], keys: Sequence[str], most: int
) -> NDArray[np.int64]:
    """Return the rows whose pictures are in the page, `most` at most, in table order."""
    by_score = np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind='stable')
    by_lot = np.argsort(lots(keys, 0), kind='stable')
    first = by_score[:math.ceil(most / 2)]
    others = by_lot[~np.isin(by_lot, first)]
    return np.sort(np.concatenate([first, others[:most - len(first)]]))


def script_text(values: Any) -> str:
    """Write JSON so that no value in it can end a script element or begin a comment."""
    text = json.dumps(values, allow_nan=False, separators=(',', ':'))
    return text.replace('&', '\\u0026').replace('<', '\\u003c').replace('>', '\\u003e')
