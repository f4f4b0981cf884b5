# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""build-engines builds what the backend looks for, once, and says why where it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from uncertainty_seg.backends.gpu import bundle_engines
from uncertainty_seg.backends.gpu import bundle_engines as engine_work
from uncertainty_seg.backends.gpu.bundle_engines import engines_of
from uncertainty_seg.backends.gpu.device import CudaDevice
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.tensorrt_api import TensorRt
from uncertainty_seg.cli.convert import convert
from uncertainty_seg.cli.main import main
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
ORIN = CudaDevice('Orin', '8.7', '12.6', 16, 16 * 2**30, True)
RTX = os.environ.get('UNCERTAINTY_SEG_RTX17', '')


def tensorrt(name: str, version: str) -> TensorRt:
    return TensorRt(SimpleNamespace(
        __name__=name, __version__=version, NetworkDefinitionCreationFlag=SimpleNamespace(
            STRONGLY_TYPED=1), BuilderFlag=SimpleNamespace()))


class Rig:
    """A machine with an Orin and a TensorRT whose builder is played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trt = tensorrt('tensorrt', '10.3.0')
        self.built: list[tuple[str, Any]] = []
        self.available: list[int] = []
        monkeypatch.setattr(engine_work, 'find_device', lambda: ORIN)
        monkeypatch.setattr(engine_work, 'load_tensorrt', lambda: self.trt)
        monkeypatch.setattr(bundle_engines, 'build_engine', self._build)

    def _build(self, trt: Any, path: Path, spec: Any, progress: Any, timing_cache: bytes,
               available_bytes: int) -> Any:
        if progress is not None:
            progress(0.5, 'parsing')
            progress(1.0, 'built')
        self.built.append((path.name, spec))
        self.available.append(available_bytes)
        plan = f'plan of {path.name} for {spec}'.encode()
        return SimpleNamespace(plan=plan, timing_cache=b'', build_s=1.0)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def call(cache: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(['build-engines', 'pipeline', '--cache', str(cache), *words]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


def test_what_is_built_is_what_the_backend_looks_for(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = call(tmp_path, capsys, '--passes', '12', '--memory-budget-mb', '100')
    bundle, settings = load_bundle('pipeline'), Settings(passes=12, memory_budget_mb=100)
    engines = engines_of(bundle, settings, 12, rig.trt)
    target, cache = EngineTarget.of(rig.trt, ORIN), EngineCache(tmp_path)
    assert [entry['path'] for entry in said['engines']] == [
        str(cache.plan_path(engine.key(target))) for engine in engines.all]
    assert all(cache.load(engine.key(target)) for engine in engines.all)
    assert [entry['gpu'] for entry in said['engines']] == ['Orin', 'Orin']
    assert (said['tensorrt'], said['chunk']) == ('tensorrt 10.3.0', engines.chunking.passes)
    assert (said['bundle'], said['precision']) == ('pipeline', 'fp32')


def test_engines_in_bf16_that_nobody_checked_are_built_with_a_word(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture) -> None:
    rig.trt = tensorrt('tensorrt_rtx', '1.7.1.116')
    call(tmp_path / 'engines', capsys)
    assert 'never checked' not in caplog.text
    convert('pipeline', tmp_path / 'rough', 'bf16')
    assert main(['build-engines', str(tmp_path / 'rough'), '--cache',
                 str(tmp_path / 'engines')]) == 0
    assert "'rough' was never checked in bf16 on this machine" in caplog.text


def test_what_is_there_is_not_built_again(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = call(tmp_path, capsys)
    assert [entry['is_built'] for entry in first['engines']] == [True, True]
    (tmp_path / Path(first['engines'][1]['path']).name).unlink()
    second = call(tmp_path, capsys)
    assert [entry['is_built'] for entry in second['engines']] == [False, True]
    assert [name for name, _ in rig.built] == ['trunk.onnx', 'head_stats.onnx', 'head_stats.onnx']


def test_the_node_builds_the_same_engines(
        rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path))
    told: list[tuple[float, str]] = []
    engine_work.build_here(load_bundle('pipeline'), Settings(),
                           lambda share, phase: told.append((share, phase)))
    said = call(tmp_path, capsys)
    assert [entry['is_built'] for entry in said['engines']] == [False, False]
    assert told[0] == (0.25, 'trunk: parsing') and told[-1] == (1.0, 'head_stats: built')


def test_each_compute_capability_has_its_engines_and_they_name_no_gpu(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> Any:
        raise AssertionError('the driver was asked')
    monkeypatch.setattr(engine_work, 'find_device', no_gpu)
    rig.trt = tensorrt('tensorrt_rtx', '1.7.1.116')
    said = call(tmp_path, capsys, '--compute-capability', '8.6, 8.9')
    assert [(entry['role'], entry['compute_capability'], entry['gpu'])
            for entry in said['engines']] == [
        ('trunk', '8.6', ''), ('head_stats', '8.6', ''),
        ('trunk', '8.9', ''), ('head_stats', '8.9', '')]
    assert len({entry['path'] for entry in said['engines']}) == 4
    assert [spec.compute_capabilities for _, spec in rig.built] == [
        ('8.6',), ('8.6',), ('8.9',), ('8.9',)]


def test_tensorrt_builds_ahead_only_as_rtx(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['build-engines', 'pipeline', '--cache', str(tmp_path), '--compute-capability', '8.6']
    assert main(words) == 1
    assert 'TensorRT 10.3.0 builds for the GPU of this machine only' in capsys.readouterr().err
    assert not rig.built


def test_without_a_driver_tensorrt_is_not_touched(
        rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    def no_driver() -> Any:
        raise BackendUnavailableError('no NVIDIA driver on this machine', fix='install one')

    def touched() -> Any:
        raise AssertionError('TensorRT was loaded')
    monkeypatch.setattr(engine_work, 'find_device', no_driver)
    monkeypatch.setattr(engine_work, 'load_tensorrt', touched)
    assert main(['build-engines', 'pipeline', '--cache', str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        'uncertainty_seg build-engines: no NVIDIA driver on this machine: install one.\n')


@pytest.mark.parametrize(('device', 'available'), [
    (ORIN, 5 * 2**30), (dataclasses.replace(ORIN, is_integrated=False), 0)])
def test_a_build_is_told_of_free_memory_where_the_gpu_shares_it(
        rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: CudaDevice,
        available: int) -> None:
    monkeypatch.setattr(engine_work, 'find_device', lambda: device)
    monkeypatch.setattr(engine_work, 'available_bytes', lambda: 5 * 2**30)
    assert main(['build-engines', 'pipeline', '--cache', str(tmp_path)]) == 0
    assert rig.available == [available] * 2


def test_engines_of_rounded_factors_are_others_and_no_choice_of_a_card(
        rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, short = (call(tmp_path, capsys, *words) for words in ([], ['--precision', 'tf32']))
    assert short['precision'] == 'tf32'
    paths = [{one['path'] for one in said['engines']} for said in (plain, short)]
    assert not paths[0] & paths[1]
    assert [spec.precision for _, spec in rig.built] == ['fp32', 'fp32', 'tf32', 'tf32']


def test_a_build_that_fails_keeps_what_was_built_before(
        rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    def build(trt: Any, path: Path, *rest: Any) -> Any:
        if path.name == 'head_stats.onnx':
            raise BackendError('no memory for tactics')
        return rig._build(trt, path, *rest)
    monkeypatch.setattr(bundle_engines, 'build_engine', build)
    assert main(['build-engines', 'pipeline', '--cache', str(tmp_path)]) == 1
    assert 'no memory for tactics' in capsys.readouterr().err
    monkeypatch.setattr(bundle_engines, 'build_engine', rig._build)
    said = call(tmp_path, capsys)
    assert [entry['is_built'] for entry in said['engines']] == [False, True]


@pytest.mark.parametrize('text', ['8', 'ampere', '8.6,', '8.65', '8.6;8.9'])
def test_a_strange_compute_capability_is_misuse(
        text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['build-engines', 'pipeline', '--compute-capability', text])
    assert stop.value.code == 2
    assert 'expected a number such as 8.6' in capsys.readouterr().err


@pytest.mark.skipif(not RTX, reason='TensorRT-RTX is not here (UNCERTAINTY_SEG_RTX17)')
def test_tensorrt_rtx_builds_ahead_without_a_gpu(tmp_path: Path) -> None:
    words = [sys.executable, '-m', 'uncertainty_seg.cli.main', 'build-engines', 'pipeline',
             '--compute-capability', '8.6', '--cache', str(tmp_path)]
    path = os.pathsep.join([str(ROOT), RTX, os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(words, capture_output=True, text=True, check=False,
                          env={**os.environ, 'PYTHONPATH': path})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said['tensorrt'] == 'tensorrt_rtx_bindings 1.7.1.116'
    for entry in said['engines']:
        assert entry['is_built'] and Path(entry['path']).stat().st_size > 10**6
