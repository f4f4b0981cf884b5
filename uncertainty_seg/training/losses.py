# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a network is trained to make small: cross-entropy, and the one that learns a variance too.

The attenuated loss of Kendall and Gal draws logits from the normal distribution that the network
predicts at each pixel. Where labels contradict each other, a large variance costs less than being
sure of one of them; where they agree, it costs more. Nobody labels the variance.

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

    Parameters
    ----------
    outputs : Tensor, shape (N, C, h, w) or (N, 2C, h, w)
        Logits; then log-variances, where there are twice as many channels as weights.
    labels : Tensor of int64, shape (N, h, w)
        Class ids.
    weights : Tensor, shape (C,)
        Of each class.
    ignore_index : int
        Label of pixels that do not count.

    Returns
    -------
    Tensor
        The weighted mean over all pixels that count, in nats; at least 0.

    """
    if outputs.shape[1] == 2 * len(weights):
        return attenuated_loss(outputs, labels, weights, ignore_index)
    return F.cross_entropy(outputs, labels, weight=weights, ignore_index=ignore_index)


def attenuated_loss(
    outputs: Tensor, labels: Tensor, weights: Tensor | None = None, ignore_index: int = -100,
    samples: int = SAMPLES, generator: torch.Generator | None = None,
) -> Tensor:
    """
    Return -log(mean_k softmax(f + exp(s / 2) e_k) of the label), averaged over pixels.

    Parameters
    ----------
    outputs : Tensor, shape (N, 2C, h, w)
        Logits f, then log-variances s; above `LARGEST_LOG_VARIANCE` they count as that, and have
        no gradient.
    labels : Tensor of int64, shape (N, h, w)
        Class ids.
    weights : Tensor, shape (C,), optional
        Of each class, as in cross-entropy.
    ignore_index : int
        Label of pixels that do not count.
    samples : int
        Standard normal numbers e a pixel and class. Gradients go through them to s.
    generator : torch.Generator, optional
        Draws them; else torch's own, which `torch.manual_seed` seeds.

    Returns
    -------
    Tensor
        In nats, at least 0. With a variance of zero it is the cross-entropy of f. Without a pixel
        that counts it is NaN, as that is.

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
