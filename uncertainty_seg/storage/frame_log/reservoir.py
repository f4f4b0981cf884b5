# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A weighted random sample of a stream, in one pass and O(log K) an item.

Each item gets the key log(weight) + Gumbel noise, and those with the largest keys are kept. That
is sampling without replacement in which each draw takes an item with a probability proportional
to its weight (Efraimidis and Spirakis 2006; Gumbel-top-k, Kool et al. 2019), and it needs no
knowledge of the rest of the stream. Equal weights give a uniform sample.

Items have sizes too. Once an item has been evicted, none with a smaller key is admitted: otherwise
a small one could fill the gap that a large one left. So the order of the stream does not matter:
the sample is the largest keys, in falling order, until the first that does not fit.

"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import heapq
import math


def gumbel_key(log_weight: float, uniform: float) -> float:
    """Return the key of an item, log_weight - ln(-ln(uniform)), from a number in (0, 1)."""
    return log_weight - math.log(-math.log(uniform))


def stable_uniforms(*parts: str | int) -> tuple[float, float]:
    """
    Draw two independent uniform numbers in (0, 1) that depend on `parts` alone.

    So a frame gets the same numbers whenever its dive is replayed, and no state of a generator has
    to survive a restart.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    # 52 bits and a half step: neither 0 nor 1 after rounding.
    low, high = (int.from_bytes(digest[k:k + 8], 'big') >> 12 for k in (0, 8))
    return (low + 0.5) / 2**52, (high + 0.5) / 2**52


@dataclass(frozen=True)
class Capacity:
    """How much a reservoir may hold: sum of the sizes, and number of items."""

    num_bytes: int
    num_items: int


class Reservoir:
    """
    The items with the largest keys that fit.

    Parameters
    ----------
    capacity : Capacity
        How much it may hold.
    bar : float, optional
        Its eviction threshold so far, when a reservoir is restored: the largest evicted key. An
        item of weight w is in the sample with the probability 1 - exp(-w exp(-bar)), by which an
        estimate divides (threshold sampling; Duffield et al. 2007).
    largest : int, optional
        Size of the largest item that was ever admitted, if only for a moment.

    """

    def __init__(
        self, capacity: Capacity, bar: float = -math.inf, largest: int = 0
    ) -> None:
        self.capacity, self.bar, self.largest, self.num_bytes = capacity, bar, largest, 0
        self._heap: list[tuple[float, str]] = []
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many items it holds."""
        return len(self._sizes)

    def __contains__(self, name: str) -> bool:
        """Tell whether an item is held."""
        return name in self._sizes

    def restore(self, name: str, key: float, size: int) -> None:
        """Restore an item of an earlier run; `trim` afterwards."""
        heapq.heappush(self._heap, (key, name))
        self._sizes[name] = size
        self.num_bytes += size
        self.largest = max(self.largest, size)

    def would_outlast(self, key: float) -> bool:
        """Tell whether an item of this key can be admitted: no larger key was evicted."""
        return key > self.bar

    def fits_alone(self, size: int) -> bool:
        """Tell whether an item of this size fits into the empty reservoir."""
        return size <= self.capacity.num_bytes and self.capacity.num_items >= 1

    def offer(self, name: str, key: float, size: int) -> tuple[bool, list[str]]:
        """
        Admit an item, not held yet, if its key is large enough.

        Returns whether it is held now, and the names of the evicted items, smallest key first.
        These may have smaller keys than an item that is not held.
        """
        if not self.would_outlast(key):
            return False, []
        self.restore(name, key, size)
        gone = self.trim()
        if name in gone:
            gone.remove(name)
            return False, gone
        return True, gone

    def trim(self) -> list[str]:
        """Evict the smallest keys until the rest fits; return their names."""
        gone = []
        while self._sizes and (self.num_bytes > self.capacity.num_bytes
                               or len(self._sizes) > self.capacity.num_items):
            key, name = heapq.heappop(self._heap)
            self.bar = max(self.bar, key)
            self.num_bytes -= self._sizes.pop(name)
            gone.append(name)
        return gone

    def was_enlarged(self, capacity: Capacity) -> bool:
        """
        Tell whether the items were evicted from a much smaller reservoir than this capacity.

        An item is evicted only if it does not fit together with the rest. So a reservoir that has
        room for its largest item has been enlarged or emptied since. Twice that room is required;
        otherwise a capacity that goes up and down would admit every key again and again.
        """
        return (2 * (self.num_bytes + self.largest) < capacity.num_bytes
                and 2 * (len(self) + 1) < capacity.num_items)

    def lower_bar(self) -> None:
        """Admit any key again, after the reservoir was enlarged, or emptied by somebody else."""
        self.bar = -math.inf
