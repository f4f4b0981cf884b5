# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The losses: known values, and what a variance head learns from planted noise."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.training import fit as fit_module  # noqa: E402
from uncertainty_seg.training.batches import Augmentation, normalise  # noqa: E402
from uncertainty_seg.training.fit import fit, FitSettings, restore_priors  # noqa: E402
from uncertainty_seg.training.losses import (  # noqa: E402
    attenuated_loss,
    iou_loss,
    segmentation_loss,
)
from uncertainty_seg.training.networks import PyramidNet  # noqa: E402
from uncertainty_seg.training.recipes import DropoutPlan  # noqa: E402

pytestmark = pytest.mark.torch
RNG = np.random.default_rng(0)
LOGITS = torch.from_numpy(RNG.normal(size=(2, 3, 4, 5)))
LABELS = torch.from_numpy(RNG.integers(0, 3, (2, 4, 5)))
LABELS[0, 0, :2] = 255
WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def test_without_variance_it_is_the_cross_entropy() -> None:
    outputs = torch.cat([LOGITS, torch.full_like(LOGITS, -100)], 1)
    for weights in (None, WEIGHTS):
        plain = functional.cross_entropy(LOGITS, LABELS, weights, ignore_index=255)
        loss = attenuated_loss(outputs, LABELS, weights, 255)
        assert float(loss) == pytest.approx(float(plain), abs=1e-9)
    chosen = segmentation_loss(LOGITS, LABELS, WEIGHTS, 255)
    assert float(chosen) == pytest.approx(float(plain))
    assert float(segmentation_loss(outputs, LABELS, WEIGHTS, 255)) == pytest.approx(float(plain))


def test_it_is_the_definition_worked_out_in_numpy() -> None:
    spread = torch.from_numpy(RNG.normal(size=(2, 3, 4, 5)))
    generator = torch.Generator().manual_seed(3)
    loss = attenuated_loss(torch.cat([LOGITS, spread], 1), LABELS, WEIGHTS, 255, 4, generator)
    generator.manual_seed(3)
    drawn = [torch.randn((2, 3, 4, 5), generator=generator, dtype=torch.float64)
             for _ in range(4)]
    z = [(LOGITS + (spread / 2).exp() * e).numpy() for e in drawn]
    mean = sum(np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in z) / 4
    total = share = 0.0
    for n, row, column in np.ndindex(2, 4, 5):
        label = int(LABELS[n, row, column])
        if label != 255:
            total -= float(WEIGHTS[label]) * np.log(mean[n, label, row, column])
            share += float(WEIGHTS[label])
    assert float(loss) == pytest.approx(total / share, rel=1e-9)


@pytest.mark.parametrize('value', [80.0, 1e6, float('inf')])
def test_a_huge_log_variance_has_a_finite_loss_and_gradient(value: float) -> None:
    outputs = torch.cat([LOGITS * 30, torch.full_like(LOGITS, value)], 1).float()
    outputs.requires_grad_()
    loss = attenuated_loss(outputs, LABELS, None, 255)
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(outputs.grad).all())


def test_a_variance_costs_where_labels_agree_and_pays_where_they_do_not() -> None:
    sure = torch.tensor([6.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 1000)
    for wrong, pays in ((0.0, False), (0.5, True)):
        labels = (torch.arange(1000).view(1, 1, -1) < 1000 * wrong).long()
        small, large = (float(attenuated_loss(
            torch.cat([sure, torch.full_like(sure, s)], 1), labels, samples=20,
            generator=torch.Generator().manual_seed(0))) for s in (-5.0, 4.0))
        assert (large < small) == pays


# -------------------------------------------------------------------------------------------------
# The variance head of the shipped architecture, and the fit that trains it.


def test_the_variance_head_leaves_the_logits_and_their_weights_alone() -> None:
    nets = []
    for has_variance in (False, True):
        torch.manual_seed(0)
        nets.append(PyramidNet(3, DropoutPlan(), width=16, has_variance=has_variance).eval())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, both = (net(image) for net in nets)
    assert both.shape == (1, 6, 16, 16)
    torch.testing.assert_close(both[:, :3], plain)
    assert set(nets[1].state_dict()) - set(nets[0].state_dict()) == {
        'decoder.variance.weight', 'decoder.variance.bias'}


class Patches(nn.Module):
    """Logits and log-variances of a pixel's colours."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(image))


def test_a_fit_learns_a_larger_variance_where_labels_are_drawn_by_lot(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (16, 32, 32), np.uint8)
    images = np.repeat((200 * masks)[..., None], 3, 3)
    images[:, :, 16:] = 90, 20, 200  # a colour that says nothing of the label
    stems = [str(i) for i in range(16)]
    palette = ((0, 0, 0), (1, 1, 1))
    data = LabelledFolder(list(images), list(masks), stems, ('a', 'b'), palette, 255)
    how = Augmentation((32, 32), scale=(1.0, 1.0), colour=0.0, blur_share=0.0)
    torch.manual_seed(0)
    settings = FitSettings(60, batch=4, learning_rate=2e-2, augmentation=how)
    monkeypatch.setattr(fit_module, 'AVERAGING', 0.9)
    net = fit(Patches(), data, settings)
    with torch.no_grad():
        logits, log_variance = net(normalise(images)).chunk(2, 1)
    right = logits.argmax(1) == torch.from_numpy(masks)
    assert right[..., :16].float().mean() > 0.99
    assert log_variance[..., :16].mean() < log_variance[..., 16:].mean() - 1


def mean_iou_of(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Over the classes that are present in the truth, of the pixels that are known."""
    known = truth != 255
    return float(np.mean([
        ((predicted == c) & (truth == c) & known).sum() / (
            ((predicted == c) | (truth == c)) & known).sum()
        for c in np.unique(truth[known])]))


def test_the_loss_of_sure_probabilities_is_one_less_the_mean_iou_of_each_image() -> None:
    predicted = RNG.integers(0, 4, (3, 12, 10))
    truth = RNG.integers(0, 3, (3, 12, 10))
    truth[0, :4] = 255
    truth[1] = np.where(truth[1] == 2, 0, truth[1])  # an image without a class
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
        for i in order:  # the Jaccard loss if just these pixels were wrong
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
    seen = fine[:, 1::3, 2::4]  # 4x5, of which (i + 0.5) * 3 and (j + 0.5) * 4 are the centres
    assert float(iou_loss(LOGITS[:1], fine, 255)) == float(iou_loss(LOGITS[:1], seen, 255))


def test_the_iou_that_is_trained_is_that_of_the_probabilities_that_ship() -> None:
    """The classifier loses ln(w) at the end, so the loss takes it off before."""
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
