# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One member of an ensemble as a bundle: equal output, and no nodes of the other members."""

from pathlib import Path

from conftest import make_tiny_bundle
import numpy as np
import onnx
import pytest

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import still_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.first_member import first_member
from uncertainty_seg.storage.model_bundle import load_bundle


def test_the_first_member_alone_is_what_the_mask_that_chooses_it_gives(tmp_path: Path) -> None:
    suim = load_bundle('suim')
    alone = first_member(suim, tmp_path / 'one')
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 320, 3)).astype(np.float32)

    def sums(bundle: ModelBundle) -> np.ndarray:
        backend = open_backend('onnxruntime', bundle, Settings(threads=1))
        found = backend.run(image[0].astype(np.uint8), still_inputs(bundle.card, 1), 1.0)
        backend.close()
        return found.p

    np.testing.assert_allclose(sums(alone), sums(suim), atol=2e-6)
    assert load_bundle(str(tmp_path / 'one'), False).card.method == 'single'
    # ONNX Runtime runs unused nodes too, so they must be removed.
    both, one = (len(onnx.load(bundle.trunk_path).graph.node) for bundle in (suim, alone))
    assert one < 0.65 * both


def test_what_has_no_members_is_not_taken_apart(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    with pytest.raises(ModelBundleError, match='tiny'):
        first_member(bundle, tmp_path / 'one')
