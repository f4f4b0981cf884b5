# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
JSON as it was written by this package, and nothing else that Python's reader lets pass.

A file of a bundle comes from elsewhere. A key that stands twice, NaN, a number beyond a float, an
object nested a million deep: each is one ValueError with a reason, never another exception.

"""

from __future__ import annotations

import json
import math
from typing import Any


def load_object(text: str | bytes) -> dict[str, Any]:
    """
    Read one JSON object, UTF-8 if it is given as bytes.

    Raises ValueError if it is no object, has a key twice or a number that is not finite, is nested
    too deeply, or is no JSON at all.
    """
    try:
        raw = json.loads(text.decode() if isinstance(text, bytes) else text,
                         object_pairs_hook=_without_twins, parse_constant=_refuse,
                         parse_float=_finite)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    if not isinstance(raw, dict):
        raise ValueError('it is not an object')
    return raw


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key {twice[:80]!r} stands twice')
    return found


def _refuse(word: str) -> float:
    raise ValueError(f'{word} is no number of JSON')


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f'{text[:40]} is beyond the range of a float')
    return value
