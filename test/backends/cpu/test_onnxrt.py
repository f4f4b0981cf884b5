# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Tests of ONNX Runtime: without its package, threads, telemetry, and unsupported precisions."""

import dataclasses
import os
from pathlib import Path
import subprocess
import sys
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.runner import rounding_half
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(threads=1)


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


@pytest.mark.parametrize(('card', 'precision'), [('fp32', 'bf16'), ('bf16', 'bundle')])
def test_bf16_is_refused_by_setting_and_by_card(
    bundle: ModelBundle, card: str, precision: str
) -> None:
    bundle = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precision=card))
    with pytest.raises(BackendUnavailableError, match="'tiny' in bf16.*openvino"):
        OnnxRuntimeBackend(bundle, Settings(threads=1, precision=precision))


@pytest.mark.skipif(tuple(map(int, onnxruntime.__version__.split('.')[:2])) < (1, 26),
                    reason='this release cannot be told how long to spin')
def test_threads_that_wait_for_each_other_leave_the_processor_to_others() -> None:
    bundle = load_bundle('suim')
    size = bundle.card.input.height, bundle.card.input.width, 3
    image = np.zeros(size, np.uint8)
    masks = pass_inputs(bundle.card, bundle.card.passes, 0)
    spent_s: dict[int, list[float]] = {1: [], 4: []}
    with OnnxRuntimeBackend(bundle, Settings(threads=1)) as alone, \
            OnnxRuntimeBackend(bundle, Settings(threads=4)) as crowd:
        for _ in range(12):
            for threads, backend in ((1, alone), (4, crowd)):
                start_s = time.process_time()
                backend.run(image, masks, 1.0)
                spent_s[threads].append(time.process_time() - start_s)
    # Measured: 1.3 on two busy cores; 3.4 if threads spin while they wait for work.
    assert min(spent_s[4]) < 2.2 * min(spent_s[1])


# Environment variables that disable ONNX Runtime's telemetry.
SILENCING = ('CI', 'BUILD', 'TF_BUILD', 'GITHUB', 'GITLAB', 'JENKINS', 'TEAMCITY', 'ORT_')


def test_onnx_runtime_keeps_no_record_of_the_models_and_reports_none(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    # Telemetry is first stored in a database below the home folder.
    home = tmp_path / 'home'
    home.mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(SILENCING) and not name.startswith('XDG_')}
    code = ('import uncertainty_seg, onnxruntime, sys, time; '
            'onnxruntime.InferenceSession(sys.argv[1]); time.sleep(1)')
    subprocess.run([sys.executable, '-c', code, str(tiny_bundle / 'trunk.onnx')], check=True,
                   env={**environment, 'HOME': str(home)})
    assert [str(path) for path in home.rglob('*') if path.is_file()] == []


# --- fp16, for which CPUs have no arithmetic -----------------------------------------------------

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 8)).astype(np.float16)
BIAS = RNG.normal(size=(1, 16, 1, 1)).astype(np.float16)


def half_net() -> bytes:
    """Return a graph of z sigmoid(z), z a product plus a bias, in float16 between casts."""
    nodes = [helper.make_node('Cast', ['x'], ['x16'], to=TensorProto.FLOAT16),
             helper.make_node('Conv', ['x16', 'w'], ['product']),
             helper.make_node('Add', ['product', 'b'], ['z']),
             helper.make_node('Sigmoid', ['z'], ['gate']),
             helper.make_node('Mul', ['z', 'gate'], ['y16']),
             helper.make_node('Cast', ['y16'], ['y'], to=TensorProto.FLOAT)]
    info = [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 8, 40, 50]),
            helper.make_tensor_value_info('y', TensorProto.FLOAT, [1, 16, 40, 50])]
    weights = [numpy_helper.from_array(WEIGHTS[:, :, None, None], 'w'),
               numpy_helper.from_array(BIAS, 'b')]
    graph = helper.make_graph(nodes, 'half', info[:1], info[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def run(graph: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    found: np.ndarray = session.run(None, {'x': x})[0]
    return found


def by_hand(x: np.ndarray) -> np.ndarray:
    """Compute half_net in float64, with each result rounded to float16."""
    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float64)

    with np.errstate(over='ignore'):
        product = half(np.einsum('oi,nihw->nohw', WEIGHTS.astype(np.float64), half(x)))
        z = half(product + BIAS)
        return half(z * half(1 / (1 + np.exp(-z))))


def test_each_result_of_a_graph_in_fp16_is_rounded_as_fp16_says() -> None:
    x = RNG.normal(size=(1, 8, 40, 50)).astype(np.float32)
    wanted, found = by_hand(x), run(rounding_half(half_net()), x)
    assert found.dtype == np.float32
    # Sums in float32 and float64 may round to adjacent float16 numbers.
    assert (found == wanted).mean() > 0.995
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)
    # Without the simulation the runtime omits the rounding.
    assert (run(half_net(), x) == wanted).mean() < 0.9


def test_what_fp16_cannot_hold_is_infinite_in_the_simulation_too() -> None:
    x = np.full((1, 8, 40, 50), 6e4, np.float32)
    found = run(rounding_half(half_net()), x)
    assert np.array_equal(np.isinf(found), np.isinf(by_hand(x))) and np.isinf(found).any()


def test_a_bundle_in_fp16_is_simulated_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    whole, half = load_bundle('pipeline'), load_bundle('pipeline_fp16')
    spec = half.card.input
    image = RNG.integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    masks = pass_inputs(half.card, 2, 0)
    with caplog.at_level('INFO'), OnnxRuntimeBackend(half, SETTINGS) as backend:
        maps = grid_maps(backend.run(image, masks, 1.0))
    assert 'fp16 simulated' in caplog.text
    caplog.clear()
    with caplog.at_level('INFO'), OnnxRuntimeBackend(whole, SETTINGS) as backend:
        plain = grid_maps(backend.run(image, masks, 1.0))
    assert 'fp16' not in caplog.text
    gap = abs(maps.entropy - plain.entropy)
    assert 1e-5 < gap.mean() < 2e-3
