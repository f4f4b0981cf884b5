# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Feature distances: brute force, planted outliers, storage in 16 bits, and invalid values."""

import dataclasses

from cases import for_each
import numpy as np
import pytest

from uncertainty_seg.calibration.calibrate import fit_feature_density, held_out_scores
from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.scores.density import FeatureDensity, pooled, unit_rows
from uncertainty_seg.errors import CalibrationError
from uncertainty_seg.storage.foreign_files import read_arrays
from uncertainty_seg.storage.model_bundle import features_file

CENTRES = unit_rows(np.random.default_rng(0).normal(size=(3, 6))) * 4


def frame(kind: int, seed: int, away: float = 0.0) -> np.ndarray:
    """Draw features (1, 6, 4, 5) near one of three centres, or `away` from it."""
    centre = CENTRES[kind % 3] + away * np.array([1, -1, 1, -1, 1, -1])
    noise = 0.3 * np.random.default_rng(seed).normal(size=(6, 4, 5))
    return (centre[:, None, None] + noise)[None].astype(np.float32)


FRAMES = [frame(i, i) for i in range(90)]


@pytest.fixture(scope='module')
def density() -> FeatureDensity:
    return fit_feature_density((features, None) for features in FRAMES)


def test_what_lies_apart_scores_higher_and_the_more_the_farther(density: FeatureDensity) -> None:
    near, far, farther = (
        np.array([density.score(pooled(frame(i, 1000 + i, away))) for i in range(30)])
        for away in (0.0, 2.0, 6.0))
    assert near.max() < far.min() and np.median(far) < np.median(farther)
    assert near.min() >= 0 and farther.max() <= 1


def test_the_nearest_neighbour_is_that_of_brute_force(density: FeatureDensity) -> None:
    vector = pooled(frame(1, 7, 1.0))
    cosines = sorted((row @ vector / np.linalg.norm(row) / np.linalg.norm(vector)
                      for row in density.bank.astype(np.float64)), reverse=True)
    for k in (1, 5, 89):
        found = dataclasses.replace(density, neighbours=k).score(vector)
        assert found == pytest.approx((1 - cosines[k - 1]) / 2, abs=1e-12)


def test_a_frame_held_out_scores_as_if_it_had_never_been_there(density: FeatureDensity) -> None:
    stems = [f'{i:03}' for i in range(90)]
    names, single = np.array(stems), np.full(90, 'dive')
    dives = np.array([f'dive {i // 30}' for i in range(90)])
    shuffled = np.random.default_rng(3).permutation(90)
    # By name, and not in the order of the bank, 4 frames on either side are left out.
    beside = {row: [i for i in range(90) if abs(shuffled[i] - shuffled[row]) <= 4]
              for row in (0, 31, 62)}
    for order, blocks, left_out in (
        (np.arange(90), names, lambda row: range(max(row - 4, 0), min(row + 5, 90))),
        (shuffled, names, lambda row: beside[row]),
        (np.arange(90), dives, lambda row: {*range(row // 30 * 30, row // 30 * 30 + 30),
                                            *range(max(row - 4, 0), row + 5)}),
        (np.arange(90), single, lambda row: [row]),
    ):
        held = held_out_scores(density, [stems[i] for i in order], blocks)
        for row in (0, 31, 62):
            without = dataclasses.replace(
                density, bank=np.delete(density.bank, list(left_out(row)), 0))
            assert held[row] == pytest.approx(
                without.score(density.bank[row].astype(np.float64)), abs=1e-9)


def test_a_training_set_of_dives_expects_of_a_new_dive_that_it_lies_apart() -> None:
    """Compare frames of new dives; by the nearest of all frames, they would all be refused."""
    rng = np.random.default_rng(5)

    def dive(count: int) -> list[np.ndarray]:
        at = rng.normal(size=6)
        return [(at + 0.01 * rng.normal(size=6))[None, :, None, None].repeat(4, 2).repeat(
            5, 3).astype(np.float32) + np.float32(0.001) * rng.normal(size=(1, 6, 4, 5)).astype(
                np.float32) for _ in range(count)]

    train = [frame for _ in range(80) for frame in dive(6)]
    found = fit_feature_density((features, None) for features in train)
    stems, new = [f'{i:03}' for i in range(len(train))], [dive(1)[0] for _ in range(100)]
    scores = np.array([found.score(pooled(features)) for features in new])
    for blocks in np.array(stems), np.array([f'{i // 6}' for i in range(len(train))]):
        limit = np.quantile(held_out_scores(found, stems, blocks), 0.97)
        assert (scores > limit).mean() < 0.15
    every = found.units @ found.units.T
    np.fill_diagonal(every, -1)
    assert (scores > np.quantile((1 - every.max(1)) / 2, 0.97)).all()


@for_each('scale', [1e-12, 1e-8, 1e-6, 1.0, 1e6, 1e12])
def test_what_is_stored_gives_the_distances_of_what_was_fitted(
    density: FeatureDensity, scale: float
) -> None:
    """Float16, in which the bank is stored, covers magnitudes from 6e-8 to 65504 only."""
    found = fit_feature_density((features * np.float32(scale), None) for features in FRAMES)
    bank = read_arrays(features_file(found), {'bank': 'float16'}, 10**6)['bank']
    stored = dataclasses.replace(found, bank=bank)
    exact = dataclasses.replace(found, bank=np.array([pooled(f) for f in FRAMES]))
    for i in range(20):
        other = pooled(frame(i, 1000 + i, 0.5))
        value = stored.score(other * scale)
        assert value == pytest.approx(exact.score(other), rel=3e-3)
        assert value == pytest.approx(density.score(other), rel=3e-3)


@for_each('value', [np.nan, np.inf, -np.inf, 1e200])  # the square of the last overflows
def test_a_feature_that_is_no_number_never_looks_near(
    density: FeatureDensity, value: float
) -> None:
    vector = pooled(FRAMES[0])
    vector[2] = value
    with np.errstate(over='ignore'):
        assert np.isnan(density.score(vector))


def test_an_ignored_pixel_counts_nowhere() -> None:
    ignore = np.zeros((16, 20), np.bool_)
    ignore[:8] = True
    np.testing.assert_allclose(
        pooled(FRAMES[0], ignore), pooled(FRAMES[0][:, :, 2:]), rtol=1e-12)
    assert np.isnan(pooled(FRAMES[0], np.ones_like(ignore))).all()


@for_each('features', [np.ones((1, 6, 4, 5), np.float32), np.zeros((1, 6, 4, 5), np.float32),
                       np.full((1, 6, 4, 5), np.nan, np.float32)])
def test_features_that_give_no_distance_are_refused(features: np.ndarray) -> None:
    with pytest.raises(CalibrationError):
        fit_feature_density([(features, None)] * 30)
    bank, centre, axes = np.eye(4, dtype=np.float16), np.zeros(2, np.float32), np.eye(2, 1)
    FeatureDensity(bank, centre, axes, 3)
    for wrong in ((bank, centre, axes, 4),  # as many neighbours as frames
                  (bank, centre[:1], axes, 3), (bank, centre, axes[:1], 3),
                  (bank, centre, axes[:, :0], 3), (bank, centre, axes * np.nan, 3)):
        with pytest.raises(CalibrationError):
            FeatureDensity(*wrong)


# --- strangeness of patches ----------------------------------------------------------------------

# The last of six features is almost the sum of two others.
RELATED = [np.concatenate([features[:, :5], features[:, :1] + features[:, 1:2]
                           + np.float32(0.01) * features[:, 5:]], 1) for features in FRAMES]


def test_a_patch_that_breaks_a_relation_between_features_is_strange_where_it_lies() -> None:
    known = fit_feature_density((features, None) for features in RELATED)
    assert known.axes.shape == (6, 3)
    broken = RELATED[0].copy()
    broken[0, 5, 3, 4] += 1  # within the range of this feature elsewhere
    assert broken[0, 5, 3, 4] < max(features[0, 5].max() for features in RELATED)
    found = known.strangeness(broken, Grid(16, 20, 64, 80), slice(0, 64), slice(0, 80))
    assert found[14, 18] > 5 and found[:4, :8].max() < 3


def test_strangeness_is_that_of_plain_numpy_and_padding_counts_nowhere() -> None:
    known, features = fit_feature_density((f, None) for f in RELATED), RELATED[3].copy()
    features[:, :, [0, 3]] = 1e9  # above and below the image
    along = (features[0, :, 1:3].reshape(6, -1).T - known.centre) @ known.axes
    square = (along.astype(np.float64) ** 2).mean(1).reshape(2, 5)
    near = [[np.mean([square[min(max(i + k, 0), 1), min(max(j + m, 0), 4)]
                      for k in (-1, 0, 1) for m in (-1, 0, 1)]) for j in range(5)]
            for i in (0, 0, 1, 1)]
    found = known.strangeness(features, Grid(4, 5, 64, 80), slice(16, 48), slice(0, 80))
    np.testing.assert_allclose(found, near, rtol=1e-4)
