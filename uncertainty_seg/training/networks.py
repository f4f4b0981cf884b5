# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The included architecture, an ImageNet encoder with a light feature pyramid, and checks of others.

The architecture has no mask inputs, trunk or head, which the compiler creates for any network. It
only has ordinary ``nn.Dropout2d`` modules with fixed names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.training.encoders import encoder_kind, new_encoder
from uncertainty_seg.training.recipes import DropoutPlan


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
    """Context features at stride 32: dilated branches and the global mean."""

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


class Pyramid(nn.Module):
    """
    The decoder: maps features of four strides to class logits at the finest stride.

    `channels` are those of the features of stride 4, 8, 16 and 32; `width` is the number of
    channels of every level of the pyramid.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, dropout: DropoutPlan, width: int = 96,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([_conv_bn(c, width) for c in channels])
        self.context = Context(width)
        self.blocks = nn.ModuleList([_separable(width) for _ in channels[:-1]])
        self.final = nn.Sequential(*_separable(width), *_separable(width))
        self.drop_context = nn.Dropout2d(dropout.decoder)
        self.drop_levels = nn.ModuleList([nn.Dropout2d(dropout.decoder) for _ in range(3)])
        self.drop_head = nn.Dropout2d(dropout.head)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Return logits (N, C, h/4, w/4) of features (N, channels, h/stride, w/stride)."""
        return self.classifier(self.drop_head(self.final(self.merged(taps))))

    def merged(self, taps: Sequence[Tensor]) -> Tensor:
        """Return the merged features (N, D, h/4, w/4) before the last blocks."""
        levels = [lateral(tap) for lateral, tap in zip(self.laterals, taps, strict=True)]
        merged = self.drop_context(self.context(levels[-1]))
        for index in (2, 1, 0):
            finer = levels[index]
            upsampled = F.interpolate(merged, scale_factor=2.0, mode='nearest')
            merged = self.drop_levels[index](self.blocks[index](finer + upsampled))
        return merged


class PyramidNet(nn.Module):
    """
    Map an image to class logits at a quarter of its size.

    `encoder` is one of `encoders.ENCODERS`; no weights are loaded. Its first `frozen_layers`
    layers are not trained, nor are their batch statistics updated. `width` is the number of
    channels of every level of the pyramid.
    """

    def __init__(
        self, num_classes: int, dropout: DropoutPlan, encoder: str = 'mobilenet_v2',
        width: int = 96, frozen_layers: int = 0,
    ) -> None:
        super().__init__()
        kind = encoder_kind(encoder)
        self.encoder = new_encoder(encoder)
        self.decoder = Pyramid(kind.channels, num_classes, dropout, width)
        self._taps, self.frozen_layers = kind.taps, frozen_layers

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, C, h/4, w/4) of a normalised image (N, 3, h, w)."""
        return self.decoder(self.features(image))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Prefixes of the names of all weights that are not trained."""
        return tuple(f'encoder.{index}.' for index in range(self.frozen_layers))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the decoder's input: features of stride 4, 8, 16 and 32."""
        taps, features = [], image
        for index, layer in enumerate(self.encoder):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.frozen_layers):
                features = layer(features)
            if index in self._taps:
                taps.append(features)
        return taps

    def train(self, mode: bool = True) -> PyramidNet:
        """Set the mode of all layers except the frozen ones, which stay in eval mode."""
        super().train(mode)
        for layer in self.encoder[:self.frozen_layers]:
            layer.eval()
        return self


# -------------------------------------------------------------------------------------------------
# Any network that returns logits, including the user's.


def logits_of(output: Any) -> Tensor:
    """
    Return the logits in a network's output: the tensor itself, or 'out' or 'logits' of a mapping.

    For a sequence it is the first item, for another object its attribute `logits`. Raises
    TrainingError if no logits are found.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in ('out', 'logits') if key in output), None)
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    elif not isinstance(output, Tensor):
        output = getattr(output, 'logits', None)
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise TrainingError('a network whose output has no logits',
                            "a tensor (N, C, h, w), alone, first, or as 'out' or 'logits'")
    return output


def find_classifier(net: nn.Module, num_classes: int, spec: InputSpec) -> str:
    """
    Return the name of the layer whose bias is added to the logits; empty if there is none.

    The candidate is the last convolution with C channels that runs. It is tested: increasing its
    bias must increase the logits by the same amount.
    """
    seen: list[nn.Module] = []
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d)
              and part.out_channels == num_classes and part.bias is not None]
    handles = [part.register_forward_hook(lambda part, *_: seen.append(part)) for part in layers]
    step = torch.arange(1.0, num_classes + 1)
    try:
        before = _still_logits(net, spec)
        if not seen or before.shape[1] != num_classes:
            return ''
        bias = seen[-1].bias
        assert isinstance(bias, Tensor)
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.add_(step)
            moved = _still_logits(net, spec) - before
            bias.copy_(kept)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.allclose(moved, step.view(1, -1, 1, 1).expand_as(moved), atol=1e-3):
        return ''
    return next(name for name, part in net.named_modules() if part is seen[-1])


def require_classes_of(net: nn.Module, names: Sequence[str], spec: InputSpec, what: str) -> None:
    """Raise TrainingError if the user's network does not return C logits, or does not run."""
    try:
        logits = _still_logits(net, spec)
    except (RuntimeError, ValueError, TypeError) as err:
        words = ' '.join(str(err).split())[:160]
        raise TrainingError(f'{what} cannot take an image of {spec.width}x{spec.height} ({words})',
                            'a network of normalised RGB images (N, 3, h, w)',
                            'give another `size` in the recipe') from err
    if logits.shape[1] != len(names):
        raise TrainingError(f'{what} gives {logits.shape[1]} channels',
                            f'{len(names)}, one for each of {", ".join(names)}',
                            'build it for the classes of classes.json')


@torch.no_grad()
def _still_logits(net: nn.Module, spec: InputSpec) -> Tensor:
    """Return the logits of a grey image without dropout; the network's mode is restored."""
    was_training = net.training
    net.eval()
    try:
        return logits_of(net(torch.zeros(1, 3, spec.height, spec.width)))
    finally:
        net.train(was_training)
