# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Whole files: on the disk before they are seen, nothing left of a failure, one holder a lock."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from uncertainty_seg.storage.score_rows import ScoreRow, TableInfo, write_rows
from uncertainty_seg.storage.whole_files import lock_file, whole_file
from uncertainty_seg.tools.selection.sheet import write_whole


def by_whole_file(path: Path) -> None:
    with whole_file(path) as draft:
        draft.write_bytes(b'new')


def by_score(path: Path) -> None:
    pytest.importorskip('pyarrow', reason='pyarrow is not installed')
    info = TableInfo('m', '0' * 64, ('a',), ((0, 0, 0),), 1, 0, (), 1)
    write_rows(path, info, [ScoreRow('dive', 'bag', 'bag', '/t', 0, 0, 1, 1, True, 'confident', 0.,
                                     (), (1.,), 0, np.ones(1, np.float32))])


def by_select(path: Path) -> None:
    def write(draft: Path) -> None:
        draft.write_bytes(b'new')

    write_whole(path, write)


@pytest.mark.parametrize('write', [by_whole_file, by_score, by_select])
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    done: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append(('sync', status.st_ino, status.st_size))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(('rename', os.stat(source).st_ino, os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, 'fsync', noted_fsync)
    monkeypatch.setattr(os, 'replace', noted_replace)
    target = tmp_path / 'file'
    target.write_bytes(b'old')
    write(target)
    status = target.stat()
    assert [step[:2] for step in done] == [
        ('sync', status.st_ino), ('rename', status.st_ino), ('sync', tmp_path.stat().st_ino)]
    # All of it, not only what a buffer had passed on by then.
    assert done[0][2] == status.st_size
    assert os.listdir(tmp_path) == ['file']


def test_a_block_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / 'file'
    target.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt), whole_file(target, '.new-file') as draft:
        assert draft == tmp_path / '.new-file'
        draft.write_bytes(b'half')
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'file': b'old'}


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    place = tmp_path / '.lock'
    program = ('import sys; from pathlib import Path; '
               'from uncertainty_seg.storage.whole_files import lock_file; '
               'lock_file(Path(sys.argv[1])); print("held", flush=True); sys.stdin.read()')
    with subprocess.Popen([sys.executable, '-c', program, place], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == 'held\n'
        with pytest.raises(BlockingIOError):
            lock_file(place)
        holder.kill()
    os.close(lock_file(place))


def test_a_disk_without_locks_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr('fcntl.flock', refuse)
    os.close(lock_file(tmp_path / '.lock'))
