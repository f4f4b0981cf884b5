# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What compile says of dropout that may drop nothing is right, and is said only then."""

from itertools import product
import math

from conftest import tiny_card
from hypothesis import given, settings, strategies
import numpy as np
import pytest

from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.tools.compile.request import chance_of_equal_passes, warn_of_rare_dropout

PATH = DropoutSite('mask_path', (1, 1, 1), 0.02)
CHANNELS = DropoutSite('mask_head', (4, 1, 1), 0.5)
ENSEMBLE = tiny_card(method='deep_ensemble', members=3, passes=3, dropout_sites=(
    DropoutSite('member', (3,), 0.02),))


def card(*sites: DropoutSite, passes: int = 20, is_balanced: bool = False) -> ModelCard:
    return tiny_card(dropout_sites=sites, passes=passes, is_balanced=is_balanced)


def by_counting(values: int, p: float, passes: int) -> float:
    """Add up the chances of every outcome whose passes are the same."""
    total = 0.0
    for outcome in product((0, 1), repeat=values * passes):
        rows = np.array(outcome).reshape(passes, values)
        if (rows == rows[:1]).all():
            total += math.prod(p if dropped else 1 - p for dropped in outcome)
    return total


@pytest.mark.parametrize(('values', 'passes'), [(1, 2), (1, 5), (2, 3), (3, 4), (4, 1)])
@pytest.mark.parametrize('p', [0.02, 0.3, 0.5, 0.9])
def test_the_chance_is_that_of_counting_every_outcome(
    values: int, passes: int, p: float
) -> None:
    site = DropoutSite('mask', (values, 1, 1), p)
    found = chance_of_equal_passes([site], passes, False)
    assert found == pytest.approx(by_counting(values, p, passes), rel=1e-9)


@pytest.mark.parametrize(('sites', 'passes', 'is_balanced'), [
    ((PATH,), 20, False), ((PATH, DropoutSite('other', (2,), 0.01)), 20, False),
    ((CHANNELS,), 2, False), ((CHANNELS,), 2, True), ((CHANNELS, PATH), 2, True),
])
def test_masks_are_as_often_equal_as_it_says(
    sites: tuple[DropoutSite, ...], passes: int, is_balanced: bool
) -> None:
    draws = 3000
    equal = sum(all((rows == rows[:1]).all() for rows in masks.values())
                for masks in (make_masks(sites, passes, seed, is_balanced)
                              for seed in range(draws)))
    chance = chance_of_equal_passes(sites, passes, is_balanced)
    assert abs(equal / draws - chance) < 4 * math.sqrt(chance * (1 - chance) / draws)


@settings(max_examples=60, deadline=None)
@given(p=strategies.floats(1e-6, 1 - 1e-6), channels=strategies.integers(1, 2000),
       passes=strategies.integers(1, 1000), is_balanced=strategies.booleans())
def test_more_passes_never_make_it_likelier(
    p: float, channels: int, passes: int, is_balanced: bool
) -> None:
    site = DropoutSite('mask', (channels, 1, 1), p)
    now, more = (chance_of_equal_passes([site], t, is_balanced) for t in (passes, passes + 1))
    assert 0 <= more <= now * (1 + 1e-9) <= 1 + 1e-6
    assert chance_of_equal_passes([site], 1, is_balanced) == pytest.approx(1)


@pytest.mark.parametrize('quiet', [
    card(PATH, passes=1), card(PATH, passes=228), card(CHANNELS), card(PATH, CHANNELS),
    card(CHANNELS, is_balanced=True), ENSEMBLE,
])
def test_nothing_is_said_where_the_passes_differ_or_are_not_drawn(
    quiet: ModelCard, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_rare_dropout(quiet)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(('loud', 'words'), [
    (card(PATH, passes=227), 'all 227 passes come out the same with a chance of 1%, so'),
    (card(PATH, passes=227), '--passes 228 makes'),
    (card(PATH), 'chance of 67%, so rarely is anything dropped (mask values: 1, highest rate: '
     '0.02), and such passes show no uncertainty: --passes 228 makes it less than 1%.'),
    (card(DropoutSite('mask_path', (1, 1, 1), 1e-4)),
     'uncertainty: train it with a higher rate, or --inject-dropout.'),
    (card(CHANNELS, passes=2, is_balanced=True), 'chance of 17%'),
])
def test_the_warning_gives_the_chance_and_what_helps(
    loud: ModelCard, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_rare_dropout(loud)
    out, err = capsys.readouterr()
    assert not out and err.startswith('WARNING: all ') and err.count('\n') == 1
    assert words in err


def test_the_passes_that_are_asked_for_are_the_least_that_do() -> None:
    assert chance_of_equal_passes([PATH], 228, False) <= 0.01
    assert chance_of_equal_passes([PATH], 227, False) > 0.01
    # Too small for a float.
    assert chance_of_equal_passes([CHANNELS], 5000, False) == 0
