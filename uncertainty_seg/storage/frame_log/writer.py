# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The thread of the frame log: skips near-duplicates, encodes, writes, retries a disk that refuses.

Errors are counted and reported; none of them ends the thread.

"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
import logging
import math
from pathlib import Path
import shutil
import time

from uncertainty_seg.core.perceptual_hash import hash_distance
from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError, UncertaintySegError
from uncertainty_seg.storage.frame_log import disk
from uncertainty_seg.storage.frame_log.format import LogFrame, REASONS
from uncertainty_seg.storage.frame_log.manifest import Entry
from uncertainty_seg.storage.frame_log.reservoir import gumbel_key
from uncertainty_seg.storage.frame_log.ring import Candidate, KEPT, SKIPPED
from uncertainty_seg.storage.frame_log.store import CONTROL, FrameStore, MAIN

# Number of kept frames of a camera that a new one is compared with.
NUM_RECENT = 16
# Until writing is tried again after the disk refused it.
RETRY_S = 5.0
# A requested frame outranks every score.
_TRIGGER_LOG_WEIGHT = 1000.0
# Why frames are lost, by an error or want of room; `control`: the queue had none for the control.
DROP_CAUSES = ('queue_full', 'memory_full', 'control', 'disk_full', 'read_only', 'folder_missing',
               'not_writable', 'disk_error', 'other_writer', 'no_room', 'too_big', 'bad_frame',
               'closing')
# Why frames are not worth keeping.
SKIP_CAUSES = ('interval', 'duplicate', 'outranked')
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogState:
    """
    A snapshot of a frame log.

    Attributes
    ----------
    is_writing : bool
        False while the disk refuses.
    error : str
        The last error, one sentence; empty once a frame has been written again.
    folder : str
        The log.
    num_seen : int
        Frames offered.
    kept, skipped, dropped : mapping of str to int
        Frames written, by reason; frames not worth keeping and frames lost, by cause.
    num_frames, num_bytes : int
        In the log now, older runs included.
    num_evicted : int
        Frames evicted for others.
    num_leftovers : int
        Unfinished frames of a crash, removed at the start.
    num_waiting, num_in_ring : int
        Frames in the queue; frames held for the window before a flagged one.
    num_pushed_out : int
        Frames that left the ring early for lack of memory.
    free_mb, quota_mb : float
        Free space of the disk, NaN if unknown; the quota.
    write_ms : float
        How long the last frame took, encoding included.

    """

    is_writing: bool
    error: str
    folder: str
    num_seen: int
    kept: Mapping[str, int]
    skipped: Mapping[str, int]
    dropped: Mapping[str, int]
    num_frames: int
    num_bytes: int
    num_evicted: int
    num_leftovers: int
    num_waiting: int
    num_in_ring: int
    num_pushed_out: int
    free_mb: float
    quota_mb: float
    write_ms: float

    def as_dict(self) -> dict[str, str]:
        """Return key and text for a diagnostic status, without causes that never occurred."""
        return {
            'log.folder': self.folder,
            'log.writing': str(self.is_writing).lower(),
            'log.error': self.error,
            'log.seen': str(self.num_seen),
            **{f'log.kept.{name}': str(n) for name, n in self.kept.items()},
            **{f'log.skipped.{name}': str(n) for name, n in self.skipped.items() if n},
            **{f'log.dropped.{name}': str(n) for name, n in self.dropped.items() if n},
            'log.frames': str(self.num_frames),
            'log.mb': f'{self.num_bytes / MEGABYTE:.1f}',
            'log.quota_mb': f'{self.quota_mb:g}',
            'log.free_mb': f'{self.free_mb:.0f}',
            'log.evicted': str(self.num_evicted),
            'log.leftovers': str(self.num_leftovers),
            'log.waiting': str(self.num_waiting),
            'log.in_ring': str(self.num_in_ring),
            'log.pushed_out': str(self.num_pushed_out),
            'log.write_ms': f'{self.write_ms:.1f}',
        }


@dataclass
class LogCounters:
    """Counts of a run; each is changed by one thread only, or under its lock."""

    num_seen: int = 0
    num_evicted: int = 0
    write_ms: float = 0.0
    kept: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, cause: str, num_frames: int = 1) -> None:
        """Count lost frames."""
        self.dropped[cause] += num_frames

    def snapshot(
        self, writer: FrameLogWriter, num_waiting: int, num_in_ring: int, num_pushed_out: int,
        skipped: Mapping[str, int],
    ) -> LogState:
        """Return the current state; `skipped` are counts that the writer does not know."""
        return LogState(
            writer.is_writing, writer.error, writer.folder_text, self.num_seen,
            {name: self.kept[name] for name in REASONS},
            {name: self.skipped[name] + skipped.get(name, 0) for name in SKIP_CAUSES},
            {name: self.dropped[name] for name in DROP_CAUSES},
            writer.num_frames, writer.num_bytes, self.num_evicted, writer.num_leftovers,
            num_waiting, num_in_ring, num_pushed_out, writer.free_mb, writer.quota_mb,
            self.write_ms,
        )


class RecentFrames:
    """The hashes and flags of the frames kept last, for each camera."""

    def __init__(self) -> None:
        self._cameras: dict[str, deque[tuple[int, bool]]] = {}

    def add(self, frame: LogFrame, phash: int) -> None:
        """Add a frame that was kept."""
        recent = self._cameras.setdefault(frame.camera, deque(maxlen=NUM_RECENT))
        recent.append((phash, frame.is_flagged))

    def has_one_like(self, frame: LogFrame, phash: int, num_bits: int) -> bool:
        """
        Return whether a hash of the same camera differs in fewer than `num_bits` bits.

        A flagged frame is compared with flagged ones only: what made it so may be small, and then
        the hash of the scene does not show it.
        """
        return any(hash_distance(phash, old) < num_bits
                   for old, was_flagged in self._cameras.get(frame.camera, ())
                   if was_flagged or not frame.is_flagged)


class FrameLogWriter:
    """
    Writes chosen frames; the parameters are those of `log.FrameLog`.

    Parameters
    ----------
    folder, settings, on_kept, clock : Path, LogSettings, callable or None, callable
        As there.
    counters : LogCounters
        Counts of the run, shared with the log.

    Raises
    ------
    FrameLogError, ConfigError
        As `FrameStore`.

    """

    def __init__(
        self, folder: Path, settings: LogSettings, counters: LogCounters,
        on_kept: Callable[[LogFrame, str], None] | None, clock: Callable[[], float],
    ) -> None:
        self._folder, self._settings, self._counters = folder, settings, counters
        self._on_kept, self._clock = on_kept, clock
        self._store: FrameStore | None = FrameStore(folder, settings)
        self._device = self._store.device
        self._cause, self._retry_at_s = '', -math.inf
        self._recent = RecentFrames()
        self.wanted = settings
        self.folder_text = str(folder)
        self.num_leftovers = self._store.num_leftovers
        self.num_frames = self.num_bytes = 0
        self.free_mb = math.nan
        self.error = ''
        if self.num_leftovers:
            _log.warning('frame log %s: %d unfinished frames of a crash were removed', folder,
                         self.num_leftovers)
        for problem in self._store.problems:
            _log.warning('frame log: %s', problem)
        self._count_trimmed(self._store.num_trimmed)
        self._note_size()

    @property
    def is_writing(self) -> bool:
        """Return False while the disk refuses."""
        return self._store is not None

    @property
    def is_outdated(self) -> bool:
        """Return whether `wanted` settings have not been applied yet."""
        return self.wanted is not self._settings

    @property
    def quota_mb(self) -> float:
        """Return the current quota."""
        return self._settings.quota_mb

    def work(self, item: Candidate | None) -> None:
        """Apply new settings and write a frame, if any; never raises."""
        start_s = time.perf_counter()
        try:
            self._reconfigure()
            if item is not None:
                self._take(item)
        except OSError as err:
            self._refused(err)
            if item is not None:
                self._counters.drop(self._cause)
        except UncertaintySegError as err:
            self._bad_frame(str(err))
        except Exception as err:  # a faulty frame must not end the log
            _log.exception('a frame could not be logged')
            self._bad_frame(f'a frame could not be logged: {type(err).__name__}: {err}')
        if item is not None:
            item.fate = KEPT if item.fate == KEPT else SKIPPED
            self._counters.write_ms = (time.perf_counter() - start_s) * 1e3

    def close(self) -> None:
        """Release the folder."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _reconfigure(self) -> None:
        if not self.is_outdated:
            return
        self._settings = self.wanted
        if self._store is not None:
            self._count_trimmed(self._store.reconfigure(self._settings))
            self._note_size()

    def _count_trimmed(self, num_gone: int) -> None:
        self._counters.num_evicted += num_gone
        if num_gone:
            _log.warning('frame log: %d frames were evicted for the smaller quota', num_gone)

    def _take(self, item: Candidate) -> None:
        store = self._opened()
        if store is None:
            self._counters.drop(self._cause)
            return
        reservoir = CONTROL if item.reason == 'control' else MAIN
        log_weight = self._log_weight(item)
        key = gumbel_key(log_weight, item.uniforms[1])
        if not store.would_take(reservoir, key):
            self._counters.skipped['outranked'] += 1
            return
        decoded = disk.decode_frame(item.frame)
        if self._is_repeated(item, decoded.phash):
            self._counters.skipped['duplicate'] += 1
            return
        bar = store.bar(reservoir)
        frame_id = store.new_id(item.frame.stamp_ns, item.frame.camera)
        facts = {'frame_id': frame_id, 'reason': item.reason,
                 'reservoir': {'name': reservoir, 'key': key, 'log_weight': log_weight,
                               'bar': bar if math.isfinite(bar) else None}}
        files = disk.frame_files(item.frame, decoded, item.about, self._settings, facts)
        entry = Entry(frame_id, item.reason, reservoir, key, 0)
        cause, num_gone = store.add(entry, files)
        self._counters.num_evicted += num_gone
        self._note_size()
        if cause:
            self._not_kept(cause, store, files, reservoir)
            return
        if reservoir == MAIN:
            self._recent.add(item.frame, decoded.phash)
        self._kept(item)

    def _log_weight(self, item: Candidate) -> float:
        if item.reason == 'control':
            return 0.0
        if item.reason == 'trigger':
            return _TRIGGER_LOG_WEIGHT
        return item.frame.log_weight

    def _is_repeated(self, item: Candidate, phash: int) -> bool:
        # The control is chosen by chance alone, and a requested frame is always wanted.
        is_exempt = item.is_onset or item.reason in ('control', 'trigger')
        return not is_exempt and self._recent.has_one_like(
            item.frame, phash, self._settings.duplicate_bits)

    def _not_kept(
        self, cause: str, store: FrameStore, files: dict[str, bytes], reservoir: str
    ) -> None:
        if cause == 'outranked':
            self._counters.skipped[cause] += 1
            return
        self._counters.drop(cause)
        if cause == 'too_big':
            size = disk.disk_bytes({name: len(content) for name, content in files.items()})
            self._report(store.quota_sentence(size, reservoir))
        else:
            self._report(str(FrameLogError(
                f'{self.free_mb:.0f} MB are free on the disk of frame log {self._folder}',
                f'log.free_disk_mb, {self._settings.free_disk_mb:g}', 'make room')))

    def _kept(self, item: Candidate) -> None:
        item.fate = KEPT
        self._counters.kept[item.reason] += 1
        if self.error:
            _log.info('frame log: frames are written again')
            self.error = ''
        if self._on_kept is not None:
            try:
                self._on_kept(item.frame, item.reason)
            except Exception:  # the frame is kept, whatever the callback does
                _log.exception('a callback for a kept frame failed')

    def _opened(self) -> FrameStore | None:
        if self._store is None and self._clock() >= self._retry_at_s:
            try:
                self._store = FrameStore(self._folder, self._settings, self._device)
                self._count_trimmed(self._store.num_trimmed)
            except UncertaintySegError as err:
                self._refused(err)
        return self._store

    def _refused(self, err: OSError | UncertaintySegError) -> None:
        """Close the store and set the time to try again."""
        self._cause, sentence = _cause_of(err, self._folder)
        self._retry_at_s = self._clock() + RETRY_S
        self.close()
        self.free_mb = math.nan
        with suppress(OSError):
            self.free_mb = shutil.disk_usage(self._folder).free / MEGABYTE
        self._report(sentence)

    def _bad_frame(self, sentence: str) -> None:
        self._counters.drop('bad_frame')
        self._report(sentence)

    def _report(self, sentence: str) -> None:
        if sentence != self.error:
            _log.warning('frame log: %s', sentence)
        self.error = sentence

    def _note_size(self) -> None:
        assert self._store is not None
        self.num_frames, self.num_bytes = self._store.num_frames, self._store.num_bytes
        self.free_mb = self._store.free_bytes / MEGABYTE


def _cause_of(err: OSError | UncertaintySegError, folder: Path) -> tuple[str, str]:
    """Return the cause that drops are counted under, and the sentence to report."""
    cause = err if isinstance(err, OSError) else err.__cause__
    if isinstance(err, ConfigError):
        return 'too_big', str(err)
    if isinstance(cause, BlockingIOError):
        return 'other_writer', str(err)
    if isinstance(cause, OSError):
        name, sentence = disk.disk_error(cause, folder)
        return name, str(sentence)
    return 'folder_missing', str(err)  # its disk was unplugged
