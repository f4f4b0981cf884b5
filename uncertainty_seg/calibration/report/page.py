# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Self-contained HTML pages, without network access, scripts or fonts, and the builder of reports.

A report is a list of sections, and a section a list of parts: facts, tables of rows, plots, frames
and notes. templates/report.html renders each kind of part, and jinja2 escapes every value. Equal
values give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
import math
import os
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TYPE_CHECKING, TypeGuard

from uncertainty_seg.calibration.report.pictures import Tile
from uncertainty_seg.calibration.stats.intervals import Interval
from uncertainty_seg.errors import ConfigError, require_libraries
from uncertainty_seg.storage.whole_files import replace_file

if TYPE_CHECKING:
    from jinja2 import Environment

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = 'facts'
    pairs: Sequence[tuple[str, str]]


class Row(NamedTuple):
    """A row of a table: its cells, whether it is highlighted, and a colour (RGB) to show."""

    cells: Sequence[str]
    is_marked: bool = False
    color: Color | None = None


@dataclass(frozen=True)
class Table:
    """A table: column headings and rows."""

    kind: ClassVar[str] = 'table'
    heads: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Plot:
    """A plot: its ``data:`` address, a description, and its size."""

    kind: ClassVar[str] = 'plot'
    address: str
    shows: str
    size: Literal['large', 'middle'] = 'large'


@dataclass(frozen=True)
class Frames:
    """Frames as (caption, pictures), with the colours of their masks and the heatmap's legend."""

    kind: ClassVar[str] = 'frames'
    rows: Sequence[tuple[str, Sequence[Tile]]]
    legend: Sequence[tuple[str, Color]]
    heat_legend: Tile


@dataclass(frozen=True)
class Notes:
    """Short texts: limits of the report, and unusual results."""

    kind: ClassVar[str] = 'notes'
    texts: Sequence[str]


@dataclass(frozen=True)
class Section:
    """
    A section of a report.

    `name` is its id in the page, `look` explains how to read it; folded, it shows only its title.
    """

    name: str
    title: str
    parts: Sequence[Facts | Table | Plot | Frames | Notes]
    look: str = ''
    is_folded: bool = False


@dataclass(frozen=True)
class Report:
    """
    A whole report.

    `leads` and `warnings` are the most important statements, shown below the heading; `tiles` are
    the main figures as pairs of value and description.
    """

    title: str
    sections: Sequence[Section]
    leads: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    tiles: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def page(self) -> str:
        """Return the report as an HTML page."""
        return render_page('report.html', title=self.title, report=self)


# -------------------------------------------------------------------------------------------------
# Files.


def write_page(path: Path, page: str) -> None:
    """Write a file atomically into an existing folder, or raise ConfigError."""
    try:
        replace_file(path, page)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a file in a writable folder') from err


def require_report_place(path: Path) -> None:
    """
    Check that a report file can be written, before minutes of work.

    Raises ConfigError if its folder is missing or not writable, or the path is a folder;
    BackendUnavailableError if matplotlib or jinja2 is not installed.
    """
    require_libraries('matplotlib', 'jinja2')
    require_place(path, 'report')


def require_place(path: Path, what: str) -> None:
    """Raise ConfigError if a file, named `what` in the message, could not be written."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = 'it is a folder' if path.is_dir() else \
            'no permission' if path.parent.is_dir() else 'no such folder'
        raise ConfigError(f'{what} {path} cannot be written ({why})',
                          'a file in a writable folder')


# -------------------------------------------------------------------------------------------------
# Templates, and the format of numbers: a dash stands for an unknown value.

NOTHING = '–'
# A number and its unit stay on one line.
PERCENT = '\N{NO-BREAK SPACE}%'


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this folder, given by file name; text is escaped."""
    return _environment().get_template(template).render(values)


def write_page_to(file: Path, template: str, **values: Any) -> None:
    """Render a template into a file piece by piece, so a large page is never in memory."""
    _environment().get_template(template).stream(values).dump(str(file), 'utf-8')


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader('uncertainty_seg.calibration.report'), autoescape=True,
                       trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


def is_known(value: float | None) -> TypeGuard[float]:
    """Return whether a value is neither None nor NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` decimals."""
    if not is_known(value):
        return NOTHING
    return '∞' if math.isinf(value) else f'{value:.{digits}f}'


def limit(value: float | None) -> str:
    """Format a threshold with four significant digits."""
    return f'{value:#.4g}' if is_known(value) else NOTHING


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return f'{100 * share:.{digits}f}{PERCENT}' if is_known(share) else NOTHING


def whole_percent(share: float) -> str:
    """Format a chosen share, such as alpha, without trailing decimals."""
    return f'{100 * share:.4g}{PERCENT}'


def interval_text(found: Interval | None, digits: int, is_gain: bool = False) -> str:
    """Format a figure with its interval in brackets; a gain with signs."""
    write = _signed if is_gain else number
    if found is None or not is_known(found.value):
        return NOTHING
    if not (is_known(found.lower) and is_known(found.upper)):
        return write(found.value, digits)
    ends = (write(found.lower, digits), write(found.upper, digits))
    return f'{write(found.value, digits)} [{ends[0]}, {ends[1]}]'


def _signed(value: float, digits: int) -> str:
    """Format a number with its sign; a number that rounds to zero has none."""
    text = f'{value:+.{digits}f}'
    return text if float(text) else text[1:]
