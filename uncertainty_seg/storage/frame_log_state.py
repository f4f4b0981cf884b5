# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a frame log has counted, and a snapshot of it for diagnostics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from uncertainty_seg.core.log_settings import MEGABYTE
from uncertainty_seg.storage.frame_log_format import REASONS

# Why a frame is lost: something was wrong. `control`: queue or memory were full for one of those.
DROP_CAUSES = ('queue_full', 'memory_full', 'control', 'disk_full', 'read_only', 'folder_missing',
               'not_writable', 'disk_error', 'other_writer', 'no_room', 'too_big', 'bad_frame',
               'closing')
# Why a frame is not kept: it was not worth it.
SKIP_CAUSES = ('interval', 'duplicate', 'outranked')


@dataclass(frozen=True)
class LogState:
    """
    A snapshot of a frame log.

    Attributes
    ----------
    is_writing : bool
        False while the disk refuses.
    error : str
        The last trouble, one sentence; empty once a frame was written again.
    folder : str
        Where.
    num_seen : int
        Frames offered.
    kept, skipped, dropped : mapping of str to int
        Frames written, by reason; frames not worth keeping and frames lost, by cause.
    num_frames, num_bytes : int
        In the log now, older runs included.
    num_evicted : int
        Frames that had to go for others.
    num_leftovers : int
        Unfinished frames of a crash, removed at the start.
    num_waiting, num_in_ring : int
        Frames to be written; frames held for the time before a flagged one.
    num_pushed_out : int
        Frames that left the ring early for want of memory.
    free_mb, quota_mb : float
        Room on the disk, NaN if it cannot be told; the quota.
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
        """Return key and text for a diagnostic status; causes that never happened left out."""
        texts = {
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
        return texts


class _WriterState(Protocol):
    """What a snapshot asks of the writer."""

    folder_text: str
    num_frames: int
    num_bytes: int
    num_leftovers: int
    free_mb: float
    error: str

    @property
    def is_writing(self) -> bool: ...

    @property
    def quota_mb(self) -> float: ...


@dataclass
class LogCounters:
    """Counts of a run; each is written by one thread under its own lock or alone."""

    num_seen: int = 0
    num_evicted: int = 0
    write_ms: float = 0.0
    kept: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, cause: str, num_frames: int = 1) -> None:
        """Count frames that are lost."""
        self.dropped[cause] += num_frames

    def snapshot(
        self, writer: _WriterState, num_waiting: int, num_in_ring: int, num_pushed_out: int,
        skipped: Mapping[str, int],
    ) -> LogState:
        """Return the state of this moment; `skipped` is what the writer does not know of."""
        return LogState(
            writer.is_writing, writer.error, writer.folder_text, self.num_seen,
            {name: self.kept[name] for name in REASONS},
            {name: self.skipped[name] + skipped.get(name, 0) for name in SKIP_CAUSES},
            {name: self.dropped[name] for name in DROP_CAUSES},
            writer.num_frames, writer.num_bytes, self.num_evicted, writer.num_leftovers,
            num_waiting, num_in_ring, num_pushed_out, writer.free_mb, writer.quota_mb,
            self.write_ms,
        )
