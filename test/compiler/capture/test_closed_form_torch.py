# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The closed form of a compiled bundle against passes of the torch network, untouched."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402

from uncertainty_seg.backends.closed_form import linear_head, LinearHead  # noqa: E402
from uncertainty_seg.cli.compile import compile_network  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402

pytestmark = pytest.mark.torch
RATE, PASSES = 0.4, 4096
IMAGE = np.random.default_rng(3).integers(0, 256, (1, 24, 32, 3), np.uint8)


class LastDropout(nn.Module):
    """Eight features, dropped, and a classifier; upsampled behind it, as most networks are."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop = nn.Conv2d(3, 8, 3, stride=4, padding=1), drop
        self.last = nn.Conv2d(8, 3, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).relu()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.last(self.drop(self.features(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.logits(x), x.shape[2:], mode='bilinear')


def planes() -> torch.Tensor:
    scaled = ((IMAGE / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    return torch.from_numpy(scaled.astype(np.float32))


@pytest.fixture(scope='module', params=[nn.Dropout2d, nn.Dropout], ids=lambda kind: kind.__name__)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LastDropout, LinearHead, np.ndarray]:
    """Return a network, the layer that was read from its bundle, and the bundle's features."""
    net = LastDropout(request.param(RATE)).eval()
    bundle: ModelBundle = compile_network(
        copy.deepcopy(net), tmp_path_factory.mktemp('net') / 'bundle', (32, 24),
        ('water', 'reef', 'diver'), mean=(0.5,) * 3, std=(0.25,) * 3, full_weights=True,
        compare_passes=0).bundle
    trunk = onnxruntime.InferenceSession(str(bundle.trunk_path))
    features = trunk.run(None, {'image': IMAGE})[0]
    return net, linear_head(bundle), features.reshape(8, -1).astype(np.float64)


def test_mean_and_covariance_are_those_of_all_256_masks(
    made: tuple[LastDropout, LinearHead, np.ndarray]
) -> None:
    net, head, features = made
    with torch.no_grad():
        seen = net.features(planes()).double()
        last = copy.deepcopy(net.last).double()
        logits, chances = [], []
        for kept in itertools.product((0.0, 1.0), repeat=8):
            mask = torch.tensor(kept, dtype=torch.float64)[None, :, None, None] / (1 - RATE)
            logits.append(3 * last(seen * mask).numpy()[0].reshape(3, -1))
            chances.append(np.prod([1 - RATE if k else RATE for k in kept]))
    z, p = np.stack(logits), np.array(chances)
    mean = np.einsum('t,tcn->cn', p, z)
    covariance = np.einsum('t,tcn,tdn->cdn', p, z - mean, z - mean)
    np.testing.assert_allclose(head.mean(features), mean, atol=1e-6 * np.abs(mean).max())
    np.testing.assert_allclose(head.covariance(features), covariance,
                               atol=1e-6 * covariance.max())


def test_mean_and_covariance_are_those_of_4096_passes_within_their_error(
    made: tuple[LastDropout, LinearHead, np.ndarray]
) -> None:
    net, head, features = made
    own = copy.deepcopy(net)
    own.drop.train()
    torch.manual_seed(5)
    with torch.no_grad():
        z = own.logits(planes().expand(PASSES, -1, -1, -1)).numpy().reshape(PASSES, 3, -1)
    away = z - z.mean(0)
    products = np.einsum('tcn,tdn->cdn', away, away) / PASSES
    # The variance of a product of two deviations, as these passes have it.
    spread = np.sqrt((np.einsum('tcn,tdn->cdn', away**2, away**2) / PASSES - products**2) / PASSES)
    off = np.abs(head.mean(features) - z.mean(0)) / (z.std(0) / np.sqrt(PASSES))
    apart = np.abs(head.covariance(features) - products) / spread
    # The largest of 144 and of 432 numbers that are normal.
    assert off.max() < 4.5 and apart.max() < 5
    assert 0.3 < np.sqrt(np.mean(off**2)) < 2
