# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frame log of the node: is offered every frame, keeps those that matter, never blocks.

`offer` chooses by flag, window, interval and chance, and puts chosen frames into a bounded queue.
A thread of its own skips near-duplicates, encodes and writes. A full queue drops frames and counts
them; a disk that refuses is tried again later, which `state` reports.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
import logging
import os
from pathlib import Path
import threading
import time

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError
from uncertainty_seg.storage.frame_log import ring
from uncertainty_seg.storage.frame_log.format import (
    FRAMES_FOLDER,
    LogAbout,
    LogFrame,
    read_sidecar,
)
from uncertainty_seg.storage.frame_log.ring import Candidate, FrameRing
from uncertainty_seg.storage.frame_log.writer import FrameLogWriter, LogCounters, LogState

# A node that is back within this time was restarted under water.
SAME_DIVE_S = 600.0
# The pipeline has priority for the processor. Not a higher value: a thread that hardly runs may be
# preempted while it holds Python's lock, and then the whole node waits.
NICENESS = 5
# Frames that may wait to be written; further ones are dropped and counted.
QUEUE_FRAMES = 64
# The control must not depend on how much is flagged: it has places and memory of its own.
_CONTROL_PLACES, _CONTROL_MEMORY = 4, 1 / 8
_log = logging.getLogger(__name__)


def dive_name(folder: Path, settings: LogSettings, fallback: str, now_s: float) -> str:
    """
    Name the dive that begins or continues now.

    Parameters
    ----------
    folder : Path
        The log, before it is opened; need not exist.
    settings : LogSettings
        A name in `dive` is used unchanged.
    fallback : str
        Name of a dive that begins: the time of the start.
    now_s : float
        Seconds since 1970, by the clock of the disk.

    Returns
    -------
    str
        The dive of the newest frame if it was written within `SAME_DIVE_S` and no name is given.
        That is decided by the time of the file, since stamps may be of another clock.

    """
    if settings.dive:
        return settings.dive
    newest_s, newest = _newest_frame(folder)
    # The clock may have been set back a little meanwhile.
    if newest is not None and abs(now_s - newest_s) <= SAME_DIVE_S:
        with suppress(FrameLogError):
            return str(read_sidecar(newest).get('dive') or fallback)
    return fallback


def _newest_frame(folder: Path) -> tuple[float, Path | None]:
    """Return when the last frame was written, and its folder or None."""
    newest_s, newest = 0.0, None
    with suppress(OSError), os.scandir(folder / FRAMES_FOLDER) as entries:
        for entry in entries:
            # The time of a folder is that of the last file added to it.
            if not entry.name.startswith('.') and entry.is_dir():
                written_s = entry.stat().st_mtime
                if newest is None or written_s > newest_s:
                    newest_s, newest = written_s, Path(entry.path)
    return newest_s, newest


class FrameLog:
    """
    A frame log that is being written.

    Raises FrameLogError if the folder cannot be written or another process writes it; ConfigError
    if the quota is too small for any frame of the log.

    Parameters
    ----------
    folder : Path or str
        Made if missing; an existing log is continued. One process at a time.
    settings : LogSettings
        What to keep.
    about : LogAbout
        The run; its `dive` is the `fallback` of `dive_name`.
    on_kept : callable, optional
        Called with a frame and the reason once the frame is on disk, from the log's thread.
    clock : callable, optional
        Seconds; for frames without a stamp and for retrying the disk.

    """

    def __init__(
        self, folder: Path | str, settings: LogSettings, about: LogAbout,
        on_kept: Callable[[LogFrame, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._clock = settings, clock
        # Before the log is opened, which may evict the newest frame.
        self._own_dive = dive_name(Path(folder), replace(settings, dive=''), about.dive,
                                   time.time())
        self._about = self._named(about)
        self._counters = LogCounters()
        self._writer = FrameLogWriter(Path(folder), settings, self._counters, on_kept, clock)
        self._ring = FrameRing(settings)
        self._queue: deque[Candidate] = deque()
        self._queue_bytes = 0
        self._work = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name='frame_log', daemon=True)
        self._thread.start()

    @property
    def settings(self) -> LogSettings:
        """Return the current settings."""
        return self._settings

    @property
    def dive(self) -> str:
        """Return the name of the current dive."""
        return self._about.dive

    @property
    def has_ended(self) -> bool:
        """Whether its thread is gone though nobody closed it: nothing is written any more."""
        return not self._is_closing and not self._thread.is_alive()

    def offer(self, frame: LogFrame) -> None:
        """
        Offer a processed frame; never blocks.

        Every frame has to be offered, for the window before a flagged one and the control.
        """
        with self._work:
            if self._is_closing:
                return
            self._counters.num_seen += 1
            for item in self._ring.take(frame, self._about, self._clock()):
                self._put(item)

    def trigger(self, num_frames: int = 1, camera: str | None = None) -> int:
        """
        Keep the newest frames of each camera, or of one, within `before_s`, whatever they show.

        Returns how many frames are queued, being written or on disk; 0 before the first frame.
        Queued control frames remain control frames.
        """
        with self._work:
            items = [] if self._is_closing else self._ring.newest(num_frames, camera)
            found = 0
            for item in items:
                is_new = item.fate not in (ring.CHOSEN, ring.WRITING, ring.KEPT)
                # Not if it is being written, since the writer reads the reason; nor for the
                # control, which would not stay a random sample.
                if is_new or (item.fate == ring.CHOSEN and item.reason != 'control'):
                    item.reason = 'trigger'
                found += self._put(item) if is_new else 1
            return found

    def reconfigure(self, settings: LogSettings, about: LogAbout | None = None) -> None:
        """
        Apply live settings to the frames to come; a smaller quota is applied by the thread.

        `about` is the run, if it has changed. Its dive is ignored: that is the one of the start,
        or the one in the settings. Raises ConfigError if the folder is another one; nothing is
        changed then.
        """
        if settings.folder != self._settings.folder:
            raise ConfigError(f'log.folder was changed to {settings.folder!r}',
                              f'{self._settings.folder!r}', 'close the log and open another')
        with self._work:
            self._settings = settings
            self._about = self._named(about or self._about)
            self._ring.settings = settings
            self._writer.wanted = settings
            self._work.notify()

    def state(self) -> LogState:
        """Return a snapshot; never blocks on the disk."""
        with self._work:
            waiting, in_ring, counters = len(self._queue), len(self._ring), self._counters
            skipped = {'interval': self._ring.num_interval}
            return counters.snapshot(self._writer, waiting, in_ring,
                                     self._ring.num_pushed_out, skipped)

    def close(self, timeout_s: float = 5.0) -> bool:
        """
        Write the queued frames and end; may be called twice.

        Frames that are not written within `timeout_s` are dropped and counted. Returns whether
        everything was written and the thread has ended.
        """
        with self._work:
            self._is_closing = True
            self._work.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._writer.close()  # already done, unless something ended the thread
        with self._work:
            num_left = len(self._queue)
            self._queue.clear()
            for _ in range(num_left):
                self._counters.drop('closing')
        if num_left:
            _log.warning('frame log: %d frames were not written in the %g s given',
                         num_left, timeout_s)
        return not num_left and not self._thread.is_alive()

    def _named(self, about: LogAbout) -> LogAbout:
        return replace(about, dive=self._settings.dive or self._own_dive)

    def _put(self, item: Candidate) -> bool:
        """Queue a frame; the caller holds the lock."""
        size = item.frame.memory_bytes
        cause = self._refusal(item, size)
        if cause:
            item.fate = ring.SKIPPED
            self._ring.give_back(item)
            self._counters.drop(cause)
            return False
        item.fate = ring.CHOSEN
        self._queue.append(item)
        self._queue_bytes += size
        self._work.notify()
        return True

    def _refusal(self, item: Candidate, size: int) -> str:
        """Return the cause of a drop if the queue has no room for a frame, else ''."""
        is_control = item.reason == 'control'
        places = QUEUE_FRAMES + (_CONTROL_PLACES if is_control else 0)
        memory = self._settings.memory_mb * MEGABYTE / 2 * (
            1 if is_control else 1 - _CONTROL_MEMORY)
        if len(self._queue) >= places:
            return 'control' if is_control else 'queue_full'
        if self._queue and self._queue_bytes + size > memory:
            return 'control' if is_control else 'memory_full'
        return ''

    def _run(self) -> None:
        # Threads have a niceness of their own on Linux.
        with suppress(OSError, AttributeError):
            mine = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(mine, NICENESS))
        while True:
            with self._work:
                self._work.wait_for(self._has_work)
                item = self._queue.popleft() if self._queue else None
                if item is not None:
                    self._queue_bytes -= item.frame.memory_bytes
                    item.fate = ring.WRITING
                elif self._is_closing:
                    break
            self._writer.work(item)
        self._writer.close()

    def _has_work(self) -> bool:
        return bool(self._queue) or self._is_closing or self._writer.is_outdated
