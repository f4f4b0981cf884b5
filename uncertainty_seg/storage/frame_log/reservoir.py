# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Keep a weighted random sample of a stream that does not fit: one pass, O(log K) an item.

Each item gets the key log(weight) + Gumbel noise, and those with the largest keys stay. That is
sampling without replacement in which each draw takes an item with a chance proportional to its
weight (Efraimidis and Spirakis 2006; Gumbel-top-k, Kool et al. 2019), and it needs no knowledge
of what is still to come. Equal weights give a uniform sample.

Items have sizes too. Once an item had to go, none with a smaller key is let in again, or a small
one would slip into the gap that a large one left. So the order of the stream does not matter:
what stays are the largest keys, in falling order, until the first that does not fit.

"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import heapq
import math


def gumbel_key(log_weight: float, uniform: float) -> float:
    """
    Return the key of an item.

    Parameters
    ----------
    log_weight : float
        Natural logarithm of its weight.
    uniform : float
        A random number, in (0, 1).

    Returns
    -------
    float
        log_weight - ln(-ln(uniform)).

    """
    return log_weight - math.log(-math.log(uniform))


def stable_uniforms(*parts: str | int) -> tuple[float, float]:
    """
    Draw two independent uniform numbers in (0, 1) that depend on `parts` alone.

    So a frame has the same luck whenever its dive is replayed, and after a restart no state of a
    generator is missing.

    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    # 52 bits and a half step: neither 0 nor 1 after rounding.
    low, high = (int.from_bytes(digest[k:k + 8], 'big') >> 12 for k in (0, 8))
    return (low + 0.5) / 2**52, (high + 0.5) / 2**52


@dataclass(frozen=True)
class Capacity:
    """
    How much a reservoir may hold.

    Attributes
    ----------
    num_bytes, num_items : int
        Sum of the sizes; count.

    """

    num_bytes: int
    num_items: int


class Reservoir:
    """
    The items with the largest keys that fit.

    Parameters
    ----------
    capacity : Capacity
        How much fits.
    bar : float, optional
        Largest key that had to go before this object was made.
    largest : int, optional
        Size of the largest item before this object was made.

    """

    def __init__(
        self, capacity: Capacity, bar: float = -math.inf, largest: int = 0
    ) -> None:
        self.capacity = capacity
        self._bar = bar
        self._largest = largest
        self._heap: list[tuple[float, str]] = []
        self._sizes: dict[str, int] = {}
        self._num_bytes = 0

    @property
    def bar(self) -> float:
        """
        Largest key that had to go; minus infinity if none.

        An item of weight w is in the sample with the chance 1 - exp(-w exp(-bar)), which is what
        an estimate divides by (threshold sampling; Duffield et al. 2007).

        """
        return self._bar

    @property
    def largest(self) -> int:
        """Size of the largest item that was ever taken in, if only for a moment."""
        return self._largest

    @property
    def num_bytes(self) -> int:
        """Sum of the sizes of what it holds."""
        return self._num_bytes

    def __len__(self) -> int:
        """Return how many items it holds."""
        return len(self._sizes)

    def __contains__(self, name: str) -> bool:
        """Tell whether an item is held."""
        return name in self._sizes

    def restore(self, name: str, key: float, size: int) -> None:
        """Put back an item that was held when the program ended; `trim` afterwards."""
        heapq.heappush(self._heap, (key, name))
        self._sizes[name] = size
        self._num_bytes += size
        self._largest = max(self._largest, size)

    def would_outlast(self, key: float) -> bool:
        """Tell whether an item of this key has a chance; False once a larger key had to go."""
        return key > self._bar

    def fits_alone(self, size: int) -> bool:
        """Tell whether an item of this size fits into the empty reservoir."""
        return size <= self.capacity.num_bytes and self.capacity.num_items >= 1

    def offer(self, name: str, key: float, size: int) -> tuple[bool, list[str]]:
        """
        Take an item in, or not.

        Parameters
        ----------
        name : str
            Not in it yet.
        key : float
            Of `gumbel_key`.
        size : int
            In bytes.

        Returns
        -------
        bool, list of str
            Whether it is held now; what had to go for it, smallest key first. Without being
            taken in it can have thrown out others: whose keys are smaller than its own.

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
        """Throw out the smallest keys until the rest fits; return their names."""
        gone = []
        while self._sizes and (self._num_bytes > self.capacity.num_bytes
                               or len(self._sizes) > self.capacity.num_items):
            key, name = heapq.heappop(self._heap)
            self._bar = max(self._bar, key)
            self._num_bytes -= self._sizes.pop(name)
            gone.append(name)
        return gone

    def was_enlarged(self, capacity: Capacity) -> bool:
        """
        Tell whether items had to go from a much smaller reservoir than one of this capacity.

        Items go only when what is left and the last of them do not fit together. So a reservoir
        that is emptier than this by the largest item has been given room since. Twice the room is
        asked for, or a capacity that goes up and down would let every key in again and again.
        """
        return (2 * (self._num_bytes + self._largest) < capacity.num_bytes
                and 2 * (len(self) + 1) < capacity.num_items)

    def lower_bar(self) -> None:
        """Let any key in again, for a reservoir that was enlarged or emptied by others."""
        self._bar = -math.inf
