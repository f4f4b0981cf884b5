# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Notices that no verdict was reached for too long.

Its clock is the steady one and not the node's. With `use_sim_time` the node's clock stands still
while a bag is paused or its player has died: a watchdog on that clock would let the flag stay up.
On the steady clock the flag falls when frames stop, for whatever reason; the price is that a bag
played so slowly that frames are further apart than the timeout is never confident. Stamps are
never compared with a clock, so an old bag is as good as a camera.

"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time


class Watchdog:
    """
    Measure the time since the last verdict; shared by the worker and the timer.

    Parameters
    ----------
    timeout_s : float
        After this long without `feed` it is stale.
    clock : callable, optional
        Seconds that never stand still or go back.

    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._fed_s = clock()
        self._has_tripped = False

    def feed(self) -> None:
        """Note that a verdict was reached now."""
        with self._lock:
            self._fed_s = self._clock()

    def silence_s(self) -> float:
        """Return the seconds since the last verdict."""
        with self._lock:
            return self._clock() - self._fed_s

    def is_stale(self) -> bool:
        """Tell whether the time is over; remembers it for `take_trip`."""
        with self._lock:
            return self._look()

    def take_trip(self) -> bool:
        """Tell whether the time was over since this was last asked."""
        with self._lock:
            self._look()  # by the clock, too: the timer may have been late, or stuck
            tripped, self._has_tripped = self._has_tripped, False
            return tripped

    def _look(self) -> bool:
        is_stale = self._clock() - self._fed_s >= self.timeout_s
        self._has_tripped = self._has_tripped or is_stale
        return is_stale
