# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The fitted density: scikit-learn's likelihood, the number of components, refusals."""

from collections.abc import Mapping
import math

import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.calibration import calibrate as fit_module
from uncertainty_seg.calibration.calibrate import fit_density
from uncertainty_seg.core.scores.density import ScoreDensity
from uncertainty_seg.errors import CalibrationError

pytest.importorskip('sklearn', reason='scikit-learn is not installed')
NAMES = ('a', 'b')


def frames_of(table: NDArray[np.float64]) -> list[Mapping[str, float]]:
    return [dict(zip(NAMES, row.tolist(), strict=True)) for row in table]


def two_clusters(num: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """Return pairs of scores that are both low or both high."""
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random(num) < 0.5, 0.2, 0.8)[:, None]
    return centre + rng.normal(0, 0.02, (num, 2))


@pytest.mark.parametrize('seed', range(3))
def test_the_likelihood_is_that_of_scikit_learn(
        seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def remember(table: NDArray[np.float64], start: int) -> object:
        kept.append(best(table, start))
        return kept[0]

    best = fit_module._best_mixture
    monkeypatch.setattr(fit_module, '_best_mixture', remember)
    table = two_clusters(seed=seed)
    density = ScoreDensity.from_facts(fit_density(frames_of(table), NAMES).to_facts())
    fresh = np.random.default_rng(seed).uniform(0, 1, (50, 2))
    expected = kept[0][0].score_samples((fresh - table.mean(0)) / table.std(0))
    surprise = [density.surprise_nats(frame) for frame in frames_of(fresh)]
    np.testing.assert_allclose(surprise, -expected, rtol=1e-9)


def test_a_mixture_sees_what_no_single_score_shows() -> None:
    density = fit_density(frames_of(two_clusters()), NAMES)
    assert len(density.weights) == 2
    usual = [density.score({'a': v, 'b': v}) for v in (0.2, 0.8)]
    crossed = [density.score({'a': 0.2, 'b': 0.8}), density.score({'a': 0.8, 'b': 0.2})]
    assert max(usual) < 0.02 < 0.4 < min(crossed)


def test_one_cloud_is_one_gaussian_and_its_ordinary_frame_far_below_1() -> None:
    table = np.random.default_rng(1).normal(0.5, 0.1, (300, 2))
    density = fit_density(frames_of(table), NAMES)
    assert len(density.weights) == 1
    np.testing.assert_allclose(density.centre, table.mean(0))
    # Half a chi-square of two degrees has the median ln 2; the score is (ln 2 / (ln 2 + 1))**8.
    assert np.median([density.score(f) for f in frames_of(table)])**0.125 == pytest.approx(
        0.41, abs=0.03)


def test_frames_that_are_no_number_are_left_out() -> None:
    frames = frames_of(two_clusters())
    broken = [{'a': math.nan, 'b': 0.5}, *frames, {'a': 0.5, 'b': math.inf}]
    assert fit_density(broken, NAMES).to_facts() == fit_density(frames, NAMES).to_facts()


def test_a_score_that_moves_by_rounding_alone_decides_nothing() -> None:
    table = two_clusters()
    table[:, 1] = np.random.default_rng(1).uniform(0, 2e-7, len(table))
    density = fit_density(frames_of(table), NAMES)
    here, there = (density.score({'a': 0.2, 'b': rounding}) for rounding in (0.0, 9e-7))
    assert here == pytest.approx(there, abs=1e-5)
    assert here < 0.05  # an ordinary frame, on any CPU


def test_too_few_frames_are_refused_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match='9 .* 10'):
        fit_density(frames_of(two_clusters(9)), NAMES)
    with pytest.raises(CalibrationError, match='0'):
        fit_density([], NAMES)
