# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The promise on new blocks, and the limits with which it holds."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.stats.conformal import (
    bad_share,
    blocks_needed,
    fit_promise,
    held_out_shares,
    mean_block_share,
    promised_limit,
    quantile_limits,
)
from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.gate_scale import GateScale
from uncertainty_seg.errors import CalibrationError, ConfigError


def test_blocks_needed() -> None:
    known = {0.5: 1, 0.1: 9, 0.05: 19, 0.01: 99, 0.03: 33, 0.001: 999, 0.07: 14, 0.9: 1}
    assert {alpha: blocks_needed(alpha) for alpha in known} == known
    for alpha, needed in known.items():
        assert 1 / (needed + 1) <= alpha + 1e-12 and 1 / needed > alpha, alpha


@pytest.mark.parametrize('is_bad', [True, False])
def test_scores_that_are_no_numbers_are_never_accepted(is_bad: bool) -> None:
    for broken in ([np.nan], [np.inf], [np.nan, np.inf], [np.nan, np.nan]):
        ratios = [*broken, *np.linspace(0.1, 0.9, 9)]
        n = len(ratios)
        found = promised_limit(ratios, [is_bad] * len(broken) + [False] * 9, np.arange(n), 0.1)
        assert found == 0.9, broken


def test_a_bound_exactly_at_alpha_is_kept_in_spite_of_rounding() -> None:
    # 49 blocks of 3 frames: 42 bad ones give (14 + 1) / 50, slightly above 0.3 after rounding.
    blocks, ratios = np.arange(147) // 3, np.arange(147.0)
    bad = (ratios >= 40)
    assert promised_limit(ratios, bad, blocks, 0.3) == 40 + 42 - 1
    # 119 blocks of 5 frames, 25 blocks with one bad: (5 + 1) / 120, slightly above 0.05.
    rows = np.arange(595)
    bad = (rows % 5 == 0) & (rows < 125) | (rows == 594)
    names = np.char.zfill((rows // 5).astype(str), 3)
    frames = FrameTable(tuple(names), names, {'a': rows / 1000}, 1.0 * bad, bad)
    promise = fit_promise(GateScale({'a': 1.0}, frozenset()), frames, 0.05, 'rule')
    assert promise.bound == 0.05 and (rows / 1000 <= promise.limits['a']).sum() == 594


def test_too_few_blocks_are_refused_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match='19'):
        promised_limit(np.ones(36), np.arange(36) < 1, np.arange(36) // 2, 0.05)
    promised_limit(np.ones(38), np.full(38, False), np.arange(38) // 2, 0.05)


def test_all_bad_and_hopeless_sets_are_refused() -> None:
    ranks, bad, blocks = np.arange(20.0), np.arange(20) < 10, np.arange(20)
    for hopeless in ((ranks, np.full(20, True), blocks), (ranks, bad, blocks // 2),
                     (np.full(20, np.nan), bad, blocks)):
        with pytest.raises(CalibrationError):
            promised_limit(*hopeless, 0.1)


@pytest.mark.parametrize('alpha', [0, 1, -0.1, np.nan, 5])
def test_an_alpha_that_promises_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=str(alpha)):
        promised_limit([1.0], [False], [0], alpha)


def slow_limit(ratios: np.ndarray, bad: np.ndarray, blocks: np.ndarray, alpha: float) -> float:
    """Return the largest limit that the definition allows, by trying every ratio."""
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
    assert promised_limit(ratios, bad, blocks, alpha) == wanted


def dive(rng: np.random.Generator, num_blocks: int, frames: int, spread: float
         ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw blocks whose frames share a water: a level of the score, and whether masks are bad."""
    level = np.repeat(rng.random(num_blocks), frames)
    water_is_bad = np.repeat(rng.random(num_blocks) < 0.8, frames)
    ratios = level + spread * rng.random(level.size)
    bad = water_is_bad & (rng.random(level.size) < 0.95)
    return ratios, bad, np.repeat(np.arange(num_blocks), frames)


def loss_on_new_blocks(
    seed: int, num_blocks: int, alpha: float, spread: float, draws: int = 400
) -> tuple[float, float]:
    """Return the mean over draws of the share accepted and bad in new blocks, and its error."""
    losses = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        ratios, bad, blocks = dive(rng, num_blocks, 12, spread)
        try:
            limit = promised_limit(ratios, bad, blocks, alpha)
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
    assert mean >= alpha - 2 / (num_blocks + 1) - 3 * error  # not achieved by refusing all frames


# -------------------------------------------------------------------------------------------------
# The promises of the written limits, and their test on halves.

def table(n: int, seed: int, per_block: int = 1) -> FrameTable:
    """Make frames, a fifth of them bad; both scores detect them, one better than the other."""
    rng = np.random.default_rng(seed)
    is_bad = np.repeat(rng.uniform(size=n // per_block) < 0.2, per_block)
    scores = {'a': np.clip(rng.normal(0.3, 0.1, n) + 0.2 * is_bad, 0.01, 0.99),
              'b': np.clip(rng.normal(0.03, 0.01, n) + 0.01 * is_bad, 0.001, 0.99)}
    blocks = np.array([f'block {i // per_block}' for i in range(n)])
    return FrameTable(tuple(f'f{i}' for i in range(n)), blocks, scores, 1.0 - is_bad, is_bad)


SCALE = GateScale.fit(table(500, 9).scores, ('a', 'b'))


@pytest.mark.parametrize('alpha', [0.05, 0.1])
@pytest.mark.parametrize('per_block', [1, 5])
def test_the_shares_are_those_of_the_limits_that_are_written(alpha: float, per_block: int) -> None:
    frames = table(500, 1, per_block)
    promise = fit_promise(SCALE, frames, alpha, 'rule')
    inside = (frames.scores['a'] <= promise.limits['a']) & \
        (frames.scores['b'] <= promise.limits['b'])
    assert promise.accepted == pytest.approx(inside.mean())
    assert promise.accepted_and_bad == pytest.approx((inside & frames.is_bad).mean())
    n = 500 // per_block
    assert promise.num_blocks == n and promise.num_frames == 500
    assert promise.bound == pytest.approx((n * promise.accepted_and_bad + 1) / (n + 1))
    assert promise.bound <= alpha
    # The bound's error is shared among all thresholds that the frames could have selected.
    assert promise.bad_if_accepted_upper == bad_share(
        inside, frames.is_bad, frames.blocks, num_tries=500).upper
    # One more bad frame would exceed alpha, so the limit is the largest possible.
    assert promise.bound > alpha - 2.5 / n


def test_a_limit_lets_the_share_pass_and_one_that_cannot_judge_is_left_out() -> None:
    frames = table(100, 1)
    frames = frames.with_scores({'never': np.zeros(100), 'always': np.ones(100)})
    limits = quantile_limits(frames, 0.95, 1.0)
    assert set(limits) == {'a', 'b'}
    assert (frames.scores['a'] <= limits['a']).sum() == 95


def test_a_frame_of_which_nothing_is_known_is_within_no_limit() -> None:
    frames = table(3, 1).with_scores({'a': np.array([0.1, np.nan, 0.9])})
    assert frames.accepted({'a': 0.5}).tolist() == [True, False, False]
    assert frames.ratios({'a': 0.5}).tolist() == [0.2, np.inf, 1.8]
    assert frames.rows()[2]['a'] == 0.9


def test_where_few_frames_are_bad_the_gate_still_ends_at_what_was_seen() -> None:
    frames = table(500, 1)
    frames = dataclasses.replace(frames, is_bad=np.arange(500) < 5)
    promise = fit_promise(SCALE, frames, 0.1, 'rule')
    assert promise.limits == pytest.approx(SCALE.limits(1.0))
    assert promise.accepted_and_bad <= 0.01 and promise.bound < 0.02
    # The shares of the halves end there too.
    rows = np.arange(200)
    assert held_out_shares(rows / 100, rows < 0, rows, 0.1) == (pytest.approx(0.5, abs=0.01), 0)
