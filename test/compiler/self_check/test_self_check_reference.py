# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The reference of the self-check is the definition, for every kind of bundle."""

from __future__ import annotations

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
from uncertainty_seg.core.uncertainty import (
    maps_from_coarse_logits,
    maps_from_logits,
    UncertaintyMaps,
)
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

IMAGE = np.random.default_rng(0).integers(0, 256, (TINY_HEIGHT, TINY_WIDTH, 3), np.uint8)
TEMPERATURE = 0.7


def logits(bundle: ModelBundle) -> np.ndarray:
    """Work out by hand what the tiny network gives."""
    blocks = IMAGE.reshape(12, 4, 16, 4, 3).mean((1, 3), dtype=np.float64) / 255
    masks = pass_inputs(bundle.card, TINY_PASSES, 3)['drop']
    return blocks.transpose(2, 0, 1)[None] * masks * 8


def run(bundle: ModelBundle, reduction: str = 'exact') -> UncertaintyMaps:
    masks = pass_inputs(bundle.card, TINY_PASSES, 3)
    return Reference(bundle, 1, reduction).run(IMAGE, masks, TEMPERATURE)


def assert_close(found: UncertaintyMaps, right: UncertaintyMaps) -> None:
    assert found.present == right.present
    for name in right.present:
        np.testing.assert_allclose(getattr(found, name), getattr(right, name),
                                   rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
@pytest.mark.parametrize('reduction', ['exact', 'coarse'])
def test_it_is_the_definition_of_the_reduction(
        tiny_bundle: Path, reduction: str, upsampling: str) -> None:
    bundle = load_bundle(str(tiny_bundle))
    card = dataclasses.replace(bundle.card, upsampling=upsampling)
    bundle = dataclasses.replace(bundle, card=card)
    define = maps_from_logits if reduction == 'exact' else maps_from_coarse_logits
    right = define(logits(bundle), TINY_HEIGHT, TINY_WIDTH, TEMPERATURE, upsampling)
    assert_close(run(bundle, reduction), right)


def test_without_onnx_runtime_it_says_what_it_needs(
        tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(BackendUnavailableError, match='the check compares with it'):
        Reference(load_bundle(str(tiny_bundle)))
