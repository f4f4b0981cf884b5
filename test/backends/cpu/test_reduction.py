# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Both reductions give their oracle's numbers, same bits however they are cut, and keep NaN."""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.backends.cpu import reduction as module
from uncertainty_seg.backends.cpu.reduction import CoarseReduction, load_kernel, Reduction
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    maps_from_sums,
    MAPS_OF_LOGITS,
    MORE_MAPS,
    NO_MORE,
    UncertaintyMaps,
    upsample_bilinear,
    USUAL_MAPS,
)
from uncertainty_seg.errors import BackendUnavailableError, ShapeError

ROOT = Path(__file__).resolve().parents[3]
FLOAT_MAPS = ('confidence', *USUAL_MAPS)
TOLERANCES = {'exact': 2e-6, 'coarse': 4e-6}
UPSAMPLINGS = ['half_pixel', 'align_corners']
BOTH = pytest.mark.parametrize('kind', TOLERANCES)
Size = tuple[int, int]


def drawn(seed: int, passes: int, num_classes: int, low: Size, spread: float = 3.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    common = draw.normal(0, spread, (1, num_classes, *low))
    return (common + draw.normal(0, spread / 3, (passes, num_classes, *low))).astype(np.float32)


def made(kind: str, low: tuple[int, ...], size: Size, threads: int = 1,
         upsampling: str = 'half_pixel') -> Reduction | CoarseReduction:
    if kind == 'coarse':
        return CoarseReduction((low[0], low[1], low[2]), *size, threads, upsampling)
    return Reduction(low[0], *size, threads, upsampling)


def reduce(
    kind: str, logits: np.ndarray, size: Size, temperature: float = 1.0, threads: int = 1,
    chunk: int = 0, upsampling: str = 'half_pixel', request: MapRequest = NO_MORE,
) -> UncertaintyMaps:
    reduction = made(kind, logits.shape[1:], size, threads, upsampling)
    reduction.reset(request)
    step = chunk or len(logits)
    last = (len(logits) - 1) // step * step
    for first in range(0, last, step):
        reduction.add(logits[first:first + step], 1 / temperature)
    maps = reduction.finish(logits[last:], 1 / temperature)
    reduction.close()
    return maps


def oracle_of(kind: str, logits: np.ndarray, size: Size, *more: Any) -> UncertaintyMaps:
    return (maps_from_coarse_logits if kind == 'coarse' else maps_from_logits)(
        logits, *size, *more)


def assert_same_bits(one: UncertaintyMaps, other: UncertaintyMaps) -> None:
    assert one.present == other.present
    for name in one.present:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def assert_as_oracle(
    kind: str, logits: np.ndarray, size: Size, temperature: float = 1.0,
    upsampling: str = 'half_pixel', **cut: int,
) -> None:
    """Compare all maps; where two classes are as good as equal the winner may differ."""
    maps = reduce(kind, logits, size, temperature, upsampling=upsampling, **cut)
    oracle = oracle_of(kind, logits, size, temperature, upsampling, MapRequest.of(('margin',)))
    planes = logits if kind == 'coarse' else upsample_bilinear(logits, *size, upsampling)
    top = np.sort(planes, 1)[:, -2:]
    has_ties = (top[:, 1] - top[:, 0]).min() < 1e-4  # of votes
    for name in FLOAT_MAPS:
        error = np.abs(getattr(maps, name).astype(np.float64) - getattr(oracle, name))
        assert getattr(maps, name).dtype == np.float32
        if name != 'variation_ratio' or not has_ties:
            assert error.max(initial=0) <= TOLERANCES[kind], name
    assert oracle.margin is not None
    assert not (maps.label != oracle.label)[oracle.margin < 1 - 1e-5].any()
    assert maps.label.dtype == np.uint8


@BOTH
@hypothesis.given(
    seed=st.integers(0, 10**6), passes=st.integers(1, 80), num_classes=st.integers(2, 9),
    low=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 31), st.integers(1, 40)), temperature=st.floats(0.5, 4),
    spread=st.floats(0.0, 4.0), upsampling=st.sampled_from(UPSAMPLINGS),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_maps_are_those_of_the_oracle_for_any_shape_and_temperature(
    kind: str, seed: int, passes: int, num_classes: int, low: Size, size: Size,
    temperature: float, spread: float, upsampling: str,
) -> None:
    logits = drawn(seed, passes, num_classes, low, spread)
    assert_as_oracle(kind, logits, size, temperature, upsampling, threads=2, chunk=7)


@BOTH
@pytest.mark.parametrize(('passes', 'num_classes', 'low', 'factors'), [
    *((6, 5, (6, 40), (factor, factor)) for factor in (1, 2, 3, 4, 8)),
    (6, 5, (6, 40), (2, 4)), (6, 5, (6, 40), (3, 1)),
    (40, 255, (2, 30), (2, 8)), (300, 6, (4, 4), (4, 4)), (2, 19, (64, 128), (4, 4))])
def test_whole_multiples_many_classes_and_many_passes_are_those_of_the_oracle(
    kind: str, passes: int, num_classes: int, low: Size, factors: Size
) -> None:
    logits = drawn(passes, passes, num_classes, low, 1.5)
    assert_as_oracle(kind, logits, (low[0] * factors[0], low[1] * factors[1]))


@BOTH
@pytest.mark.parametrize('size', [(36, 64), (33, 50)])  # phases, and neither
def test_same_bits_for_any_number_of_threads_and_any_chunk(kind: str, size: Size) -> None:
    logits = drawn(3, 70, 4, (9, 16))
    whole = reduce(kind, logits, size)
    assert_same_bits(whole, reduce(kind, np.asfortranarray(logits), size))
    logits.flags.writeable = False
    for threads, chunk in ((2, 0), (5, 32), (64, 1), (1, 1), (3, 7), (2, 33), (1, 69)):
        assert_same_bits(whole, reduce(kind, logits, size, threads=threads, chunk=chunk))


def test_maps_of_sums_are_those_of_the_passes() -> None:
    logits, request = drawn(5, 7, 5, (6, 8)), MapRequest.of(MORE_MAPS, 3.0)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    p[3, :, 4, 5] = np.nan
    entropy = -(p * np.log(p)).sum(1)
    votes = p.argmax(1)[:, None] == np.arange(5)[:, None, None]
    sums = {'sum_p': p.sum(0), 'sum_entropy': entropy.sum(0), 'sum_p2': (p * p).sum((0, 1)),
            'votes': votes.sum(0).astype(float), 'sum_logits': logits.sum(0, dtype=np.float64)}
    reduction = CoarseReduction((5, 6, 8), 24, 32, 2)
    found, oracle = reduction.maps_of_sums(sums, 7, request), maps_from_sums(
        sums, 7, (24, 32), request=request)
    reduction.close()
    assert found.present == oracle.present and np.isnan(found.entropy).sum() > 0
    sound = np.isfinite(found.entropy)
    for name in (*FLOAT_MAPS, *MORE_MAPS):
        ours, theirs = (getattr(maps, name)[sound] for maps in (found, oracle))
        np.testing.assert_allclose(ours, theirs, atol=4e-6, err_msg=name)


@BOTH
def test_a_reduction_used_again_remembers_nothing_and_keeps_what_it_gave(kind: str) -> None:
    first, second = drawn(4, 50, 3, (4, 6)), drawn(5, 40, 3, (4, 6))
    second[:, :, 0] = np.nan
    reduction = made(kind, (3, 4, 6), (16, 24), 2)
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


@BOTH
@pytest.mark.parametrize('passes', [1, 20, 100])
def test_identical_passes_disagree_about_nothing(kind: str, passes: int) -> None:
    maps = reduce(kind, np.repeat(drawn(8, 1, 6, (5, 7)), passes, 0), (20, 28))
    assert maps.mutual_information.max() <= 1e-6
    assert maps.total_variance.max() <= 2e-6
    assert not maps.variation_ratio.any()


@BOTH
@pytest.mark.parametrize('num_classes', [2, 3, 40])
def test_c_passes_that_each_vote_for_another_class_give_one(kind: str, num_classes: int) -> None:
    logits = np.zeros((num_classes, num_classes, 2, 3), np.float32)
    logits[np.arange(num_classes), np.arange(num_classes)] = 200.0
    maps = reduce(kind, logits, (8, 12))
    assert maps.mutual_information == pytest.approx(1, abs=1e-6)
    assert maps.entropy == pytest.approx(1, abs=1e-6)
    assert maps.aleatoric == pytest.approx(0, abs=1e-6)
    assert maps.variation_ratio == pytest.approx(1 - 1 / num_classes, abs=1e-6)
    assert maps.total_variance == pytest.approx(1 - 1 / num_classes, abs=1e-6)
    assert maps.confidence == pytest.approx(1 / num_classes, abs=1e-6)


@BOTH
@pytest.mark.parametrize('num_classes', [2, 6, 255])
def test_equal_logits_are_a_tie_for_the_lowest_class(kind: str, num_classes: int) -> None:
    maps = reduce(kind, np.zeros((70, num_classes, 2, 2), np.float32), (4, 4))
    assert not maps.label.any() and not maps.variation_ratio.any()
    assert maps.entropy == pytest.approx(1, abs=2e-6)
    assert maps.aleatoric == pytest.approx(1, abs=2e-6)
    assert maps.mutual_information.max() <= 1e-6
    logits = np.zeros((4, 3, 2, 2), np.float32)
    logits[2:, 1] = 1  # two passes of a tie of all three, two for class 1
    assert reduce(kind, logits, (2, 2)).variation_ratio == pytest.approx(0.5)


@BOTH
def test_huge_finite_logits_are_certain_and_not_nan(kind: str) -> None:
    logits = np.zeros((2, 3, 1, 1), np.float32)
    logits[:, 1], logits[:, 2] = 1e38, -1e38
    maps = reduce(kind, logits, (4, 4))
    assert (maps.label == 1).all()
    assert (maps.confidence == 1).all()
    assert maps.entropy.max() < 1e-30


BROKEN = {
    'nan': np.float32(np.nan),
    'nan_with_payload': np.array([0x7FC12345], np.uint32).view(np.float32)[0],
    'negative_nan': np.array([0xFFFFFFFF], np.uint32).view(np.float32)[0],
    'inf': np.float32(np.inf),
    'minus_inf': np.float32(-np.inf),
}


@BOTH
@pytest.mark.parametrize('broken', BROKEN)
def test_a_broken_logit_makes_every_float_map_nan_where_it_counts(kind: str, broken: str) -> None:
    for size, (row, column) in itertools.product(
            ((24, 32), (24, 30)), ((0, 0), (2, 3), (5, 7))):
        for c in range(3):
            logits = drawn(9, 40, 3, (6, 8))
            clean = reduce(kind, logits, size)
            weight = np.zeros((6, 8), np.float32)
            weight[row, column] = 1
            touched = upsample_bilinear(weight, *size) > 0
            logits[17, c, row, column] = BROKEN[broken]
            far = np.ones(size, bool)  # a share of 0 of a broken neighbour may be broken too
            far[max(row - 2, 0) * 4:(row + 3) * 4, max(column - 2, 0) * 3:(column + 3) * 4] = False
            maps = reduce(kind, logits, size)
            for name in FLOAT_MAPS:
                values = getattr(maps, name)
                assert np.isnan(values[touched]).all(), name
                assert (values[far] == getattr(clean, name)[far]).all(), name
            assert far.any() and maps.label.max() < 3


@BOTH
def test_what_does_not_fit_is_refused(kind: str) -> None:
    reduction = made(kind, (3, 3, 3), (8, 8))
    for logits, says in ((np.zeros((2, 4, 3, 3), np.float32), r'\(2, 4, 3, 3\)'),
                         (np.zeros((2, 3, 3, 3)), 'float64'),
                         (np.zeros((0, 3, 3, 3), np.float32), r'\(0, 3, 3, 3\)')):
        with pytest.raises(ShapeError, match=says):
            reduction.add(logits, 1.0)
    reduction.add(np.zeros((2, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match=r'\(2, 3, 3, 4\)|4x3'):
        reduction.add(np.zeros((2, 3, 3, 4), np.float32), 1.0)
    with pytest.raises(ShapeError, match='65535'):
        reduction.finish(np.zeros((65534, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='256'):
        made(kind, (256, 2, 2), (8, 8))


@BOTH
@pytest.mark.parametrize('upsampling', UPSAMPLINGS)
@pytest.mark.parametrize(('passes', 'num_classes'), [(1, 2), (7, 5), (40, 2)])
def test_more_maps_are_the_oracles_and_only_where_they_are_asked_for(
    kind: str, passes: int, num_classes: int, upsampling: str
) -> None:
    z = drawn(passes, passes, num_classes, (6, 8)) * 2
    request = MapRequest.of(MORE_MAPS, 3.0)
    oracle = oracle_of(kind, z, (24, 32), 1.25, upsampling, request)
    cut = functools.partial(reduce, kind, z, (24, 32), 1.25, upsampling=upsampling)
    one, other = cut(request=request), cut(request=request, threads=3, chunk=6)
    assert_same_bits(one, other)
    for name in MORE_MAPS:
        np.testing.assert_allclose(getattr(one, name), getattr(oracle, name),
                                   atol=TOLERANCES[kind])
    assert not set(MORE_MAPS) & set(cut().present)
    z[0, 1, 2, 3] = np.nan
    broken = cut(request=request)
    where = np.isnan(upsample_bilinear(z, 24, 32, upsampling)).any((0, 1))
    for name in MORE_MAPS:  # those of the means wherever the entropy is, which may be more
        is_own = name in MAPS_OF_LOGITS and kind == 'exact'
        expected = where if is_own else np.isnan(broken.entropy)
        np.testing.assert_array_equal(np.isnan(getattr(broken, name)), expected)
        assert expected[where].all() and not expected.all()


# Compiled loops ---------------------------------------------------------------------------------

CHILD = """
import logging, sys, tempfile
logging.basicConfig(level=logging.INFO)
{before}
import numpy as np
from uncertainty_seg.backends.cpu import reduction as exact
assert 'numba' not in sys.modules
exact.load_kernels = lambda: exact.load_kernel(False)  # one is enough, and takes a third
reduction = exact.Reduction(2, 2, 2, 1)
maps = reduction.finish(np.zeros((1, 2, 1, 1), np.float32), 1.0)
print(maps.entropy[0, 0])
"""
# How numba finds out whether a folder is writable. Permissions alone do not stop root.
READ_ONLY = """
def refuse(*args, **kwargs):
    raise PermissionError('read-only')
tempfile.TemporaryFile = refuse
"""


def child(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', code, *words], capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environment})


@pytest.mark.release
def test_a_cache_that_is_read_only_or_damaged_is_no_reason_not_to_start(tmp_path: Path) -> None:
    done = child(CHILD.format(before=READ_ONLY), NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout.strip() == '1.0' and 'NUMBA_CACHE_DIR' in done.stderr
    assert not list(tmp_path.rglob('*.nb?'))
    assert child(CHILD.format(before=''), NUMBA_CACHE_DIR=str(tmp_path)).returncode == 0
    (index,) = tmp_path.rglob('*.nbi')
    index.write_bytes(index.read_bytes()[:20])
    done = child(CHILD.format(before=''), NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout.strip() == '1.0', done.stderr


def test_missing_numba_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'numba', None)
    monkeypatch.delitem(
        sys.modules, 'uncertainty_seg.backends.cpu.reduction_kernels', raising=False
    )
    monkeypatch.delattr('uncertainty_seg.backends.cpu.reduction_kernels', raising=False)
    with pytest.raises(BackendUnavailableError, match=r"pip install '\.\[runtime\]'"):
        load_kernel.__wrapped__(False)


def test_no_frame_waits_for_a_compiler_whatever_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    # A picture that somebody opens on a vehicle asks for more maps. With an empty cache its loops
    # were compiled in the middle of that frame, for longer than a worker may hang.
    for loaded in (module.load_kernels, module.load_kernel, module.load_squasher):
        loaded.cache_clear()
    reduction = Reduction(3, 8, 8, 1)
    monkeypatch.setattr(module, '_load', lambda *_: pytest.fail('a frame compiles'))
    for names in ((), MORE_MAPS, ('energy',)):
        reduction.reset(MapRequest.of(names, 1.0))
        reduction.finish(np.zeros((4, 3, 4, 4), np.float32), 1.0)


SHIPPED = """
import sys
sys.modules['numba'] = None
import numpy as np
from uncertainty_seg import open_pipeline
with open_pipeline('suim', backend='onnxruntime', threads=1, reduction=sys.argv[1]) as pipeline:
    pipeline.check_masks()
    print(pipeline.process(np.zeros((256, 320, 3), np.uint8)).verdict.is_confident)
"""


@pytest.mark.parametrize(('reduction', 'words'), [
    ('auto', 'False'), ('exact', 'numba cannot be imported')])
def test_a_shipped_bundle_starts_without_a_compiler_unless_it_is_told_to_be_exact(
    reduction: str, words: str
) -> None:
    done = child(SHIPPED, reduction)
    assert words in (done.stdout if words == 'False' else done.stderr), done.stderr
