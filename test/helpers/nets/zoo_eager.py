# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a torch network without any code of the package, with dropout off or on.

`lively` makes random weights fit for comparisons: batch norms fit the features, logits spread by
a few units and the predicted class varies, so that a wrong graph cannot pass for a right one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F  # noqa: N812

_SPREAD = 2.5  # standard deviation of the logits
_USUAL = ('out', 'logits', 'output')
_NORMS = (nn.modules.batchnorm._NormBase,)


def eager(
    net: nn.Module, num_classes: int, choose: Callable[[Any], Tensor] | None = None,
) -> Callable[[np.ndarray, bool], np.ndarray]:
    """
    Return a function that runs a net once on (1, 3, h, w) and returns logits (C, h, w).

    If its second argument is True, every module except the norms is in training mode.
    Logits smaller than the image are upsampled by torch.
    """
    net.eval()
    chosen = [module for module in net.modules() if not isinstance(module, _NORMS)]

    def run(image: np.ndarray, is_live: bool) -> np.ndarray:
        for module in chosen:
            module.training = is_live
        with torch.no_grad():
            output = (choose or first_output)(net(torch.from_numpy(image)))
        z = planes(output, num_classes, image.shape[2:])
        if z.shape[2:] != image.shape[2:]:
            z = F.interpolate(z, image.shape[2:], mode='bilinear', align_corners=False)
        return z[0].float().numpy()

    return run


def first_output(output: Any) -> Tensor:
    """Return the logits of an output: the tensor under a usual name, else the first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return first_output(next((output[k] for k in _USUAL if k in output),
                                 next(iter(output.values()))))
    return first_output(output[0])


def planes(z: Tensor, num_classes: int, size: Sequence[int]) -> Tensor:
    """Return logits as (1, C, h, w); tokens (1, h w, C) are reshaped to it."""
    if z.dim() == 3 and z.shape[-1] == num_classes:  # tokens, at some stride of the image
        stride = round((size[0] * size[1] / z.shape[1]) ** 0.5)
        return z.transpose(1, 2).unflatten(2, (size[0] // stride, size[1] // stride))
    return z


# --- random weights that reveal errors -----------------------------------------------------------


def lively(
    build: Callable[[], nn.Module], num_classes: int, size: tuple[int, int], seed: int = 0,
    choose: Callable[[Any], Tensor] | None = None,
) -> nn.Module:
    """Build a net with a fixed seed; fit its norms and its last layer to random images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = build().eval()
        images = _images(size)
        net(images)  # lazy modules get their shapes
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
                 and m.track_running_stats]
        for norm in norms:
            if norm.weight is not None:
                norm.weight.uniform_(0.8, 1.2)
                norm.bias.normal_(0, 0.1)
        _fit(net, norms, images)
        _spread(net, num_classes, images, choose or first_output)
    return net.eval()


def _images(size: tuple[int, int]) -> Tensor:
    width, height = size
    coarse = torch.rand(3, 3, -(-height // 16), -(-width // 16))
    blobs = F.interpolate(coarse, scale_factor=16)[:, :, :height, :width]
    return (blobs + 0.08 * torch.randn_like(blobs) - 0.45) / 0.225


def _fit(net: nn.Module, norms: Sequence[Any], images: Tensor) -> None:
    for norm in norms:
        norm.train()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        # A channel that is almost constant on these images would explode on others.
        norm.running_var.clamp_(min=max(0.5 * norm.running_var.mean().item(), 1e-4))
        norm.running_var *= torch.empty(norm.num_features).uniform_(0.9, 1.1)


def _spread(
    net: nn.Module, num_classes: int, images: Tensor, choose: Callable[[Any], Tensor]
) -> None:
    """Scale and centre the outputs of the last layer with C channels."""
    last = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
            and getattr(m, 'out_channels', getattr(m, 'out_features', 0)) == num_classes]
    if not last or getattr(last[-1], 'groups', 1) != 1:
        return
    layer, seen = last[-1], []
    hook = layer.register_forward_hook(lambda _m, _a, result: seen.append(result))
    net(images)
    hook.remove()
    if not seen:
        return
    z = seen[-1] if isinstance(layer, nn.Linear) else seen[-1].movedim(1, -1)
    z = z.reshape(-1, num_classes)
    gain = _SPREAD / z.std(0).clamp(min=1e-6)
    shape = [1] * layer.weight.dim()
    shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0] = num_classes
    layer.weight *= gain.reshape(shape)
    if layer.bias is not None:
        layer.bias.copy_(gain * (layer.bias - z.mean(0)))
