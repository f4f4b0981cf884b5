# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a file whole or not at all, and hold a folder for one process.

A file is written under another name, brought to the disk and renamed, so that neither a killed
process nor a power cut shows half of it, and the rename is brought to the disk as well.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
import os
from pathlib import Path


@contextmanager
def whole_file(path: Path, draft_name: str | None = None) -> Iterator[Path]:
    """
    Write a file; it appears under its name at the end of the block, or not at all.

    Parameters
    ----------
    path : Path
        The file. An older one is replaced at the end.
    draft_name : str, optional
        Name of the draft beside it. The usual one ends in '.tmp' and names the process: two may
        write the same file, and whoever sweeps a folder knows what a killed one left.

    Yields
    ------
    Path
        The draft, to be written by the block.

    Raises
    ------
    OSError
        If the disk refuses; an older file stays as it was.

    """
    draft = path.with_name(draft_name or f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield draft
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    finally:
        # It is not there any more after a rename; what hindered the write may hinder this too.
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have what was written to a file or a folder on the disk; OSError if the disk refuses."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int:
    """
    Hold a file for this process; it is made if it is missing.

    Parameters
    ----------
    path : Path
        The file; what it holds does not matter.

    Returns
    -------
    int
        A file descriptor. The lock ends when it is closed, by us or by the end of the process.
        Some network disks know no locks: there is none then.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    OSError
        If it cannot be made.

    """
    # Open for reading: a file open for writing would keep a disk from being made read-only.
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor
