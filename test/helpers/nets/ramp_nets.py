# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks whose uncertainty of a plain grey image is known, for studies of active learning.

Their logits are the normalised grey value and its negative, four times each with channel dropout
between: middle grey is uncertain in every pass alike (entropy 1, mutual information 0), and of
white the passes disagree, since one of sixteen keeps nothing of it.

"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn, Tensor

GREY, WHITE = 114, 250
SIZE = 64


class RampNet(nn.Module):
    """Grey value to two logits of opposite sign."""

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
    """Build one with dropout."""
    return RampNet(0.5)


def still() -> nn.Module:
    """Build one without."""
    return RampNet(0.0)


def write_greys(
    folder: Path, splits: dict[str, dict[str, int]], names: tuple[str, ...] = ('left', 'right')
) -> Path:
    """
    Write a labelled folder of plain images: by split, the grey value of each name.

    The left half of each mask is the first class. A corner pixel makes each image its own.
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
