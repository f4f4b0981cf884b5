# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Progress of long work on stderr: a bar on a terminal, otherwise a line now and then.

A log file or a script that reads stderr gets no bar; without a line a run of minutes would look as
if it hung. Work that is done before the first line is due prints none.

"""

from __future__ import annotations

from collections.abc import Iterable
import sys
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# Time until the first line, and between two.
LINE_S = 15.0
_LINE = '{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} passed, {remaining} left'
_LINE_OPEN = '{desc}: {n_fmt} {unit}s, {elapsed} passed'


def progress(
    items: Iterable[Any] | None = None, *, desc: str, total: float | None = None,
    unit: str = 'frame',
) -> tqdm[Any]:
    """
    Return a bar, or what prints lines, to iterate over; without items ``update`` counts.

    `desc` is the work in a word, `unit` what is counted, singular. `total` is by default the
    length of the items where that is known.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, desc=desc, total=total, unit=unit, file=sys.stderr)
    if total is None and hasattr(items, '__len__'):
        total = len(items)  # type: ignore[arg-type]
    return tqdm(items, desc=desc, total=total, unit=unit, file=_Lines(), delay=LINE_S,
                mininterval=LINE_S, maxinterval=LINE_S,
                bar_format=_LINE_OPEN if total is None else _LINE)


class _Lines:
    """Turns what is drawn over itself on a terminal into lines of stderr."""

    def write(self, text: str) -> int:
        line = text.strip()
        return sys.stderr.write(f'{line}\n') if line else 0

    def flush(self) -> None:
        sys.stderr.flush()
