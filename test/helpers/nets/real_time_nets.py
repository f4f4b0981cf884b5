# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Small networks of papers on segmentation in real time, written after the papers with few channels.

Each takes the number of classes and gives logits at the size of the image. Dropout is where the
paper has it; where it has none it is Dropout2d before the classifier.

"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return x at the size of another tensor, bilinear."""
    return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=False)


class ConvBnRelu(nn.Sequential):
    """A convolution that keeps the size (over the stride), batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, stride: int = 1,
        dilation: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU,
    ) -> None:
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = tuple(dilation * (n - 1) // 2 for n in k)
        super().__init__(nn.Conv2d(inputs, outputs, k, stride, pads, dilation, groups, bias=False),
                         nn.BatchNorm2d(outputs), act())


def separable(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution."""
    return nn.Sequential(ConvBnRelu(inputs, inputs, 3, stride, dilation, inputs),
                         ConvBnRelu(inputs, outputs, 1))


class Classifier(nn.Sequential):
    """Dropout2d and a 1x1 convolution."""

    def __init__(self, inputs: int, classes: int, p: float = 0.2) -> None:
        super().__init__(nn.Dropout2d(p), nn.Conv2d(inputs, classes, 1))


# --- ENet, arXiv:1606.02147 ----------------------------------------------------------------------


class EnetBottleneck(nn.Module):
    """Projection, a regular, dilated or asymmetric convolution, expansion, spatial dropout."""

    def __init__(self, channels: int, p: float, dilation: int = 1, is_asymmetric: bool = False
                 ) -> None:
        super().__init__()
        inner = max(channels // 4, 4)
        middle: list[nn.Module] = [ConvBnRelu(inner, inner, 3, 1, dilation, act=nn.PReLU)]
        if is_asymmetric:
            middle = [nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                      ConvBnRelu(inner, inner, (1, 5), act=nn.PReLU)]
        self.branch = nn.Sequential(
            ConvBnRelu(channels, inner, 1, act=nn.PReLU), *middle,
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Dropout2d(p))
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.branch(x))


class EnetDown(nn.Module):
    """Max pooling with indices beside a strided branch; channels of the pooled are padded."""

    def __init__(self, inputs: int, outputs: int, p: float) -> None:
        super().__init__()
        inner = max(inputs // 4, 4)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 2, 2, bias=False), nn.BatchNorm2d(inner), nn.PReLU(),
            ConvBnRelu(inner, inner, act=nn.PReLU), nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs), nn.Dropout2d(p))
        self.act, self.missing = nn.PReLU(), outputs - inputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = self.pool(x)
        padded = F.pad(pooled, (0, 0, 0, 0, 0, self.missing))
        return self.act(padded + self.branch(x)), where


class EnetUp(nn.Module):
    """Max unpooling, or a transposed convolution where `has_unpool` is not set."""

    def __init__(self, inputs: int, outputs: int, p: float, has_unpool: bool) -> None:
        super().__init__()
        inner = max(inputs // 4, 4)
        self.main = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False),
                                  nn.BatchNorm2d(outputs))
        self.branch = nn.Sequential(
            ConvBnRelu(inputs, inner, 1, act=nn.PReLU),
            nn.ConvTranspose2d(inner, inner, 2, 2, bias=False), nn.BatchNorm2d(inner), nn.PReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Dropout2d(p))
        self.act, self.has_unpool = nn.PReLU(), has_unpool

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        main = self.main(x)
        wide = F.max_unpool2d(main, where, 2) if self.has_unpool else \
            F.interpolate(main, scale_factor=2)
        return self.act(wide + self.branch(x))


class ENet(nn.Module):
    """An initial block, three stages down, two up; spatial dropout in every bottleneck."""

    def __init__(self, classes: int, width: int = 16, has_unpool: bool = False, depth: int = 1
                 ) -> None:
        super().__init__()
        self.initial = nn.Conv2d(3, width - 3, 3, 2, 1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(width), nn.PReLU())
        wide, wider = 4 * width, 8 * width
        self.down1 = EnetDown(width, wide, 0.01)
        self.stage1 = nn.Sequential(*[EnetBottleneck(wide, 0.01) for _ in range(2)])
        self.down2 = EnetDown(wide, wider, 0.1)
        kinds = [(1, False), (2, False), (1, True), (4, False), (1, False), (8, False)]
        self.stage2 = nn.Sequential(*[EnetBottleneck(wider, 0.1, d, a) for d, a in kinds * depth])
        self.up2 = EnetUp(wider, wide, 0.1, has_unpool)
        self.stage4 = EnetBottleneck(wide, 0.1)
        self.up1 = EnetUp(wide, width, 0.1, has_unpool)
        self.stage5 = EnetBottleneck(width, 0.1)
        self.last = nn.ConvTranspose2d(width, classes, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.initial(image), F.max_pool2d(image, 2)], 1))
        x, first = self.down1(x)
        x, second = self.down2(self.stage1(x))
        x = self.stage4(self.up2(self.stage2(x), second))
        return self.last(self.stage5(self.up1(x, first)))


# --- ERFNet, IEEE T-ITS 2018 ---------------------------------------------------------------------


class NonBottleneck1d(nn.Module):
    """Two factorised convolutions, the second dilated, dropout before the sum."""

    def __init__(self, channels: int, p: float, dilation: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList([
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))])
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, eps=1e-3) for _ in range(2))
        self.dropout = nn.Dropout2d(p)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convs[1](F.relu(self.convs[0](x)))))
        y = self.norms[1](self.convs[3](F.relu(self.convs[2](y))))
        if self.dropout.p != 0:
            y = self.dropout(y)
        return F.relu(y + x)


class PooledDown(nn.Module):
    """A strided convolution beside max pooling, as in ERFNet and EDANet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 2)], 1)))


class ERFNet(nn.Sequential):
    """Encoder with dropout 0.03 and 0.3, decoder of transposed convolutions."""

    def __init__(self, classes: int, width: int = 16) -> None:
        wide, wider = 3 * width, 6 * width
        layers: list[nn.Module] = [PooledDown(3, width), PooledDown(width, wide)]
        layers += [NonBottleneck1d(wide, 0.03) for _ in range(2)] + [PooledDown(wide, wider)]
        layers += [NonBottleneck1d(wider, 0.3, d) for d in (2, 4, 8)]
        for inputs, outputs in ((wider, wide), (wide, width)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1),
                       nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU(), NonBottleneck1d(outputs, 0)]
        super().__init__(*layers, nn.ConvTranspose2d(width, classes, 2, 2))


# --- ESPNet, arXiv:1803.06815; CGNet, arXiv:1811.08201; EDANet, arXiv:1809.06323 -----------------


class EspModule(nn.Module):
    """Reduce, split into a pyramid of dilations, sum up hierarchically, merge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        n = channels // 5
        self.reduce = nn.Conv2d(channels, n, 1, bias=False)
        sizes = [channels - 4 * n, n, n, n, n]
        self.branches = nn.ModuleList(
            nn.Conv2d(n, size, 3, padding=2 ** i, dilation=2 ** i, bias=False)
            for i, size in enumerate(sizes))
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *rest = [branch(reduced) for branch in self.branches]
        sums = [rest[0]]
        for other in rest[1:]:
            sums.append(sums[-1] + other)
        return self.norm(x + torch.cat([first, *sums], 1))


class ESPNet(nn.Module):
    """ESPNet-C with a light decoder."""

    def __init__(self, classes: int, width: int = 25, p: float = 0.1) -> None:
        super().__init__()
        self.first = ConvBnRelu(3, 16, 3, 2, act=nn.PReLU)
        self.down1, self.esp1 = ConvBnRelu(19, width, 3, 2), EspModule(width)
        self.down2 = ConvBnRelu(2 * width + 3, 2 * width, 3, 2)
        self.esp2 = nn.Sequential(EspModule(2 * width), EspModule(2 * width), nn.Dropout2d(p))
        self.class3 = nn.Conv2d(2 * width, classes, 1)
        self.class2 = nn.Conv2d(2 * width + 3, classes, 1, bias=False)
        self.up3 = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)
        self.merge = ConvBnRelu(2 * classes, classes)
        self.last = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, 2, bias=False),
                                  nn.BatchNorm2d(classes), nn.PReLU(),
                                  nn.ConvTranspose2d(classes, classes, 2, 2))

    def forward(self, image: Tensor) -> Tensor:
        half, quarter = F.avg_pool2d(image, 3, 2, 1), None
        quarter = F.avg_pool2d(half, 3, 2, 1)
        x1 = torch.cat([self.first(image), half], 1)
        x2 = self.down1(x1)
        x2 = torch.cat([self.esp1(x2), x2, quarter], 1)
        x3 = self.esp2(self.down2(x2))
        up = self.up3(self.class3(x3))
        return self.last(self.merge(torch.cat([up, self.class2(x2)], 1)))


class CgBlock(nn.Module):
    """Local and surrounding features, joint, refined by a global gate."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = ConvBnRelu(channels, half, 1, act=nn.PReLU)
        self.local = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.around = nn.Conv2d(half, half, 3, padding=dilation, dilation=dilation, groups=half,
                                bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))
        self.gate = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(),
                                  nn.Linear(channels // 4, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        y = self.norm(torch.cat([self.local(y), self.around(y)], 1))
        b, c = y.shape[:2]
        gate = self.gate(F.adaptive_avg_pool2d(y, 1).view(b, c))
        return x + y * gate.view(b, c, 1, 1)


class CGNet(nn.Module):
    """Context Guided Network, with dropout before the classifier as in its code."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, width))
        self.down1, self.stage1 = ConvBnRelu(width + 3, 2 * width, 3, 2), CgBlock(2 * width, 2)
        self.down2 = ConvBnRelu(4 * width + 3, 4 * width, 3, 2)
        self.stage2 = nn.Sequential(CgBlock(4 * width, 4), CgBlock(4 * width, 4))
        self.norm = nn.Sequential(nn.BatchNorm2d(8 * width), nn.PReLU(8 * width))
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(8 * width, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        half = F.avg_pool2d(image, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        x = self.down1(torch.cat([self.first(image), half], 1))
        x = self.down2(torch.cat([self.stage1(x), x, quarter], 1))
        x = self.norm(torch.cat([self.stage2(x), x], 1))
        return resized(self.classifier(x), image)


class EdaModule(nn.Module):
    """Factorised, dilated convolutions whose output is appended to the input; dropout."""

    def __init__(self, inputs: int, growth: int, dilation: int, p: float) -> None:
        super().__init__()
        d = dilation
        self.layers = nn.Sequential(
            ConvBnRelu(inputs, growth, 1), nn.Conv2d(growth, growth, (3, 1), padding=(1, 0)),
            ConvBnRelu(growth, growth, (1, 3)),
            nn.Conv2d(growth, growth, (3, 1), padding=(d, 0), dilation=(d, 1)),
            nn.Conv2d(growth, growth, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(growth), nn.ReLU(), nn.Dropout2d(p))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layers(x), x], 1)


class EDANet(nn.Module):
    """Densely connected asymmetric modules, logits upsampled eight times."""

    def __init__(self, classes: int, growth: int = 12, p: float = 0.02) -> None:
        super().__init__()
        layers: list[nn.Module] = [PooledDown(3, 15), PooledDown(15, 30)]
        channels = 30
        for dilation in (1, 1, 2):
            layers.append(EdaModule(channels, growth, dilation, p))
            channels += growth
        layers.append(PooledDown(channels, 2 * channels))
        channels *= 2
        for dilation in (2, 4, 8):
            layers.append(EdaModule(channels, growth, dilation, p))
            channels += growth
        self.body, self.last = nn.Sequential(*layers), nn.Conv2d(channels, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(self.last(self.body(image)), scale_factor=8, mode='bilinear',
                             align_corners=True)


# --- DABNet, arXiv:1907.11357; LEDNet, arXiv:1905.02423 ------------------------------------------


class DabModule(nn.Module):
    """A depthwise and a dilated depthwise asymmetric branch, summed."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        n, d = channels // 2, dilation
        self.pre = nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels),
                                 ConvBnRelu(channels, n, 3, act=nn.PReLU))
        self.near = nn.Sequential(
            ConvBnRelu(n, n, (3, 1), groups=n), ConvBnRelu(n, n, (1, 3), groups=n))
        self.far = nn.Sequential(
            nn.Conv2d(n, n, (3, 1), padding=(d, 0), dilation=(d, 1), groups=n, bias=False),
            nn.BatchNorm2d(n), nn.ReLU(),
            nn.Conv2d(n, n, (1, 3), padding=(0, d), dilation=(1, d), groups=n, bias=False),
            nn.BatchNorm2d(n), nn.ReLU())
        self.post = nn.Sequential(nn.BatchNorm2d(n), nn.PReLU(n), nn.Conv2d(n, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pre(x)
        return x + self.post(self.near(y) + self.far(y))


class DABNet(nn.Module):
    """Depthwise asymmetric bottleneck."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__()
        self.first = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, width))
        self.down1 = ConvBnRelu(width + 3, 2 * width, 3, 2)
        self.block1 = nn.Sequential(DabModule(2 * width, 2), DabModule(2 * width, 2))
        self.down2 = ConvBnRelu(4 * width + 3, 4 * width, 3, 2)
        self.block2 = nn.Sequential(*[DabModule(4 * width, d) for d in (4, 8)])
        self.classifier = Classifier(8 * width + 3, classes, p)

    def forward(self, image: Tensor) -> Tensor:
        thumbs = [image]
        for _ in range(3):
            thumbs.append(F.avg_pool2d(thumbs[-1], 3, 2, 1))
        x1 = self.down1(torch.cat([self.first(image), thumbs[1]], 1))
        x2 = self.down2(torch.cat([self.block1(x1), x1, thumbs[2]], 1))
        x3 = torch.cat([self.block2(x2), x2, thumbs[3]], 1)
        return F.interpolate(self.classifier(x3), image.shape[2:], mode='bilinear')


class SplitShuffle(nn.Module):
    """Two halves factorised apart, joined, dropped, added, and their channels shuffled."""

    def __init__(self, channels: int, p: float, dilation: int) -> None:
        super().__init__()
        half, d = channels // 2, dilation
        self.left, self.right = (nn.Sequential(
            nn.Conv2d(half, half, a, padding=pa), nn.ReLU(), ConvBnRelu(half, half, b),
            nn.Conv2d(half, half, a, padding=tuple(d * n for n in pa), dilation=d), nn.ReLU(),
            nn.Conv2d(half, half, b, padding=tuple(d * n for n in pb), dilation=d),
            nn.BatchNorm2d(half)) for a, b, pa, pb in (
                ((3, 1), (1, 3), (1, 0), (0, 1)), ((1, 3), (3, 1), (0, 1), (1, 0))))
        self.drop = nn.Dropout2d(p)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = self.drop(torch.cat([self.left(left), self.right(right)], 1))
        y = F.relu(x + y)
        b, c, h, w = y.shape
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class LEDNet(nn.Module):
    """Split-shuffle units and a decoder of pyramid attention."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__()
        wide, wider = 2 * width, 4 * width
        self.encoder = nn.Sequential(
            PooledDown(3, width), SplitShuffle(width, 0.03, 1), PooledDown(width, wide),
            SplitShuffle(wide, 0.03, 1), PooledDown(wide, wider),
            *[SplitShuffle(wider, p, d) for d in (1, 2, 5)])
        self.downs = nn.ModuleList(ConvBnRelu(wider if i == 0 else 1, 1, k, 2)
                                   for i, k in enumerate((7, 5, 3)))
        self.mids = nn.ModuleList(ConvBnRelu(1, 1, k) for k in (7, 5, 3))
        self.middle, self.whole = nn.Conv2d(wider, classes, 1), nn.Conv2d(wider, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(image)
        whole = self.whole(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[2:])
        levels = [x]
        for down in self.downs:
            levels.append(down(levels[-1]))
        y = self.mids[2](levels[3])
        for index in (1, 0):
            y = resized(y, levels[index + 1]) + self.mids[index](levels[index + 1])
        return resized(self.middle(x) * resized(y, x) + whole, image)


# --- Fast-SCNN, arXiv:1902.04502; ContextNet, arXiv:1805.04554; ICNet, arXiv:1704.08545 ----------


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expand: int = 4) -> None:
        super().__init__()
        inner = expand * inputs
        self.layers = nn.Sequential(
            ConvBnRelu(inputs, inner, 1, act=nn.ReLU6),
            ConvBnRelu(inner, inner, 3, stride, groups=inner, act=nn.ReLU6),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.is_sum = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_sum else self.layers(x)


class PyramidPooling(nn.Module):
    """Pool to bins, convolve, resize, concatenate (PSPNet, arXiv:1612.01105)."""

    def __init__(self, inputs: int, outputs: int, bins: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        part = inputs // len(bins)
        self.stages = nn.ModuleList(nn.Sequential(
            nn.AdaptiveAvgPool2d(n), nn.Conv2d(inputs, part, 1), nn.ReLU()) for n in bins)
        self.merge = ConvBnRelu(inputs + part * len(bins), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([x, *(resized(stage(x), x) for stage in self.stages)], 1))


class FastSCNN(nn.Module):
    """Learning to downsample, a deep branch, fusion, dropout in the classifier."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        wide = 2 * width
        self.down = nn.Sequential(ConvBnRelu(3, width, 3, 2), separable(width, width, 2),
                                  separable(width, wide, 2))
        self.deep = nn.Sequential(InvertedResidual(wide, wide, 2), InvertedResidual(wide, wide),
                                  PyramidPooling(wide, wide, (1, 2)))
        self.low = nn.Sequential(ConvBnRelu(wide, wide, 3, groups=wide),
                                 nn.Conv2d(wide, wide, 1), nn.BatchNorm2d(wide))
        self.high = nn.Sequential(nn.Conv2d(wide, wide, 1), nn.BatchNorm2d(wide))
        self.classifier = nn.Sequential(separable(wide, wide), separable(wide, wide),
                                        nn.Dropout(p), nn.Conv2d(wide, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        high = self.down(image)
        low = F.interpolate(self.deep(high), scale_factor=2, mode='bilinear', align_corners=True)
        return resized(self.classifier(F.relu(self.low(low) + self.high(high))), image)


class ContextNet(nn.Module):
    """A deep branch on a quarter of the image, a shallow one on all of it."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.2) -> None:
        super().__init__()
        wide = 2 * width
        self.shallow = nn.Sequential(ConvBnRelu(3, width, 3, 2), separable(width, wide, 2),
                                     separable(wide, wide, 2))
        self.deep = nn.Sequential(
            ConvBnRelu(3, width, 3, 2), InvertedResidual(width, width, 1, 1),
            InvertedResidual(width, wide, 2), InvertedResidual(wide, wide), ConvBnRelu(wide, wide))
        self.fuse = nn.Conv2d(wide, wide, 1)
        self.classifier = nn.Sequential(separable(wide, wide), Classifier(wide, classes, p))

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.shallow(image)
        small = F.interpolate(image, scale_factor=0.25, mode='bilinear', align_corners=True)
        deep = resized(self.deep(small), shallow)
        return resized(self.classifier(F.relu(shallow + self.fuse(deep))), image)


class ICNet(nn.Module):
    """Three resolutions, cascaded; auxiliary logits beside the last in training mode only."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, 2 * width, 3, 2))
        self.deep = nn.Sequential(ConvBnRelu(2 * width, 4 * width, 3, 2),
                                  PyramidPooling(4 * width, 4 * width, (1, 2)), nn.Dropout2d(p))
        self.high = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, width, 3, 2),
                                  ConvBnRelu(width, 2 * width, 3, 2))
        self.low1, self.high1 = self._pair(4 * width, 2 * width, width)
        self.low2, self.high2 = self._pair(width, 2 * width, width)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.aux = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _pair(low: int, high: int, out: int) -> tuple[nn.Module, nn.Module]:
        return (nn.Sequential(nn.Conv2d(low, out, 3, padding=2, dilation=2, bias=False),
                              nn.BatchNorm2d(out)),
                nn.Sequential(nn.Conv2d(high, out, 1, bias=False), nn.BatchNorm2d(out)))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        half = F.interpolate(image, scale_factor=0.5, mode='bilinear', align_corners=True)
        middle = self.body(half)
        deep = F.interpolate(self.deep(middle), scale_factor=2, mode='bilinear',
                             align_corners=True)
        one = F.relu(self.low1(deep) + self.high1(middle))
        high = self.high(image)
        two = F.relu(self.low2(resized(one, high)) + self.high2(high))
        logits = resized(self.classifier(two), image)
        return (logits, self.aux(one)) if self.training else logits


# --- BiSeNet, arXiv:1808.00897 and 2004.02147; STDC, arXiv:2104.13188 ----------------------------


class AttentionRefinement(nn.Module):
    """Scale channels by a sigmoid of their means."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(inputs, outputs)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y)


class BiSeNet(nn.Module):
    """A spatial and a context path, fused by a gate."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.2) -> None:
        super().__init__()
        self.spatial = nn.Sequential(*[ConvBnRelu(i, width, 3, 2) for i in (3, width, width)])
        self.stem = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, width, 3, 2),
                                  ConvBnRelu(width, width, 3, 2))
        self.stage3 = ConvBnRelu(width, 2 * width, 3, 2)
        self.stage4 = ConvBnRelu(2 * width, 4 * width, 3, 2)
        self.arm16 = AttentionRefinement(2 * width, width)
        self.arm32 = AttentionRefinement(4 * width, width)
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, width, 1),
                                     nn.ReLU())
        self.fuse = ConvBnRelu(2 * width, 2 * width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * width, width, 1),
                                  nn.ReLU(), nn.Conv2d(width, 2 * width, 1), nn.Sigmoid())
        self.classifier = nn.Sequential(ConvBnRelu(2 * width, width),
                                        Classifier(width, classes, p))

    def forward(self, image: Tensor) -> Tensor:
        spatial = self.spatial(image)
        x16 = self.stage3(self.stem(image))
        x32 = self.stage4(x16)
        up32 = F.interpolate(self.arm32(x32) + self.average(x32), scale_factor=2, mode='nearest')
        up16 = F.interpolate(self.arm16(x16) + up32, scale_factor=2, mode='nearest')
        y = self.fuse(torch.cat([spatial, up16], 1))
        return resized(self.classifier(y + y * self.gate(y)), image)


class GatherExpand(nn.Module):
    """The layer of BiSeNet V2's semantic branch, optionally strided."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = 3 * inputs
        last = [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        if stride == 1:
            self.main = nn.Sequential(ConvBnRelu(inputs, inputs),
                                      ConvBnRelu(inputs, inner, groups=inputs), *last)
            self.side: nn.Module = nn.Identity()
        else:
            depthwise = nn.Conv2d(inputs, inner, 3, 2, 1, groups=inputs, bias=False)
            self.main = nn.Sequential(ConvBnRelu(inputs, inputs), depthwise,
                                      nn.BatchNorm2d(inner),
                                      ConvBnRelu(inner, inner, groups=inner), *last)
            self.side = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.side(x))


class BiSeNetV2(nn.Module):
    """Detail and semantic branch with bilateral guided aggregation."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.1) -> None:
        super().__init__()
        w = 2 * width
        self.detail = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, w, 3, 2),
                                    ConvBnRelu(w, w), ConvBnRelu(w, w, 3, 2))
        self.stem = ConvBnRelu(3, width, 3, 2)
        self.left = nn.Sequential(ConvBnRelu(width, width // 2, 1),
                                  ConvBnRelu(width // 2, width, 3, 2))
        self.fuse = ConvBnRelu(2 * width, width)
        self.deep = nn.Sequential(GatherExpand(width, width, 2), GatherExpand(width, width),
                                  GatherExpand(width, w, 2), GatherExpand(w, w, 2))
        self.context = nn.Sequential(nn.BatchNorm2d(w), nn.Conv2d(w, w, 1), nn.ReLU())
        self.joint = ConvBnRelu(w, w)
        self.d_keep = nn.Sequential(nn.Conv2d(w, w, 3, 1, 1, groups=w), nn.BatchNorm2d(w),
                                    nn.Conv2d(w, w, 1))
        self.d_down = nn.Sequential(nn.Conv2d(w, w, 3, 2, 1), nn.BatchNorm2d(w),
                                    nn.AvgPool2d(3, 2, 1))
        self.s_keep = nn.Sequential(nn.Conv2d(w, w, 3, 1, 1, groups=w), nn.BatchNorm2d(w),
                                    nn.Conv2d(w, w, 1), nn.Sigmoid())
        self.s_up = nn.Sequential(nn.Conv2d(w, w, 3, 1, 1), nn.BatchNorm2d(w))
        self.head = nn.Sequential(ConvBnRelu(w, w), nn.Dropout(p), nn.Conv2d(w, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        detail = self.detail(image)
        x = self.stem(image)
        x = self.deep(self.fuse(torch.cat([self.left(x), F.max_pool2d(x, 3, 2, 1)], 1)))
        x = self.joint(x + self.context(x.mean((2, 3), keepdim=True)))
        gate = F.interpolate(torch.sigmoid(self.s_up(x)), scale_factor=4, mode='nearest')
        fine = self.d_keep(detail) * gate
        coarse = F.interpolate(self.d_down(detail) * self.s_keep(x), scale_factor=4,
                               mode='nearest')
        return F.interpolate(self.head(fine + coarse), scale_factor=8, mode='bilinear',
                             align_corners=True)


class StdcModule(nn.Module):
    """Convolutions of ever fewer channels, concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.layers = nn.ModuleList([
            ConvBnRelu(inputs, half, 1), ConvBnRelu(half, half // 2),
            ConvBnRelu(half // 2, half // 4), ConvBnRelu(half // 4, half // 4)])
        self.down = nn.Sequential(nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False),
                                  nn.BatchNorm2d(half))

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        parts, y = [F.avg_pool2d(first, 3, 2, 1)], self.down(first)
        for layer in self.layers[1:]:
            y = layer(y)
            parts.append(y)
        return torch.cat(parts, 1)


class STDC(nn.Module):
    """Short-term dense concatenation, with the fusion of BiSeNet."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBnRelu(3, width, 3, 2), ConvBnRelu(width, 2 * width, 3, 2))
        self.s8, self.s16 = StdcModule(2 * width, 4 * width), StdcModule(4 * width, 8 * width)
        self.arm = AttentionRefinement(8 * width, 4 * width)
        self.fuse = ConvBnRelu(8 * width, 4 * width, 1)
        self.classifier = Classifier(4 * width, classes, p)

    def forward(self, image: Tensor) -> Tensor:
        x8 = self.s8(self.stem(image))
        x16 = self.arm(self.s16(x8))
        y = self.fuse(torch.cat([x8, F.interpolate(x16, x8.shape[2:], mode='nearest')], 1))
        return resized(self.classifier(y), image)


# --- DDRNet, arXiv:2101.06085; PIDNet, arXiv:2206.02066 ------------------------------------------


class BasicBlock(nn.Module):
    """Two convolutions and a sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, is_last: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBnRelu(inputs, outputs, 3, stride),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.side = nn.Identity() if stride == 1 and inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.is_last = is_last

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x) + self.side(x)
        return y if self.is_last else F.relu(y)


class DeepPyramid(nn.Module):
    """DAPPM, or its parallel form PAPPM: pooled at several strides, summed on the way."""

    def __init__(self, inputs: int, inner: int, outputs: int, is_parallel: bool = False) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(5, 2, 2), nn.AvgPool2d(9, 4, 4), nn.AdaptiveAvgPool2d(1)]
        self.first = self._layer(inputs, inner, 1)
        self.scales = nn.ModuleList(
            nn.Sequential(pool, self._layer(inputs, inner, 1)) for pool in pools)
        self.is_parallel = is_parallel
        if is_parallel:
            self.process: nn.Module = self._layer(3 * inner, 3 * inner, 3, 3)
        else:
            self.steps = nn.ModuleList(self._layer(inner, inner, 3) for _ in pools)
        self.merge = self._layer(4 * inner, outputs, 1)
        self.short = self._layer(inputs, outputs, 1)

    @staticmethod
    def _layer(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        ups = [resized(scale(x), x) for scale in self.scales]
        if self.is_parallel:
            rest = [self.process(torch.cat([up + first for up in ups], 1))]
        else:
            rest = []
            for step, up in zip(self.steps, ups, strict=True):
                rest.append(step(up + (rest[-1] if rest else first)))
        return self.merge(torch.cat([first, *rest], 1)) + self.short(x)


class DDRNet(nn.Module):
    """DDRNet-23-slim: two resolutions that exchange features twice."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.2) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, w, 3, 2),
                                  BasicBlock(w, w), BasicBlock(w, 2 * w, 2, is_last=True))
        self.low3 = nn.Sequential(BasicBlock(2 * w, 4 * w, 2, is_last=True))
        self.low4 = nn.Sequential(BasicBlock(4 * w, 8 * w, 2, is_last=True))
        self.high3, self.high4 = (BasicBlock(2 * w, 2 * w, is_last=True) for _ in range(2))
        self.compress3 = self._norm(nn.Conv2d(4 * w, 2 * w, 1, bias=False), 2 * w)
        self.compress4 = self._norm(nn.Conv2d(8 * w, 2 * w, 1, bias=False), 2 * w)
        self.down3 = self._norm(nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=False), 4 * w)
        self.down4 = nn.Sequential(ConvBnRelu(2 * w, 4 * w, 3, 2),
                                   self._norm(nn.Conv2d(4 * w, 8 * w, 3, 2, 1), 8 * w))
        self.pyramid = DeepPyramid(8 * w, w, 2 * w)
        self.head = nn.Sequential(
            nn.BatchNorm2d(2 * w), nn.ReLU(), nn.Conv2d(2 * w, 2 * w, 3, 1, 1),
            nn.BatchNorm2d(2 * w), nn.ReLU(), Classifier(2 * w, classes, p))

    @staticmethod
    def _norm(conv: nn.Conv2d, channels: int) -> nn.Sequential:
        return nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        low, high = self.low3(F.relu(x)), self.high3(F.relu(x))
        low, high = (low + self.down3(F.relu(high)),
                     high + resized(self.compress3(F.relu(low)), high))
        deep, fine = self.low4(F.relu(low)), self.high4(F.relu(high))
        deep, fine = (deep + self.down4(F.relu(fine)),
                      fine + resized(self.compress4(F.relu(deep)), fine))
        return resized(self.head(fine + resized(self.pyramid(deep), fine)), image)


class PixelAttention(nn.Module):
    """Pag of PIDNet: a sigmoid of a dot product chooses between two branches."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.x, self.y = (nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False),
                                        nn.BatchNorm2d(inner)) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        key = resized(self.y(y), x)
        gate = torch.sigmoid(torch.sum(self.x(x) * key, 1, keepdim=True))
        return (1 - gate) * x + gate * resized(y, x)


class PIDNet(nn.Module):
    """PIDNet-S: a proportional, an integral and a derivative branch."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.2) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvBnRelu(3, w, 3, 2), ConvBnRelu(w, w, 3, 2),
                                  BasicBlock(w, 2 * w, 2))
        self.i3, self.i4 = BasicBlock(2 * w, 4 * w, 2), BasicBlock(4 * w, 8 * w, 2)
        self.p3, self.p4 = (BasicBlock(2 * w, 2 * w, is_last=True) for _ in range(2))
        self.compress = nn.Sequential(nn.Conv2d(4 * w, 2 * w, 1, bias=False),
                                      nn.BatchNorm2d(2 * w))
        self.pag = PixelAttention(2 * w, w)
        self.d3, self.d4 = BasicBlock(2 * w, w), BasicBlock(w, 2 * w, is_last=True)
        self.diff = nn.Sequential(nn.Conv2d(4 * w, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w))
        self.pyramid = DeepPyramid(8 * w, w, 2 * w, is_parallel=True)
        self.conv_p, self.conv_i = (ConvBnRelu(2 * w, 2 * w, 1) for _ in range(2))
        self.head = nn.Sequential(nn.BatchNorm2d(2 * w), nn.ReLU(), Classifier(2 * w, classes, p))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        i3 = self.i3(x)
        p = self.pag(self.p3(x), self.compress(i3))
        d = self.d3(x) + resized(self.diff(i3), x)
        p, d = self.p4(F.relu(p)), self.d4(F.relu(d))
        i = resized(self.pyramid(self.i4(i3)), p)
        gate = torch.sigmoid(d)  # Light-Bag
        y = self.conv_p((1 - gate) * i + p) + self.conv_i(i + gate * p)
        return resized(self.head(y), image)


# --- LinkNet, arXiv:1707.03718 -------------------------------------------------------------------


class LinkDecoder(nn.Sequential):
    """Narrow, a transposed convolution, widen."""

    def __init__(self, inputs: int, outputs: int) -> None:
        inner = inputs // 4
        super().__init__(
            ConvBnRelu(inputs, inner, 1),
            nn.ConvTranspose2d(inner, inner, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(inner),
            nn.ReLU(), ConvBnRelu(inner, outputs, 1))


class LinkNet(nn.Module):
    """A residual encoder whose features are added to the decoder's."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvBnRelu(3, w, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.encoders = nn.ModuleList([BasicBlock(w, w), BasicBlock(w, 2 * w, 2),
                                       BasicBlock(2 * w, 4 * w, 2)])
        self.decoders = nn.ModuleList([LinkDecoder(4 * w, 2 * w), LinkDecoder(2 * w, w),
                                       LinkDecoder(w, w)])
        self.drops = nn.ModuleList(nn.Dropout2d(p) for _ in self.decoders)
        self.last = nn.Sequential(ConvBnRelu(w, w), nn.ConvTranspose2d(w, classes, 2, 2))

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.stem(image), []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        y = skips.pop()
        for decoder, drop in zip(self.decoders, self.drops, strict=True):
            y = drop(decoder(y))
            if skips:
                y = y + skips.pop()
        return self.last(y)
