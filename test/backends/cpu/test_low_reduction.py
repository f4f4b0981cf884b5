# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The reduction at the size of the logits: the oracle's numbers, however it is cut, NaN kept."""

from dataclasses import fields

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.backends.cpu.reduction import LowReduction, Reduction
from uncertainty_seg.core.uncertainty import (
    maps_from_logits,
    maps_from_low_logits,
    UncertaintyMaps,
    upsample_bilinear,
)

FLOAT_MAPS = tuple(f.name for f in fields(UncertaintyMaps) if f.name != 'label')


def random_logits(seed: int, passes: int, num_classes: int, low: tuple[int, int]) -> np.ndarray:
    draw = np.random.default_rng(seed)
    common = draw.normal(0, 3, (1, num_classes, *low))
    return (common + draw.normal(0, 1, (passes, num_classes, *low))).astype(np.float32)


def reduce(
    logits: np.ndarray, size: tuple[int, int], temperature: float = 1.0, threads: int = 1,
    chunk: int = 0, upsampling: str = 'half_pixel',
) -> UncertaintyMaps:
    reduction = LowReduction(logits.shape[1:], *size, threads, upsampling)
    step = chunk or len(logits)
    last = (len(logits) - 1) // step * step
    for first in range(0, last, step):
        reduction.add(logits[first:first + step], 1 / temperature)
    maps = reduction.finish(logits[last:], 1 / temperature)
    reduction.close()
    return maps


def has_ties(logits: np.ndarray) -> bool:
    top = np.sort(logits, 1)[:, -2:]
    return bool((top[:, 1] - top[:, 0]).min() < 1e-4)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 10**6), passes=st.integers(1, 80), num_classes=st.integers(2, 7),
    low=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 40)), temperature=st.floats(0.5, 2),
    upsampling=st.sampled_from(['half_pixel', 'align_corners']),
)
def test_maps_are_those_of_the_oracle(
    seed: int, passes: int, num_classes: int, low: tuple[int, int], size: tuple[int, int],
    temperature: float, upsampling: str,
) -> None:
    logits = random_logits(seed, passes, num_classes, low)
    hypothesis.assume(not has_ties(logits))
    maps = reduce(logits, size, temperature, 2, 7, upsampling)
    oracle = maps_from_low_logits(logits, *size, temperature, upsampling)
    for name in FLOAT_MAPS:
        np.testing.assert_allclose(getattr(maps, name), getattr(oracle, name), rtol=0, atol=2e-6,
                                   err_msg=name)
    differs = maps.label != oracle.label
    assert not differs.any() or _gap_of_means(logits, size, temperature, upsampling)[
        differs].max() < 1e-5


def _gap_of_means(
    logits: np.ndarray, size: tuple[int, int], temperature: float, upsampling: str
) -> np.ndarray:
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    mean = upsample_bilinear((p / p.sum(1, keepdims=True)).mean(0), *size, upsampling)
    top = np.sort(mean, 0)[-2:]
    return top[1] - top[0]


@pytest.mark.parametrize('passes', [5, 33, 70])
def test_same_bits_for_any_threads_and_chunks(passes: int) -> None:
    logits = random_logits(0, passes, 4, (12, 16))
    results = [reduce(logits, (48, 64), 1.0, threads, chunk)
               for threads, chunk in ((1, 0), (2, 0), (3, 7), (1, 1))]
    for other in results[1:]:
        for f in fields(UncertaintyMaps):
            assert (getattr(other, f.name) == getattr(results[0], f.name)).all(), f.name


def test_at_the_size_of_the_logits_it_is_the_full_reduction() -> None:
    logits = random_logits(3, 9, 5, (12, 16))
    full = Reduction(5, 12, 16, 1).finish(logits, 1.0)
    low = reduce(logits, (12, 16))
    assert (low.label == full.label).all()
    for name in FLOAT_MAPS:
        np.testing.assert_allclose(getattr(low, name), getattr(full, name), rtol=0, atol=1e-6)


def test_an_edge_that_the_passes_agree_on_is_unsure_and_not_disputed() -> None:
    logits = np.zeros((2, 2, 4, 8), np.float32)
    logits[:, 0, :, :4] = logits[:, 1, :, 4:] = 6
    for maps in (reduce(logits, (16, 32)), maps_from_low_logits(logits, 16, 32)):
        full = maps_from_logits(logits, 16, 32)
        assert (maps.label == full.label).all()  # the edge lies in the middle either way
        assert maps.entropy[:, 15:17].min() > 0.9
        assert maps.entropy[:, :12] == pytest.approx(full.entropy[:, :12], abs=1e-6)
        assert maps.aleatoric == pytest.approx(maps.entropy, abs=1e-6)
        assert maps.mutual_information.max() <= 1e-6
        assert maps.total_variance.max() <= 1e-6
        assert not maps.variation_ratio.any()


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_the_parts_of_the_entropy_are_never_below_zero_and_add_up(upsampling: str) -> None:
    maps = reduce(random_logits(5, 20, 4, (6, 7)), (31, 42), upsampling=upsampling)
    assert maps.aleatoric.min() >= 0
    assert maps.mutual_information.min() >= 0
    assert maps.aleatoric + maps.mutual_information == pytest.approx(maps.entropy, abs=1e-6)


def test_a_broken_logit_makes_every_float_map_nan_around_it_and_not_far_away() -> None:
    logits = random_logits(2, 40, 3, (6, 8))
    clean = reduce(logits, (24, 32))
    logits[17, 1, 2, 3] = np.nan
    weight = np.zeros((6, 8))
    weight[2, 3] = 1
    touched = upsample_bilinear(weight, 24, 32) > 0
    maps = reduce(logits, (24, 32))
    for name in FLOAT_MAPS:
        values = getattr(maps, name)
        assert np.isnan(values[touched]).all(), name
    far = np.ones((24, 32), bool)
    far[0:16, 4:20] = False  # a share of 0 of a broken neighbour is broken too
    for name in FLOAT_MAPS:
        assert (getattr(maps, name)[far] == getattr(clean, name)[far]).all(), name
