# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A slot for the newest frame of each camera, and the worker thread that takes frames from the slots.

A new frame replaces one that still waits, which is counted. Among the cameras with a frame, the
one served longest ago is next. A camera with a rate cap keeps its newest frame until the cap
allows it. Callbacks never wait for the worker. Imports no ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import logging
import math
import os
import threading
import time
from typing import Generic, TypeVar

T = TypeVar('T')
_log = logging.getLogger(__name__)


class Slot(Generic[T]):
    """
    The newest frame of one camera; made by `FrameScheduler.add`.

    The worker calls `handle` with a frame and the seconds it waited for inference. A frame counts
    as dropped if a newer one replaced it while the network was busy, or if it was left at the end.
    It counts as over the rate if it was replaced while it waited for the rate cap.
    """

    def __init__(
        self, handle: Callable[[T, float], None], changed: threading.Condition,
        clock: Callable[[], float],
    ) -> None:
        self.handle = handle
        self._changed, self._clock = changed, clock
        self._min_interval_s = 0.0
        self.item: tuple[T, float] | None = None
        self.is_closed = False
        self.served_s = -math.inf
        self.num_received = self.num_dropped = self.num_over_rate = 0

    def put(self, item: T) -> None:
        """Store a frame in place of one that still waits; never blocks on the worker."""
        with self._changed:
            if self.is_closed:
                return
            self.num_received += 1
            now_s = self._clock()
            if self.item is not None:
                is_early = now_s < self.due_s
                self.num_over_rate += is_early
                self.num_dropped += not is_early
            self.item = item, now_s
            self._changed.notify()

    def limit(self, max_rate_hz: float) -> None:
        """Set the highest rate at which frames are handed out, in Hz; 0 for no limit."""
        with self._changed:
            self._min_interval_s = 1 / max_rate_hz if max_rate_hz else 0.0
            self._changed.notify()

    def clear_counts(self) -> None:
        """Reset the counts."""
        self.num_received = self.num_dropped = self.num_over_rate = 0

    @property
    def due_s(self) -> float:
        """Return when the rate cap allows the next frame, in s of the scheduler's clock."""
        return self.served_s + self._min_interval_s


class FrameScheduler(Generic[T]):
    """Hand out the frames of several cameras in fair turns, until it `is_closed`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._slots: list[Slot[T]] = []
        self.is_closed = False

    def add(self, handle: Callable[[T, float], None]) -> Slot[T]:
        """Add a camera whose frames go to `handle`; return its slot."""
        with self._changed:
            self._slots.append(Slot(handle, self._changed, self._clock))
            return self._slots[-1]

    def take(self, timeout_s: float = math.inf) -> tuple[Slot[T], T, float] | None:
        """
        Wait for the next frame and remove it.

        Returns the slot, its newest frame and the seconds since that was due; None after the
        timeout or once the scheduler is closed.
        """
        end_s = self._clock() + timeout_s
        with self._changed:
            while not self.is_closed:
                now_s = self._clock()
                waiting = [slot for slot in self._slots if slot.item is not None]
                due = [slot for slot in waiting if slot.due_s <= now_s]
                if due:
                    slot = min(due, key=lambda slot: slot.served_s)
                    assert slot.item is not None
                    item, put_s = slot.item
                    # Waiting for the camera's own rate cap is intended and not latency.
                    waited_s = now_s - max(put_s, slot.due_s)
                    slot.item, slot.served_s = None, now_s
                    return slot, item, waited_s
                if now_s >= end_s:
                    return None
                until_s = min([end_s, *(slot.due_s for slot in waiting)])
                self._changed.wait(None if until_s == math.inf else until_s - now_s)
        return None

    def close(self) -> None:
        """Wake the worker, and accept no more frames."""
        with self._changed:
            self.is_closed = True
            for slot in self._slots:
                slot.is_closed = True
                slot.num_dropped += slot.item is not None
                slot.item = None
            self._changed.notify_all()


# How often a worker without a frame shows that it is alive.
BEAT_S = 0.25


class Worker(Generic[T]):
    """
    Handle one frame after the other in a thread, of lower priority if `niceness` is above 0.

    `num_beats` grows with each frame, and every `BEAT_S` without a frame.
    """

    def __init__(
        self, scheduler: FrameScheduler[T], name: str = 'frame-worker', niceness: int = 0
    ) -> None:
        self._scheduler, self._cause, self._niceness = scheduler, '', niceness
        self.num_beats = 0
        # A daemon: an engine that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Take no more frames, wait for the current one, and return whether it ended in time."""
        self._scheduler.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def end_cause(self) -> str:
        """Return what ended the thread if `stop` did not; empty otherwise."""
        is_gone = self._thread.ident is not None and not self._thread.is_alive()
        if is_gone and not self._cause and not self._scheduler.is_closed:
            return 'its thread is gone'
        return self._cause

    def _run(self) -> None:
        try:
            self._take_turns()
        except BaseException as err:
            # SystemExit and the like pass every fault handler, and nothing restarts a thread.
            self._cause = f'{type(err).__name__}: {err}'
            _log.exception('%s has ended', self._thread.name)

    def _take_turns(self) -> None:
        if self._niceness:
            with suppress(OSError, AttributeError):  # only Linux has a priority per thread
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(
                    os.PRIO_PROCESS, threading.get_native_id(), max(own, self._niceness))
        while not self._scheduler.is_closed:
            turn = self._scheduler.take(BEAT_S)
            self.num_beats += 1
            if turn is not None:
                slot, item, waited_s = turn
                slot.handle(item, waited_s)
