# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Maps of the backend `tensorrt`, on a stand-in for TensorRT that runs ONNX Runtime.

What must hold: they are those of the backend `onnxruntime` under the same masks, however passes
are split, whatever T was before, recorded or not, and in every kind of bundle. The stand-in fails
a test that breaks a rule of TensorRT.

"""

from __future__ import annotations

import gc
import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
from tensorrt_rig import (
    assert_close,
    assert_same_bits,
    bundles,
    IMAGE,
    reference,
    Rigs,
    rigs,
    SMOOTH,
    TOLERANCE,
)

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.gpu.nvidia import CudaMemory, find_device
from uncertainty_seg.backends.gpu.tensorrt import MaskBank, split_passes
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.uncertainty import MapRequest, MORE_MAPS

__all__ = ['bundles', 'rigs']  # fixtures
KINDS = ('channels', 'elements', 'ensemble', 'direct', 'single', 'sampled', 'both', 'fp16')
RTX = '1.7.1.116'
# Five passes at once, of the bundle `channels`.
FEW = {'passes': 50, 'memory_budget_mb': 4}


@pytest.mark.parametrize('kind', KINDS)
def test_maps_are_those_of_onnxruntime(rigs: Rigs, bundles: dict[str, Path], kind: str) -> None:
    rig = rigs(bundles[kind], version=RTX if kind == 'both' else '10.3.0')
    rig.build()
    with rig.open() as backend:
        for seed, temperature in ((3, 1.0), (3, 2.5), (4, 0.4)):
            masks = pass_inputs(rig.card, rig.passes, seed)
            ours = backend.run(IMAGE, masks, temperature)
            # The two runtimes round to 16 bits in different places of a graph in fp16.
            assert_close(ours, reference(rig, masks, temperature), rig.passes,
                         5e-3 if kind == 'fp16' else TOLERANCE)
        assert list(backend.timings_ms) == ['trunk', 'head', 'reduction']
        assert backend.is_recorded and backend.device_name == 'Fake'
    assert (ours.mutual_information.max() > 0.01) == (rig.passes > 1)
    del backend
    gc.collect()
    assert rig.gpu.live == {} and rig.gpu.handles == []


@pytest.mark.parametrize('kind', ['channels', 'elements', 'both', 'fp16'])
@pytest.mark.parametrize('reduction', ['coarse', 'exact'])
def test_every_map_is_the_one_of_the_processor(
    rigs: Rigs, bundles: dict[str, Path], kind: str, reduction: str
) -> None:
    rig = rigs(bundles[kind], reduction=reduction)
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 3)
    request = MapRequest.of(MORE_MAPS, 3.0)
    with rig.open() as backend:
        ours = backend.run(IMAGE, masks, 1.3, request)
        plain = backend.run(IMAGE, masks, 1.3)
    with OnnxRuntimeBackend(rig.bundle, rig.settings) as processor:
        theirs = processor.run(IMAGE, masks, 1.3, request)
    for name in (*SMOOTH, *MORE_MAPS):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0,
                                   atol=5e-3 if kind == 'fp16' else TOLERANCE, err_msg=name)
    assert (ours.label != theirs.label).mean() <= (5e-2 if kind == 'fp16' else 1e-3)
    assert not set(MORE_MAPS) & set(plain.present)


@pytest.mark.parametrize('is_recorded', [False, True])
def test_maps_do_not_depend_on_how_passes_are_split(
    rigs: Rigs, bundles: dict[str, Path], is_recorded: bool
) -> None:
    rig = rigs(bundles['channels'], **FEW)
    assert rig.engines().chunking.passes == 5
    rig.build()
    with rig.open(is_recorded=is_recorded) as backend:
        for passes in (1, 2, 7, 20, 50, 3, 7):
            masks = pass_inputs(rig.card, passes, passes)
            assert_close(backend.run(IMAGE, masks, 1.3), reference(rig, masks, 1.3), passes)


def test_the_shipped_model_gives_the_maps_of_onnxruntime(rigs: Rigs) -> None:
    rig = rigs('pipeline', passes=5, reduction='auto')
    rig.build()
    masks = pass_inputs(rig.card, 5, 0)
    image = np.random.default_rng(1).integers(0, 256, (384, 512, 3), np.uint8)
    with rig.open() as backend:
        ours, theirs = backend.run(image, masks, 1.7), reference(rig, masks, 1.7, image)
        for name in SMOOTH:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0,
                                       atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize('kind', ['channels', 'elements'])
def test_replayed_graphs_give_the_same_bits(
    rigs: Rigs, bundles: dict[str, Path], kind: str
) -> None:
    rig = rigs(bundles[kind], passes=6)
    rig.build()
    recorded, plain = rig.open(is_recorded=True), rig.open(is_recorded=False)
    images = np.random.default_rng(2).integers(0, 256, (3, 48, 64, 3), np.uint8)
    for number, image in enumerate(images):
        for seed, temperature in ((number, 1.0), (number, 2.0)):
            masks = pass_inputs(rig.card, 6, seed)
            assert_same_bits(recorded.run(image, masks, temperature),
                             plain.run(image, masks, temperature))
            # A mapping is looked at once, and whoever made it may let it go.
            del masks
    # The trunk and the call of the head, in every frame but the first.
    assert (rig.gpu.captured, rig.gpu.launched) == (2, 2 * 5)
    assert recorded.is_recorded and not plain.is_recorded
    recorded.close()
    plain.close()


def test_mapped_memory_saves_the_copies_of_what_the_host_fills(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    """As on a Jetson; frame after frame, so that a stale buffer would show."""
    found, copied = [], []
    for device in (False, True):
        rig = rigs(bundles['channels'])
        rig.gpu.is_integrated = device
        rig.build()
        masks = pass_inputs(rig.card, rig.passes, 3)
        with rig.open(device=find_device(rig.gpu)) as backend:
            backend.run(IMAGE, masks, 1.0)
            rig.gpu.copied = 0
            found.append([backend.run(image, masks, temperature) for image, temperature in (
                (IMAGE, 1.0), (IMAGE[::-1].copy(), 0.7), (255 - IMAGE, 1.0))])
            copied.append(rig.gpu.copied)
    for plain, mapped in zip(*found, strict=True):
        assert_same_bits(plain, mapped)
    assert copied[0] - copied[1] == 3 * (IMAGE.nbytes + 4)


def test_calls_of_two_sizes_are_not_recorded_and_still_right(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], **FEW)
    rig.build()
    masks = pass_inputs(rig.card, 11, 0)
    with rig.open() as backend:
        for _ in range(3):
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), 11)
        assert (rig.gpu.captured, rig.gpu.launched) == (1, 2)  # the trunk alone


@pytest.mark.parametrize('version', ['10.3.0', RTX])
def test_where_nothing_can_be_recorded_calls_are_enqueued(
    rigs: Rigs, bundles: dict[str, Path], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], version=version)
    rig.build()
    rig.faults.is_uncapturable = True
    masks = pass_inputs(rig.card, rig.passes, 0)
    with rig.open() as backend:
        for _ in range(3):
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
            assert not backend.is_recorded
            rig.faults.is_uncapturable = False  # and not any more
    assert rig.gpu.captured == 0
    assert sum('no CUDA graphs' in record.message for record in caplog.records) == 1


def test_kernels_are_compiled_once_and_not_at_the_next_start(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version=RTX)
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 0)
    compiled = []
    for driver in ('12.6', '12.6', '12.7'):
        rig.faults.driver = driver
        with rig.open() as backend:
            for _ in range(2):
                assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
            assert backend.is_recorded
        compiled.append(rig.gpu.compiled)
    assert compiled == [2, 2, 4]  # trunk and head; another driver cannot use those of the first
    assert len(list(rig.cache.folder.glob('*.kernels'))) == 2
    for needed in rig.engines().all:  # an engine that leaves the cache takes its kernels along
        rig.cache.discard(needed.key(rig.target), 'a test')
    assert [path.suffix for path in rig.cache.folder.iterdir()] == []


@pytest.mark.parametrize('harm', ['cut', 'noise', 'other', 'folder'])
def test_kernels_that_cannot_be_used_are_compiled_again_with_a_sentence(
    rigs: Rigs, bundles: dict[str, Path], harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], version=RTX)
    rig.build()
    key = rig.engines().trunk.key(rig.target)
    path = rig.cache.kernels_path(key)
    masks = pass_inputs(rig.card, rig.passes, 0)
    with rig.open() as backend:
        backend.run(IMAGE, masks, 1.0)
    whole = path.read_bytes()
    path.unlink()
    if harm == 'folder':
        path.mkdir()
    elif harm == 'cut':
        path.write_bytes(whole[:-1])
    else:  # whole, and not for this TensorRT
        rig.cache.store_kernels(key, b'noise' if harm == 'noise' else b'["1.2.3 12.6", []]')
    with rig.open() as backend:
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
    assert rig.gpu.compiled == 3
    assert any(str(path) in record.message or 'kernels' in record.message
               for record in caplog.records if record.levelno == logging.WARNING)
    assert harm == 'folder' or path.read_bytes() == whole


def test_masks_that_failed_half_way_are_not_taken_for_those_before(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    memory = CudaMemory(cuda=rig.gpu)
    bank = MaskBank(rig.card, split_passes(6, 3), memory)
    masks = pass_inputs(rig.card, 6, 0)
    last = list(masks)[-1]
    bank.load(masks)
    with pytest.raises(ValueError, match='broadcast'):
        bank.load({**pass_inputs(rig.card, 6, 1), last: masks[last][:0]})
    bank.load(masks)
    memory.wait()
    for name, expected in masks.items():
        rows = np.concatenate([
            rig.gpu.at(name, buffers[name].address, buffers[name].shape, np.dtype(np.float32))
            for buffers in bank.buffers])
        np.testing.assert_array_equal(rows, expected)


def test_every_pass_is_run_once_in_calls_of_one_size_where_that_costs_few() -> None:
    for passes, limit in itertools.product((1, 2, 7, 20, 37, 50), (1, 2, 7, 20)):
        parts = split_passes(passes, limit)
        rows = [row for part in parts for row in range(part.start, part.stop)]
        assert rows == list(range(passes))
        assert all(part.stop - part.start <= limit for part in parts)
    sizes = [[part.stop - part.start for part in split_passes(*one)]
             for one in ((50, 17), (20, 20), (37, 20))]
    assert sizes == [[10] * 5, [20], [19, 18]]
