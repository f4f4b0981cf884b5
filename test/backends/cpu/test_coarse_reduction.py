# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The coarse reduction gives the oracle's numbers, same bits however it is cut, and keeps NaN."""

import os
from pathlib import Path
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.backends.cpu.reduction import CoarseReduction
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    MAPS_OF_LOGITS,
    MORE_MAPS,
    NO_MORE,
    UncertaintyMaps,
    upsample_bilinear,
    USUAL_MAPS,
)
from uncertainty_seg.errors import ShapeError

ROOT = Path(__file__).resolve().parents[3]
FLOAT_MAPS = ('confidence', *USUAL_MAPS)
TOLERANCE = 4e-6
UPSAMPLINGS = ['half_pixel', 'align_corners']


def drawn(seed: int, passes: int, num_classes: int, low: tuple[int, int]) -> np.ndarray:
    draw = np.random.default_rng(seed)
    common = draw.normal(0, 3, (1, num_classes, *low))
    return (common + draw.normal(0, 1, (passes, num_classes, *low))).astype(np.float32)


def reduce(
    logits: np.ndarray, size: tuple[int, int], temperature: float = 1.0, threads: int = 1,
    chunk: int = 0, upsampling: str = 'half_pixel', request: MapRequest = NO_MORE,
) -> UncertaintyMaps:
    reduction = CoarseReduction(logits.shape[1:], *size, threads, upsampling)
    reduction.reset(request)
    step = chunk or len(logits)
    last = (len(logits) - 1) // step * step
    for first in range(0, last, step):
        reduction.add(logits[first:first + step], 1 / temperature)
    maps = reduction.finish(logits[last:], 1 / temperature)
    reduction.close()
    return maps


def assert_same_bits(one: UncertaintyMaps, other: UncertaintyMaps) -> None:
    assert one.present == other.present
    for name in one.present:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def assert_as_oracle(maps: UncertaintyMaps, oracle: UncertaintyMaps) -> None:
    for name in FLOAT_MAPS:
        assert getattr(maps, name).dtype == np.float32
        np.testing.assert_allclose(getattr(maps, name), getattr(oracle, name), rtol=0,
                                   atol=TOLERANCE, err_msg=name)
    # Where two means are as good as equal, either may win.
    differs = maps.label != oracle.label
    assert (np.abs(maps.confidence - oracle.confidence)[differs] < TOLERANCE).all()
    assert differs.mean() < 0.01 or differs.sum() <= 1
    assert maps.label.dtype == np.uint8


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 10**6), passes=st.integers(1, 80), num_classes=st.integers(2, 9),
    low=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 40)), temperature=st.floats(0.5, 2),
    upsampling=st.sampled_from(UPSAMPLINGS),
)
def test_maps_are_those_of_the_oracle_for_any_shape_and_temperature(
    seed: int, passes: int, num_classes: int, low: tuple[int, int], size: tuple[int, int],
    temperature: float, upsampling: str,
) -> None:
    logits = drawn(seed, passes, num_classes, low)
    maps = reduce(logits, size, temperature, 2, 7, upsampling)
    assert_as_oracle(maps, maps_from_coarse_logits(logits, *size, temperature, upsampling))


@pytest.mark.parametrize('factors', [(1, 1), (2, 2), (4, 4), (8, 8), (2, 4), (3, 1), (16, 16)])
def test_maps_of_whole_multiples_are_those_of_the_oracle(factors: tuple[int, int]) -> None:
    logits = drawn(1, 9, 6, (30, 44))
    size = 30 * factors[0], 44 * factors[1]
    assert_as_oracle(reduce(logits, size), maps_from_coarse_logits(logits, *size))


def test_a_network_of_255_classes_and_one_of_many_tiles_and_bands() -> None:
    for shape, size in (((3, 255, 9, 10), (36, 40)), ((4, 19, 128, 256), (512, 1024))):
        logits = drawn(2, shape[0], shape[1], shape[2:])
        assert_as_oracle(reduce(logits, size), maps_from_coarse_logits(logits, *size))


@pytest.mark.parametrize('passes', [5, 33, 70])
@pytest.mark.parametrize('low', [(12, 16), (37, 53)])
def test_same_bits_for_any_number_of_threads_and_any_chunk(
    passes: int, low: tuple[int, int]
) -> None:
    logits = drawn(0, passes, 5, low)
    size = low[0] * 4, low[1] * 4
    whole = reduce(logits, size)
    for threads, chunk in ((2, 0), (3, 7), (1, 1), (5, 32), (2, 33)):
        assert_same_bits(whole, reduce(logits, size, 1.0, threads, chunk))


def test_one_pass_and_no_upsampling_give_the_exact_maps() -> None:
    one, many = drawn(3, 1, 4, (5, 7)), drawn(4, 9, 5, (12, 16))
    for logits, size in ((one, (20, 28)), (many, (12, 16))):
        assert_as_oracle(reduce(logits, size), maps_from_logits(logits, *size))


def test_600_passes_are_as_exact_as_20() -> None:
    logits = drawn(5, 600, 6, (4, 4))
    assert_as_oracle(reduce(logits, (16, 16)), maps_from_coarse_logits(logits, 16, 16))


def test_equal_logits_are_votes_for_the_lowest_class() -> None:
    logits = np.zeros((4, 3, 2, 2), np.float32)
    logits[2:, 1] = 1  # two passes of a tie of all three, two for class 1
    maps = reduce(logits, (2, 2))
    assert maps.variation_ratio == pytest.approx(0.5)
    assert not reduce(np.zeros((5, 4, 2, 2), np.float32), (8, 8)).label.any()


def test_the_parts_of_the_entropy_are_never_below_zero_and_add_up() -> None:
    for seed in range(5):
        maps = reduce(drawn(seed, 20, 4, (6, 7)) * 10, (24, 28))
        assert maps.aleatoric.min() >= 0
        assert maps.mutual_information.min() >= 0
        assert (maps.mutual_information <= maps.entropy).all()
        assert maps.aleatoric + maps.mutual_information == pytest.approx(maps.entropy, abs=1e-6)


def test_huge_finite_logits_are_certain_and_not_nan() -> None:
    logits = np.zeros((2, 3, 1, 1), np.float32)
    logits[:, 1], logits[:, 2] = 1e38, -1e38
    maps = reduce(logits, (4, 4))
    assert (maps.label == 1).all()
    assert (maps.confidence == 1).all()
    assert maps.entropy.max() < 1e-30


@pytest.mark.parametrize('broken', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('size', [(24, 32), (23, 31)])
def test_a_broken_logit_makes_every_float_map_nan_where_it_counts(
    broken: float, size: tuple[int, int]
) -> None:
    logits = drawn(2, 40, 3, (6, 8))
    clean = reduce(logits, size)
    logits[17, 1, 2, 3] = broken
    weight = np.zeros((6, 8))
    weight[2, 3] = 1
    touched = upsample_bilinear(weight, *size) > 0
    maps = reduce(logits, size)
    far = np.ones(size, bool)
    far[0:16, 4:20] = False  # a share of 0 of a broken neighbour may be broken too
    for name in FLOAT_MAPS:
        values = getattr(maps, name)
        assert np.isnan(values[touched]).all(), name
        assert (values[far] == getattr(clean, name)[far]).all(), name
    assert maps.label.max() < 3


@pytest.mark.parametrize('upsampling', UPSAMPLINGS)
@pytest.mark.parametrize('num_classes', [2, 5])
@pytest.mark.parametrize('passes', [1, 7, 40])
def test_more_maps_are_the_oracles_and_only_where_they_are_asked_for(
    passes: int, num_classes: int, upsampling: str
) -> None:
    z = drawn(passes, passes, num_classes, (6, 8)) * 2
    request = MapRequest.of(MORE_MAPS, 3.0)
    oracle = maps_from_coarse_logits(z, 24, 32, 1.25, upsampling, request)
    one, other = (reduce(z, (24, 32), 1.25, threads, chunk, upsampling, request)
                  for threads, chunk in ((1, 0), (3, 6)))
    assert_same_bits(one, other)
    for name in MORE_MAPS:
        np.testing.assert_allclose(getattr(one, name), getattr(oracle, name), atol=TOLERANCE)
    z[0, 1, 2, 3] = np.nan
    broken = reduce(z, (24, 32), 1.25, upsampling=upsampling, request=request)
    for name in (*MORE_MAPS, *MAPS_OF_LOGITS):
        np.testing.assert_array_equal(np.isnan(getattr(broken, name)), np.isnan(broken.entropy))


def test_a_reduction_used_again_remembers_nothing() -> None:
    first, second = drawn(4, 50, 3, (4, 6)), drawn(5, 40, 3, (4, 6))
    second[:, :, 0] = np.nan
    reduction = CoarseReduction((3, 4, 6), 16, 24, 2)
    results = []
    for logits in (first, second, first):
        reduction.add(logits[:20], 1.0)
        results.append(reduction.finish(logits[20:], 1.0))
    reduction.reset(MapRequest.of(MORE_MAPS))
    reduction.add(second, 1.0)  # a frame that was given up
    reduction.reset()
    results.append(reduction.finish(first, 1.0))
    reduction.close()
    assert_same_bits(results[0], results[2])
    assert_same_bits(results[0], results[3])


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    reduction = CoarseReduction((3, 3, 3), 8, 8, 1)
    with pytest.raises(ShapeError, match=r'logits has shape \(2, 4, 3, 3\)'):
        reduction.add(np.zeros((2, 4, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='float64'):
        reduction.add(np.zeros((2, 3, 3, 3)), 1.0)
    with pytest.raises(ShapeError, match='256 classes'):
        CoarseReduction((256, 2, 2), 8, 8, 1)
    reduction.add(np.zeros((1, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='at most 65535 passes'):
        reduction.finish(np.zeros((65535, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='no empty axis'):
        reduction.finish(np.zeros((0, 3, 3, 3), np.float32), 1.0)


CHILD = """
import sys
sys.modules['numba'] = None
import numpy as np
from uncertainty_seg.backends.cpu.reduction import CoarseReduction
print(CoarseReduction((2, 1, 1), 2, 2, 1).finish(np.zeros((1, 2, 1, 1), np.float32), 1.0).entropy)
"""


def test_it_needs_no_numba() -> None:
    child = subprocess.run([sys.executable, '-c', CHILD], capture_output=True, text=True,
                           check=False, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert child.stdout.split() == ['[[1.', '1.]', '[1.', '1.]]'], child.stderr


SHIPPED = """
import sys
sys.modules['numba'] = None
import numpy as np
from uncertainty_seg import open_pipeline
with open_pipeline('suim', backend='onnxruntime', threads=1, reduction=sys.argv[1]) as pipeline:
    pipeline.check_masks()
    print(pipeline.process(np.zeros((256, 320, 3), np.uint8)).verdict.is_confident)
"""


@pytest.mark.parametrize('reduction, words', [
    ('auto', 'False'), ('coarse', 'False'), ('exact', 'numba cannot be imported')])
def test_a_shipped_bundle_starts_without_a_compiler_unless_it_is_told_to_be_exact(
    reduction: str, words: str
) -> None:
    child = subprocess.run([sys.executable, '-c', SHIPPED, reduction], capture_output=True,
                           text=True, check=False, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert words in (child.stdout if words == 'False' else child.stderr), child.stderr
