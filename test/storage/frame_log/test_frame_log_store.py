# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The quota on disk, the index, a second writer, and files found at the start."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
import errno
import json
import math
import os
from pathlib import Path
import shutil
from types import ModuleType
from typing import Any

from frame_log_helpers import settings
import numpy as np
import pytest

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.errors import ConfigError, FrameLogError
from uncertainty_seg.storage.frame_log import format as log_format
from uncertainty_seg.storage.frame_log import store as store_module
from uncertainty_seg.storage.frame_log.store import Entry, FrameStore, note_change

BLOCK = 4096
FRAME_BYTES = 3 * BLOCK  # a folder, a file of two blocks


def add(store: FrameStore, name: str, key: float, reservoir: str = 'main',
        num_bytes: int = 2 * BLOCK) -> tuple[str, int]:
    sidecar = {'version': 1, 'frame_id': name, 'stamp_ns': 1, 'reason': 'flagged',
               'image': {'file': 'frame.json'}, 'reservoir': {
                   'name': reservoir, 'key': key,
                   'bar': store.bar(reservoir) if store.bar(reservoir) > -math.inf else None}}
    text = json.dumps(sidecar).encode()
    return store.add(Entry(name, 'flagged', reservoir, key, 0),
                     {'frame.json': text.ljust(num_bytes)})


def quota(frames: float, **changes: object) -> LogSettings:
    return settings(quota_mb=frames * FRAME_BYTES / MEGABYTE, **changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / 'frames').iterdir()}


@contextmanager
def opened(folder: Path, chosen: LogSettings | None = None) -> Iterator[FrameStore]:
    with closing(FrameStore(folder, chosen or settings())) as store:
        yield store


@pytest.mark.parametrize('is_manifest_there', [True, False])
def test_a_restart_in_the_middle_changes_nothing(
        tmp_path: Path, is_manifest_there: bool) -> None:
    keys = np.random.default_rng(4).normal(size=40).tolist()
    for start in (0, 13, 25):
        with opened(tmp_path, quota(5)) as store:
            for k in range(start, {0: 13, 13: 25, 25: 40}[start]):
                add(store, str(k), keys[k])
        if not is_manifest_there:
            (tmp_path / 'manifest.jsonl').unlink()
    assert names(tmp_path) == {str(k) for k in sorted(range(40), key=lambda k: -keys[k])[:5]}


def test_the_most_frames_of_a_log(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, 'MOST_FRAMES', 2)
    with opened(tmp_path) as store:
        results = [add(store, name, key) for name, key in [('a', 1), ('b', 3), ('c', 2), ('d', 0)]]
        assert results == [('', 0), ('', 0), ('', 1), ('outranked', 0)]
        assert not store.would_take('main', 1.0) and store.would_take('main', 2.5)
    assert names(tmp_path) == {'b', 'c'}


def test_the_control_has_a_quota_of_its_own(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, 'CONTROL_QUOTA', 0.3)
    with opened(tmp_path, quota(10, control_share=0.1)) as store:
        for k in range(12):
            add(store, f'control{k}', -100.0 - k, 'control')
            add(store, f'main{k}', 100.0 + k)
    assert names(tmp_path) == {*(f'control{k}' for k in range(3)),
                               *(f'main{k}' for k in range(5, 12))}


def test_a_quota_below_the_frames_that_are_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        add(store, 'a', 1.0)
    with pytest.raises(ConfigError, match='log.quota_mb'):
        FrameStore(tmp_path, settings(quota_mb=0.01))
    assert names(tmp_path) == {'a'}


def test_a_disk_that_others_fill_stops_the_growth_and_deletes_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 * MEGABYTE]

    class Usage:

        def __init__(self, _: object) -> None:
            self.free = free[0]

    monkeypatch.setattr(shutil, 'disk_usage', Usage)
    with opened(tmp_path, settings(free_disk_mb=5.0)) as store:
        add(store, 'a', 1.0)
        add(store, 'b', 2.0)
        free[0] = 4 * MEGABYTE
        assert add(store, 'c', 3.0) == ('', 1)
        assert add(store, 'd', 0.5) == ('outranked', 0)
        assert names(tmp_path) == {'b', 'c'}
        free[0] = 10 * MEGABYTE
        # With free space again, frames evicted for lack of it do not raise the bar.
        assert store.would_take('main', 0.1) and add(store, 'e', 0.1) == ('', 0)
    assert names(tmp_path) == {'b', 'c', 'e'}


def test_a_smaller_quota_holds_at_once_and_a_larger_one_lets_all_in(tmp_path: Path) -> None:
    with opened(tmp_path, quota(4)) as store:
        for k in range(5):
            add(store, str(k), float(k))
        assert store.reconfigure(quota(2)) == 2
        assert names(tmp_path) == {'3', '4'} and not store.would_take('main', 1.5)
        assert store.reconfigure(quota(3)) == 0
        assert add(store, 'low', -9.0) == ('', 0)


def test_the_index_is_made_again(tmp_path: Path) -> None:
    manifest = tmp_path / 'manifest.jsonl'
    with opened(tmp_path) as store:
        for k in range(4):
            add(store, str(k), float(k))
    whole = manifest.read_text()
    for damaged in (None, '', whole[:-20], whole + '{"op": "add", "frame', '\0' * 30,
                    whole.replace('"main"', '"other"'), '5\n', '[' * 10**6 + '\n',
                    '{"op": "bar", "reservoir": "main", "key": 0, "largest": 1e999}\n'):
        manifest.unlink() if damaged is None else manifest.write_text(damaged)
        with opened(tmp_path) as store:
            assert store.num_frames == 4 and store.num_bytes == 4 * FRAME_BYTES
        assert sorted(manifest.read_text().splitlines()) == sorted(whole.splitlines())


def test_the_leftovers_of_a_crash_are_removed_and_counted(tmp_path: Path) -> None:
    with opened(tmp_path, quota(3)) as store:
        add(store, 'a', 1.0)
        add(store, 'b', 2.0)
        assert store.num_leftovers == 0
    (tmp_path / 'frames' / '.new-c').mkdir()
    (tmp_path / 'frames' / '.new-c' / 'image.png').write_bytes(b'half')
    (tmp_path / 'frames' / 'a').rename(tmp_path / 'frames' / '.gone-a')
    with opened(tmp_path, quota(3)) as store:
        assert store.num_leftovers == 2
        assert names(tmp_path) == {'b'}
        assert store.num_frames == 1 and store.bar('main') == 1.0


def test_frames_taken_away_by_hand_make_room(tmp_path: Path) -> None:
    with opened(tmp_path, quota(3)) as store:
        for k in range(6):
            add(store, str(k), float(k))
        assert store.bar('main') == 2.0 and not store.would_take('main', 1.0)
    shutil.rmtree(tmp_path / 'frames' / '4')
    with opened(tmp_path, quota(3)) as store:
        assert store.num_frames == 2
        assert add(store, 'low', -5.0) == ('', 0)


class Killed(BaseException):
    """Raised to end a writer without running its error handlers."""


@contextmanager
def killed_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the writer before disk call number `step`."""
    left = [step]

    def counted(call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*args, **kwargs)
        return wrapper

    with patch.context() as here:
        for name in ('replace', 'fsync', 'unlink', 'rmdir', 'mkdir'):
            here.setattr(os, name, counted(getattr(os, name)))
        here.setattr(store_module, 'note_change', counted(note_change))
        yield


def test_a_kill_at_any_step_of_an_eviction_keeps_sample_and_bar(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [3.0, 1.0, 6.0, 2.0, 9.0, 2.5, 8.0]
    is_kept_seen, is_killed, step = set(), True, 0
    while is_killed:
        folder = tmp_path / str(step)
        with opened(folder, quota(3)) as store:
            for k in range(4):
                add(store, str(k), keys[k])
            is_killed = False
            try:
                with killed_at(step, monkeypatch):
                    add(store, '4', keys[4])
            except Killed:
                is_killed = True
        with opened(folder, quota(3)) as store:
            is_kept = '4' in names(folder)
            offered = {k for k in range(5) if k != 4 or is_kept}
            # Only whole frames, and those that an uninterrupted writer would keep.
            assert names(folder) == best_names(keys, offered, 3)
            assert store.bar('main') == sorted(keys[k] for k in offered)[-4]
            for k in (5, 6):
                add(store, str(k), keys[k])
            offered |= {5, 6}
            assert names(folder) == best_names(keys, offered, 3)
            assert store.bar('main') == sorted(keys[k] for k in offered)[-4]
        is_kept_seen.add(is_kept)
        step += 1
    # Disk calls: hide, create, three syncs and a rename, a sync, the index entry, the removal.
    assert step > 10 and is_kept_seen == {True, False}


def best_names(keys: list[float], offered: set[int], num: int) -> set[str]:
    return {str(k) for k in sorted(offered, key=lambda k: -keys[k])[:num]}


@pytest.mark.parametrize(('module', 'call'), [
    (log_format, 'write_frame'), (store_module, 'note_change')])
def test_a_frame_that_cannot_be_written_costs_no_other(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, 'no room')

    with opened(tmp_path, quota(2)) as store:
        for k in range(3):
            add(store, str(k), float(k))
    for _ in range(3):
        with opened(tmp_path, quota(2)) as store, monkeypatch.context() as patch:
            patch.setattr(module, call, refuse)
            with pytest.raises(OSError):
                add(store, 'new', 9.0)
        assert names(tmp_path) == {'1', '2'}
    with opened(tmp_path, quota(2)) as store:
        assert store.num_frames == 2 and store.bar('main') == 0.0


def test_a_large_frame_that_had_to_go_is_remembered(tmp_path: Path) -> None:
    chosen = settings(quota_mb=10 * BLOCK / MEGABYTE)
    with opened(tmp_path, chosen) as store:
        add(store, 'large', 5.0, num_bytes=8 * BLOCK)
        assert add(store, 'small', 6.0, num_bytes=BLOCK) == ('', 1)
        assert not store.would_take('main', 4.0)
    # The free space is that of the evicted large frame, so the bar stays.
    with opened(tmp_path, chosen) as store:
        assert not store.would_take('main', 4.0) and store.bar('main') == 5.0


def test_what_was_decided_before_a_kill_is_not_undone(tmp_path: Path) -> None:
    with opened(tmp_path, quota(3)) as store:
        add(store, 'a', 1.0)
        add(store, 'b', 2.0)
    for frame_id in 'ab':
        (tmp_path / 'frames' / frame_id).rename(tmp_path / 'frames' / f'.out-{frame_id}')
    note_change(tmp_path, 'main', (1.0, FRAME_BYTES), ['a'], None)
    with opened(tmp_path, quota(3)) as store:
        assert names(tmp_path) == {'b'}
        assert store.num_leftovers == 1 and store.bar('main') == 1.0


def test_strange_folders_are_left_alone_and_told(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        add(store, 'a', 1.0)
    (tmp_path / 'frames' / 'mine').mkdir()
    (tmp_path / 'frames' / 'notes.txt').write_text('x')
    with opened(tmp_path) as store:
        assert len(store.problems) == 1 and 'mine' in store.problems[0]
        assert store.num_frames == 1
    assert names(tmp_path) == {'a', 'mine', 'notes.txt'}


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(FrameLogError, match=str(tmp_path)):
            FrameStore(tmp_path, settings())
    FrameStore(tmp_path, settings()).close()


@pytest.mark.parametrize('kind', ['file', 'below a file', 'not ours'])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / 'file').write_text('x')
    folder = {'file': tmp_path / 'file', 'below a file': tmp_path / 'file' / 'log',
              'not ours': Path('/proc/frame_log')}[kind]
    with pytest.raises(FrameLogError, match=f'{folder}'):
        FrameStore(folder, settings())


def test_another_disk_in_the_place_of_the_log_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / 'log') as store:
        device = store.device
    shutil.rmtree(tmp_path / 'log')
    with pytest.raises(FrameLogError, match=str(tmp_path / 'log')):
        FrameStore(tmp_path / 'log', settings(), device + 1)
    assert not (tmp_path / 'log').exists()
    FrameStore(tmp_path / 'log', settings(), device).close()


def test_no_room_for_the_first_frame(tmp_path: Path) -> None:
    with opened(tmp_path, settings(free_disk_mb=1e9)) as store:
        assert add(store, 'a', 1.0) == ('no_room', 0)


def test_names_of_frames_sort_by_stamp_and_are_new(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        first = store.new_id(17, '/front cam/../x')
        assert first == '0000000000000000017-_front_cam____x'
        add(store, first, 1.0)
        assert store.new_id(17, '/front cam/../x') == f'{first}.2'
        names = [store.new_id(ns, '') for ns in (-10**18, 9, 10, 10**18, (2**31 + 3) * 10**9)]
        assert sorted(names) == names and names[0].isdigit()
