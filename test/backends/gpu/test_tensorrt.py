# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Maps of the backend `tensorrt`, on a fake TensorRT that runs ONNX Runtime.

They equal those of the backend `onnxruntime` with the same masks: for any split of the passes, any
earlier T, captured graphs or not, and every kind of bundle. The fake fails a test that breaks a
rule of TensorRT.
"""

import gc
from pathlib import Path
from typing import Any

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
    TOLERANCE,
)

from uncertainty_seg.backends.gpu.nvidia import find_device
from uncertainty_seg.backends.gpu.tensorrt import NoMemoryError
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.uncertainty import grid_maps

__all__ = ['bundles', 'rigs']  # fixtures
KINDS = ('channels', 'elements', 'ensemble', 'direct', 'single', 'sampled', 'both', 'fp16')
RTX = '1.7.1.116'
# Settings that run five passes at once for the bundle `channels`.
FEW = {'passes': 50, 'memory_budget_mb': 4}


@pytest.mark.parametrize('kind', KINDS)
def test_maps_are_those_of_onnxruntime(rigs: Rigs, bundles: dict[str, Path], kind: str) -> None:
    rig = rigs(bundles[kind], version=RTX if kind == 'both' else '10.3.0')
    rig.build()
    with rig.open() as backend:
        for seed, temperature in ((3, 1.0), (3, 2.5), (4, 0.4)):
            masks = pass_inputs(rig.card, rig.passes, seed)
            ours = backend.run(IMAGE, masks, temperature)
            # The runtimes round to 16 bits at different places of an fp16 graph.
            assert_close(ours, reference(rig, masks, temperature),
                         5e-3 if kind == 'fp16' else TOLERANCE)
        assert list(backend.timings_ms) == ['trunk', 'passes']
        assert backend.is_recorded and backend.device_name == 'Fake'
    assert (grid_maps(ours).mutual_information.max() > 0.01) == (rig.passes > 1)
    del backend
    gc.collect()
    assert rig.gpu.live == {} and rig.gpu.handles == []


@pytest.mark.parametrize('is_recorded', [False, True])
def test_maps_do_not_depend_on_how_passes_are_split(
    rigs: Rigs, bundles: dict[str, Path], is_recorded: bool
) -> None:
    rig = rigs(bundles['channels'], **FEW)
    assert rig.engines().calls[0].stop == 5
    rig.build()
    with rig.open(is_recorded=is_recorded) as backend:
        for passes in (1, 2, 7, 20, 50, 3, 7):
            masks = pass_inputs(rig.card, passes, passes)
            assert_close(backend.run(IMAGE, masks, 1.3), reference(rig, masks, 1.3))


@pytest.mark.parametrize('kind', ['channels', 'elements'])
@pytest.mark.parametrize('facts', [{'passes': 6}, {'passes': 19, 'memory_budget_mb': 4}])
def test_graphs_are_recorded_before_the_first_frame_and_give_the_same_bits(
    rigs: Rigs, bundles: dict[str, Path], kind: str, facts: dict[str, int]
) -> None:
    rig = rigs(bundles[kind], **facts)
    rig.build()
    calls = rig.engines().calls
    recorded, plain = rig.open(is_recorded=True), rig.open(is_recorded=False)
    graphs = 1 + len({call.stop - call.start for call in calls})
    assert rig.gpu.captured == graphs
    images = np.random.default_rng(2).integers(0, 256, (3, 48, 64, 3), np.uint8)
    for number, image in enumerate(images):
        for seed, temperature in ((number, 1.0), (number, 2.0)):
            masks = pass_inputs(rig.card, rig.passes, seed)
            assert_same_bits(recorded.run(image, masks, temperature),
                             plain.run(image, masks, temperature))
            # The backend has read the masks, so that the caller may release them.
            del masks
    assert (rig.gpu.captured, rig.gpu.launched) == (graphs, 6 * (1 + len(calls)))
    assert recorded.is_recorded and not plain.is_recorded
    recorded.close()
    plain.close()


def test_what_another_number_of_passes_needed_is_freed_and_graphs_stay_right(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    """Rely on the fake, which fails if a graph's context changed after the capture."""
    rig = rigs(bundles['channels'], version=RTX, passes=10)
    rig.build()
    with rig.open() as backend:
        found = []
        for passes in (10, 7, 10, 11, 10):
            masks = pass_inputs(rig.card, passes, 3)
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks))
            gc.collect()
            found.append((len(rig.gpu.contexts), rig.gpu.live_bytes()))
        assert found[0] == found[2] == found[4]
        assert [contexts for contexts, _ in found] == [2, 3, 2, 4, 2]
        assert rig.gpu.captured == 2 and backend.is_recorded


def test_mapped_memory_saves_the_copies_of_what_the_host_fills(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    """Run several frames as on a Jetson, so that a stale buffer would be detected."""
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
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks))
            assert not backend.is_recorded
            rig.faults.is_uncapturable = False  # capture works again, but is not retried
    assert rig.gpu.captured == 0
    assert sum('without CUDA graphs' in record.message for record in caplog.records) == 1


class Unreadable(np.ndarray):
    """Masks that raise MemoryError when they are read."""

    def __getitem__(self, rows: Any) -> Any:
        raise MemoryError('no room to draw')


def test_masks_that_failed_half_way_are_not_taken_for_those_before(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'])
    rig.build()
    masks: Any = pass_inputs(rig.card, rig.passes, 0)
    others: Any = pass_inputs(rig.card, rig.passes, 1)
    last = list(masks)[-1]
    with rig.open() as backend:
        backend.run(IMAGE, masks, 1.0)
        with pytest.raises(NoMemoryError):
            backend.run(IMAGE, {**others, last: masks[last].view(Unreadable)}, 1.0)
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks))
