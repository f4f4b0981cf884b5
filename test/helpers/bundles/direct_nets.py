# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Small torch nets with a variance head, and the method `direct` reimplemented in numpy."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class DirectNet(nn.Module):
    """
    A convolution, dropout, and two classifiers; `way` selects the form of the output.

    'dict', 'mean', 'pair' and 'swapped' return logits and log-variance apart, upsampled by two:
    under two sets of names, or as a tuple with the log-variance second or first. 'channels' joins
    them to 2C channels, not upsampled; 'last' puts these last, 'beside' adds features.
    """

    def __init__(self, way: str = 'dict', p: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.way, self.p = nn.Conv2d(3, 8, 3, 2, 1), way, p
        self.classifier, self.variance = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)

    def forward(self, image: torch.Tensor) -> object:
        features = functional.dropout2d(self.first(image).relu(), self.p, self.training)
        logits, log_variance = self.classifier(features), self.variance(features)
        if self.way == 'channels':
            return torch.cat([logits, log_variance], 1)
        if self.way == 'last':
            return torch.cat([logits, log_variance], 1).permute(0, 2, 3, 1)
        if self.way == 'beside':
            return features[:, :3], torch.cat([logits, log_variance], 1)
        both = [functional.interpolate(t, scale_factor=2, mode='bilinear')
                for t in (logits, log_variance)]
        if self.way in ('pair', 'swapped'):
            return tuple(both[::1 if self.way == 'pair' else -1])
        name = 'mean' if self.way == 'mean' else 'logits'
        return {name: both[0], 'log_variance': both[1]}

    def moments(
        self, image: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and log-variance, float64 (C, h, w), of an image (1, 3, H, W)."""
        net = self.double()
        with torch.no_grad():
            features = net.first(torch.from_numpy(image.astype(np.float64))).relu()
            if mask is not None:
                features = features * torch.from_numpy(mask.astype(np.float64))
            found = [part(features)[0].numpy() for part in (net.classifier, net.variance)]
        self.float()
        return found[0], found[1]


def sampled(
    net: DirectNet, image: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the mean softmax of each pass, float64 (T, C, h, w), in a loop over the samples."""
    passes = []
    for t, noise in enumerate(inputs['noise']):
        masks = [rows[t] for name, rows in inputs.items() if name != 'noise']
        logits, log_variance = net.moments(image, masks[0] if masks else None)
        mean = 0
        for sample in noise:
            powers = np.exp(logits + np.exp(log_variance) ** 0.5 * sample)
            mean = mean + powers / powers.sum(0) / len(noise)
        passes.append(mean)
    return np.stack(passes)
