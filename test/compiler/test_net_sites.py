# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Dropout of networks that people use is found where papers and sources say that it is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
for package in ('torchvision', 'segmentation_models_pytorch', 'timm'):
    pytest.importorskip(package)

from uncertainty_seg.compiler.capture.marking import find_dropout  # noqa: E402
import zoo  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.release]
HEIGHT, WIDTH = 96, 128
Site = tuple[tuple[int, ...], float]
DENSE = ((1, 12), 0.2)
# The first axes of what is dropped from, and the rate, in the order they run.
SITES: dict[str, list[Site]] = {
    'unet': [], 'lraspp': [],
    'unet_dropout': [((1, c), 0.3) for c in (256, 128, 64, 32, 16)],
    'fpn': [((1, 128), 0.2)], 'deeplabv3plus': [((1, 256, 6, 8), 0.5)],
    'pspnet': [((1, 512), 0.2)], 'deeplabv3': [((1, 256, 6, 8), 0.5)],
    # mit_b0 has 8 blocks whose rate grows from 0 to 0.1, each with a path for attention and MLP.
    'segformer': [((1, 1, 1), 0.1 * block / 7) for block in range(1, 8) for _ in range(2)],
    # Five times four layers and a transition of all channels so far; then six blocks of four.
    'fc_densenet56': [*(site for d in range(5) for site in
                        (*[DENSE] * 4, ((1, 48 + 48 * (d + 1)), 0.2))), *[DENSE] * 24],
    # 8 x 6 tokens, three heads: attention weights, then both dropouts of the MLP.
    'vit': [((1, 3, 48, 48), 0.1), ((1, 48, 192), 0.1), ((1, 48, 96), 0.1)] * 2,
}


@pytest.mark.parametrize('name', zoo.NETS)
def test_the_sites_are_those_that_the_network_has(name: str) -> None:
    found, wanted = find_dropout(zoo.NETS[name].build(), HEIGHT, WIDTH).drops, SITES[name]
    assert len(found) == len(wanted)
    for drop, (shape, rate) in zip(found, wanted, strict=True):
        assert drop.shape[:len(shape)] == shape and drop.p == pytest.approx(rate, abs=1e-6)
