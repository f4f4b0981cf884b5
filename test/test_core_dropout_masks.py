# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Masks as data: repeatable, scaled, and independent of how many there are."""

import hashlib

import numpy as np
import pytest

from uncertainty_seg.core.dropout_masks import frame_seed, make_masks, ones_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import ConfigError

SITES = (DropoutSite('a', (64, 1, 1), 0.5), DropoutSite('b', (3, 8, 8), 0.2))


def test_the_same_seed_gives_the_same_masks_and_another_does_not() -> None:
    one, same, other = (make_masks(SITES, 6, seed) for seed in (3, 3, 4))
    for name in ('a', 'b'):
        np.testing.assert_array_equal(one[name], same[name])
        assert (one[name] != other[name]).any()


def test_the_masks_of_a_seed_never_change() -> None:
    digest = hashlib.sha256(make_masks(SITES, 4, 7)['b'].tobytes()).hexdigest()
    assert digest.startswith('968f4f3e659def2a')


def test_passes_differ_from_one_another() -> None:
    masks = make_masks(SITES, 5, 0)['a'].reshape(5, -1)
    assert len({row.tobytes() for row in masks}) == 5


def test_the_first_passes_do_not_depend_on_t() -> None:
    few, many = make_masks(SITES, 3, 1), make_masks(SITES, 50, 1)
    for name in ('a', 'b'):
        np.testing.assert_array_equal(few[name], many[name][:3])


def test_a_site_keeps_its_masks_when_another_is_added() -> None:
    np.testing.assert_array_equal(make_masks(SITES[:1], 4, 1)['a'], make_masks(SITES, 4, 1)['a'])


def test_values_are_zero_or_the_inverse_of_the_kept_share() -> None:
    masks = make_masks(SITES, 400, 0)
    for site in SITES:
        values = masks[site.name]
        assert set(np.unique(values)) == {np.float32(0), np.float32(1 / (1 - site.p))}
        assert (values == 0).mean() == pytest.approx(site.p, abs=0.01)
        assert values.mean() == pytest.approx(1, abs=0.02)


def test_ones_masks_switch_dropout_off() -> None:
    assert all((m == 1).all() and m.shape[0] == 2 for m in ones_masks(SITES, 2).values())


def test_a_frame_seed_depends_on_seed_and_stamp() -> None:
    assert frame_seed(1, 5) == frame_seed(1, 5)
    assert len({frame_seed(1, 5), frame_seed(2, 5), frame_seed(1, 6)}) == 3


@pytest.mark.parametrize('passes, seed, words', [(0, 0, 'passes is 0'), (2, -1, 'seed is -1')])
def test_no_passes_or_a_negative_seed_is_refused(passes: int, seed: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_masks(SITES, passes, seed)
