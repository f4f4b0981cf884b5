# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Engines on disk: which key, what is damaged, who writes."""

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

import pytest

from uncertainty_seg.backends.gpu import bundle_engines
from uncertainty_seg.backends.gpu.bundle_engines import build_missing, engines_of, missing
from uncertainty_seg.backends.gpu.engine_build import BuiltEngine, EngineSpec, Progress
from uncertainty_seg.backends.gpu.engine_cache import (
    cache_folder,
    engine_key,
    EngineCache,
    EngineTarget,
)
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, BackendUnavailableError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle

TARGET = EngineTarget('tensorrt', '10.3.0', 'Orin', '8.7', '12.6', 16)
SPEC = EngineSpec('fp16', {'m': ((1, 8), (4, 8), (4, 8))})
KEY = 'a' * 64
OTHER_SPECS = [{'precision': 'fp32'}, {'is_strongly_typed': False}, {'precision': 'tf32'},
               {'profiles': {'m': ((1, 8), (4, 8), (5, 8))}}, {'compute_capabilities': ('8.6',)}]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines')


def test_a_key_depends_on_everything() -> None:
    others = [(b'h', SPEC, TARGET)]
    others += [(b'g', dataclasses.replace(SPEC, **one), TARGET) for one in OTHER_SPECS]
    for field in dataclasses.fields(TARGET):
        old = getattr(TARGET, field.name)
        new = old + 1 if isinstance(old, int) else f'{old}x'
        others.append((b'g', SPEC, dataclasses.replace(TARGET, **{field.name: new})))
    keys = {engine_key(*one) for one in [(b'g', SPEC, TARGET), *others]}
    assert len(keys) == 1 + len(others) == 13
    assert engine_key(b'g', SPEC, TARGET) in keys


def test_what_was_stored_is_loaded_with_its_facts(cache: EngineCache) -> None:
    assert cache.load(KEY) is None and not cache.has(KEY) and not cache.folder.exists()
    path = cache.store(KEY, b'plan', {'role': 'trunk'})
    assert cache.has(KEY) and cache.load(KEY) == path.read_bytes() == b'plan'
    facts = json.loads(cache.facts_path(KEY).read_text())
    assert (facts['role'], facts['bytes']) == ('trunk', 4)
    assert {p.suffix for p in cache.folder.iterdir()} == {'.engine', '.json'}
    assert cache.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('damage', ['plan', 'json', 'no json'])
def test_a_damaged_engine_is_said_once_and_gone(
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
        assert cache.load(KEY) is None and cache.load(KEY) is None
    assert len(caplog.records) == (damage != 'no json')
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
    with pytest.raises(BackendError, match='cannot be used.*set UNCERTAINTY_SEG_ENGINE_CACHE'):
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


def test_measurements_are_merged_with_those_on_disk(cache: EngineCache) -> None:
    for new in (b'1', b'', b'2'):
        cache.merge_timing_cache(TARGET, new, lambda old, more: old + more)
    assert cache.timing_cache(TARGET) == b'12'
    assert cache.timing_cache(dataclasses.replace(TARGET, gpu='Xavier')) == b''


def trt_of(has_strong_types: bool = True, bf16: object = None) -> SimpleNamespace:
    return SimpleNamespace(has_strong_types=has_strong_types, version='9.9',
                           builder_flag=lambda name: bf16)


def test_a_bundle_needs_a_fixed_trunk_and_a_head_of_one_to_a_chunk_of_passes() -> None:
    bundle = load_bundle('pipeline')
    # 3 planes (6, 384, 512) of float32 are 13.5 MB, more than the head's own tensors.
    exact = Settings(memory_budget_mb=64, reduction='exact')
    engines = engines_of(bundle, exact, 20, trt_of())
    assert engines.trunk.spec == EngineSpec('fp32') and engines.chunking.passes == 4
    assert engines.head_stats.spec.profiles == {
        'mask_decoder_drop_head': ((1, 96, 1, 1), (4, 96, 1, 1), (4, 96, 1, 1))}
    assert engines.head_stats.spec.float32_behind == 'logits'
    coarse = engines_of(
        bundle, Settings(memory_budget_mb=64, reduction='coarse'), 20, trt_of())
    assert coarse.chunking.passes == 20 and coarse.head_stats.spec.summed == (96, 128)
    wide = engines_of(bundle, Settings(memory_budget_mb=1000), 20, trt_of(False), chunk=0)
    assert wide.chunking.passes == 20 and not wide.trunk.spec.is_strongly_typed
    assert engines_of(bundle, Settings(), 20, trt_of(), chunk=7).chunking.passes == 7
    assert engines_of(bundle, Settings(), 3, trt_of(), chunk=7).chunking.passes == 3


def test_a_precision_that_the_graphs_are_not_written_in_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match='written in fp32, not bf16.*convert'):
        engines_of(load_bundle('pipeline'), Settings(precision='bf16'), 8, trt_of())


def test_a_bundle_without_the_head_that_reduces_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ModelBundleError, match='has no head_stats.onnx'):
        engines_of(load_bundle(str(tiny_bundle)), Settings(), 8, trt_of())


def test_what_is_missing_is_built_once_with_one_progress(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(trt: object, path: Path, spec: object, progress: Progress, timing_cache: bytes,
              available_bytes: int) -> BuiltEngine:
        progress(0.5, 'half')
        progress(1.0, 'built')
        return BuiltEngine(path.name.encode(), timing_cache + b'+', 1.0)

    monkeypatch.setattr(bundle_engines, 'build_engine', build)
    monkeypatch.setattr(bundle_engines, 'merge_timing_caches', lambda trt, old, new: new)
    engines = engines_of(load_bundle('pipeline'), Settings(), 8, trt_of())
    assert missing(engines, cache, TARGET) == list(engines.all)
    told: list[tuple[float, str]] = []
    built = build_missing(trt_of(), engines, cache, TARGET, lambda *one: told.append(one))
    assert built == list(engines.all) and missing(engines, cache, TARGET) == []
    assert told == [(0.25, 'trunk: half'), (0.5, 'trunk: built'), (0.75, 'head_stats: half'),
                    (1.0, 'head_stats: built')]
    assert cache.load(engines.trunk.key(TARGET)) == b'trunk.onnx'
    assert cache.timing_cache(TARGET) == b'++'  # the second build was given the first's
    cache.discard(engines.trunk.key(TARGET), 'test')
    facts = json.loads(cache.facts_path(engines.head_stats.key(TARGET)).read_text())
    assert facts['target']['gpu'] == 'Orin' and facts['role'] == 'head_stats'
    assert missing(engines, cache, TARGET) == [engines.trunk]
