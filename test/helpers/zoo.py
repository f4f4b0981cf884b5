# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The networks of the benchmarks and of the engine builds, with random weights (`lively`).

Each is a factory without arguments, so that ``uncertainty_seg compile zoo:fpn`` works with this
folder and `nets` on PYTHONPATH.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from zoo_builders import Build, CLASSES, ours, smp, torchvision
from zoo_eager import first_output, lively

NUM_CLASSES = CLASSES
_SIZE = (128, 96)


@dataclass(frozen=True)
class Recipe:
    """A network, and the rate (0: none) and place of the dropout that the compiler injects."""

    make: Build
    inject: float = 0.0
    at: str = ''

    def build(self) -> nn.Module:
        """Build the network; every call gives the same weights."""
        return lively(self.make, NUM_CLASSES, _SIZE, choose=logits_of)


logits_of = first_output
NETS = {
    'unet': Recipe(smp('Unet', 'mobilenet_v2'), 0.3, 'head'),
    'unet_dropout': Recipe(smp('Unet', 'mobilenet_v2', 'decoder')),
    'fpn': Recipe(smp('FPN', 'mobilenet_v2')),
    'deeplabv3plus': Recipe(smp('DeepLabV3Plus', 'mobilenet_v2')),
    'pspnet': Recipe(smp('PSPNet', 'mobilenet_v2')),
    'segformer': Recipe(smp('Segformer', 'mit_b0')),
    'deeplabv3': Recipe(torchvision('deeplabv3_mobilenet_v3_large')),
    'lraspp': Recipe(torchvision('lraspp_mobilenet_v3_large'), 0.3, 'head'),
    'fc_densenet56': Recipe(ours('zoo_nets', 'FcDenseNet')),
}


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Return the factory of a network."""
    if name not in NETS:
        raise AttributeError(name)
    return NETS[name].build


def build_with_dropout(name: str) -> nn.Module:
    """Build a network; one without dropout gets the recipe's before its last layer."""
    recipe = NETS[name]
    net = recipe.build()
    if recipe.inject:
        last = [m for m in net.modules() if getattr(m, 'out_channels', 0) == NUM_CLASSES][-1]
        last.register_forward_pre_hook(lambda layer, args: (
            nn.functional.dropout2d(args[0], recipe.inject, layer.training),))
    return net
