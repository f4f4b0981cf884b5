# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How T passes are split among calls of a head that gives sums and not passes.

A pass too many cannot be dropped from a sum. A head that takes any number is therefore given no
more than are left; one of a fixed number is given the last pass over and over, and what that adds
is taken away by one more call.

"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """
    One call of the head.

    Attributes
    ----------
    first, stop : int
        Its passes of the T.
    size : int
        Passes that the head is given: beyond `stop` the last is repeated.
    counted : int
        Passes that its sums stand for; below zero if they are taken away.
    share : float
        What its sums are multiplied by.

    """

    first: int
    stop: int
    size: int
    counted: int
    share: float = 1.0


def split_passes(passes: int, limit: int, fixed: int = 0) -> tuple[Part, ...]:
    """
    Split T passes.

    Parameters
    ----------
    passes : int
        T.
    limit : int
        Passes of a call, at most.
    fixed : int
        Passes of a call, exactly; 0 if it takes any number.

    Returns
    -------
    tuple of Part
        Of one size, unless T has no divisor between half of `limit` and `limit`: a call of
        another size would have to be recorded anew in every frame.

    """
    if fixed:
        return _padded(passes, fixed)
    limit = max(1, min(limit, passes))
    divisors = [n for n in range(limit // 2 + 1, limit + 1) if passes % n == 0]
    calls = -(-passes // limit)
    size = divisors[-1] if divisors else -(-passes // calls)
    return tuple(_part(first, min(first + size, passes)) for first in range(0, passes, size))


def _part(first: int, stop: int) -> Part:
    return Part(first, stop, stop - first, stop - first)


def _padded(passes: int, size: int) -> tuple[Part, ...]:
    parts = [Part(first, min(first + size, passes), size, size)
             for first in range(0, passes, size)]
    extra = len(parts) * size - passes
    if extra:
        parts.append(Part(passes - 1, passes, size, -extra, -extra / size))
    return tuple(parts)
