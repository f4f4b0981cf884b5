# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The promise: by hand, by a slow search, and kept on average over thousands of new blocks."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.analysis.conformal import blocks_needed, mean_block_share, promised_limit
from uncertainty_seg.errors import CalibrationError, ConfigError, ShapeError


@pytest.mark.parametrize(('alpha', 'needed'), [
    (0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.03, 33), (0.001, 999), (0.07, 14), (0.9, 1)])
def test_blocks_needed(alpha: float, needed: int) -> None:
    assert blocks_needed(alpha) == needed
    assert 1 / (needed + 1) <= alpha + 1e-12
    assert 1 / needed > alpha


def test_the_share_is_the_mean_over_blocks_of_any_size() -> None:
    chosen = [True, False, False, False, True]
    assert mean_block_share(chosen, ['a', 'a', 'a', 'a', 'b']) == pytest.approx((1 / 4 + 1) / 2)


def test_the_limit_by_hand() -> None:
    # 9 blocks of one frame, the three largest bad: (lost + 1) / 10 <= 0.2 lets one bad one in.
    ratios = np.arange(1, 10) / 10
    got = promised_limit(ratios, ratios > 0.65, np.arange(9), 0.2)
    assert (got.limit, got.alpha, got.num_blocks, got.note) == (0.7, 0.2, 9, '')
    assert got.bound == pytest.approx(0.2)
    assert got.accepted_share == pytest.approx(7 / 9)
    assert got.accepted_and_bad_share == pytest.approx(1 / 9)
    assert promised_limit(ratios, ratios > 0.65, np.arange(9), 0.199).limit == 0.6


def test_a_block_of_many_frames_loses_their_share() -> None:
    # Block 0 has four frames, two of them bad: accepting one of those costs 1/4 of a block.
    ratios = [0.1, 0.2, 0.3, 0.4, *np.full(8, 0.15)]
    bad = [False, True, False, True, *np.full(8, False)]
    blocks = [0, 0, 0, 0, *range(1, 9)]
    assert promised_limit(ratios, bad, blocks, 0.1).limit == 0.15
    assert promised_limit(ratios, bad, blocks, 0.125).limit == 0.3
    assert promised_limit(ratios, bad, blocks, 0.15).limit == 0.4


def test_equal_ratios_are_accepted_or_refused_together() -> None:
    ratios = [*np.full(5, 0.3), *np.full(4, 0.5), 0.5]
    bad = [*np.full(9, False), True]
    assert promised_limit(ratios, bad, np.arange(10), 0.1).limit == 0.3


@pytest.mark.parametrize('broken', [[np.nan], [np.inf], [np.nan, np.inf], [np.nan, np.nan]])
@pytest.mark.parametrize('is_bad', [True, False])
def test_scores_that_are_no_numbers_are_never_accepted(broken: list[float], is_bad: bool) -> None:
    ratios = [*broken, *np.linspace(0.1, 0.9, 9)]
    n = len(ratios)
    got = promised_limit(ratios, [is_bad] * len(broken) + [False] * 9, np.arange(n), 0.1)
    assert got.limit == 0.9
    assert got.accepted_share == pytest.approx(9 / n)
    assert got.accepted_and_bad_share == 0


def test_a_bound_exactly_at_alpha_is_kept_in_spite_of_rounding() -> None:
    # 49 blocks of 3 frames: 42 bad ones make (14 + 1) / 50, which sums to a hair above 0.3.
    blocks, ratios = np.arange(147) // 3, np.arange(147.0)
    bad = (ratios >= 40)
    assert promised_limit(ratios, bad, blocks, 0.3).limit == 40 + 42 - 1


def test_too_few_blocks_are_refused_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match='18 blocks for alpha 0.05, expected at least 19 '
                                               'blocks: add blocks, or ask for alpha 0.0527'):
        promised_limit(np.ones(36), np.arange(36) < 1, np.arange(36) // 2, 0.05)
    promised_limit(np.ones(38), np.full(38, False), np.arange(38) // 2, 0.05)


def test_all_bad_and_hopeless_sets_are_refused() -> None:
    with pytest.raises(CalibrationError, match='every calibration frame is bad'):
        promised_limit(np.arange(20), np.full(20, True), np.arange(20), 0.1)
    with pytest.raises(CalibrationError, match='no frame can be accepted at alpha 0.1'):
        promised_limit(np.arange(20), np.arange(20) < 10, np.arange(20) // 2, 0.1)
    with pytest.raises(CalibrationError, match='no frame can be accepted'):
        promised_limit(np.full(20, np.nan), np.arange(20) < 10, np.arange(20), 0.1)


def test_an_all_good_set_gets_its_largest_ratio_and_says_what_that_is_worth() -> None:
    got = promised_limit(np.arange(20) / 20, np.full(20, False), np.arange(20), 0.1)
    assert got.limit == 0.95
    assert got.bound == pytest.approx(1 / 21)
    assert 'no calibration frame is bad' in got.note


@pytest.mark.parametrize('alpha', [0, 1, -0.1, np.nan, 5])
def test_an_alpha_that_promises_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match='a share above 0 and below 1'):
        promised_limit([1.0], [False], [0], alpha)


@pytest.mark.parametrize('shapes', [(3, 2, 3), (3, 3, 2), (0, 0, 0)])
def test_arrays_that_do_not_fit_are_refused(shapes: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeError, match='one of each a frame'):
        ratios, bad, blocks = (np.zeros(n) for n in shapes)
        promised_limit(ratios, bad, blocks, 0.1)


def slow_limit(ratios: np.ndarray, bad: np.ndarray, blocks: np.ndarray, alpha: float) -> float:
    """Try every seen ratio, from the definition."""
    n, best = len(set(blocks)), -np.inf
    for limit in ratios:
        losses = [((ratios <= limit) & bad)[blocks == block].mean() for block in set(blocks)]
        if n / (n + 1) * np.mean(losses) + 1 / (n + 1) <= alpha + 1e-12:
            best = max(best, limit)
    return best


@hypothesis.given(st.integers(0, 10**6), st.integers(10, 25), st.floats(0.1, 0.6))
@hypothesis.settings(max_examples=80, deadline=None)
def test_it_is_the_limit_of_a_slow_search(seed: int, count: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = np.append(np.arange(count), rng.integers(0, count, 3 * count))
    ratios = rng.integers(1, 30, blocks.size) / 20
    bad = rng.random(blocks.size) < 0.8 * ratios / 1.5
    wanted = slow_limit(ratios, bad, blocks, alpha)
    if not np.isfinite(wanted):
        with pytest.raises(CalibrationError):
            promised_limit(ratios, bad, blocks, alpha)
        return
    got = promised_limit(ratios, bad, blocks, alpha)
    assert got.limit == wanted
    assert got.bound <= alpha + 1e-9
    assert got.accepted_and_bad_share == pytest.approx(
        mean_block_share((ratios <= wanted) & bad, blocks))


def dive(rng: np.random.Generator, num_blocks: int, frames: int, spread: float
         ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks whose frames share a water: a level of the score, and whether masks are bad in it."""
    level = np.repeat(rng.random(num_blocks), frames)
    water_is_bad = np.repeat(rng.random(num_blocks) < 0.8, frames)
    ratios = level + spread * rng.random(level.size)
    bad = water_is_bad & (rng.random(level.size) < 0.95)
    return ratios, bad, np.repeat(np.arange(num_blocks), frames)


def loss_on_new_blocks(seed: int, num_blocks: int, alpha: float, spread: float,
                       by_frame: bool = False, draws: int = 400) -> tuple[float, float]:
    """Mean over draws, and its standard error, of the share accepted and bad in new blocks."""
    losses = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        ratios, bad, blocks = dive(rng, num_blocks, 12, spread)
        try:
            limit = promised_limit(
                ratios, bad, np.arange(blocks.size) if by_frame else blocks, alpha).limit
        except CalibrationError:
            limit = -1.0  # refused: nothing is accepted
        new_ratios, new_bad, new_blocks = dive(rng, 60, 12, spread)
        losses.append(mean_block_share((new_ratios <= limit) & new_bad, new_blocks))
    return float(np.mean(losses)), float(np.std(losses) / np.sqrt(draws))


@pytest.mark.parametrize(('num_blocks', 'alpha', 'spread'), [
    (9, 0.1, 0.01), (21, 0.1, 0.01), (25, 0.1, 0.3), (40, 0.2, 0.05), (39, 0.05, 0.5)])
def test_the_promise_is_kept_on_new_blocks(num_blocks: int, alpha: float, spread: float) -> None:
    mean, error = loss_on_new_blocks(7, num_blocks, alpha, spread)
    assert mean <= alpha + 3 * error
    assert mean >= alpha - 2 / (num_blocks + 1) - 3 * error  # and it is not kept by refusing all


def test_taking_frames_for_blocks_breaks_the_promise_where_they_are_alike() -> None:
    wrong, error = loss_on_new_blocks(7, 21, 0.1, 0.01, by_frame=True)
    right, _ = loss_on_new_blocks(7, 21, 0.1, 0.01)
    assert wrong > 0.1 + 3 * error
    assert right < wrong
