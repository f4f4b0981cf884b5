# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Dropout masks: repeatable, scaled, and independent of the number of passes."""

import dataclasses
import hashlib
from statistics import NormalDist

from conftest import tiny_card
import numpy as np
import pytest

from uncertainty_seg.core.dropout_masks import (
    fitting_draw,
    has_free_seed,
    lazy_inputs,
    LazyRows,
    make_masks,
    MEMBER,
    pass_inputs,
    still_inputs,
)
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.errors import ConfigError

SITES = (DropoutSite('a', (64, 1, 1), 0.5), DropoutSite('b', (3, 8, 8), 0.2))
LARGE = DropoutSite('c', (3, 150, 201), 0.3)  # more random words than one chunk draws
ENSEMBLE = tiny_card(method='deep_ensemble', members=3, passes=3,
                     dropout_sites=(DropoutSite(MEMBER, (3,), 1 - 1 / 3),))
NOISE = DropoutSite('noise', (20, 3, 1, 1), 0.0, 'noise')
DRAWN = (*SITES, NOISE)
SINGLE = tiny_card(method='single', passes=1, dropout_sites=())
DIRECT = tiny_card(method='direct', passes=1, dropout_sites=(NOISE,))
BOTH = tiny_card(method='direct', dropout_sites=DRAWN)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    one, same, other = (make_masks(DRAWN, 6, seed) for seed in (3, 3, 4))
    for name in ('a', 'b', 'noise'):
        np.testing.assert_array_equal(one[name], same[name])
        assert (one[name] != other[name]).any()


@pytest.mark.parametrize('name, digest', [
    ('b', '968f4f3e659def2a'), ('noise', '45f87132141efd1b'),
])
def test_the_numbers_of_a_seed_never_change(name: str, digest: str) -> None:
    drawn = hashlib.sha256(make_masks(DRAWN, 4, 7)[name].tobytes()).hexdigest()
    assert drawn.startswith(digest)
    stratified = hashlib.sha256(np.packbits(dropped(20, 7)).tobytes()).hexdigest()
    assert stratified.startswith('96ea12963e684312')


def test_noise_is_standard_normal_in_every_moment_and_share() -> None:
    drawn = make_masks([NOISE], 20_000, 0)['noise'].ravel().astype(np.float64)
    # 1.2 million numbers: tolerances of at most five standard errors of each moment and share.
    assert drawn.mean() == pytest.approx(0, abs=0.005)
    assert drawn.var() == pytest.approx(1, abs=0.007)
    assert (drawn**3).mean() == pytest.approx(0, abs=0.02)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.05)
    for value in np.linspace(-4, 4, 33):
        assert (drawn < value).mean() == pytest.approx(NormalDist().cdf(value), abs=0.0025)


@pytest.mark.parametrize('cut', [[0, 1, 2, 3, 40], [0, 7, 40], [0, 40], [13, 13, 14, 33]])
def test_masks_drawn_in_any_chunks_of_passes_are_those_of_one_draw(cut: list[int]) -> None:
    # 90 450 words per pass, not a multiple of the four per counter: a pass starts within one.
    whole, rows = make_masks([LARGE], 40, 5)['c'], LazyRows(LARGE, 40, 5)
    assert (len(rows), rows.shape, rows.dtype) == (40, whole.shape, whole.dtype)
    for first, stop in zip(cut, cut[1:], strict=False):
        np.testing.assert_array_equal(rows[first:stop], whole[first:stop])
    np.testing.assert_array_equal(rows[38:60], whole[38:])
    with pytest.raises(ValueError, match='2'):
        rows[::2]


@pytest.mark.parametrize('card', [
    tiny_card(dropout_sites=(*SITES, LARGE)),
    tiny_card(method='direct', dropout_sites=(*SITES, LARGE, NOISE)),
], ids=['dropout', 'direct'])
def test_only_large_masks_of_elements_are_drawn_when_read(card: ModelCard) -> None:
    lazy, drawn = lazy_inputs(card, 40, 5), pass_inputs(card, 40, 5)
    assert {name for name, rows in lazy.items() if isinstance(rows, LazyRows)} == {'c'}
    assert set(lazy) == set(drawn)
    for name, rows in drawn.items():
        assert isinstance(rows, np.ndarray)
        np.testing.assert_array_equal(lazy[name][:], rows)


def test_the_first_passes_depend_neither_on_t_nor_on_the_other_sites() -> None:
    few, alone = make_masks(DRAWN, 3, 1), make_masks(SITES[:1], 50, 1)
    np.testing.assert_array_equal(few['a'], alone['a'][:3])


def test_values_are_zero_or_the_inverse_of_the_kept_share() -> None:
    masks = make_masks(SITES, 400, 0)
    for site in SITES:
        values = masks[site.name]
        assert set(np.unique(values)) == {np.float32(0), np.float32(1 / (1 - site.p))}
        assert (values == 0).mean() == pytest.approx(site.p, abs=0.01)
        assert values.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize('passes, seed, words', [(0, 0, 'passes is 0'), (2, -1, 'seed is -1')])
def test_no_passes_or_a_negative_seed_is_refused(passes: int, seed: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_masks(SITES, passes, seed)


@pytest.mark.parametrize('card, passes', [
    (ENSEMBLE, 1), (ENSEMBLE, 2), (ENSEMBLE, 4), (SINGLE, 2), (DIRECT, 2)])
def test_an_ensemble_runs_with_all_its_members_and_without_dropout_one_pass_does(
    card: ModelCard, passes: int
) -> None:
    with pytest.raises(ConfigError, match=f'passes is {passes}'):
        pass_inputs(card, passes, 0)


@pytest.mark.parametrize('card, still', [
    (tiny_card(dropout_sites=SITES), 'ones'),
    (ENSEMBLE, 'first'),
    (SINGLE, 'ones'), (DIRECT, 'ones'), (BOTH, 'ones'),
], ids=['dropout', 'ensemble', 'single', 'direct', 'both'])
def test_still_inputs_are_one_and_the_same_pass(card: ModelCard, still: str) -> None:
    inputs = still_inputs(card, 2)
    moving = pass_inputs(card, card.members or card.passes, 0)
    assert set(inputs) == set(moving)
    for site in card.dropout_sites:
        rows = inputs[site.name]
        assert rows.shape == (2, *site.shape)
        assert rows.dtype == np.float32
        wanted = np.zeros(site.shape) if site is NOISE else \
            np.ones(site.shape) if still == 'ones' else moving[site.name][0]
        np.testing.assert_array_equal(rows, np.stack([wanted, wanted]))


@pytest.mark.parametrize('samples', [1, 7, 20])
def test_the_samples_of_direct_are_pairs_and_the_same_in_every_pass(samples: int) -> None:
    site = DropoutSite('noise', (samples, 3, 1, 1), 0.0, 'noise')
    card = dataclasses.replace(BOTH, dropout_sites=(*SITES, site))
    inputs, few = pass_inputs(card, 8, 5), pass_inputs(card, 3, 5)
    rows = inputs['noise']
    assert rows.shape == (8, *site.shape) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.repeat(rows[:1], 8, 0))
    half = samples // 2
    np.testing.assert_array_equal(rows[:, samples - half:], -rows[:, :half])
    assert len(np.unique(abs(rows[0]))) == 3 * (samples - half)
    assert (rows != pass_inputs(card, 8, 6)['noise']).all()
    for name in ('a', 'b', 'noise'):
        np.testing.assert_array_equal(few[name], inputs[name][:3])


STRATIFIED = DropoutSite('s', (48, 1, 1), 0.3)


def dropped(passes: int, seed: int, site: DropoutSite = STRATIFIED) -> np.ndarray:
    """Return (T, C), True for channels that a stratified mask drops."""
    return make_masks([site], passes, seed, mask_draw='stratified')[site.name].reshape(
        passes, -1) == 0


@pytest.mark.parametrize('p, passes, counts', [
    (0.3, 20, {6}), (0.5, 20, {10}), (0.5, 21, {10, 11}), (0.1, 4, {0, 1}), (0.9, 4, {3, 4}),
    (0.3, 1, {0, 1}),
])
def test_stratified_masks_drop_every_channel_equally_often(
    p: float, passes: int, counts: set[int]
) -> None:
    site = DropoutSite('s', (48, 1, 1), p)
    masks = make_masks([site], passes, 3, mask_draw='stratified')['s']
    assert masks.shape == (passes, 48, 1, 1) and masks.dtype == np.float32
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / (1 - p))}
    assert set((masks == 0).sum((0, 2, 3))) == counts


def test_stratified_masks_have_the_rate_of_the_site_in_every_pass_of_any_channel() -> None:
    # 2.1 of 7 passes: two, or at random three. 3000 seeds: a standard error of 0.0084.
    found = np.mean([dropped(7, seed) for seed in range(3000)], axis=0)
    np.testing.assert_allclose(found, 0.3, atol=5 * 0.0084)
    assert found.mean() == pytest.approx(0.3, abs=5 * 0.0084 / 48**0.5)


def test_stratified_masks_of_two_channels_or_two_sites_are_independent() -> None:
    twin = DropoutSite('t', (48, 1, 1), 0.3)
    # 1000 seeds of 20 passes: different channels are uncorrelated, within a site and between two.
    rows = np.concatenate([np.hstack([dropped(20, seed), dropped(20, seed, twin)])
                           for seed in range(1000)]).astype(float)
    seen = np.corrcoef(rows.T) - np.eye(96)
    assert abs(seen).max() < 5 / np.sqrt(len(rows))
    assert seen.std() == pytest.approx(1 / np.sqrt(len(rows)), rel=0.1)


def test_a_card_says_how_its_masks_are_drawn() -> None:
    card = tiny_card(dropout_sites=(*SITES, STRATIFIED), mask_draw='stratified')
    inputs = pass_inputs(card, 20, 4)
    assert ((inputs['s'] == 0).sum(0) == 6).all() and ((inputs['a'] == 0).sum(0) == 10).all()
    np.testing.assert_array_equal(inputs['b'], make_masks(SITES, 20, 4)['b'])


def test_new_cards_stratify_where_it_makes_a_difference() -> None:
    assert fitting_draw((STRATIFIED, SITES[1])) == 'stratified'
    for sites in ((SITES[1], NOISE), ENSEMBLE.dropout_sites):
        assert fitting_draw(sites) == 'independent'


def test_another_seed_is_other_masks_unless_only_members_differ() -> None:
    assert [has_free_seed(card) for card in (BOTH, DIRECT, ENSEMBLE, SINGLE)] == [
        True, True, False, False]
