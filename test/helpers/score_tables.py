# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Score tables of rows that a test makes up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uncertainty_seg.storage.score_rows import ScoreRow, ScoreWriter, TableInfo


def write_rows(
    path: Path, info: TableInfo, rows: Iterable[ScoreRow], facts: Mapping[str, Any] | None = None
) -> int:
    """Write a part with rows and facts; return the number of rows."""
    with ScoreWriter(path, info) as writer:
        for row in rows:
            writer.add(row)
        writer.note(facts or {})
    return writer.num_rows
