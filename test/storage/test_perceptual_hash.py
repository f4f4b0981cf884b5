# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The perceptual hash: known frequencies; small changes flip few bits, other images half."""

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.storage.perceptual_hash import perceptual_hash

Image = NDArray[np.uint8]


def scene(seed: int, rows: int = 96, columns: int = 160) -> Image:
    """Draw an image with structure of several sizes in all colours."""
    rng = np.random.default_rng(seed)
    total = np.zeros((rows, columns, 3))
    for size in (4, 16, 32):
        coarse = rng.normal(size=(rows // size, columns // size, 3))
        total += cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.clip(120 + 35 * total, 0, 255).astype(np.uint8)


def drawn(signs: NDArray[np.float64]) -> Image:
    """Return the sum of the 64 low frequencies with given signs, as 32x32 grey."""
    n = np.arange(32)
    total = np.full((32, 32), 128.0)
    for u in range(8):
        for v in range(8):
            rows = np.cos(np.pi * (u + 1) * (n + 0.5) / 32)
            columns = np.cos(np.pi * (v + 1) * (n + 0.5) / 32)
            total += 1.9 * signs[u, v] * np.outer(rows, columns)
    assert 0 <= total.min() and total.max() <= 255
    return np.repeat(np.rint(total).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize('scale', [1, 4])
def test_the_signs_of_drawn_frequencies_are_the_bits(scale: int) -> None:
    signs = np.random.default_rng(7).permutation(np.repeat([-1.0, 1.0], 32)).reshape(8, 8)
    expected = int(''.join('1' if sign > 0 else '0' for sign in signs.ravel()), 2)
    image = np.kron(drawn(signs), np.ones((scale, scale, 1), np.uint8))
    assert f'{perceptual_hash(image):016x}' == f'{expected:016x}'


@pytest.mark.parametrize('shape', [(1, 1), (7, 9), (720, 1280)])
def test_an_even_image_is_zero(shape: tuple[int, int]) -> None:
    assert perceptual_hash(np.full((*shape, 3), (10, 120, 90), np.uint8)) == 0


def changed(image: Image, change: str) -> Image:
    if change == 'noise':
        noise = np.random.default_rng(1).normal(0, 8, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    if change == 'jpeg':
        data = cv2.imencode('.jpg', image, (cv2.IMWRITE_JPEG_QUALITY, 50))[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    if change == 'exposure':
        return (image * 0.8 + 10).astype(np.uint8)
    return np.asarray(cv2.resize(image, (640, 384), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize('change', ['noise', 'jpeg', 'exposure', 'size'])
def test_a_small_change_moves_few_bits(change: str) -> None:
    for seed in range(10):
        image = scene(seed)
        other = changed(image, change)
        assert (perceptual_hash(image) ^ perceptual_hash(other)).bit_count() <= 6
