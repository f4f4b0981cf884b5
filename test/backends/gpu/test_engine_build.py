# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which engines a bundle needs, how a build is configured, how far it is, and what stops it.

No TensorRT builds here: its builder is played. test_tensorrt_build_gate asks the real one.

"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
import time
from types import SimpleNamespace
from typing import Any

import pytest

from uncertainty_seg.backends.gpu import engine_build
from uncertainty_seg.backends.gpu.engine_build import (
    build_engine,
    build_engines,
    build_here,
    BuildState,
    BuiltEngine,
    EngineBuild,
    engines_of,
    EngineSpec,
    is_building,
    limit_memory,
    Progress,
    progress_monitor,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.nvidia import CudaDevice, TensorRt
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    GraphError,
    ModelBundleError,
)
from uncertainty_seg.storage.model_bundle import load_bundle

ORIN = CudaDevice('Orin', '8.7', '12.6', 16, 16 * 2**30, True)


class Base:
    """Base class of loggers and monitors, which pybind11 wants to be called."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)


class Config:
    """Remembers flags; TF32 is on, as in TensorRT."""

    def __init__(self, taken: tuple[bytes, ...] = (b'',)) -> None:
        self.flags = {'TF32'}
        self.limits: dict[str, int] = {}
        self._taken = taken
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard
        self.set_memory_pool_limit = self.limits.__setitem__

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data, serialize=lambda: data + b'+')

    def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
        return cache.data in self._taken


class Builder:
    """Builds what it is told; `monitored` plays the phases that TensorRT reports."""

    memory: bytes | None = b'plan'

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.config = Config()

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(num_inputs=0)

    def create_builder_config(self) -> Any:
        return self.config

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        config.progress_monitor.phase_start('build', None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete('build', step):
                return None
        if self.memory is None:
            self.logger.log(1, 'no kernel for node 7')
        return self.memory


def tensorrt(name: str = 'tensorrt', version: str = '10.3.0', **more: Any) -> TensorRt:
    facts = {'Builder': Builder, 'OnnxParser': lambda *_: SimpleNamespace(parse=lambda _: True)}
    return TensorRt(SimpleNamespace(
        __name__=name, __version__=version, ILogger=Base, IProgressMonitor=Base,
        BuilderFlag=SimpleNamespace(TF32='TF32'),
        MemoryPoolType=SimpleNamespace(WORKSPACE='WORKSPACE', TACTIC_DRAM='TACTIC_DRAM'),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1), **{**facts, **more}))


def build(trt: TensorRt | None = None, precision: str = 'fp32', **more: Any) -> BuiltEngine:
    return build_engine(trt or tensorrt(), 'graph.onnx', b'', EngineSpec(precision), **more)


# One engine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(('precision', 'flags'), [('tf32', {'TF32'}), ('fp32', set())])
def test_factors_are_rounded_where_tf32_was_asked_for_and_nowhere_else(
    precision: str, flags: set[str]
) -> None:
    made: list[Builder] = []

    class Kept(Builder):

        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            made.append(self)

    build(tensorrt(Builder=Kept), precision, available_bytes=2**32)
    assert made[0].config.flags == flags
    # Memory that is shared is left to the rest of the machine.
    assert made[0].config.limits == {'WORKSPACE': 2**30, 'TACTIC_DRAM': 2**31}
    config = Config()
    limit_memory(tensorrt(), config, 0)  # type: ignore[arg-type]
    assert not config.limits


def test_measurements_are_given_back_and_what_fits_no_more_is_measured_again() -> None:
    assert build().timing_cache == b'+'
    assert build(timing_cache=b'stale').timing_cache == b'+'
    assert build(tensorrt('tensorrt_rtx', '1.7')).timing_cache == b''


def test_a_build_tells_how_far_it_is_and_what_it_raises_stops_it() -> None:
    told: list[tuple[float, str]] = []
    build(progress=lambda *one: told.append(one))
    assert told == [(0, 'build'), (0.5, 'build'), (0.99, 'build'), (1, 'built')]

    def stop(share: float, phase: str) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(progress=stop)


def test_a_failed_build_says_what_tensorrt_said() -> None:
    failing = type('Failing', (Builder,), {'memory': None})
    with pytest.raises(BackendError, match=r'graph.onnx in fp32 .*no kernel for node 7'):
        build(tensorrt(Builder=failing))

    def none(logger: Any) -> Any:
        raise TypeError('pybind11::init(): factory function returned nullptr')

    with pytest.raises(BackendUnavailableError, match='10.3.0'):
        build(tensorrt(Builder=none))


def test_a_graph_that_cannot_be_read_is_refused_with_its_nodes() -> None:
    def error(operator: str) -> Any:
        return SimpleNamespace(desc=lambda: 'no\n importer', node_name=lambda: 'here',
                               node_operator=lambda: operator)

    parser = SimpleNamespace(parse=lambda _: False, num_errors=2,
                             get_error=[error('Sorcery'), error('')].__getitem__)
    with pytest.raises(GraphError, match=r"node 'here' \(Sorcery\): no importer; no importer"):
        build(tensorrt(OnnxParser=lambda *_: parser))


def monitor(progress: Progress) -> Any:
    return progress_monitor(tensorrt(), progress)


def test_a_phase_inside_another_counts_as_part_of_its_step() -> None:
    told: list[tuple[float, str]] = []
    tracker = monitor(lambda share, phase: told.append((share, phase)))
    tracker.phase_start('build', None, 4)
    assert tracker.step_complete('build', 0)
    tracker.phase_start('tactics', 'build', 2)
    tracker.step_complete('tactics', 0)
    tracker.phase_start('timing', 'tactics', 5)
    tracker.step_complete('timing', 3)
    for name in ('timing', 'tactics', 'ghost'):
        tracker.phase_finish(name)
    tracker.step_complete('build', 1)
    assert tracker.step_complete('ghost', 3)
    tracker.phase_start('next', None, 1)
    tracker.step_complete('next', 0)
    assert told.pop() == (0.99, 'next')  # never 1, which is for the built engine
    assert told == [(0, 'build'), (0.25, 'build'), (pytest.approx(0.375), 'tactics'),
                    (pytest.approx(0.475), 'timing'), (0.5, 'build')]


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


# What a bundle needs ----------------------------------------------------------------------------


def test_a_bundle_needs_a_fixed_trunk_and_a_head_of_one_to_a_chunk_of_passes() -> None:
    bundle = load_bundle('pipeline')
    # 3 planes (6, 384, 512) of float32 are 13.5 MB, more than the head's own tensors.
    exact = Settings(memory_budget_mb=64, reduction='exact', passes=20)
    engines = engines_of(bundle, exact)
    assert engines.trunk.spec == EngineSpec('fp32') and engines.chunking.passes == 4
    assert engines.head_stats.spec.profiles == {
        'mask_decoder_drop_head': ((1, 96, 1, 1), (4, 96, 1, 1), (4, 96, 1, 1))}
    coarse = engines_of(bundle, dataclasses.replace(exact, reduction='coarse'))
    assert coarse.chunking.passes == 20 and coarse.head_stats.spec.summed == (96, 128)
    wide = engines_of(bundle, dataclasses.replace(exact, memory_budget_mb=1000))
    assert wide.chunking.passes == 20


def test_what_tensorrt_cannot_run_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BackendUnavailableError, match='fp32, not bf16'):
        engines_of(load_bundle('pipeline'), Settings(precision='bf16'))
    with pytest.raises(ModelBundleError, match='head_stats.onnx'):
        engines_of(load_bundle(str(tiny_bundle)), Settings())


class Machine:
    """A machine with an Orin and a TensorRT whose builder is played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trt, self.device = tensorrt(), ORIN
        self.built: list[tuple[str, EngineSpec]] = []
        self.available: list[int] = []
        self.failing: Exception | None = None
        monkeypatch.setattr(engine_build, 'find_device', lambda: self.device)
        monkeypatch.setattr(engine_build, 'load_tensorrt', lambda: self.trt)
        monkeypatch.setattr(engine_build, 'build_engine', self._build)
        monkeypatch.setattr(engine_build, 'available_bytes', lambda: 5 * 2**30)

    def _build(self, trt: Any, name: str, graph: bytes, spec: EngineSpec, progress: Any,
               timing_cache: bytes, available_bytes: int) -> BuiltEngine:
        if self.failing is not None and name == 'head_stats.onnx':
            raise self.failing
        if progress is not None:
            progress(0.5, 'parsing')
            progress(1.0, 'built')
        self.built.append((name, spec))
        self.available.append(available_bytes)
        return BuiltEngine(f'plan of {name} for {spec}'.encode(), timing_cache + b'+', 1.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_is_built_is_what_the_backend_looks_for(machine: Machine, tmp_path: Path) -> None:
    bundle, settings = load_bundle('pipeline'), Settings(passes=12, memory_budget_mb=100)
    said = build_engines(bundle, settings, folder=tmp_path)
    engines, cache = engines_of(bundle, settings), EngineCache(tmp_path)
    target = EngineTarget.of(machine.trt, ORIN)
    assert [entry['path'] for entry in said] == [
        str(cache.plan_path(engine.key(target))) for engine in engines.all]
    assert all(cache.load(engine.key(target)) for engine in engines.all)
    for entry in said:
        assert (entry['gpu'], entry['precision'], entry['tensorrt']) == (
            'Orin', 'fp32', 'tensorrt 10.3.0')
        assert entry['chunk'] == engines.chunking.passes and entry['is_built']
    assert cache.timing_cache(target) == b'++'  # the second build was given the first's
    facts = json.loads(cache.facts_path(engines.head_stats.key(target)).read_text())
    assert facts['target']['gpu'] == 'Orin' and facts['role'] == 'head_stats'
    # What is there is not built again.
    Path(said[1]['path']).unlink()
    assert [entry['is_built'] for entry in build_engines(bundle, settings, folder=tmp_path)] == [
        False, True]
    assert [name for name, _ in machine.built] == ['trunk.onnx'] + ['head_stats.onnx'] * 2
    assert machine.available == [5 * 2**30] * 3


def test_the_node_builds_the_same_engines(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path))
    machine.device = dataclasses.replace(ORIN, is_integrated=False)
    told: list[tuple[float, str]] = []
    build_here(load_bundle('pipeline'), Settings(), lambda *one: told.append(one))
    assert told == [(0.25, 'trunk: parsing'), (0.5, 'trunk: built'),
                    (0.75, 'head_stats: parsing'), (1.0, 'head_stats: built')]
    assert machine.available == [0, 0]
    assert not any(one['is_built'] for one in build_engines(load_bundle('pipeline'), Settings()))


def test_each_compute_capability_has_its_engines_and_they_name_no_gpu(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, 'find_device', lambda: pytest.fail('the driver was asked'))
    asked: Any = (load_bundle('pipeline'), Settings(), ('8.6', '8.9'), tmp_path)
    with pytest.raises(BackendUnavailableError, match='10.3.0 builds for the GPU of this machine'):
        build_engines(*asked)
    assert not machine.built
    machine.trt = tensorrt('tensorrt_rtx', '1.7.1.116')
    said = build_engines(*asked)
    assert [(entry['role'], entry['compute_capability'], entry['gpu']) for entry in said] == [
        (role, one, '') for one in ('8.6', '8.9') for role in ('trunk', 'head_stats')]
    assert len({entry['path'] for entry in said}) == 4
    assert [spec.compute_capabilities for _, spec in machine.built] == [
        ('8.6',), ('8.6',), ('8.9',), ('8.9',)]


def test_a_build_that_fails_keeps_what_was_built_before(machine: Machine, tmp_path: Path) -> None:
    bundle = load_bundle('pipeline')
    for machine.failing, kind in ((BackendError('no memory for tactics'), BackendError),
                                  (OSError('disk full'), OSError)):
        with pytest.raises(kind, match='no memory|disk full'):
            build_engines(bundle, Settings(), folder=tmp_path)
    machine.failing = None
    said = build_engines(bundle, Settings(), folder=tmp_path)
    assert [entry['is_built'] for entry in said] == [False, True]
