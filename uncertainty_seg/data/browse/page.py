# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Collect pictures, labels and numbers of a table's frames, and write the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.calibration.report.page import render_page, require_place
from uncertainty_seg.core.settings import DecodeLimits, MAX_PIXELS, RUN_UNCALIBRATED
from uncertainty_seg.data.browse.page_data import (
    page_json,
    plot_axes,
    PlotAxes,
    rows_of_page,
    ShownFrames,
)
from uncertainty_seg.data.browse.truth import LabelledFrames, suspect_rows, suspects_text, Truth
from uncertainty_seg.data.selection.run import (
    COLD_SCORE,
    name_dives,
    RATIO,
    read_table,
    score_column,
)
from uncertainty_seg.data.selection.sheet import place_of, TableModel, thumbnails
from uncertainty_seg.errors import ConfigError, UncertaintySegError
from uncertainty_seg.storage.frame_sources import Whereabouts
from uncertainty_seg.storage.score_rows import info_of, list_parts, read_rows, TableInfo
from uncertainty_seg.storage.whole_files import replace_file

_MAX_PROBLEMS = 20
_SCRIPT = Path(__file__).parents[2] / 'calibration' / 'report' / 'templates' / 'browse.js'


@dataclass(frozen=True)
class BrowseRequest:
    """What `browse_table.browse` was asked for, checked; it has the parameters."""

    tables: list[Path]
    out: Path
    most: int
    score: str | None
    selection: list[Path]
    labelled: Path | None
    errors: Path | None
    bundle: str
    root: Path | None
    has_masks: bool
    is_replacing: bool


@dataclass(frozen=True)
class BrowsePage:
    """
    What was written.

    Attributes
    ----------
    out : Path
        The page.
    num_frames, num_shown : int
        Frames of the tables, and those of them that are in the page.
    num_labelled, num_suspects : int
        Frames with a label, and regions of labels that the model contradicts.
    pictures_missing, pictures_changed : int
        Frames of the page without a picture: those that cannot be read any more, and those that
        are other pictures now.
    remarks : list of str
        Sentences for who asked.

    """

    out: Path
    num_frames: int
    num_shown: int
    num_labelled: int = 0
    num_suspects: int = 0
    pictures_missing: int = 0
    pictures_changed: int = 0
    remarks: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the line for scripts."""
        return {'out': self.out, 'num_frames': self.num_frames, 'num_shown': self.num_shown,
                'num_labelled': self.num_labelled, 'num_suspects': self.num_suspects,
                'pictures_missing': self.pictures_missing,
                'pictures_changed': self.pictures_changed}


def write_browse_page(request: BrowseRequest) -> BrowsePage:
    """Write the page, and the list of suspected labels; `browse_table.browse` has the errors."""
    for path, what in ((request.out, 'page'), (request.errors, 'list')):
        if path is not None:
            _require_free(path, what, request.is_replacing)
    remarks: list[str] = []
    table = read_table(request.tables, remarks)
    info = info_of(table.schema)
    score = score_column(request.score or _first_score(info), info)
    table, _ = name_dives(table, None, remarks)
    where = Whereabouts(request.tables[0], request.root)
    frames = None if request.labelled is None else LabelledFrames(request.labelled, info)
    model = TableModel(info, where, request.has_masks, request.bundle, ('margin',))
    try:
        truth = _truth(table, frames, where, model, remarks)
        reasons = _reasons(request.selection)
        shown, changed, problems = _shown(
            table, info, score, request, where, model, frames, truth, reasons)
    finally:
        model.close()
    keys = table.column('frame_key').to_pylist()
    dives = dict(zip(keys, table.column('dive').to_pylist(), strict=True))
    rows = suspect_rows(truth, dives, info.class_names)
    axes = plot_axes(table, keys)
    page = _page(table, info, score, axes, shown, model, remarks, problems, request)
    _write(request.out, page)
    if request.errors is not None:
        _write(request.errors, suspects_text(rows, request.errors.suffix))
    missing = sum(not pictures or not pictures[0] for pictures in shown.pictures.values())
    # The page has a line for it.
    why_not = [f'Without masks and heatmaps: {model.why_not}.'] \
        if model.why_not and request.has_masks and not truth.stems else []
    return BrowsePage(request.out, len(table), len(shown.rows), len(truth.stems), len(rows),
                      missing, changed, [*why_not, *remarks, *problems])


def _require_free(path: Path, what: str, is_replacing: bool) -> None:
    require_place(path, what)
    if path.exists() and not is_replacing:
        raise ConfigError(f'{path} is there already', 'a new file',
                          'give another name, or --force to replace it')


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a folder with room that may be written to') from err


def _first_score(info: TableInfo) -> str:
    return COLD_SCORE if info.settings.get('uncalibrated') == RUN_UNCALIBRATED else RATIO


def _truth(
    table: Any, frames: LabelledFrames | None, where: Whereabouts, model: TableModel,
    remarks: list[str],
) -> Truth:
    if frames is None:
        return Truth()
    truth = frames.known(table, where)
    if not truth.stems:
        remarks += truth.problems
        remarks.append('No frame of the table is in the labelled folder: score that folder, or '
                       'give the one that import-labels wrote.')
        return truth
    frames.compare(table, truth, model)
    remarks += truth.problems
    if model.why_not:
        remarks.append(f'Labels are shown and not checked, without the model: {model.why_not}.')
    return truth


def _reasons(selections: list[Path]) -> dict[str, str]:
    """Return frame key -> why it was selected."""
    found: dict[str, str] = {}
    for part in (part for path in selections for part in list_parts(path)):
        rows = read_rows(part)
        keys = rows.column('frame_key').to_pylist()
        texts = rows.column('reason').to_pylist() if 'reason' in rows.column_names else \
            ['selected'] * len(keys)
        found.update(zip(keys, texts, strict=True))
    return found


def _shown(
    table: Any, info: TableInfo, score: str, request: BrowseRequest, where: Whereabouts,
    model: TableModel, frames: LabelledFrames | None, truth: Truth, reasons: dict[str, str],
) -> tuple[ShownFrames, int, list[str]]:
    """Choose the frames of the page and read their pictures; and how many are others now."""
    keys = table.column('frame_key').to_pylist()
    rows = rows_of_page(
        np.asarray(table.column(score).to_numpy(), np.float64), keys, request.most,
        [one.frame for one in truth.suspects], reasons)
    places = {int(row): place_of(table, int(row), where) for row in rows}
    limits = DecodeLimits(int(info.settings.get('max_image_px', MAX_PIXELS)),
                          info.settings.get('oversized_images') == 'reduce')
    found = thumbnails(list(places.values()), limits, model.pictures)
    pictures = {row: [group.get(place, '') for group in (
        found.addresses, found.masks, found.heatmaps)] for row, place in places.items()}
    for row, addresses in pictures.items():
        addresses.append(_label_of(frames, truth.stems.get(keys[row])))
    return (ShownFrames(rows, pictures, truth, reasons, bool(request.selection)),
            len(found.changed), found.problems)


def _label_of(frames: LabelledFrames | None, stem: str | None) -> str:
    if frames is None or stem is None:
        return ''
    try:
        return frames.picture(stem)
    except UncertaintySegError:  # the comparison has said what is wrong with it
        return ''


def _page(
    table: Any, info: TableInfo, score: str, axes: PlotAxes, shown: ShownFrames,
    model: TableModel, remarks: list[str], problems: list[str], request: BrowseRequest,
) -> str:
    script = _SCRIPT.read_text(encoding='utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_page(
        'browse.html', title=f'{len(shown.rows)} of {len(table)} frames',
        data=page_json(table, info, score, axes, shown), script=script, digest=digest,
        num_shown=len(shown.rows), num_left=len(table) - len(shown.rows), model=info.model,
        passes=info.passes, score=score, axes=axes, why_no_masks=model.why_not, remarks=remarks,
        problems=problems, max_problems=_MAX_PROBLEMS, most=request.most,
        has_labels=request.labelled is not None, num_labelled=len(shown.truth.stems),
        num_suspects=len(shown.truth.suspects))
