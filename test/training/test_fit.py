# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Training: augmentation keeps label and image together, weights are what they claim to be."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
import uncertainty_seg.training.fit as fit_module  # noqa: E402
from uncertainty_seg.training.fit import (  # noqa: E402
    augment,
    Augmentation,
    batches,
    class_weights,
    draw_weights,
    finished_epochs,
    fit,
    FitSettings,
    normalise,
    restore_priors,
    systematic_draw,
    Watch,
)

pytestmark = pytest.mark.torch
PLAIN = Augmentation(crop=(48, 32), scale=(0.8, 1.4), colour=0.0, blur_share=0.0)


def toy(count: int = 16, rare: int = 3) -> LabelledFolder:
    """Dark left, bright right; the first `rare` images hold a patch of a third class."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for i in range(count):
        mask = np.zeros((40, 60), np.uint8)
        mask[:, rng.integers(20, 40):] = 1
        if i < rare:
            mask[5:20, 5:15] = 2
        images.append(np.array([[30] * 3, [220] * 3, [220, 30, 30]], np.uint8)[mask])
        masks.append(mask)
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    stems = [str(i) for i in range(count)]
    return LabelledFolder(images, masks, stems, ('dark', 'bright', 'red'), palette, 255)


class TinyNet(torch.nn.Module):
    """Stride 4, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, stride=2, padding=1), torch.nn.ReLU())
        self.drop = torch.nn.Dropout2d(0.2)
        self.classifier = torch.nn.Conv2d(8, 3, 1)

    def forward(self, image):
        return self.classifier(self.drop(self.encoder(image)))


def trained(seed: int = 1, epochs: int = 12) -> tuple[torch.nn.Module, list[float]]:
    torch.manual_seed(0)
    losses: list[float] = []
    settings = FitSettings(epochs=epochs, batch=4, learning_rate=2e-2, averaging=0.8, seed=seed,
                           augmentation=PLAIN)
    net = fit(TinyNet(), toy(), settings, lambda _e, loss, _n: losses.append(loss))
    return net, losses


def test_augmentation_moves_image_and_label_together() -> None:
    data, rng = toy(), np.random.default_rng(3)
    for _ in range(20):
        image, mask = augment(data.images[0], data.masks[0], rng, PLAIN, 255)
        assert image.shape == (32, 48, 3)
        # Away from borders, where bilinear mixes, each class still has its own colour.
        for label, color in ((0, [30, 30, 30]), (1, [220, 220, 220]), (2, [220, 30, 30])):
            pixels = image[mask == label]
            if len(pixels) > 50:
                assert np.abs(np.median(pixels, 0) - color).max() <= 1
        assert set(np.unique(mask)) <= {0, 1, 2, 255}


def test_what_lies_outside_the_image_is_ignored() -> None:
    small = Augmentation(crop=(96, 64), scale=(0.8, 0.8), colour=0, blur_share=0)
    image, mask = augment(toy().images[5], toy().masks[5], np.random.default_rng(0), small, 255)
    assert (mask == 255).mean() > 0.5
    assert np.abs(np.median(image[mask == 255], 0) - 114).max() <= 1


def test_recolouring_leaves_the_label_alone() -> None:
    data = toy()
    how = Augmentation(crop=(60, 40), scale=(1.0, 1.0), colour=0.3, blur_share=1.0)
    one = augment(data.images[0], data.masks[0], np.random.default_rng(1), how, 255)
    plain = augment(data.images[0], data.masks[0], np.random.default_rng(1),
                    Augmentation((60, 40), (1.0, 1.0), 0.0, 0.0), 255)
    np.testing.assert_array_equal(one[1], plain[1])
    assert np.abs(one[0].astype(int) - plain[0]).mean() > 3


def test_an_epoch_draws_each_image_as_often_as_its_weight_says() -> None:
    weights = np.array([0.5, 0.25, 0.125, 0.125])
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = np.bincount(systematic_draw(rng, weights), minlength=4)
        assert np.abs(counts - weights * 4).max() < 1
    assert sum(len(i) for i, _ in batches(toy(10), rng, PLAIN, 4, np.full(10, 0.1))) == 8


def test_images_with_a_rare_class_are_drawn_more_often() -> None:
    chances = draw_weights(toy(16, 4), 0.5)
    assert chances.sum() == pytest.approx(1)
    assert chances[0] / chances[10] == pytest.approx(2.0)  # (4/16) ** -0.5
    assert draw_weights(toy(), 0.0) == pytest.approx(1 / 16)


def test_class_weights_are_inverse_roots_of_the_pixel_shares() -> None:
    data = toy()
    share = data.pixel_counts().sum(0) / data.pixel_counts().sum()
    weights = class_weights(data, 0.5).numpy()
    assert weights[2] / weights[0] == pytest.approx((share[0] / share[2]) ** 0.5, rel=1e-2)
    assert (weights * share).sum() == pytest.approx(1, rel=1e-3)
    assert class_weights(data, 0.0).numpy() == pytest.approx(1)


def test_restoring_the_priors_gives_the_true_probabilities_back() -> None:
    true, weights = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 1.0, 4.0])
    weighted = true * weights / (true * weights).sum()  # what a weighted loss converges to
    classifier = torch.nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(weighted.log())
    restore_priors(classifier, weights)
    found = classifier(torch.zeros(1, 1, 1, 1)).softmax(1).flatten()
    assert found.detach().numpy() == pytest.approx(true.numpy(), abs=1e-6)


def test_a_fit_learns_the_toy_and_keeps_the_average_in_eval_mode() -> None:
    net, losses = trained()
    assert losses[-1] < 0.5 * losses[0]
    assert not net.training
    data = toy()
    with torch.no_grad():
        logits = net(normalise(np.stack(data.images)))
        labels = torch.nn.functional.interpolate(logits, (40, 60), mode='bilinear').argmax(1)
    assert (labels.numpy() == np.stack(data.masks)).mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, same, other = (trained(seed, epochs=1)[0] for seed in (1, 1, 2))
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert any((a != b).any() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(('every_s', 'watch', 'kept'), [
    (0.0, Watch(), [0, 1, 2, 3, 4, 5, 6]), (math.inf, Watch(), [0, 6]),
    (math.inf, Watch(lambda net: 0.5, patience=3), [0, 3])])  # none is better than the first
def test_the_first_epoch_the_last_and_one_every_while_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, watch: Watch, kept: list[int]
) -> None:
    monkeypatch.setattr(fit_module, 'KEEP_EVERY_S', every_s)
    told: list[int] = []
    settings = FitSettings(epochs=7, batch=4, augmentation=PLAIN)
    fit(TinyNet(), toy(), settings, lambda epoch, *_: told.append(epoch),
        tmp_path / 'run.progress', watch)
    assert told == kept and finished_epochs(tmp_path / 'run.progress') == kept[-1] + 1


@pytest.mark.parametrize('every_s', [0.0, math.inf])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    monkeypatch.setattr(fit_module, 'KEEP_EVERY_S', every_s)
    settings = FitSettings(epochs=3, batch=4, augmentation=PLAIN)
    stopped = tmp_path / 'run.progress'

    def run(on_epoch=None, settings=settings) -> torch.nn.Module:
        torch.manual_seed(0)
        return fit(TinyNet(), toy(), settings, on_epoch, stopped)

    whole = copy.deepcopy(run())
    stopped.unlink()

    def stop(epoch: int, loss: float, average: torch.nn.Module) -> None:
        if epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    torch.manual_seed(99)  # another process has another state
    for (name, value), other in zip(run().state_dict().items(), whole.state_dict().values(),
                                    strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0, msg=name)
    with pytest.raises(TrainingError, match='run.progress is of a run with the epochs 3, not 5, '
                       'expected the run that is to go on: take another --out, or delete it'):
        run(settings=dataclasses.replace(settings, epochs=5))


def test_frozen_layers_stay_as_they_came_and_the_others_do_not() -> None:
    net = TinyNet()
    net.frozen = ('encoder.0.',)
    before = copy.deepcopy(net.state_dict())
    fit(net, toy(), FitSettings(epochs=1, batch=4, augmentation=PLAIN))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith('encoder.0.'), name


def test_a_pasted_class_comes_with_its_pixels_and_only_rare_ones_are_pasted() -> None:
    data = toy(16, 3)
    how = dataclasses.replace(PLAIN, paste_share=1.0)
    red = [mask == 2 for images, masks in
           batches(data, np.random.default_rng(0), how, 4, np.full(16, 1 / 16)) for mask in masks]
    assert np.mean([one.any() for one in red]) > 0.8  # 3 of 16 images hold it
    for images, masks in batches(data, np.random.default_rng(1), how, 4, np.full(16, 1 / 16)):
        for image, mask in zip(images, masks, strict=True):
            pixels = image[mask == 2].astype(int)
            assert len(pixels) <= 50 or np.abs(np.median(pixels, 0) - [220, 30, 30]).max() <= 20


def test_small_epochs_see_less_of_the_same() -> None:
    settings = FitSettings(epochs=4, small_epochs=2, augmentation=Augmentation(crop=(288, 224)))
    small, large = settings.augmentation_of(1), settings.augmentation_of(2)
    assert (small.crop, large.crop) == ((224, 160), (288, 224))
    assert small.scale == (0.7 * 0.75, 1.5 * 0.75)
    assert large is settings.augmentation
