# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
An addition to the cross-entropy for masks that are judged by their IoU.

Cross-entropy counts pixels, so missing a class of few pixels costs almost nothing. In the mean IoU
that class counts as much as any other; the Lovasz-Softmax loss is a differentiable form of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F


def iou_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """
    Return the Lovasz-Softmax loss, a smooth form of 1 minus the mean IoU of each image.

    The softmax of the logits (N, C, h, w) must give the probabilities used for masks; labels,
    int64 (N, H, W), are sampled at the centres of the logits' pixels. The loss is the mean over
    images and the classes present in each, 0..1; NaN if a logit is NaN. For probabilities of 0 and
    1 it is 1 - IoU up to rounding. Images without a labelled pixel are left out; if no image is
    left, it is 0. After Berman, Triki and Blaschko, 2018, arXiv:1705.08790, equation 9, by image.
    """
    size = (logits.shape[2], logits.shape[3])
    seen = F.interpolate(labels[:, None].double(), size=size, mode='nearest-exact')[:, 0].long()
    losses = [_jaccard(p[:, known], label[known])
              for p, label in zip(logits.softmax(1), seen, strict=True)
              if (known := label != ignore_index).any()]
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _jaccard(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of an image from probabilities (C, n) and labels (n,) of its n pixels."""
    present = labels.unique()
    is_class = (labels == present[:, None]).to(probabilities.dtype)
    errors, order = (is_class - probabilities[present]).abs().sort(1, descending=True)
    is_class = is_class.gather(1, order)
    # Increase of the set loss from the k - 1 worst pixels to the k worst.
    total = is_class.sum(1, keepdim=True)
    lost = 1 - (total - is_class.cumsum(1)) / (total + (1 - is_class).cumsum(1))
    steps = torch.diff(lost, dim=1, prepend=torch.zeros_like(total))
    return (errors * steps).sum(1).mean()
