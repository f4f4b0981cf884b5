# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""FC-DenseNet, a network of the zoo that is in no library."""

import torch
from torch import nn, Tensor


class DenseLayer(nn.Sequential):
    """BN, ReLU, 3x3 convolution, dropout: the layer of Jegou et al., arXiv:1611.09326, table 1."""

    def __init__(self, channels: int, growth: int, p: float) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU(),
                         nn.Conv2d(channels, growth, 3, padding=1), nn.Dropout2d(p))


class DenseBlock(nn.Module):
    """Layers with all earlier features as input; returns the new features, and all of them."""

    def __init__(self, channels: int, layers: int, growth: int, p: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(channels + i * growth, growth, p) for i in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features[1:], 1), torch.cat(features, 1)


class TransitionDown(nn.Sequential):
    """BN, ReLU, 1x1 convolution, dropout, 2x2 max pooling."""

    def __init__(self, channels: int, p: float) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1),
                         nn.Dropout2d(p), nn.MaxPool2d(2))


class FcDenseNet(nn.Module):
    """
    The fully convolutional DenseNet ("Tiramisu") with blocks of equal depth.

    FC-DenseNet56 has 4 layers a block, growth 12 and 5 blocks down, which makes 56 convolutions.
    """

    def __init__(self, num_classes: int, layers: int = 4, growth: int = 12, depth: int = 5,
                 first: int = 48, p: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1)
        self.down, self.transitions = nn.ModuleList(), nn.ModuleList()
        channels, skips = first, []
        for _ in range(depth):
            self.down.append(DenseBlock(channels, layers, growth, p))
            channels += layers * growth
            skips.append(channels)
            self.transitions.append(TransitionDown(channels, p))
        self.bottleneck = DenseBlock(channels, layers, growth, p)
        self.ups, self.up = nn.ModuleList(), nn.ModuleList()
        fresh = layers * growth
        for skip in reversed(skips):
            self.ups.append(nn.ConvTranspose2d(fresh, fresh, 3, stride=2, padding=1,
                                               output_padding=1))
            self.up.append(DenseBlock(fresh + skip, layers, growth, p))
        self.classifier = nn.Conv2d(2 * fresh + skips[0], num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.first(image), []
        for block, transition in zip(self.down, self.transitions, strict=True):
            skips.append(block(x)[1])
            x = transition(skips[-1])
        fresh, everything = self.bottleneck(x)
        for up, block in zip(self.ups, self.up, strict=True):
            fresh, everything = block(torch.cat([up(fresh), skips.pop()], 1))
        return self.classifier(everything)
