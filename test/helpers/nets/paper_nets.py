# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Encoder-decoder networks from papers, with few channels, each with the dropout of its paper.

Each takes the number of classes and returns logits at the size of the image. Where a paper has no
dropout, Dropout2d is added before the classifier or in the decoder.
"""

from collections.abc import Sequence

import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return x at the size of another tensor, bilinear."""
    return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=False)


class ConvBnRelu(nn.Sequential):
    """A convolution with padding that keeps the size (divided by the stride), batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, stride: int = 1,
        dilation: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU,
    ) -> None:
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = tuple(dilation * (n - 1) // 2 for n in k)
        super().__init__(nn.Conv2d(inputs, outputs, k, stride, pads, dilation, groups, bias=False),
                         nn.BatchNorm2d(outputs), act())


class Classifier(nn.Sequential):
    """Dropout2d and a 1x1 convolution."""

    def __init__(self, inputs: int, classes: int, p: float = 0.2) -> None:
        super().__init__(nn.Dropout2d(p), nn.Conv2d(inputs, classes, 1))


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions with norm and ReLU."""
    return nn.Sequential(ConvBnRelu(inputs, outputs), ConvBnRelu(outputs, outputs))


class FCN8s(nn.Module):
    """FCN-8s: two dropouts of 0.5, skip connections, cropped transposed convolutions."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.5) -> None:
        super().__init__()
        w = width
        self.pool3 = nn.Sequential(*[layer for i in (3, w, w) for layer in (
            ConvBnRelu(i, w), nn.MaxPool2d(2, ceil_mode=True))])
        self.pool4 = nn.Sequential(ConvBnRelu(w, 2 * w), nn.MaxPool2d(2, ceil_mode=True))
        self.fc = nn.Sequential(
            nn.Conv2d(2 * w, 8 * w, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout2d(p),
            nn.Conv2d(8 * w, 8 * w, 1), nn.ReLU(inplace=True), nn.Dropout2d(p),
            nn.Conv2d(8 * w, classes, 1))
        self.score3, self.score4 = nn.Conv2d(w, classes, 1), nn.Conv2d(2 * w, classes, 1)
        self.up2 = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.up8 = nn.ConvTranspose2d(classes, classes, 16, 8, 4, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x3 = self.pool3(image)
        x4 = self.pool4(x3)
        y = self.up2(self.fc(x4) + self.score4(x4))
        y = y[:, :, :x3.shape[2], :x3.shape[3]] + self.score3(x3)
        return self.up8(y)[:, :, :image.shape[2], :image.shape[3]]


class UNet(nn.Module):
    """U-Net (arXiv:1505.04597) with dropout at `places`."""

    def __init__(
        self, classes: int, width: int = 8, places: Sequence[str] = ('bottom',), p: float = 0.5,
        drop: type[nn.Module] = nn.Dropout2d, is_transposed: bool = True,
    ) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.downs = nn.ModuleList(double(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
        self.bottom = double(sizes[-1], 2 * sizes[-1])
        self.rises, self.ups = nn.ModuleList(), nn.ModuleList()
        below = 2 * sizes[-1]
        for size in reversed(sizes):
            self.rises.append(nn.ConvTranspose2d(below, size, 2, 2) if is_transposed else
                              nn.Sequential(nn.Upsample(scale_factor=2, mode='bilinear'),
                                            nn.Conv2d(below, size, 1)))
            self.ups.append(double(2 * size, size))
            below = size

        def at(place: str) -> nn.Module:
            return drop(p) if place in places else nn.Identity()

        self.bottom_drop, self.last_drop = at('bottom'), at('last')
        self.down_drops = nn.ModuleList(at('encoder') for _ in sizes)
        self.skip_drops = nn.ModuleList(at('skip') for _ in sizes)
        self.up_drops = nn.ModuleList(at('decoder') for _ in sizes)
        self.last = nn.Conv2d(sizes[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, []
        for down, drop, skip in zip(self.downs, self.down_drops, self.skip_drops, strict=True):
            x = drop(down(x))
            skips.append(skip(x))
            x = F.max_pool2d(x, 2)
        x = self.bottom_drop(self.bottom(x))
        for rise, up, drop in zip(self.rises, self.ups, self.up_drops, strict=True):
            x = drop(up(torch.cat([skips.pop(), rise(x)], 1)))
        return self.last(self.last_drop(x))


class DeepLabLargeFov(nn.Module):
    """DeepLab-LargeFOV (arXiv:1412.7062): dilated convolutions, two dropouts of 0.5."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.5) -> None:
        super().__init__()
        w = width
        self.layers = nn.Sequential(
            ConvBnRelu(3, w), nn.MaxPool2d(3, 2, 1), ConvBnRelu(w, 2 * w),
            nn.MaxPool2d(3, 2, 1), ConvBnRelu(2 * w, 4 * w), nn.MaxPool2d(3, 2, 1),
            ConvBnRelu(4 * w, 4 * w, dilation=2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1),
            nn.Conv2d(4 * w, 8 * w, 3, padding=4, dilation=4), nn.ReLU(), nn.Dropout(p),
            nn.Conv2d(8 * w, 8 * w, 1), nn.ReLU(), nn.Dropout(p), nn.Conv2d(8 * w, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        return resized(self.layers(image), image)


class ConvMixer(nn.Module):
    """ConvMixer (arXiv:2201.09792): patches and depthwise mixing, a dropped path per block."""

    def __init__(self, classes: int, width: int = 24, p: float = 0.2, depth: int = 3) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.BatchNorm2d(width))
        self.mix = nn.ModuleList(nn.Sequential(
            nn.Conv2d(width, width, 5, groups=width, padding='same'), nn.GELU(),
            nn.BatchNorm2d(width), nn.Dropout2d(p)) for _ in range(depth))
        self.point = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(),
                                                 nn.BatchNorm2d(width)) for _ in range(depth))
        self.last = nn.Sequential(nn.Conv2d(width, classes * 16, 1), nn.PixelShuffle(4))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image)
        for mix, point in zip(self.mix, self.point, strict=True):
            x = point(x + mix(x))
        return self.last(x)


class InstanceNormNet(nn.Module):
    """Instance norm, group norm and reflection padding: statistics of each single image."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(3, width, 3, 2),
            nn.InstanceNorm2d(width, affine=True), nn.LeakyReLU(0.1), nn.Dropout2d(p),
            nn.ReplicationPad2d(1),
            nn.Conv2d(width, width, 3), nn.GroupNorm(4, width), nn.SiLU(), nn.Dropout2d(p),
            nn.Conv2d(width, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        return resized(self.body(image), image)
