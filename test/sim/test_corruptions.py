# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Each step of a ladder is worse than the last by its own measure, and the same every time."""

from collections.abc import Callable
import itertools

import cv2
import hypothesis
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.errors import ConfigError, ShapeError
from uncertainty_seg.sim.corruptions import corrupt, DARK_GAIN, KINDS, SEEN_THROUGH

Image = NDArray[np.uint8]
LADDER = range(6)


def picture(seed: int, width: int = 96, height: int = 72) -> Image:
    """Patches of many sizes and colours, with detail down to the pixel."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (2, 6, 20, 60):
        tile = rng.random((cells, cells, 3), np.float32)
        image += cv2.resize(tile, (width, height), interpolation=cv2.INTER_NEAREST)
    return (20 + image * 50).astype(np.uint8)


def contrast(image: Image, _original: Image) -> float:
    return float(image.astype(np.float64).std(axis=(0, 1)).mean())


def mean(image: Image, _original: Image) -> float:
    return float(image.mean())


def sharpness(image: Image, _original: Image) -> float:
    return float(cv2.Laplacian(image, cv2.CV_64F).var())


def colour_kept(image: Image, original: Image) -> float:
    return -float(np.linalg.norm(image.mean((0, 1)) - original.mean((0, 1))))


def pixels_kept(image: Image, original: Image) -> float:
    return float((image == original).all(-1).mean())


MEASURES: dict[str, Callable[[Image, Image], float]] = {
    'turbidity': contrast, 'darkness': mean, 'blur': sharpness, 'colour_cast': colour_kept,
    'snow': pixels_kept,
}


@pytest.mark.parametrize('kind', KINDS)
@hypothesis.given(st.integers(0, 10**6), st.integers(0, 10**6))
@hypothesis.settings(max_examples=15, deadline=None)
def test_each_step_is_worse_than_the_last(kind: str, picture_seed: int, seed: int) -> None:
    image = picture(picture_seed)
    values = [MEASURES[kind](corrupt(image, kind, step, seed), image) for step in LADDER]
    assert all(next_one < one for one, next_one in itertools.pairwise(values)), values


@pytest.mark.parametrize('kind', KINDS)
def test_the_seed_decides_and_the_image_is_left_alone(kind: str) -> None:
    image = picture(1)
    before = image.copy()
    for step in LADDER:
        first = corrupt(image, kind, step, 3)
        assert first.tobytes() == corrupt(image, kind, step, 3).tobytes()
        assert first.shape == image.shape
        assert first.dtype == np.uint8
        assert not np.shares_memory(first, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(corrupt(image, kind, 0, 3), image)
    if kind != 'blur':
        assert (corrupt(image, kind, 3, 3) != corrupt(image, kind, 3, 4)).any()


def test_a_veil_leaves_the_share_of_contrast_it_says() -> None:
    # Two halves so large that the scatter across their border does not count.
    image = np.zeros((60, 400, 3), np.uint8)
    image[:, 200:] = 200
    for step, share in enumerate(SEEN_THROUGH, start=1):
        veiled = corrupt(image, 'turbidity', step, 2).astype(float)
        np.testing.assert_allclose(veiled[:, 390] - veiled[:, 10], 200 * share, atol=1.01)
    # What is left is the colour of the water: blue or green, never red.
    assert veiled[:, 10].mean(0).argmin() == 2


def test_darkness_is_a_gain_with_shot_noise_and_black_stays_black() -> None:
    image = np.full((200, 200, 3), 200, np.uint8)
    for step, gain in enumerate(DARK_GAIN, start=1):
        dark = corrupt(image, 'darkness', step).astype(float)
        assert dark.mean() == pytest.approx(200 * gain, abs=0.1)
        # Rounding to whole levels adds 1/12.
        assert dark.std() == pytest.approx(np.sqrt(0.55**2 * 200 * gain + 1 / 12), rel=0.03)
    assert not corrupt(np.zeros((9, 9, 3), np.uint8), 'darkness', 5).any()


def test_blur_keeps_the_mean_and_grows_with_the_image() -> None:
    image = picture(4)
    assert corrupt(image, 'blur', 5).mean() == pytest.approx(image.mean(), abs=2)
    small, large = np.zeros((100, 100, 3), np.uint8), np.zeros((400, 400, 3), np.uint8)
    small[:, 50:] = large[:, 200:] = 200
    ends = [int((corrupt(i, 'blur', 5)[50, :, 0] % 200 > 0).sum()) for i in (small, large)]
    assert ends[1] == pytest.approx(4 * ends[0], rel=0.2)


@pytest.mark.parametrize('seed', range(5))
def test_water_takes_red_first_and_its_clearest_colour_last(seed: int) -> None:
    grey = np.full((8, 8, 3), 180, np.uint8)
    cast = corrupt(grey, 'colour_cast', 5, seed)[0, 0]
    assert cast[2] < 0.25 * 180
    assert cast.max() == 180
    assert cast[2] < cast[1] and cast[2] < cast[0]


def test_specks_only_lighten_and_those_of_a_step_stay_in_the_next() -> None:
    image = picture(6)
    steps = [corrupt(image, 'snow', step, 8).astype(int) for step in LADDER]
    for less, more in itertools.pairwise(steps):
        assert (more >= less).all()
        assert (more > less).any()


@pytest.mark.parametrize('kind', KINDS)
def test_any_size_will_do(kind: str) -> None:
    for shape in ((1, 1, 3), (1, 40, 3), (3, 2, 3), (0, 5, 3)):
        assert corrupt(np.full(shape, 90, np.uint8), kind, 5).shape == shape


@pytest.mark.parametrize(('kind', 'severity', 'sentence'), [
    ('fog', 1, "the corruption is 'fog', expected one of turbidity, darkness, blur, colour_cast"),
    ('blur', 6, 'the severity is 6, expected 0, 1 .. 5'),
    ('blur', -1, 'the severity is -1'),
    ('blur', 2.5, 'the severity is 2.5'),
])
def test_what_is_not_on_the_ladder_is_refused(kind: str, severity: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        corrupt(picture(0), kind, severity)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ShapeError, match='image'):
        corrupt(picture(0)[..., 0], 'blur', 1)
    with pytest.raises(ShapeError, match='image'):
        corrupt(picture(0).astype(np.float32), 'blur', 1)
