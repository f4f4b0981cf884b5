# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frames on disk within their quota: which are admitted, which are evicted, and their index.

Two reservoirs share the quota: frames kept for their content, weighted by their score, and the
random control, whose frames have equal weights, so that it stays a uniform sample of the dive.
For one thread; after an OSError the object is closed and a new one reads the folder again.

The index has one JSON line for each frame that was added or evicted, and the eviction thresholds.
The folders have precedence: where the index is missing, truncated or wrong, it is rebuilt from
them. Only hidden frames depend on the index: those that it lists as evicted are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
import dataclasses
from dataclasses import dataclass, field
import hashlib
import heapq
import json
import logging
import math
import os
from pathlib import Path
import shutil
from typing import Any

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError
from uncertainty_seg.storage import whole_files
from uncertainty_seg.storage.foreign_files import parse_json
from uncertainty_seg.storage.frame_log import format as log_format
from uncertainty_seg.storage.frame_log.format import FRAMES_FOLDER, MANIFEST_FILE, read_sidecar

# Largest number of frames in a log, and the share of both quotas that the control has.
MOST_FRAMES = 100_000
CONTROL_QUOTA = 0.1
RESERVOIRS = MAIN, CONTROL = 'main', 'control'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A frame in the index: why it was kept, its reservoir, its key there, its disk space."""

    frame_id: str
    reason: str
    reservoir: str
    key: float
    num_bytes: int


@dataclass
class Index:
    """
    The content of a log.

    By reservoir, `bars` are the eviction thresholds and `largest` the bytes of the largest frame
    ever held. `evicted` are frames that the file on disk still names, `num_leftovers` were being
    written or removed when the last writer ended; `problems` has a sentence for each folder that
    is not a frame.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESERVOIRS, -math.inf))
    largest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESERVOIRS, 0))
    evicted: set[str] = field(default_factory=set)
    num_leftovers: int = 0
    problems: list[str] = field(default_factory=list)


class FrameStore:
    """
    The folder of a log, open for writing.

    Raises FrameLogError if it cannot be written or another process writes it; ConfigError if no
    frame in it fits the quota. `device` is the number of the disk it was on before: another one
    is refused, so that a log is not continued on the system's disk when its own is unplugged.
    `num_trimmed` frames were evicted at the start, because the quota is smaller than before;
    `num_leftovers` and `problems` are those of the `Index`.
    """

    def __init__(self, folder: Path, settings: LogSettings, device: int | None = None) -> None:
        self.folder, self._settings = folder, settings
        self._lock = -1
        try:
            if device is not None:
                log_format.require_device(folder, device)
            (folder / FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
            self.device = os.stat(folder).st_dev
            self._lock = log_format.lock_folder(folder)
            self._index = load_index(folder)
            self.num_leftovers, self.problems = self._index.num_leftovers, self._index.problems
            # This also proves that the folder can be written.
            write_index(folder, self._index)
            self._require_room()
            self._reservoirs = self._restored()
            # The thresholds in the index on disk.
            self._noted_bars = dict(self._index.bars)
            self.num_trimmed = self.reconfigure(settings)
        except OSError as err:
            self.close()
            raise log_format.disk_error(err, folder)[1] from err
        except (FrameLogError, ConfigError):
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """Return the number of frames in the log."""
        return len(self._index.entries)

    @property
    def num_bytes(self) -> int:
        """Return the disk space of the frames."""
        return sum(reservoir.num_bytes for reservoir in self._reservoirs.values())

    @property
    def free_bytes(self) -> int:
        """Return the free space of the disk, for this user; OSError if it is unknown."""
        return shutil.disk_usage(self.folder).free

    def bar(self, reservoir: str) -> float:
        """Return the eviction threshold of a reservoir: the largest key it has evicted."""
        return self._reservoirs[reservoir].bar

    def would_take(self, reservoir: str, key: float) -> bool:
        """Return whether a frame of this key can be admitted; OSError if the disk is gone."""
        self._fit_to_disk(reservoir)
        return self._reservoirs[reservoir].would_outlast(key)

    def new_id(self, stamp_ns: int, camera: str) -> str:
        """Return an unused name for a frame; names sort by stamp, those before 1970 first."""
        words = ''.join(c if c.isascii() and c.isalnum() else '_' for c in camera)[-80:]
        plain = f'{max(stamp_ns, 0):019d}' + (f'-{words}' if words else '')
        frame_id, count = plain, 1
        while frame_id in self._index.entries:
            count += 1
            frame_id = f'{plain}.{count}'
        return frame_id

    def add(self, entry: Entry, files: dict[str, bytes]) -> tuple[str, int]:
        """
        Admit a frame, given its files by name, if its key is large enough.

        Returns why it was not kept ('' if it was, 'outranked', 'too_big' or 'no_room') and the
        number of evicted frames. Raises OSError if the disk fails; the log is then as before, and
        this object can only be closed.
        """
        size = log_format.disk_bytes(map(len, files.values()))
        reservoir = self._reservoirs[entry.reservoir]
        reservoir.capacity = self._capacity(entry.reservoir)
        if not reservoir.fits_alone(size):
            return 'too_big', 0
        self._fit_to_disk(entry.reservoir)
        if not reservoir.fits_alone(size):
            return 'no_room', 0
        is_kept, gone = reservoir.offer(entry.frame_id, entry.key, size)
        added = dataclasses.replace(entry, num_bytes=size) if is_kept else None
        self._replace(entry.reservoir, gone, added, files)
        return '' if is_kept else 'outranked', len(gone)

    def reconfigure(self, settings: LogSettings) -> int:
        """
        Apply other quotas; return the number of evicted frames. OSError if the disk fails.

        A larger quota admits frames of any key again: the sample is exact for the time since then,
        and for the time before, but not for both together.
        """
        before = {name: self._capacity(name) for name in RESERVOIRS}
        self._settings = settings
        num_gone = 0
        for name, reservoir in self._reservoirs.items():
            reservoir.capacity = self._capacity(name)
            if reservoir.capacity.num_bytes > before[name].num_bytes:
                reservoir.lower_bar()
            gone = reservoir.trim()
            self._replace(name, gone)
            num_gone += len(gone)
        return num_gone

    def quota_sentence(self, size: int, reservoir: str) -> str:
        """Return the error, in words, that a frame of this size can never be kept."""
        quota = self._capacity(reservoir).num_bytes
        share = ' that are for the control' if reservoir == CONTROL else ''
        return str(ConfigError(
            f'a frame takes {size / MEGABYTE:.3g} MB', f'at most the {quota / MEGABYTE:.3g} MB of '
            f'log.quota_mb{share}', 'raise log.quota_mb, or set log.image_format to jpeg'))

    def close(self) -> None:
        """Release the lock; may be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _require_room(self) -> None:
        sizes = [entry.num_bytes for entry in self._index.entries.values()]
        if sizes and min(sizes) > self._settings.quota_mb * MEGABYTE:
            raise ConfigError(
                f'log.quota_mb is {self._settings.quota_mb:g}',
                f'room for a frame: the smallest in {self.folder} takes '
                f'{min(sizes) / MEGABYTE:.3g} MB', 'raise it, or name another log.folder')

    def _restored(self) -> dict[str, Reservoir]:
        entries = self._index.entries.values()
        found = {}
        for name in RESERVOIRS:
            # A frame with a smaller key was admitted after the threshold had been lowered.
            keys = [entry.key for entry in entries if entry.reservoir == name]
            bar = min([self._index.bars[name], *keys])
            found[name] = Reservoir(Capacity(0, 0), bar, self._index.largest[name])
        for entry in entries:
            found[entry.reservoir].restore(entry.frame_id, entry.key, entry.num_bytes)
        return found

    def _capacity(self, reservoir: str) -> Capacity:
        """Return the capacity of a reservoir by the quota."""
        settings, held = self._settings, self._reservoirs[CONTROL]
        quota_bytes = settings.quota_mb * MEGABYTE
        control = Capacity(int(quota_bytes * CONTROL_QUOTA), int(MOST_FRAMES * CONTROL_QUOTA))
        if settings.control_share <= 0:
            # Existing control frames are kept; their unused quota goes to the main reservoir.
            control = Capacity(min(control.num_bytes, held.num_bytes),
                               min(control.num_items, len(held)))
        if reservoir == CONTROL:
            return control
        return Capacity(int(quota_bytes) - control.num_bytes, MOST_FRAMES - control.num_items)

    def _fit_to_disk(self, name: str) -> None:
        """
        Set the capacity of a reservoir to what quota and disk allow now.

        When other programs fill the disk the log stops growing; its frames are not deleted.
        """
        quota, reservoir = self._capacity(name), self._reservoirs[name]
        # A frame is written before those it replaces are removed.
        spare = 2 * max(one.largest for one in self._reservoirs.values())
        kept_free = max(int(self._settings.free_disk_mb * MEGABYTE), spare)
        room = max(0, self.free_bytes - kept_free)
        allowed = min(quota.num_bytes, reservoir.num_bytes + room)
        reservoir.capacity = Capacity(allowed, quota.num_items)
        # The disk has room again, or another program has removed frames.
        if reservoir.was_enlarged(reservoir.capacity):
            reservoir.lower_bar()

    def _replace(
        self, name: str, gone: Sequence[str], added: Entry | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        Replace frames of a reservoir by another one, completely or not at all.

        Evicted frames are hidden, the new one is written, both are appended to the index and
        flushed, and only then are the hidden frames removed. After a kill, the next start removes
        the hidden frames that the index lists as evicted, and shows the others again. After an
        OSError the log is restored to its state before; if the disk does not allow that, the next
        start restores it.
        """
        reservoir, hidden = self._reservoirs[name], []
        bar = None if reservoir.bar == self._noted_bars[name] else (
            reservoir.bar, reservoir.largest)
        try:
            for frame_id in gone:
                log_format.hide_frame(self.folder, frame_id)
                hidden.append(frame_id)
            if added is not None:
                log_format.write_frame(self.folder, added.frame_id, files or {})
            if bar is not None or gone or added is not None:
                note_change(self.folder, name, bar, gone, added)
        except OSError:
            self._restore(hidden, added)
            raise
        self._noted_bars[name] = reservoir.bar
        for frame_id in gone:
            del self._index.entries[frame_id]
            try:
                log_format.remove_frame(self.folder, frame_id)
            except OSError as err:
                # The eviction is recorded and the frame hidden; the next start tries again.
                _log.warning('frame log: %s could not be removed yet, %s', frame_id, err.strerror)
        if added is not None:
            self._index.entries[added.frame_id] = added

    def _restore(self, hidden: Sequence[str], added: Entry | None) -> None:
        if added is not None:
            with suppress(OSError):
                log_format.remove_frame(self.folder, added.frame_id)  # if only the index failed
        for frame_id in hidden:
            with suppress(OSError):
                log_format.hide_frame(self.folder, frame_id, is_hidden=False)


# -------------------------------------------------------------------------------------------------
# The index.


def load_index(folder: Path) -> Index:
    """
    Read the content of a log and remove the remains of a crash; only for its writer.

    The result agrees with the folders. A reservoir from which another program has removed frames
    admits any key again. OSError if the disk fails.
    """
    index = _read(folder / MANIFEST_FILE)
    num_unfinished, leaving = log_format.sweep(folder, index.evicted)
    index.num_leftovers = num_unfinished + len(leaving)
    there = sorted(entry.name for entry in os.scandir(folder / FRAMES_FOLDER)
                   if entry.is_dir() and not entry.name.startswith('.'))
    for frame_id in leaving:
        gone = index.entries.pop(frame_id, None)
        if gone is not None:
            index.bars[gone.reservoir] = max(index.bars[gone.reservoir], gone.key)
    missing = set(index.entries) - set(there)
    lost = {index.entries.pop(frame_id).reservoir for frame_id in missing}
    for frame_id in there:
        if frame_id not in index.entries:
            _add_from_folder(index, folder / FRAMES_FOLDER / frame_id)
    for reservoir in lost:
        index.bars[reservoir] = -math.inf
    return index


def write_index(folder: Path, index: Index) -> None:
    """Rewrite the index, whole or not at all; OSError if writing fails."""
    lines = [_bar_line(name, bar, index.largest[name]) for name, bar in index.bars.items()
             if bar > -math.inf]
    lines += [_line('add', dataclasses.asdict(entry)) for entry in index.entries.values()]
    # The draft has a fixed name: there is one writer, so a draft left by a kill is overwritten.
    whole_files.replace_file(folder / MANIFEST_FILE, ''.join(lines),
                             f'{log_format.BUILDING}{MANIFEST_FILE}')


def note_change(
    folder: Path, reservoir: str, bar: tuple[float, int] | None, gone: Iterable[str],
    added: Entry | None,
) -> None:
    """
    Append a change of a reservoir; evictions are flushed to the disk when this returns.

    `bar` is the threshold and the largest frame, if it has changed. OSError if writing fails.
    """
    lines = [_line('evict', {'frame_id': frame_id}) for frame_id in gone]
    is_decided = bool(lines)
    lines += [_bar_line(reservoir, *bar)] if bar is not None else []
    lines += [_line('add', dataclasses.asdict(added))] if added is not None else []
    with (folder / MANIFEST_FILE).open('a') as file:
        file.write(''.join(lines))
    if is_decided:
        whole_files.sync(folder / MANIFEST_FILE)


def _line(verb: str, facts: dict[str, Any]) -> str:
    return json.dumps({'op': verb, **facts}) + '\n'


def _bar_line(reservoir: str, bar: float, largest: int) -> str:
    # JSON has no infinity: null is the threshold that admits any key.
    key = bar if bar > -math.inf else None
    return _line('bar', {'reservoir': reservoir, 'key': key, 'largest': largest})


def _read(path: Path) -> Index:
    index = Index()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return index
    for line in lines:
        try:
            if not line.endswith(b'\n'):
                raise ValueError('cut off')
            _apply(index, parse_json(line))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue  # damaged by a crash; the folders have precedence
    return index


def _apply(index: Index, raw: dict[str, Any]) -> None:
    verb = raw.pop('op')
    if verb == 'add':
        entry = Entry(str(raw['frame_id']), str(raw['reason']), str(raw['reservoir']),
                      float(raw['key']), int(raw['num_bytes']))
        index.bars[entry.reservoir]  # KeyError if there is no such reservoir
        index.entries[entry.frame_id] = entry
        index.evicted.discard(entry.frame_id)
    elif verb == 'evict':
        index.entries.pop(raw['frame_id'], None)
        index.evicted.add(raw['frame_id'])
    elif verb == 'bar':
        name = raw['reservoir']
        index.bars[name]
        key = -math.inf if raw['key'] is None else float(raw['key'])
        index.largest[name] = int(raw.get('largest', 0))
        index.bars[name] = key


def _add_from_folder(index: Index, path: Path) -> None:
    try:
        sidecar = read_sidecar(path)
        facts = sidecar['reservoir']
        entry = Entry(path.name, str(sidecar['reason']), str(facts['name']), float(facts['key']),
                      log_format.disk_bytes(file.stat().st_size for file in path.iterdir()))
        bar = -math.inf if facts.get('bar') is None else float(facts['bar'])
        index.bars[entry.reservoir] = max(index.bars[entry.reservoir], bar)
    except (FrameLogError, ValueError, TypeError, KeyError, OverflowError) as err:
        index.problems.append(f'{path} is left alone: {type(err).__name__}: {err}')
        return
    index.entries[entry.frame_id] = entry


# -------------------------------------------------------------------------------------------------
# The sample.


def gumbel_key(log_weight: float, uniform: float) -> float:
    """Return the key of an item, log_weight - ln(-ln(uniform)), from a number in (0, 1)."""
    return log_weight - math.log(-math.log(uniform))


def stable_uniforms(*parts: str | int) -> tuple[float, float]:
    """Draw two independent uniform numbers in (0, 1) that depend on `parts` alone."""
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
    A weighted random sample of a stream, in one pass and O(log K) an item: the largest keys.

    Each item gets the key log(weight) + Gumbel noise, and those with the largest keys are kept.
    That is sampling without replacement in which each draw takes an item with a probability
    proportional to its weight (Efraimidis and Spirakis 2006; Gumbel-top-k, Kool et al. 2019).

    Items have sizes too: the sample is the largest keys, in falling order, until the first that
    does not fit, whatever the order of the stream. So once an item has been evicted, none with a
    smaller key is admitted. `bar` is the largest evicted key: an item of weight w is in the sample
    with the probability 1 - exp(-w exp(-bar)), by which an estimate divides (threshold sampling;
    Duffield et al. 2007). `largest` is the size of the largest item that was ever admitted.
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
        """Admit any key again, after the reservoir was enlarged, or emptied by another program."""
        self.bar = -math.inf
