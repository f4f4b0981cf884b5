# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Our measures of the same passes agree with other libraries' (docs/explanation/peers.md).

Peers get float32 probabilities computed by torch, as from their users. Ours come from the shipped
backend. Only this file and the benchmarks use the peers.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
from masked_bundles import channels_bundle
import numpy as np
import pytest

from written import Written

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torch_uncertainty',
                    reason='not installed: scripts/requirements/peers.txt')
pytest.importorskip('baal',
                    reason='not installed: scripts/requirements/peers.txt')

from baal.active import heuristics  # noqa: E402, I100
from torch_uncertainty.metrics import classification as metrics  # noqa: E402

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.core.dropout_masks import pass_inputs  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.core.uncertainty import grid_maps, UncertaintyMaps  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.release,
              pytest.mark.filterwarnings('ignore::UserWarning')]
ROOT = Path(__file__).resolve().parents[2]
PASSES = 256
CLOSE = 2e-6  # float32 on both sides; measured: 7e-7


@dataclass(frozen=True)
class Passes:
    """One frame: our maps at the grid, and probabilities (T, C, hg, wg) for peers."""

    maps: UncertaintyMaps
    probs: torch.Tensor

    @property
    def for_metrics(self) -> torch.Tensor:
        """Return the form that torch-uncertainty expects, (pixels, T, C)."""
        return self.probs.permute(2, 3, 0, 1).flatten(0, 1)

    @property
    def for_heuristics(self) -> np.ndarray:
        """Return the form that baal expects, (1, C, h, w, T)."""
        return self.probs.permute(1, 2, 3, 0)[None].numpy()

    def ours(self, name: str) -> np.ndarray:
        return getattr(self.maps, name)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def photograph() -> np.ndarray:
    sheet = cv2.imread(str(ROOT / 'docs' / 'pictures' / 'demo_contact_sheet.jpg'))
    return np.ascontiguousarray(cv2.resize(sheet, (512, 384))[..., ::-1])


def our_maps(bundle: ModelBundle, image: np.ndarray, passes: int, seed: int) -> UncertaintyMaps:
    with OnnxRuntimeBackend(bundle, Settings(threads=1)) as backend:
        return grid_maps(backend.run(image, pass_inputs(bundle.card, passes, seed), 1.0))


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return load_bundle(str(channels_bundle(tmp_path_factory.mktemp('small') / 'bank')))


@pytest.fixture(scope='module', params=['small', 'pipeline'])
def frame(request: pytest.FixtureRequest) -> Passes:
    if request.param == 'small':
        bundle, image, passes = request.getfixturevalue('small'), noise(), PASSES
    else:
        bundle = load_bundle(str(ROOT / 'config' / 'models' / 'pipeline'))
        image, passes = photograph(), 20
    logits = Written.of(bundle).logits(image, pass_inputs(bundle.card, passes, 0))
    return Passes(our_maps(bundle, image, passes, 0), torch.from_numpy(logits).softmax(1))


def measured(metric: object, probs: torch.Tensor, like: np.ndarray) -> np.ndarray:
    metric.update(probs)
    return metric.compute().reshape(like.shape).numpy()


def ln_c(frame: Passes) -> float:
    return float(np.log(frame.probs.shape[1]))


def test_entropy_is_theirs_over_ln_c(frame: Passes) -> None:
    ours = frame.ours('entropy')
    theirs = measured(metrics.Entropy(reduction=None), frame.for_metrics.mean(1), ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    theirs = heuristics.Entropy().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)


def test_mutual_information_is_theirs_over_ln_c(frame: Passes) -> None:
    ours = frame.ours('mutual_information')
    theirs = measured(metrics.MutualInformation(reduction=None), frame.for_metrics, ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    theirs = heuristics.BALD().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    assert ours.max() > 0.05


def test_the_entropy_torch_uncertainty_takes_of_passes_is_our_aleatoric(frame: Passes) -> None:
    ours = frame.ours('aleatoric')
    theirs = measured(metrics.Entropy(reduction=None), frame.for_metrics, ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)


def test_total_variance_is_the_sum_over_classes_of_which_baal_takes_the_mean(
    frame: Passes
) -> None:
    ours = frame.ours('total_variance')
    per_pixel = heuristics.Variance(reduction=lambda values: values.mean(1))
    theirs = per_pixel.get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs * frame.probs.shape[1], atol=CLOSE)


def test_confidence_is_baals_certainty_and_one_minus_a_variation_ratio(frame: Passes) -> None:
    ours = frame.ours('confidence')
    theirs = heuristics.Certainty().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs, atol=CLOSE)
    ratio = metrics.VariationRatio(probabilistic=True, reduction=None)
    theirs = measured(ratio, frame.for_metrics.transpose(0, 1), ours)
    np.testing.assert_allclose(ours, 1 - theirs, atol=CLOSE)
