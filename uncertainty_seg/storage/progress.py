# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Progress of long work on stderr: a bar on a terminal, otherwise a line now and then.

The lines are for a log file or a script that reads stderr, where a silent run of minutes would
look as if it hung. Work that ends before the first line is due prints none.
"""

from __future__ import annotations

from collections.abc import Iterable
import sys
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# Time until the first line if stderr is not a terminal, and between two.
LINE_S = 15.0


def progress(
    items: Iterable[Any] | None = None, *, desc: str, total: float | None = None,
    unit: str = 'frame',
) -> tqdm[Any]:
    """
    Return a bar to iterate over; without items, call its ``update``.

    `desc` is a word for the work, `unit` for what is counted, singular. `total` is by default the
    length of the items, if that is known.
    """
    from tqdm import tqdm

    pause_s = 0.0 if sys.stderr.isatty() else LINE_S
    return tqdm(items, desc=desc, total=total, unit=unit, file=sys.stderr, delay=pause_s,
                mininterval=max(pause_s, 0.1), maxinterval=max(pause_s, 10.0))
