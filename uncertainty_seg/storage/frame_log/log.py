# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frame log of the node: it receives every frame, keeps selected ones, and never blocks.

`offer` selects by flag, window, interval and at random, and puts selected frames into a bounded
queue. A separate thread skips near-duplicates, encodes and writes. If the queue is full, frames
are dropped and counted; if the disk fails, it is tried again later, which `state` reports. Errors
are counted and reported; none of them ends the thread.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
import logging
import math
import os
from pathlib import Path
import shutil
import threading
import time
from typing import Any

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError, UncertaintySegError
from uncertainty_seg.storage.frame_log import format as log_format
from uncertainty_seg.storage.frame_log.format import (
    FRAMES_FOLDER,
    LogAbout,
    LogFrame,
    read_sidecar,
    REASONS,
)
from uncertainty_seg.storage.frame_log.store import (
    CONTROL,
    Entry,
    FrameStore,
    gumbel_key,
    MAIN,
    stable_uniforms,
)

# A node that restarts within this time continues the dive.
SAME_DIVE_S = 600.0
# The pipeline has priority for the processor. The value is not higher, because a thread that
# hardly runs may be preempted while it holds the GIL, and then the whole node waits.
NICENESS = 5
# Frames that may wait to be written. Control frames must not depend on the number of flagged ones,
# so places and memory are reserved for them.
QUEUE_FRAMES = 64
_CONTROL_PLACES, _CONTROL_MEMORY = 4, 1 / 8
# Time until a failed disk is tried again.
RETRY_S = 5.0
# Number of kept frames of a camera that a new one is compared with.
_NUM_RECENT = 16
# A requested frame outranks every score.
_TRIGGER_LOG_WEIGHT = 1000.0
# Why frames are lost, by an error or lack of room; `control`: the queue had none for the control.
_DROP_CAUSES = ('queue_full', 'memory_full', 'control', 'disk_full', 'read_only',
                'folder_missing', 'not_writable', 'disk_error', 'other_writer', 'no_room',
                'too_big', 'bad_frame', 'closing')
# Why frames are not worth keeping.
_SKIP_CAUSES = ('interval', 'duplicate', 'outranked')
# Tolerance for the rate of a camera.
_SLACK_S = 1e-3
# A driver with several threads may swap neighbouring frames. If stamps go back by more than this,
# another recording has begun or the clock was set.
_SWAPPED_S = 1.0
WAITING, CHOSEN, WRITING, KEPT, SKIPPED = 'waiting', 'chosen', 'writing', 'kept', 'skipped'
_log = logging.getLogger(__name__)


def dive_name(folder: Path, settings: LogSettings, fallback: str, now_s: float) -> str:
    """
    Return the name of the dive that begins or continues now; `fallback` is for one that begins.

    If no name is set, the dive of the newest frame continues if that was written within
    `SAME_DIVE_S`, by the time of the file, since stamps may be of another clock.
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

    The folder is made if missing; an existing log is continued. `about` is the run; its `dive` is
    the `fallback` of `dive_name`. `on_kept` is called with a frame and the reason once the frame
    is on disk, from the log's thread. `clock`, in seconds, is for frames without a stamp and for
    retrying the disk. Raises FrameLogError if the folder cannot be written or another process
    writes it; ConfigError if the quota is too small for any frame of the log.
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
        self._writer = FrameLogWriter(Path(folder), settings, on_kept, clock)
        self._state = self._writer.state
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
        """Return whether its thread has ended without `close`: nothing is written any more."""
        return not self._is_closing and not self._thread.is_alive()

    def offer(self, frame: LogFrame) -> None:
        """
        Offer a processed frame; never blocks.

        Offer every frame: the window before a flagged frame and the random control need them.
        """
        with self._work:
            if self._is_closing:
                return
            self._state.num_seen += 1
            for item in self._ring.take(frame, self._about, self._clock()):
                self._put(item)

    def trigger(self) -> int:
        """
        Keep the newest frame of each camera, whatever it shows.

        Returns how many frames are queued, being written or on disk; 0 before the first frame.
        Queued control frames remain control frames.
        """
        with self._work:
            items = [] if self._is_closing else self._ring.newest()
            found = 0
            for item in items:
                is_new = item.fate not in (CHOSEN, WRITING, KEPT)
                # Not if it is being written, since the writer reads the reason; nor for the
                # control, which would not stay a random sample.
                if is_new or (item.fate == CHOSEN and item.reason != 'control'):
                    item.reason = 'trigger'
                found += self._put(item) if is_new else 1
            return found

    def reconfigure(self, settings: LogSettings, about: LogAbout | None = None) -> None:
        """
        Apply live settings to the frames to come; a smaller quota is applied by the thread.

        `about` is the run, if it has changed. Its dive is ignored: that is the one of the start,
        or the one in the settings; so is the folder, which is no live parameter.
        """
        with self._work:
            self._settings = settings
            self._about = self._named(about or self._about)
            self._ring.settings = settings
            self._writer.wanted = settings
            self._work.notify()

    def state(self) -> LogState:
        """Return a snapshot; never blocks on the disk."""
        with self._work:
            now, frames = self._state, self._ring
            return replace(
                now, kept=now.kept.copy(), dropped=now.dropped.copy(),
                skipped=now.skipped + Counter(interval=frames.num_interval),
                num_waiting=len(self._queue), num_in_ring=len(frames),
                num_pushed_out=frames.num_pushed_out)

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
            self._state.dropped['closing'] += num_left
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
            item.fate = SKIPPED
            self._state.dropped[cause] += 1
            return False
        item.fate = CHOSEN
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
        # On Linux every thread has its own niceness.
        with suppress(OSError, AttributeError):
            mine = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(mine, NICENESS))
        while True:
            with self._work:
                self._work.wait_for(self._has_work)
                item = self._queue.popleft() if self._queue else None
                if item is not None:
                    self._queue_bytes -= item.frame.memory_bytes
                    item.fate = WRITING
                elif self._is_closing:
                    break
            self._writer.work(item)
        self._writer.close()

    def _has_work(self) -> bool:
        return bool(self._queue) or self._is_closing or self._writer.is_outdated


def _counts(names: tuple[str, ...]) -> Any:
    return field(default_factory=lambda: Counter(dict.fromkeys(names, 0)))


@dataclass
class LogState:
    """
    The state of a frame log; each field is changed by one thread only, or under its lock.

    `kept`, by reason, `skipped` (not worth keeping) and `dropped` (lost), by cause, and `num_seen`
    are of this run; `num_frames` and `num_bytes` of the log. `error` is empty once a frame has
    been written again; `free_mb` is NaN if unknown; `num_pushed_out` left the window before a
    flagged frame early for lack of memory; `num_leftovers` were unfinished after a crash.
    """

    folder: str
    quota_mb: float
    is_writing: bool = True
    error: str = ''
    num_seen: int = 0
    kept: Counter[str] = _counts(REASONS)
    skipped: Counter[str] = _counts(_SKIP_CAUSES)
    dropped: Counter[str] = _counts(_DROP_CAUSES)
    num_frames: int = 0
    num_bytes: int = 0
    num_evicted: int = 0
    num_leftovers: int = 0
    num_waiting: int = 0
    num_in_ring: int = 0
    num_pushed_out: int = 0
    free_mb: float = math.nan
    write_ms: float = 0.0

    def as_dict(self) -> dict[str, str]:
        """Return key and text for a diagnostic status, without causes that never occurred."""
        texts = {
            'folder': self.folder, 'writing': str(self.is_writing).lower(), 'error': self.error,
            'seen': self.num_seen,
            **{f'kept.{name}': n for name, n in self.kept.items()},
            **{f'skipped.{name}': n for name, n in self.skipped.items() if n},
            **{f'dropped.{name}': n for name, n in self.dropped.items() if n},
            'frames': self.num_frames, 'mb': f'{self.num_bytes / MEGABYTE:.1f}',
            'quota_mb': f'{self.quota_mb:g}', 'free_mb': f'{self.free_mb:.0f}',
            'evicted': self.num_evicted, 'leftovers': self.num_leftovers,
            'waiting': self.num_waiting, 'in_ring': self.num_in_ring,
            'pushed_out': self.num_pushed_out, 'write_ms': f'{self.write_ms:.1f}',
        }
        return {f'log.{name}': str(value) for name, value in texts.items()}


class FrameLogWriter:
    """Writes chosen frames and keeps the state; parameters and errors as of `FrameLog`."""

    def __init__(
        self, folder: Path, settings: LogSettings,
        on_kept: Callable[[LogFrame, str], None] | None, clock: Callable[[], float],
    ) -> None:
        self._folder, self._settings, self.wanted = folder, settings, settings
        self._on_kept, self._clock = on_kept, clock
        self._store: FrameStore | None = FrameStore(folder, settings)
        self._device = self._store.device
        self._cause, self._retry_at_s = '', -math.inf
        # Hashes and flags of the frames kept last, for each camera.
        self._recent: dict[str, deque[tuple[int, bool]]] = {}
        self.state = LogState(str(folder), settings.quota_mb,
                              num_leftovers=self._store.num_leftovers)
        if self.state.num_leftovers:
            _log.warning('frame log %s: %d unfinished frames of a crash were removed', folder,
                         self.state.num_leftovers)
        for problem in self._store.problems:
            _log.warning('frame log: %s', problem)
        self._count_trimmed(self._store.num_trimmed)
        self._note_size(self._store)

    @property
    def is_outdated(self) -> bool:
        """Return whether `wanted` settings have not been applied yet."""
        return self.wanted is not self._settings

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
                self.state.dropped[self._cause] += 1
        except UncertaintySegError as err:
            self._bad_frame(str(err))
        except Exception as err:  # a faulty frame must not end the log
            _log.exception('a frame could not be logged')
            self._bad_frame(f'a frame could not be logged: {type(err).__name__}: {err}')
        if item is not None:
            item.fate = KEPT if item.fate == KEPT else SKIPPED
            self.state.write_ms = (time.perf_counter() - start_s) * 1e3

    def close(self) -> None:
        """Release the folder."""
        if self._store is not None:
            self._store.close()
            self._store = None
            self.state.is_writing = False

    def _reconfigure(self) -> None:
        if not self.is_outdated:
            return
        self._settings = self.wanted
        self.state.quota_mb = self._settings.quota_mb
        if self._store is not None:
            self._count_trimmed(self._store.reconfigure(self._settings))
            self._note_size(self._store)

    def _count_trimmed(self, num_gone: int) -> None:
        self.state.num_evicted += num_gone
        if num_gone:
            _log.warning('frame log: %d frames were evicted for the smaller quota', num_gone)

    def _take(self, item: Candidate) -> None:
        store = self._opened()
        if store is None:
            self.state.dropped[self._cause] += 1
            return
        reservoir = CONTROL if item.reason == 'control' else MAIN
        log_weight = {'control': 0.0, 'trigger': _TRIGGER_LOG_WEIGHT}.get(
            item.reason, item.frame.log_weight)
        key = gumbel_key(log_weight, item.uniforms[1])
        if not store.would_take(reservoir, key):
            self.state.skipped['outranked'] += 1
            return
        image, phash = log_format.decode_frame(item.frame)
        if self._is_repeated(item, phash):
            self.state.skipped['duplicate'] += 1
            return
        bar = store.bar(reservoir)
        frame_id = store.new_id(item.frame.stamp_ns, item.frame.camera)
        facts = {'frame_id': frame_id, 'reason': item.reason,
                 'reservoir': {'name': reservoir, 'key': key, 'log_weight': log_weight,
                               'bar': bar if math.isfinite(bar) else None}}
        files = log_format.frame_files(item.frame, image, item.about, self._settings.image_format,
                                       {**facts, 'phash': f'{phash:016x}'})
        entry = Entry(frame_id, item.reason, reservoir, key, 0)
        cause, num_gone = store.add(entry, files)
        self.state.num_evicted += num_gone
        self._note_size(store)
        if cause:
            self._not_kept(cause, store, files, reservoir)
            return
        if reservoir == MAIN:
            recent = self._recent.setdefault(item.frame.camera, deque(maxlen=_NUM_RECENT))
            recent.append((phash, item.frame.is_flagged))
        self._kept(item)

    def _is_repeated(self, item: Candidate, phash: int) -> bool:
        # Control frames are selected at random only, and a requested frame is always kept.
        if item.is_onset or item.reason in ('control', 'trigger'):
            return False
        # A flagged frame is compared with flagged ones only: the cause of the flag may be too
        # small to change the hash of the scene.
        return any((phash ^ old).bit_count() < self._settings.duplicate_bits
                   for old, was_flagged in self._recent.get(item.frame.camera, ())
                   if was_flagged or not item.frame.is_flagged)

    def _not_kept(
        self, cause: str, store: FrameStore, files: dict[str, bytes], reservoir: str
    ) -> None:
        if cause == 'outranked':
            self.state.skipped[cause] += 1
            return
        if cause == 'too_big':
            size = log_format.disk_bytes(map(len, files.values()))
            self._report(store.quota_sentence(size, reservoir))
        else:
            self._report(str(FrameLogError(
                f'{self.state.free_mb:.0f} MB are free on the disk of frame log {self._folder}',
                f'log.free_disk_mb, {self._settings.free_disk_mb:g}', 'make room')))
        self.state.dropped[cause] += 1

    def _kept(self, item: Candidate) -> None:
        item.fate = KEPT
        self.state.kept[item.reason] += 1
        if self.state.error:
            _log.info('frame log: frames are written again')
            self.state.error = ''
        if self._on_kept is not None:
            try:
                self._on_kept(item.frame, item.reason)
            except Exception:  # the frame is kept, whatever the callback does
                _log.exception('a callback for a kept frame failed')

    def _opened(self) -> FrameStore | None:
        if self._store is None and self._clock() >= self._retry_at_s:
            try:
                self._store = FrameStore(self._folder, self._settings, self._device)
                self.state.is_writing = True
                self._count_trimmed(self._store.num_trimmed)
            except UncertaintySegError as err:
                self._refused(err)
        return self._store

    def _refused(self, err: OSError | UncertaintySegError) -> None:
        """Close the store and set the time to try again."""
        self._cause, sentence = _cause_of(err, self._folder)
        self._retry_at_s = self._clock() + RETRY_S
        self.close()
        self.state.free_mb = math.nan
        with suppress(OSError):
            self.state.free_mb = shutil.disk_usage(self._folder).free / MEGABYTE
        self._report(sentence)

    def _bad_frame(self, sentence: str) -> None:
        self._report(sentence)  # first: a reader of the count then finds its reason
        self.state.dropped['bad_frame'] += 1

    def _report(self, sentence: str) -> None:
        if sentence != self.state.error:
            _log.warning('frame log: %s', sentence)
        self.state.error = sentence

    def _note_size(self, store: FrameStore) -> None:
        self.state.num_frames, self.state.num_bytes = store.num_frames, store.num_bytes
        self.state.free_mb = store.free_bytes / MEGABYTE


def _cause_of(err: OSError | UncertaintySegError, folder: Path) -> tuple[str, str]:
    """Return the cause that drops are counted under, and the sentence to report."""
    cause = err if isinstance(err, OSError) else err.__cause__
    if isinstance(err, ConfigError):
        return 'too_big', str(err)
    if isinstance(cause, BlockingIOError):
        return 'other_writer', str(err)
    if isinstance(cause, OSError):
        name, sentence = log_format.disk_error(cause, folder)
        return name, str(sentence)
    return 'folder_missing', str(err)  # its disk was unplugged


# -------------------------------------------------------------------------------------------------
# Which frames are worth keeping, by flag, window, interval, chance and request.


@dataclass(eq=False)
class Candidate:
    """
    A frame and its state.

    `time_s` is its stamp, or the time of its offer, and not less than that of the frame before;
    `uniforms` are random numbers for the selection as control and for the reservoir; `is_onset`
    marks the first flagged frame of an event, which is never treated as a duplicate.
    """

    frame: LogFrame
    about: LogAbout
    time_s: float
    uniforms: tuple[float, float]
    reason: str = ''
    is_onset: bool = False
    fate: str = WAITING


@dataclass
class _CameraRing:
    now_s: float = -math.inf
    seen_flagged_s: float = -math.inf
    kept_flagged_s: float = -math.inf
    kept_s: float = -math.inf
    is_onset_due: bool = False
    was_flagged: bool = False
    newest: Candidate | None = None
    ring: deque[Candidate] = field(default_factory=deque)


class FrameRing:
    """Takes every frame and returns those to keep; `settings` may be replaced at any time."""

    def __init__(self, settings: LogSettings) -> None:
        self.settings = settings
        self._cameras: dict[str, _CameraRing] = {}
        self._num_seen = 0
        self.num_bytes = 0
        self.num_interval = 0
        self.num_pushed_out = 0

    def __len__(self) -> int:
        """Return how many frames are held."""
        return sum(len(camera.ring) for camera in self._cameras.values())

    def take(self, frame: LogFrame, about: LogAbout, now_s: float) -> list[Candidate]:
        """
        Take the next frame of a camera; `now_s` is of any clock, for frames without a stamp.

        Returns the frames to keep, oldest first: often none, or this one and some before it.
        """
        self._num_seen += 1
        time_s = frame.stamp_ns / 1e9 if frame.stamp_ns else now_s
        name = frame.stamp_ns or -self._num_seen
        uniforms = stable_uniforms(about.dive, about.seed, frame.camera, name)
        camera = self._camera_at(frame.camera, time_s)
        item = Candidate(frame, about, camera.now_s, uniforms)
        self._forget_old(camera)
        camera.newest = item
        chosen = self._chosen(camera, item)
        if item not in chosen:
            self._wait(camera, item)
        for one in chosen:
            one.fate = CHOSEN
        return chosen

    def newest(self) -> list[Candidate]:
        """Take out the newest frame of each camera, on request; it may be kept already."""
        found = [camera.newest for camera in self._cameras.values() if camera.newest is not None]
        for item in found:
            self._take_out(self._cameras[item.frame.camera], [item])
        return found

    def _camera_at(self, name: str, time_s: float) -> _CameraRing:
        camera = self._cameras.setdefault(name, _CameraRing())
        if time_s < camera.now_s - max(_SWAPPED_S, self.settings.before_s):
            # Time differences to older frames are meaningless.
            self._take_out(camera, list(camera.ring))
            camera = self._cameras[name] = _CameraRing()
        camera.now_s = max(camera.now_s, time_s)
        return camera

    def _chosen(self, camera: _CameraRing, item: Candidate) -> list[Candidate]:
        settings, now_s = self.settings, item.time_s
        since_flagged_s = now_s - camera.seen_flagged_s
        if item.frame.is_flagged:
            camera.seen_flagged_s = now_s
            is_new = not camera.was_flagged and since_flagged_s > settings.after_s + _SLACK_S
            camera.is_onset_due |= is_new
        camera.was_flagged = item.frame.is_flagged
        if item.uniforms[0] < settings.control_share:
            # It is selected at random only, and the other frames are selected as if it did not
            # exist.
            item.reason = 'control'
            return [item]
        if item.frame.is_flagged:
            if now_s - camera.kept_flagged_s < settings.min_interval_s - _SLACK_S:
                self.num_interval += 1
                return []
            return self._flagged(camera, item)
        if since_flagged_s > settings.after_s + _SLACK_S or settings.after_s <= 0:
            return []
        if now_s - camera.kept_s < self._gap_s(settings.after_s):
            self.num_interval += 1
            return []
        item.reason, camera.kept_s = 'window', now_s
        return [item]

    def _gap_s(self, window_s: float) -> float:
        """Return the minimum time between frames of a window; a short window has one frame."""
        return min(self.settings.min_interval_s, window_s) - _SLACK_S

    def _flagged(self, camera: _CameraRing, item: Candidate) -> list[Candidate]:
        before_s = self.settings.before_s
        gap_s = self._gap_s(before_s)
        # Flagged frames that were skipped for their short interval are not context.
        context = [old for old in camera.ring if not old.frame.is_flagged
                   and old.time_s >= max(item.time_s - before_s - _SLACK_S, camera.kept_s + gap_s)]
        before: list[Candidate] = []
        next_s = item.time_s
        for old in reversed(context):
            if old.time_s <= next_s - gap_s:
                next_s = old.time_s
                before.append(old)
        if not before:
            before = context[:1]  # the ring lost frames for memory, or a frame was just kept
        for old in before:
            old.reason = 'window'
        self._take_out(camera, before)
        item.reason = 'flagged'
        item.is_onset, camera.is_onset_due = camera.is_onset_due, False
        camera.kept_s = camera.kept_flagged_s = item.time_s
        return [*reversed(before), item]

    def _wait(self, camera: _CameraRing, item: Candidate) -> None:
        if self.settings.before_s <= 0:
            return
        camera.ring.append(item)
        self.num_bytes += item.frame.memory_bytes
        limit = int(self.settings.memory_mb * MEGABYTE / 2)
        while self.num_bytes > limit:
            oldest = min((one for one in self._cameras.values() if one.ring),
                         key=lambda one: one.ring[0].time_s)
            self._take_out(oldest, [oldest.ring[0]])
            self.num_pushed_out += 1

    def _forget_old(self, camera: _CameraRing) -> None:
        oldest_s = camera.now_s - self.settings.before_s - _SLACK_S
        while camera.ring and camera.ring[0].time_s < oldest_s:
            self._take_out(camera, [camera.ring[0]])

    def _take_out(self, camera: _CameraRing, items: list[Candidate]) -> None:
        for item in items:
            if item in camera.ring:
                camera.ring.remove(item)
                self.num_bytes -= item.frame.memory_bytes
