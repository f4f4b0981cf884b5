# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Score tables with rows from a test."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uncertainty_seg.storage.score_rows import new_part, ScoreRow, TableInfo


def write_rows(
    path: Path, info: TableInfo, rows: Iterable[ScoreRow], facts: Mapping[str, Any] | None = None
) -> int:
    """Write a part of a score table with rows and facts; return the number of rows."""
    num_rows = 0
    with new_part(path, info) as writer:
        for row in rows:
            writer.add(row)
            num_rows += 1
        writer.note(facts or {})
    return num_rows
