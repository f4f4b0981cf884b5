# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The rows of a comparison as text for a terminal, as JSON, as CSV and as one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import csv
import io
from itertools import groupby
from pathlib import Path

from uncertainty_seg.calibration.compare.run import Comparison
from uncertainty_seg.calibration.compare.table import Row
from uncertainty_seg.calibration.report.page import is_known, NOTHING, number, render_page
from uncertainty_seg.calibration.statistics.bootstrap import Interval
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.whole_files import json_text, replace_file

_MEAN_WIDTH = 8
# A map or score that the folds chose may be many words.
_MOST_NAME = 44


def value_text(row: Row) -> str:
    """Write the figure of a row."""
    return number(row.value.value, row.kind.digits)


def interval_text(found: Interval | None, digits: int, is_gain: bool = False) -> str:
    """Write an interval in brackets; of a gain with its value, and both with their signs."""
    if found is None or not is_known(found.value):
        return NOTHING if is_gain else ''
    ends = (found.lower, found.upper)
    if not all(map(is_known, ends)):
        return signed(found.value, digits) if is_gain else ''
    if not is_gain:
        return f'[{number(ends[0], digits)}, {number(ends[1], digits)}]'
    return f'{signed(found.value, digits)} [{signed(ends[0], digits)}, {signed(ends[1], digits)}]'


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; what rounds to zero has none."""
    text = f'{value:+.{digits}f}'
    return text if float(text) else text[1:]


def terminal_text(found: Comparison) -> str:
    """Return the table for a terminal: the contenders' own figures, and each map's."""
    lines = [*(f'{label}: {words}' for label, words in found.contenders.items()), '']
    width = max(map(len, found.contenders))
    for title, rows in groups(found.rows):
        lines.append(title)
        lines += [_line(row, width) for row in rows if row.is_picked]
    lines += ['', *(f'{label}: {words}' for label, words in found.verdicts().items())]
    lines += [f'{label}: {words}' for label, words in found.timings.items()]
    return '\n'.join([*lines, *found.notes])


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield each figure's title and rows."""
    for title, group in groupby(rows, key=lambda row: row.kind.title):
        yield title, list(group)


def _line(row: Row, width: int) -> str:
    words = f'  {row.label:{width}}  {value_text(row):>{_MEAN_WIDTH}}'
    if row.gain is not None:
        words += f'  {interval_text(row.gain, row.kind.digits, True)}  {row.verdict}'
    return words + (f'  ({_short(row.name)})' if row.name else '')


def _short(name: str) -> str:
    """Name as many of the maps or scores that folds chose as there is room for."""
    parts = name.split(', ')
    kept = parts[:1]
    for part in parts[1:]:
        if len(', '.join([*kept, part])) > _MOST_NAME:
            break
        kept.append(part)
    more = len(parts) - len(kept)
    return ', '.join(kept) + (f', {more} more' if more else '')


def write_json(path: Path, found: Comparison) -> None:
    """Write every row as one JSON object; ConfigError if the file cannot be written."""
    _write(path, json_text(found.summary(all_rows=True)) + '\n')


def write_csv(path: Path, found: Comparison) -> None:
    """Write every row as a line of CSV; ConfigError if the file cannot be written."""
    out = io.StringIO()
    table = [row.facts() for row in found.rows]
    writer = csv.DictWriter(out, list(table[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    _write(path, out.getvalue())


def write_page(path: Path, found: Comparison) -> None:
    """Write the page, whole or not at all; ConfigError if the file cannot be written."""
    _write(path, comparison_page(found))


def comparison_page(found: Comparison) -> str:
    """Return the page: one file that needs nothing else."""
    others = [(title, sorted((row for row in rows if not row.is_picked), key=_by_gain))
              for title, rows in groups(found.rows)]
    return render_page(
        'compare.html', title=f'Comparison with {found.baseline}', found=found,
        picked=[(title, [row for row in rows if row.is_picked])
                for title, rows in groups(found.rows)],
        others=[(title, rows) for title, rows in others if rows],
        value_text=value_text, interval_text=interval_text)


def _by_gain(row: Row) -> tuple[bool, float]:
    gain = row.gain
    # The baseline's own rows have none, and stand first.
    return gain is not None, -gain.value if gain and is_known(gain.value) else 0.0


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a file in a folder that exists and may be written to') from err
