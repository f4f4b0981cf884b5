# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Features: unit length, near for the same sight, far for others; each part says its own."""

from __future__ import annotations

from collections.abc import Callable
import math

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.data.selection.frame_features import frame_features, num_features
from uncertainty_seg.errors import ShapeError
from uncertainty_seg.sim.scene import render_scene

C = 4
EVEN, CALM, KNOWN = [1 / C] * C, [0.1] * C, [0.02] * C


def features(image: ImageU8, shares: list[float] = EVEN, entropies: list[float] = CALM,
             informations: list[float] = KNOWN) -> NDArray[np.float32]:
    return frame_features(image, shares, entropies, informations)


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b))


@pytest.fixture(scope='module')
def scenes() -> list[ImageU8]:
    return [render_scene(seed, size=(192, 144)).image for seed in range(8)]


def test_the_length_is_known_and_the_norm_is_one(scenes: list[ImageU8]) -> None:
    found = features(scenes[0])
    assert found.dtype == np.float32 and found.shape == (num_features(C),) == (189,)
    assert math.isclose(float(np.linalg.norm(found)), 1, abs_tol=1e-6)


@given(
    image=arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    values=st.lists(st.tuples(*[st.floats(0, 1) | st.just(math.nan)] * 2, st.floats(0, 1)),
                    min_size=1, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_any_frame_has_a_finite_vector_of_unit_length(
    image: ImageU8, values: list[tuple[float, float, float]]
) -> None:
    entropies, informations, shares = (list(column) for column in zip(*values, strict=True))
    found = frame_features(image, shares, entropies, informations)
    assert found.shape == (num_features(len(values)),) and np.isfinite(found).all()
    assert math.isclose(float(np.linalg.norm(found)), 1, abs_tol=1e-5)


def as_jpeg(image: ImageU8, quality: int) -> ImageU8:
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


SAME: dict[str, tuple[Callable[[ImageU8], ImageU8], float]] = {
    'half the size': (lambda i: cv2.resize(i, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA),
                      0.03),
    'jpeg of quality 50': (lambda i: as_jpeg(i, 50), 0.05),
    'noise': (lambda i: np.clip(i + np.random.default_rng(0).normal(0, 5, i.shape), 0, 255)
              .astype(np.uint8), 0.05),
    'shift by 2 %': (lambda i: np.roll(i, (i.shape[0] // 50, i.shape[1] // 50), (0, 1)), 0.10),
}


@pytest.mark.parametrize('what', SAME)
def test_the_same_sight_is_near(scenes: list[ImageU8], what: str) -> None:
    change, most = SAME[what]
    assert max(distance(features(change(i)), features(i)) for i in scenes) < most


def test_other_sights_are_farther_than_any_change_of_the_same(scenes: list[ImageU8]) -> None:
    found = [features(image) for image in scenes]
    apart = [distance(a, b) for k, a in enumerate(found) for b in found[:k]]
    assert min(apart) > 2 * max(most for _, most in SAME.values())


def test_it_is_not_blind_to_a_mirror_or_other_light(scenes: list[ImageU8]) -> None:
    for image in scenes:
        dim = (image * 0.5).astype(np.uint8)
        assert distance(features(dim), features(image)) > 0.1
    turned = [distance(features(np.ascontiguousarray(i[:, ::-1])), features(i)) for i in scenes]
    assert max(turned) > 0.2


def test_a_mask_of_other_classes_is_as_far_as_it_gets(scenes: list[ImageU8]) -> None:
    image = scenes[0]
    found = [features(image, np.eye(C)[k].tolist()) for k in range(C)]
    # Two unit vectors at right angles, of a part whose weight squared is 0.3; the thumbnail and
    # the edges may be a little short of theirs.
    for k in range(1, C):
        assert math.isclose(distance(found[0], found[k]), math.sqrt(2 * 0.3), rel_tol=0.1)


def test_what_is_uncertain_is_told_from_what_is_known(scenes: list[ImageU8]) -> None:
    image = scenes[0]
    calm = features(image)
    steps = [distance(features(image, entropies=[v, *CALM[1:]]), calm) for v in (0.2, 0.5, 0.9)]
    assert 0 < steps[0] < steps[1] < steps[2]


def test_what_is_no_number_counts_as_least_certain(scenes: list[ImageU8]) -> None:
    image = scenes[0]
    np.testing.assert_array_equal(features(image, entropies=[math.nan] * C),
                                  features(image, entropies=[1.0] * C))


def test_even_pictures_have_no_direction_made_of_rounding_or_noise() -> None:
    # Half-way grey is the middle of Lab: a step of grey to either side must not be an opposite.
    even = [np.full((120, 160, 3), grey, np.uint8) for grey in (117, 119, 121)]
    assert max(distance(features(even[1]), features(other)) for other in even) < 0.1
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, 1, even[0].shape)
        noisy = np.rint(even[1] + noise).astype(np.uint8)
        assert distance(features(even[1]), features(noisy)) < 0.15


def test_edges_tell_directions_apart() -> None:
    rows = np.full((96, 144, 3), 60, np.uint8)
    columns = rows.copy()
    rows[::16], rows[1::16], rows[2::16] = 200, 200, 200
    columns[:, ::16], columns[:, 1::16], columns[:, 2::16] = 200, 200, 200
    edges = slice(72, 144)
    a, b = (features(image)[edges] for image in (rows, columns))
    # Directions 0, 60 and 120 degrees across; those of rows miss the first of each cell.
    assert a.reshape(24, 3)[:, 0].max() < 0.2 * b.reshape(24, 3)[:, 0].min()


@pytest.mark.parametrize('shares, entropies', [([], []), ([0.5], [0.1, 0.2])])
def test_lists_that_differ_are_refused(shares: list[float], entropies: list[float]) -> None:
    with pytest.raises(ShapeError, match='expected one of each a class'):
        frame_features(np.zeros((2, 2, 3), np.uint8), shares, entropies, shares)


def test_a_grey_image_is_refused() -> None:
    with pytest.raises(ShapeError, match='image has shape'):
        frame_features(np.zeros((2, 2), np.uint8), EVEN, CALM, KNOWN)
