# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The IoU loss: known values, and its relation to the shipped probabilities."""

import copy

import numpy as np
from numpy.typing import NDArray
import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from uncertainty_seg.training import fit as fit_module  # noqa: E402
from uncertainty_seg.training.batches import normalise  # noqa: E402
from uncertainty_seg.training.fit import restore_priors  # noqa: E402
from uncertainty_seg.training.losses import iou_loss  # noqa: E402

pytestmark = pytest.mark.torch
RNG = np.random.default_rng(0)
LOGITS = torch.from_numpy(RNG.normal(size=(2, 3, 4, 5)))
LABELS = torch.from_numpy(RNG.integers(0, 3, (2, 4, 5)))
LABELS[0, 0, :2] = 255
WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def mean_iou_of(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the mean over the classes present in the truth, without unknown pixels."""
    known = truth != 255
    return float(np.mean([
        ((predicted == c) & (truth == c) & known).sum() / (
            ((predicted == c) | (truth == c)) & known).sum()
        for c in np.unique(truth[known])]))


def test_the_loss_of_sure_probabilities_is_one_less_the_mean_iou_of_each_image() -> None:
    predicted = RNG.integers(0, 4, (3, 12, 10))
    truth = RNG.integers(0, 3, (3, 12, 10))
    truth[0, :4] = 255
    truth[1] = np.where(truth[1] == 2, 0, truth[1])  # an image without class 2
    sure = torch.from_numpy(np.moveaxis(np.eye(4)[predicted] * 1e4, 3, 1))
    wanted = np.mean([1 - mean_iou_of(*pair) for pair in zip(predicted, truth, strict=True)])
    assert float(iou_loss(sure, torch.from_numpy(truth), 255)) == pytest.approx(wanted, abs=1e-12)


def test_between_them_it_is_the_lovasz_extension_worked_out_set_by_set() -> None:
    p = np.exp(LOGITS[1].numpy())
    p = (p / p.sum(0)).reshape(3, -1)
    label = LABELS[1].numpy().ravel()
    found = []
    for c in np.unique(label):
        errors = np.where(label == c, 1 - p[c], p[c])
        order = np.argsort(-errors)
        wrong, before, total = np.zeros(label.size, bool), 0.0, 0.0
        for i in order:  # the Jaccard loss if only these pixels are wrong
            wrong[i] = True
            missed, added = (wrong & (label == c)).sum(), (wrong & (label != c)).sum()
            now = (missed + added) / ((label == c).sum() + added)
            total, before = total + errors[i] * (now - before), now
        found.append(total)
    loss = iou_loss(LOGITS[1:], LABELS[1:], 255)
    assert float(loss) == pytest.approx(np.mean(found), abs=1e-12)


def test_an_image_without_labels_counts_for_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    unknown = torch.full_like(LABELS, 255)
    one = torch.stack([LABELS[0], unknown[0]])
    assert float(iou_loss(LOGITS, one, 255)) == float(iou_loss(LOGITS[:1], LABELS[:1], 255))
    none = iou_loss(logits, unknown, 255)
    none.backward()
    assert float(none.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_labels_are_looked_at_at_the_centres_of_coarse_logits() -> None:
    fine = torch.from_numpy(RNG.integers(0, 3, (1, 12, 20)))
    seen = fine[:, 1::3, 2::4]  # 4x5, at the centres (i + 0.5) * 3 and (j + 0.5) * 4
    assert float(iou_loss(LOGITS[:1], fine, 255)) == float(iou_loss(LOGITS[:1], seen, 255))


def test_the_iou_that_is_trained_is_that_of_the_probabilities_that_ship() -> None:
    """Check that the loss subtracts ln(w), which is removed from the final classifier."""
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    masks = RNG.integers(0, 3, (2, 8, 8)).astype(np.uint8)
    net = nn.Conv2d(3, 3, 1)
    weights = WEIGHTS.float()
    losses = [fit_module._step(net, images, masks, weights, 255,
                               torch.optim.SGD(net.parameters(), 0.0), weight)
              for weight in (0.0, 2.0)]
    shipped = copy.deepcopy(net)
    restore_priors(shipped, weights)
    with torch.no_grad():
        more = 2 * iou_loss(shipped(normalise(images)), torch.from_numpy(masks).long(), 255)
    assert losses[0] is not None and losses[1] == pytest.approx(losses[0] + float(more), abs=1e-6)
