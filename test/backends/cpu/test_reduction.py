# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The fused reduction gives the oracle's numbers, same bits however it is cut, and keeps NaN."""

import itertools
import logging
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.backends.cpu import reduction as exact
from uncertainty_seg.backends.cpu.reduction import load_kernel, Reduction
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_logits,
    MAPS_OF_LOGITS,
    MORE_MAPS,
    UncertaintyMaps,
    upsample_bilinear,
    USUAL_MAPS,
)
from uncertainty_seg.errors import BackendUnavailableError, ShapeError

ROOT = Path(__file__).resolve().parents[3]
FLOAT_MAPS = ('confidence', *USUAL_MAPS)
TOLERANCE = 2e-6


def random_logits(
    seed: int, passes: int, num_classes: int, rows: int, columns: int, spread: float = 3.0
) -> np.ndarray:
    shape = (passes, num_classes, rows, columns)
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def reduce(
    logits: np.ndarray, height: int, width: int, temperature: float = 1.0, threads: int = 1,
    chunk: int = 0,
) -> UncertaintyMaps:
    reduction = Reduction(logits.shape[1], height, width, threads)
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


def assert_as_oracle(maps: UncertaintyMaps, oracle: UncertaintyMaps, ties: np.ndarray) -> None:
    """Compare all maps; where two classes are as good as equal the winner may differ."""
    for name in FLOAT_MAPS:
        error = np.abs(getattr(maps, name).astype(np.float64) - getattr(oracle, name))
        if name == 'variation_ratio':
            error = error[~ties]
        assert error.max(initial=0) <= TOLERANCE, name
    assert not (maps.label != oracle.label)[~ties].any()
    assert maps.label.dtype == np.uint8
    assert all(getattr(maps, name).dtype == np.float32 for name in FLOAT_MAPS)


def near_ties(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels where in a pass, or in the mean, the two best classes are within rounding."""
    z = upsample_bilinear(logits, height, width)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top = np.sort(z, 1)[:, -2:]
    mean = np.sort(p.mean(0), 0)[-2:]
    return ((top[:, 1] - top[:, 0]).min(0) < 1e-4) | (mean[1] - mean[0] < 1e-5)


@hypothesis.given(
    seed=st.integers(0, 10**6), passes=st.integers(1, 40), num_classes=st.integers(2, 9),
    low=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 31), st.integers(1, 37)),
    temperature=st.floats(0.5, 4.0), spread=st.floats(0.0, 4.0),
)
@hypothesis.settings(max_examples=80, deadline=None)
def test_maps_are_those_of_the_oracle_for_any_shape_and_temperature(
    seed: int, passes: int, num_classes: int, low: tuple[int, int], size: tuple[int, int],
    temperature: float, spread: float,
) -> None:
    logits = random_logits(seed, passes, num_classes, *low, spread)
    maps = reduce(logits, *size, temperature)
    oracle = maps_from_logits(logits, *size, temperature)
    assert_as_oracle(maps, oracle, near_ties(logits, *size))


@pytest.mark.parametrize('factor', [1, 2, 3, 4, 8])
def test_whole_factors_take_the_phase_order_and_give_the_oracle(factor: int) -> None:
    logits = random_logits(factor, 6, 5, 6, 40)
    size = 6 * factor, 40 * factor
    assert_as_oracle(reduce(logits, *size), maps_from_logits(logits, *size),
                     near_ties(logits, *size))


def test_255_classes_and_rows_longer_than_a_block() -> None:
    logits = random_logits(1, 40, 255, 2, 90)
    size = 3, 720
    assert_as_oracle(reduce(logits, *size), maps_from_logits(logits, *size),
                     near_ties(logits, *size))


def test_300_passes_are_as_exact_as_20() -> None:
    logits = random_logits(2, 300, 6, 4, 4, 1.5)
    assert_as_oracle(reduce(logits, 16, 16), maps_from_logits(logits, 16, 16),
                     near_ties(logits, 16, 16))


@pytest.mark.parametrize('size', [(33, 64), (33, 50)])  # phases, and neither
def test_same_bits_for_any_number_of_threads_and_any_chunk(size: tuple[int, int]) -> None:
    logits = random_logits(3, 70, 4, 9, 16)
    whole = reduce(logits, *size)
    for threads, chunk in ((2, 0), (5, 0), (64, 1), (1, 1), (1, 3), (1, 7), (3, 32), (2, 33),
                           (1, 69)):
        assert_same_bits(whole, reduce(logits, *size, threads=threads, chunk=chunk))


def test_a_reduction_used_again_remembers_nothing() -> None:
    first, second = random_logits(4, 50, 3, 4, 6), random_logits(5, 40, 3, 4, 6)
    second[:, :, 0] = np.nan
    reduction = Reduction(3, 16, 24, 2)
    results = []
    for logits in (first, second, first):
        reduction.add(logits[:20], 1.0)
        results.append(reduction.finish(logits[20:], 1.0))
    reduction.add(second, 1.0)  # a frame that was given up
    reduction.reset()
    results.append(reduction.finish(first, 1.0))
    assert_same_bits(results[0], results[2])
    assert_same_bits(results[0], results[3])


def test_maps_of_one_frame_survive_the_next() -> None:
    logits = random_logits(6, 3, 3, 4, 6)
    reduction = Reduction(3, 16, 24, 1)
    kept = reduction.finish(logits, 1.0)
    copy = kept.entropy.copy()
    reduction.finish(-logits, 1.0)
    assert (kept.entropy == copy).all()


def test_arrays_that_may_not_be_written_or_are_not_contiguous_are_taken() -> None:
    logits = random_logits(7, 6, 3, 4, 5)
    expected = reduce(logits, 8, 10)
    logits.flags.writeable = False
    assert_same_bits(expected, reduce(logits, 8, 10))
    turned = np.asfortranarray(logits)
    assert_same_bits(expected, reduce(turned, 8, 10))


@pytest.mark.parametrize('passes', [1, 20, 100])
def test_identical_passes_disagree_about_nothing(passes: int) -> None:
    logits = np.repeat(random_logits(8, 1, 6, 5, 7), passes, 0)
    maps = reduce(logits, 20, 28)
    assert maps.mutual_information.max() <= 1e-6
    assert maps.total_variance.max() <= TOLERANCE
    assert not maps.variation_ratio.any()


@pytest.mark.parametrize('num_classes', [2, 3, 6, 40])
def test_c_passes_that_each_vote_for_another_class_give_one(num_classes: int) -> None:
    logits = np.zeros((num_classes, num_classes, 2, 3), np.float32)
    logits[np.arange(num_classes), np.arange(num_classes)] = 200.0
    maps = reduce(logits, 8, 12)
    assert maps.mutual_information == pytest.approx(1, abs=1e-6)
    assert maps.entropy == pytest.approx(1, abs=1e-6)
    assert maps.aleatoric == pytest.approx(0, abs=1e-6)
    assert maps.variation_ratio == pytest.approx(1 - 1 / num_classes, abs=1e-6)
    assert maps.total_variance == pytest.approx(1 - 1 / num_classes, abs=1e-6)
    assert maps.confidence == pytest.approx(1 / num_classes, abs=1e-6)


def test_equal_logits_are_a_tie_for_the_lowest_class() -> None:
    maps = reduce(np.zeros((5, 4, 2, 2), np.float32), 8, 8)
    assert not maps.label.any()
    assert not maps.variation_ratio.any()
    assert maps.entropy == pytest.approx(1, abs=1e-6)
    assert maps.confidence == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize('num_classes', [2, 6, 255])
def test_many_passes_over_many_equal_classes_stay_finite(num_classes: int) -> None:
    maps = reduce(np.zeros((70, num_classes, 2, 2), np.float32), 4, 4)
    assert maps.entropy == pytest.approx(1, abs=2e-6)
    assert maps.aleatoric == pytest.approx(1, abs=2e-6)
    assert maps.mutual_information.max() <= 1e-6


def test_huge_finite_logits_are_certain_and_not_nan() -> None:
    logits = np.zeros((2, 3, 1, 1), np.float32)
    logits[:, 1], logits[:, 2] = 1e38, -1e38
    maps = reduce(logits, 4, 4)
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


@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_logit_makes_every_float_map_nan_where_it_counts(kind: str) -> None:
    for size, num_classes, position in itertools.product(
            ((24, 32), (24, 30)), (2, 5), ((0, 0), (2, 3), (5, 7))):
        for c in range(num_classes):
            logits = random_logits(9, 40, num_classes, 6, 8)
            clean = reduce(logits, *size)
            weight = np.zeros((1, 2, 6, 8), np.float32)
            weight[0, 0][position] = 1
            touched = upsample_bilinear(weight, *size)[0, 0] > 0
            logits[17, c, position[0], position[1]] = BROKEN[kind]
            far = np.isfinite(maps_from_logits(np.where(np.isfinite(logits), logits, np.nan),
                                               *size).entropy)
            maps = reduce(logits, *size)
            for name in FLOAT_MAPS:
                values = getattr(maps, name)
                assert np.isnan(values[touched]).all(), name
                assert (values[far] == getattr(clean, name)[far]).all(), name
            assert not far[touched].any()
            assert far.any()


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    reduction = Reduction(3, 8, 8, 1)
    with pytest.raises(ShapeError, match=r'logits has shape \(2, 4, 3, 3\)'):
        reduction.add(np.zeros((2, 4, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='float64'):
        reduction.add(np.zeros((2, 3, 3, 3)), 1.0)
    with pytest.raises(ShapeError, match='no empty axis'):
        reduction.add(np.zeros((2, 3, 0, 3), np.float32), 1.0)
    reduction.add(np.zeros((2, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='one size for all passes'):
        reduction.add(np.zeros((2, 3, 3, 4), np.float32), 1.0)
    with pytest.raises(ShapeError, match='256 classes'):
        Reduction(256, 8, 8, 1)
    with pytest.raises(ShapeError, match='at most 65535 passes'):
        reduction.finish(np.zeros((65534, 3, 3, 3), np.float32), 1.0)
    with pytest.raises(ShapeError, match='no empty axis'):
        reduction.finish(np.zeros((0, 3, 3, 3), np.float32), 1.0)


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


def run_child(cache: Path, before: str = '') -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', CHILD.format(before=before)], capture_output=True, text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'NUMBA_CACHE_DIR': str(cache)},
    )


@pytest.mark.release
def test_without_a_place_for_its_cache_numba_compiles_in_memory(tmp_path: Path) -> None:
    child = run_child(tmp_path, READ_ONLY)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == '1.0'
    assert 'set NUMBA_CACHE_DIR to a writable folder' in child.stderr
    assert not list(tmp_path.rglob('*.nb?'))


@pytest.mark.release
def test_a_damaged_cache_is_no_reason_not_to_start(tmp_path: Path) -> None:
    assert run_child(tmp_path).returncode == 0
    indexes = list(tmp_path.rglob('*.nbi'))
    assert len(indexes) == 1
    for index in indexes:
        index.write_bytes(index.read_bytes()[:20])
    child = run_child(tmp_path)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == '1.0'


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
    for loaded in (exact.load_kernels, exact.load_kernel, exact.load_squasher):
        loaded.cache_clear()
    made = Reduction(3, 8, 8, 1)
    monkeypatch.setattr(exact, '_load', lambda *_: pytest.fail('a frame compiles'))
    logits = np.zeros((4, 3, 4, 4), np.float32)
    for names in ((), MORE_MAPS, ('energy',)):
        made.reset(MapRequest.of(names, 1.0))
        made.finish(logits, 1.0)


def test_loops_that_are_compiled_for_long_are_said_while_that_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*_: Any) -> Any:
        end_s = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < end_s:
            time.sleep(0.01)

    monkeypatch.setattr(exact, 'NOTICE_S', 0.01)
    monkeypatch.setattr(exact, 'load_kernel', load)
    with caplog.at_level(logging.INFO):
        exact.load_kernels.__wrapped__()
    told, done = caplog.messages
    assert told.startswith('compiling the loops of the reduction exact, which takes up to')
    assert done.startswith('compiled loops of the reduction ready in ')


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
@pytest.mark.parametrize('num_classes', [2, 5])
@pytest.mark.parametrize('passes', [1, 7, 40])
def test_more_maps_are_the_oracles_and_have_the_same_bits_for_any_chunks(
    passes: int, num_classes: int, upsampling: str
) -> None:
    z = (np.random.default_rng(passes).normal(size=(passes, num_classes, 6, 8)) * 6).astype('f4')
    request = MapRequest.of(MORE_MAPS, 3.0)
    oracle = maps_from_logits(z, 24, 32, 1.25, upsampling, request)
    made = [Reduction(num_classes, 24, 32, threads, upsampling) for threads in (1, 3)]
    for reduction in made:
        reduction.reset(request)
    made[1].add(z[:passes - 1], 0.8) if passes > 1 else None
    one, other = made[0].finish(z, 0.8), made[1].finish(z[-1:], 0.8)
    assert_same_bits(one, other)
    for name in MORE_MAPS:
        np.testing.assert_allclose(getattr(one, name), getattr(oracle, name), atol=TOLERANCE)
    assert not set(MORE_MAPS) & set(made[0].finish(z, 0.8).present)  # for one frame only
    z[0, 1, 2, 3] = np.nan
    made[0].reset(request)
    broken = made[0].finish(z, 0.8)
    where = np.isnan(upsample_bilinear(z, 24, 32, upsampling)).any((0, 1))
    assert 0 < where.sum() < where.size
    for name in MORE_MAPS:  # those of the means wherever the entropy is, which may be more
        expected = where if name in MAPS_OF_LOGITS else np.isnan(broken.entropy)
        np.testing.assert_array_equal(np.isnan(getattr(broken, name)), expected)
        assert expected[where].all()
    for reduction in made:
        reduction.close()
