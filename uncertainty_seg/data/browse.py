# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One page to look through the frames of a score table, in one file that needs no network.

A page has a limited number of frames, since their pictures are in it: half of them by score and
half by lot, so that the page shows the usual beside the worst.

"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.report.page import render_page, require_place
from uncertainty_seg.calibration.report.pictures import (
    fitted_size,
    jpeg_address,
    legend_tile,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import FrameView, heat_scale, HeatScale, overlay
from uncertainty_seg.data.selection import (
    as_paths,
    decode_limits,
    first_part,
    first_score,
    LeftOut,
    name_dives,
    open_model,
    read_table,
    score_column,
    scored_frames,
    with_values,
)
from uncertainty_seg.data.strategies import lots
from uncertainty_seg.errors import ConfigError, require_libraries, UncertaintySegError
from uncertainty_seg.storage.frame_sources import Whereabouts
from uncertainty_seg.storage.progress import progress
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
from uncertainty_seg.storage.whole_files import replace_file

# Sentences on the page about frames that cannot be shown.
_MAX_PROBLEMS = 20
_WIDTH_PX, _HEIGHT_PX, _QUALITY = 256, 192, 75
_SCRIPT = Path(__file__).parents[1] / 'calibration' / 'report' / 'templates' / 'browse.js'


@dataclass(frozen=True)
class BrowsePage:
    """
    What was written: how many frames of how many, and sentences for who asked.

    `pictures_missing` have no picture.
    """

    out: Path
    num_frames: int
    num_shown: int
    pictures_missing: int
    remarks: list[str]


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
    Write one page to look through the frames of score tables or selections of one model.

    The page has `most` frames, whose pictures are in it; it is sorted by `score` at first. `root`
    is the folder that holds the sources and the model now, if they were moved; `force` replaces a
    page that is there.

    Raises TableError if a table cannot be read, or they are of different models; ConfigError if an
    option does not fit, or the page is there or cannot be written.
    """
    require_libraries('pyarrow', 'jinja2')
    out, paths, remarks = Path(out), as_paths(tables), list[str]()
    require_place(out, 'page')
    if out.exists() and not force:
        raise ConfigError(f'{out} is there already', 'a new file',
                          'give another name, or say that it may be replaced')
    info = read_info(first_part(paths))
    column = score_column(score or first_score(info), info)
    # Of a table of millions of values only what is shown is read whole.
    table = read_table(paths, remarks, ['frame_key', 'dive', 'run', 'source', column])
    table, _ = name_dives(table, None, remarks)
    where = Whereabouts(paths[0], None if root is None else Path(root))
    reasons = _reasons(paths)
    rows = rows_of_page(np.asarray(table.column(column).to_numpy(), np.float64),
                        table.column('frame_key').to_pylist(), most)
    shown = read_keys(paths, table.column('frame_key').take(rows).to_pylist(),
                      [name for name in schema_of(info).names if name != 'features'])
    shown = with_values(shown, 'dive', table.column('dive').take(rows).to_pylist())
    model, why_not = _opened(info, where)
    if why_not:
        remarks.append(f'Without masks and heatmaps: {why_not}.')
    scale = None if model is None else heat_scale(
        model.settings.map, model.calibrated,
        {name: shown.column(f'{SCORE_PREFIX}{name}').to_pylist() for name in info.score_names})
    with model or nullcontext():
        pictures, left_out = _pictures(shown, info, where, model, scale)
    script = _SCRIPT.read_text(encoding='utf-8')
    page = render_page(
        'browse.html', title=f'{len(rows)} of {len(table)} frames',
        data=page_json(shown, info, column, pictures, reasons), script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        num_shown=len(rows), num_left=len(table) - len(rows), model=info.model,
        passes=info.passes, heat=scale and legend_tile(scale), score=column,
        remarks=remarks, problems=left_out.sentences, max_problems=_MAX_PROBLEMS)
    try:
        replace_file(out, page)
    except OSError as err:
        raise ConfigError(f'{out} cannot be written ({err.strerror})',
                          'a folder with room that may be written to') from err
    return BrowsePage(out, len(table), len(rows), left_out.frames,
                      [*remarks, *left_out.sentences])


def _reasons(tables: Sequence[Path]) -> dict[str, str]:
    """Return frame key -> why it was selected, of the tables that are selections."""
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
    """Return the rows that are in the page, at most so many, in the order of the table."""
    by_score = np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind='stable')
    by_lot = np.argsort(lots(keys, 0), kind='stable')
    first = by_score[:math.ceil(most / 2)]
    others = by_lot[~np.isin(by_lot, first)]
    return np.sort(np.concatenate([first, others[:most - len(first)]]))


def _opened(info: TableInfo, where: Whereabouts) -> tuple[Pipeline | None, str]:
    """Open the model of a table; None and why, where that is not possible."""
    try:
        return open_model(info, where.find_bundle(info.model)), ''
    except (UncertaintySegError, OSError) as err:
        return None, ' '.join(str(err).split()).rstrip('.')


def _pictures(
    table: Any, info: TableInfo, where: Whereabouts, model: Pipeline | None,
    scale: HeatScale | None,
) -> tuple[dict[str, list[str]], LeftOut]:
    """
    Return the ``data:`` addresses of image, mask and heatmap of each frame, by key.

    And the frames that have no picture. Without a model there is the image alone.
    """
    left_out, wanted = LeftOut(), table.to_pylist()
    found = {row['frame_key']: [''] for row in wanted}
    with progress(desc='pictures', total=len(wanted)) as bar:
        for row, frame, image in scored_frames(wanted, where, decode_limits(info), left_out):
            bar.update()
            made = [image]
            if model is not None and scale is not None:
                made += _painted(model, image, frame.stamp_ns, scale)
            found[row['frame_key']] = [small_picture(one) for one in made]
    return found, left_out


def _painted(
    model: Pipeline, image: ImageU8, stamp_ns: int, scale: HeatScale
) -> list[ImageU8]:
    """Return the overlay of the mask and the heatmap of an image."""
    view = FrameView(image, model.measure(image, stamp_ns), model.card, model.settings,
                     model.calibrated)
    # Without the flag: what the gate said of the frame is in its row.
    return [overlay(image, view.mask, model.card.palette), view.plain_heatmap(scale)]


def small_picture(image_bgr: ImageU8) -> str:
    """Return an image made small, as the ``data:`` address of a JPEG."""
    size = fitted_size(image_bgr, _WIDTH_PX, _HEIGHT_PX)
    small = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
    return jpeg_address(np.asarray(small, np.uint8), _QUALITY)


def page_json(
    table: Any, info: TableInfo, score: str, pictures: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
) -> str:
    """
    Return all that the script of the page reads, safe within a script element.

    Numbers that are not finite are null. `score` is the column that the page begins with.
    """
    names = ('frame_key', 'dive', 'stamp_ns', 'kind', 'confident', 'verdict')
    scores = {'score_ratio': table.column('score_ratio').to_pylist(),
              **{name: table.column(f'{SCORE_PREFIX}{name}').to_pylist()
                 for name in info.score_names}}
    return script_text({
        'score': score.removeprefix(SCORE_PREFIX), 'classes': list(info.class_names),
        'scores': {name: [_short(value) for value in values] for name, values in scores.items()},
        'shares': [[_short(value) for value in table.column(f'{SHARE_PREFIX}{name}').to_pylist()]
                   for name in info.class_names],
        'frames': [{
            'key': key, 'dive': dive, 'time': stamp_ns / 1e9 if kind != 'folder' else None,
            'flag': bool(flag), 'verdict': verdict, 'selected': reasons.get(key),
            'pictures': list(pictures[key]),
        } for key, dive, stamp_ns, kind, flag, verdict in zip(
            *(table.column(name).to_pylist() for name in names), strict=True)],
        'hasSelection': bool(reasons),
    })


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f'{value:.5g}')


def script_text(values: Any) -> str:
    """Write JSON so that it can end no script element and begin no comment, whatever is in it."""
    text = json.dumps(values, allow_nan=False, separators=(',', ':'))
    return text.replace('&', '\\u0026').replace('<', '\\u003c').replace('>', '\\u003e')
