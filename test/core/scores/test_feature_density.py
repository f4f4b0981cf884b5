# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Distances of features: by brute force and by scikit-learn, planted strangers, and bad values."""

import dataclasses

from cases import for_each
import numpy as np
import pytest

from uncertainty_seg.calibration.calibrate import fit_feature_density
from uncertainty_seg.core.scores.density import (
    FeatureDensity,
    pooled,
    shrunk,
    unit_rows,
    whitening,
)
from uncertainty_seg.core.uncertainty import maps_from_probabilities
from uncertainty_seg.errors import CalibrationError
from uncertainty_seg.storage.foreign_files import read_arrays
from uncertainty_seg.storage.model_bundle import features_file

RNG = np.random.default_rng(0)
CENTRES = unit_rows(RNG.normal(size=(3, 6))) * 4


def frame(kind: int, seed: int, away: float = 0.0) -> tuple[np.ndarray, np.ndarray, None]:
    """Draw features (1, 6, 4, 5) near the centre of a class, or turned away from it."""
    rng = np.random.default_rng(seed)
    centre = CENTRES[kind] + away * np.array([1, -1, 1, -1, 1, -1])
    places = centre[:, None, None] + 0.3 * rng.normal(size=(6, 4, 5))
    return places[None].astype(np.float32), np.full((16, 20), kind, np.uint8), None


@pytest.fixture(scope='module')
def density() -> FeatureDensity:
    return fit_feature_density([frame(i % 3, i) for i in range(90)])


def test_what_lies_apart_scores_higher_in_every_way_and_the_more_the_farther(
    density: FeatureDensity
) -> None:
    def scores(away: float) -> list[tuple[float, ...]]:
        drawn = [frame(i % 3, 1000 + i, away) for i in range(30)]
        return [tuple(density.scores(pooled(f), int(label[0, 0])).values())
                for f, label, _ in drawn]

    near, far, farther = (np.array(scores(away)) for away in (0.0, 2.0, 6.0))
    assert (near.max(0) < far.min(0)).all()
    assert (np.median(far, 0) < np.median(farther, 0)).all()
    assert near.min() >= 0 and farther.max() <= 1


def test_the_nearest_neighbour_is_that_of_brute_force(density: FeatureDensity) -> None:
    vector = pooled(frame(1, 7, 1.0)[0])
    bank = density.bank.astype(np.float64)
    cosines = sorted((row @ vector / np.linalg.norm(row) / np.linalg.norm(vector)
                      for row in bank), reverse=True)
    for k in (1, 5, 89):
        found = dataclasses.replace(density, neighbours=k).scores(vector, 1)['features.knn']
        assert found == pytest.approx((1 - cosines[k - 1]) / 2, abs=1e-12)


def test_a_frame_held_out_scores_as_if_it_had_never_been_there() -> None:
    frames = [frame(i % 3, i) for i in range(90)]
    density = fit_feature_density(frames)
    held = density.held_out_scores()
    for row in (0, 31, 62):
        rest = [i for i in range(90) if i != row]
        without = dataclasses.replace(density, bank=density.bank[rest],
                                      classes=density.classes[rest])
        found = without.scores(density.bank[row].astype(np.float64), row % 3)
        assert held['features.knn'][row] == pytest.approx(found['features.knn'], abs=1e-9)
        # The other road scales and shrinks anew, by a little else.
        assert held['features.gaussian'][row] == pytest.approx(
            found['features.gaussian'], rel=0.25)
        itself = density.scores(density.bank[row].astype(np.float64), row % 3)
        assert itself['features.gaussian'] < held['features.gaussian'][row]


def test_the_covariance_is_that_of_scikit_learn() -> None:
    covariance = pytest.importorskip('sklearn.covariance')
    for count, size in ((200, 6), (20, 30)):
        values = RNG.normal(size=(count, size)) @ RNG.normal(size=(size, size))
        values -= values.mean(0)
        wanted, drawn = covariance.ledoit_wolf(values, assume_centered=True)
        share, _, found = shrunk(values)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
        assert share == pytest.approx(1 - drawn)
        factor = whitening(found)
        np.testing.assert_allclose(factor @ factor.T @ found, np.eye(size), atol=1e-6)


@for_each('scale', [1e-12, 1e-8, 1e-6, 1.0, 1e6, 1e12])
def test_what_is_stored_gives_the_distances_of_what_was_fitted(
    density: FeatureDensity, scale: float
) -> None:
    """Stored are 16 bits, which have no number below 6e-8 and none above 65504."""
    frames = [frame(i % 3, i) for i in range(90)]
    scaled = [(f * np.float32(scale), label, None) for f, label, _ in frames]
    found = fit_feature_density(scaled)
    data = features_file(found)
    stored = dataclasses.replace(found, bank=read_arrays(data, {'bank': 'float16'}, 10**6)['bank'])
    exact = dataclasses.replace(found, bank=np.array([pooled(f) for f, _, _ in frames]))
    for i in range(20):
        other = pooled(frame(i % 3, 1000 + i, 0.5)[0])
        for name, value in stored.scores(other * scale, i % 3).items():
            assert value == pytest.approx(exact.scores(other, i % 3)[name], rel=3e-3)
            assert value == pytest.approx(density.scores(other, i % 3)[name], rel=3e-3)


def test_features_too_large_to_be_squared_are_no_ordinary_ones(density: FeatureDensity) -> None:
    with np.errstate(over='ignore'):
        assert np.isnan(list(density.scores(np.full(12, 1e200), 0).values())).all()


@for_each('value', [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_no_number_never_looks_near(
    density: FeatureDensity, value: float
) -> None:
    features, label, _ = frame(0, 1)
    features[0, 2, 1, 1] = value
    assert np.isnan(list(density.scores(pooled(features), 0).values())).all()


def test_an_ignored_pixel_counts_nowhere(density: FeatureDensity) -> None:
    features, label, _ = frame(0, 1)
    ignore = np.zeros(label.shape, np.bool_)
    ignore[:8] = True
    np.testing.assert_allclose(pooled(features, ignore), pooled(features[:, :, 2:]), rtol=1e-12)
    assert np.isnan(pooled(features, np.ones_like(ignore))).all()


def test_padding_is_cut_off_features_as_off_maps() -> None:
    probs = np.full((1, 2, 16, 20), 0.5)
    features = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)
    maps = maps_from_probabilities(probs).with_features(features)
    cut = maps.cut(slice(4, 12), slice(0, 20))
    np.testing.assert_array_equal(cut.features, features[:, :, 1:3])
    assert maps.cut(slice(0, 1), slice(19, 20)).features.shape == (1, 1, 1, 1)
    assert maps_from_probabilities(probs).cut(slice(0, 8), slice(0, 8)).features is None


def test_features_that_never_vary_are_one_sentence() -> None:
    features, label, _ = frame(0, 1)
    for same in (np.ones_like(features), np.zeros_like(features)):
        with pytest.raises(CalibrationError, match='are equal'):
            fit_feature_density([(same, label, None)] * 30)
    features[0, 0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match='not finite'):
        fit_feature_density([(features, label, None)] * 30)
