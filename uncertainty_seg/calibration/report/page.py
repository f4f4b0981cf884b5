# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report as one page that needs nothing else: no network, no script, no font.

Its words and tables are in templates/report.html, whose every value is escaped by jinja2. Equal
data give equal bytes.

"""

from __future__ import annotations

from functools import lru_cache
import math
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING, TypeGuard

from uncertainty_seg.calibration.report.data import ReportData, ScoreEntry
from uncertainty_seg.calibration.report.pictures import frame_tiles, heat_bar, IGNORED_RGB
from uncertainty_seg.calibration.report.plots import (
    plot_ladder,
    plot_reliability,
    plot_risk_coverage,
    plot_spread,
)
from uncertainty_seg.errors import ConfigError, require_libraries
from uncertainty_seg.storage.whole_files import replace_file

if TYPE_CHECKING:
    from jinja2 import Environment

# Rows of scores that are not folded away, and small plots of scores: the gate's scores first.
SHOWN_SCORES, MAX_SPREADS = 24, 12
# Of the bound of P(bad | accepted) that a promise carries.
CONFIDENCE = 0.95


def write_report(path: Path, data: ReportData) -> None:
    """
    Write a report, whole or not at all, into a folder that exists.

    Raises ConfigError if the file cannot be written; ShapeError if a mask or map of a frame has
    not the size of its image.
    """
    page = report_page(data)
    try:
        replace_file(path, page)
    except OSError as err:
        raise ConfigError(f'report {path} cannot be written ({err.strerror})',
                          'a folder that exists and may be written to') from err


def require_report_place(path: Path) -> None:
    """
    Refuse a report file that could not be written, before minutes of work are spent on it.

    Raises ConfigError if its folder is missing or must not be written to, or it is a folder
    itself; BackendUnavailableError if matplotlib or jinja2 is not installed.
    """
    require_libraries('matplotlib', 'jinja2')
    require_place(path, 'report')


def require_place(path: Path, what: str) -> None:
    """Refuse a file, `what` in words, that could not be written, as a ConfigError."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = 'it is a folder' if path.is_dir() else \
            'no permission' if path.parent.is_dir() else 'no such folder'
        raise ConfigError(f'{what} {path} cannot be written ({why})',
                          'a file in a folder that exists and may be written to')


def report_page(data: ReportData) -> str:
    """Return the page of a report; see `write_report`."""
    groups = {'accepted': data.worst_accepted, 'refused': data.wrongly_refused}
    tiles, legend = {}, []
    if data.legend is not None:
        legend = [*zip(data.legend.class_names, data.legend.palette, strict=False),
                  ('ignored', IGNORED_RGB)]
        given = {name: group for name, group in groups.items() if group is not None}
        rows = frame_tiles(tuple(given.values()), data.legend)
        tiles = {name: list(zip(group.frames, tiles_of, strict=False))
                 for (name, group), tiles_of in zip(given.items(), rows, strict=True)}
    return render_page(
        'report.html', title=data.title, data=data, confidence=CONFIDENCE, tiles=tiles,
        legend=legend, scores=sorted(data.scores or (), key=_by_gate_and_excess),
        num_shown=max(SHOWN_SCORES, sum(score.is_gated for score in data.scores or ())),
        spreads=sorted(data.spreads or (), key=lambda spread: not spread.is_gated),
        max_spreads=MAX_SPREADS, heat_bar=heat_bar, plot_ladder=plot_ladder,
        plot_reliability=plot_reliability, plot_risk_coverage=plot_risk_coverage,
        plot_spread=plot_spread)


def _by_gate_and_excess(score: ScoreEntry) -> tuple[bool, float, str]:
    excess = math.nan if score.ranking is None else score.ranking.excess_aurc.value
    return not score.is_gated, excess if is_known(excess) else math.inf, score.name


# -------------------------------------------------------------------------------------------------
# Templates, and how they write numbers: a dash stands for what is not known.

NOTHING = '–'
# A number and its unit stay on one line.
PERCENT = '\N{NO-BREAK SPACE}%'


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this folder, given by file name; text is escaped."""
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader('uncertainty_seg.calibration.report'), autoescape=True,
                       trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    made.filters.update(number=number, limit=limit, percent=percent, whole_percent=whole_percent)
    made.tests['known'] = is_known
    return made


def is_known(value: float | None) -> TypeGuard[float]:
    """Say whether there is a number: neither None nor NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with that many decimals."""
    if not is_known(value):
        return NOTHING
    return '∞' if math.isinf(value) else f'{value:.{digits}f}'


def limit(value: float | None) -> str:
    """Write a threshold with four significant digits."""
    return f'{value:#.4g}' if is_known(value) else NOTHING


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as per cent."""
    return f'{100 * share:.{digits}f}{PERCENT}' if is_known(share) else NOTHING


def whole_percent(share: float) -> str:
    """Write a chosen share, such as alpha, without decimals that nobody chose."""
    return f'{100 * share:.4g}{PERCENT}'
