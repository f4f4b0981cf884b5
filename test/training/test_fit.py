# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A fit learns, is reproducible, continues after a stop, and ends if the loss is not finite."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from uncertainty_seg.errors import DivergedError, TrainingError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.training import fit as fit_module  # noqa: E402
from uncertainty_seg.training.batches import Augmentation, normalise  # noqa: E402
from uncertainty_seg.training.fit import (  # noqa: E402
    class_weights,
    fit,
    FitSettings,
    restore_priors,
    Row,
    Watch,
)

pytestmark = pytest.mark.torch
PLAIN = Augmentation(crop=(48, 32), scale=(0.8, 1.4), colour=0.0, blur_share=0.0)


def toy(count: int = 16, rare: int = 3) -> LabelledFolder:
    """Return images dark left and bright right; the first `rare` have a third class."""
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
    """A net of stride 4 with three classes."""

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
    settings = FitSettings(epochs=epochs, batch=4, learning_rate=2e-2, seed=seed,
                           augmentation=PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, 'AVERAGING', 0.8)
        net = fit(TinyNet(), toy(), settings, lambda _e, loss, _n: losses.append(loss))
    return net, losses


def test_class_weights_are_inverse_roots_of_the_pixel_shares() -> None:
    data = toy()
    share = data.pixel_counts().sum(0) / data.pixel_counts().sum()
    weights = class_weights(data, 0.5).numpy()
    assert weights[2] / weights[0] == pytest.approx((share[0] / share[2]) ** 0.5, rel=1e-2)
    assert (weights * share).sum() == pytest.approx(1, rel=1e-3)
    assert class_weights(data, 0.0).numpy() == pytest.approx(1)


def test_restoring_the_priors_gives_the_true_probabilities_back() -> None:
    true, weights = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 1.0, 4.0])
    weighted = true * weights / (true * weights).sum()  # the optimum of a weighted loss
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


def test_frozen_layers_stay_as_they_came_and_the_others_do_not() -> None:
    net = TinyNet()
    net.frozen = ('encoder.0.',)
    before = copy.deepcopy(net.state_dict())
    fit(net, toy(), FitSettings(epochs=1, batch=4, augmentation=PLAIN))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith('encoder.0.'), name


@pytest.mark.parametrize(('every_s', 'watch', 'kept'), [
    (0.0, Watch(), [0, 1, 2, 3, 4, 5, 6]), (math.inf, Watch(), [0, 6]),
    (math.inf, Watch(lambda net: 0.5, patience=3), [0, 3])])  # no epoch is better than the first
def test_the_first_epoch_the_last_and_one_every_while_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, watch: Watch, kept: list[int]
) -> None:
    monkeypatch.setattr(fit_module, 'KEEP_EVERY_S', every_s)
    told: list[int] = []
    settings = FitSettings(epochs=7, batch=4, augmentation=PLAIN)
    fit(TinyNet(), toy(), settings, lambda epoch, *_: told.append(epoch),
        tmp_path / 'run.progress', watch)
    saved = torch.load(tmp_path / 'run.progress', weights_only=True)
    assert told == kept and saved['epochs'] == kept[-1] + 1


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
    with pytest.raises(TrainingError, match='run.progress .*another recipe'):
        run(settings=dataclasses.replace(settings, epochs=5))


def test_small_epochs_see_less_of_the_same() -> None:
    settings = FitSettings(epochs=4, small_epochs=2, augmentation=Augmentation(crop=(288, 224)))
    small, large = settings.augmentation_of(1), settings.augmentation_of(2)
    assert (small.crop, large.crop) == ((224, 160), (288, 224))
    assert small.scale == (0.7 * 0.75, 1.5 * 0.75)
    assert large is settings.augmentation


class Hopeless(TinyNet):

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * (math.nan if self.training else 1.0)


def test_a_loss_that_is_no_number_ends_in_a_sentence() -> None:
    settings = FitSettings(epochs=2, batch=4, augmentation=PLAIN)
    with pytest.raises(DivergedError, match='epoch 1'):
        fit(Hopeless(), toy(), settings)


def test_images_without_a_known_pixel_are_no_divergence() -> None:
    data = toy()
    blank = dataclasses.replace(data, masks=[np.full_like(mask, 255) if k % 2 else mask
                                             for k, mask in enumerate(data.masks)])
    settings = FitSettings(epochs=2, batch=1, augmentation=PLAIN)
    rows: list[Row] = []
    fit(TinyNet(), blank, settings, watch=Watch(on_rows=lambda r: rows.extend(r[-1:])))
    assert len(rows) == 2 and all(row['loss'] > 0 for row in rows)


def test_patience_ends_the_run_and_keeps_the_best_epoch() -> None:
    ious = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9])
    settings = FitSettings(epochs=7, batch=4, learning_rate=2e-2, augmentation=PLAIN)
    kept: list[torch.nn.Module] = []
    rows: list[Row] = []
    averages: list[dict[str, torch.Tensor]] = []

    def measure(average: torch.nn.Module) -> float:
        averages.append({k: v.clone() for k, v in average.state_dict().items()})
        return next(ious)

    watch = Watch(measure, patience=3, on_rows=lambda r: rows.extend(r[-1:]))
    net = fit(TinyNet(), toy(), settings, lambda _e, _l, net: kept.append(net), watch=watch)
    assert len(rows) == 5  # three after the second; an equal score is not better
    for name, value in net.state_dict().items():
        assert torch.equal(value, averages[1][name]), name
    assert not torch.equal(averages[1]['classifier.weight'], averages[4]['classifier.weight'])
