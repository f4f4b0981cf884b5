# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A fit learns, repeats itself, keeps frozen layers, and its weights are what they claim to be."""

import contextlib
import copy

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from uncertainty_seg.storage.labelled_folder import LabelledFolder  # noqa: E402
from uncertainty_seg.training.fit import loop  # noqa: E402
from uncertainty_seg.training.fit.augmentation import Augmentation, Feed, normalise  # noqa: E402
from uncertainty_seg.training.fit.loop import class_weights, fit, restore_priors  # noqa: E402
from uncertainty_seg.training.fit.run import FitSettings  # noqa: E402

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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN')
def test_on_one_thread_1x1_convolutions_are_computed_by_onednn_and_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.profiler.profile() as fast:
            _, losses = trained(epochs=1)
        fit(net := TinyNet(), toy(), FitSettings(epochs=1, batch=4, augmentation=PLAIN))
        with pytest.raises(KeyboardInterrupt):
            fit(stopped := TinyNet(), toy(), FitSettings(epochs=1, batch=4, augmentation=PLAIN),
                feed=Feed(order=_interrupted))
        monkeypatch.setattr(loop, '_fast_kernels', lambda _net: contextlib.nullcontext())
        with torch.profiler.profile() as plain:
            _, expected = trained(epochs=1)
    finally:
        torch.set_num_threads(before)
    assert not [e.key for e in fast.key_averages() if 'slow_conv' in e.key]
    assert [e.key for e in plain.key_averages() if 'slow_conv' in e.key]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert net.classifier.dilation == stopped.classifier.dilation == (1, 1)


def _interrupted(*_: object) -> np.ndarray:
    raise KeyboardInterrupt


def test_frozen_layers_stay_as_they_came_and_the_others_do_not() -> None:
    net = TinyNet()
    net.frozen = ('encoder.0.',)
    before = copy.deepcopy(net.state_dict())
    fit(net, toy(), FitSettings(epochs=1, batch=4, augmentation=PLAIN))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith('encoder.0.'), name
