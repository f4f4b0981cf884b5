# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What training does for images of another place: each by a known answer."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import PLAIN, TinyNet, toy  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

from uncertainty_seg.errors import TrainingError  # noqa: E402
from uncertainty_seg.training.fit.augmentation import batches, Feed, normalise  # noqa: E402
from uncertainty_seg.training.fit.loop import fit  # noqa: E402
from uncertainty_seg.training.fit.run import FitSettings  # noqa: E402
from uncertainty_seg.training.networks import DropoutPlan, PyramidNet  # noqa: E402
from uncertainty_seg.training.sim_to_real import (  # noqa: E402
    adapt_norms,
    colour_statistics,
    mixed_count,
    mixed_draw,
    pseudo_labelled,
    pseudo_masks,
    SimToReal,
    with_colours,
)

pytestmark = pytest.mark.torch


def scene(seed: int, low: int = 60, high: int = 190) -> np.ndarray:
    """Smooth colours away from the ends of a byte, so that nothing is cut off."""
    coarse = np.random.default_rng(seed).integers(low, high, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)


# --- mixed batches -------------------------------------------------------------------------------


@pytest.mark.parametrize(('batch', 'share', 'expected'), [
    (8, 0.5, 4), (8, 0.25, 2), (8, 0.01, 1), (8, 0.99, 7), (6, 0.34, 2), (2, 0.9, 1)])
def test_every_batch_has_the_same_number_of_mixed_images(
    batch: int, share: float, expected: int
) -> None:
    is_mixed = np.arange(50) >= 43
    order = mixed_draw(np.random.default_rng(0), np.full(50, 0.02), batch, is_mixed, share)
    assert mixed_count(batch, share) == expected
    rows = order.reshape(-1, batch)
    assert len(rows) == 50 // batch  # as long as an epoch of all images
    assert (is_mixed[rows].sum(1) == expected).all()


def test_a_small_part_comes_again_and_every_image_about_as_often() -> None:
    is_mixed = np.arange(100) >= 95
    order = mixed_draw(np.random.default_rng(1), np.full(100, 0.01), 10, is_mixed, 0.5)
    times = Counter(order.tolist())
    assert [times[i] for i in range(95, 100)] == [10] * 5
    assert sum(times[i] for i in range(95)) == 50 and max(times[i] for i in range(95)) == 1


def test_chances_count_within_a_part_and_not_between_the_parts() -> None:
    weights = np.array([1.0] * 8 + [300.0, 100.0])
    order = mixed_draw(np.random.default_rng(2), weights / weights.sum(), 2,
                       np.arange(10) >= 8, 0.5)
    times = Counter(order.tolist())
    assert times[8] + times[9] == 5 and times[8] in (3, 4)


def test_batches_of_a_target_hold_its_images_in_their_share_however_often_they_are_repeated(
) -> None:
    data = toy(10)
    for index in range(7, 10):
        data.images[index][:] = (0, 255, 0)
    feed = SimToReal(mixed=3, share=0.25).feed(10, 20)
    twice = [values * 2 for values in (data.images, data.masks, data.stems)]
    data = type(data)(*twice, data.class_names, data.palette, data.ignore_index)
    rng, seen = np.random.default_rng(0), 0
    for images, _ in batches(data, rng, PLAIN, 4, np.full(20, 0.05), feed):
        middle = images[:, 10:20, 20:30].reshape(4, -1, 3)
        assert ((middle == (0, 255, 0)).all((1, 2))).sum() == 1
        seen += 1
    assert seen == 5


def test_without_a_target_batches_are_those_of_before() -> None:
    chances = np.full(16, 1 / 16)
    plain, ours = (batches(toy(), np.random.default_rng(3), PLAIN, 4, chances, feed)
                   for feed in (None, SimToReal().feed(16, 16)))
    for (one, _), (other, _) in zip(plain, ours, strict=True):
        np.testing.assert_array_equal(one, other)


# --- colours -------------------------------------------------------------------------------------


def lab_by_hand(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and spread in CIE Lab by its formulas, D65, scaled to bytes as OpenCV does."""
    linear = image / 255.0
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                             [0.019334, 0.119193, 0.950227]]).T / (0.950456, 1, 1.088754)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([(116 * f[..., 1] - 16) * 255 / 100, 500 * (f[..., 0] - f[..., 1]) + 128,
                    200 * (f[..., 1] - f[..., 2]) + 128], -1).reshape(-1, 3)
    return lab.mean(0), lab.std(0)


def test_colour_statistics_are_mean_and_spread_in_lab() -> None:
    mean, spread = lab_by_hand(scene(1))
    np.testing.assert_allclose(colour_statistics(scene(1)), [mean, spread], atol=0.6)


def test_a_recoloured_image_has_the_statistics_of_the_target_and_its_own_content() -> None:
    target = colour_statistics(scene(2, 100, 160))
    moved = with_colours(scene(1), target)
    mean, spread = lab_by_hand(moved)
    np.testing.assert_allclose([mean, spread], target, atol=1.0)
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).ravel() for image in
                     (scene(1), moved))
    assert np.corrcoef(before, after)[0, 1] > 0.95


def test_a_planted_cast_is_removed() -> None:
    clear = scene(3, 90, 170)
    lab = cv2.cvtColor(clear, cv2.COLOR_RGB2LAB).astype(float)
    water = (lab - lab.mean((0, 1))) * (0.6, 0.8, 0.7) + lab.mean((0, 1)) + (-20, -18, -12)
    cast = cv2.cvtColor(np.rint(water).astype(np.uint8), cv2.COLOR_LAB2RGB)
    assert np.abs(cast.astype(int) - clear).mean() > 20
    restored = with_colours(cast, colour_statistics(clear))
    assert np.abs(restored.astype(int) - clear).mean() < 2.5


def test_an_image_without_contrast_takes_the_mean_and_no_noise() -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)
    moved = with_colours(flat, colour_statistics(scene(4)))
    assert (moved == moved[0, 0]).all()
    np.testing.assert_allclose(colour_statistics(moved)[0], colour_statistics(scene(4))[0],
                               atol=1.5)


def test_only_what_is_not_mixed_in_is_recoloured_and_each_time_with_a_drawn_target() -> None:
    colours = np.stack([colour_statistics(scene(k)) for k in (5, 6, 7)])
    change = SimToReal(mixed=1, colours=colours).feed(3, 6).change
    rng = np.random.default_rng(0)
    assert change(scene(1), 2, rng) is not None
    for index in (2, 5):
        np.testing.assert_array_equal(change(scene(1), index, rng), scene(1))
    found = {change(scene(1), 0, rng).tobytes() for _ in range(40)}
    assert found == {with_colours(scene(1), one).tobytes() for one in colours}
    again = [change(scene(1), 0, np.random.default_rng(9)).tobytes() for _ in range(2)]
    assert again[0] == again[1]


def test_a_change_comes_before_the_augmentation_and_reaches_the_network() -> None:
    feed = Feed(change=lambda image, index, rng: np.full_like(image, 10 * index))
    data = toy(4)
    for images, _ in batches(data, np.random.default_rng(0), PLAIN, 4, np.full(4, 0.25), feed):
        assert sorted(images[:, 16, 24, 0].tolist()) == [0, 10, 20, 30]


# --- batch norms ---------------------------------------------------------------------------------


def test_adapted_statistics_are_the_means_of_those_of_the_batches() -> None:
    torch.manual_seed(0)
    net = TinyNet().eval()
    images = [scene(k) for k in range(13)]  # batches of seven and six
    adapt_norms(net, images, seed=4)
    order = np.random.default_rng(4).permutation(13)
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    means, variances = [], []
    for chosen in (order[:7], order[7:]):
        pixels = np.stack([images[i] for i in chosen]).transpose(0, 3, 1, 2) / 255.0
        pixels = (pixels - np.reshape((0.485, 0.456, 0.406), (1, 3, 1, 1))) \
            / np.reshape((0.229, 0.224, 0.225), (1, 3, 1, 1))
        padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
        out = np.einsum('nchwij,ocij->onhw', windows, weights['encoder.0.weight'])
        flat = (out + weights['encoder.0.bias'].reshape(-1, 1, 1, 1)).reshape(8, -1)
        means.append(flat.mean(1))
        variances.append(flat.var(1, ddof=1))
    np.testing.assert_allclose(weights['encoder.1.running_mean'], np.mean(means, 0), atol=1e-5)
    np.testing.assert_allclose(weights['encoder.1.running_var'], np.mean(variances, 0), rtol=1e-4)


def test_adapting_leaves_weights_modes_momenta_and_the_random_numbers_and_is_repeatable() -> None:
    torch.manual_seed(0)
    net = PyramidNet(3, DropoutPlan(level4=0.3, head=0.5), frozen_layers=4).train()
    norms = [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    modes = [part.training for part in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, images = torch.get_rng_state(), [scene(k)[:32, :64] for k in range(4)]
    adapt_norms(net, images)
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in net.modules()] == modes
    assert {norm.momentum for norm in norms} == {0.1}
    after = {name: value.clone() for name, value in net.state_dict().items()}
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before
                     if name.split('.')[-1].startswith(('running', 'num_batches'))}
    adapt_norms(net, images)
    for name, value in net.state_dict().items():
        assert torch.equal(value, after[name]), name


@torch.no_grad()
def test_another_light_is_taken_out_by_the_batch_norms_of_the_target() -> None:
    torch.manual_seed(0)
    net = TinyNet().eval()
    net.encoder[0].padding = (0, 0)  # a darker image then shifts each channel by a constant
    images = [scene(k, 100, 150) for k in range(8)]
    darker = [image - 50 for image in images]
    adapt_norms(net, images)
    expected, blind = net(normalise(np.stack(images))), net(normalise(np.stack(darker)))
    adapt_norms(net, darker)
    torch.testing.assert_close(net(normalise(np.stack(darker))), expected, atol=1e-4, rtol=1e-4)
    assert float((blind - expected).abs().max()) > 0.1


def test_what_cannot_be_adapted_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match='a network without batch norms'):
        adapt_norms(torch.nn.Conv2d(3, 2, 1), [scene(0)] * 2)
    with pytest.raises(TrainingError, match='1 images to measure the batch norms on'):
        adapt_norms(TinyNet(), [scene(0)])


# --- labels of a network -------------------------------------------------------------------------


@pytest.mark.parametrize('quantile', [0.25, 0.5, 0.8])
def test_the_most_uncertain_share_of_the_pixels_is_ignored_exactly(quantile: float) -> None:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (10, 12)).astype(np.uint8), np.full((8, 5), 2, np.uint8)]
    unsure = [rng.random((10, 12)).astype(np.float32), rng.random((8, 5)).astype(np.float32)]
    masks = pseudo_masks(labels, unsure, quantile, 255)
    flat = np.concatenate([part.ravel() for part in unsure])
    limit = np.sort(flat)[round(quantile * 160) - 1]
    for mask, label, part in zip(masks, labels, unsure, strict=True):
        np.testing.assert_array_equal(mask, np.where(part <= limit, label, 255))
    assert sum(int((mask != 255).sum()) for mask in masks) == round(quantile * 160)


def test_equal_uncertainties_are_cut_at_the_share_too() -> None:
    masks = pseudo_masks([np.zeros((4, 5), np.uint8)], [np.zeros((4, 5), np.float32)], 0.3, 255)
    assert int((masks[0] == 0).sum()) == 6


def test_by_class_each_predicted_class_keeps_its_share() -> None:
    label = np.array([[0] * 8, [1] * 8], np.uint8)
    unsure = np.array([np.linspace(0, 0.1, 8), np.linspace(0.8, 0.9, 8)], np.float32)
    assert (pseudo_masks([label], [unsure], 0.5, 255)[0] == [[0] * 8, [255] * 8]).all()
    by_class = pseudo_masks([label], [unsure], 0.5, 255, by_class=True)[0]
    assert by_class.tolist() == [[0] * 4 + [255] * 4, [1] * 4 + [255] * 4]


def test_pixels_without_a_number_are_never_labels() -> None:
    unsure = np.full((2, 4), np.nan, np.float32)
    unsure[0, 1] = 0.7
    assert pseudo_masks([np.ones((2, 4), np.uint8)], [unsure], 0.9, 255)[0].tolist() == [
        [255, 1, 255, 255], [255] * 4]


def test_labels_of_a_smaller_size_are_brought_to_that_of_the_image() -> None:
    label = np.array([[0, 1], [2, 0]], np.uint8)
    unsure = np.array([[0.0, 0.1], [0.2, 0.9]], np.float32)
    part = pseudo_labelled([('a', scene(0))], lambda image: (label, unsure), toy(), 0.75)
    assert (part.stems, part.images[0].shape, part.class_names) == (['a'], (60, 80, 3),
                                                                    toy().class_names)
    expected = np.repeat(np.repeat([[0, 1], [2, 255]], 30, 0), 40, 1)
    np.testing.assert_array_equal(part.masks[0], expected)
    with pytest.raises(TrainingError, match='no pixel of 1 images is sure enough'):
        pseudo_labelled([('a', scene(0))], lambda image: (label, unsure * np.nan), toy(), 0.75)


def test_a_net_learns_from_the_labels_that_another_was_sure_of() -> None:
    """Self-training on the unlabelled half gives what the true labels of that half would."""
    data = toy(24)

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = next(k for k, other in enumerate(data.images) if other is image)
        wrong = data.masks[index].copy()
        wrong[:, :6] = 2  # wrong, and not sure of it
        unsure = np.zeros(wrong.shape, np.float32)
        unsure[:, :6] = 1
        return wrong, unsure

    named = list(zip(data.stems, data.images, strict=True))
    part = pseudo_labelled(named, predict, data, 0.9)
    for mask, true in zip(part.masks, data.masks, strict=True):
        assert (mask[:, :6] == 255).all() and (mask[:, 6:] == true[:, 6:]).all()
    torch.manual_seed(0)
    net = fit(TinyNet(), part, FitSettings(epochs=12, batch=4, learning_rate=2e-2, averaging=0.9,
                                           augmentation=PLAIN))
    logits = F.interpolate(net(normalise(np.stack(data.images))), (40, 60), mode='bilinear')
    hits = logits.argmax(1).numpy() == np.stack(data.masks)
    assert hits.mean() > 0.9
