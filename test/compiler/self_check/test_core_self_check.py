# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Comparison of maps with a reference: equal passes pass, and each fault fails its check."""

import math

from conftest import tiny_card
import numpy as np
import pytest

from uncertainty_seg.compiler.self_check import (
    Check,
    closeness_checks,
    Difference,
    difference,
    growth_check,
    same_check,
    sanity_checks,
    TOLERANCES,
    VALUE_MAPS,
    worst,
)
from uncertainty_seg.core.scores.vector import score_names, ScoreVector
from uncertainty_seg.core.uncertainty import (
    grid_maps,
    MAP_NAMES,
    sums_of_logits,
    UncertaintyMaps,
)

PASSES, HEIGHT, WIDTH = 8, 20, 30
NUM_PIXELS = HEIGHT * WIDTH
USUAL = ScoreVector(tiny_card(), score_names()).compute


def probabilities(seed: int = 0) -> np.ndarray:
    """Return passes that are certain on the left of the image and uncertain on the right."""
    draws = np.random.default_rng(seed).gamma(
        np.geomspace(0.02, 2, WIDTH), size=(PASSES, 4, HEIGHT, WIDTH)) + 1e-9
    return draws / draws.sum(1, keepdims=True)


def maps(seed: int = 0, **changed: np.ndarray) -> UncertaintyMaps:
    """Return maps at the grid; a changed map leaves the others, as a fault in one map would."""
    found = grid_maps(sums_of_logits(np.log(probabilities(seed))))
    right = {name: getattr(found, name) for name in (*MAP_NAMES, 'confidence', 'label')}
    for name, values in {**right, **changed}.items():
        setattr(found, name, values)
    return found


def with_pixel(values: np.ndarray, value: float) -> np.ndarray:
    values = values.copy()
    values[3, 4] = value
    return values


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.is_passed}


def judged(found: UncertaintyMaps, precision: str = 'fp32') -> set[str]:
    gap = difference(found, maps(), PASSES, {'entropy.mean': 0.5}, USUAL)
    return failed(closeness_checks(gap, TOLERANCES[precision]))


def test_the_same_maps_pass_every_check() -> None:
    assert difference(maps(), maps(), PASSES, {}, USUAL) == Difference(0, 0, 0, 0, 0, 0)
    assert judged(maps()) == failed(sanity_checks(maps(), PASSES)) == set()


def test_a_difference_is_what_was_put_in() -> None:
    right = maps()
    label = right.label.copy()
    label[:2, :3] += 1
    ratio = right.variation_ratio.copy()
    ratio[0, :4] += np.float32(1 / PASSES)
    entropy = right.entropy + np.float32(0.01)
    found = maps(label=label, variation_ratio=ratio, entropy=entropy)
    gap = difference(found, right, PASSES, {'entropy.mean': 0.5}, USUAL)
    assert gap.label_share == 6 / NUM_PIXELS
    assert gap.vote_share == 4 / NUM_PIXELS
    assert (gap.mean, gap.quantile, gap.largest) == pytest.approx((0.01, 0.01, 0.01), rel=1e-4)
    assert gap.score == pytest.approx(0.01 / 0.5, rel=1e-4)


def test_one_wrong_pixel_of_any_map_is_found_in_float32() -> None:
    for name in VALUE_MAPS:
        wrong = with_pixel(getattr(maps(), name), 0.999)
        assert 'largest' in judged(maps(**{name: wrong})), name


def test_a_mirrored_map_fails_in_every_precision() -> None:
    for name in VALUE_MAPS:
        mirrored = maps(**{name: getattr(maps(), name)[:, ::-1]})
        passed = [precision for precision in TOLERANCES if not judged(mirrored, precision)]
        assert not passed, name


@pytest.mark.parametrize('name', [*VALUE_MAPS, 'variation_ratio'])
def test_one_value_that_is_no_number_fails(name: str) -> None:
    found = maps(**{name: with_pixel(getattr(maps(), name), math.nan)})
    assert 'finite' in failed(sanity_checks(found, PASSES))
    if name in VALUE_MAPS:
        assert {'mean', 'quantile', 'largest'} <= judged(found, 'bf16')
    else:
        assert 'votes' in failed(sanity_checks(found, PASSES))


def test_the_worst_of_differences_keeps_what_is_no_number() -> None:
    small, large = Difference(0, 1, 0, 1, 0, 1), Difference(1, 0, 1, 0, math.nan, 0)
    for pair in ((small, large), (large, small)):
        found = worst(pair)
        assert (found.label_share, found.vote_share, found.score) == (1, 1, 1)
        assert math.isnan(found.largest)


@pytest.mark.parametrize('measured, is_passed', [
    (1.0, True), (1.0001, False), (math.nan, False), (math.inf, False)])
def test_a_check_passes_up_to_its_limit_and_never_without_a_number(
        measured: float, is_passed: bool) -> None:
    assert Check('x', measured, 1.0, '').is_passed is is_passed


@pytest.mark.parametrize('of, value, name', [
    ('mutual_information', -1e-3, 'range'), ('entropy', 1.001, 'range'),
    ('total_variance', -0.001, 'range'), ('variation_ratio', 0.3, 'votes'),
    ('confidence', math.inf, 'finite'),
])
def test_what_no_network_can_give_is_found(of: str, value: float, name: str) -> None:
    found = maps(**{of: with_pixel(maps().of(of), value)})
    assert name in failed(sanity_checks(found, PASSES))


def test_same_means_the_same_bits() -> None:
    entropy = with_pixel(maps().entropy, math.nan)
    one = maps(entropy=entropy)
    assert same_check(one, one).is_passed
    next_up = np.nextafter(one.aleatoric[3, 4], np.float32(2))
    other = maps(entropy=entropy, aleatoric=with_pixel(one.aleatoric, next_up))
    assert same_check(one, other).measured == 1


@pytest.mark.parametrize('samples, grown', [
    ([100, 200, 300, 300, 300, 300], 0), ([100, 100, 100, 100, 110, 105], 10),
    ([100, 90, 80, 70], 0)])
def test_memory_may_grow_in_the_first_half_only(samples: list[float], grown: float) -> None:
    assert growth_check(samples, 4).measured == grown


def test_the_scores_that_are_held_to_limits_are_those_of_the_gate() -> None:
    found, right = maps(), maps()
    found.entropy[0, 0] += 0.25

    def score(one: UncertaintyMaps) -> dict[str, float]:
        return {'corner': float(one.entropy[0, 0]), 'other': 0.0}

    limits = {'corner': 0.5, 'other': 0.1}
    assert difference(found, right, PASSES, limits, score).score == pytest.approx(0.5)
    assert difference(found, right, PASSES, {'other': 0.1}, score).score == 0
    # A limit without a computed score must not pass.
    with pytest.raises(KeyError):
        difference(found, right, PASSES, {'missing': 0.1}, score)
