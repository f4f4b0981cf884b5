# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Maps made from sums over passes are those that `core.uncertainty` defines on the passes."""

import dataclasses

from host_memory import HostMemory
import numpy as np
import pytest

from uncertainty_seg.backends.gpu.device_passes import DeviceReduction
from uncertainty_seg.core.uncertainty import maps_from_probabilities, UncertaintyMaps

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 24, 31


def probabilities(passes: int, classes: int, spread: float, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (passes, classes, HEIGHT, WIDTH))
    p = np.exp(logits - logits.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def sums(p: np.ndarray) -> dict[str, torch.Tensor]:
    """Reckon what the graph gives, in float64 until the end."""
    q = p.astype(np.float64)
    logs = np.log(np.where(q == 0, 1, q))
    votes = (q.argmax(1)[:, None] == np.arange(q.shape[1])[:, None, None]).sum(0)
    values = {'sum_p': q.sum(0), 'sum_entropy': -(q * logs).sum((0, 1)),
              'sum_p2': (q * q).sum((0, 1)), 'votes': votes}
    return {name: torch.from_numpy(v.astype(np.float32)) for name, v in values.items()}


def reduction(classes: int) -> DeviceReduction:
    return DeviceReduction(classes, HEIGHT, WIDTH, HostMemory())


def finished(ours: DeviceReduction) -> UncertaintyMaps:
    ours.enqueue_finish()
    return ours.maps()


def maps(p: np.ndarray, chunk: int = 0) -> UncertaintyMaps:
    ours = reduction(p.shape[1])
    ours.reset()
    chunk = chunk or len(p)
    for first in range(0, len(p), chunk):
        part = p[first:first + chunk]
        ours.add(sums(part), len(part))
    return finished(ours)


def assert_defined(ours: UncertaintyMaps, p: np.ndarray) -> None:
    expected = maps_from_probabilities(p)
    for field in dataclasses.fields(UncertaintyMaps):
        a, b = getattr(ours, field.name), getattr(expected, field.name)
        assert a.dtype == b.dtype
        if field.name == 'label':
            # Sums in float32 can tie where those in float64 do not.
            mean = p.astype(np.float64).mean(0)
            chosen = np.take_along_axis(mean, a[None].astype(np.intp), 0)[0]
            np.testing.assert_allclose(chosen, mean.max(0), rtol=0, atol=1e-6)
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=field.name)


@pytest.mark.parametrize('spread', [0.0, 0.1, 1.0, 4.0, 30.0])
@pytest.mark.parametrize(('passes', 'classes'), [(1, 2), (2, 3), (20, 6), (50, 19), (20, 150)])
def test_maps_are_those_of_the_definition(passes: int, classes: int, spread: float) -> None:
    p = probabilities(passes, classes, spread)
    assert_defined(maps(p), p)


@pytest.mark.parametrize('chunk', [1, 3, 7, 20])
def test_chunks_of_any_size_give_the_same(chunk: int) -> None:
    p = probabilities(20, 6, 2.0)
    assert_defined(maps(p, chunk), p)


def test_passes_that_were_only_padding_are_taken_away() -> None:
    p = probabilities(3, 4, 3.0)
    ours = reduction(4)
    ours.reset()
    padded = np.concatenate([p, np.repeat(p[-1:], 17, 0)])
    ours.add(sums(padded), 20)
    ours.add(sums(np.repeat(p[-1:], 20, 0)), -17, -17 / 20)
    expected, got = maps_from_probabilities(p), finished(ours)
    np.testing.assert_allclose(got.variation_ratio, expected.variation_ratio, atol=1e-6)
    for name in ('entropy', 'mutual_information', 'total_variance', 'aleatoric'):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-5)


def test_a_class_that_padding_leaves_below_zero_makes_no_nan() -> None:
    ours = reduction(2)
    ours.reset()
    p = np.zeros((1, 2, HEIGHT, WIDTH), np.float32)
    p[:, 0] = 1
    broken = sums(p)
    broken['sum_p'][1] = -1e-9
    ours.add(broken, 1)
    assert not finished(ours).entropy.any()


@pytest.mark.parametrize('chunk', [1, 4])
def test_nan_in_one_pass_is_nan_in_every_map_there_and_nowhere_else(chunk: int) -> None:
    p = probabilities(4, 3, 1.0)
    p[2, :, 5, 6] = np.nan
    ours = maps(p, chunk)
    for field in dataclasses.fields(UncertaintyMaps):
        if field.name != 'label':
            values = getattr(ours, field.name)
            assert np.isnan(values[5, 6]), field.name
            assert np.isnan(values).sum() == 1, field.name


def test_nan_of_one_frame_is_not_in_the_next() -> None:
    p = probabilities(4, 3, 1.0)
    ours = reduction(3)
    for values in (np.full_like(p, np.nan), p):
        ours.reset()
        ours.add(sums(values), 4)
        result = finished(ours)
    assert_defined(result, p)


def test_maps_given_out_are_not_written_to_later() -> None:
    p = probabilities(4, 3, 1.0)
    ours = reduction(3)
    ours.add(sums(p), 4)
    first = finished(ours)
    kept = first.entropy.copy()
    ours.reset()
    ours.add(sums(probabilities(4, 3, 1.0, seed=1)), 4)
    finished(ours)
    np.testing.assert_array_equal(first.entropy, kept)


def test_equal_passes_have_no_mutual_information_below_zero() -> None:
    p = np.repeat(probabilities(1, 19, 3.0), 20, 0)
    ours = maps(p)
    assert ours.mutual_information.min() >= 0
    assert ours.mutual_information.max() < 1e-6
    assert ours.total_variance.min() >= 0


def test_the_lowest_of_equal_classes_is_the_label() -> None:
    p = np.full((3, 4, HEIGHT, WIDTH), 0.25, np.float32)
    assert not maps(p).label.any()
