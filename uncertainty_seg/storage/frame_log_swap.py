# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put a frame into a log in the place of others: all of it happens, or nothing.

What has to go is hidden, the frame is written, both are noted in the index and brought to the
disk, and only then is the hidden removed. The note decides: killed before it, the next start shows
the hidden frames again; killed after it, the next start removes them.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
import logging
from pathlib import Path

from uncertainty_seg.storage.frame_log_disk import (
    hide_frame,
    remove_frame,
    show_frame,
    write_frame,
)
from uncertainty_seg.storage.frame_log_manifest import Bar, Entry, note_change

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
