# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the backend `tensorrt` opens and what it refuses to, and what an engine is bound to.

What must hold: an engine that does not fit the card, a type that nobody checked, and a machine
without a driver are refused in words, before TensorRT is touched where touching it would crash.

"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from fake_tensorrt import plan_of
import numpy as np
import pytest
from tensorrt_rig import (
    assert_close,
    bundles,
    DEVICE,
    IMAGE,
    reference,
    Rig,
    Rigs,
    rigs,
)
import torch

from uncertainty_seg.backends.gpu import device as cuda_device
from uncertainty_seg.backends.gpu import tensorrt
from uncertainty_seg.backends.gpu.bundle_engines import work_ahead
from uncertainty_seg.backends.gpu.device_passes import DeviceReduction, STATISTICS
from uncertainty_seg.backends.gpu.engine_cache import engine_key
from uncertainty_seg.backends.gpu.self_check_record import (
    checking,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend
from uncertainty_seg.backends.gpu.tensorrt_engine import Engine, Runtime
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    EngineMissingError,
    ModelBundleError,
)

__all__ = ['bundles', 'rigs']  # fixtures
pytestmark = pytest.mark.torch


def assert_answers(rig: Rig, backend: TensorRtBackend, tolerance: float = 2e-5) -> None:
    masks = pass_inputs(rig.card, rig.passes, 0)
    assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes, tolerance)
    backend.close()


# Refused before anything is opened --------------------------------------------------------------


def test_a_missing_driver_is_found_before_tensorrt_is_touched(
    rigs: Rigs, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(bundles['channels'])
    touched: list[str] = []
    monkeypatch.setattr(cuda_device, '_LIBRARY', 'libnosuchdriver.so.1')
    monkeypatch.setattr(tensorrt, 'load_tensorrt', lambda: touched.append('tensorrt'))
    with pytest.raises(BackendUnavailableError, match='no NVIDIA driver on this machine'):
        TensorRtBackend(rig.bundle, rig.settings)
    assert touched == []


def test_a_coarse_reduction_is_refused_before_the_driver_is_asked(
    rigs: Rigs, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(bundles['channels'])
    monkeypatch.setattr(cuda_device, '_LIBRARY', 'libnosuchdriver.so.1')
    with pytest.raises(BackendUnavailableError, match='at full resolution, and the reduction '
                       "of 'bank' is 'coarse': use backend openvino or onnxruntime"):
        TensorRtBackend(rig.bundle, dataclasses.replace(rig.settings, reduction='coarse'))


def checked(rig: Rig, precision: str, is_passed: bool) -> None:
    """Record a self-check of this bundle on this GPU."""
    key = SelfCheckKey.of(rig.card, 'tensorrt', rig.trt.version, precision, DEVICE.name)
    failed = () if is_passed else ('mean', 'finite')
    write_record(SelfCheckRecord(key, is_passed, failed, {}), rig.cache.folder)


@pytest.mark.parametrize(('kind', 'version'), [
    ('channels', '10.3.0'), ('channels', '8.6.1'), ('fp16', '11.4.0.106')])
def test_a_precision_that_failed_its_self_check_is_refused_until_it_passes(
    rigs: Rigs, bundles: dict[str, Path], kind: str, version: str
) -> None:
    rig = rigs(bundles[kind], version=version)
    rig.build()
    precision = 'fp16' if kind == 'fp16' else 'fp32'
    checked(rig, precision, False)
    with pytest.raises(BackendUnavailableError, match=f'tensorrt {version} in {precision} failed '
                       r'its self-check on this model \(mean, finite\)'):
        rig.open()
    with checking():
        rig.open().close()
    checked(rig, precision, True)
    assert_answers(rig, rig.open(), 5e-3 if kind == 'fp16' else 2e-5)


def test_types_that_tensorrt_8_chooses_are_refused_until_they_were_checked(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['fp16'], version='8.6.1')
    rig.build()
    with pytest.raises(BackendUnavailableError, match='tensorrt 8.6.1 in fp16 was never checked '
                       'on this model, expected a self-check that passed'):
        rig.open()
    checked(rig, 'fp16', True)
    assert_answers(rig, rig.open(), 5e-3)
    # fp32 is float32 in every version.
    plain = rigs(bundles['channels'], version='8.6.1')
    plain.build()
    assert_answers(plain, plain.open())


def test_a_result_of_another_cache_counts_for_nothing(
    rigs: Rigs, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    checked(rig, 'fp32', False)
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'other'))
    with pytest.raises(BackendUnavailableError, match='failed its self-check'):
        rig.open()


# Engines for TensorRT-RTX that were built elsewhere ---------------------------------------------


def build_ahead(rig: Rig, compute_capability: str) -> list[str]:
    """Store engines as `build-engines --compute-capability` does; return their keys."""
    work = work_ahead(rig.bundle, rig.settings, compute_capability, rig.trt)
    keys = []
    for needed in work.engines.all:
        plan = plan_of(needed.path.read_bytes(), needed.spec.profiles, rig.trt.version)
        keys.append(needed.key(work.target))
        rig.cache.store(keys[-1], plan, {})
    return keys


def test_engines_of_rtx_that_were_built_ahead_are_found(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
    build_ahead(rig, '12.0')
    with pytest.raises(EngineMissingError, match='trunk.onnx'):
        rig.open()
    trunk, _ = build_ahead(rig, DEVICE.compute_capability)
    assert_answers(rig, rig.open())
    rig.cache.store(trunk, b'noise', {})
    with pytest.raises(EngineMissingError, match='trunk.onnx'):
        rig.open()
    assert not rig.cache.has(trunk)


def test_an_engine_built_on_this_gpu_comes_before_one_built_ahead(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
    for key in build_ahead(rig, DEVICE.compute_capability):
        rig.cache.store(key, b'noise', {})
    rig.build()
    assert_answers(rig, rig.open())


# Engines that do not fit ------------------------------------------------------------------------


def swapped(rig: Rig, change: Callable[[Any], None]) -> None:
    """Store under the key of the head an engine of a changed graph."""
    import onnx

    needed = rig.engines().head_stats
    model = onnx.load(str(needed.path))
    change(model.graph)
    plan = plan_of(model.SerializeToString(), needed.spec.profiles, rig.trt.version)
    rig.cache.store(needed.key(rig.target), plan, {})


def drop_votes(graph: Any) -> None:
    graph.output.remove(next(o for o in graph.output if o.name == 'votes'))


def shrink_sum(graph: Any) -> None:
    output = next(o for o in graph.output if o.name == 'sum_p')
    output.type.tensor_type.shape.dim[0].dim_value = 2


def rename_mask(graph: Any) -> None:
    masks = [info for info in graph.input if info.type.tensor_type.shape.dim[0].dim_param]
    masks[0].name = 'other'


@pytest.mark.parametrize(('change', 'says'), [
    (drop_votes, r'engine of the head takes .*gives .*sum_p2.*expected .*votes'),
    (shrink_sum, r"gives 'sum_p' as .*2, 48, 64.*expected float32 \(3, 48, 64\)"),
    (rename_mask, r"engine of the head takes .*'other'"),
])
def test_an_engine_of_another_graph_is_refused(
    rigs: Rigs, bundles: dict[str, Path], change: Callable[[Any], None], says: str
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    swapped(rig, change)
    with pytest.raises(ModelBundleError, match=says):
        rig.open()
    assert not rig.gpu.contexts


def test_the_key_in_the_cache_is_that_of_the_graph_and_the_place(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    needed = rig.engines().trunk
    assert needed.key(rig.target) == engine_key(needed.path.read_bytes(), needed.spec, rig.target)
    other = dataclasses.replace(rig.target, driver='12.7')
    assert needed.key(other) != needed.key(rig.target)


# One engine -------------------------------------------------------------------------------------


@pytest.fixture
def head(rigs: Rigs, bundles: dict[str, Path]) -> tuple[Engine, Rig, dict[str, Any]]:
    """Open the head of a bundle with a buffer for each tensor, for up to 5 passes."""
    rig = rigs(bundles['channels'])
    needed, runtime = rig.engines().head_stats, Runtime(rig.trt)
    plan = plan_of(needed.path.read_bytes(), needed.spec.profiles, rig.trt.version)
    engine = Engine(runtime, runtime.open_plan(plan), rig.gpu, 'head')
    buffers = {name: rig.gpu.empty(tuple(5 if n < 0 else n for n in shape), dtype)
               for name, (shape, dtype) in {**engine.inputs, **engine.outputs}.items()}
    return engine, rig, buffers


def test_an_engine_knows_its_tensors(head: tuple[Engine, Rig, dict[str, Any]]) -> None:
    engine, rig, _ = head
    sites = {site.name: ((-1, *site.shape), np.dtype(np.float32))
             for site in rig.card.dropout_sites}
    assert sites.items() <= engine.inputs.items()
    assert set(engine.outputs) == {*STATISTICS, 'sum_logits'}
    assert engine.outputs['sum_p'] == ((3, 48, 64), np.dtype(np.float32))


@pytest.mark.parametrize(('name', 'make', 'says'), [
    ('votes', lambda t: t[:2], r'buffer votes is float32 \(2, 48, 64\), expected float32 \(3, 48'),
    ('votes', lambda t: t.to(torch.int32), 'buffer votes is int32'),
    ('votes', lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), 'cut out of another'),
    ('sum_entropy', lambda t: torch.zeros(49, 64).view(-1)[1:48 * 64 + 1].view(48, 64),
     'cut out of another'),
    ('nobody', lambda _: torch.zeros(1), "no tensor 'nobody'"),
])
def test_a_buffer_that_does_not_fit_is_refused_before_it_is_bound(
    head: tuple[Engine, Rig, dict[str, Any]], name: str, make: Callable[[Any], Any], says: str
) -> None:
    engine, _, buffers = head
    engine.bind(buffers)
    with pytest.raises(BackendError, match=says):
        engine.bind({name: make(buffers.get(name))})
    engine.close()


def test_a_closed_engine_says_that_it_is_closed(
    head: tuple[Engine, Rig, dict[str, Any]]
) -> None:
    engine, _, buffers = head
    engine.bind(buffers)
    for _ in range(2):  # closed twice, as after an error
        engine.close()
    for use in (engine.enqueue, engine.capture, lambda: engine.bind(buffers)):
        with pytest.raises(BackendError, match='^head is closed'):
            use()


def test_more_passes_than_the_profile_has_are_refused(
    head: tuple[Engine, Rig, dict[str, Any]]
) -> None:
    engine, rig, buffers = head
    site = rig.card.dropout_sites[0]
    engine.bind(buffers)
    with pytest.raises(BackendError, match=rf'takes no {site.name} of shape \(6, .*the profile'):
        engine.bind({site.name: rig.gpu.empty((6, *site.shape), np.float32)})
    engine.close()


def test_an_engine_with_a_tensor_nowhere_is_not_run(
    head: tuple[Engine, Rig, dict[str, Any]]
) -> None:
    engine, _, buffers = head
    del buffers['votes']
    with pytest.raises(BackendError, match=r"head has no buffer for \['votes'\]"):
        engine.bind(buffers)
    engine.close()


def test_a_runtime_that_does_not_start_says_so(
    rigs: Rigs, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(bundles['channels'])
    monkeypatch.setattr(rig.trt.module, 'Runtime', lambda logger: logger.log(
        rig.trt.module.ILogger.Severity.ERROR, 'CUDA initialization failure'))
    with pytest.raises(BackendError, match='10.3.0 does not start .CUDA initialization failure'):
        Runtime(rig.trt)


# Sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('size', 'extra'), [(6, 5), (5, 4), (7, 4), (12, 11)])
def test_votes_that_are_taken_away_leave_no_variation_below_zero(
    rigs: Rigs, bundles: dict[str, Path], size: int, extra: int
) -> None:
    # -5/6 * 6 + 6 is 1.0000001 where a GPU multiplies and adds in one step.
    reduction = DeviceReduction(2, 4, 4, rigs(bundles['channels']).gpu)
    ones = {name: torch.ones(shape) for name, shape in reduction.shapes.items()}
    above = float(np.nextafter(np.float32(size), np.float32(99)))
    reduction.reset()
    reduction.add({**ones, 'votes': ones['votes'] * above}, size)
    reduction.add({**ones, 'votes': ones['votes'] * size}, -extra, -extra / size)
    reduction.enqueue_finish()
    variation = reduction.maps().variation_ratio
    assert variation.min() >= 0
    assert variation.max() < 1e-6
