# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks with a known uncertainty for a plain grey image, for tests of active learning.

Their logits are the normalised grey value and its negative, each summed over four copies under
channel dropout. Middle grey has entropy 1 and mutual information 0 in every pass. On white the
passes disagree, since one pass in sixteen drops all four copies.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn, Tensor

GREY, WHITE = 114, 250
SIZE = 64


class RampNet(nn.Module):
    """A network from the grey value to two logits of opposite sign."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.drop = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.classifier.weight[0], self.classifier.weight[1] = 1.0, -1.0
            self.classifier.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 2, h/4, w/4)."""
        grey = self.pool(image).mean(1, keepdim=True)
        return self.classifier(self.drop(grey.expand(-1, 4, -1, -1)))


def ramp() -> nn.Module:
    """Build the net with dropout."""
    return RampNet(0.5)


def still() -> nn.Module:
    """Build the net without dropout."""
    return RampNet(0.0)


def write_greys(
    folder: Path, splits: dict[str, dict[str, int]], names: tuple[str, ...] = ('left', 'right')
) -> Path:
    """
    Write a labelled folder of plain images; `splits` has the grey value of each stem.

    The left half of each mask is the first class. A corner pixel makes each image unique.
    """
    for place in ('images', 'masks'):
        (folder / place).mkdir(parents=True, exist_ok=True)
    mask = np.repeat(np.array([[0, 1]], np.uint8), SIZE // 2, 1).repeat(SIZE, 0)
    for split, levels in splits.items():
        for number, (stem, level) in enumerate(levels.items()):
            image = np.full((SIZE, SIZE, 3), level, np.uint8)
            image[0, 0] = (number, len(split), 7)
            cv2.imwrite(str(folder / 'images' / f'{stem}.png'), image)
            cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask)
    (folder / 'splits.json').write_text(json.dumps({k: list(v) for k, v in splits.items()}))
    classes = [{'id': k, 'name': name, 'rgb': [k, 0, 0]} for k, name in enumerate(names)]
    (folder / 'classes.json').write_text(json.dumps({'classes': classes, 'ignore_index': 255}))
    return folder
