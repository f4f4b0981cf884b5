# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Closed form of the logits behind dropout, and the pass policy 'infinite' that asks for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from conftest import calibrate_for, TINY_P, TINY_PASSES
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.backends.closed_form import (
    cholesky,
    LinearHead,
    num_sigma_passes,
    sigma_passes,
    sigma_points,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import INFINITE, Settings, settings_from_dict
from uncertainty_seg.core.status import verdict_status
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    NO_MORE,
    UncertaintyMaps,
)
from uncertainty_seg.errors import CalibrationError, ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def drawn_head(num_classes: int, channels: int, rate: float = 0.5) -> LinearHead:
    rng = np.random.default_rng(num_classes)
    return LinearHead(rng.normal(size=(num_classes, channels)), rng.normal(size=num_classes), rate)


def drawn_features(channels: int, pixels: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.maximum(rng.normal(size=(channels, pixels)), 0).astype(np.float32)


def sampled(head: LinearHead, features: np.ndarray, passes: int) -> np.ndarray:
    """Return the logits (T, C, n) of masks that are drawn and multiplied in."""
    kept = np.random.default_rng(9).random((passes, len(features))) >= head.rate
    return np.stack([head.weights @ (features * row[:, None] / (1 - head.rate))
                     + head.bias[:, None] for row in kept])


@pytest.mark.parametrize('rank', [1, 2, 5, 7, 19, 31])
def test_sigma_points_have_mean_0_and_covariance_1(rank: int) -> None:
    points = sigma_points(rank).astype(np.float64)
    both = np.concatenate([points, -points])
    assert len(both) == num_sigma_passes(rank + 1) == 2 * max(24, 2 * rank)
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(both.T @ both / len(both), np.eye(rank), atol=1e-6)


@pytest.mark.parametrize('num_classes', [2, 3, 8, 20])
def test_sigma_passes_have_the_mean_and_the_covariance_of_all_masks(num_classes: int) -> None:
    head, features = drawn_head(num_classes, 40, 0.3), drawn_features(40, 50)
    z = head.sigma_logits(features)
    np.testing.assert_allclose(z.mean(0), head.mean(features), atol=1e-12)
    # A softmax sees differences only.
    d = z[:, :-1] - z[:, -1:]
    d = d - d.mean(0)
    found = np.einsum('tcn,tdn->cdn', d, d) / len(d)
    s = head.covariance(features)
    wanted = s[:-1, :-1] - s[:-1, -1:] - s[-1:, :-1] + s[-1:, -1:]
    np.testing.assert_allclose(found, wanted, atol=1e-6 * wanted.max())


def test_mean_and_covariance_are_those_of_every_mask_there_is() -> None:
    head, features = drawn_head(3, 8, 0.4), drawn_features(8, 20)
    keep, masks = 0.6, (np.arange(256)[:, None] >> np.arange(8)) & 1
    chances = np.prod(np.where(masks, keep, 1 - keep), 1)
    z = np.einsum('ck,tk,kn->tcn', head.weights, masks / keep, features) + head.bias[:, None]
    mean = np.einsum('t,tcn->cn', chances, z)
    away = z - mean
    np.testing.assert_allclose(head.mean(features), mean, atol=1e-6)
    np.testing.assert_allclose(head.covariance(features),
                               np.einsum('t,tcn,tdn->cdn', chances, away, away), atol=1e-6)


def test_a_factor_is_that_of_lapack_and_directions_without_variance_are_left_out() -> None:
    head, features = drawn_head(6, 30), drawn_features(30, 40)
    features[:, 3] = 0  # no variance at all
    features[2:, 4] = 0  # of rank 2
    packed = head.difference_weights() @ features.astype(np.float64) ** 2
    factor = cholesky(packed)
    rows, columns = np.tril_indices(5)
    for pixel in range(40):
        full, root = np.zeros((5, 5)), np.zeros((5, 5))
        full[rows, columns] = full[columns, rows] = packed[:, pixel]
        root[rows, columns] = factor[:, pixel]
        np.testing.assert_allclose(root @ root.T, full, atol=1e-5 * max(full.max(), 1e-30))
        if pixel not in (3, 4):
            np.testing.assert_allclose(root, np.linalg.cholesky(full), atol=1e-9)
    assert not factor[:, 3].any()
    passes = sigma_passes(head.mean(features), factor, sigma_points(5).astype(np.float64))
    np.testing.assert_array_equal(passes[:, :, 3], np.broadcast_to(head.bias, (48, 6)))


def test_what_is_no_number_stays_none() -> None:
    packed = np.ones((3, 4), np.float32)
    packed[:, 1:] = np.array([np.nan, np.inf, 1])[None] * packed[:, 1:]
    z = sigma_passes(np.zeros((3, 4), np.float32), cholesky(packed), sigma_points(2))
    np.testing.assert_array_equal(np.isnan(z).any((0, 1)), [False, True, True, False])


@pytest.mark.parametrize('num_classes', [2, 6, 12])
def test_maps_are_closer_to_those_of_2048_passes_than_those_of_80_are(num_classes: int) -> None:
    head, features = drawn_head(num_classes, 96), drawn_features(96, 12 * 16)
    # Weights that give a mutual information of about 0.08, above what networks have.
    scale = dataclasses.replace(head, weights=head.weights / 10)
    z = sampled(scale, features, 2128).reshape(-1, num_classes, 12, 16)
    truth, few = (maps_from_logits(part, 12, 16) for part in (z[80:], z[:80]))
    closed = maps_from_logits(
        scale.sigma_logits(features).reshape(-1, num_classes, 12, 16), 12, 16)
    for name in ('entropy', 'mutual_information', 'confidence'):
        wanted = getattr(truth, name)
        ours, theirs = (np.abs(getattr(maps, name) - wanted).mean() for maps in (closed, few))
        assert ours < theirs, name
    ours, theirs = (np.corrcoef(maps.mutual_information.ravel(),
                                truth.mutual_information.ravel())[0, 1] for maps in (closed, few))
    assert ours > max(theirs, 0.985)


class Closed(FakeBackend):
    """Fake, with a closed form: of class c alone its colour counts, times 8 and its mask."""

    has_closed_form = True

    def run(
        self, image: ImageU8, masks: object, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        if masks:
            return super().run(image, masks, temperature, request)
        head = LinearHead(np.eye(3), np.zeros(3), TINY_P)
        spec, shape = self._card.input, self._card.logits_shape
        z = head.sigma_logits(self._features(image).reshape(3, -1)).reshape(-1, *shape)
        return maps_from_coarse_logits(z, spec.height, spec.width, temperature, request=request)


def opened(folder: Path, **settings: object) -> Pipeline:
    bundle = load_bundle(str(folder))
    temperature = settings.pop('temperature', None)
    return Pipeline(bundle, Closed(bundle.card), settings_from_dict(
        {'pass_policy': 'infinite', **settings}), temperature)


def calibrated(folder: Path) -> Path:
    calibrate_for(folder, passes=INFINITE, reductions=('coarse',))
    return folder


def test_a_bundle_that_was_calibrated_without_passes_is_confident_without(
    tiny_bundle: Path
) -> None:
    pipeline = opened(calibrated(tiny_bundle))
    pipeline.check_masks()
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 0] = 255
    results = [pipeline.process(blue, stamp) for stamp in range(4)]
    assert results[-1].verdict.is_confident and results[-1].passes == INFINITE
    values = verdict_status(
        results[-1].verdict, results[-1], pipeline.thresholds).values
    assert values['passes'] == 'inf'


@pytest.mark.parametrize('policy', ['fixed', 'per_frame'])
def test_maps_do_not_depend_on_seed_or_stamp(tiny_bundle: Path, policy: str) -> None:
    one, other = (opened(tiny_bundle, temperature=1.0, seed=seed, mask_policy=policy)
                  for seed in (0, 7))
    np.testing.assert_array_equal(one.measure(NOISE, 1).maps.mutual_information,
                                  other.measure(NOISE, 2).maps.mutual_information)


def test_any_seed_is_that_of_the_calibration(tiny_bundle: Path) -> None:
    assert opened(calibrated(tiny_bundle), seed=5).process(NOISE).passes == INFINITE


def test_limits_of_passes_are_none_without_them_and_the_other_way_round(
    tiny_bundle: Path
) -> None:
    with pytest.raises(CalibrationError, match='passes is inf, but .* calibrated with 8: set '
                       'pass_policy to all, or calibrate the bundle with --passes inf'):
        opened(tiny_bundle)
    without = opened(tiny_bundle, temperature=1.0)
    assert not without.process(NOISE).verdict.is_confident
    calibrated(tiny_bundle)
    with pytest.raises(CalibrationError, match='passes is 8, but .* calibrated with inf: set '
                       'pass_policy to infinite, or calibrate the bundle with --passes 8'):
        opened(tiny_bundle, pass_policy='all')
    with pytest.raises(CalibrationError, match='passes is 30, but .* calibrated with inf'):
        opened(tiny_bundle, pass_policy='all', passes=30)


def test_a_change_to_passes_takes_the_flag_down(tiny_bundle: Path) -> None:
    pipeline = opened(calibrated(tiny_bundle))
    assert pipeline.reconfigure(settings_from_dict({'pass_policy': 'all'}))
    result = pipeline.process(NOISE)
    assert result.passes == TINY_PASSES and not result.verdict.is_confident
    assert result.verdict.reasons == (f'passes is {TINY_PASSES}: the limits are for inf',)


def test_a_backend_of_passes_is_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(calibrated(tiny_bundle)))
    with pytest.raises(ConfigError, match='pass_policy is infinite, and fake computes passes, '
                       'expected a backend of the processor'):
        Pipeline(bundle, FakeBackend(bundle.card), Settings(pass_policy='infinite'))


@pytest.mark.parametrize(('settings', 'sentence'), [
    ({'passes': 20}, 'passes is 20 with pass_policy infinite, expected -1'),
    ({'reduction': 'exact'}, 'reduction is exact with pass_policy infinite, expected coarse'),
    ({'deadline_ms': 5.0}, 'deadline_ms is 5 with pass_policy infinite, expected 0'),
])
def test_settings_that_ask_for_passes_too_are_refused(
    settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settings_from_dict({'pass_policy': 'infinite', **settings})
