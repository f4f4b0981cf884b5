# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Tests of OpenVINO: parity with ONNX Runtime, precision, threads, heads, and no telemetry."""

import dataclasses
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import onnx
import pytest

from uncertainty_seg.backends.cpu import openvino as backend_file
from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.compiler.precision import to_precision
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps, MAP_NAMES, UncertaintyMaps
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle, shipped_bundles, write_bundle

openvino = pytest.importorskip('openvino')
ROOT = Path(__file__).resolve().parents[3]
SETTINGS = Settings(threads=1)
BF16 = Settings(threads=1, precision='bf16')
needs_bf16 = pytest.mark.skipif(
    not backend_file.has_bf16(backend_file.core_of_process()), reason='this processor has no bf16')


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


# OpenVINO runs fp16 bundles in float32; onnxruntime simulates fp16, so auto chooses it for them.
IN_FLOAT32 = [name for name in shipped_bundles() if not name.endswith('_fp16')]


@pytest.fixture(params=['tiny', *IN_FLOAT32])
def any_bundle(request: pytest.FixtureRequest, tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle) if request.param == 'tiny' else request.param)


def picture(bundle: ModelBundle) -> np.ndarray:
    """Return blocks of colour with noise, of which the network is partly certain."""
    spec, draw = bundle.card.input, np.random.default_rng(1)
    blocks = draw.integers(0, 256, (spec.height // 16, spec.width // 16, 3))
    image = np.kron(blocks, np.ones((16, 16, 1))) + draw.normal(0, 12, (1, 1, 3))
    image = image + draw.normal(0, 8, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def differences(one: UncertaintyMaps, other: UncertaintyMaps) -> dict[str, np.ndarray]:
    return {name: np.abs(getattr(one, name).astype(np.float64) - getattr(other, name))
            for name in ('label', 'confidence', *MAP_NAMES)}


def closed(backend: OpenVinoBackend | OnnxRuntimeBackend, bundle: ModelBundle,
           passes: int) -> UncertaintyMaps:
    sums = backend.run(picture(bundle), make_masks(bundle.card.dropout_sites, passes, 0), 1.0)
    backend.close()
    return grid_maps(sums)


def assert_parity(bundle: ModelBundle, passes: int, settings: Settings = SETTINGS) -> None:
    """Assert that maps agree to 2e-5; label and votes may differ where two classes are tied."""
    ours = closed(OpenVinoBackend(bundle, settings), bundle, passes)
    theirs = closed(OnnxRuntimeBackend(bundle, settings), bundle, passes)
    found = differences(ours, theirs)
    votes, label = found.pop('variation_ratio'), found.pop('label')
    assert {name: d.max() for name, d in found.items() if not d.max() <= 2e-5} == {}
    assert (label > 0).mean() <= 1e-4
    assert (votes > 2e-5).mean() <= 1e-4


@pytest.mark.parametrize('passes', [1, 50])
def test_the_same_masks_give_the_maps_of_onnxruntime(
    any_bundle: ModelBundle, passes: int
) -> None:
    assert_parity(any_bundle, passes, dataclasses.replace(SETTINGS, threads=1 + passes % 2))


def options(backend: OpenVinoBackend) -> dict[str, object]:
    """Return the runtime's properties of the compiled trunk and passes."""
    names = ('INFERENCE_PRECISION_HINT', 'INFERENCE_NUM_THREADS', 'NUM_STREAMS',
             'ENABLE_CPU_PINNING')
    calls = [backend._trunk_call, *backend._calls.values()]
    found = [{name: call.get_compiled_model().get_property(name) for name in names}
             for call in calls]
    assert len(found) > 1
    assert all(one == found[0] for one in found)
    return found[0]


def test_float32_one_stream_and_the_threads_are_asked_for(bundle: ModelBundle) -> None:
    backend = OpenVinoBackend(bundle, SETTINGS)
    backend.run(picture(bundle), ones_masks(bundle.card.dropout_sites, 4), 1.0)
    assert options(backend) == {
        'INFERENCE_PRECISION_HINT': openvino.Type.f32, 'INFERENCE_NUM_THREADS': 1,
        'NUM_STREAMS': 1, 'ENABLE_CPU_PINNING': False}


def test_a_number_of_passes_in_use_stays_compiled(bundle: ModelBundle) -> None:
    backend, used = OpenVinoBackend(bundle, SETTINGS), set()
    for passes in (4, 1, 4, 2, 4, 3, 4, 5, 4):
        backend.run(picture(bundle), ones_masks(bundle.card.dropout_sites, passes), 1.0)
        used.add(backend._calls[4])
    assert len(used) == 1 and len(backend._calls) <= 3


@needs_bf16
def test_bf16_is_computed_in_by_name_and_lies_within_the_noise_of_the_sampler() -> None:
    bundle = load_bundle('pipeline')
    backend = OpenVinoBackend(bundle, BF16)
    assert backend.precision == 'bf16'
    masks = make_masks(bundle.card.dropout_sites, 20, 0)
    maps = grid_maps(backend.run(picture(bundle), masks, 1.0))
    assert options(backend)['INFERENCE_PRECISION_HINT'] == openvino.Type.bf16
    exact = OpenVinoBackend(bundle, SETTINGS)
    plain = grid_maps(exact.run(picture(bundle), masks, 1.0))
    redrawn = grid_maps(
        exact.run(picture(bundle), make_masks(bundle.card.dropout_sites, 20, 1), 1.0))
    moved, noise = differences(maps, plain), differences(redrawn, plain)
    assert 0 < moved['entropy'].mean() < 2e-2
    assert 0 < moved['mutual_information'].mean() < 4e-3
    for name in ('entropy', 'mutual_information', 'confidence'):
        assert moved[name].mean() < noise[name].mean(), name
    assert (moved['label'] > 0).mean() < 0.02


def test_bf16_is_refused_where_the_processor_would_quietly_do_without(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_file, 'has_bf16', lambda core: False)
    with pytest.raises(BackendUnavailableError, match="'tiny' in bf16"):
        OpenVinoBackend(bundle, BF16)
    OpenVinoBackend(bundle, SETTINGS).close()


@pytest.mark.parametrize(('precision', 'most'), [
    ('fp16', 2e-3), pytest.param('bf16', 1e-2, marks=needs_bf16)])
def test_graphs_of_16_bits_run(tmp_path: Path, precision: str, most: float) -> None:
    exact = load_bundle('pipeline')
    files = {path.name: to_precision(onnx.load(str(path)), precision).SerializeToString()
             for path in (exact.trunk_path, exact.passes_path)}
    write_bundle(tmp_path / 'b', dataclasses.replace(exact.card, precision=precision), files)
    bundle = load_bundle(str(tmp_path / 'b'))
    plain = closed(OpenVinoBackend(exact, SETTINGS), exact, 20)
    moved = differences(closed(OpenVinoBackend(bundle, SETTINGS), bundle, 20), plain)
    assert moved['entropy'].mean() < most


CHILD = """
import sys, threading
{before}
import numpy as np
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle
bundle = load_bundle(sys.argv[1])
assert 'openvino' not in sys.modules
backend = OpenVinoBackend(bundle, Settings(threads=1))
backend.run(np.zeros((48, 64, 3), np.uint8), make_masks(bundle.card.dropout_sites, 3, 0), 1.0)
print(threading.active_count(), getattr(sys.modules.get('openvino_telemetry'), '__name__', None))
"""
TELEMETRY = """
import builtins
from pathlib import Path
class Telemetry:
    def __init__(self, *args, **kwargs):
        (Path.home() / 'reported').write_text('import')
    def send_event(self, *args, **kwargs):
        pass
"""


@pytest.mark.parametrize(('before', 'left'), [
    ('', 'None'), ('import openvino_telemetry', 'openvino_telemetry')])
def test_nothing_is_reported_and_nothing_written_to_the_home_folder(
    tiny_bundle: Path, tmp_path: Path, before: str, left: str
) -> None:
    home, packages = tmp_path / 'home', tmp_path / 'packages'
    home.mkdir()
    for name, text in (('__init__', TELEMETRY), ('backend/__init__', ''),
                       ('backend/backend_ga4', '')):
        path = packages / 'openvino_telemetry' / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    places = os.pathsep.join([str(packages), str(ROOT)])
    environment = {**os.environ, 'HOME': str(home), 'PYTHONPATH': places}
    child = subprocess.run(
        [sys.executable, '-c', CHILD.format(before=before), str(tiny_bundle)],
        capture_output=True, text=True, env=environment, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ['1', left]
    assert list(home.iterdir()) == []
    # A plain import does write reports.
    subprocess.run([sys.executable, '-c', 'import openvino'], env=environment, check=False,
                   capture_output=True)
    if not list(home.iterdir()):
        pytest.skip('this release of openvino reports nothing by itself')


SIGNALLED = """
import os, signal, sys
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle

bundle, settings = load_bundle(sys.argv[1]), Settings(threads=1)
first, second = OpenVinoBackend(bundle, settings), OpenVinoBackend(bundle, settings)
first.close()
del first
second.close()
del second
signal.signal(signal.SIGUSR1, lambda *_: print('heard'))
os.kill(os.getpid(), signal.SIGUSR1)
print('alive')
"""


def test_a_process_hears_signals_after_its_models_were_closed_in_any_order(
    tiny_bundle: Path
) -> None:
    # With a Core per model the signal handler ran on a freed stack: SIGSEGV.
    done = subprocess.run([sys.executable, '-c', SIGNALLED, str(tiny_bundle)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, 'heard\nalive\n'), done.stderr
