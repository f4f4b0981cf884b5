# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Augmentation transforms image and label together; images are drawn by their weights."""

from collections import Counter
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_fit import PLAIN, toy  # noqa: E402

from uncertainty_seg.training.batches import (  # noqa: E402
    augment,
    Augmentation,
    batches,
    draw_weights,
    Mix,
    systematic_draw,
)

pytestmark = pytest.mark.torch


def test_augmentation_moves_image_and_label_together() -> None:
    data, rng = toy(), np.random.default_rng(3)
    for _ in range(20):
        image, mask = augment(data.images[0], data.masks[0], rng, PLAIN, 255)
        assert image.shape == (32, 48, 3)
        # Except at borders, which bilinear interpolation mixes, each class keeps its colour.
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


def test_a_pasted_class_comes_with_its_pixels_and_only_rare_ones_are_pasted() -> None:
    data = toy(16, 3)
    how = dataclasses.replace(PLAIN, paste_share=1.0)
    red = [mask == 2 for images, masks in
           batches(data, np.random.default_rng(0), how, 4, np.full(16, 1 / 16)) for mask in masks]
    assert np.mean([one.any() for one in red]) > 0.8  # 3 of 16 images contain it
    for images, masks in batches(data, np.random.default_rng(1), how, 4, np.full(16, 1 / 16)):
        for image, mask in zip(images, masks, strict=True):
            pixels = image[mask == 2].astype(int)
            assert len(pixels) <= 50 or np.abs(np.median(pixels, 0) - [220, 30, 30]).max() <= 20


# --- mixed-in images of another folder ----------------------------------------------------------


@pytest.mark.parametrize(('batch', 'share', 'expected'), [
    (8, 0.5, 4), (8, 0.25, 2), (8, 0.01, 1), (8, 0.99, 7), (6, 0.34, 2), (2, 0.9, 1)])
def test_every_batch_has_the_same_number_of_mixed_images(
    batch: int, share: float, expected: int
) -> None:
    mix = Mix(np.arange(50) >= 43, share)
    rows = mix.draw(np.random.default_rng(0), np.full(50, 0.02), batch).reshape(-1, batch)
    assert mix.count(batch) == expected
    assert len(rows) == 50 // batch  # as long as an epoch of all images
    assert (mix.is_mixed[rows].sum(1) == expected).all()


def test_a_small_part_comes_again_and_every_image_about_as_often() -> None:
    mix = Mix(np.arange(100) >= 95, 0.5)
    times = Counter(mix.draw(np.random.default_rng(1), np.full(100, 0.01), 10).tolist())
    assert [times[i] for i in range(95, 100)] == [10] * 5
    assert sum(times[i] for i in range(95)) == 50 and max(times[i] for i in range(95)) == 1


def test_chances_count_within_a_part_and_not_between_the_parts() -> None:
    weights = np.array([1.0] * 8 + [300.0, 100.0])
    mix = Mix(np.arange(10) >= 8, 0.5)
    times = Counter(mix.draw(np.random.default_rng(2), weights / weights.sum(), 2).tolist())
    assert times[8] + times[9] == 5 and times[8] in (3, 4)
