# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One rank sets the limits of all scores; and the better score is chosen."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.gate_choice import (
    choose_gate,
    gate_of,
    is_earned,
)
from uncertainty_seg.calibration.stats.conformal import fit_promise
from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.intervals import weighted_excess_aurc
from uncertainty_seg.calibration.stats.ranks import GUARD_CEILING, has_ranks, RankFamily
from uncertainty_seg.errors import CalibrationError, ConfigError

RNG = np.random.default_rng(0)
REFERENCE = {
    'small': RNG.uniform(0, 0.01, 400), 'large': RNG.beta(2, 3, 400),
    # Like the score of a rare class: 0 on most frames.
    'rare': np.where(RNG.uniform(size=400) < 0.7, 0.0, RNG.uniform(0.1, 0.5, 400)),
}
FAMILY = RankFamily.fit(REFERENCE, {'rare': 4.0})


def test_the_rank_is_the_share_of_reference_frames_below() -> None:
    values = np.quantile(REFERENCE['large'], [0.1, 0.5, 0.9])
    assert FAMILY.ranks('large', values) == pytest.approx([0.1, 0.5, 0.9], abs=0.006)
    assert FAMILY.ranks('small', values / 100) == pytest.approx(
        [(REFERENCE['small'] <= v / 100).mean() for v in values], abs=0.006)


def test_beyond_the_largest_the_rank_goes_on_growing_and_nothing_known_is_infinite() -> None:
    top = REFERENCE['large'].max()
    ranks = FAMILY.ranks('large', np.array([top, 1.1 * top, np.nan, np.inf]))
    assert ranks == pytest.approx([1, 1.1, np.inf, np.inf])


def test_a_guard_is_small_but_in_its_tail_and_ends_before_its_largest() -> None:
    plain = RankFamily.fit(REFERENCE)
    last = float(np.quantile(REFERENCE['rare'], GUARD_CEILING))
    values = np.array([0.0, 0.2, 0.4, last])
    ranks = FAMILY.ranks('rare', values)
    assert ranks == pytest.approx((plain.ranks('rare', values) / GUARD_CEILING) ** 4, abs=0.03)
    assert ranks[0] == 0 and ranks[3] == pytest.approx(1, abs=0.02)
    # A frame above it is refused at any rank up to 1, the largest of a promise.
    refused = REFERENCE['rare'] > FAMILY.limits(1.0, ['rare'])['rare']
    assert refused.mean() == pytest.approx(1 - GUARD_CEILING, abs=0.004)
    assert (FAMILY.ranks('rare', REFERENCE['rare'])[refused] > 1).all()


@given(st.floats(0.01, 1.4), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_within_all_limits_is_within_the_rank(rank: float, seed: int) -> None:
    """Test the equivalence on which the promise depends, without ties in the last digits."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.uniform(0, min(1.3 * values.max(), 0.999), 50)
              for name, values in REFERENCE.items()}
    frames = FrameTable(('',) * 50, np.array(['b'] * 50), scores, np.zeros(50),
                        np.zeros(50, bool))
    ranks = FAMILY.frame_ranks(scores, FAMILY.names)
    clear = np.abs(ranks - rank) > 1e-9
    assert (frames.accepted(FAMILY.limits(rank, FAMILY.names)) == (ranks <= rank))[clear].all()


def test_limits_grow_with_the_rank_and_stay_where_scores_can_be() -> None:
    steps = [FAMILY.limits(rank, FAMILY.names) for rank in np.linspace(0.001, 60, 500)]
    for name in FAMILY.names:
        values = np.array([step[name] for step in steps])
        assert (np.diff(values) >= 0).all() and 0 < values[0] and values[-1] < 1


def test_a_family_comes_back_from_plain_lists() -> None:
    back = RankFamily.from_facts(json.loads(json.dumps(FAMILY.to_facts())))
    values = np.linspace(0, 1, 100)
    for name in FAMILY.names:
        assert np.array_equal(back.ranks(name, values), FAMILY.ranks(name, values))
    assert FAMILY.only(['rare']).to_facts()['powers'] == {'rare': 4.0}


@pytest.mark.parametrize('change', [
    {'knots': {'a': [0.2, 0.1]}}, {'knots': {'a': [0.0, 0.1]}}, {'knots': {'a': [0.1]}},
    {'shares': {'a': [0.5, 0.9]}}, {'shares': {'a': [1.0, 1.0]}}, {'shares': {}},
])
def test_ranks_that_do_not_grow_are_refused(change: dict[str, object]) -> None:
    good = {'knots': {'a': [0.1, 0.2]}, 'shares': {'a': [0.5, 1.0]}, 'powers': {}}
    assert RankFamily.from_facts(good).names == ('a',)
    with pytest.raises(CalibrationError, match="'a'"):
        RankFamily.from_facts({**good, **change})


def test_a_score_that_hardly_moves_has_no_ranks() -> None:
    still = np.repeat([0.0, 0.1, np.nan], 100)
    assert not has_ranks(still) and has_ranks(REFERENCE['rare'])
    with pytest.raises(CalibrationError, match='still'):
        RankFamily.fit({'still': still})


def sample(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw frames with two faults, each detected by one score; a third score detects none."""
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(size=n) < 0.15, rng.uniform(size=n) < 0.1
    scores = {'noise': rng.uniform(0.1, 0.9, n),
              'one': np.clip(rng.normal(0.3, 0.1, n) + 0.3 * one, 0.01, 0.99),
              'other': np.clip(rng.normal(0.03, 0.01, n) + 0.03 * other, 0.001, 0.99)}
    return scores, (one | other).astype(float)


def as_frames(scores: dict[str, np.ndarray], losses: np.ndarray) -> FrameTable:
    names = np.array([str(i) for i in range(len(losses))])
    return FrameTable(tuple(names), names, scores, np.zeros(len(losses)), losses > 0)


def test_the_scores_that_see_the_faults_are_chosen_and_together_beat_each_alone() -> None:
    scores, losses = sample(2000, 1)
    family, chosen = gate_of(as_frames(scores, losses), (0.1,), None, ())
    assert set(chosen) == {'one', 'other'}
    fresh, new_losses = sample(2000, 2)
    both, *alone = (float(weighted_excess_aurc(values, new_losses, np.ones((1, 2000)))[0])
                    for values in (family.frame_ranks(fresh, chosen), *fresh.values()))
    assert all(both < 0.8 * one for one in alone)


def test_the_density_guards_without_proof_and_the_number_of_scores_is_bounded() -> None:
    scores, losses = sample(2000, 1)
    rng = np.random.default_rng(0)
    scores |= {'density.scores': rng.uniform(0.1, 0.9, 2000), **{
        f'more {i}': np.clip(0.3 * (losses * (rng.uniform(size=2000) < 0.4)) + rng.normal(
            0.3, 0.1, 2000), 0.01, 0.99) for i in range(6)}}
    family, chosen = gate_of(as_frames(scores, losses), (0.1,), None, ())
    assert chosen[0] == 'density.scores' and family.powers == {'density.scores': 8}
    assert len(chosen) <= 5


def test_named_scores_are_taken_and_what_can_only_guard_is_a_guard() -> None:
    scores, losses = sample(200, 1)
    frames = as_frames({**scores, 'image.blur': scores['noise']}, losses)
    family, names = gate_of(frames, (0.1,), None, ('one', 'image.blur'))
    assert names == ('one', 'image.blur') and family.powers == {'image.blur': 8}
    with pytest.raises(ConfigError, match='features.knn'):
        gate_of(frames, (0.1,), None, ('features.knn',))


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_frames_that_are_all_alike_choose_nothing(value: float) -> None:
    scores, _ = sample(100, 1)
    with pytest.raises(CalibrationError, match='100'):
        gate_of(as_frames(scores, np.full(100, value)), (0.1,), None, ())


def test_frames_without_a_score_that_differs_choose_nothing() -> None:
    still = as_frames({'still': np.full(40, 0.5)}, np.arange(40) % 2)
    for foreign in (None, still):
        with pytest.raises(CalibrationError):
            gate_of(still, (0.1,), foreign, ())


# -------------------------------------------------------------------------------------------------
# Foreign frames: scores and guards are chosen by their benefit on synthetic frames.

ALPHAS = (0.05, 0.1)


def table(scores: dict[str, np.ndarray], is_bad: np.ndarray | None = None,
          blocks: np.ndarray | None = None) -> FrameTable:
    count = len(next(iter(scores.values())))
    names = np.array([f'{i:04}' for i in range(count)])
    return FrameTable(tuple(names), names if blocks is None else blocks, scores,
                      np.zeros(count), np.zeros(count, bool) if is_bad is None else is_bad)


def planted(count: int, seed: int, foreign: int = 0) -> FrameTable:
    """
    Draw frames, a fifth of them bad; `margin.class_mean` detects these better than `entropy.mean`.

    `features.knn` is high on foreign frames only; `image.blur` and `mutual_information.top` are
    unrelated to both. All scores except `features.knn` are low on foreign frames.
    """
    rng = np.random.default_rng(seed)
    total = count + foreign
    is_foreign = np.arange(total) >= count
    is_bad = (rng.uniform(size=total) < 0.2) & ~is_foreign
    scores = {
        'margin.class_mean': np.clip(rng.normal(0.2, 0.06, total) + 0.2 * is_bad, 0.01, 0.99),
        'entropy.mean': np.clip(rng.normal(0.2, 0.1, total) + 0.1 * is_bad, 0.01, 0.99),
        'mutual_information.top': rng.uniform(0.01, 0.5, total),
        'features.knn': np.clip(rng.gamma(4, 0.02, total) + 0.4 * is_foreign, 0.001, 0.99),
        'image.blur': rng.uniform(0.1, 0.9, total),
    }
    return table(scores, is_bad)


def with_foreign(count: int, foreign: int, seed: int) -> tuple[FrameTable, FrameTable]:
    both = planted(count, seed, foreign)
    rows = np.arange(len(both)) < count
    return both.select(rows), both.select(~rows)


def test_the_best_score_leads_and_only_the_useful_guard_is_kept() -> None:
    """Over ten sets, choose the guard of foreign frames always, the useless ones rarely."""
    kept = []
    for seed in range(10):
        frames, foreign = with_foreign(400, 200, seed)
        order, guards = choose_gate(frames, ALPHAS, foreign)
        assert (order[0], guards[0]) == ('margin.class_mean', 'features.knn')
        family, names = gate_of(frames, ALPHAS, foreign, ())
        assert names == (*order, *guards) and family.powers['features.knn'] == 8
        blind = foreign.with_scores({
            'features.knn': np.random.default_rng(seed + 50).gamma(4, 0.02, 200)})
        kept += choose_gate(frames, ALPHAS, blind)[1]
    assert len(kept) <= 4  # out of thirty


def test_a_guard_that_catches_bad_frames_needs_no_foreign_ones() -> None:
    """Hide half of the bad frames from the order's score; the guard is high on these only."""
    frames, foreign = with_foreign(600, 200, 2)
    rng = np.random.default_rng(3)
    is_hidden = frames.is_bad & (rng.uniform(size=600) < 0.5)
    scores = {
        'margin.class_mean': np.where(is_hidden, 0.1, frames.scores['margin.class_mean']),
        'features.knn': frames.scores['features.knn'],
        'image.blur': np.clip(rng.uniform(0.1, 0.4, 600) + 0.5 * is_hidden, 0, 0.99),
    }
    caught = FrameTable(frames.sources, frames.blocks, scores, frames.mean_iou, frames.is_bad)
    blind = foreign.with_scores({'features.knn': rng.gamma(4, 0.02, 200)})
    assert choose_gate(caught, ALPHAS, blind)[1] == ('image.blur',)


@pytest.mark.parametrize(('after', 'earned'), [
    ((0.65, 0.05), True), ((0.65, 0.45), False), ((0.58, 0.36), False), ((0.72, 0.5), True),
    ((0.705, 0.5), False), ((0.70, 0.45), True),
])
def test_what_a_guard_must_bring(after: tuple[float, float], earned: bool) -> None:
    """Start from acceptance rates of 70 % for familiar and 50 % for foreign frames."""
    before = np.tile([0.7, 0.5], (5, 1))
    assert is_earned(before, np.tile(after, (5, 1))) is earned
    one_part = before.copy()
    one_part[0] = np.array(after) * 1.0
    assert not is_earned(before, one_part)


@pytest.mark.parametrize('is_foreign_known', [True, False])
def test_the_promise_is_kept_on_new_frames(is_foreign_known: bool) -> None:
    """Average over simulated sets: choose on some frames, fit on others, test on new ones."""
    lost = []
    for seed in range(8):
        train, foreign = with_foreign(240, 80, 100 + seed)
        family, names = gate_of(train, ALPHAS, foreign if is_foreign_known else None, ())
        val, fresh = planted(240, 500 + seed), planted(3000, 900 + seed)
        lost.append([float((fresh.accepted(fit_promise(family, val, names, alpha, 'r').limits)
                            & fresh.is_bad).mean()) for alpha in ALPHAS])
    means, errors = np.mean(lost, 0), np.std(lost, 0) / np.sqrt(len(lost))
    assert (means < np.array(ALPHAS) + 2 * errors).all()
    # The promise is not kept by accepting nothing.
    assert (means > 0.4 * np.array(ALPHAS)).all()
