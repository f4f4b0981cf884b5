# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which frames belong together: the file of ``calibrate --blocks``.

JSON ``{"dive_07": ["frame_0001", ...], ...}`` or ``{"frame_0001": "dive_07", ...}``, or CSV with
a line ``frame_0001,dive_07`` a frame.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import DatasetError

_FORMS = ('{"dive_07": ["frame_0001", ...]} or {"frame_0001": "dive_07"} as JSON, or lines '
          'frame_0001,dive_07 as CSV')


def read_blocks(path: Path | None, stems: Sequence[str]) -> NDArray[np.str_]:
    """
    Look up the block of each frame.

    Parameters
    ----------
    path : Path or None
        The file; None makes each frame a block of its own.
    stems : sequence of str
        File names of the frames, without ending.

    Returns
    -------
    ndarray of str, shape (n,)
        Names of blocks. Frames in the file that are not asked for do no harm.

    Raises
    ------
    DatasetError
        If the file cannot be read, or lacks a frame or has it twice.

    """
    if path is None:
        return np.array(stems, dtype=np.str_)
    try:
        pairs = list(_pairs(path))
    except (OSError, ValueError, csv.Error) as err:
        raise DatasetError(f'{path} gives no blocks ({err})', _FORMS) from err
    block_of = dict(pairs)
    if len(block_of) < len(pairs):
        twice, _ = Counter(stem for stem, _ in pairs).most_common(1)[0]
        raise DatasetError(f'{path} has the frame {twice!r} twice', 'one block a frame')
    missing = [stem for stem in stems if stem not in block_of]
    if missing:
        raise DatasetError(f'{path} has no block for {missing[0]!r} and {len(missing) - 1} more',
                           'one for every frame')
    return np.array([block_of[stem] for stem in stems], dtype=np.str_)


class _Pairs(list[tuple[str, object]]):
    """A JSON object, key by key."""


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding='utf-8-sig')  # spreadsheets write a mark first
    if path.suffix.lower() == '.csv':
        for line in csv.reader(text.splitlines()):
            if not line:
                continue
            if len(line) != 2:
                raise ValueError(f'a line of {len(line)} fields')
            yield line[0].strip(), line[1].strip()
        return
    # As pairs, because a key that comes twice would be lost in a dict.
    raw = json.loads(text, object_pairs_hook=_Pairs)
    if not isinstance(raw, _Pairs):
        raise ValueError(f'a {type(raw).__name__}')
    for key, value in raw:
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list) and all(isinstance(stem, str) for stem in value):
            yield from ((stem, key) for stem in value)
        else:
            raise ValueError(f'{key!r} holds neither a name nor a list of names')
