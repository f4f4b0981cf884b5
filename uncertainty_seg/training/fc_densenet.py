# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
FC-DenseNet, the "One Hundred Layers Tiramisu", with dropout behind every layer of its blocks.

A network without pretrained weights, for comparison with papers that use it. Nearly all of it is
behind its first dropout: every pass runs it whole, and it costs accordingly.

References
----------
Jegou, Drozdzal, Vazquez, Romero and Bengio, 2017, arXiv:1611.09326.

"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn, Tensor

FIRST_CHANNELS, DROPOUT = 48, 0.2


def _layer(channels: int, new: int, kernel: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, new, kernel, padding=kernel // 2),
        nn.Dropout2d(dropout),
    )


class DenseBlock(nn.Module):
    """
    Layers of `growth` new channels, each of which sees the block's input and all layers before.

    Parameters
    ----------
    channels, growth, layers : int
        Channels of the input, new ones of a layer, number of layers.
    dropout : float
        Rate of the channel dropout behind each layer.
    keeps_input : bool
        Return the input before the new channels; else these alone, (N, growth * layers, h, w).

    """

    def __init__(
        self, channels: int, growth: int, layers: int, dropout: float, keeps_input: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [_layer(channels + k * growth, growth, 3, dropout) for k in range(layers)])
        self.keeps_input = keeps_input
        self.channels = growth * layers + (channels if keeps_input else 0)

    def forward(self, features: Tensor) -> Tensor:
        """Return the channels of the block, at the size of its input."""
        parts = [features]
        for layer in self.layers:
            parts.append(layer(torch.cat(parts, 1)))
        return torch.cat(parts if self.keeps_input else parts[1:], 1)


class FCDenseNet(nn.Module):
    """
    Map an image to class logits of its own size.

    Parameters
    ----------
    num_classes : int
        C, the number of classes.
    block_layers : sequence of int
        Layers of the dense blocks on the way down; the same on the way up, in reverse.
    bottleneck_layers : int
        Layers of the block between.
    growth : int
        New channels of a layer.
    dropout : float
        Rate of the channel dropout behind each layer and on each way down.

    """

    def __init__(
        self, num_classes: int, block_layers: Sequence[int], bottleneck_layers: int,
        growth: int = 12, dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, FIRST_CHANNELS, 3, padding=1)
        channels, skips = FIRST_CHANNELS, []
        self.down_blocks, self.down_steps = nn.ModuleList(), nn.ModuleList()
        for layers in block_layers:
            block = DenseBlock(channels, growth, layers, dropout, keeps_input=True)
            channels = block.channels
            skips.append(channels)
            self.down_blocks.append(block)
            self.down_steps.append(
                nn.Sequential(*_layer(channels, channels, 1, dropout), nn.MaxPool2d(2)))
        self.bottleneck = DenseBlock(channels, growth, bottleneck_layers, dropout, False)
        channels = self.bottleneck.channels
        self.up_steps, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for index in reversed(range(len(skips))):
            self.up_steps.append(nn.ConvTranspose2d(channels, channels, 3, stride=2))
            block = DenseBlock(channels + skips[index], growth, block_layers[index], dropout,
                               keeps_input=index == 0)
            channels = block.channels
            self.up_blocks.append(block)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_he_uniform)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, C, h, w) of a normalised image (N, 3, h, w) of 32 pixels or more."""
        features, skips = self.first(image), []
        for block, down in zip(self.down_blocks, self.down_steps, strict=True):
            skips.append(block(features))
            features = down(skips[-1])
        features = self.bottleneck(features)
        for up, block in zip(self.up_steps, self.up_blocks, strict=True):
            skip = skips.pop()
            # Twice the size and one more, which is what an odd side needs.
            larger = up(features)[..., :skip.shape[2], :skip.shape[3]]
            features = block(torch.cat([larger, skip], 1))
        return self.classifier(features)


def _he_uniform(part: nn.Module) -> None:
    if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_uniform_(part.weight, nonlinearity='relu')
        assert part.bias is not None
        nn.init.zeros_(part.bias)


def fc_densenet56(num_classes: int, dropout: float = DROPOUT, growth: int = 12) -> FCDenseNet:
    """
    Build the network of 56 convolutions: blocks of four layers at six resolutions.

    Parameters
    ----------
    num_classes : int
        C, the number of classes.
    dropout : float
        Rate behind each layer.
    growth : int
        New channels of a layer; 12 in the paper.

    """
    return FCDenseNet(num_classes, (4,) * 5, 4, growth, dropout)
