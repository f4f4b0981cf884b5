# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Masks drawn in torch are numpy's, bit for bit; maps made from sums are the definition's."""

import itertools
import zlib

from conftest import tiny_card
from host_memory import HostMemory
import numpy as np
import pytest

from uncertainty_seg.backends.gpu.device_passes import (
    DeviceReduction,
    draw,
    MaskBank,
    random_words,
    SeededMasks,
    split_passes,
)
from uncertainty_seg.core.dropout_masks import make_masks, pass_inputs
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    maps_from_probabilities,
    MAPS_OF_MEANS,
    MORE_MAPS,
    UncertaintyMaps,
)

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch
SITES = (
    DropoutSite('drop', (3, 1, 1), 0.25), DropoutSite('decoder.drop_2', (64, 1, 1), 0.5),
    DropoutSite('elements', (5, 7, 9), 0.1), DropoutSite('tokens', (2, 33, 33), 0.9),
    DropoutSite('one', (1, 1, 1), 0.5), DropoutSite('rare', (257, 1), 1e-9),
)
HEIGHT, WIDTH = 24, 31


def drawn(site: DropoutSite, seed: int, first: int, stop: int, balanced: bool) -> np.ndarray:
    out = torch.full((stop - first, *site.shape), torch.nan)
    draw(site, seed, first, stop, balanced, out)
    return out.numpy()


@pytest.mark.parametrize('site', SITES, ids=lambda site: site.name)
def test_masks_are_those_of_numpy(site: DropoutSite) -> None:
    for seed, balanced in itertools.product((0, 1, 2**31 - 1, 2**62 + 12345, 2**64 + 7),
                                            (False, True)):
        expected = make_masks([site], 21, seed, balanced)[site.name]
        np.testing.assert_array_equal(drawn(site, seed, 0, 21, balanced), expected, str(seed))


@pytest.mark.parametrize('site', SITES, ids=lambda site: site.name)
def test_a_pass_has_its_masks_in_whatever_chunk_it_comes(site: DropoutSite) -> None:
    for balanced in (False, True):
        expected = make_masks([site], 50, 3, balanced)[site.name]
        for first, stop in ((0, 17), (17, 34), (34, 50), (49, 50)):
            np.testing.assert_array_equal(drawn(site, 3, first, stop, balanced),
                                          expected[first:stop])


def test_masks_larger_than_a_block_are_those_of_numpy() -> None:
    site = DropoutSite('large', (16, 96, 130), 0.3)
    expected = make_masks([site], 3, 5)[site.name]
    np.testing.assert_array_equal(drawn(site, 5, 0, 3, False), expected)
    np.testing.assert_array_equal(drawn(site, 5, 1, 3, False), expected[1:])


def test_words_use_all_64_bits_as_numpy_does() -> None:
    words = random_words(9, 'x', 0, 4096, torch.device('cpu')).numpy().view(np.uint64)
    expected = np.random.Philox(key=[9, zlib.crc32(b'x')]).random_raw(4096)
    np.testing.assert_array_equal(words, expected)
    assert (expected >= 2**63).any()


def test_seeded_masks_are_the_masks_of_their_seed_when_looked_at() -> None:
    for card in (tiny_card(), tiny_card(is_balanced=True),
                 tiny_card(method='single', passes=1, dropout_sites=()),
                 tiny_card(method='direct', dropout_sites=(
                     *tiny_card().dropout_sites,
                     DropoutSite('noise', (20, 3, 1, 1), 0.0, 'noise'))),
                 tiny_card(method='deep_ensemble', members=4, passes=4,
                           dropout_sites=(DropoutSite('member', (4,), 0.5),))):
        passes = card.passes
        lazy, expected = SeededMasks(card, passes, 11), pass_inputs(card, passes, 11)
        assert list(lazy) == list(expected)
        assert len(lazy) == len(expected)
        for name, mask in expected.items():
            np.testing.assert_array_equal(lazy[name], mask)


def test_a_bank_on_the_device_has_the_stratified_masks_of_the_host() -> None:
    card = tiny_card(mask_draw='stratified', dropout_sites=(
        DropoutSite('drop', (8, 1, 1), 0.3), DropoutSite('elements', (3, 4, 5), 0.4)))
    parts, memory = split_passes(10, 4, 4), HostMemory()
    bank = MaskBank(card, parts, memory)
    bank.load(SeededMasks(card, 10, 11))
    expected = pass_inputs(card, 10, 11)
    assert ((expected['drop'] == 0).sum(0) == 3).all()
    for part, buffers in zip(parts, bank.buffers, strict=True):
        given = part.stop - part.first
        for name, rows in expected.items():
            drawn = buffers[name].numpy()
            np.testing.assert_array_equal(drawn[:given], rows[part.first:part.stop])
            np.testing.assert_array_equal(drawn[given:], drawn[given - 1:given].repeat(
                part.size - given, 0))


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
    for name in ours.present:
        a, b = getattr(ours, name), getattr(expected, name)
        assert a.dtype == b.dtype
        if name == 'label':
            # Sums in float32 can tie where those in float64 do not.
            mean = p.astype(np.float64).mean(0)
            chosen = np.take_along_axis(mean, a[None].astype(np.intp), 0)[0]
            np.testing.assert_allclose(chosen, mean.max(0), rtol=0, atol=1e-6)
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(('passes', 'classes'), [(1, 2), (2, 3), (20, 6), (50, 19), (20, 150)])
def test_maps_are_those_of_the_definition(passes: int, classes: int) -> None:
    for spread in (0.0, 0.1, 1.0, 4.0, 30.0):
        p = probabilities(passes, classes, spread)
        assert_defined(maps(p), p)


def test_chunks_of_any_size_give_the_same() -> None:
    p = probabilities(20, 6, 2.0)
    for chunk in (1, 3, 7, 20):
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
    for name in ours.present:
        if name != 'label':
            values = getattr(ours, name)
            assert np.isnan(values[5, 6]), name
            assert np.isnan(values).sum() == 1, name


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


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
@pytest.mark.parametrize('chunk', [2, 5])
def test_maps_on_request_are_the_oracles(chunk: int, upsampling: str) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (5, 4, HEIGHT, WIDTH))
    low = np.random.default_rng(1).normal(0, 4, (5, 4, 3, 4)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    request = MapRequest.of(MORE_MAPS, 3.0)
    ours = DeviceReduction(4, HEIGHT, WIDTH, HostMemory(), (4, 3, 4), upsampling)
    ours.reset()
    for first in range(0, 5, chunk):
        part = low[first:first + chunk]
        given = {**sums(p[first:first + chunk]), 'sum_logits': torch.from_numpy(part.sum(0))}
        ours.add(given, len(part))
    ours.enqueue_finish(request)
    got = ours.maps()
    of_means = maps_from_probabilities(p, request)
    of_logits = maps_from_logits(low, HEIGHT, WIDTH, 1.0, upsampling, request)
    for name in MORE_MAPS:
        expected = getattr(of_means if name in MAPS_OF_MEANS else of_logits, name)
        np.testing.assert_allclose(getattr(got, name), expected, atol=2e-6, err_msg=name)
    assert got.present[-4:] == MORE_MAPS
    ours.enqueue_finish()
    assert not set(MORE_MAPS) & set(ours.maps().present)


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
def test_maps_of_coarse_sums_are_the_oracles(upsampling: str) -> None:
    low = np.random.default_rng(2).normal(0, 4, (6, 4, 3, 4)).astype(np.float32)
    p = np.exp(low) / np.exp(low).sum(1, keepdims=True)
    request = MapRequest.of(MORE_MAPS, 3.0)
    ours = DeviceReduction(4, HEIGHT, WIDTH, HostMemory(), (4, 3, 4), upsampling, (3, 4))
    ours.reset()
    ours.add({**sums(p), 'sum_logits': torch.from_numpy(low.sum(0))}, 6)
    ours.enqueue_finish(request)
    got = ours.maps()
    oracle = maps_from_coarse_logits(low, HEIGHT, WIDTH, 1.0, upsampling, request)
    assert (got.label == oracle.label).all()
    for name in (*got.present[1:], *MORE_MAPS):
        np.testing.assert_allclose(getattr(got, name), getattr(oracle, name), atol=4e-6,
                                   err_msg=name)
    p[3, 1, 1, 2] = np.nan
    ours.reset()
    ours.add({**sums(p), 'sum_logits': torch.from_numpy(low.sum(0))}, 6)
    broken = finished(ours)
    for name in broken.present[1:]:
        assert 0 < np.isnan(getattr(broken, name)).sum() < broken.label.size, name
