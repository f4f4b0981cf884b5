# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Element masks are drawn when they are read: equal sums, and constant memory."""

from collections.abc import Callable
from pathlib import Path

from masked_bundles import channels_bundle, elements_bundle
import numpy as np
import pytest

from uncertainty_seg.backends.cpu.streaming import StreamingBackend
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core import dropout_masks
from uncertainty_seg.core.dropout_masks import lazy_inputs, LazyRows, pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps
from uncertainty_seg.storage.model_bundle import load_bundle

BUNDLES: dict[str, Callable[[Path], Path]] = {
    'elements': elements_bundle,
    'padded': lambda folder: channels_bundle(folder, 'element'),
}


@pytest.fixture(autouse=True)
def all_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the masks of every element site lazy."""
    monkeypatch.setattr(dropout_masks, 'LAZY_BYTES', 4 * 48 * 64)


def opened(folder: Path, backend: str, kind: str) -> StreamingBackend:
    if backend == 'openvino':
        pytest.importorskip('openvino')
    bundle = load_bundle(str(BUNDLES[kind](folder)))
    runner = open_backend(backend, bundle, Settings(threads=1, memory_budget_mb=1))
    assert isinstance(runner, StreamingBackend)
    return runner


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize('kind', BUNDLES)
@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_masks_drawn_when_read_give_the_sums_of_masks_drawn_before(
    tmp_path: Path, backend: str, kind: str
) -> None:
    runner = opened(tmp_path / 'bundle', backend, kind)
    card = load_bundle(str(tmp_path / 'bundle')).card
    assert any(isinstance(rows, LazyRows) for rows in lazy_inputs(card, 21, 0).values())
    for seed in (0, 1, 0):
        drawn = runner.run(IMAGE, pass_inputs(card, 21, seed), 1.0)
        lazy = runner.run(IMAGE, lazy_inputs(card, 21, seed), 1.0)
        for name in ('p', 'entropy_nats', 'p_squared', 'votes', 'logits'):
            np.testing.assert_array_equal(getattr(lazy, name), getattr(drawn, name))
        assert grid_maps(lazy).mutual_information.max() > 0.01
    runner.close()
