# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The command scripts/gpu_check, on a fake GPU and without a GPU.

Every part runs and detects errors, a failed part does not stop the others, the report has every
part, and the exit code tells whether there was a GPU and whether a part failed.
"""

import json
import os
from pathlib import Path
import subprocess
import sys
from types import ModuleType
from typing import Any

from fake_tensorrt import plan_of
import onnx
import pytest
from tensorrt_rig import bundles, Rig, Rigs, rigs

from uncertainty_seg.backends.gpu import engine_build, nvidia

__all__ = ['bundles', 'rigs']  # fixtures
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import gpu_check

    for name, value in (('FRAMES', 10), ('PARITY_PASSES', (1, 7)), ('TIMED_PASSES', (1, 5)),
                        ('RATE_HZ', 1000.0), ('GROWTH_MB', 0.5)):
        monkeypatch.setattr(gpu_check, name, value)
    return gpu_check


@pytest.fixture
def rig(rigs: Rigs, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return a machine with a fake GPU and a fake TensorRT."""
    made = rigs(bundles['channels'])
    monkeypatch.setattr(nvidia, 'load_cuda', lambda: made.gpu)
    monkeypatch.setitem(sys.modules, 'tensorrt', made.trt.module)
    return made


def run(tool: ModuleType, rig: Rig, folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code = tool.main([str(rig.bundle.folder), '--json', str(folder / 'found.json'), *words])
    return code, json.loads((folder / 'found.json').read_text())


def failures(found: dict[str, Any]) -> list[str]:
    return [name for name, part in found['parts'].items() if part['failed']]


def test_every_part_passes_on_a_gpu_that_works(
    tool: ModuleType, rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(tool, rig, tmp_path)
    page = capsys.readouterr().out
    assert code == 0 and failures(found) == [], page
    assert list(found['parts']) == list(tool.PARTS)
    assert len(page.splitlines()) <= 66 and max(map(len, page.splitlines())) <= 200
    figures = {name: part['figures'] for name, part in found['parts'].items()}
    assert figures['engines']['built'] == ['trunk', 'passes']
    assert set(figures['parity']) == {'T=1', 'T=7'}
    assert set(figures['times']) == {'T=1 ms', 'T=5 ms'}
    assert set(figures['times']['T=5 ms']) == {'trunk', 'passes', 'total', 'processor'}
    assert figures['memory']['open MB'] > 0 and figures['frames']['frames/s'] > 0
    assert 'tensorrt 10.3.0' in found['versions'] and 'Fake' in found['gpu']


def test_an_engine_with_other_weights_is_found(
    tool: ModuleType, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(trt: Any, name: str, graph: bytes, key: Any, *_: Any) -> bytes:
        model = onnx.load_model_from_string(graph)
        weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        values = onnx.numpy_helper.to_array(weights)
        weights.CopyFrom(onnx.numpy_helper.from_array(
            (values * 1.02).astype(values.dtype), weights.name))
        return plan_of(model.SerializeToString(), key.profiles, trt.version)

    monkeypatch.setattr(engine_build, 'build_engine', wrong)
    code, found = run(tool, rig, tmp_path, '--only', 'engines', 'parity', 'self_check')
    assert code == 1 and failures(found) == ['parity', 'self_check']


def test_a_part_that_fails_is_a_sentence_and_stops_no_other(
    tool: ModuleType, rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.faults.is_uncapturable = True
    code, found = run(tool, rig, tmp_path, '--only', 'engines', 'graph', 'times')
    assert code == 1 and failures(found) == ['graph']
    assert ' graph: ' in capsys.readouterr().out
    rig.gpu.failing['cudaEventSynchronize'] = 700
    code, found = run(tool, rig, tmp_path)
    assert code == 1 and failures(found) == list(tool.PARTS[1:])
    assert 'illegal memory access' in found['parts']['frames']['failed']


def test_what_no_time_is_left_for_has_failed(tool: ModuleType, rig: Rig, tmp_path: Path) -> None:
    code, found = run(tool, rig, tmp_path, '--minutes', '0')
    assert code == 1 and failures(found) == list(tool.PARTS)
    assert all('no time' in part['failed'] for part in found['parts'].values())


def test_without_a_gpu_it_says_so_and_builds_what_it_can() -> None:
    rtx = os.environ.get('UNCERTAINTY_SEG_RTX17', '')
    done = subprocess.run(
        [str(ROOT / 'scripts' / 'gpu_check')], capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': rtx})
    assert done.returncode == 2, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith('failed     gpu: ')
    assert sum(line.startswith('failed') for line in lines) == (1 if rtx else 2)
