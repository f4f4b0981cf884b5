# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a network puts out becomes logits of the image's classes, or is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_nets import logits_of, logits_written  # noqa: E402

from uncertainty_seg.tools.compile_net import compile_network  # noqa: E402

pytestmark = pytest.mark.torch
CLASSES = ('water', 'reef', 'diver')
End = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Ending(nn.Module):
    """Logits of a stride, with dropout before them, and what a function of x and z ends with."""

    def __init__(self, end: End, classes: int = 3, stride: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=stride, padding=1)
        self.drop, self.last = nn.Dropout2d(0.4), nn.Conv2d(8, classes, 1)
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(x, 3 * self.last(self.drop(self.first(x).relu())))


def image_of(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, height, width, 3), np.uint8)


def compiled(net: nn.Module, folder: Path, size: tuple[int, int] = (64, 48),
             classes: tuple[str, ...] = CLASSES, **options: object) -> object:
    return compile_network(net, folder / 'bundle', size, classes, mean=(0.5,) * 3,
                           std=(0.25,) * 3, passes=3, full_weights=True, **options)


def resized(z: torch.Tensor, size: tuple[int, int], **how: object) -> torch.Tensor:
    return F.interpolate(z, size, mode='bilinear', **how)


SIZES: dict[str, End] = {
    'none': lambda x, z: z,
    'full': lambda x, z: resized(z, x.shape[2:]),
    'full, corners aligned': lambda x, z: resized(z, x.shape[2:], align_corners=True),
    'half': lambda x, z: resized(z, (x.shape[2] // 2, x.shape[3] // 2)),
    'half, corners aligned': lambda x, z: resized(
        z, (x.shape[2] // 2, x.shape[3] // 2), align_corners=True),
    'a factor of 3.7': lambda x, z: F.interpolate(z, scale_factor=3.7, mode='bilinear'),
}


@pytest.mark.parametrize('end', SIZES)
@pytest.mark.parametrize('size', [(64, 48), (100, 67)])
def test_logits_of_any_size_are_upsampled_as_the_network_and_then_torch_do(
    tmp_path: Path, end: str, size: tuple[int, int]
) -> None:
    net, image = Ending(SIZES[end]), image_of(*size)
    bundle = compiled(net, tmp_path, size).bundle
    theirs = torch.from_numpy(logits_of(net, image))
    # What the network leaves to do is one bilinear upsampling, if anything.
    theirs = F.interpolate(theirs, size[::-1], mode='bilinear').numpy()
    np.testing.assert_allclose(logits_written(bundle, image), theirs, atol=2e-5)
