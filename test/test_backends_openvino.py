# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""OpenVINO alone: parity with ONNX Runtime, precision, threads, heads, and that it keeps quiet."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from uncertainty_seg.backends.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.openvino import OpenVinoBackend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle, shipped_bundles

pytest.importorskip('openvino')
SETTINGS = Settings(threads=1)


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


@pytest.fixture(params=['tiny', *shipped_bundles()])
def any_bundle(request: pytest.FixtureRequest, tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle) if request.param == 'tiny' else request.param)


def picture(bundle: ModelBundle) -> np.ndarray:
    """Return blocks of colour under noise: neither all certain nor all unsure."""
    spec, draw = bundle.card.input, np.random.default_rng(1)
    blocks = draw.integers(0, 256, (spec.height // 16, spec.width // 16, 3))
    image = np.kron(blocks, np.ones((16, 16, 1))) + draw.normal(0, 12, (1, 1, 3))
    image = image + draw.normal(0, 8, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def differences(one: UncertaintyMaps, other: UncertaintyMaps) -> dict[str, np.ndarray]:
    return {f.name: np.abs(getattr(one, f.name).astype(np.float64) - getattr(other, f.name))
            for f in dataclasses.fields(one)}


def closed(backend: OpenVinoBackend | OnnxRuntimeBackend, bundle: ModelBundle,
           passes: int) -> UncertaintyMaps:
    maps = backend.run(picture(bundle), make_masks(bundle.card.dropout_sites, passes, 0), 1.0)
    backend.close()
    return maps


def assert_parity(bundle: ModelBundle, passes: int, settings: Settings = SETTINGS) -> None:
    """Every map within 2e-5; label and votes may differ where two classes are equal."""
    ours = closed(OpenVinoBackend(bundle, settings), bundle, passes)
    theirs = closed(OnnxRuntimeBackend(bundle, settings), bundle, passes)
    found = differences(ours, theirs)
    votes, label = found.pop('variation_ratio'), found.pop('label')
    assert {name: d.max() for name, d in found.items() if not d.max() <= 2e-5} == {}
    assert (label > 0).mean() <= 1e-4
    assert (votes > 2e-5).mean() <= 1e-4


@pytest.mark.parametrize('passes', [1, 20, 50])
def test_the_same_masks_give_the_maps_of_onnxruntime(
    any_bundle: ModelBundle, passes: int
) -> None:
    assert_parity(any_bundle, passes)
