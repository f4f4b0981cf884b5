# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the backend `tensorrt` does when memory is full, a call fails, or it is used wrongly.

What must hold: no answer that is not the network's, a sentence that says what to do, one reopening
after an error and then none, and nothing of the GPU held by what has ended.

"""

from __future__ import annotations

from collections.abc import Mapping
import gc
import logging
import math
from pathlib import Path
import threading
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
import pytest
from tensorrt_rig import (
    assert_close,
    assert_same_bits,
    bundles,
    IMAGE,
    reference,
    Rig,
    Rigs,
    rigs,
)

from uncertainty_seg.backends.gpu.tensorrt import BACK_OFF_S, NoMemoryError, TensorRtBackend
from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, EngineMissingError, ShapeError
from uncertainty_seg.storage.model_bundle import (
    load_bundle,
    model_digest,
    write_bundle,
    write_calibration,
)

__all__ = ['bundles', 'rigs']  # fixtures
pytestmark = pytest.mark.torch
ILLEGAL = RuntimeError('CUDA error: an illegal memory access was encountered')


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def masks_of(rig: Rig, seed: int = 0) -> Mapping[str, np.ndarray]:
    return pass_inputs(rig.card, rig.passes, seed)


def assert_answers(rig: Rig, backend: TensorRtBackend, seed: int = 0) -> None:
    masks = masks_of(rig, seed)
    assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)


def assert_nothing_held(rig: Rig) -> None:
    gc.collect()
    assert len(rig.gpu.contexts) == 0
    assert rig.gpu.live_bytes() == 0


# Engines ---------------------------------------------------------------------------------------


def test_an_engine_that_was_not_built_is_named_with_the_command(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    with pytest.raises(EngineMissingError, match=r'no engine for trunk.onnx of .bank. in fp32, '
                       r'TensorRT 10.3.0, Fake.*build-engines'):
        rig.open()
    rig.build()
    rig.cache.discard(rig.engines().head_stats.key(rig.target), 'a test')
    with pytest.raises(EngineMissingError, match='head_stats.onnx'):
        rig.open()
    assert not rig.gpu.contexts


@pytest.mark.parametrize('how', ['cut', 'flipped', 'other_version', 'noise'])
@pytest.mark.parametrize('role', ['trunk', 'head_stats'])
def test_a_damaged_plan_is_taken_out_of_the_cache_and_missed(
    rigs: Rigs, bundles: dict[str, Path], role: str, how: str
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    needed = getattr(rig.engines(), role)
    key = needed.key(rig.target)
    plan = rig.cache.plan_path(key).read_bytes()
    if how == 'flipped':  # on the disk: its digest tells
        rig.cache.plan_path(key).write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    else:  # as it was stored: TensorRT tells
        rig.cache.store(key, {'cut': plan[:-9], 'noise': b'noise', 'other_version':
                              plan.replace(b'10.3.0', b'10.3.1')}[how], {})
    with pytest.raises(EngineMissingError, match=f'no engine for {role}.onnx'):
        rig.open()
    assert not rig.cache.has(key)
    rig.build()
    backend = rig.open()
    assert_answers(rig, backend)
    backend.close()


def test_memory_that_is_full_at_first_takes_the_engine_for_fewer_passes(
    rigs: Rigs, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], passes=16)
    rig.build(0, 4)
    rig.faults.contexts_up_to = 4
    backend = rig.open()
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING
            and record.name.endswith('gpu.tensorrt')]
    assert [line.split(':')[0] for line in said] == [
        'no engine or no memory for 16 passes at once, trying 8',
        'no engine or no memory for 8 passes at once, trying 4']
    assert 'out of memory' in said[0]
    assert_answers(rig, backend)
    backend.close()
    assert_nothing_held(rig)


@pytest.mark.parametrize(('kind', 'chunks'), [('channels', (0, 4)), ('channels', (0,)),
                                              ('chunk', (0,))])
def test_memory_that_is_full_for_every_engine_is_a_clear_stop(
    rigs: Rigs, bundles: dict[str, Path], kind: str, chunks: tuple[int, ...]
) -> None:
    rig = rigs(bundles[kind], passes=16)
    rig.build(*chunks)
    rig.faults.contexts_up_to = 0
    with pytest.raises(NoMemoryError, match=r'no memory for .bank. \(no context for .*out of '
                       'memory.*: free memory, or set memory_budget_mb lower') as caught:
        rig.open()
    assert caught.value  # is still held, and holds nothing
    assert_nothing_held(rig)


def test_what_did_not_fit_is_gone_before_less_is_tried(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], passes=16)
    rig.build(0, 8, 4, 2, 1)
    rig.faults.rows_up_to = 0  # the contexts are made, and then there is no room for the image
    with pytest.raises(NoMemoryError, match='no room for'):
        rig.open()
    assert rig.gpu.most_contexts == 2  # trunk and head of one attempt
    assert rig.gpu.closed == 4  # torch gave its cache back before 8, 4, 2 and 1
    assert_nothing_held(rig)


# Memory in a run -------------------------------------------------------------------------------


def test_memory_that_fills_later_halves_the_passes_and_answers_go_on(
    rigs: Rigs, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], passes=8)
    rig.build()
    backend = rig.open()
    assert_answers(rig, backend)
    rig.faults.rows_up_to = 2
    masks = pass_inputs(rig.card, 12, 1)  # other buffers than those that are there
    ours = backend.run(IMAGE, masks, 1.0)
    assert_close(ours, reference(rig, masks), 12)
    assert [record.message.split(':')[0] for record in caplog.records
            if 'no memory' in record.message] == [
        'no memory for 8 passes at once, from now on 4',
        'no memory for 4 passes at once, from now on 2']
    rig.faults.rows_up_to = 10**6
    assert_answers(rig, backend)
    assert_same_bits(backend.run(IMAGE, masks, 1.0), ours)
    backend.close()


@pytest.mark.parametrize('kind', ['channels', 'chunk'])
def test_memory_for_not_one_pass_is_said_and_is_no_fault(
    rigs: Rigs, bundles: dict[str, Path], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles[kind])
    rig.build()
    backend = rig.open()
    rig.faults.rows_up_to = 0
    for _ in range(3):
        with pytest.raises(NoMemoryError, match='no memory for .bank. .*no room for') as caught:
            backend.run(IMAGE, masks_of(rig), 1.0)
        assert isinstance(caught.value.__cause__, MemoryError)
    # A head of a fixed number of passes has no smaller one.
    assert ('from now on' in caplog.text) == (kind == 'channels')
    rig.faults.rows_up_to = 10**6
    assert_answers(rig, backend)  # without being opened again
    backend.close()


@pytest.mark.parametrize('says', [
    'Error Code 1: Cuda Runtime (out of memory)',
    'Requested amount of GPU memory (1024 bytes) could not be allocated.',
    RuntimeError('CUDA error: out of memory')])
def test_a_call_that_fails_for_want_of_memory_is_tried_with_fewer_passes(
    rigs: Rigs, bundles: dict[str, Path], says: Exception | str
) -> None:
    rig = rigs(bundles['channels'], passes=8)
    rig.build()
    # The trunk runs and is recorded, then comes the head.
    rig.faults.meanwhile = lambda n: fail_next(rig, says) if n == 2 else None
    backend = rig.open()
    assert_answers(rig, backend)
    assert rig.gpu.enqueued > 4
    backend.close()


# Errors of the device --------------------------------------------------------------------------


def fail_next(rig: Rig, error: Exception | str) -> None:
    """Let the next call that is enqueued fail, or return False."""
    number = rig.gpu.enqueued + 1
    if isinstance(error, str):
        rig.faults.refused[number] = error
    else:
        rig.faults.raised[number] = error


@pytest.mark.parametrize('is_head', [False, True])
@pytest.mark.parametrize('error', [ILLEGAL, 'Error Code 1: Myelin (device-side fault)'])
def test_one_error_is_mended_after_a_while_and_the_second_is_final(
    rigs: Rigs, bundles: dict[str, Path], error: Exception | str, is_head: bool
) -> None:
    rig, clock = rigs(bundles['channels']), Clock()
    rig.build()
    # Not recorded, so that the calls are two in each frame: trunk and head.
    backend = rig.open(clock=clock, is_recorded=False)
    assert_answers(rig, backend)
    says = 'illegal memory access|(trunk|head_stats) refused to run .*Myelin'
    if is_head:
        rig.faults.meanwhile = lambda n: fail_next(rig, error) if n == 3 else None
    else:
        fail_next(rig, error)
    with pytest.raises(BackendError, match=f'tensorrt failed on 5 passes of .bank. .*({says})'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    calls = rig.gpu.enqueued
    with pytest.raises(BackendError, match=f'opens again in 1.0 s after an error .*({says})'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    assert rig.gpu.enqueued == calls  # nothing was tried
    clock.now_s += BACK_OFF_S
    for seed in range(2):
        assert_answers(rig, backend, seed)
    fail_next(rig, error)
    with pytest.raises(BackendError, match='tensorrt failed'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    for _ in range(2):
        clock.now_s += 1000
        with pytest.raises(BackendError, match=f'gave up after a second error .*({says}).*'
                           'restart the process.*self-check'):
            backend.run(IMAGE, masks_of(rig), 1.0)
    assert_nothing_held(rig)
    backend.close()


def test_an_error_that_somebody_keeps_holds_nothing_of_the_gpu(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend = rig.open()
    for seed in range(2):
        assert_answers(rig, backend, seed)
    assert rig.gpu.live_bytes() > 0
    rig.gpu.wait = lambda: (_ for _ in ()).throw(ILLEGAL)  # type: ignore[method-assign]
    with pytest.raises(BackendError, match='illegal memory') as caught:
        backend.run(IMAGE, masks_of(rig), 1.0)
    assert caught.value.__cause__ is ILLEGAL
    assert_nothing_held(rig)
    assert rig.gpu.closed == 1
    backend.close()


def test_an_error_that_comes_out_before_a_recording_is_the_frames(
    rigs: Rigs, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend = rig.open()
    errors = [ILLEGAL]

    def wait() -> None:
        if errors:
            raise errors.pop()

    rig.gpu.wait = wait  # type: ignore[method-assign]
    with pytest.raises(BackendError, match='illegal memory'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    assert 'no CUDA graphs' not in caplog.text
    backend.close()


def test_what_cannot_be_opened_again_stays_shut(rigs: Rigs, bundles: dict[str, Path]) -> None:
    rig, clock = rigs(bundles['channels']), Clock()
    rig.build()
    backend = rig.open(clock=clock)
    fail_next(rig, ILLEGAL)
    with pytest.raises(BackendError, match='tensorrt failed'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    rig.cache.discard(rig.engines().trunk.key(rig.target), 'a test')
    clock.now_s += BACK_OFF_S
    with pytest.raises(BackendError, match='cannot be opened again .*illegal memory.*no engine'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    rig.build()
    with pytest.raises(BackendError, match='gave up after a second error .*no engine'):
        backend.run(IMAGE, masks_of(rig), 1.0)
    backend.close()


# Used wrongly ----------------------------------------------------------------------------------


def elsewhere(call: Any) -> Any:
    """Call in another thread, to its end; return what came or was raised."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except Exception as err:
            found.append(err)

    thread = threading.Thread(target=work, name='second')
    thread.start()
    thread.join()
    return found[0]


def test_a_second_thread_is_refused_and_the_first_undisturbed(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend, masks = rig.open(), masks_of(rig)
    refusals = []

    def meanwhile(number: int) -> None:
        if number == 1:
            refusals.append(elsewhere(lambda: backend.run(IMAGE, masks, 1.0)))

    rig.faults.meanwhile = meanwhile
    assert_answers(rig, backend)
    assert isinstance(refusals[0], BackendError)
    assert "run from thread 'second' while 'MainThread' is in it" in str(refusals[0])
    # One after the other is no harm.
    assert_same_bits(elsewhere(lambda: backend.run(IMAGE, masks, 1.0)),
                     backend.run(IMAGE, masks, 1.0))
    backend.close()


def test_closed_twice_is_closed_and_a_run_says_so(rigs: Rigs, bundles: dict[str, Path]) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend = rig.open()
    assert_answers(rig, backend)
    backend.close()
    assert_nothing_held(rig)
    backend.close()
    assert not backend.is_recorded
    with pytest.raises(BackendError, match='run of a closed backend'):
        backend.run(IMAGE, masks_of(rig), 1.0)


def test_closed_during_a_run_it_frees_when_the_frame_ends(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend = rig.open()
    masks, expected = masks_of(rig), reference(rig, masks_of(rig))
    rig.faults.meanwhile = lambda _: elsewhere(backend.close)
    assert_close(backend.run(IMAGE, masks, 1.0), expected, rig.passes)
    assert_nothing_held(rig)
    with pytest.raises(BackendError, match='closed'):
        backend.run(IMAGE, masks, 1.0)


def test_what_does_not_fit_the_card_is_refused_and_is_no_fault(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    backend, masks = rig.open(), masks_of(rig)
    name = next(iter(masks))
    wrong: tuple[tuple[Any, Any, str], ...] = (
        (IMAGE[:-1], masks, 'image'), (IMAGE.astype(np.float32), masks, 'image'),
        (IMAGE[:-1], backend.pass_inputs(2, 0), 'image'), (IMAGE, {}, 'masks for'),
        (IMAGE, backend.pass_inputs(0, 0), 'masks for 0 passes'),
        (IMAGE, {**masks, name: masks[name][:2]}, 'the same T'),
        (IMAGE, {**masks, name: masks[name][:, :1]}, name))
    for image, given, says in wrong:
        with pytest.raises(ShapeError, match=says):
            backend.run(image, given, 1.0)
    assert rig.gpu.enqueued == 0
    assert_answers(rig, backend)
    backend.close()


# Through the pipeline --------------------------------------------------------------------------


def calibrated(source: Path, folder: Path, trunk: bytes = b'') -> Path:
    """Copy a bundle, with limits that every answer of numbers is below."""
    bundle = load_bundle(str(source))
    files = {name: (source / name).read_bytes() for name in bundle.card.sha256}
    card = write_bundle(folder, bundle.card, {**files, **({'trunk.onnx': trunk} if trunk else {})})
    limits = {f'{name}.mean': 0.99 for name in ('entropy', 'mutual_information')}
    write_calibration(load_bundle(str(folder)), Calibration(
        card.passes, 0, 'fixed', 'fp32', 1.3, limits, limits, ('entropy.mean',), 0.95, 10, 10,
        model_digest(card), 'none'))
    return folder


def with_nan(path: Path) -> bytes:
    """Make one weight of a graph NaN."""
    model = onnx.load(str(path))
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = math.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(model.SerializeToString())


def test_the_flag_falls_with_an_error_and_rises_after_the_reopening(
    rigs: Rigs, bundles: dict[str, Path], tmp_path: Path
) -> None:
    rig, clock = rigs(calibrated(bundles['channels'], tmp_path / 'bundle')), Clock()
    rig.build()
    pipeline = Pipeline(rig.bundle, rig.open(clock=clock, is_recorded=False), Settings(threads=1))
    pipeline.check_masks()
    flags = [pipeline.process(IMAGE, n * 10**8).verdict.is_confident for n in range(4)]
    assert flags == [False, False, True, True]
    fail_next(rig, ILLEGAL)
    with pytest.raises(BackendError) as caught:
        pipeline.process(IMAGE, 4 * 10**8)
    verdict = pipeline.fault(str(caught.value))
    del caught  # which holds the frames of the stand-in
    assert not verdict.is_confident
    assert 'illegal memory access' in verdict.reasons[0]
    clock.now_s += BACK_OFF_S
    flags = [pipeline.process(IMAGE, n * 10**8).verdict.is_confident for n in range(5, 9)]
    assert flags == [False, False, True, True]
    pipeline.close()
    assert_nothing_held(rig)


def test_a_weight_that_is_no_number_is_no_confident_frame(
    rigs: Rigs, bundles: dict[str, Path], tmp_path: Path
) -> None:
    source = bundles['channels']
    rig = rigs(calibrated(source, tmp_path / 'bundle', with_nan(source / 'trunk.onnx')))
    rig.build()
    pipeline = Pipeline(rig.bundle, rig.open(), Settings(threads=1))
    loop = FrameLoop(pipeline)
    for number in range(4):
        outcome = loop.take(lambda: IMAGE, number * 10**8)
        assert not outcome.verdict.is_confident
        assert 'the network returned entropy nan' in outcome.problem
    pipeline.close()
