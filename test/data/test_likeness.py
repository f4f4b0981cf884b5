# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Features of a frame, and near duplicates, compared with a search over all pairs."""

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
from uncertainty_seg.data.likeness import (
    bits_apart,
    frame_features,
    Hashes,
    num_features,
    Rows,
    stand_ins,
)
from uncertainty_seg.errors import ConfigError
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


@given(
    image=arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    values=st.lists(st.tuples(*[st.floats(0, 1) | st.just(math.nan)] * 2, st.floats(0, 1)),
                    min_size=1, max_size=5),
)
@settings(max_examples=30, deadline=None)
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


def test_the_same_sight_is_near_and_others_are_farther(scenes: list[ImageU8]) -> None:
    found = [features(image) for image in scenes]
    for change, most in SAME.values():
        assert max(distance(features(change(i)), f)
                   for i, f in zip(scenes, found, strict=True)) < most
    apart = [distance(a, b) for k, a in enumerate(found) for b in found[:k]]
    assert min(apart) > 2 * max(most for _, most in SAME.values())
    dim = [distance(features((i * 0.5).astype(np.uint8)), f)
           for i, f in zip(scenes, found, strict=True)]
    turned = [distance(features(np.ascontiguousarray(i[:, ::-1])), f)
              for i, f in zip(scenes, found, strict=True)]
    assert min(dim) > 0.1 and max(turned) > 0.2


def test_what_the_network_made_of_a_frame_is_in_its_features(scenes: list[ImageU8]) -> None:
    image = scenes[0]
    found = [features(image, np.eye(C)[k].tolist()) for k in range(C)]
    # Orthogonal unit vectors in a part with squared weight 0.3; thumbnail and edges may be a
    # little shorter than unit length.
    assert all(math.isclose(distance(found[0], found[k]), math.sqrt(0.6), rel_tol=0.1)
               for k in range(1, C))
    steps = [distance(features(image, entropies=[v, *CALM[1:]]), features(image))
             for v in (0.2, 0.5, 0.9)]
    assert 0 < steps[0] < steps[1] < steps[2]
    np.testing.assert_array_equal(features(image, entropies=[math.nan] * C),
                                  features(image, entropies=[1.0] * C))


def test_even_pictures_have_no_direction_made_of_rounding_or_noise() -> None:
    # Middle grey is the centre of Lab; grey levels on either side must not become opposites.
    even = [np.full((120, 160, 3), grey, np.uint8) for grey in (117, 119, 121)]
    assert max(distance(features(even[1]), features(other)) for other in even) < 0.1
    noise = np.random.default_rng(0).normal(0, 1, even[0].shape)
    assert distance(features(even[1]), features(np.rint(even[1] + noise).astype(np.uint8))) < 0.15


def by_all_pairs(hashes: Hashes, order: Rows, bits: int) -> list[int]:
    """Return each frame's stand-in by the definition: compare in order with all that stay."""
    staying: list[int] = []
    owners = list(range(len(hashes)))
    for row in order:
        alike = [k for k in staying if bin(int(hashes[k]) ^ int(hashes[row])).count('1') < bits]
        if alike:
            owners[row] = alike[0]
        else:
            staying.append(int(row))
    return owners


def dive(seed: int, count: int, scenes: int, flips: int) -> Hashes:
    """Return hashes of frames of a few still scenes, with random bits flipped."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, scenes, np.uint64)[rng.integers(0, scenes, count)]
    for _ in range(flips):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64))
    return hashes


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), flips=st.integers(0, 6),
       bits=st.sampled_from([0, 1, 2, 9, 12]))
def test_near_duplicates_are_what_comparing_all_pairs_finds(
    seed: int, count: int, flips: int, bits: int
) -> None:
    hashes = dive(seed, count, 6, flips)
    order = np.random.default_rng(seed + 1).permutation(count)
    assert stand_ins(hashes, order, bits).tolist() == by_all_pairs(hashes, order, bits)


def test_near_duplicates_by_hand() -> None:
    words = np.array([0, 1, 0b1011, 2**63, 2**64 - 1], np.uint64)
    assert bits_apart(words, np.uint64(0)).tolist() == [0, 1, 3, 1, 64]
    # Hashes with 0 to 4 bits: neighbours differ by one bit, but a chain is not one group.
    chain = np.array([0, 1, 3, 7, 15], np.uint64)
    assert stand_ins(chain, np.array([2, 0, 4, 1, 3]), 2).tolist() == [0, 2, 2, 2, 4]
    assert stand_ins(chain, np.array([2, 0, 4, 1, 3]), 3).tolist() == [2, 2, 2, 2, 2]
    equal, order = np.array([5, 7, 5, 5], np.uint64), np.array([3, 1, 0, 2])
    assert stand_ins(equal, order, 1).tolist() == [3, 1, 3, 3]
    assert stand_ins(equal, order, 0).tolist() == [0, 1, 2, 3]
    assert len(stand_ins(np.empty(0, np.uint64), np.empty(0, np.int64), 8)) == 0


@pytest.mark.parametrize('bits', [-1, 13])
def test_a_distance_that_says_nothing_is_refused(bits: int) -> None:
    with pytest.raises(ConfigError):
        stand_ins(np.arange(3, dtype=np.uint64), np.arange(3), bits)
