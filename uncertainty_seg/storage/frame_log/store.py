# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The frames on disk within their quota: what may come in and what has to go for it.

Two reservoirs share the quota: the frames kept for what they show, weighted by their score, and
the random control, all of one weight, which therefore stays a uniform sample of the dive. For one
thread; after an OSError the object is closed and a new one reads the folder again.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
import dataclasses
import logging
import os
from pathlib import Path
import shutil

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError
from uncertainty_seg.storage.frame_log.disk import (
    disk_bytes,
    hide_frame,
    lock_folder,
    remove_frame,
    require_device,
    show_frame,
    trouble,
    write_frame,
)
from uncertainty_seg.storage.frame_log.format import FRAMES_FOLDER
from uncertainty_seg.storage.frame_log.manifest import (
    Bar,
    Entry,
    load_index,
    note_change,
    RESERVOIRS,
    write_index,
)
from uncertainty_seg.storage.frame_log.reservoir import Capacity, Reservoir

# -------------------------------------------------------------------------------------------------
# Put a frame into a log in the place of others: all of it happens, or nothing.
# What has to go is hidden, the frame is written, both are noted in the index and brought to the
# disk, and only then is the hidden removed. The note decides: killed before it, the next start
# shows the hidden frames again; killed after it, the next start removes them.

_log = logging.getLogger(__name__)


def swap_frames(
    folder: Path, reservoir: str, bar: Bar | None, gone: Sequence[str],
    added: Entry | None = None, files: Mapping[str, bytes] | None = None,
) -> None:
    """
    Change what a reservoir holds on disk.

    Parameters
    ----------
    folder : Path
        The log.
    reservoir : str
        One of `frame_log_manifest.RESERVOIRS`.
    bar : Bar or None
        Its bar, if it has changed.
    gone : sequence of str
        Frames that have to go.
    added, files : Entry and mapping of str to bytes, optional
        The frame that comes; name to content.

    Raises
    ------
    OSError
        If the disk refuses. The log holds what it held before then, if the disk lets us put it
        back; else the next start does.

    """
    hidden: list[str] = []
    try:
        for frame_id in gone:
            hide_frame(folder, frame_id)
            hidden.append(frame_id)
        if added is not None:
            write_frame(folder, added.frame_id, files or {})
        if bar is not None or gone or added is not None:
            note_change(folder, reservoir, bar, gone, added)
    except OSError:
        _put_back(folder, hidden, added)
        raise
    for frame_id in gone:
        _remove(folder, frame_id)


def _put_back(folder: Path, hidden: Sequence[str], added: Entry | None) -> None:
    if added is not None:
        with suppress(OSError):
            remove_frame(folder, added.frame_id)  # it is there if only the note failed
    for frame_id in hidden:
        with suppress(OSError):
            show_frame(folder, frame_id)


def _remove(folder: Path, frame_id: str) -> None:
    try:
        remove_frame(folder, frame_id)
        _log.debug('frame log: %s had to go', frame_id)
    except OSError as err:
        # It is decided and out of sight; the next start tries again.
        _log.warning('frame log: %s could not be removed yet, %s', frame_id, err.strerror)


# -------------------------------------------------------------------------------------------------

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

    Attributes
    ----------
    device : int
        Number of the disk.
    num_trimmed : int
        Frames that had to go at the start, since the quota is smaller than before.

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
            self._index = load_index(folder)
            # Also the proof that the folder can be written.
            write_index(folder, self._index)
            self._require_room()
            self._reservoirs = self._restored()
            # As the index on disk has them.
            self._noted_bars = dict(self._index.bars)
            self.num_trimmed = self.reconfigure(settings)
        except OSError as err:
            self.close()
            raise trouble(err, folder, is_new=device is None)[1] from err
        except (FrameLogError, ConfigError):
            self.close()
            raise

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each folder among the frames that is none."""
        return self._index.problems

    @property
    def num_leftovers(self) -> int:
        """Frames that a crash left behind, removed at the start."""
        return self._index.num_leftovers

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
            If the disk refuses. The log holds what it held before, and this object is of no use:
            `close` it.

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
        added = dataclasses.replace(entry, num_bytes=size) if is_kept else None
        self._swap(entry.reservoir, gone, added, files)
        return '' if is_kept else 'outranked', len(gone)

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
        num_gone = 0
        for name, reservoir in self._reservoirs.items():
            reservoir.capacity = self._capacity(name)
            grew = (reservoir.capacity.num_bytes > before[name].num_bytes
                    or reservoir.capacity.num_items > before[name].num_items)
            if grew:
                reservoir.lower_bar()
            gone = reservoir.trim()
            self._swap(name, gone)
            num_gone += len(gone)
        return num_gone

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
            found[name] = Reservoir(Capacity(0, 0), bar, self._index.largest[name])
        for entry in entries:
            found[entry.reservoir].restore(entry.frame_id, entry.key, entry.num_bytes)
        return found

    def _capacity(self, reservoir: str) -> Capacity:
        """Return what the quota gives a reservoir."""
        settings, held = self._settings, self._reservoirs[CONTROL]
        control = Capacity(int(settings.quota_mb * MEGABYTE * settings.control_quota),
                           int(settings.quota_frames * settings.control_quota))
        if settings.control_share <= 0:
            # None will come: those of before stay, and nothing is set aside for more.
            control = Capacity(min(control.num_bytes, held.num_bytes),
                               min(control.num_items, len(held)))
        if reservoir == CONTROL:
            return control
        return Capacity(int(settings.quota_mb * MEGABYTE) - control.num_bytes,
                        settings.quota_frames - control.num_items)

    def _fit_to_disk(self, name: str) -> None:
        """
        Set a reservoir to what quota and disk allow now.

        When others fill the disk the log stops growing; what it holds is not deleted for them.
        """
        quota, reservoir = self._capacity(name), self._reservoirs[name]
        # A frame is written before those go that it replaces, which takes room for a moment.
        spare = 2 * max(one.largest for one in self._reservoirs.values())
        kept_free = max(int(self._settings.free_disk_mb * MEGABYTE), spare)
        room = max(0, self.free_bytes - kept_free)
        allowed = min(quota.num_bytes, reservoir.num_bytes + room)
        reservoir.capacity = Capacity(allowed, quota.num_items)
        # The disk has room again, or others took frames away while we did not look.
        if reservoir.was_enlarged(reservoir.capacity):
            reservoir.lower_bar()

    def _swap(
        self, name: str, gone: Sequence[str], added: Entry | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        reservoir = self._reservoirs[name]
        bar = Bar(reservoir.bar, reservoir.largest) if (
            reservoir.bar != self._noted_bars[name]) else None
        swap_frames(self.folder, name, bar, gone, added, files)
        self._noted_bars[name] = reservoir.bar
        for frame_id in gone:
            del self._index.entries[frame_id]
        if added is not None:
            self._index.entries[added.frame_id] = added
