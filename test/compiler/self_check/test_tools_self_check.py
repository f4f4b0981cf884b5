# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The self-check passes for the shipped runtimes, and detects faults of a backend."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle, tiny_trunk
import numpy as np
import onnx
import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.check_record import RECORD_FILE
from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.compiler.self_check import (
    _plan,
    check_backend,
    CheckPlan,
    difference,
    fixed_images,
    Reference,
    report_table,
    report_values,
    self_check,
    TOLERANCES,
)
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps, PassSums
from uncertainty_seg.errors import BackendUnavailableError, ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle

# A bundle with dropout, whose passes can be counted, exchanged and repeated individually.
BUNDLE = 'pipeline'
PASSES = 6
Change = Callable[[PassSums, int], PassSums]


class Twisted:
    """A real backend whose result is changed; `masks` changes its input masks."""

    def __init__(self, change: Change = lambda sums, run: sums, masks: Any = None) -> None:
        self._inner = OnnxRuntimeBackend(load_bundle(BUNDLE), Settings(threads=1))
        self._change, self._masks, self._runs = change, masks, 0
        self.name = 'onnxruntime'

    def run(self, image: Any, masks: Any, temperature: float) -> PassSums:
        self._runs += 1
        given = self._masks(masks) if self._masks else masks
        return self._change(self._inner.run(image, given, temperature), self._runs)

    @property
    def timings_ms(self) -> Mapping[str, float]:
        return self._inner.timings_ms

    def close(self) -> None:
        self._inner.close()


class Memo:
    """The reference with a cache by image and masks."""

    def __init__(self) -> None:
        self._inner = Reference(load_bundle(BUNDLE), 1)
        self._known: dict[tuple[bytes, bytes], PassSums] = {}

    def run(self, image: Any, masks: Any, temperature: float) -> PassSums:
        key = (image.tobytes(), next(iter(masks.values())).tobytes())
        if key not in self._known:
            self._known[key] = self._inner.run(image, masks, temperature)
        return self._known[key]


@pytest.fixture(scope='module')
def reference() -> Memo:
    return Memo()


@pytest.fixture(scope='module')
def images() -> Any:
    return fixed_images(load_bundle(BUNDLE).card.input, 1)


def plan(images: Any, precision: str = 'fp32') -> CheckPlan:
    card = load_bundle(BUNDLE).card
    return CheckPlan(card, PASSES, 0, 1.0, images, {'entropy.mean': 0.2}, TOLERANCES[precision],
                     ScoreVector(card, ('entropy.mean',)))


def failed(backend: Any, reference: Any, given: CheckPlan, **options: Any) -> set[str]:
    found = check_backend(backend, reference, given, 4, **options)
    backend.close()
    return {check.name for check in found.checks if not check.is_passed}


def changed(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda sums, run: dataclasses.replace(sums, **{name: change(getattr(sums, name))})


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_sound_backend_passes(reference: Memo, images: Any, precision: str) -> None:
    assert failed(Twisted(), reference, plan(images, precision)) == set()


@pytest.mark.parametrize('change, expected', [
    (changed('entropy_nats', lambda v: np.roll(v, 1, 0)), {'mean', 'quantile', 'largest'}),
    (changed('p', lambda v: np.roll(v, 1, 0)), {'label_share'}),
    (changed('votes', lambda v: v * np.float32(0.9)), {'votes', 'vote_share'}),
    (changed('p_squared', lambda v: v + np.float32(PASSES)), {'range', 'mean'}),
    (changed('logits', lambda v: v * np.float32(1.5)), {'mean', 'largest'}),
    (changed('entropy_nats', lambda v: np.full_like(v, np.nan)), {'finite', 'largest'}),
])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_wrong_maps_fail_their_check(
        reference: Memo, images: Any, change: Change, expected: set[str], precision: str) -> None:
    # Rounding to fp16 changes more votes than this fault.
    few = {'vote_share'} if precision == 'fp16' else set()
    assert expected - few <= failed(Twisted(change), reference, plan(images, precision))


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_pass_that_ran_twice_instead_of_another_is_found(
        reference: Memo, images: Any, precision: str) -> None:
    def twice(masks: Any) -> Any:
        rows = [*range(PASSES - 1), 0]
        return {name: mask[rows] for name, mask in masks.items()}
    expected = {'fp32': {'mean', 'vote_share'}, 'fp16': {'mean', 'quantile', 'largest'}}[precision]
    assert expected <= failed(Twisted(masks=twice), reference, plan(images, precision))


def test_masks_that_were_kept_too_long_are_found(reference: Memo, images: Any) -> None:
    first = pass_inputs(load_bundle(BUNDLE).card, PASSES, 0)
    assert 'mean' in failed(Twisted(masks=lambda masks: first), reference, plan(images, 'fp16'))


def test_a_result_that_does_not_come_again_is_found(reference: Memo, images: Any) -> None:
    def drifts(sums: PassSums, run: int) -> PassSums:
        return dataclasses.replace(sums, p=sums.p * np.float32(1 - 1e-7 * run))
    assert failed(Twisted(drifts), reference, plan(images)) == {'repeatable'}


def test_memory_that_grows_is_found(reference: Memo, images: Any) -> None:
    kept: list[Any] = []

    def leaks(sums: PassSums, run: int) -> PassSums:
        kept.append(np.ones((1 << 20, 30), np.uint8))
        return sums
    assert failed(Twisted(leaks), reference, plan(images)) == {'memory'}


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_the_reference_of_a_bundle_of_16_bits_is_float32_of_its_weights(
        tmp_path: Path, kind: str, reference: Memo, images: Any) -> None:
    given, bundle = plan(images), load_bundle(BUNDLE)
    convert(bundle, tmp_path / kind, kind)
    masks = pass_inputs(bundle.card, PASSES, 0)
    low, right = (grid_maps(runner.run(images[0], masks, 1.0)) for runner in (
        Reference(load_bundle(str(tmp_path / kind)), 1), reference))
    gap = difference(low, right, PASSES, given.limits, given.scorer.compute)
    assert 0 < gap.mean < TOLERANCES[kind].mean


def test_a_number_that_is_none_is_null_in_the_report_and_failed(
        reference: Memo, images: Any) -> None:
    backend = Twisted(changed('entropy_nats', lambda v: np.full_like(v, np.nan)))
    found = check_backend(backend, reference, plan(images), 4)
    backend.close()
    values = report_values(found, {'backend': 'x'})
    assert values['checks']['mean'] == {
        'measured': None, 'limit': TOLERANCES['fp32'].mean, 'is_passed': False}
    assert not values['is_passed'] and 'mean' in values['failed']
    json.dumps(values, allow_nan=False)
    table = report_table(found, {'backend': 'x'})
    assert [line for line in table.splitlines() if line.startswith('mean ') and 'FAILED' in line]


@pytest.mark.parametrize('kind', [onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16])
def test_a_weight_that_is_no_number_is_named_before_anything_runs(
        tmp_path: Path, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = tiny_trunk()
    trunk.graph.initializer.append(
        onnx.helper.make_tensor('broken', kind, [3], [1.0, np.nan, np.inf]))
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    write_bundle(bundle.folder, bundle.card, {
        'trunk.onnx': trunk.SerializeToString(), 'passes.onnx': bundle.passes_path.read_bytes()})
    monkeypatch.setattr(registry, 'open_backend', None)
    with pytest.raises(ModelBundleError, match="'broken'"):
        self_check(bundle.folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def call(*words: str) -> int:
    return main(['self-check', BUNDLE, '--frames', '1', '--runs', '4', '--set', f'passes={PASSES}',
                 *words])


@pytest.fixture
def twisted_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def open_twisted(bundle: Any, settings: Any) -> Any:
        return Twisted(changed('entropy_nats', lambda v: v + np.float32(0.2 * PASSES)))
    monkeypatch.setitem(registry.OPENERS, 'onnxruntime', open_twisted)
    yield


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_the_shipped_runtimes_pass(
        cache: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(backend)
    assert call('--set', f'backend={backend}') == 0
    lines = capsys.readouterr().out.splitlines()
    values = json.loads(lines[-1])
    assert (values['is_passed'], values['failed'], values['backend']) == (True, [], backend)
    assert values['precision'] == 'fp32'
    assert set(values['latency_ms']) == {'trunk', 'passes', 'total'}
    assert any(line.startswith('score ') and ' ok ' in line for line in lines)
    assert max(len(line) for line in lines[1:-1]) <= 110  # the first contains names of any length
    assert values['record'] == str(cache / RECORD_FILE)


def test_a_failure_is_exit_code_1_and_kept(
        cache: Path, twisted_registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert call('--set', 'backend=onnxruntime') == 1
    said = capsys.readouterr().out
    assert 'FAILED' in said and 'mean' in json.loads(said.splitlines()[-1])['failed']
    records = json.loads((cache / RECORD_FILE).read_text())
    assert [(record['is_passed'], 'onnxruntime' in key) for key, record in records.items()] == [
        (False, True)]
    # A bundle that failed can be checked again.
    assert call('--set', 'backend=onnxruntime') == 1


def test_a_backend_that_cannot_open_is_said_and_nothing_is_kept(
        cache: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    def missing(bundle: Any, settings: Any) -> Any:
        raise BackendUnavailableError('no GPU here', fix='take another')
    monkeypatch.setitem(registry.OPENERS, 'openvino', missing)
    assert call('--set', 'backend=openvino') == 1
    assert capsys.readouterr().err.endswith('no GPU here: take another.\n')
    assert not cache.exists()


@pytest.mark.parametrize('name', ['pipeline', 'suim'])
def test_every_score_of_the_gate_is_held_to_its_limit(name: str) -> None:
    bundle = load_bundle(name)
    given = _plan(bundle, Settings(), fixed_images(bundle.card.input, 1), 'fp32')
    assert bundle.calibration is not None
    assert given.limits == bundle.calibration.promise_of(0.05).limits
    guard, order = {'pipeline': ('mutual_information.top', 'margin.class_mean'),
                    'suim': ('features.knn', 'margin.class_mean')}[name]
    assert set(given.scorer.names) == set(given.limits) >= {guard, order}
