# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A small torch net around a function or module under test, and its logits by several ways."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from uncertainty_seg.compiler.capture.marking import find_dropout
from uncertainty_seg.compiler.capture.masked_reference import run_exact, run_masked
from uncertainty_seg.compiler.frontend.outputs import OutputForm
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import ones_masks
from written import Written


class Net(nn.Module):
    """A convolution, then `body` on its four planes, then another convolution."""

    def __init__(self, body: Callable | nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.body = body if isinstance(body, nn.Module) else Body(body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(self.first(x)))


class Body(nn.Module):
    """A function of the planes and of the training mode."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.training)


class DropPath(nn.Module):
    """Stochastic depth as timm and HuggingFace implement it."""

    def __init__(self, drop_prob: float | None, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.drop_prob or not self.training:
            return x
        keep = 1 - self.drop_prob
        rows = (x.shape[0], *[1] * (x.ndim - 1))
        scaled = x.div(keep) if self.scale_by_keep else x
        return scaled * x.new_empty(rows).bernoulli_(keep)


class Attention(nn.Module):
    """torch's attention layer over the pixels of four planes, with dropout of 0.25."""

    def __init__(self, need_weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, dropout=0.25, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).permute((0, 2, 1) if self.layer.batch_first else (2, 0, 1))
        out, _ = self.layer(tokens, tokens, tokens, need_weights=self.need_weights)
        out = out if self.layer.batch_first else out.transpose(0, 1)
        return out.transpose(1, 2).reshape(x.shape)


def logits_of(net: nn.Module, image: np.ndarray) -> np.ndarray:
    """Run a net in eval mode on uint8 (1, h, w, 3), normalised by mean 0.5 and std 0.25."""
    planes = ((image / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        return net.eval()(torch.from_numpy(planes)).numpy()


def logits_written(bundle: ModelBundle, image: np.ndarray) -> np.ndarray:
    """Run a bundle's two files with masks of ones; return logits at the size of the image."""
    return Written.of(bundle).logits(image[0], ones_masks(bundle.card.mask_sites, 1),
                                     image.shape[1:3], bundle.card.upsampling)


def masked_logits(
    net: nn.Module, image: np.ndarray, masks: Mapping[str, np.ndarray], num_classes: int = 0,
    is_exact: bool = False,
) -> np.ndarray:
    """Run a net once per pass with given masks; in float64 if `is_exact`."""
    run = run_exact if is_exact else run_masked
    return run(find_dropout(net, *image.shape[2:]), image, masks, OutputForm(num_classes))
