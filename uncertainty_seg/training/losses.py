# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is added to the cross-entropy of a training, for masks that are judged by their IoU.

Cross-entropy counts pixels, so that a class of a few pixels that is not there costs it nearly
nothing. A mask is judged by its mean IoU, where that class counts as much as any other; the
Lovasz-Softmax loss is a differentiable form of it.

"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F


def iou_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """
    Return 1 less the mean IoU of each image, made smooth: the Lovasz-Softmax loss.

    Logits (N, C, h, w) are of the probabilities that are used for masks; labels, int64 (N, H, W),
    are looked at where the logits are, at the centres of their pixels. It is the mean over images
    and the classes that are present in each, 0..1; NaN of a logit that is. Of probabilities that
    are 0 and 1 it is 1 - IoU, to rounding. Images without a pixel that counts are left out, and
    without any image it is 0. After Berman, Triki and Blaschko, 2018, arXiv:1705.08790, equation
    9, image by image.
    """
    size = (logits.shape[2], logits.shape[3])
    seen = F.interpolate(labels[:, None].double(), size=size, mode='nearest-exact')[:, 0].long()
    losses = [_jaccard(p[:, known], label[known])
              for p, label in zip(logits.softmax(1), seen, strict=True)
              if (known := label != ignore_index).any()]
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _jaccard(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of an image: (C, n) probabilities of n pixels, and their labels."""
    present = labels.unique()
    is_class = (labels == present[:, None]).to(probabilities.dtype)
    errors, order = (is_class - probabilities[present]).abs().sort(1, descending=True)
    is_class = is_class.gather(1, order)
    # What the loss of the set of the k worst pixels is more than that of the k - 1 worst.
    total = is_class.sum(1, keepdim=True)
    lost = 1 - (total - is_class.cumsum(1)) / (total + (1 - is_class).cumsum(1))
    steps = torch.diff(lost, dim=1, prepend=torch.zeros_like(total))
    return (errors * steps).sum(1).mean()
