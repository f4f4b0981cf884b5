# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The masks drawn in torch's integers are numpy's, bit for bit."""

import zlib

from conftest import tiny_card
import numpy as np
import pytest

from uncertainty_seg.backends.gpu.device_passes import draw, random_words, SeededMasks
from uncertainty_seg.core.dropout_masks import make_masks, pass_inputs
from uncertainty_seg.core.model_card import DropoutSite

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch
SITES = (
    DropoutSite('drop', (3, 1, 1), 0.25), DropoutSite('decoder.drop_2', (64, 1, 1), 0.5),
    DropoutSite('elements', (5, 7, 9), 0.1), DropoutSite('tokens', (2, 33, 33), 0.9),
    DropoutSite('one', (1, 1, 1), 0.5), DropoutSite('rare', (257, 1), 1e-9),
)


def drawn(site: DropoutSite, seed: int, first: int, stop: int, balanced: bool) -> np.ndarray:
    out = torch.full((stop - first, *site.shape), torch.nan)
    draw(site, seed, first, stop, balanced, out)
    return out.numpy()


@pytest.mark.parametrize('seed', [0, 1, 2**31 - 1, 2**62 + 12345, 2**64 + 7])
@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('site', SITES, ids=lambda site: site.name)
def test_masks_are_those_of_numpy(site: DropoutSite, balanced: bool, seed: int) -> None:
    expected = make_masks([site], 21, seed, balanced)[site.name]
    np.testing.assert_array_equal(drawn(site, seed, 0, 21, balanced), expected)


@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('site', SITES, ids=lambda site: site.name)
def test_a_pass_has_its_masks_in_whatever_chunk_it_comes(
    site: DropoutSite, balanced: bool
) -> None:
    expected = make_masks([site], 50, 3, balanced)[site.name]
    for first, stop in ((0, 17), (17, 34), (34, 50), (49, 50)):
        np.testing.assert_array_equal(drawn(site, 3, first, stop, balanced), expected[first:stop])


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
                 tiny_card(method='deep_ensemble', members=4, passes=4,
                           dropout_sites=(DropoutSite('member', (4,), 0.5),))):
        passes = card.passes
        lazy, expected = SeededMasks(card, passes, 11), pass_inputs(card, passes, 11)
        assert list(lazy) == list(expected)
        assert len(lazy) == len(expected)
        for name, mask in expected.items():
            np.testing.assert_array_equal(lazy[name], mask)
