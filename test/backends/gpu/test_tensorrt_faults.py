# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bundles that the backend `tensorrt` opens and refuses, and its behaviour when a call fails.

Engines that do not fit the card, full memory and a missing driver are refused with a sentence, and
before TensorRT is imported if that would crash. Results are always the network's; after an error
the backend is reopened once; and a closed backend holds no GPU memory.
"""

from collections.abc import Callable, Mapping
import gc
from pathlib import Path
import threading
from typing import Any

from fake_tensorrt import fake_tensorrt, plan_of
import numpy as np
import onnx
import pytest
from tensorrt_rig import (
    assert_close,
    assert_same_bits,
    bundles,
    DEVICE,
    IMAGE,
    reference,
    Rig,
    Rigs,
    rigs,
)

from uncertainty_seg.backends.check_record import (
    checking,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.backends.gpu import nvidia, tensorrt
from uncertainty_seg.backends.gpu.engine_build import work_ahead
from uncertainty_seg.backends.gpu.engine_cache import EngineTarget
from uncertainty_seg.backends.gpu.nvidia import TensorRt
from uncertainty_seg.backends.gpu.tensorrt import (
    NoMemoryError,
    TensorRtBackend,
)
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    EngineMissingError,
)

__all__ = ['bundles', 'rigs']  # fixtures
ILLEGAL = RuntimeError('CUDA error: an illegal memory access was encountered')
RTX = '1.7.1.116'


def masks_of(rig: Rig, seed: int = 0) -> Mapping[str, np.ndarray]:
    return pass_inputs(rig.card, rig.passes, seed)


def assert_answers(rig: Rig, backend: TensorRtBackend, seed: int = 0) -> None:
    masks = masks_of(rig, seed)
    assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks))


def assert_nothing_held(rig: Rig) -> None:
    gc.collect()
    assert len(rig.gpu.contexts) == 0
    assert rig.gpu.live_bytes() == 0


@pytest.fixture
def rig(rigs: Rigs, bundles: dict[str, Path]) -> Rig:
    """Return a rig of the bundle `channels` with built engines."""
    made = rigs(bundles['channels'])
    made.build()
    return made


# Checks before opening --------------------------------------------------------------------------


def test_a_missing_driver_is_found_before_tensorrt_is_touched(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, '_LIBRARY', 'libnosuchdriver.so.1')
    monkeypatch.setattr(tensorrt, 'load_tensorrt', lambda: pytest.fail('TensorRT was touched'))
    with pytest.raises(BackendUnavailableError, match='libnosuchdriver'):
        TensorRtBackend(rig.bundle, rig.settings)


def test_a_precision_that_failed_its_self_check_is_refused_until_it_passes(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SelfCheckKey.of(rig.card, 'tensorrt', rig.trt.version, 'fp32', DEVICE.name)
    write_record(SelfCheckRecord(key, False, ('mean', 'finite'), {}), rig.cache.folder)
    # The result is looked up in the cache of the engines.
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'other'))
    with pytest.raises(BackendUnavailableError, match='mean, finite'):
        rig.open()
    with checking():
        rig.open().close()
    write_record(SelfCheckRecord(key, True, (), {}), rig.cache.folder)
    with rig.open() as backend:
        assert_answers(rig, backend)


# Engines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('role', 'how'), [
    ('passes', 'gone'), ('trunk', 'flipped'), ('trunk', 'noise'), ('passes', 'other_version')])
def test_a_plan_that_is_missing_or_damaged_is_named_with_what_to_do(
    rig: Rig, role: str, how: str
) -> None:
    key = rig.key(role)
    plan = rig.cache.plan_path(key).read_bytes()
    if how == 'gone':
        rig.cache.discard(key, 'a test')
    elif how == 'flipped':  # changed on disk, detected by the digest
        rig.cache.plan_path(key).write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    else:  # stored like this, detected by TensorRT
        other = b'noise' if how == 'noise' else plan[32:].replace(b'10.3.0', b'10.3.1')
        rig.cache.store(key, other, {})
    with pytest.raises(EngineMissingError, match=f'{role}.onnx.*10.3.0.*Fake.*self-check'):
        rig.open()
    assert not rig.cache.has(key) and not rig.gpu.contexts
    rig.build()
    with rig.open() as backend:
        assert_answers(rig, backend)


def test_engines_of_rtx_that_were_built_ahead_are_found_after_those_of_this_gpu(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version=RTX)

    def build_ahead(compute_capability: str) -> str:
        work = work_ahead(rig.bundle, rig.settings, compute_capability, rig.trt)
        work.build(rig.cache)
        return work.engines.trunk.key.digest

    build_ahead('12.0')
    with pytest.raises(EngineMissingError, match='trunk.onnx'):
        rig.open()
    ahead = build_ahead(DEVICE.compute_capability)
    with rig.open() as backend:
        assert_answers(rig, backend)
    rig.build()
    rig.cache.store(ahead, b'noise', {})
    with rig.open() as backend:
        assert_answers(rig, backend)


def change_output(graph: Any) -> None:
    graph.output.remove(next(o for o in graph.output if o.name == 'votes'))


def change_mask(graph: Any) -> None:
    masks = [info for info in graph.input if info.type.tensor_type.shape.dim[0].dim_param]
    masks[0].type.tensor_type.shape.dim[1].dim_value += 1


@pytest.mark.parametrize(('change', 'says'), [(change_output, 'votes'), (change_mask, '33')])
def test_an_engine_of_another_graph_is_refused(
    rig: Rig, change: Callable[[Any], None], says: str
) -> None:
    needed = rig.engines().passes
    model = onnx.load_model_from_string(needed.graph)
    change(model.graph)
    rig.cache.store(rig.key('passes'), plan_of(
        model.SerializeToString(), needed.key.profiles, rig.trt.version), {})
    with pytest.raises(BackendError, match=says) as caught:
        rig.open()
    del caught  # the traceback holds frames of the fake
    assert_nothing_held(rig)


# Memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('limit', ['contexts', 'room'])
def test_memory_that_is_full_is_a_clear_stop_that_holds_nothing(rig: Rig, limit: str) -> None:
    if limit == 'contexts':
        rig.faults.contexts_up_to = 0
    else:
        rig.gpu.room = 4 * IMAGE.nbytes
    with pytest.raises(NoMemoryError, match='out of memory.*memory_budget_mb') as caught:
        rig.open()
    assert caught.value  # the exception is still alive, but holds no GPU object
    assert_nothing_held(rig)


def test_memory_that_fills_later_is_said_and_is_no_fault(rig: Rig) -> None:
    rig.trt = TensorRt(fake_tensorrt(rig.gpu, RTX))  # its contexts use memory of the backend
    rig.target = EngineTarget.of(rig.trt, DEVICE)
    rig.build()
    backend = rig.open(is_recorded=False)
    room, rig.gpu.room = rig.gpu.room, rig.gpu.live_bytes()
    for _ in range(2):
        with pytest.raises(NoMemoryError, match='out of memory') as caught:
            backend.run(IMAGE, pass_inputs(rig.card, 2, 0), 1.0)
        assert isinstance(caught.value.__cause__, MemoryError)
    rig.gpu.room, masks = room, masks_of(rig)
    rig.faults.refused[rig.gpu.enqueued + 1] = 'Error Code 1: Cuda Runtime (out of memory)'
    with pytest.raises(NoMemoryError, match='out of memory'):
        backend.run(IMAGE, masks, 1.0)
    assert_answers(rig, backend)  # without reopening
    backend.close()


# Errors of the device ---------------------------------------------------------------------------


def fail_next(rig: Rig, error: Exception | str) -> None:
    """Make the next enqueued call raise an error, or with a text return False."""
    number = rig.gpu.enqueued + 1
    if isinstance(error, str):
        rig.faults.refused[number] = error
    else:
        rig.faults.raised[number] = error


@pytest.mark.parametrize('is_first', [True, False])
@pytest.mark.parametrize('error', [ILLEGAL, 'Error Code 1: Myelin (device-side fault)'])
def test_one_error_is_mended_and_the_second_is_final(
    rig: Rig, error: Exception | str, is_first: bool
) -> None:
    # Without graphs, so that each frame has two calls, trunk and passes.
    backend = rig.open(is_recorded=False)
    assert_answers(rig, backend)
    says = 'illegal memory access|(trunk|passes) refused to run .*Myelin'
    if is_first:
        fail_next(rig, error)
    else:
        rig.faults.meanwhile = lambda n: fail_next(rig, error) if n == 5 else None
    with pytest.raises(BackendError, match=f'bank.*({says})'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    for seed in range(2):
        assert_answers(rig, backend, seed)
    fail_next(rig, error)
    for _ in range(3):
        with pytest.raises(BackendError, match=says):
            backend.run(IMAGE, masks_of(rig), 1.0)
    assert_nothing_held(rig)
    backend.close()


def test_an_error_that_somebody_keeps_holds_nothing_and_is_no_failed_recording(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    backend = rig.open()
    rig.gpu.failing['cudaEventSynchronize'] = 700
    with pytest.raises(BackendError, match='illegal memory') as caught:
        backend.run(IMAGE, masks_of(rig), 1.0)
    assert caught.value.__cause__ is not None and 'without CUDA graphs' not in caplog.text
    rig.gpu.pending.clear()  # a device with an error does nothing more
    assert_nothing_held(rig)
    backend.close()


def test_what_cannot_be_opened_again_stays_shut(rig: Rig) -> None:
    backend = rig.open(is_recorded=False)
    fail_next(rig, ILLEGAL)
    rig.cache.discard(rig.key('trunk'), 'a test')
    for says in ('tensorrt failed', 'illegal memory.*no engine', 'second error.*no engine'):
        with pytest.raises(BackendError, match=says):
            backend.run(IMAGE, masks_of(rig), 1.0)
        rig.faults.raised.clear()
    backend.close()


# Misuse ----------------------------------------------------------------------------------------


def test_a_second_thread_waits_for_the_first(rig: Rig) -> None:
    backend, masks = rig.open(is_recorded=False), masks_of(rig)
    right, others = reference(rig, masks), []
    second = threading.Thread(target=lambda: others.append(backend.run(IMAGE, masks, 1.0)))

    def meanwhile(number: int) -> None:
        if not others and not second.is_alive():
            second.start()
            second.join(0.1)
            assert second.is_alive()

    rig.faults.meanwhile = meanwhile
    first = backend.run(IMAGE, masks, 1.0)
    second.join()
    assert_same_bits(first, others[0])
    assert_close(first, right)
    backend.close()


def test_closed_during_a_run_it_frees_when_the_frame_ends(rig: Rig) -> None:
    backend = rig.open(is_recorded=False)
    masks, expected = masks_of(rig), reference(rig, masks_of(rig))

    def close_elsewhere(number: int) -> None:
        thread = threading.Thread(target=backend.close)
        thread.start()
        thread.join()

    rig.faults.meanwhile = close_elsewhere
    assert_close(backend.run(IMAGE, masks, 1.0), expected)
    assert_nothing_held(rig)
    backend.close()  # twice
    assert not backend.is_recorded
    with pytest.raises(BackendError, match='closed'):
        backend.run(IMAGE, masks, 1.0)
