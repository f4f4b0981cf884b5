# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
`scripts/gpu_check`, run whole on the stand-in for TensorRT: what it writes, and how parts fail.

Its milliseconds are those of ONNX Runtime here and say nothing. What must hold: the file is whole
after each part, a part that fails is one sentence and stops no other, and without a GPU there is
one sentence and exit code 2.

"""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from fake_tensorrt import plan_of
import pytest
from tensorrt_rig import bundles, DEVICE, IMAGE, Rig, Rigs, rigs

from uncertainty_seg.backends.gpu import bundle_engines, device, tensorrt, tensorrt_api
from uncertainty_seg.backends.gpu.engine_build import BuiltEngine
from uncertainty_seg.errors import BackendError, BackendUnavailableError

__all__ = ['bundles', 'rigs']  # fixtures
pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[3]
QUICK = ['--frames', '4', '--rate', '1000']


@pytest.fixture(scope='module')
def program() -> Iterator[ModuleType]:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location('gpu_check', ROOT / 'benchmarks/gpu_check.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture
def machine(rigs: Rigs, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Make a machine with the stand-in for its GPU, and no engines yet."""
    rig = rigs(bundles['channels'], version='1.7.1.116')

    def build(trt: Any, graph: Path | bytes, spec: Any, *_: object) -> BuiltEngine:
        content = graph.read_bytes() if isinstance(graph, Path) else graph
        return BuiltEngine(plan_of(content, spec.profiles, trt.version), b'', 1.0)

    for module in (bundle_engines, tensorrt, device):
        monkeypatch.setattr(module, 'find_device', lambda: DEVICE)
    for module in (bundle_engines, tensorrt, tensorrt_api):
        monkeypatch.setattr(module, 'load_tensorrt', lambda: rig.trt)
    monkeypatch.setattr(tensorrt, 'open_memory', lambda **_: rig.gpu)
    monkeypatch.setattr(bundle_engines, 'build_engine', build)
    return rig


def call(program: ModuleType, rig: Rig, out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code = program.main([str(rig.bundle.folder), '--out', str(out), *QUICK, *words])
    return code, json.loads(out.read_text())


@pytest.mark.release
def test_every_part_passes_and_is_in_the_file(
    program: ModuleType, machine: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {'added_median_ms': 1.5}
    monkeypatch.setitem(sys.modules, 'rclpy', ModuleType('rclpy'))
    monkeypatch.setattr(program, 'subprocess', SimpleNamespace(run=lambda *_, **__: (
        SimpleNamespace(returncode=0, stdout=f'table\n{json.dumps(said)}\n', stderr=''))))
    code, report = call(program, machine, tmp_path / 'found.json')
    parts = report['parts']
    assert (code, list(parts)) == (0, list(program.PARTS)), report
    assert report['format'] == 1 and report['gpu']['name'] == 'Fake'
    assert report['tensorrt'] == 'tensorrt_rtx 1.7.1.116' and report['precision'] == 'fp32'
    assert parts['engines']['built'] == ['trunk', 'head_stats']
    assert parts['self_check']['failed'] == []
    assert {'label_share', 'drawn', 'graph', 'repeatable'} <= set(parts['self_check']['checks'])
    assert [name for name in parts['parity'] if name.startswith('T=')] == [
        'T=1', 'T=7', 'T=20', 'T=33']
    assert all(parts['parity'][f'T={passes}']['mean'] < 5e-6 for passes in (1, 7, 20, 33))
    assert parts['passes']['is_recorded'] is True
    assert set(parts['passes']['T=20']) == {'trunk', 'head', 'reduction', 'total'}
    assert parts['passes']['of_one_pass']['T=1'] == 1.0
    assert parts['camera_to_flag']['ms']['runs'] == 4
    assert parts['node']['added_median_ms'] == 1.5
    text = (tmp_path / 'found.json').read_text()
    assert str(tmp_path) not in text and str(machine.bundle.folder) not in text
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last['is_passed'] is True and set(last['parts']) == set(program.PARTS)


def test_a_part_that_fails_is_a_sentence_and_stops_no_other(
    program: ModuleType, machine: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bundle_engines, 'build_engine', fail(BackendError('no memory to build')))
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    code, report = call(program, machine, tmp_path / 'found.json')
    assert code == 1
    parts = report['parts']
    assert list(parts) == list(program.PARTS)
    assert parts['engines']['failed'].startswith('no memory to build')
    for name in ('self_check', 'parity', 'passes', 'camera_to_flag'):
        assert 'no engine for trunk.onnx' in parts[name]['failed'], name
    assert 'rclpy' in parts['node']['failed']
    assert all(part['failed'].count('\n') == 0 for part in parts.values())
    out = capsys.readouterr().out
    assert 'engines ... FAILED: no memory to build' in out
    assert json.loads(out.splitlines()[-1])['is_passed'] is False


def test_maps_that_are_wrong_fail_parity_and_self_check_and_no_other(
    program: ModuleType, machine: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tensorrt.TensorRtBackend.run

    def shifted(self: Any, image: Any, *rest: Any, **more: Any) -> Any:
        return run(self, image[::-1].copy(), *rest, **more)

    monkeypatch.setattr(tensorrt.TensorRtBackend, 'run', shifted)
    parts = ('engines', 'self_check', 'parity', 'camera_to_flag')
    code, report = call(program, machine, tmp_path / 'found.json', '--only', *parts)
    assert code == 1
    assert {name: part['is_passed'] for name, part in report['parts'].items()} == {
        'engines': True, 'self_check': False, 'parity': False, 'camera_to_flag': True}
    assert 'mean' in report['parts']['parity']['T=20']['failed']


def fail(err: Exception) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise err

    return refuse


def test_without_a_gpu_it_is_one_sentence_and_code_2(tmp_path: Path) -> None:
    try:
        device.find_device()
    except BackendUnavailableError:
        pass
    else:
        pytest.skip('there is a GPU here')
    done = subprocess.run(
        [str(ROOT / 'scripts' / 'gpu_check'), '--out', str(tmp_path / 'found.json')],
        capture_output=True, text=True, check=False, env={**os.environ, 'PYTHON': sys.executable})
    assert done.returncode == 2
    assert done.stderr.startswith('gpu_check: no NVIDIA driver on this machine')
    assert done.stderr.count('\n') == 1 and done.stdout == ''
    assert not (tmp_path / 'found.json').exists()


class Ranges:
    """The package nvtx: remembers what was named, and how deep."""

    def __init__(self) -> None:
        self.named: list[str] = []

    def annotate(self, message: str, domain: str) -> Any:
        assert domain == 'uncertainty_seg'
        self.named.append(message)
        return device.nullcontext()


@pytest.mark.parametrize('value', ['1', '0', ''])
def test_stages_of_a_frame_are_named_where_that_is_asked_for(
    program: ModuleType, machine: Rig, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    ranges = Ranges()
    monkeypatch.setitem(sys.modules, 'nvtx', ranges)
    monkeypatch.setenv('UNCERTAINTY_SEG_NVTX', value)
    machine.build()
    with machine.open() as backend:
        backend.run(IMAGE, backend.pass_inputs(5, 0), 1.0)
    wanted = ['inputs', 'trunk', 'head', 'reduction', 'wait', 'maps']
    assert ranges.named == (wanted if value == '1' else [])


def test_names_of_stages_that_nothing_can_write_are_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, 'nvtx', None)
    monkeypatch.setattr(device, '_cuda_torch', fail(BackendUnavailableError('no CUDA')))
    monkeypatch.setenv('UNCERTAINTY_SEG_NVTX', '1')
    with device.work_ranges()('trunk'):
        pass
    assert 'UNCERTAINTY_SEG_NVTX=1 names nothing: pip install nvtx' in caplog.text
