# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Progress of long work on stderr: a bar on a terminal, otherwise the same now and then.

A log file or a script that reads stderr gets no bar; without a word a run of minutes would look as
if it hung. Work that is done before the first word is due prints none.

"""

from __future__ import annotations

from collections.abc import Iterable
import sys
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# Time until the first word where stderr is no terminal, and between two.
LINE_S = 15.0


def progress(
    items: Iterable[Any] | None = None, *, desc: str, total: float | None = None,
    unit: str = 'frame',
) -> tqdm[Any]:
    """
    Return a bar to iterate over; without items ``update`` counts.

    `desc` is the work in a word, `unit` what is counted, singular. `total` is by default the
    length of the items where that is known.
    """
    from tqdm import tqdm

    pause_s = 0.0 if sys.stderr.isatty() else LINE_S
    return tqdm(items, desc=desc, total=total, unit=unit, file=sys.stderr, delay=pause_s,
                mininterval=max(pause_s, 0.1), maxinterval=max(pause_s, 10.0))
