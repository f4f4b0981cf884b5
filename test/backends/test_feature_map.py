# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The feature output has equal values in every runtime."""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from feature_nets import compiled, trunk_run
from masked_bundles import card_of
import numpy as np
import pytest
from tensorrt_rig import IMAGE, Rig, rigs  # noqa: F401

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.cpu.openvino import OpenVinoBackend
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle


def written(folder: Path) -> Path:
    made = compiled('auto')
    card = dataclasses.replace(card_of(made, 'mc_dropout', passes=5),
                               feature_shape=made.feature_shape)
    write_bundle(folder, card, made.files)
    return folder


@pytest.mark.parametrize('kind', [OnnxRuntimeBackend, OpenVinoBackend, None])
def test_every_runtime_gives_the_features_of_its_frame(
    kind: type[OnnxRuntimeBackend] | None, tmp_path: Path,
    rigs: Callable[..., Rig],  # noqa: F811
) -> None:
    folder = written(tmp_path / 'b')
    bundle, wanted = load_bundle(str(folder)), trunk_run(compiled('auto'), ['feature_map'])[0]
    masks = pass_inputs(bundle.card, 5, 0)
    if kind is None:
        rig = rigs(folder)
        rig.build()
        backend: Any = rig.open()
    else:
        backend = kind(bundle, Settings(threads=1))
    with backend:
        for image in (IMAGE[::-1], IMAGE):
            found = backend.run(np.ascontiguousarray(image), masks, 1.0).features
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_card_that_asks_for_other_features_than_the_trunk_gives_is_refused(
    tmp_path: Path
) -> None:
    folder = written(tmp_path / 'b')
    bundle = load_bundle(str(folder))
    files = {name: (folder / name).read_bytes() for name in bundle.card.sha256}
    for index, shape in enumerate(((13, 3, 4), None)):
        card = dataclasses.replace(bundle.card, feature_shape=shape)
        write_bundle(tmp_path / f'o{index}', card, files)
        with pytest.raises(ModelBundleError, match='feature_map'):
            OnnxRuntimeBackend(load_bundle(str(tmp_path / f'o{index}')), Settings(threads=1))
