# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A selection on disk: Parquet for the next step, CSV for a person."""

from __future__ import annotations

from collections.abc import Callable
import csv
from pathlib import Path
from typing import Any

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.tools.arguments import json_text
from uncertainty_seg.tools.select_run import SelectionOutcome

PARQUET, CSV, SHEET = 'selection.parquet', 'selection.csv', 'contact_sheet.html'
METADATA_KEY = b'uncertainty_seg.selection'
# First in the CSV; what follows is in the order of the table.
_LEADING = ('rank', 'reason', 'stands_for', 'strategy')


def require_place(folder: Path, is_replacing: bool) -> None:
    """
    Refuse a file, or a folder that holds a selection that nobody said to replace.

    Raises
    ------
    ConfigError
        With what is in the way.

    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f'{folder} is a file', 'a folder for the selection')
    if (folder / PARQUET).exists() and not is_replacing:
        raise ConfigError(f'{folder} holds a selection already', 'a new folder',
                          'give another --out, or --force to replace it')


def write_selection(folder: Path, found: SelectionOutcome) -> list[str]:
    """
    Write selection.parquet and selection.csv, each whole or not at all.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    found : Found
        What was chosen.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    ConfigError
        If the folder cannot be made, or a file not be written.

    """
    chosen = chosen_rows(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'{folder} cannot be made ({err.strerror})',
                          'a folder that may be written to') from err

    def parquet(draft: Path) -> None:
        from pyarrow.parquet import write_table

        write_table(chosen, draft, compression='zstd')

    write_whole(folder / PARQUET, parquet)
    write_whole(folder / CSV, lambda draft: _write_csv(draft, chosen))
    return [PARQUET, CSV]


def chosen_rows(found: SelectionOutcome) -> Any:
    """Return the chosen rows with rank, strategy, reason and stands_for, a `pyarrow.Table`."""
    import pyarrow as pa

    selection = found.selection
    rows = found.table.take(pa.array(selection.rows))
    ends = {
        'rank': pa.array(range(1, len(rows) + 1), pa.int32()),
        'strategy': pa.array([found.request.strategy] * len(rows), pa.string()),
        'reason': pa.array(selection.reasons, pa.string()),
        'stands_for': pa.array(selection.stands_for, pa.int64()),
    }
    for name, values in ends.items():
        rows = rows.append_column(name, values)
    return rows.replace_schema_metadata({
        **(found.table.schema.metadata or {}), METADATA_KEY: json_text(found.summary()).encode()})


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """
    Write a file of a selection, whole or not at all.

    Raises
    ------
    ConfigError
        If it cannot be written; an older one stays as it was.

    """
    try:
        with whole_file(path) as draft:
            write(draft)
    except OSError as err:
        raise ConfigError(f'{path} cannot be written ({err.strerror})',
                          'a folder with room that may be written to') from err


def _write_csv(path: Path, chosen: Any) -> None:
    names = [*_LEADING, *(name for name in chosen.column_names
                          if name not in (*_LEADING, 'features'))]
    columns = [[_text(name, value) for value in chosen.column(name).to_pylist()]
               for name in names]
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))


def _text(name: str, value: Any) -> str:
    if value is None:
        return ''
    if name == 'phash':  # a spreadsheet would round the number
        return f'{value:016x}'
    return f'{value:.7g}' if isinstance(value, float) else str(value)
