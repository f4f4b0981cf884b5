# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Pages that need nothing else: no network, no script, no font; and the one builder of reports.

A report is a list of sections, a section a list of parts: facts, tables of rows, plots, frames and
notes. templates/report.html draws each kind once, and jinja2 escapes every value. Equal
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
    """A table: heads of the columns, and rows."""

    kind: ClassVar[str] = 'table'
    heads: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Plot:
    """A plot: its ``data:`` address, what it shows, and its size."""

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
    """A sentence or two each: what the report does not show, what was odd."""

    kind: ClassVar[str] = 'notes'
    texts: Sequence[str]


@dataclass(frozen=True)
class Section:
    """
    A section of a report.

    `name` is its id in the page, `look` says how to read it; folded away it shows its title.
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

    `leads` and `warnings` are what a reader has to know before all else, below the heading, and
    `tiles` the figures to look for first, value and what it is.
    """

    title: str
    sections: Sequence[Section]
    leads: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    tiles: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def page(self) -> str:
        """Return the page."""
        return render_page('report.html', title=self.title, report=self)


# -------------------------------------------------------------------------------------------------
# Files.


def write_page(path: Path, page: str) -> None:
    """Write a file, whole or not at all, into a folder that exists; or raise ConfigError."""
    try:
        replace_file(path, page)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a file in a writable folder') from err


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
                          'a file in a writable folder')


# -------------------------------------------------------------------------------------------------
# Templates, and how numbers are written: a dash stands for what is not known.

NOTHING = '–'
# A number and its unit stay on one line.
PERCENT = '\N{NO-BREAK SPACE}%'


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this folder, given by file name; text is escaped."""
    return _environment().get_template(template).render(values)


def write_page_to(file: Path, template: str, **values: Any) -> None:
    """Fill a template piece by piece into a file, so that a large page is never in memory."""
    _environment().get_template(template).stream(values).dump(str(file), 'utf-8')


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader('uncertainty_seg.calibration.report'), autoescape=True,
                       trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


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


def interval_text(found: Interval | None, digits: int, is_gain: bool = False) -> str:
    """Write a figure with its interval in brackets; a gain with signs."""
    write = _signed if is_gain else number
    if found is None or not is_known(found.value):
        return NOTHING
    if not (is_known(found.lower) and is_known(found.upper)):
        return write(found.value, digits)
    ends = (write(found.lower, digits), write(found.upper, digits))
    return f'{write(found.value, digits)} [{ends[0]}, {ends[1]}]'


def _signed(value: float, digits: int) -> str:
    """Write a number with its sign; what rounds to zero has none."""
    text = f'{value:+.{digits}f}'
    return text if float(text) else text[1:]
