# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Encoder-decoder networks of papers, with few channels, each with the dropout of its paper.

Each takes the number of classes and gives logits at the size of the image. Where the paper has no
dropout it is Dropout2d before the classifier or in the decoder.

"""

from __future__ import annotations

from collections.abc import Sequence

from real_time_nets import BasicBlock, Classifier, ConvBnRelu, PyramidPooling, resized
import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions with norm and ReLU."""
    return nn.Sequential(ConvBnRelu(inputs, outputs), ConvBnRelu(outputs, outputs))


class BayesianSegNet(nn.Module):
    """SegNet with dropout 0.5 in its inner blocks (arXiv:1511.02680), nearest upsampling."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.5) -> None:
        super().__init__()
        w = width
        self.downs = nn.ModuleList([double(3, w), double(w, 2 * w), double(2 * w, 4 * w)])
        self.ups = nn.ModuleList([double(4 * w, 2 * w), double(2 * w, w), ConvBnRelu(w, w)])
        self.drop, self.last = nn.Dropout(p), nn.Conv2d(w, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for index, down in enumerate(self.downs):
            x = F.max_pool2d(down(x), 2)
            x = self.drop(x) if index else x
        for index, up in enumerate(self.ups):
            x = up(F.interpolate(x, scale_factor=2))
            x = self.drop(x) if index < 1 else x
        return self.last(x)


class FCN8s(nn.Module):
    """Fully convolutional, as FCN-8s: two dropouts of 0.5, skips, cropped transposed layers."""

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
    """U-Net (arXiv:1505.04597) with dropout where `places` says."""

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


class AttentionGate(nn.Module):
    """Scale a skip by what the deeper features say (arXiv:1804.03999)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.g, self.x = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.psi = nn.Sequential(nn.ReLU(), nn.Conv2d(inner, 1, 1), nn.Sigmoid())

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        return skip * self.psi(self.g(deep) + self.x(skip))


class AttentionUNet(UNet):
    """U-Net whose skips pass attention gates; dropout at the bottom."""

    def __init__(self, classes: int, width: int = 8, p: float = 0.3) -> None:
        super().__init__(classes, width, ('bottom', 'decoder'), p)
        self.gates = nn.ModuleList(AttentionGate(n, n) for n in (4 * width, 2 * width, width))

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom_drop(self.bottom(x))
        for rise, gate, up, drop in zip(self.rises, self.gates, self.ups, self.up_drops,
                                        strict=True):
            deep = rise(x)
            x = drop(up(torch.cat([gate(deep, skips.pop()), deep], 1)))
        return self.last(x)


class Recurrent(nn.Module):
    """One convolution applied again and again to its own result (R2U-Net, arXiv:1802.06955)."""

    def __init__(self, inputs: int, outputs: int, times: int = 2) -> None:
        super().__init__()
        self.project, self.conv, self.times = nn.Conv2d(inputs, outputs, 1), ConvBnRelu(
            outputs, outputs), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        y = self.conv(x)
        for _ in range(self.times):
            y = self.conv(x + y)
        return x + y


class R2UNet(nn.Module):
    """Recurrent residual U-Net of two levels."""

    def __init__(self, classes: int, width: int = 8, p: float = 0.3) -> None:
        super().__init__()
        w = width
        self.down, self.bottom = Recurrent(3, w), nn.Sequential(nn.MaxPool2d(2), nn.Dropout2d(p),
                                                                Recurrent(w, 2 * w))
        self.rise, self.up = nn.ConvTranspose2d(2 * w, w, 2, 2), Recurrent(2 * w, w)
        self.last = nn.Conv2d(w, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(image)
        return self.last(self.up(torch.cat([x, self.rise(self.bottom(x))], 1)))


class UNetPlusPlus(nn.Module):
    """Nested skips (arXiv:1807.10165), the mean of the heads of all depths."""

    def __init__(self, classes: int, width: int = 8, p: float = 0.3) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.nodes = nn.ModuleDict()
        for row, size in enumerate(sizes):
            for column in range(len(sizes) - row):
                inputs = (3 if row == 0 else sizes[row - 1]) if column == 0 else (
                    column * size + sizes[row + 1])
                self.nodes[f'{row}_{column}'] = double(inputs, size)
        self.drop = nn.Dropout2d(p)
        self.heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in sizes[1:])

    def forward(self, image: Tensor) -> Tensor:
        x: dict[tuple[int, int], Tensor] = {}
        for column in range(3):
            for row in range(3 - column):
                if column:
                    deep = F.interpolate(x[row + 1, column - 1], scale_factor=2, mode='bilinear',
                                         align_corners=True)
                    given = torch.cat([*(x[row, c] for c in range(column)), deep], 1)
                else:
                    given = F.max_pool2d(x[row - 1, 0], 2) if row else image
                x[row, column] = self.drop(self.nodes[f'{row}_{column}'](given))
        return torch.stack([head(x[0, i + 1]) for i, head in enumerate(self.heads)]).mean(0)


class ResUNet(nn.Module):
    """Residual U-Net with pre-activation (arXiv:1711.10684), skips added."""

    def __init__(self, classes: int, width: int = 8, p: float = 0.2) -> None:
        super().__init__()
        w = width
        self.first = BasicBlock(3, w)
        self.downs = nn.ModuleList([BasicBlock(w, 2 * w, 2), BasicBlock(2 * w, 4 * w, 2)])
        self.ups = nn.ModuleList([BasicBlock(4 * w, 2 * w), BasicBlock(2 * w, w)])
        self.drop, self.last = nn.Dropout2d(p), nn.Conv2d(w, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        levels = [self.first(image)]
        for down in self.downs:
            levels.append(self.drop(down(levels[-1])))
        y = levels.pop()
        for up in self.ups:
            skip = levels.pop()
            y = self.drop(resized(up(y), skip) + skip)
        return self.last(y)


class ContextModule(nn.Module):
    """A small front end and the context module of growing dilations (arXiv:1511.07122)."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.5) -> None:
        super().__init__()
        self.front = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, 2 * width, 3, 2),
                                   nn.Dropout(p), nn.Conv2d(2 * width, classes, 1))
        layers: list[nn.Module] = []
        for d in (1, 2, 4, 8):
            layers += [nn.ZeroPad2d(d), nn.Conv2d(classes, classes, 3, dilation=d), nn.ReLU()]
        self.context = nn.Sequential(*layers, nn.Conv2d(classes, classes, 1))
        self.up = nn.ConvTranspose2d(classes, classes, 8, 4, 2, groups=classes, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.up(self.context(self.front(image)))


class DeepLabLargeFov(nn.Module):
    """DeepLab-LargeFOV (arXiv:1412.7062): dilated convolutions, dropout of 0.5 twice."""

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


class DenseAspp(nn.Module):
    """Atrous convolutions that see each other's results (CVPR 2018), dropout in each."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, width, 3, 2))
        self.branches, channels = nn.ModuleList(), width
        for d in (3, 6, 12):
            self.branches.append(nn.Sequential(
                ConvBnRelu(channels, 16, 1), ConvBnRelu(16, 8, dilation=d), nn.Dropout2d(p)))
            channels += 8
        self.classifier = Classifier(channels, classes, p)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for branch in self.branches:
            x = torch.cat([branch(x), x], 1)
        return resized(self.classifier(x), image)


class GlobalConvolution(nn.Module):
    """Large separable kernels and boundary refinement (arXiv:1703.02719)."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.3, kernel: int = 7) -> None:
        super().__init__()
        w, k = width, kernel
        self.downs = nn.ModuleList([ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, 2 * w, 3, 2),
                                    ConvBnRelu(2 * w, 4 * w, 3, 2)])

        def pair(inputs: int, first: tuple[int, int], second: tuple[int, int]) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, classes, first, padding=tuple(n // 2 for n in first)),
                nn.Conv2d(classes, classes, second, padding=tuple(n // 2 for n in second)))

        self.left, self.right = (nn.ModuleList(pair(i * w, *order) for i in (1, 2, 4)) for order
                                 in (((k, 1), (1, k)), ((1, k), (k, 1))))
        self.refine = nn.ModuleList(nn.Sequential(
            nn.Conv2d(classes, classes, 3, padding=1), nn.ReLU(),
            nn.Conv2d(classes, classes, 3, padding=1)) for _ in range(3))
        self.drop = nn.Dropout2d(p)

    def forward(self, image: Tensor) -> Tensor:
        x, levels = image, []
        for down in self.downs:
            x = down(x)
            levels.append(x)
        y = None
        for index in (2, 1, 0):
            level = self.drop(levels[index])
            part = self.left[index](level) + self.right[index](level)
            part = part + self.refine[index](part)
            y = part if y is None else part + resized(y, part)
        return resized(y, image)


class LightRefineNet(nn.Module):
    """Light-weight RefineNet (arXiv:1810.03272): chained pooling, dropout 0.5 on the levels."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.5) -> None:
        super().__init__()
        w = width
        self.downs = nn.ModuleList([ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, 2 * w, 3, 2),
                                    ConvBnRelu(2 * w, 4 * w, 3, 2)])
        self.reduce = nn.ModuleList(nn.Conv2d(i * w, w, 1, bias=False) for i in (1, 2, 4))
        self.pools = nn.ModuleList(nn.ModuleList(nn.Sequential(
            nn.MaxPool2d(5, 1, 2), nn.Conv2d(w, w, 1, bias=False)) for _ in range(2))
            for _ in range(3))
        self.drop = nn.Dropout(p)
        self.last = nn.Conv2d(w, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x, levels = image, []
        for down in self.downs:
            x = down(x)
            levels.append(x)
        y = None
        for index in (2, 1, 0):
            level = self.reduce[index](self.drop(levels[index]) if index else levels[index])
            level = level if y is None else level + resized(y, level)
            top = F.relu(level)
            y = top
            for pool in self.pools[index]:
                top = pool(top)
                y = y + top
        return resized(self.last(y), image)


class Rsu(nn.Module):
    """A residual U-block: a small U-Net in the place of a convolution."""

    def __init__(self, inputs: int, inner: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.first = ConvBnRelu(inputs, outputs)
        self.downs = nn.ModuleList(ConvBnRelu(outputs if i == 0 else inner, inner)
                                   for i in range(depth))
        self.bottom = ConvBnRelu(inner, inner, dilation=2)
        self.ups = nn.ModuleList(ConvBnRelu(2 * inner, inner if i else outputs)
                                 for i in reversed(range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y, skips = first, []
        for index, down in enumerate(self.downs):
            y = down(F.max_pool2d(y, 2, ceil_mode=True) if index else y)
            skips.append(y)
        y = self.bottom(y)
        for up in self.ups:
            skip = skips.pop()
            y = up(torch.cat([resized(y, skip), skip], 1))
        return y + first


class U2NetP(nn.Module):
    """U2-Net (arXiv:2005.09007) of two stages, the fused map first of several."""

    def __init__(self, classes: int, width: int = 8, p: float = 0.3) -> None:
        super().__init__()
        w = width
        self.stage1, self.stage2 = Rsu(3, w, 2 * w, 3), Rsu(2 * w, w, 2 * w, 2)
        self.stage1d = Rsu(4 * w, w, 2 * w, 3)
        self.side1, self.side2 = (nn.Conv2d(2 * w, classes, 3, padding=1) for _ in range(2))
        self.fuse, self.drop = nn.Conv2d(2 * classes, classes, 1), nn.Dropout2d(p)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.stage1(image)
        x2 = self.drop(self.stage2(F.max_pool2d(x1, 2, ceil_mode=True)))
        y1 = self.drop(self.stage1d(torch.cat([resized(x2, x1), x1], 1)))
        one, two = self.side1(y1), resized(self.side2(x2), image)
        return self.fuse(torch.cat([one, two], 1)), one, two


class HRNet(nn.Module):
    """Two resolutions side by side that are fused twice (arXiv:1908.07919)."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.3) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, w, 3, 2))
        self.split = ConvBnRelu(w, 2 * w, 3, 2)
        self.high = nn.ModuleList(BasicBlock(w, w) for _ in range(2))
        self.low = nn.ModuleList(BasicBlock(2 * w, 2 * w) for _ in range(2))
        self.to_low = nn.ModuleList(nn.Sequential(
            nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * w)) for _ in range(2))
        self.to_high = nn.ModuleList(nn.Sequential(
            nn.Conv2d(2 * w, w, 1, bias=False), nn.BatchNorm2d(w)) for _ in range(2))
        self.classifier = nn.Sequential(ConvBnRelu(3 * w, 3 * w, 1),
                                        Classifier(3 * w, classes, p))

    def forward(self, image: Tensor) -> Tensor:
        high = self.stem(image)
        low = self.split(high)
        for index in range(2):
            a, b = self.high[index](high), self.low[index](low)
            high = F.relu(a + F.interpolate(self.to_high[index](b), a.shape[2:], mode='nearest'))
            low = F.relu(b + self.to_low[index](a))
        return resized(self.classifier(torch.cat([high, resized(low, high)], 1)), image)


class DANet(nn.Module):
    """Position and channel attention (arXiv:1809.02983), dropout in both heads."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(*[ConvBnRelu(i, o, 3, 2) for i, o in ((3, w), (w, w), (w, w))])
        self.query, self.key = nn.Conv2d(w, w // 4, 1), nn.Conv2d(w, w // 4, 1)
        self.value = nn.Conv2d(w, w, 1)
        self.gamma, self.beta = (nn.Parameter(torch.full((1,), 0.5)) for _ in range(2))
        self.post_p, self.post_c = (nn.Sequential(ConvBnRelu(w, w), nn.Dropout2d(p, False))
                                    for _ in range(2))
        self.last = nn.Sequential(nn.Dropout2d(p, False), nn.Conv2d(w, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        b, c, h, w = x.size()
        query = self.query(x).view(b, -1, w * h).permute(0, 2, 1)
        weights = torch.softmax(torch.bmm(query, self.key(x).view(b, -1, w * h)), -1)
        value = self.value(x).view(b, -1, w * h)
        place = self.gamma * torch.bmm(value, weights.permute(0, 2, 1)).view(b, c, h, w) + x
        flat = x.view(b, c, -1)
        energy = torch.bmm(flat, flat.permute(0, 2, 1))
        energy = energy.max(-1, keepdim=True)[0].expand_as(energy) - energy
        channel = self.beta * torch.bmm(torch.softmax(energy, -1), flat).view(b, c, h, w) + x
        return resized(self.last(self.post_p(place) + self.post_c(channel)), image)


class OCRNet(nn.Module):
    """Object-contextual representations (arXiv:1909.11065) after a soft map of classes."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.05) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, w, 3, 2))
        self.soft, self.pixels = nn.Conv2d(w, classes, 1), ConvBnRelu(w, w)
        self.query, self.key, self.value = (ConvBnRelu(w, w, 1) for _ in range(3))
        self.merge = nn.Sequential(ConvBnRelu(2 * w, w, 1), nn.Dropout2d(p))
        self.classifier = nn.Conv2d(w, classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image)
        soft, pixels = self.soft(x), self.pixels(x)
        weights = F.softmax(soft.flatten(2), 2)
        objects = torch.matmul(weights, pixels.flatten(2).transpose(1, 2))
        objects = objects.transpose(1, 2).unsqueeze(3)
        query = self.query(pixels).flatten(2).transpose(1, 2)
        key = self.key(objects).flatten(2)
        value = self.value(objects).flatten(2).transpose(1, 2)
        seen = torch.matmul(F.softmax(torch.matmul(query, key) * query.shape[2] ** -0.5, -1),
                            value)
        seen = seen.transpose(1, 2).reshape(pixels.shape)
        logits = self.classifier(self.merge(torch.cat([seen, pixels], 1)))
        return {'out': resized(logits, image), 'aux': resized(soft, image)}


class PSPNet(nn.Module):
    """A small encoder and pyramid pooling, Dropout2d before the classifier."""

    def __init__(self, classes: int, width: int = 12, p: float = 0.1) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, 2 * w, 3, 2),
                                  ConvBnRelu(2 * w, 4 * w, 3, 2))
        self.head = nn.Sequential(PyramidPooling(4 * w, 4 * w, (1, 2, 3)), ConvBnRelu(4 * w, w),
                                  Classifier(w, classes, p))

    def forward(self, image: Tensor) -> Tensor:
        return resized(self.head(self.body(image)), image)


class CrissCross(nn.Module):
    """Attention along the row and the column of each pixel, twice (arXiv:1811.11721)."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(*[ConvBnRelu(i, o, 3, 2) for i, o in ((3, w), (w, w), (w, w))])
        self.query, self.key = nn.Conv2d(w, w // 2, 1), nn.Conv2d(w, w // 2, 1)
        self.value, self.gamma = nn.Conv2d(w, w, 1), nn.Parameter(torch.full((1,), 0.5))
        self.drop = nn.Dropout(p)
        self.last = Classifier(w, classes, p)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        rows = torch.einsum('bchw,bcgw->bhwg', q, k)
        columns = torch.einsum('bchw,bchg->bhwg', q, k)
        weights = self.drop(torch.softmax(torch.cat([rows, columns], 3), 3))
        a, b = weights.split([x.shape[2], x.shape[3]], 3)
        y = torch.einsum('bhwg,bcgw->bchw', a, v) + torch.einsum('bhwg,bchg->bchw', b, v)
        return self.gamma * y + x

    def forward(self, image: Tensor) -> Tensor:
        return resized(self.last(self.attend(self.attend(self.stem(image)))), image)


class SelfNormalising(nn.Module):
    """SELU and AlphaDropout (arXiv:1706.02515), no batch norm anywhere."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1, by_channel: bool = False
                 ) -> None:
        super().__init__()
        drop = nn.FeatureAlphaDropout if by_channel else nn.AlphaDropout
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (width, 1), (width, 2)):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.SELU(), drop(p)]
        self.body, self.last = nn.Sequential(*layers), nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return resized(self.last(self.body(image)), image)


class ConvMixer(nn.Module):
    """Patches and depthwise mixing (arXiv:2201.09792), each block with a dropped path."""

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
    """Instance norm, group norm and reflecting pads: statistics of each image itself."""

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
