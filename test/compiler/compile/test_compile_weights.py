# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The written files compute the torch net's output, for any weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402
from torch_nets import logits_of, logits_written  # noqa: E402

from uncertainty_seg.compiler.request import compile_network  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
SIZE, CLASSES = (64, 48), ('water', 'reef', 'diver')
IMAGE = np.random.default_rng(7).integers(0, 256, (1, 48, 64, 3), np.uint8)


class Small(nn.Module):
    """Convolutions with dropout, and an optional GroupNorm after the second."""

    def __init__(self, scale: float = 1.0, depth: int = 1, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        deep = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth)]
        for conv in deep:
            nn.init.orthogonal_(conv.weight, 2.0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.middle = nn.Sequential(*(layer for conv in deep for layer in (conv, nn.ReLU())))
        self.norm = nn.GroupNorm(4, 16, eps=1e-30) if norm else nn.Identity()
        self.drop, self.last = nn.Dropout2d(0.5), nn.Conv2d(16, 3, 1)
        with torch.no_grad():
            deep[0].weight.mul_(scale)
            deep[0].bias.mul_(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(self.middle(self.first(x)))))


def compiled(net: nn.Module, folder: Path, **options: object) -> object:
    return compile_network(net, folder / 'bundle', SIZE, CLASSES, mean=(0.5,) * 3,
                           std=(0.25,) * 3, passes=3, **{'compare_passes': 16, **options})


def halves(bundle: ModelBundle) -> set[str]:
    parts = [onnx.load(str(path)) for path in (bundle.trunk_path, bundle.passes_path)]
    return {t.name for part in parts for t in part.graph.initializer
            if t.data_type == onnx.TensorProto.FLOAT16}


def test_weights_in_which_rounding_does_not_show_are_stored_in_half(tmp_path: Path) -> None:
    made = compiled(Small(norm=False), tmp_path)
    assert len(halves(made.bundle)) == 2
    assert made.stored.full == ()
    assert 0 < made.stored.logit_error < 1e-3


@pytest.mark.release
@pytest.mark.parametrize(('scale', 'norm'), [(3e-8, True), (1e-7, True), (1e6, True)])
def test_weights_beyond_16_bits_stay_float32_and_the_labels_those_of_torch(
    tmp_path: Path, scale: float, norm: bool
) -> None:
    net = Small(scale, norm=norm)
    made = compiled(net, tmp_path)
    ours, theirs = logits_written(load_bundle(made.bundle.folder), IMAGE), logits_of(net, IMAGE)
    assert np.mean(ours.argmax(1) != theirs.argmax(1)) < 2e-3
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.ptp(theirs))
    assert len(made.stored.full) == 1
    reasons = [d.reason for d in made.compiled.plan.decisions if d.step == 'halve_weights']
    assert len(reasons) == 1 and '16 bits' in reasons[0]


def test_where_every_weight_shows_all_stay_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uncertainty_seg.compiler.checks import output_checks

    monkeypatch.setattr(output_checks, '_MOST_MOVED', 1e-12)
    made = compiled(Small(depth=3), tmp_path)
    assert not halves(made.bundle)
    assert made.stored.full == ('all weights',)
    assert made.stored.logit_error < 1e-6
