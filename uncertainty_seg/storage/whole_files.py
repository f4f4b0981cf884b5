# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a file or folder whole or not at all, and lock a file for one process.

Both are written under another name, flushed to the disk and renamed, so that neither a killed
process nor a power cut leaves half of them; the rename is flushed as well. This is the only module
of the package that renames anything on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
import fcntl
import json
import math
import os
from pathlib import Path
import secrets
import shutil
from typing import Any

from uncertainty_seg.errors import UncertaintySegError


@contextmanager
def whole_file(path: Path, draft_name: str | None = None) -> Iterator[Path]:
    """
    Write a file through a draft; it appears under its name at the end of the block, or not at all.

    The name of the draft ends in '.tmp' by default and contains the process id: two processes may
    write the same file, and drafts of killed ones can be recognised. Raises OSError if writing
    fails; an older file stays unchanged.
    """
    draft = path.with_name(draft_name or f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield draft
        sync(draft)
        rename(draft, path)
        sync(path.parent)
    finally:
        # After a rename it does not exist; whatever prevented the write may prevent this too.
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes, draft_name: str | None = None) -> None:
    """
    Write a file of this content; parameters and errors as `whole_file`.

    Text is written as UTF-8; bytes of file names that are not UTF-8 are escaped.
    """
    data = content.encode(errors='backslashreplace') if isinstance(content, str) else content
    with whole_file(path, draft_name) as draft:
        draft.write_bytes(data)


@contextmanager
def whole_folder(
    path: Path, draft_name: str | None = None, *, is_synced: bool = True,
    is_replacing: bool = True,
) -> Iterator[Path]:
    """
    Fill a folder, the draft; it appears under its name at the end of the block, or not at all.

    Raises OSError if writing fails; an older folder stays unchanged.

    The path may be a link; its parent must exist. An older folder is replaced at the end or,
    without `is_replacing`, refused if it is not empty. Without `is_synced` no file is flushed to
    the disk: for thousands of files that can be created again.
    """
    path = path.resolve()
    draft = path.with_name(draft_name or f'.{path.name}.{secrets.token_hex(4)}.partial')
    try:
        draft.mkdir()
        yield draft
        if is_synced:
            for file in sorted(draft.rglob('*')):
                sync(file)
            sync(draft)
        if is_replacing:
            _put_in_place(draft, path)
        else:
            rename(draft, path)
        if is_synced:
            sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, path: Path) -> None:
    """Rename a folder over an older one, which is restored if this fails or is interrupted."""
    if not path.exists():
        rename(draft, path)
        return
    older = draft.with_name(f'{draft.name}.old')
    try:
        rename(path, older)
        rename(draft, path)
    except BaseException:
        if older.exists() and not path.exists():
            rename(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def rename(path: Path, target: Path) -> None:
    """Rename a file or folder on one disk, over a file or empty folder; OSError if it fails."""
    os.replace(path, target)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; OSError if the disk fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int:
    """
    Lock a file for this process, created if missing; closing the returned descriptor unlocks it.

    Network disks without support for locks give none. Raises BlockingIOError if another process
    holds the lock; OSError if the file cannot be created.
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


@contextmanager
def one_at_a_time(folder: Path, error: type[UncertaintySegError], lock: str) -> Iterator[None]:
    """Make a folder and hold its lock in the block; raise `error` if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = lock_file(folder / lock)
    except BlockingIOError as err:
        raise error(f'another process works on {folder}', 'one at a time',
                    'wait for it, or name another folder') from err
    try:
        yield
    finally:
        os.close(held)


def json_text(values: Mapping[str, Any]) -> str:
    """Return values as one line of JSON; numbers that are not finite become null."""
    return json.dumps(_known_to_json(values), allow_nan=False)


def _known_to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _known_to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known_to_json(item) for item in value]
    if hasattr(value, 'dtype'):
        value = value.item()  # a scalar of numpy
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
