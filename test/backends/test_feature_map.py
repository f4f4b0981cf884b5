# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The output of features has the same numbers from every runtime."""

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


def written(folder: Path, features: str) -> Path:
    made = compiled(features)
    card = dataclasses.replace(card_of(made, 'mc_dropout', passes=5),
                               feature_shape=made.feature_shape)
    write_bundle(folder, card, made.files)
    return folder


@pytest.mark.parametrize('kind', [OnnxRuntimeBackend, OpenVinoBackend, None])
@pytest.mark.parametrize('features', ['auto', 'none'])
def test_every_runtime_gives_the_features_of_its_frame_or_else_what_the_head_takes(
    kind: type[OnnxRuntimeBackend] | None, features: str, tmp_path: Path,
    rigs: Callable[..., Rig],  # noqa: F811
) -> None:
    folder = written(tmp_path / 'b', features)
    bundle, names = load_bundle(str(folder)), ['feature_map']
    if features == 'none':
        import onnxruntime

        session = onnxruntime.InferenceSession(compiled(features).files['trunk.onnx'])
        names = [output.name for output in session.get_outputs()]
    wanted = trunk_run(compiled(features), names)[0]
    masks = pass_inputs(bundle.card, 5, 0)
    if kind is None:
        rig = rigs(folder)
        rig.build()
        backend: Any = rig.open()
    else:
        backend = kind(bundle, Settings(threads=1))
    with backend:
        assert backend.last_features() is None
        for image in (IMAGE[::-1], IMAGE):
            found = backend.run(np.ascontiguousarray(image), masks, 1.0).features
            last = backend.last_features()
    if features == 'auto':
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    if kind is not None:
        assert last is not None and last.dtype == np.float32
        np.testing.assert_allclose(last, wanted, rtol=1e-4, atol=1e-4)
    assert backend.last_features() is None  # closed


def test_a_card_that_asks_for_other_features_than_the_trunk_gives_is_refused(
    tmp_path: Path
) -> None:
    folder = written(tmp_path / 'b', 'auto')
    bundle = load_bundle(str(folder))
    files = {name: (folder / name).read_bytes() for name in bundle.card.sha256}
    for index, shape in enumerate(((13, 3, 4), None)):
        card = dataclasses.replace(bundle.card, feature_shape=shape)
        write_bundle(tmp_path / f'o{index}', card, files)
        with pytest.raises(ModelBundleError, match='feature_map'):
            OnnxRuntimeBackend(load_bundle(str(tmp_path / f'o{index}')), Settings(threads=1))
