# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the node counts about one camera: frames, faults, rate, time a stage, its budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
import statistics
import threading
import time

WINDOW_FRAMES = 100


class FrameStatistics:
    """
    Remember the last frames; written by the worker, read by the timer.

    Parameters
    ----------
    clock : callable, optional
        Seconds that never stand still or go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._timings: dict[str, deque[float]] = {}
        self._done_s: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self.num_processed = 0
        self.num_faulty = 0
        self.last_fault = ''
        self.is_faulty = False
        self._latest_ms = 0.0
        self._over_since_s: float | None = None

    def add_latency(self, to_flag_ms: float, budget_ms: float) -> None:
        """Note how long a frame took to its flag, and since when that has been too long."""
        with self._lock:
            self._latest_ms = to_flag_ms
            if to_flag_ms <= budget_ms:
                self._over_since_s = None
            elif self._over_since_s is None:
                self._over_since_s = self._clock()

    def clear_latency(self) -> None:
        """Forget how long frames took: those before and after a gap are not one row."""
        with self._lock:
            self._over_since_s = None

    def over_budget_s(self) -> float | None:
        """Return since how many seconds every frame was over its budget; None if it is not."""
        with self._lock:
            return None if self._over_since_s is None else self._clock() - self._over_since_s

    @property
    def latest_ms(self) -> float:
        """How long the newest frame took to its flag."""
        return self._latest_ms

    def add_frame(self, timings_ms: Mapping[str, float]) -> None:
        """Count a frame that went through, with the time of each stage."""
        with self._lock:
            self.num_processed += 1
            self._done_s.append(self._clock())
            for stage, value_ms in timings_ms.items():
                self._timings.setdefault(stage, deque(maxlen=WINDOW_FRAMES)).append(value_ms)

    def add_fault(self, reason: str) -> bool:
        """
        Count a frame that could not be used.

        Parameters
        ----------
        reason : str
            Why.

        Returns
        -------
        bool
            True if the reason is another one than last time: worth a line in the log.

        """
        with self._lock:
            self.num_faulty += 1
            self.is_faulty = True
            is_new, self.last_fault = reason != self.last_fault, reason
            return is_new

    def clear_fault(self) -> None:
        """Note that the newest verdict is of a frame that could be used."""
        self.is_faulty = False

    def rate_hz(self) -> float:
        """Return frames a second over the last frames; 0 once they have stopped for a while."""
        with self._lock:
            if len(self._done_s) < 2:
                return 0.0
            # Up to now and not to the last frame, so that the rate fades when frames stop.
            span_s = max(self._clock() - self._done_s[0], 1e-9)
            return (len(self._done_s) - 1) / span_s

    def latencies_ms(self) -> dict[str, tuple[float, float]]:
        """Return median and largest time of each stage over the last frames."""
        with self._lock:
            return {
                stage: (statistics.median(values), max(values))
                for stage, values in self._timings.items()
            }
