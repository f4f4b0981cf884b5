# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Masks that are the same in every frame become constants of a head that skips dropped channels.

What must hold: the maps are those of the head that takes them as inputs, and of the head that
computes every channel; and another bank of masks is never answered with the last one's.

"""

from pathlib import Path

from masked_bundles import channels_bundle
import numpy as np
import pytest

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

PASSES = 5
BACKENDS = ('onnxruntime', 'openvino')


def maps(folder: Path, backend: str, policy: str, *seeds: int) -> list[UncertaintyMaps]:
    if backend == 'openvino':
        pytest.importorskip('openvino')
    bundle = load_bundle(str(folder))
    opened = open_backend(
        backend, bundle, Settings(threads=1, reduction='exact', mask_policy=policy))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    result = [opened.run(image, pass_inputs(bundle.card, PASSES, seed), 1.0) for seed in seeds]
    opened.close()
    return result


@pytest.fixture(scope='module')
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp('bank')
    return {chunk: channels_bundle(folder / str(chunk), chunk) for chunk in (0, 1, 2)}


@pytest.mark.parametrize('chunk', [1, 2])
@pytest.mark.parametrize('backend', BACKENDS)
def test_constant_masks_give_the_maps_of_all_channels(
    bundles: dict[int, Path], backend: str, chunk: int
) -> None:
    (ours,) = maps(bundles[chunk], backend, 'fixed', 0)
    (given,) = maps(bundles[chunk], backend, 'per_frame', 0)
    (whole,) = maps(bundles[0], backend, 'fixed', 0)
    for name in ('entropy', 'mutual_information', 'total_variance', 'aleatoric'):
        np.testing.assert_allclose(getattr(ours, name), getattr(given, name), atol=2e-5)
        np.testing.assert_allclose(getattr(ours, name), getattr(whole, name), atol=2e-5)
    assert ours.mutual_information.max() > 0.01


@pytest.mark.parametrize('backend', BACKENDS)
def test_another_bank_is_not_answered_with_the_last(
    bundles: dict[int, Path], backend: str
) -> None:
    first, second, again = maps(bundles[1], backend, 'fixed', 0, 1, 0)
    assert abs(first.entropy - second.entropy).max() > 1e-3
    np.testing.assert_array_equal(first.entropy, again.entropy)
