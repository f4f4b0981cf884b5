# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Scores of the image: known images, growth with the degradation of each, and masks."""

from collections.abc import Callable

from cases import for_each
import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.scores.image import IMAGE_SCORES, image_scores
from uncertainty_seg.errors import ShapeError

Image = NDArray[np.uint8]


def plain(color: tuple[int, int, int], rows: int = 128, columns: int = 160) -> Image:
    return np.full((rows, columns, 3), color, np.uint8)


def detailed(seed: int = 0, rows: int = 128, columns: int = 160) -> Image:
    """Draw an image with structure of every size, bright and dark, in all colours."""
    rng = np.random.default_rng(seed)
    total = np.zeros((rows, columns, 3))
    for size in (2, 8, 32):
        coarse = rng.normal(size=(rows // size, columns // size, 3))
        total += cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.clip(120 + 35 * total, 0, 255).astype(np.uint8)


def blend(image: Image, color: tuple[int, int, int], share: float) -> Image:
    return np.rint(image * (1 - share) + np.array(color) * share).astype(np.uint8)


def test_a_black_picture() -> None:
    scores = image_scores(plain((0, 0, 0)), 'rgb')
    assert scores == pytest.approx({
        'darkness': 1, 'blur': 1, 'low_contrast': 1, 'specks': 0.5,
        'haze': 0, 'flat_color': 1, 'green_cast': 0.5, 'blue_cast': 0.5})
    assert tuple(scores) == IMAGE_SCORES


def test_darkness_by_hand() -> None:
    image = plain((10, 20, 51))
    image[:32] = (0, 250, 0)
    assert image_scores(image, 'rgb')['darkness'] == pytest.approx(
        1 - (0.75 * 51 + 0.25 * 250) / 255)


def test_contrast_of_stripes_by_hand() -> None:
    image = plain((100, 100, 100))
    image[:, ::2] = 160  # half of each block is brighter by 60: a deviation of 30
    scores = image_scores(image, 'rgb')
    assert scores['low_contrast'] == pytest.approx(30 / (30 + 30))
    # Laplacian of single-pixel stripes: +-2 * 60, less the variance of rounding, divided by the
    # deviation plus one level of noise.
    assert scores['blur'] == pytest.approx(0.5 / (0.5 + (120**2 - 20 / 12)**0.5 / 31))


def snow(image: Image, count: int, level: int = 255) -> Image:
    """Set `count` random pixels to one level; a larger count includes those of a smaller one."""
    rng = np.random.default_rng(5)
    flat = image.copy().reshape(-1, 3)
    flat[rng.permutation(len(flat))[:count]] = level
    return flat.reshape(image.shape)


def test_specks_by_hand() -> None:
    """Set one bright and one dark pixel, each 100 levels off, in a grey image of 50 x 40."""
    image = plain((120, 120, 120), 50, 40)
    image[10, 10] = 220
    bright, noise = 100**2 / 2000, 4.5**2
    assert image_scores(image, 'rgb')['specks'] == pytest.approx(
        (bright + noise / 2) / (bright + noise))
    image[30, 30] = 20
    assert image_scores(image, 'rgb')['specks'] == pytest.approx(0.5)


# Score -> its degradation in steps 0..3; step 0 leaves the image (almost) unchanged.
TROUBLES: dict[str, Callable[[Image, int], Image]] = {
    'darkness': lambda image, step: blend(image, (0, 0, 0), 0.3 * step),
    'blur': lambda image, step: cv2.GaussianBlur(image, (0, 0), 0.1 + step),
    'low_contrast': lambda image, step: blend(image, (120, 120, 120), 0.3 * step),
    'specks': lambda image, step: snow(image, 150 * step),
    'haze': lambda image, step: blend(image, (150, 190, 190), 0.3 * step),
    'flat_color': lambda image, step: blend(image, (90, 90, 90), 0.3 * step),
    'green_cast': lambda image, step: blend(image, (20, 160, 60), 0.3 * step),
    'blue_cast': lambda image, step: blend(image, (20, 60, 180), 0.3 * step),
}


@pytest.mark.parametrize('name', IMAGE_SCORES)
@pytest.mark.parametrize('seed', range(3))
def test_each_score_grows_with_its_own_trouble(name: str, seed: int) -> None:
    image = detailed(seed)
    ladder = [image_scores(TROUBLES[name](image, step), 'rgb')[name] for step in range(4)]
    assert ladder == sorted(ladder)
    assert ladder[-1] > ladder[0] + 0.05
    assert all(0 <= value <= 1 for value in ladder)


def test_nothing_is_known_of_what_is_left_out_or_too_small() -> None:
    image = detailed()
    everything = np.ones(image.shape[:2], np.bool_)
    assert np.isnan(list(image_scores(image, 'rgb', everything).values())).all()
    lattice = np.zeros(image.shape[:2], np.bool_)
    lattice[::8, ::8] = True
    for scores in (image_scores(image, 'rgb', lattice), image_scores(image[:6, :6], 'rgb')):
        assert np.isnan([scores['blur'], scores['low_contrast']]).all()
        assert np.isfinite([v for k, v in scores.items() if k not in ('blur', 'low_contrast')]
                           ).all()


@for_each('image, order, ignore', [
    (np.zeros((8, 8), np.uint8), 'rgb', None), (np.zeros((8, 8, 3), np.float32), 'rgb', None),
    (np.zeros((8, 8, 3), np.uint8), 'yuv', None),
    (np.zeros((8, 9, 3), np.uint8), 'rgb', np.zeros((9, 8), np.bool_)),
])
def test_what_does_not_fit_is_refused(
    image: Image, order: str, ignore: NDArray[np.bool_] | None
) -> None:
    with pytest.raises(ShapeError):
        image_scores(image, order, ignore)
