# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The definitions of the maps: known answers, bounds, and what NaN does."""

from collections.abc import Callable

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.core.grid import upsample_bilinear
from uncertainty_seg.core.uncertainty import (
    MAP_NAMES,
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    maps_from_probabilities,
    MAPS_OF_LOGITS,
    UncertaintyMaps,
    USUAL_MAPS,
)
from uncertainty_seg.errors import ShapeError


def random_probs(seed: int, passes: int, num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = rng.gamma(rng.uniform(0.05, 2), size=(passes, num_classes, 3, 4)) + 1e-12
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize('num_classes', [2, 3, 8])
def test_full_disagreement_of_c_passes_gives_one_everywhere(num_classes: int) -> None:
    probs = np.eye(num_classes)[:, :, None, None]
    maps = maps_from_probabilities(probs)
    assert maps.mutual_information[0, 0] == pytest.approx(1)
    assert maps.entropy[0, 0] == pytest.approx(1)
    assert maps.aleatoric[0, 0] == 0
    assert maps.variation_ratio[0, 0] == pytest.approx(1 - 1 / num_classes)
    assert maps.total_variance[0, 0] == pytest.approx(1 - 1 / num_classes)
    assert maps.confidence[0, 0] == pytest.approx(1 / num_classes)


def test_identical_passes_give_no_mutual_information_and_keep_their_entropy() -> None:
    one = np.array([0.7, 0.2, 0.1])
    maps = maps_from_probabilities(np.tile(one[None, :, None, None], (5, 1, 2, 2)))
    expected = -(one * np.log(one)).sum() / np.log(3)
    assert maps.mutual_information == pytest.approx(0, abs=1e-7)
    assert maps.entropy == pytest.approx(expected, abs=1e-6)
    assert maps.aleatoric == pytest.approx(expected, abs=1e-6)
    assert not maps.variation_ratio.any()
    assert not maps.total_variance.any()


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 7))
@hypothesis.settings(max_examples=60, deadline=None)
def test_maps_stay_in_their_ranges_and_mi_below_entropy(seed: int, t: int, c: int) -> None:
    z = np.random.default_rng(seed).normal(0, 1 + seed % 40, (t, c, 3, 4))
    eps, bound = 1e-6, 1 - 1 / min(c, t)
    for maps in (maps_from_probabilities(random_probs(seed, t, c)),
                 maps_from_coarse_logits(z, 11, 16)):
        assert (maps.mutual_information >= 0).all() and (maps.aleatoric >= -eps).all()
        assert (maps.mutual_information <= maps.entropy + eps).all()
        assert (maps.entropy <= 1 + eps).all() and (maps.confidence >= 1 / c - eps).all()
        assert (maps.variation_ratio <= bound + eps).all()
        assert (maps.total_variance <= bound + eps).all()
        np.testing.assert_allclose(
            maps.entropy, maps.mutual_information + maps.aleatoric, atol=2e-6)


def test_one_nan_in_one_pass_makes_every_map_nan_at_that_pixel_only() -> None:
    probs = random_probs(0, 4, 3)
    probs[2, 1, 1, 2] = np.nan
    maps = maps_from_probabilities(probs, ALL)
    # What is made of logits is interpolated, and its neighbours have a share of it.
    for name in {*MAP_NAMES, 'confidence'} - set(MAPS_OF_LOGITS):
        broken = np.isnan(getattr(maps, name))
        assert broken[1, 2], name
        assert broken.sum() == 1, name


def test_upsampling_equals_torch() -> None:
    torch = pytest.importorskip('torch')
    values = np.random.default_rng(1).normal(size=(2, 3, 5, 7))
    ours = upsample_bilinear(values, 13, 28)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values), (13, 28), mode='bilinear', align_corners=False).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize('shape', [(3, 2, 4), (0, 2, 4, 4), (3, 1, 4, 4)])
def test_other_shapes_are_refused_in_words(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        maps_from_probabilities(np.zeros(shape))


ALL = MapRequest.of(MAP_NAMES)


def test_more_maps_of_known_probabilities() -> None:
    one = np.array([[0.7, 0.3], [0.5, 0.5]]).T[None, :, None]  # (1, 2, 1, 2)
    maps = maps_from_probabilities(one, MapRequest.of(MAP_NAMES, 2.0))
    np.testing.assert_allclose(maps.margin, [[0.6, 1.0]], atol=1e-6)
    np.testing.assert_allclose(maps.least_confidence, [[0.3, 0.5]], atol=1e-6)
    soft = 0.7 ** 0.5 / (0.7 ** 0.5 + 0.3 ** 0.5)
    known = -(soft * np.log(soft) + (1 - soft) * np.log(1 - soft)) / np.log(2)
    np.testing.assert_allclose(maps.unknown, [[known, 1.0]], atol=1e-6)


@pytest.mark.parametrize('define', [maps_from_logits, maps_from_coarse_logits])
def test_energy_of_known_logits(define: Callable[..., UncertaintyMaps]) -> None:
    z = np.array([[8.0, -8.0], [0.0, 16.0]])[:, :, None, None]  # two passes, means 4 and 4
    maps = define(z, 1, 1, request=ALL)
    assert maps.energy[0, 0] == pytest.approx(1 / (1 + np.exp((4 + np.log(2)) / 8)))
    hot = define(z, 1, 1, 3.0, request=ALL)  # no temperature counts
    assert hot.energy == maps.energy
    assert define(z + 5, 1, 1, request=ALL).energy < maps.energy


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 9))
@hypothesis.settings(max_examples=40, deadline=None)
def test_more_maps_lie_in_0_to_1_and_fit_together(seed: int, t: int, c: int) -> None:
    z = np.random.default_rng(seed).normal(size=(t, c, 3, 4)) * (1 + seed % 20)
    for reduce in (maps_from_logits, maps_from_coarse_logits):
        maps = reduce(z, 6, 8, request=ALL)
        for name in MAP_NAMES:
            values = getattr(maps, name)
            assert ((-1e-6 <= values) & (values <= 1 + 1e-6)).all(), name
        rest = maps.least_confidence
        assert (maps.margin >= rest * c / (c - 1) - 1e-5).all()
        assert (maps.margin <= np.minimum(2 * rest, 1) + 1e-5).all()
        assert (maps.unknown >= maps.entropy - 1e-5).all()


FLOAT_MAPS = ('confidence', *USUAL_MAPS)


def coarse_and_exact(
    z: np.ndarray, height: int, width: int, upsampling: str = 'half_pixel'
) -> tuple[UncertaintyMaps, UncertaintyMaps]:
    return (maps_from_coarse_logits(z, height, width, 1.25, upsampling),
            maps_from_logits(z, height, width, 1.25, upsampling))


def assert_maps_close(one: UncertaintyMaps, other: UncertaintyMaps, tolerance: float) -> None:
    for name in FLOAT_MAPS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0,
                                   atol=tolerance, err_msg=name)
    assert (one.label == other.label).all()


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_coarse_maps_of_one_pass_are_the_exact_ones(upsampling: str) -> None:
    z = np.random.default_rng(4).normal(0, 5, (1, 4, 5, 7))
    assert_maps_close(*coarse_and_exact(z, 17, 28, upsampling), 1e-6)


def test_a_coarse_mean_is_the_geometric_one_of_its_neighbours() -> None:
    p = np.array([[0.8, 0.2], [0.1, 0.9]])  # class, column
    z = np.log(np.stack([p, p[::-1]], 0).mean(0))[None, :, None]  # (1, C, 1, 2) of the mean
    both = np.log(np.stack([p, p[::-1]], 0))[:, :, None]  # (2, C, 1, 2): two passes
    for logits in (both, z):
        maps = maps_from_coarse_logits(logits, 1, 4)
        mean = np.exp(logits)
        mean = (mean / mean.sum(1, keepdims=True)).mean(0)[:, 0]  # (C, 2)
        weighted = mean[:, 0] ** 0.75 * mean[:, 1] ** 0.25
        assert maps.confidence[0, 1] == pytest.approx(weighted.max() / weighted.sum())


def test_a_nan_logit_makes_coarse_maps_nan_around_it() -> None:
    z = np.random.default_rng(7).normal(size=(4, 3, 4, 6))
    z[2, 1, 1, 2] = np.nan
    maps = maps_from_coarse_logits(z, 16, 24)
    touched = np.isnan(upsample_bilinear(z, 16, 24)).any((0, 1))
    assert 0 < touched.sum() < touched.size
    for name in FLOAT_MAPS:
        np.testing.assert_array_equal(np.isnan(getattr(maps, name)), touched, err_msg=name)
