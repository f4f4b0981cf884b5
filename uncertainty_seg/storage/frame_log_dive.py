# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which dive the frames of a log belong to."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path

from uncertainty_seg.core.log_settings import LogSettings
from uncertainty_seg.errors import FrameLogError
from uncertainty_seg.storage.frame_log_format import FRAMES_FOLDER, read_sidecar

# A node that is back within this time was restarted under water.
SAME_DIVE_S = 600.0


def dive_name(folder: Path, settings: LogSettings, fallback: str, now_s: float) -> str:
    """
    Name the dive that begins or goes on now.

    Parameters
    ----------
    folder : Path
        The log, before it is opened; need not be there.
    settings : LogSettings
        A name in `dive` is taken as it is.
    fallback : str
        For a dive that begins: the time of the start.
    now_s : float
        Seconds since 1970, as the disk counts.

    Returns
    -------
    str
        If no name is given and the newest frame was written within `SAME_DIVE_S`, that frame's
        dive. By the time of the file: stamps may be of another clock.

    """
    if settings.dive:
        return settings.dive
    newest_s, newest = _newest_frame(folder)
    # Also if the clock was set back by a little meanwhile.
    if newest is not None and abs(now_s - newest_s) <= SAME_DIVE_S:
        with suppress(FrameLogError):
            return str(read_sidecar(newest).get('dive') or fallback)
    return fallback


def _newest_frame(folder: Path) -> tuple[float, Path | None]:
    """Return when the frame written last was, and its folder; None if there is none."""
    newest_s, newest = 0.0, None
    with suppress(OSError), os.scandir(folder / FRAMES_FOLDER) as entries:
        for entry in entries:
            # A folder is as old as the last file that came into it.
            if not entry.name.startswith('.') and entry.is_dir():
                written_s = entry.stat().st_mtime
                if newest is None or written_s > newest_s:
                    newest_s, newest = written_s, Path(entry.path)
    return newest_s, newest
