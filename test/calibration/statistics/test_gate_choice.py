# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One number moves all limits, in step with the ranks; and the better score is chosen."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.statistics.frame_table import FrameTable
from uncertainty_seg.calibration.statistics.selective import choose_scores, excess_aurc
from uncertainty_seg.core.calibration import GUARD_CEILING, has_ranks, RankFamily
from uncertainty_seg.errors import CalibrationError

RNG = np.random.default_rng(0)
REFERENCE = {
    'small': RNG.uniform(0, 0.01, 400), 'large': RNG.beta(2, 3, 400),
    # As a rare class: nothing on most frames.
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
    # Above it a frame is refused at any rank up to 1, which is as far as a promise goes.
    refused = REFERENCE['rare'] > FAMILY.limits(1.0, ['rare'])['rare']
    assert refused.mean() == pytest.approx(1 - GUARD_CEILING, abs=0.004)
    assert (FAMILY.ranks('rare', REFERENCE['rare'])[refused] > 1).all()


@given(st.floats(0.01, 1.4), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_within_all_limits_is_within_the_rank(rank: float, seed: int) -> None:
    """The one equivalence that the promise stands on; ties in the last digits are left out."""
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
    with pytest.raises(CalibrationError, match="ranks of 'a' do not grow"):
        RankFamily.from_facts({**good, **change})


def test_a_score_that_hardly_moves_has_no_ranks() -> None:
    still = np.repeat([0.0, 0.1, np.nan], 100)
    assert not has_ranks(still) and has_ranks(REFERENCE['rare'])
    with pytest.raises(CalibrationError, match="'still' hardly ever changes"):
        RankFamily.fit({'still': still})


def sample(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two faults, each seen by one score; a third score sees nothing."""
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(size=n) < 0.15, rng.uniform(size=n) < 0.1
    scores = {'noise': rng.uniform(0.1, 0.9, n),
              'one': np.clip(rng.normal(0.3, 0.1, n) + 0.3 * one, 0.01, 0.99),
              'other': np.clip(rng.normal(0.03, 0.01, n) + 0.03 * other, 0.001, 0.99)}
    return scores, (one | other).astype(float)


def test_the_scores_that_see_the_faults_are_chosen_and_together_beat_each_alone() -> None:
    scores, losses = sample(2000, 1)
    family = RankFamily.fit(scores)
    chosen = choose_scores(family, scores, losses)
    assert set(chosen) == {'one', 'other'}
    fresh, new_losses = sample(2000, 2)
    both = excess_aurc(family.frame_ranks(fresh, chosen), new_losses)
    assert all(both < 0.8 * excess_aurc(fresh[name], new_losses) for name in scores)


def test_required_scores_come_first_and_the_number_is_bounded() -> None:
    scores, losses = sample(2000, 1)
    family = RankFamily.fit(scores)
    assert choose_scores(family, scores, losses, ('noise',), most=2)[0] == 'noise'
    assert len(choose_scores(family, scores, losses, ('noise',), most=2)) == 2
    assert choose_scores(family, scores, losses, ('noise',), most=1) == ('noise',)
    assert len(choose_scores(family, scores, losses, most=1)) == 1


@pytest.mark.parametrize(('value', 'word'), [(0.0, 'good.* that some frames break'),
                                             (1.0, 'bad.* train .* that some frames keep')])
def test_frames_that_are_all_alike_choose_nothing(value: float, word: str) -> None:
    scores, _ = sample(100, 1)
    with pytest.raises(CalibrationError, match=f'all 100 frames to choose scores on are {word}'):
        choose_scores(RankFamily.fit(scores), scores, np.full(100, value))


def test_frames_without_a_score_that_differs_choose_nothing() -> None:
    losses = np.array([0.0, 1.0])
    with pytest.raises(CalibrationError, match='no score of 2 frames .* take more frames'):
        choose_scores(RankFamily.fit({}), {}, losses)
