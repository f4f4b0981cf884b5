# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a network is trained to make small: cross-entropy, one that learns a variance too, and IoU.

The attenuated loss of Kendall and Gal draws logits from the normal distribution that the network
predicts at each pixel, whose variance nobody labels.

Cross-entropy counts pixels, so that a class of a few pixels that is not there costs it nearly
nothing. A mask is judged by its mean IoU, where that class counts as much as any other; the
Lovasz-Softmax loss is a differentiable form of it.

"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

# As the compiled head limits it: beyond, the samples are pure noise.
LARGEST_LOG_VARIANCE = 15.0
SAMPLES = 5


def segmentation_loss(
    outputs: Tensor, labels: Tensor, weights: Tensor, ignore_index: int
) -> Tensor:
    """
    Return the loss of a network's outputs: attenuated where they hold a variance.

    They are logits (N, C, h, w), or logits and log-variances (N, 2C, h, w) of the C classes that
    have weights (C,); labels are int64 (N, h, w), of which `ignore_index` does not count. The loss
    is the weighted mean over all pixels that count, in nats; at least 0.
    """
    if outputs.shape[1] == 2 * len(weights):
        return attenuated_loss(outputs, labels, weights, ignore_index)
    return F.cross_entropy(outputs, labels, weight=weights, ignore_index=ignore_index)


def attenuated_loss(
    outputs: Tensor, labels: Tensor, weights: Tensor | None = None, ignore_index: int = -100,
    samples: int = SAMPLES, generator: torch.Generator | None = None,
) -> Tensor:
    """
    Return -log(mean_k softmax(f + exp(s / 2) e_k) of the label), averaged over pixels, in nats.

    `outputs` (N, 2C, h, w) are logits f, then log-variances s; above `LARGEST_LOG_VARIANCE` they
    count as that, and have no gradient. The e are standard normal numbers, `samples` a pixel and
    class, from the generator or torch's own; gradients go through them to s. With a variance of
    zero it is the cross-entropy of f. Without a pixel that counts it is NaN, as that is.

    References
    ----------
    Kendall and Gal, 2017, arXiv:1703.04977, equation 12.

    """
    logits, log_variance = outputs.chunk(2, 1)
    sigma = (log_variance.clamp(max=LARGEST_LOG_VARIANCE) / 2).exp()
    known = labels != ignore_index
    chosen = torch.where(known, labels, 0)
    drawn = []
    for _ in range(samples):
        noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype,
                            device=logits.device)
        z = logits + sigma * noise
        drawn.append(z.gather(1, chosen[:, None])[:, 0] - z.logsumexp(1))
    losses = math.log(samples) - torch.stack(drawn).logsumexp(0)
    share = known.to(losses.dtype) if weights is None else weights[chosen] * known
    return (losses * share).sum() / share.sum()


def iou_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """
    Return 1 less the mean IoU of each image, made smooth: the Lovasz-Softmax loss.

    Logits (N, C, h, w) are of the probabilities that are used for masks; labels, int64 (N, H, W),
    are looked at where the logits are, at the centres of their pixels. It is the mean over images
    and the classes that are present in each, 0..1; NaN of a logit that is. Of probabilities that
    are 0 and 1 it is 1 - IoU, to rounding. Images without a pixel that counts are left out, and
    without any image it is 0.

    References
    ----------
    Berman, Triki and Blaschko, 2018, arXiv:1705.08790, equation 9, image by image.

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
