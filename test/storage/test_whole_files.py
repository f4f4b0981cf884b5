# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Atomic files: synced before they are visible, no remains of a failure, exclusive locks."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from uncertainty_seg.storage.whole_files import lock_file, whole_file, whole_folder


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    with whole_file(target) as draft:
        draft.write_bytes(b'new')
    status = target.stat()
    assert [step[:2] for step in done] == [
        ('sync', status.st_ino), ('rename', status.st_ino), ('sync', tmp_path.stat().st_ino)]
    # The whole file, not only the part that was flushed by then.
    assert done[0][2] == status.st_size
    assert os.listdir(tmp_path) == ['file']


def folder_at(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / 'a').write_text(content)
    return path


def test_a_folder_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(os.readlink(f'/proc/self/fd/{descriptor}').removeprefix(str(tmp_path)))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(f'{source.name} is {target.name}')
        replace(source, target)

    monkeypatch.setattr(os, 'fsync', noted_fsync)
    monkeypatch.setattr(os, 'replace', noted_replace)
    with whole_folder(tmp_path / 'out', '.new') as draft:
        folder_at(draft / 'in', 'new')
        assert os.listdir(tmp_path) == ['.new']
    assert done == ['/.new/in', '/.new/in/a', '/.new', '.new is out', '']
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('is_there', [True, False])
def test_a_folder_that_fails_leaves_the_old_one_and_no_draft(
    tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        folder_at(tmp_path / 'out', 'old')
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / 'out') as draft:
        (draft / 'a').write_text('half')
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.rglob('*/a')] == ['old'] * is_there
    assert os.listdir(tmp_path) == ['out'] * is_there


@pytest.mark.parametrize('is_before', [True, False])
@pytest.mark.parametrize('name', ['out', '.new'])
def test_a_signal_between_two_renames_leaves_a_folder_under_the_name(
    name: str, is_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_at(tmp_path / 'out', 'old')
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        is_it = source.name == name
        if is_it and is_before:
            raise KeyboardInterrupt
        real(source, target)
        if is_it:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / 'out', '.new') as draft:
        (draft / 'a').write_text('new')
    is_new = name == '.new' and not is_before
    assert (tmp_path / 'out' / 'a').read_text() == ('new' if is_new else 'old')
    assert '.new' not in os.listdir(tmp_path)


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
