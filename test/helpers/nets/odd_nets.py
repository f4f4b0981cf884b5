# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Small networks with uncommon but real constructs: tokens, queries, dropped paths.

Each takes the number of classes. They cover attention and other constructs that a compiler for
purely convolutional networks would not handle.
"""

from typing import Any

from paper_nets import Classifier, ConvBnRelu, resized
import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812


def stem(width: int, strides: int = 2) -> nn.Sequential:
    """Return strided convolutions."""
    return nn.Sequential(*[ConvBnRelu(width if i else 3, width, 3, 2) for i in range(strides)])


# --- attention -----------------------------------------------------------------------------------


class EncoderTokens(nn.Module):
    """torch's transformer encoder on patches; returns tokens (1, h w, C)."""

    def __init__(self, classes: int, width: int = 32, p: float = 0.1, as_tokens: bool = True
                 ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, p, batch_first=True,
                                           norm_first=True, activation='gelu')
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.as_tokens = nn.Linear(width, classes), as_tokens

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image)
        tokens = self.head(self.encoder(x.flatten(2).transpose(1, 2)))
        if self.as_tokens:
            return tokens
        return resized(tokens.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]), image)


class Setr(nn.Module):
    """SETR (arXiv:2012.15840): learned positions with dropout, progressive upsampling."""

    def __init__(
        self, classes: int, width: int = 32, p: float = 0.1, grid: tuple[int, int] = (8, 12)
    ) -> None:
        super().__init__()
        self.patch, self.grid = nn.Conv2d(3, width, 8, 8), grid
        self.positions = nn.Parameter(0.5 * torch.randn(1, grid[0] * grid[1], width))
        self.drop = nn.Dropout(p)
        self.attention = nn.MultiheadAttention(width, 4, dropout=p, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(p),
                                 nn.Linear(2 * width, width), nn.Dropout(p))
        self.up = nn.Sequential(ConvBnRelu(width, width), nn.Upsample(
            scale_factor=2, mode='bilinear', align_corners=False), nn.Conv2d(width, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.drop(self.patch(image).flatten(2).transpose(1, 2) + self.positions)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        return resized(self.up(x.transpose(1, 2).unflatten(2, self.grid)), image)


class Segmenter(nn.Module):
    """Segmenter (arXiv:2105.05633): learned class tokens with dropout, times patch tokens."""

    def __init__(self, classes: int, width: int = 32, p: float = 0.1) -> None:
        super().__init__()
        self.patch, self.classes = nn.Conv2d(3, width, 8, 8), classes
        self.queries = nn.Parameter(torch.randn(1, classes, width))
        self.drop = nn.Dropout(p)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, p, batch_first=True)
        self.norm = nn.LayerNorm(classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image)
        queries = self.drop(self.queries).expand(len(x), -1, -1)
        tokens = self.block(torch.cat([x.flatten(2).transpose(1, 2), queries], 1))
        patches, queries = tokens[:, :-self.classes], tokens[:, -self.classes:]
        patches = F.normalize(patches, dim=-1)
        masks = self.norm(3 * patches @ F.normalize(queries, dim=-1).transpose(1, 2))
        return resized(masks.transpose(1, 2).reshape(-1, self.classes, *x.shape[2:]), image)


class DroppedQueries(nn.Module):
    """DETR's decoder: queries (Q, C) without a batch axis, dropout on them and in attention."""

    def __init__(self, classes: int, width: int = 32, queries: int = 7, p: float = 0.2) -> None:
        super().__init__()
        self.stem, self.drop = stem(width, 3), nn.Dropout(p)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.first = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.decoder = nn.TransformerDecoderLayer(width, 4, 2 * width, p)
        self.classify, self.embed = nn.Linear(width, classes), nn.Linear(width, width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        queries = self.first(self.drop(self.queries)).unsqueeze(1).repeat(1, len(x), 1)
        q = self.decoder(queries, x.flatten(2).permute(2, 0, 1)).transpose(0, 1)
        masks = torch.einsum('bqc,bchw->bqhw', self.embed(q), x).sigmoid()
        return resized(torch.einsum('bqk,bqhw->bkhw', self.classify(q), masks), image)


# --- paths ---------------------------------------------------------------------------------------


class DropPath(nn.Module):
    """Drop the branch of a whole sample, as timm's DropPath does."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class PathNet(nn.Module):
    """Residual blocks whose branches are dropped by the given module."""

    def __init__(self, classes: int, path: Any, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = stem(width)
        self.branches = nn.ModuleList(ConvBnRelu(width, width) for _ in range(blocks))
        self.paths = nn.ModuleList(path() for _ in range(blocks))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for branch, path in zip(self.branches, self.paths, strict=True):
            x = x + path(branch(x))
        return resized(self.last(x), image)


# --- the rest ------------------------------------------------------------------------------------


class SharedDropout(nn.Module):
    """One Dropout module that is called at three places, with independent draws at each."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__()
        self.stem = stem(width, 1)
        self.convs = nn.ModuleList(ConvBnRelu(width, width) for _ in range(2))
        self.drop, self.last = nn.Dropout2d(p), nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.drop(self.stem(image))
        for conv in self.convs:
            x = x + self.drop(conv(x))
        return resized(self.last(x), image)


class Unprintable(nn.Sequential):
    """A net whose `__repr__` raises, as that of a layer of pytorchcv's DANet does."""

    def __init__(self, classes: int, width: int = 16, p: float = 0.3) -> None:
        super().__init__(stem(width), Classifier(width, classes, p))

    def __repr__(self) -> str:
        raise KeyError('alpha')
