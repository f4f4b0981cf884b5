# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The definitions of the maps: known answers, bounds, and NaN."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from some_maps import maps_from_logits, maps_of_probabilities

from uncertainty_seg.core.grid import Grid, upsample_bilinear
from uncertainty_seg.core.uncertainty import (
    grid_maps,
    image_maps,
    MAP_NAMES,
    PassSums,
    sums_of_logits,
    UncertaintyMaps,
)
from uncertainty_seg.errors import ShapeError

FLOAT_MAPS = ('confidence', *MAP_NAMES)


def random_probs(seed: int, passes: int, num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = rng.gamma(rng.uniform(0.05, 2), size=(passes, num_classes, 3, 4)) + 1e-12
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize('num_classes', [2, 3, 8])
def test_full_disagreement_of_c_passes_gives_one_everywhere(num_classes: int) -> None:
    maps = maps_of_probabilities(np.eye(num_classes)[:, :, None, None])
    assert maps.mutual_information[0, 0] == pytest.approx(1)
    assert maps.entropy[0, 0] == pytest.approx(1)
    assert maps.aleatoric[0, 0] == 0
    assert maps.variation_ratio[0, 0] == pytest.approx(1 - 1 / num_classes)
    assert maps.total_variance[0, 0] == pytest.approx(1 - 1 / num_classes)
    assert maps.confidence[0, 0] == pytest.approx(1 / num_classes)


def test_identical_passes_give_no_mutual_information_and_keep_their_entropy() -> None:
    one = np.array([0.7, 0.2, 0.1])
    maps = maps_of_probabilities(np.tile(one[None, :, None, None], (5, 1, 2, 2)))
    expected = -(one * np.log(one)).sum() / np.log(3)
    assert maps.mutual_information == pytest.approx(0, abs=1e-7)
    assert maps.entropy == pytest.approx(expected, abs=1e-6)
    assert maps.aleatoric == pytest.approx(expected, abs=1e-6)
    assert not maps.variation_ratio.any()
    assert maps.total_variance == pytest.approx(0, abs=1e-12)


def test_the_sums_of_passes_equal_plain_numpy() -> None:
    z = np.random.default_rng(3).normal(0, 3, (7, 4, 5, 6))
    p = np.exp(z / 1.5) / np.exp(z / 1.5).sum(1, keepdims=True)
    sums = sums_of_logits(z, 1.5)
    np.testing.assert_allclose(sums.p, p.sum(0))
    np.testing.assert_allclose(sums.entropy_nats, -(p * np.log(p)).sum((0, 1)))
    np.testing.assert_allclose(sums.p_squared, (p**2).sum((0, 1)))
    np.testing.assert_allclose(sums.logits, z.sum(0))
    votes = np.stack([(p.argmax(1) == c).sum(0) for c in range(4)])
    np.testing.assert_array_equal(sums.votes, votes)
    maps = grid_maps(sums)
    np.testing.assert_allclose(maps.total_variance, p.var(0).sum(0), rtol=1e-6)
    tie = sums_of_logits(np.zeros((2, 3, 1, 1)))
    assert tie.votes.ravel().tolist() == [2, 0, 0]  # the first of equal classes, as argmax


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 7))
@hypothesis.settings(max_examples=60, deadline=None)
def test_maps_stay_in_their_ranges_and_fit_together(seed: int, t: int, c: int) -> None:
    z = np.random.default_rng(seed).normal(0, 1 + seed % 40, (t, c, 3, 4))
    eps, bound = 2e-6, 1 - 1 / min(c, t)
    for maps in (maps_of_probabilities(random_probs(seed, t, c)),
                 maps_from_logits(z, Grid(3, 4, 11, 16)),
                 maps_from_logits(z, Grid(3, 4, 11, 16, 'align_corners', (0.2, 0.3)))):
        for name in FLOAT_MAPS if maps.logits.shape[1] > 3 else FLOAT_MAPS[:-1]:
            values = maps.of(name)
            assert ((-1e-6 <= values) & (values <= 1 + eps)).all(), name
        assert (maps.confidence >= 1 / c - eps).all()
        assert (maps.variation_ratio <= bound + eps).all()
        assert (maps.total_variance <= bound + eps).all()
        rest = maps.least_confidence
        assert (maps.margin >= rest * c / (c - 1) - 1e-5).all()
        assert (maps.margin <= np.minimum(2 * rest, 1) + 1e-5).all()
    assert maps.label.dtype == np.uint8 and maps.entropy.dtype == np.float32


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 7))
@hypothesis.settings(max_examples=40, deadline=None)
def test_at_the_grid_mutual_information_and_the_aleatoric_part_are_the_entropy(
    seed: int, t: int, c: int
) -> None:
    maps = maps_of_probabilities(random_probs(seed, t, c))
    np.testing.assert_allclose(
        maps.entropy, maps.mutual_information + maps.aleatoric, atol=2e-6)


def test_one_nan_in_one_pass_makes_every_map_nan_at_that_pixel_only() -> None:
    probs = random_probs(0, 4, 3)
    probs[2, 1, 1, 2] = np.nan
    maps = maps_of_probabilities(probs)
    for name in FLOAT_MAPS:
        broken = np.isnan(maps.of(name))
        assert broken[1, 2], name
        assert broken.sum() == 1, name


def test_a_nan_at_the_grid_makes_the_maps_of_the_image_nan_around_it() -> None:
    z = np.random.default_rng(7).normal(size=(4, 3, 4, 6))
    z[2, 1, 1, 2] = np.nan
    grid = Grid(4, 6, 16, 24)
    touched = np.isnan(grid.spread(z)).any((0, 1))
    assert 0 < touched.sum() < touched.size
    maps = maps_from_logits(z, grid)
    for name in FLOAT_MAPS:
        np.testing.assert_array_equal(np.isnan(maps.of(name)), touched, err_msg=name)


def test_beside_the_centres_sharp_logits_keep_the_entropy_of_the_image() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(1, 5, 12, 16)) * 200 * (rng.random((32, 1, 12, 16)) > 0.3)
    beside = Grid(12, 16, 96, 128, offset=(0.2119, 0.2119))
    found, exact = maps_from_logits(z, beside), maps_from_logits(
        upsample_bilinear(z, 96, 128), Grid(96, 128, 96, 128))
    assert (found.entropy >= found.mutual_information).all()
    assert found.entropy.mean() == pytest.approx(exact.entropy.mean(), rel=0.1)


@pytest.mark.parametrize('shape', [(3, 2, 4), (0, 2, 4, 4), (3, 1, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        sums_of_logits(np.zeros(shape))


def test_more_maps_of_known_probabilities() -> None:
    one = np.array([[0.7, 0.3], [0.5, 0.5]]).T[None, :, None]  # (1, 2, 1, 2)
    maps = maps_of_probabilities(one)
    np.testing.assert_allclose(maps.margin, [[0.6, 1.0]], atol=1e-6)
    np.testing.assert_allclose(maps.least_confidence, [[0.3, 0.5]], atol=1e-6)


def test_energy_of_known_logits() -> None:
    z = np.array([[8.0, -8.0], [0.0, 16.0]])[:, :, None, None]  # two passes, means 4 and 4
    grid = Grid(1, 1, 1, 1)
    maps = maps_from_logits(z, grid)
    assert maps.energy[0, 0] == pytest.approx(1 / (1 + np.exp((4 + np.log(2)) / 8)))
    assert maps_from_logits(z, grid, 3.0).energy == maps.energy  # the temperature has no effect
    assert maps_from_logits(z + 5, grid).energy < maps.energy


def test_unknown_is_the_energy_whose_odds_are_multiplied_by_the_strangeness() -> None:
    z = np.random.default_rng(2).normal(0, 3, (4, 3, 4, 6))
    sums, factor = sums_of_logits(z), np.linspace(0, 5, 24, dtype=np.float32).reshape(4, 6)
    maps, plain = grid_maps(sums, lambda: factor), grid_maps(sums)
    np.testing.assert_array_equal(plain.unknown, plain.energy)
    odds = plain.energy / (1 - plain.energy) * factor
    np.testing.assert_allclose(maps.unknown, odds / (1 + odds), atol=1e-6)
    assert maps.unknown[0, 0] == 0 and maps.unknown[3, 5] > plain.energy[3, 5]
    part, where = maps.cut(slice(1, 3), slice(2, 6)), np.s_[1:3, 2:6]
    np.testing.assert_allclose(part.unknown, maps.unknown[where], atol=1e-7)
    grid = Grid(4, 6, 16, 24)
    np.testing.assert_allclose(image_maps(maps, grid).unknown, grid.spread(maps.unknown))
    sure = grid_maps(sums_of_logits(z - 1e4), lambda: factor)  # the energy is 1, its odds infinite
    assert np.isfinite(sure.unknown).all()


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_where_a_logit_is_not_finite_there_is_no_energy(value: float) -> None:
    maps = grid_maps(sums_of_logits(np.zeros((2, 3, 2, 2))))
    maps.logits[1, 0, 0] = value
    np.testing.assert_array_equal(np.isnan(maps.energy), [[True, False], [False, False]])


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_the_image_s_maps_of_one_pass_are_those_of_its_upsampled_logits(upsampling: str) -> None:
    z = np.random.default_rng(4).normal(0, 5, (1, 4, 5, 7))
    grid = Grid(5, 7, 17, 28, upsampling)
    full = grid.spread(z) / 1.25
    p = np.exp(full) / np.exp(full).sum(1, keepdims=True)
    ours, wanted = maps_from_logits(z, grid, 1.25), maps_of_probabilities(p)
    for name in ('confidence', 'entropy', 'margin'):
        np.testing.assert_allclose(ours.of(name), wanted.of(name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(ours.label, wanted.label)
    assert ours.mutual_information.max() < 1e-6


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_beside_the_centres_the_maps_of_one_pass_are_the_same(upsampling: str) -> None:
    z = np.random.default_rng(4).normal(0, 5, (1, 4, 5, 7))
    plain = maps_from_logits(z, Grid(5, 7, 20, 28, upsampling), 1.25)
    beside = maps_from_logits(z, Grid(5, 7, 20, 28, upsampling, (0.22, 0.21)), 1.25)
    for name in ('confidence', 'entropy', 'margin', 'energy'):
        np.testing.assert_allclose(beside.of(name), plain.of(name), atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(beside.label, plain.label)


def test_the_image_s_mean_is_the_geometric_one_of_its_neighbours() -> None:
    p = np.array([[0.8, 0.2], [0.1, 0.9]])  # class, column
    both = np.log(np.stack([p, p[::-1]], 0))[:, :, None]  # (2, C, 1, 2): two passes
    mean = np.exp(both)
    mean = (mean / mean.sum(1, keepdims=True)).mean(0)[:, 0]  # (C, 2)
    weighted = mean[:, 0] ** 0.75 * mean[:, 1] ** 0.25
    maps = maps_from_logits(both, Grid(1, 2, 1, 4))
    assert maps.confidence[0, 1] == pytest.approx(weighted.max() / weighted.sum())


def test_where_each_cell_is_a_pixel_the_maps_are_those_of_the_grid() -> None:
    maps = maps_of_probabilities(random_probs(1, 3, 3))
    assert image_maps(maps, Grid(3, 4, 3, 4)) is maps


def test_a_map_of_the_image_is_computed_when_it_is_asked_for_and_no_other() -> None:
    z = np.random.default_rng(5).normal(0, 2, (3, 4, 5, 7))
    maps = image_maps(grid_maps(sums_of_logits(z)), Grid(5, 7, 20, 28))
    assert maps.mutual_information.shape == (20, 28)
    assert not {'_log_mean', 'mean', 'label'} & set(vars(maps))
    assert maps.label.shape == (20, 28)
    assert 'mean' not in vars(maps)  # the label needs no softmax


def test_parts_of_maps_are_those_of_parts() -> None:
    z = np.random.default_rng(6).normal(0, 2, (3, 4, 5, 7))
    for maps in (grid_maps(sums_of_logits(z)), maps_from_logits(z, Grid(5, 7, 5, 14))):
        rows, columns = slice(1, 4), slice(2, 6)
        part = maps.cut(rows, columns)
        for name in FLOAT_MAPS:
            np.testing.assert_allclose(part.of(name), maps.of(name)[rows, columns], atol=1e-6)
        assert maps.cut(slice(None), slice(0, None)) is maps


def test_features_are_cut_by_the_image_whatever_the_grid_rounds_to() -> None:
    maps = maps_of_probabilities(np.full((1, 2, 8, 10), 0.5))
    maps.features = np.arange(32 * 40, dtype=np.float32).reshape(1, 1, 32, 40)
    # 3 pixels of padding in 64: one and a half features, and less than a cell of 8.
    part = maps.inside(slice(3, 61), slice(0, 80), Grid(8, 10, 64, 80))
    assert part.entropy.shape == (8, 10)
    np.testing.assert_array_equal(part.features, maps.features[..., 1:30, :])
    assert maps.features.shape == (1, 1, 32, 40)


def test_float32_sums_give_the_maps_of_float64() -> None:
    z = np.random.default_rng(8).normal(0, 4, (20, 6, 30, 40))
    sums = sums_of_logits(z)
    names = ('p', 'entropy_nats', 'p_squared', 'votes', 'logits')
    single = grid_maps(PassSums(20, *(getattr(sums, name).astype(np.float32) for name in names)))
    for name in FLOAT_MAPS:
        np.testing.assert_allclose(single.of(name), grid_maps(sums).of(name), atol=2e-6,
                                   err_msg=name)


def test_classes_of_a_smaller_share_are_left_out_of_the_mask_and_of_no_map() -> None:
    """Use one cell of 100 with class 2 and second class 1; all others have class 0."""
    logits = np.zeros((1, 3, 10, 10), np.float32)
    logits[:, 0] = 4
    logits[0, :, 3, 7] = 0, 5, 6
    grid = Grid(10, 10, 40, 40, 'half_pixel')
    whole = slice(0, 40), slice(0, 40)

    def maps_of(least: float, part: tuple[slice, slice] = whole) -> UncertaintyMaps:
        maps = grid_maps(sums_of_logits(logits))
        maps.leave_out_specks(least, *part, grid)
        return maps

    plain = maps_of(0.0)
    assert plain.label[3, 7] == 2
    for least, expected in ((0.01, 2), (0.011, 0), (0.9, 0)):
        maps = maps_of(least)
        assert maps.label[3, 7] == expected
        part = maps.inside(slice(8, 20), slice(24, 36), grid)
        assert (part.label == maps.label[2:5, 6:9]).all()
        shown = image_maps(maps, grid)
        assert ({*np.unique(shown.label)} == {0}) == (expected == 0)
        np.testing.assert_array_equal(shown.confidence, image_maps(plain, grid).confidence)
    # The share refers to the part without padding, and at least one class always stays.
    assert maps_of(0.011, (slice(8, 20), slice(24, 36))).label[3, 7] == 2
    logits[0] = np.eye(3, dtype=np.float32)[np.arange(100) % 3].T.reshape(3, 10, 10)
    assert {*np.unique(maps_of(0.5).label)} == {0, 1, 2}
