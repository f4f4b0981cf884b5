# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The engines that a bundle needs, the facts in their keys, and progress and stops of a build.

TensorRT is not run here; test_tensorrt_build_gate builds with the real one.
"""

import dataclasses
import itertools
import json
from pathlib import Path
import time
from types import SimpleNamespace
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt
import pytest
from tensorrt_rig import played_build

from uncertainty_seg.backends.gpu import engine_build
from uncertainty_seg.backends.gpu.engine_build import (
    build_engines,
    build_here,
    BuildState,
    configure,
    EngineBuild,
    engines_of,
    is_building,
    key_of_graph,
    limit_memory,
    Progress,
    progress_monitor,
    split_passes,
    work_here,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineKey, EngineTarget
from uncertainty_seg.backends.gpu.nvidia import CudaDevice, TensorRt
from uncertainty_seg.backends.runner import MAX_CHUNK
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, BackendUnavailableError, GraphError
from uncertainty_seg.storage.model_bundle import load_bundle

ORIN = CudaDevice('Orin', '8.7', '12.6 R36.4.3', 16, True)


def tensorrt(version: str = '10.3.0') -> TensorRt:
    return TensorRt(fake_tensorrt(FakeCuda(), version))


# One engine -------------------------------------------------------------------------------------


def test_memory_that_is_shared_is_left_to_the_rest_of_the_machine() -> None:
    limits: dict[str, int] = {}
    trt: Any = SimpleNamespace(module=SimpleNamespace(
        MemoryPoolType=SimpleNamespace(WORKSPACE='WORKSPACE', TACTIC_DRAM='TACTIC_DRAM')))
    config: Any = SimpleNamespace(set_memory_pool_limit=limits.__setitem__)
    for free in (0, 2**32):
        assert not limits
        limit_memory(trt, config, free)
    assert limits == {'WORKSPACE': 2**30, 'TACTIC_DRAM': 2**31}


def test_a_share_never_falls_and_what_is_raised_ends_the_build() -> None:
    told: list[tuple[float, str]] = []

    def tell(share: float, phase: str) -> None:
        told.append((share, phase))
        if phase == 'last':
            raise KeyboardInterrupt

    trt: Any = SimpleNamespace(module=SimpleNamespace(IProgressMonitor=type('Base', (), {})))
    monitor = progress_monitor(trt, tell)
    monitor.phase_start('build', None, 4)
    assert monitor.step_complete('build', 0)
    monitor.phase_start('tactics', 'build', 4)  # 1 of 8 steps is done
    assert all(monitor.step_complete('tactics', step) for step in range(4))
    monitor.phase_finish('tactics')
    assert all(monitor.step_complete('build', step) for step in range(1, 4))
    assert told == [(0, 'build'), (0.25, 'build'), (0.375, 'tactics'), (0.5, 'tactics'),
                    (0.625, 'tactics'), (0.75, 'build'), (0.875, 'build'), (0.99, 'build')]
    monitor = progress_monitor(trt, tell)
    monitor.phase_start('last', None, 1)
    assert not monitor.step_complete('last', 0) and isinstance(monitor.error, KeyboardInterrupt)


# The key of an engine ---------------------------------------------------------------------------

TARGET = EngineTarget('tensorrt', '10.3.0', 'Orin', '8.7', '12.6', 16)
PROFILES = {'m': ((1, 8), (4, 8), (4, 8))}
KEY = key_of_graph(tensorrt(), TARGET, b'graph', 'fp16', PROFILES)


def test_every_fact_of_graph_card_settings_and_machine_is_in_the_key() -> None:
    """Change each fact at its source, so that none can be lost on its way to the key."""
    def digest(trt: str = '10.3.0', graph: bytes = b'graph', precision: str = 'fp32',
               profiles: Any = PROFILES, **device: Any) -> str:
        made = tensorrt(trt)
        target = EngineTarget.of(made, dataclasses.replace(ORIN, **device))
        return key_of_graph(made, target, graph, precision, profiles).digest

    others = [digest(**one) for one in (
        {'trt': '10.3.1'}, {'trt': '1.7.1.116'}, {'graph': b'weights'}, {'precision': 'tf32'},
        {'profiles': {'m': ((1, 8), (5, 8), (5, 8))}}, {'name': 'Orin Nano'},
        {'compute_capability': '8.6'}, {'driver': '12.6 R36.4.4'}, {'multiprocessors': 8})]
    assert len({digest(), *others}) == 1 + len(others)


def test_factors_are_rounded_where_tf32_was_asked_for_and_nowhere_else() -> None:
    rtx = tensorrt('1.7.1.116')
    found = []
    for trt, precision in itertools.product((tensorrt(), rtx), ('fp32', 'tf32')):
        flags = {trt.module.BuilderFlag.TF32}  # on by default, as in TensorRT
        config: Any = SimpleNamespace(set_flag=flags.add, clear_flag=flags.discard)
        configure(trt, config, key_of_graph(trt, TARGET, b'', precision, {}))
        found.append(sorted(flag.name for flag in flags))
    user = 'REQUIRE_USER_ALLOCATION'
    assert found == [[], ['TF32'], [user], [user, 'TF32']]


# A build in its thread --------------------------------------------------------------------------


def test_a_build_that_is_stopped_ends_at_the_next_report() -> None:
    def work(tell: Progress) -> None:
        while True:
            tell(0.25, 'phase')
            time.sleep(0.001)

    running = EngineBuild(work)
    while running.state == BuildState():
        time.sleep(0.001)
    assert (running.state, str(running.state)) == (
        BuildState(0.25, 'phase'), 'building engine (25 %)')
    assert is_building() and not running.wait(0.0)
    assert running.stop()
    with pytest.raises(BackendError, match='stopped'):
        running.wait(1.0)


@pytest.mark.parametrize(('error', 'kind', 'says'), [
    (GraphError('no such node'), GraphError, 'no such node'),
    (OSError('disk full'), BackendError, 'OSError: disk full')])
def test_what_a_build_raises_is_raised_where_it_is_waited_for(
    error: Exception, kind: type[Exception], says: str
) -> None:
    def work(tell: Progress) -> None:
        raise error

    with pytest.raises(kind, match=says):
        EngineBuild(work).wait(5.0)


# The engines of a bundle ------------------------------------------------------------------------


def test_a_bundle_needs_a_fixed_trunk_and_passes_of_one_to_a_call(bundle: ModelBundle) -> None:
    few = engines_of(bundle, Settings(memory_budget_mb=64, passes=50), tensorrt(), TARGET)
    most = few.calls[0].stop
    assert 50 % most == 0 and 1 < most <= MAX_CHUNK and len(few.calls) == 50 // most
    assert few.trunk.key.profiles == {}
    shape = bundle.card.dropout_sites[0].shape
    assert few.passes.key.profiles == {
        'mask_decoder_drop_head': ((1, *shape), (most, *shape), (most, *shape))}
    # The calls have the size for which the engine is optimised, even if the budget allows more.
    odd = engines_of(bundle, Settings(memory_budget_mb=4000, passes=37), tensorrt(), TARGET)
    assert odd.calls == [slice(0, 19), slice(19, 37)]


def test_what_tensorrt_cannot_run_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(BackendUnavailableError, match='fp32, not bf16'):
        engines_of(bundle, Settings(precision='bf16'), tensorrt(), TARGET)


def test_every_pass_is_run_once_in_calls_of_one_size_where_that_costs_few() -> None:
    for passes, limit in itertools.product((1, 2, 7, 20, 37, 50), (1, 2, 7, 20)):
        calls = split_passes(passes, limit)
        rows = [row for call in calls for row in range(call.start, call.stop)]
        assert rows == list(range(passes))
        sizes = [call.stop - call.start for call in calls]
        assert max(sizes) == sizes[0] <= limit
    sizes = [[call.stop - call.start for call in split_passes(*one)]
             for one in ((50, 17), (20, 20), (37, 20))]
    assert sizes == [[10] * 5, [20], [19, 18]]


class Machine:
    """A machine with an Orin and a fake builder of TensorRT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trt, self.device = tensorrt(), ORIN
        self.built: list[tuple[str, EngineKey, int]] = []
        self.failing: Exception | None = None
        monkeypatch.setattr(engine_build, 'find_device', lambda: self.device)
        monkeypatch.setattr(engine_build, 'load_tensorrt', lambda: self.trt)
        monkeypatch.setattr(engine_build, 'build_engine', self._build)
        monkeypatch.setattr(engine_build, 'available_bytes', lambda: 5 * 2**30)

    def _build(self, trt: Any, name: str, graph: bytes, key: EngineKey, progress: Any,
               available_bytes: int) -> bytes:
        if self.failing is not None and name == 'passes.onnx':
            raise self.failing
        self.built.append((name, key, available_bytes))
        return played_build(trt, name, graph, key, progress)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def bundle() -> ModelBundle:
    return load_bundle('pipeline')


def test_what_is_built_is_what_the_backend_looks_for(
    machine: Machine, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path))
    settings, told = Settings(passes=12, memory_budget_mb=100), []
    said = build_engines(bundle, settings)
    build_here(bundle, settings, lambda *one: told.append(one))  # as the node builds
    assert not told
    work, cache = work_here(bundle, settings), EngineCache(tmp_path)
    assert [entry['path'] for entry in said] == [
        str(cache.plan_path(engine.key.digest)) for engine in work.engines.all]
    assert all(cache.load(engine.key.digest) for engine in work.engines.all)
    for entry in said:
        assert (entry['gpu'], entry['precision'], entry['tensorrt']) == (
            'Orin', 'fp32', 'tensorrt 10.3.0')
        assert entry['chunk'] == 12 and entry['is_built']
    facts = json.loads(cache.facts_path(work.engines.passes.key.digest).read_text())
    assert facts['key']['gpu'] == 'Orin' and facts['role'] == 'passes'
    # Existing engines are not built again.
    Path(said[1]['path']).unlink()
    assert [entry['is_built'] for entry in build_engines(bundle, settings)] == [
        False, True]
    assert [name for name, _, _ in machine.built] == ['trunk.onnx'] + ['passes.onnx'] * 2
    assert [available for *_, available in machine.built] == [5 * 2**30] * 3
    # A driver update, which may keep CUDA's version, makes both build again.
    machine.device = dataclasses.replace(ORIN, driver='12.6 R36.4.4')
    assert all(one['is_built'] for one in build_engines(bundle, settings))


def test_each_compute_capability_has_its_engines_and_they_name_no_gpu(
    machine: Machine, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, 'find_device', lambda: pytest.fail('the driver was asked'))
    asked: Any = (bundle, Settings(), ('8.6', '8.9'), tmp_path)
    with pytest.raises(BackendUnavailableError, match='10.3.0 builds for the GPU of this machine'):
        build_engines(*asked)
    assert not machine.built
    machine.trt = tensorrt('1.7.1.116')
    said = build_engines(*asked)
    assert [(entry['role'], entry['compute_capability'], entry['gpu']) for entry in said] == [
        (role, one, '') for one in ('8.6', '8.9') for role in ('trunk', 'passes')]
    assert len({entry['path'] for entry in said}) == 4
    assert [key.compute_capability for _, key, _ in machine.built] == ['8.6', '8.6', '8.9', '8.9']
    assert all(key.is_ahead for _, key, _ in machine.built)


def test_a_build_that_fails_keeps_what_was_built_before(
    machine: Machine, bundle: ModelBundle, tmp_path: Path
) -> None:
    for machine.failing, kind in ((BackendError('no memory for tactics'), BackendError),
                                  (OSError('disk full'), OSError)):
        with pytest.raises(kind, match='no memory|disk full'):
            build_engines(bundle, Settings(), folder=tmp_path)
    machine.failing = None
    said = build_engines(bundle, Settings(), folder=tmp_path)
    assert [entry['is_built'] for entry in said] == [False, True]
