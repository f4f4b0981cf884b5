# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is promised of the limits that are written down, and what the rehearsal shows of it."""

import dataclasses

import numpy as np
import pytest

from uncertainty_seg.analysis.conformal import fit_promise, ks_distance, quantile_limits, rehearse
from uncertainty_seg.analysis.frame_table import FrameTable, split_blocks
from uncertainty_seg.core.calibration import RankFamily
from uncertainty_seg.errors import CalibrationError, ShapeError


def table(n: int, seed: int, per_block: int = 1) -> FrameTable:
    """Make a fifth of the frames bad; both scores see it, one better."""
    rng = np.random.default_rng(seed)
    is_bad = np.repeat(rng.uniform(size=n // per_block) < 0.2, per_block)
    scores = {'a': np.clip(rng.normal(0.3, 0.1, n) + 0.2 * is_bad, 0.01, 0.99),
              'b': np.clip(rng.normal(0.03, 0.01, n) + 0.01 * is_bad, 0.001, 0.99)}
    blocks = np.array([f'block {i // per_block}' for i in range(n)])
    return FrameTable(tuple(f'f{i}' for i in range(n)), blocks, scores, 1.0 - is_bad, is_bad)


FAMILY = RankFamily.fit(table(500, 9).scores)


def counted(accepted: np.ndarray, is_bad: np.ndarray, blocks: np.ndarray) -> float:
    return float(is_bad[accepted].mean())


@pytest.mark.parametrize('alpha', [0.05, 0.1])
@pytest.mark.parametrize('per_block', [1, 5])
def test_the_shares_are_those_of_the_limits_that_are_written(alpha: float, per_block: int) -> None:
    frames = table(500, 1, per_block)
    promise = fit_promise(FAMILY, frames, ('a', 'b'), alpha, 'rule', counted)
    inside = (frames.scores['a'] <= promise.limits['a']) & \
        (frames.scores['b'] <= promise.limits['b'])
    assert promise.accepted == pytest.approx(inside.mean())
    assert promise.accepted_and_bad == pytest.approx((inside & frames.is_bad).mean())
    n = 500 // per_block
    assert promise.num_blocks == n and promise.num_frames == 500
    assert promise.bound == pytest.approx((n * promise.accepted_and_bad + 1) / (n + 1))
    assert promise.bound <= alpha
    assert promise.bad_if_accepted_upper == pytest.approx(
        promise.accepted_and_bad / promise.accepted)
    # One more bad frame would be too much: nothing was given away.
    assert promise.bound > alpha - 2.5 / n


def test_a_smaller_alpha_accepts_less() -> None:
    strict, loose = (fit_promise(FAMILY, table(500, 1), ('a', 'b'), alpha, 'rule', counted)
                     for alpha in (0.03, 0.1))
    assert strict.accepted < loose.accepted
    assert all(strict.limits[name] < loose.limits[name] for name in strict.limits)


def test_too_few_blocks_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(CalibrationError, match='10 blocks for alpha 0.05, expected at least 19'):
        fit_promise(FAMILY, table(50, 1, 5), ('a',), 0.05, 'rule', counted)


def test_the_rehearsal_keeps_the_promise_on_blocks_it_did_not_see() -> None:
    found = [rehearse(FAMILY, table(400, seed), ('a', 'b'), 0.1) for seed in range(8)]
    assert all(r is not None and r.num_splits == 200 for r in found)
    assert np.mean([r.accepted_and_bad for r in found if r]) <= 0.1
    assert 0.05 < np.mean([r.share_above for r in found if r]) < 0.7
    # A gate that sees nothing keeps it too, by accepting less.
    blind = table(400, 1)
    blind = blind.with_score('a', np.random.default_rng(0).permutation(blind.scores['a']))
    lost = rehearse(FAMILY, blind, ('a',), 0.1)
    seeing = rehearse(FAMILY, table(400, 1), ('a',), 0.1)
    assert lost is not None and seeing is not None
    assert lost.accepted_and_bad <= 0.12 and lost.accepted < seeing.accepted - 0.1


def test_half_of_too_few_blocks_cannot_rehearse() -> None:
    assert rehearse(FAMILY, table(30, 1), ('a',), 0.05) is None
    assert rehearse(FAMILY, table(30, 1, per_block=30), ('a',), 0.5) is None


def test_a_half_that_could_accept_nothing_counts_as_such() -> None:
    """Of 40 frames the surest is bad: of 20, one accepted and bad is too much for 0.05."""
    frames = table(40, 1)
    first = np.arange(40) == np.argmin(frames.scores['a'])
    frames = dataclasses.replace(frames, is_bad=first)
    found = rehearse(FAMILY, frames, ('a',), 0.05)
    assert found is not None
    # It fits the limits in half of the draws, and nothing is accepted; else it is held out.
    seen = np.array([split_blocks(frames.blocks, 0.5, seed)[0][first][0] for seed in range(200)])
    assert 0.4 < seen.mean() < 0.6
    assert found.accepted_and_bad == pytest.approx((~seen).mean() / 20)
    assert found.accepted <= (~seen).mean()


def test_the_distance_is_the_largest_gap_of_the_two_distributions() -> None:
    assert ks_distance(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 0
    assert ks_distance(np.array([1.0, 2]), np.array([3.0, 4, np.nan])) == 1
    assert ks_distance(np.array([1.0, 2, 3, 4]), np.array([3.0, 4])) == 0.5
    assert np.isnan(ks_distance(np.array([np.nan]), np.array([1.0])))
    scipy = pytest.importorskip('scipy.stats')
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=50), rng.normal(1, 2, 70)
    assert ks_distance(one, other) == pytest.approx(scipy.ks_2samp(one, other).statistic)


def test_a_limit_lets_the_share_pass_and_one_that_cannot_judge_is_left_out() -> None:
    frames = table(100, 1)
    frames = frames.with_score('never', np.zeros(100)).with_score('always', np.ones(100))
    limits = quantile_limits(frames, 0.95, 1.0)
    assert set(limits) == {'a', 'b'}
    assert (frames.scores['a'] <= limits['a']).sum() == 95


def test_blocks_are_drawn_whole_and_by_seed() -> None:
    blocks = table(100, 1, 5).blocks
    drawn, rest = split_blocks(blocks, 0.3, 4)
    assert drawn.sum() == 30 and (drawn ^ rest).all()
    assert not set(blocks[drawn]) & set(blocks[rest])
    assert np.array_equal(drawn, split_blocks(blocks, 0.3, 4)[0])
    assert not np.array_equal(drawn, split_blocks(blocks, 0.3, 5)[0])


def test_a_frame_of_which_nothing_is_known_is_within_no_limit() -> None:
    frames = table(3, 1).with_score('a', np.array([0.1, np.nan, 0.9]))
    assert frames.accepted({'a': 0.5}).tolist() == [True, False, False]
    assert frames.ratios({'a': 0.5}).tolist() == [0.2, np.inf, 1.8]
    assert frames.rows()[2]['a'] == 0.9
    with pytest.raises(ShapeError, match='one value a frame'):
        frames.with_score('a', np.zeros(2))


def test_where_few_frames_are_bad_the_gate_still_ends_at_what_was_seen() -> None:
    frames = table(500, 1)
    frames = dataclasses.replace(frames, is_bad=np.arange(500) < 5)
    promise = fit_promise(FAMILY, frames, ('a', 'b'), 0.1, 'rule', counted)
    assert promise.limits == pytest.approx(FAMILY.limits(1.0, ('a', 'b')))
    assert promise.accepted_and_bad <= 0.01 and promise.bound < 0.02
