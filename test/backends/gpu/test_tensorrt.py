# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Maps of the backend `tensorrt`, on a stand-in for TensorRT that runs ONNX Runtime.

What must hold: they are those of the backend `onnxruntime` under the same masks, however passes
are split, whatever T was before, recorded or not, and in every kind of bundle. The stand-in fails
a test that breaks a rule of TensorRT.

"""

from __future__ import annotations

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
from uncertainty_seg.backends.gpu.device_passes import MaskBank, SeededMasks, split_passes
from uncertainty_seg.core.dropout_masks import pass_inputs, still_inputs
from uncertainty_seg.core.uncertainty import MapRequest, MORE_MAPS
from uncertainty_seg.errors import ShapeError
from uncertainty_seg.storage.model_bundle import load_bundle

__all__ = ['bundles', 'rigs']  # fixtures
pytest.importorskip('torch')
pytestmark = pytest.mark.torch
KINDS = ('channels', 'chunk', 'elements', 'ensemble', 'direct', 'single', 'sampled', 'both',
         'fp16', 'int8')


@pytest.mark.parametrize('kind', KINDS)
def test_maps_are_those_of_onnxruntime(rigs: Rigs, bundles: dict[str, Path], kind: str) -> None:
    rig = rigs(bundles[kind])
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 3)
    backend = rig.open()
    for temperature in (1.0, 2.5, 0.4):
        ours = backend.run(IMAGE, masks, temperature)
        # The two runtimes round to 16 bits in different places of a graph in fp16.
        assert_close(ours, reference(rig, masks, temperature), rig.passes,
                     5e-3 if kind == 'fp16' else TOLERANCE)
    backend.close()
    assert (ours.mutual_information.max() > 0.01) == (rig.passes > 1)


@pytest.mark.parametrize('kind', ['channels', 'chunk', 'elements', 'both', 'fp16'])
def test_coarse_maps_are_those_of_the_processor(
    rigs: Rigs, bundles: dict[str, Path], kind: str
) -> None:
    rig = rigs(bundles[kind], reduction='coarse')
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 3)
    backend = rig.open()
    request = MapRequest.of(MORE_MAPS)
    ours = backend.run(IMAGE, masks, 1.3, request)
    backend.close()
    processor = OnnxRuntimeBackend(rig.bundle, rig.settings)
    theirs = processor.run(IMAGE, masks, 1.3, request)
    processor.close()
    for name in (*SMOOTH, *MORE_MAPS):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0,
                                   atol=5e-3 if kind == 'fp16' else TOLERANCE, err_msg=name)
    assert (ours.label != theirs.label).mean() <= (5e-2 if kind == 'fp16' else 1e-3)
    assert ours.mutual_information.max() > 0.01


def test_a_coarse_head_is_another_engine_with_room_for_more_passes(rigs: Rigs) -> None:
    exact, coarse = (rigs('pipeline', reduction=name) for name in ('exact', 'coarse'))
    keys = [[needed.key(rig.target) for needed in rig.engines().all] for rig in (exact, coarse)]
    assert keys[0][0] == keys[1][0]  # the trunk
    assert keys[0][1] != keys[1][1]
    assert coarse.engines().chunking.passes >= 3 * exact.engines().chunking.passes


@pytest.mark.parametrize('is_recorded', [False, True])
@pytest.mark.parametrize('kind', ['channels', 'chunk'])
def test_maps_do_not_depend_on_how_passes_are_split(
    rigs: Rigs, bundles: dict[str, Path], kind: str, is_recorded: bool
) -> None:
    rig = rigs(bundles[kind], passes=50)
    chunk = rig.card.chunk or 4
    rig.build_for(chunk)
    backend = rig.open(is_recorded=is_recorded)
    for passes in (1, 2, 7, 20, 50, 3, 7):
        masks = pass_inputs(rig.card, passes, passes)
        assert_close(backend.run(IMAGE, masks, 1.3), reference(rig, masks, 1.3), passes)
    backend.close()


def test_the_shipped_model_gives_the_maps_of_onnxruntime(rigs: Rigs) -> None:
    rig = rigs('pipeline', passes=5)
    rig.build()
    masks = pass_inputs(rig.card, 5, 0)
    image = np.random.default_rng(1).integers(0, 256, (384, 512, 3), np.uint8)
    backend = rig.open()
    assert_close(backend.run(image, masks, 1.7), reference(rig, masks, 1.7, image), 5)
    assert list(backend.timings_ms) == ['trunk', 'head', 'reduction']
    backend.close()


def test_another_bank_in_each_frame_is_another_answer(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['elements'], passes=6)
    rig.build_for(3)
    backend = rig.open()
    for seed in (0, 1, 2, 1):
        masks = pass_inputs(rig.card, 6, seed)
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), 6)
        # A mapping is looked at once, and whoever made it may let it go.
        del masks
    backend.close()


@pytest.mark.parametrize('kind', KINDS)
def test_masks_drawn_on_the_device_are_those_of_the_seed(
    rigs: Rigs, bundles: dict[str, Path], kind: str
) -> None:
    rig = rigs(bundles[kind])
    rig.build()
    backend = rig.open()
    for seed in (5, 6):
        seeded = backend.pass_inputs(rig.passes, seed)
        drawn = backend.run(IMAGE, seeded, 1.0)
        if rig.card.method == 'mc_dropout':
            assert not seeded._drawn  # nothing was drawn on the host
        given = backend.run(IMAGE, pass_inputs(rig.card, rig.passes, seed), 1.0)
        assert_same_bits(drawn, given)
    backend.close()


def test_seeded_masks_of_another_card_are_checked_like_any(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig, other = rigs(bundles['channels']), rigs(bundles['elements'])
    rig.build()
    backend = rig.open()
    twin = SeededMasks(load_bundle(str(bundles['channels'])).card, 4, 9)
    assert_same_bits(backend.run(IMAGE, twin, 1.0),
                     backend.run(IMAGE, backend.pass_inputs(4, 9), 1.0))
    with pytest.raises(ShapeError, match='masks for'):
        backend.run(IMAGE, SeededMasks(other.card, 4, 9), 1.0)
    backend.close()


@pytest.mark.parametrize('kind', ['channels', 'chunk', 'elements'])
def test_replayed_graphs_give_the_same_bits(
    rigs: Rigs, bundles: dict[str, Path], kind: str
) -> None:
    rig = rigs(bundles[kind], passes=6)
    rig.build_for(3)
    recorded, plain = rig.open(is_recorded=True), rig.open(is_recorded=False)
    images = np.random.default_rng(2).integers(0, 256, (4, 48, 64, 3), np.uint8)
    for number, image in enumerate(images):
        for seed, temperature in ((number, 1.0), (number, 2.0)):
            masks = pass_inputs(rig.card, 6, seed)
            assert_same_bits(recorded.run(image, masks, temperature),
                             plain.run(image, masks, temperature))
    # The trunk and both calls of the head, in every frame but the first.
    assert (rig.gpu.captured, rig.gpu.replayed) == (3, 3 * 7)
    assert recorded.is_recorded
    recorded.close()
    plain.close()


@pytest.mark.parametrize('kind', ['channels', 'fp16'])
def test_mapped_memory_saves_the_copies_of_what_the_host_fills(
    rigs: Rigs, bundles: dict[str, Path], kind: str
) -> None:
    """As on a Jetson; frame after frame, so that a stale buffer would show."""
    found, copied = [], []
    for is_mapped in (False, True):
        rig = rigs(bundles[kind])
        rig.gpu.is_mapped = is_mapped
        rig.build()
        backend = rig.open()
        masks = backend.pass_inputs(rig.passes, 3)
        backend.run(IMAGE, masks, 1.0)
        rig.gpu.copied = 0
        found.append([backend.run(image, masks, temperature) for image, temperature in (
            (IMAGE, 1.0), (IMAGE[::-1].copy(), 0.7), (255 - IMAGE, 1.0))])
        copied.append(rig.gpu.copied)
        backend.close()
    for plain, mapped in zip(*found, strict=True):
        assert all(np.array_equal(getattr(plain, name), getattr(mapped, name))
                   for name in ('label', *SMOOTH))
    assert copied[0] - copied[1] == 3 * (IMAGE.nbytes + 4)


def test_calls_of_two_sizes_are_not_recorded_and_still_right(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], passes=8)
    rig.build_for(4)
    backend = rig.open()
    masks = pass_inputs(rig.card, 7, 0)
    for _ in range(3):
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), 7)
    assert (rig.gpu.captured, rig.gpu.replayed) == (1, 2)  # the trunk alone
    backend.close()


@pytest.mark.parametrize('version', ['10.3.0', '1.7.1.116'])
def test_where_nothing_can_be_recorded_calls_are_enqueued(
    rigs: Rigs, bundles: dict[str, Path], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], version=version)
    rig.build()
    rig.faults.is_uncapturable = True
    backend = rig.open()
    masks = pass_inputs(rig.card, rig.passes, 0)
    wanted = reference(rig, masks)
    with caplog.at_level(logging.INFO):
        for _ in range(1 + 1 + 10 + 100):
            assert_close(backend.run(IMAGE, masks, 1.0), wanted, rig.passes)
            assert not backend.is_recorded
    tried = [record.message.split(' frames: ')[0].split()[-1] for record in caplog.records
             if 'to be tried again in' in record.message]
    assert tried == ['1', '10', '100']
    # And not any more.
    rig.faults.is_uncapturable = False
    assert_close(backend.run(IMAGE, masks, 1.0), wanted, rig.passes)
    assert not backend.is_recorded
    assert rig.gpu.captured == 0
    assert [record.message for record in caplog.records].count(
        'no CUDA graphs, which only costs time: ' + (
            'trunk cannot be recorded on a stream.' if version.startswith('1.')
            else 'CUDA error: operation not permitted when stream is capturing')) == 1
    backend.close()


@pytest.mark.parametrize('version', ['10.3.0', '1.7.1.116'])
def test_what_could_not_be_recorded_once_is_recorded_in_a_later_frame(
    rigs: Rigs, bundles: dict[str, Path], version: str
) -> None:
    rig = rigs(bundles['channels'], version=version)
    rig.build()
    backend = rig.open()
    masks = pass_inputs(rig.card, rig.passes, 0)
    rig.faults.is_uncapturable = True
    maps = [backend.run(IMAGE, masks, 1.0)]
    rig.faults.is_uncapturable = False
    maps += [backend.run(IMAGE, masks, 1.0) for _ in range(3)]
    assert backend.is_recorded
    assert (rig.gpu.captured, rig.gpu.replayed) == (2, 4)
    for one in maps:
        assert_close(one, reference(rig, masks), rig.passes)
    backend.close()


def test_kernels_are_compiled_once_and_not_at_the_next_start(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 0)
    compiled = []
    for driver in ('12.6', '12.6', '12.7'):
        rig.faults.driver = driver
        backend = rig.open()
        for _ in range(2):
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
        assert backend.is_recorded
        backend.close()
        compiled.append(rig.gpu.compiled)
    assert compiled == [2, 2, 4]  # trunk and head; another driver cannot use those of the first
    assert len(list(rig.cache.folder.glob('*.kernels'))) == 2


@pytest.mark.parametrize('harm', ['cut', 'flipped', 'noise', 'other', 'folder'])
def test_kernels_that_cannot_be_used_are_compiled_again_with_a_sentence(
    rigs: Rigs, bundles: dict[str, Path], harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
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
    elif harm in ('noise', 'other'):  # whole, and not for this TensorRT
        rig.cache.store_kernels(key, b'noise' if harm == 'noise' else b'["1.2.3 12.6", []]')
    else:
        path.write_bytes(whole[:-1] + (b'' if harm == 'cut' else bytes([whole[-1] ^ 1])))
    with rig.open() as backend:
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
    assert rig.gpu.compiled == 3
    says = {'cut': 'is damaged and is ignored', 'flipped': 'is damaged and is ignored',
            'folder': 'compiled kernels are not kept'}.get(
                harm, 'compiled kernels of trunk do not fit this GPU and driver and are ignored')
    assert sum(says in record.message for record in caplog.records) == 1
    assert harm == 'folder' or path.read_bytes() == whole


def test_an_engine_that_leaves_the_cache_takes_its_kernels_along(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
    rig.build()
    with rig.open() as backend:
        backend.run(IMAGE, pass_inputs(rig.card, rig.passes, 0), 1.0)
    for needed in rig.engines().all:
        rig.cache.discard(needed.key(rig.target), 'a test')
    assert [path.suffix for path in rig.cache.folder.iterdir() if path.suffix != '.lock'] == []


def test_masks_that_failed_half_way_are_not_taken_for_those_before(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    bank = MaskBank(rig.card, split_passes(6, 3), rig.gpu)
    masks = pass_inputs(rig.card, 6, 0)
    last = list(masks)[-1]
    bank.load(masks)
    with pytest.raises(ValueError, match='broadcast'):
        bank.load({**pass_inputs(rig.card, 6, 1), last: masks[last][:0]})
    bank.load(masks)
    for name, expected in masks.items():
        rows = np.concatenate([buffers[name].numpy() for buffers in bank.buffers])
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize('kind', ['channels', 'chunk', 'ensemble'])
def test_equal_passes_agree(rigs: Rigs, bundles: dict[str, Path], kind: str) -> None:
    rig = rigs(bundles[kind])
    rig.build()
    backend = rig.open()
    maps = backend.run(IMAGE, still_inputs(rig.card, 4), 1.0)
    assert 0 <= maps.mutual_information.min() <= maps.mutual_information.max() < 1e-6
    assert not maps.variation_ratio.any()
    backend.close()


@pytest.mark.parametrize('version', ['8.6.1', '10.16.1.11', '11.4.0.106', '1.4.0.76'])
def test_one_code_path_runs_every_version(
    rigs: Rigs, bundles: dict[str, Path], version: str
) -> None:
    rig = rigs(bundles['channels'], version=version)
    rig.build()
    backend = rig.open()
    masks = pass_inputs(rig.card, rig.passes, 0)
    assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
    assert (backend.version, backend.device_name) == (version, 'Fake')
    backend.close()
