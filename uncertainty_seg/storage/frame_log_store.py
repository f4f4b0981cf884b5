# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frames on disk within their quota: what may come in and what has to go for it.

Two reservoirs share the quota: the frames kept for what they show, weighted by their score, and
the random control, all of one weight, which therefore stays a uniform sample of the dive. For one
thread; after an OSError the object is closed and a new one reads the folder again.

"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
import shutil

from uncertainty_seg.core.log_settings import LogSettings, MEGABYTE
from uncertainty_seg.core.reservoir import Capacity, Reservoir
from uncertainty_seg.errors import ConfigError, FrameLogError
from uncertainty_seg.storage.frame_log_disk import (
    disk_bytes,
    lock_folder,
    remove_frame,
    require_device,
    sweep,
    trouble,
    write_frame,
)
from uncertainty_seg.storage.frame_log_format import FRAMES_FOLDER
from uncertainty_seg.storage.frame_log_manifest import (
    Entry,
    Index,
    load_index,
    note_added,
    note_evicted,
    RESERVOIRS,
    write_index,
)

_log = logging.getLogger(__name__)
MAIN, CONTROL = RESERVOIRS


class FrameStore:
    """
    The folder of a log, open for writing.

    Parameters
    ----------
    folder : Path
        Made if missing.
    settings : LogSettings
        For the quotas.
    device : int, optional
        Number of the disk it was on before; another one is refused, so that a log is not put on
        the system's disk when its own is unplugged.

    Raises
    ------
    FrameLogError
        If it cannot be written or another process writes it.
    ConfigError
        If no frame in it fits the quota.

    """

    def __init__(self, folder: Path, settings: LogSettings, device: int | None = None) -> None:
        self.folder, self._settings = folder, settings
        self._lock = -1
        try:
            if device is not None:
                require_device(folder, device)
            (folder / FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
            self.device = os.stat(folder).st_dev
            self._lock = lock_folder(folder)
            self.num_leftovers, self._index = self._swept()
            self._require_room()
        except OSError as err:
            self.close()
            raise trouble(err, folder)[1] from err
        except (FrameLogError, ConfigError):
            self.close()
            raise
        self._reservoirs = self._restored()

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each folder among the frames that is none."""
        return self._index.problems

    @property
    def num_frames(self) -> int:
        """Frames in the log."""
        return len(self._index.entries)

    @property
    def num_bytes(self) -> int:
        """Return what they take on disk."""
        return sum(reservoir.num_bytes for reservoir in self._reservoirs.values())

    @property
    def free_bytes(self) -> int:
        """Room on the disk, for this user; OSError if it cannot be told."""
        return shutil.disk_usage(self.folder).free

    def bar(self, reservoir: str) -> float:
        """Return the largest key that had to go from a reservoir."""
        return self._reservoirs[reservoir].bar

    def would_take(self, reservoir: str, key: float) -> bool:
        """Tell whether it is worth making the files of a frame; OSError if the disk is gone."""
        self._fit_to_disk(reservoir)
        return self._reservoirs[reservoir].would_outlast(key)

    def new_id(self, stamp_ns: int, camera: str) -> str:
        """Return a name for a frame, not in use; names sort by stamp."""
        words = ''.join(c if c.isascii() and c.isalnum() else '_' for c in camera)[-80:]
        plain = f'{stamp_ns:019d}' + (f'-{words}' if words else '')
        frame_id, count = plain, 1
        while frame_id in self._index.entries:
            count += 1
            frame_id = f'{plain}.{count}'
        return frame_id

    def add(self, entry: Entry, files: dict[str, bytes]) -> tuple[str, int]:
        """
        Take a frame in if it may stay.

        Parameters
        ----------
        entry : Entry
            The frame; its `num_bytes` is filled in.
        files : dict of str to bytes
            Its files.

        Returns
        -------
        str, int
            Why it was not kept: '' if it was, 'outranked', 'too_big' or 'no_room'; how many
            frames had to go.

        Raises
        ------
        OSError
            If the disk refuses. The object is of no use then: `close` it.

        """
        size = disk_bytes({name: len(content) for name, content in files.items()})
        reservoir = self._reservoirs[entry.reservoir]
        reservoir.capacity = self._capacity(entry.reservoir)
        if not reservoir.fits_alone(size):
            return 'too_big', 0
        self._fit_to_disk(entry.reservoir)
        if not reservoir.fits_alone(size):
            return 'no_room', 0
        is_kept, gone = reservoir.offer(entry.frame_id, entry.key, size)
        self._evict(gone)
        if not is_kept:
            return 'outranked', len(gone)
        write_frame(self.folder, entry.frame_id, files)
        entry = Entry(entry.frame_id, entry.reason, entry.reservoir, entry.key, size)
        self._index.entries[entry.frame_id] = entry
        note_added(self.folder, entry)
        return '', len(gone)

    def reconfigure(self, settings: LogSettings) -> int:
        """
        Take over other quotas.

        Parameters
        ----------
        settings : LogSettings
            The new ones.

        Returns
        -------
        int
            How many frames had to go. If there is more room than before, frames of any key are
            let in again: the sample is exact for the time since, and for the time before.

        Raises
        ------
        OSError
            If the disk refuses.

        """
        before = {name: self._capacity(name) for name in RESERVOIRS}
        self._settings = settings
        gone = []
        for name, reservoir in self._reservoirs.items():
            reservoir.capacity = self._capacity(name)
            grew = (reservoir.capacity.num_bytes > before[name].num_bytes
                    or reservoir.capacity.num_items > before[name].num_items)
            if grew:
                reservoir.lower_bar()
            gone += reservoir.trim()
        self._evict(gone)
        return len(gone)

    def trim(self) -> int:
        """Throw out what is over the quota; return how many; OSError if the disk refuses."""
        return self.reconfigure(self._settings)

    def quota_sentence(self, size: int, reservoir: str) -> str:
        """Say that a frame of this size can never be kept."""
        quota = self._capacity(reservoir).num_bytes
        share = ' that log.control_quota leaves the control' if reservoir == CONTROL else ''
        return str(ConfigError(
            f'a frame takes {size / MEGABYTE:.3g} MB', f'at most the {quota / MEGABYTE:.3g} MB of '
            f'log.quota_mb{share}', 'raise log.quota_mb, or set log.image_format to jpeg'))

    def close(self) -> None:
        """Let others write; may be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _swept(self) -> tuple[int, Index]:
        num_unfinished, leaving = sweep(self.folder)
        index = load_index(self.folder, leaving)
        # Also the proof that the folder can be written.
        write_index(self.folder, index)
        return num_unfinished + len(leaving), index

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
            # A key below the bar is there if the bar had been lowered since.
            keys = [entry.key for entry in entries if entry.reservoir == name]
            bar = min([self._index.bars[name], *keys])
            found[name] = Reservoir(self._capacity(name),
                                    -math.inf if name in self._index.lost else bar)
        for entry in entries:
            found[entry.reservoir].restore(entry.frame_id, entry.key, entry.num_bytes)
        return found

    def _capacity(self, reservoir: str) -> Capacity:
        """Return what the quota gives a reservoir."""
        settings = self._settings
        # Without new control frames nothing is set aside for them.
        control = settings.control_quota if settings.control_share > 0 else 0.0
        share = control if reservoir == CONTROL else 1.0 - control
        return Capacity(int(settings.quota_mb * MEGABYTE * share),
                        int(settings.quota_frames * share))

    def _fit_to_disk(self, name: str) -> None:
        """
        Set a reservoir to what quota and disk allow now.

        When others fill the disk the log stops growing; what it holds is not deleted for them.
        """
        quota, reservoir = self._capacity(name), self._reservoirs[name]
        room = max(0, self.free_bytes - int(self._settings.free_disk_mb * MEGABYTE))
        allowed = min(quota.num_bytes, reservoir.num_bytes + room)
        reservoir.capacity = Capacity(allowed, quota.num_items)
        # A full reservoir stays nearly full. One that is not was given more room since its bar
        # rose, and would refuse frames that it has room for.
        if reservoir.num_bytes < allowed / 2 and len(reservoir) < quota.num_items / 2:
            reservoir.lower_bar()

    def _evict(self, names: list[str]) -> None:
        for name in names:
            entry = self._index.entries.pop(name, None)
            if entry is None:
                continue  # the frame that was offered and did not stay
            remove_frame(self.folder, name)
            note_evicted(self.folder, entry, self._reservoirs[entry.reservoir].bar)
            _log.debug('frame log: %s had to go', name)
