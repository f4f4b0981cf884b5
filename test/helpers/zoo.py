# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Segmentation networks of many libraries with random weights, to prove the compiler on.

Each factory takes nothing, gives the same network every time and downloads nothing, so that
``uncertainty_seg compile zoo:fpn`` works with this folder on PYTHONPATH. Weights are random but
lively: batch norms have statistics that fit the features and differ from channel to channel, and
logits spread by a few units, so that a wrong graph cannot look right.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

from zoo_nets import FcDenseNet, VitSegmenter

NUM_CLASSES = 6
_ENCODER: dict[str, Any] = {'encoder_name': 'mobilenet_v2', 'encoder_weights': None,
                            'classes': NUM_CLASSES}
_SPREAD = 3.0  # standard deviation of the logits


def unet() -> nn.Module:
    """U-Net of segmentation-models-pytorch, which has no dropout."""
    import segmentation_models_pytorch as smp

    return _lively(lambda: smp.Unet(**_ENCODER))


def unet_dropout() -> nn.Module:
    """Build the same with Dropout2d(0.5) behind each of the five decoder blocks."""
    import segmentation_models_pytorch as smp

    def build() -> nn.Module:
        net = smp.Unet(**_ENCODER)
        blocks = net.decoder.blocks
        net.decoder.blocks = nn.ModuleList(_Dropped(block, 0.5) for block in blocks)
        return net

    return _lively(build)


def fpn() -> nn.Module:
    """FPN of segmentation-models-pytorch: Dropout2d(0.2) before the last 1x1 convolution."""
    import segmentation_models_pytorch as smp

    return _lively(lambda: smp.FPN(**_ENCODER))


def deeplabv3plus() -> nn.Module:
    """DeepLabV3+ of segmentation-models-pytorch: Dropout(0.5) behind the pyramid pooling."""
    import segmentation_models_pytorch as smp

    return _lively(lambda: smp.DeepLabV3Plus(**_ENCODER))


def pspnet() -> nn.Module:
    """Build segmentation-models-pytorch's PSPNet: Dropout2d(0.2) before the last 3x3 layer."""
    import segmentation_models_pytorch as smp

    return _lively(lambda: smp.PSPNet(**_ENCODER))


def segformer() -> nn.Module:
    """Build SegFormer with mit_b0: stochastic depth in the encoder, no dropout in the decoder."""
    import segmentation_models_pytorch as smp

    return _lively(lambda: smp.Segformer(**{**_ENCODER, 'encoder_name': 'mit_b0'}))


def deeplabv3() -> nn.Module:
    """DeepLabV3-MobileNetV3 of torchvision: a dict, and Dropout(0.5) in the pyramid pooling."""
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    return _lively(lambda: deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES))


def lraspp() -> nn.Module:
    """LR-ASPP of torchvision: a dict, no dropout."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return _lively(lambda: lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES))


def fc_densenet56() -> nn.Module:
    """FC-DenseNet56: Dropout2d(0.2) in every layer and transition."""
    return _lively(lambda: FcDenseNet(NUM_CLASSES))


def vit() -> nn.Module:
    """Small ViT: dropout on the attention weights of both kinds, and in the MLPs."""
    return _lively(lambda: VitSegmenter(NUM_CLASSES))


@dataclass(frozen=True)
class Recipe:
    """
    How a network of the zoo is compiled.

    Attributes
    ----------
    build : callable
        Its factory.
    source : str
        Where it comes from, for the table in the docs.
    inject, at : float, str
        Dropout that the compiler injects, and where; 0 for a network that has its own.
    words : tuple of str
        More arguments of the command line.

    """

    build: Callable[[], nn.Module]
    source: str
    inject: float = 0.0
    at: str = ''
    words: tuple[str, ...] = ()


NETS = {
    'unet': Recipe(unet, 'segmentation-models-pytorch', 0.3, 'decoder'),
    'unet_dropout': Recipe(unet_dropout, 'segmentation-models-pytorch, dropout added by hand'),
    'fpn': Recipe(fpn, 'segmentation-models-pytorch'),
    'deeplabv3plus': Recipe(deeplabv3plus, 'segmentation-models-pytorch'),
    'pspnet': Recipe(pspnet, 'segmentation-models-pytorch'),
    'segformer': Recipe(segformer, 'segmentation-models-pytorch, mit_b0'),
    'deeplabv3': Recipe(deeplabv3, 'torchvision, MobileNetV3'),
    'lraspp': Recipe(lraspp, 'torchvision, MobileNetV3', 0.3, 'head'),
    'fc_densenet56': Recipe(fc_densenet56, 'after arXiv:1611.09326'),
    'vit': Recipe(vit, 'written for this test'),
}


def build_with_dropout(name: str) -> nn.Module:
    """Build a network; one that has no dropout gets some in front of its last layer."""
    recipe = NETS[name]
    net = recipe.build()
    if recipe.inject:
        last = [m for m in net.modules() if getattr(m, 'out_channels', 0) == NUM_CLASSES][-1]
        last.register_forward_pre_hook(lambda layer, args: (
            nn.functional.dropout2d(args[0], recipe.inject, layer.training),))
    return net


def logits_of(output: object) -> Tensor:
    """Return the logits of whatever a network of the zoo gives."""
    found = output['out'] if isinstance(output, dict) else output
    assert isinstance(found, Tensor)
    return found


class _Dropped(nn.Module):
    """A block and dropout behind it."""

    def __init__(self, block: nn.Module, p: float) -> None:
        super().__init__()
        self.block, self.drop = block, nn.Dropout2d(p)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.drop(self.block(*args, **kwargs))


def _lively(build: Callable[[], nn.Module]) -> nn.Module:
    """Build with fixed seeds and fit the norms and the last layer to random images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = build().eval()
        images = _random_images()
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        _fit_norms(net, norms, images)
        for norm in norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.6, 1.6)
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0, 0.2)
        logits = logits_of(net(images))
        last = [m for m in net.modules()
                if getattr(m, 'out_channels', getattr(m, 'out_features', 0)) == NUM_CLASSES]
        for layer in last:
            layer.weight *= _SPREAD / logits.std()
            layer.bias.normal_(0, 0.3)
    return net


def _random_images() -> Tensor:
    """Return four images of 128x96, blobs and noise, normalised."""
    coarse = torch.nn.functional.interpolate(torch.randn(4, 3, 6, 8), (96, 128), mode='bilinear')
    return coarse + 0.3 * torch.randn(4, 3, 96, 128)


def _fit_norms(net: nn.Module, norms: list[nn.BatchNorm2d], images: Tensor) -> None:
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    net(images)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
        # A channel that hardly moved on these images would explode on others.
        norm.running_var.clamp_(min=0.5 * norm.running_var.mean().item())
