# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Engines and results of the self-check on disk: which key, what is damaged, who writes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from conftest import tiny_card
import pytest

from uncertainty_seg.backends.gpu.engine_build import EngineSpec
from uncertainty_seg.backends.gpu.engine_cache import (
    cache_folder,
    checking,
    EngineCache,
    EngineTarget,
    key_of,
    key_of_facts,
    read_record,
    RECORD_FILE,
    require_not_failed,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.errors import BackendError, BackendUnavailableError

TARGET = EngineTarget('tensorrt', '10.3.0', 'Orin', '8.7', '12.6', 16)
SPEC = EngineSpec('fp16', {'m': ((1, 8), (4, 8), (4, 8))})
KEY = 'a' * 64
OTHER_SPECS: list[dict[str, Any]] = [
    {'precision': 'fp32'}, {'precision': 'tf32'}, {'compute_capabilities': ('8.6',)},
    {'profiles': {'m': ((1, 8), (4, 8), (5, 8))}}, {'summed': (3, 4)}]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines')


def engine_key(graph: str, spec: EngineSpec, target: EngineTarget) -> str:
    return key_of_facts(graph, dataclasses.asdict(spec), target)


def test_a_key_depends_on_everything() -> None:
    others = [('h', SPEC, TARGET)]
    others += [('g', dataclasses.replace(SPEC, **one), TARGET) for one in OTHER_SPECS]
    for field in dataclasses.fields(TARGET):
        old = getattr(TARGET, field.name)
        new: Any = old + 1 if isinstance(old, int) else f'{old}x'
        others.append(('g', SPEC, dataclasses.replace(TARGET, **{field.name: new})))
    keys = {engine_key(*one) for one in [('g', SPEC, TARGET), *others]}
    assert len(keys) == 1 + len(others) == 13
    assert engine_key('g', SPEC, TARGET) in keys


def test_what_was_stored_is_loaded_with_its_facts(cache: EngineCache) -> None:
    assert cache.load(KEY) is None and not cache.has(KEY) and not cache.folder.exists()
    path = cache.store(KEY, b'plan', {'role': 'trunk'})
    assert cache.has(KEY) and cache.load(KEY) == path.read_bytes() == b'plan'
    facts = json.loads(cache.facts_path(KEY).read_text())
    assert (facts['role'], facts['bytes']) == ('trunk', 4)
    assert {p.suffix for p in cache.folder.iterdir()} == {'.engine', '.json'}
    assert cache.folder.stat().st_mode & 0o077 == 0
    cache.store_timing_cache(TARGET, b'12')
    assert cache.timing_cache(TARGET) == b'12'
    assert cache.timing_cache(dataclasses.replace(TARGET, gpu='Xavier')) == b''


@pytest.mark.parametrize('damage', ['plan', 'json', 'no json'])
def test_a_damaged_engine_is_said_and_gone(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache.store(KEY, b'plan', {})
    if damage == 'plan':
        cache.plan_path(KEY).write_bytes(b'plam')
    elif damage == 'json':
        cache.facts_path(KEY).write_text('{"sha')
    else:
        cache.facts_path(KEY).unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY) is None
        said = len(caplog.records)
        assert cache.load(KEY) is None
    assert said == len(caplog.records) and (said > 0) == (damage != 'no json')
    assert not cache.has(KEY)


def test_engines_not_used_for_longest_make_room(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=25)
    for number, key in enumerate('abc'):
        cache.store(key, bytes(10), {})
        os.utime(cache.plan_path(key), (number, number))
        if key == 'b':
            cache.load('a')  # used again
    assert [key for key in 'abc' if cache.has(key)] == ['a', 'c']
    cache.store('d', bytes(30), {})
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


def test_a_folder_that_cannot_be_used_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BackendError, match='UNCERTAINTY_SEG_ENGINE_CACHE'):
        EngineCache(tmp_path / 'file').store(KEY, b'plan', {})


def test_a_lock_keeps_another_process_out(cache: EngineCache) -> None:
    code = ('import sys; from pathlib import Path\n'
            'from uncertainty_seg.backends.gpu.engine_cache import EngineCache\n'
            'with EngineCache(Path(sys.argv[1])).lock("k"):\n'
            '    print("in", flush=True); sys.stdin.read()\n')
    with subprocess.Popen([sys.executable, '-c', code, str(cache.folder)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == 'in\n'
        entered: list[float] = []

        def enter() -> None:
            with cache.lock('k'):
                entered.append(time.monotonic())

        thread = threading.Thread(target=enter)
        thread.start()
        with cache.lock('another'):
            thread.join(0.3)
        assert not entered
        other.communicate()
    thread.join(5)
    assert entered


# Results of the self-check ----------------------------------------------------------------------

CARD = tiny_card(sha256={'trunk.onnx': 'aa' * 32, 'passes.onnx': 'bb' * 32})
CHECKED = SelfCheckKey.of(CARD, 'tensorrt', '10.3.0', 'fp16', 'Orin')


def record(is_passed: bool, key: SelfCheckKey = CHECKED) -> SelfCheckRecord:
    return SelfCheckRecord(key, is_passed, () if is_passed else ('mean', 'finite'), {'passes': 20})


def test_what_failed_is_refused_until_it_passes_and_may_be_checked(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    require_not_failed(CHECKED, folder)
    assert write_record(record(False), folder) == folder / RECORD_FILE
    assert read_record(CHECKED, folder) == record(False)
    with pytest.raises(BackendUnavailableError, match=r'10.3.0 in fp16.*mean, finite'):
        require_not_failed(CHECKED, folder)
    with checking():
        require_not_failed(CHECKED, folder)
    write_record(record(True), folder)
    assert read_record(CHECKED, folder) == record(True)
    require_not_failed(CHECKED, folder)


@pytest.mark.parametrize('change', [
    {'backend': 'openvino'}, {'version': '10.3.1'}, {'precision': 'fp32'},
    {'device': 'Orin Nano'}, {'graphs': CHECKED.graphs[:16] + 'f' * 48},
])
def test_a_result_holds_for_nothing_else(tmp_path: Path, change: dict[str, str]) -> None:
    other = dataclasses.replace(CHECKED, **change)
    write_record(record(False), tmp_path)
    assert read_record(other, tmp_path) is None
    write_record(record(True, other), tmp_path)
    require_not_failed(other, tmp_path)
    assert read_record(CHECKED, tmp_path) == record(False)


@pytest.mark.parametrize('content', ['', '{"a"', '[]', '"x"', '{"KEY": {"is_passed": "yes"}}',
                                     '{"KEY": 3}'])
def test_a_damaged_file_proves_nothing_and_is_written_anew(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path))  # the folder of the engines
    (tmp_path / RECORD_FILE).write_text(content.replace('KEY', CHECKED.text))
    assert read_record(CHECKED) is None
    write_record(record(True))
    assert read_record(CHECKED) == record(True)


def test_a_backend_says_its_version_and_device_or_its_module_does() -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    gpu: Any = SimpleNamespace(name='tensorrt', version='10.3.0', device_name='Orin')
    assert key_of(CARD, gpu, 'fp16') == CHECKED
    found = key_of(CARD, SimpleNamespace(name='onnxruntime'), 'fp32')  # type: ignore[arg-type]
    assert (found.version, found.device) == (onnxruntime.__version__, '')
    assert key_of(CARD, SimpleNamespace(name='fake'), 'fp32').version == ''  # type: ignore
