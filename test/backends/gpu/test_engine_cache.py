# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Engines on disk: damaged files, eviction, and locks between processes."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

import pytest

from uncertainty_seg.backends.gpu.engine_cache import cache_folder, EngineCache
from uncertainty_seg.errors import BackendError

KEY = 'a' * 64


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines')


def test_what_was_stored_is_loaded_with_its_facts(cache: EngineCache) -> None:
    assert cache.load(KEY) is None and not cache.has(KEY) and not cache.folder.exists()
    path = cache.store(KEY, b'plan', {'role': 'trunk'})
    assert cache.has(KEY) and cache.load(KEY) == b'plan' and path.read_bytes().endswith(b'plan')
    assert json.loads(cache.facts_path(KEY).read_text()) == {'role': 'trunk'}
    assert {p.suffix for p in cache.folder.iterdir()} == {'.engine', '.json', '.lock'}
    assert cache.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('content', [b'', b'plan', b'a' * 32 + b'plan'])
def test_a_damaged_engine_is_said_and_gone(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    cache.store(KEY, b'plan', {})
    cache.plan_path(KEY).write_bytes(content)
    assert cache.load(KEY) is None and 'damaged' in caplog.text
    assert not cache.has(KEY) and cache.load(KEY) is None


def test_engines_not_used_for_longest_make_room(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=90)
    for number, key in enumerate('abc'):
        cache.store(key, bytes(10), {})
        os.utime(cache.plan_path(key), (number, number))
        if key == 'b':
            cache.load('a')  # used again
    assert [key for key in 'abc' if cache.has(key)] == ['a', 'c']
    cache.store('d', bytes(100), {})
    assert [key for key in 'abcd' if cache.has(key)] == ['d']


def test_the_folder_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv('UNCERTAINTY_SEG_ENGINE_CACHE', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    for value, expected in (('', tmp_path / '.cache'), ('relative', tmp_path / '.cache'),
                            ('/var/x', Path('/var/x'))):
        monkeypatch.setenv('XDG_CACHE_HOME', value)
        assert cache_folder() == expected / 'uncertainty_seg' / 'engines'
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', '~/mine')
    assert cache_folder() == tmp_path / 'mine'
    # A user of a container, of whom the system knows no home: nothing there can be written.
    monkeypatch.delenv('UNCERTAINTY_SEG_ENGINE_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setattr('os.path.expanduser', lambda path: path)
    assert cache_folder().is_relative_to('/nonexistent')


def test_a_folder_that_cannot_be_used_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BackendError, match='UNCERTAINTY_SEG_ENGINE_CACHE'):
        EngineCache(tmp_path / 'file').store(KEY, b'plan', {})


@contextlib.contextmanager
def in_another_process(cache: EngineCache, held: str) -> Iterator[None]:
    """Hold a lock of the cache in another process."""
    code = ('import sys; from pathlib import Path\n'
            'from uncertainty_seg.backends.gpu.engine_cache import EngineCache\n'
            f'with EngineCache(Path(sys.argv[1])).{held}:\n'
            '    print("in", flush=True); sys.stdin.read()\n')
    with subprocess.Popen([sys.executable, '-c', code, str(cache.folder)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == 'in\n'
        yield
        other.communicate()


def test_what_another_process_is_about_to_load_stays_until_it_has(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=50)
    cache.store('a', bytes(10), {})
    storing = threading.Thread(target=lambda: cache.store('b', bytes(10), {}))
    with in_another_process(cache, 'reading()'):
        storing.start()
        storing.join(0.3)
        assert storing.is_alive() and cache.load('a') == bytes(10)  # a shared lock
    storing.join(5)
    assert not cache.has('a') and cache.has('b')


def test_a_folder_that_is_only_read_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path)
    cache.store('a', b'plan', {})
    (tmp_path / '.folder.lock').unlink()
    monkeypatch.setattr(os, 'access', lambda *_: False)
    monkeypatch.setattr(os, 'utime', lambda *_: os.stat(tmp_path / 'gone'))
    assert cache.load('a') == b'plan'
    assert not (tmp_path / '.folder.lock').exists()


def test_a_lock_keeps_another_process_out(cache: EngineCache) -> None:
    entered: list[float] = []

    def enter() -> None:
        with cache.lock('k'):
            entered.append(time.monotonic())

    thread = threading.Thread(target=enter)
    with in_another_process(cache, 'lock("k")'):
        thread.start()
        with cache.lock('another'):
            thread.join(0.3)
        assert not entered
    thread.join(5)
    assert entered
