# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The self-check's reference agrees with the definitions, for every kind of bundle."""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import sys

from conftest import (
    TINY_HEIGHT,
    TINY_PASSES,
    TINY_WIDTH,
)
import numpy as np
import pytest

from uncertainty_seg.compiler.self_check import Reference
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.uncertainty import sums_of_logits
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

# A seed without equal channels, for which rounding would decide the votes.
IMAGE = np.random.default_rng(2).integers(0, 256, (TINY_HEIGHT, TINY_WIDTH, 3), np.uint8)
TEMPERATURE = 0.7


def logits(bundle: ModelBundle, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the tiny network's logits, computed by hand."""
    blocks = IMAGE.reshape(12, 4, 16, 4, 3).mean((1, 3), dtype=np.float64) / 255
    return blocks.transpose(2, 0, 1)[None] * masks['drop'] * 8


@pytest.mark.parametrize('offset', [(0.0, 0.0), (0.2, 0.1)])
def test_it_is_the_definition_at_the_grid_of_the_card(
    tiny_bundle: Path, offset: tuple[float, float]
) -> None:
    bundle = load_bundle(str(tiny_bundle))
    bundle = dataclasses.replace(
        bundle, card=dataclasses.replace(bundle.card, grid_offset=offset))
    masks = pass_inputs(bundle.card, TINY_PASSES, 3)
    found = Reference(bundle, 1).run(IMAGE, masks, TEMPERATURE)
    right = sums_of_logits(logits(bundle, masks), TEMPERATURE, offset)
    assert found.passes == right.passes == TINY_PASSES
    for name in ('p', 'entropy_nats', 'p_squared', 'votes', 'logits'):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name),
                                   rtol=1e-5, atol=1e-5, err_msg=name)


def test_without_onnx_runtime_it_says_what_it_needs(
        tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(BackendUnavailableError, match='onnxruntime cannot be imported'):
        Reference(load_bundle(str(tiny_bundle)))
