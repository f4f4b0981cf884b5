# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Risk and coverage: by hand, against a slow implementation, and against torch-uncertainty."""

import itertools
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.calibration.statistics.selective import aurc, excess_aurc, risk_coverage
from uncertainty_seg.errors import ShapeError


def test_the_curve_by_hand() -> None:
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    assert curve.limits == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]) == pytest.approx((0 + 1/2 + 1/3 + 1/2) / 4)
    # A score that knew the losses: 0, 0, 1/3, 1/2.
    assert excess_aurc([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]) == pytest.approx((1/2 + 0) / 4)


def test_risk_and_coverage_can_be_asked_for() -> None:
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    assert curve.risk_at_coverage(0.75) == pytest.approx(1 / 3)
    assert curve.risk_at_coverage(0.6) == pytest.approx(1 / 3)
    assert curve.risk_at_coverage(0.0) == 0
    assert curve.risk_at_coverage(1.0) == curve.risk_at_coverage(1.5) == 0.5
    tenths = risk_coverage(np.arange(10), np.arange(10) > 2)
    assert tenths.risk_at_coverage(0.1 + 0.2) == 0  # a rounding error above three tenths
    assert curve.coverage_at_risk(0.4) == 0.75
    assert curve.coverage_at_risk(0.0) == 0.25
    assert risk_coverage([1, 2], [1, 1]).coverage_at_risk(0.5) == 0


def test_equal_scores_are_accepted_together() -> None:
    curve = risk_coverage([0.5, 0.1, 0.5, 0.5], [1, 0, 0, 1])
    assert curve.coverage == pytest.approx([0.25, 1])
    assert curve.risk == pytest.approx([0, 0.5])


@pytest.mark.parametrize('score', [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused_first(score: float) -> None:
    curve = risk_coverage([score, 0.1, 99], [1, 0, 0])
    assert curve.limits[-1] == np.inf
    assert curve.risk == pytest.approx([0, 0, 1 / 3])
    assert aurc([score, 0.1, 99], [1, 0, 0]) == pytest.approx(1 / 9)
    assert excess_aurc([score, 0.1, 99], [1, 0, 0]) == pytest.approx(0)


@hypothesis.given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.floats(0, 1)),
                           min_size=1, max_size=6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_ties_count_as_the_mean_over_every_order(frames: list[tuple[float, float]]) -> None:
    slow = []
    for order in itertools.permutations(range(len(frames))):
        if all(frames[a][0] <= frames[b][0] for a, b in itertools.pairwise(order)):
            losses = [frames[i][1] for i in order]
            slow.append(np.mean([np.mean(losses[:k + 1]) for k in range(len(losses))]))
    scores = [frame[0] for frame in frames]
    assert aurc(scores, [frame[1] for frame in frames]) == pytest.approx(np.mean(slow), abs=1e-12)


def plain_point(scores: np.ndarray, losses: np.ndarray, limit: float) -> tuple[float, float]:
    accepted = [loss for score, loss in zip(scores, losses, strict=True) if score <= limit]
    return len(accepted) / len(scores), sum(accepted) / len(accepted)


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 60))
@hypothesis.settings(max_examples=60, deadline=None)
def test_each_point_equals_the_plain_count(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses = rng.integers(0, 20, count) / 20, rng.random(count)
    curve = risk_coverage(scores, losses)
    assert set(curve.limits) == set(scores)
    for limit, coverage, risk in zip(curve.limits, curve.coverage, curve.risk, strict=True):
        assert (coverage, risk) == pytest.approx(plain_point(scores, losses, limit))


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 60))
@hypothesis.settings(max_examples=60, deadline=None)
def test_no_score_beats_the_losses_and_scale_and_order_do_not_count(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses, order = rng.random(n), rng.random(n), rng.permutation(n)
    assert excess_aurc(scores, losses) >= -1e-12
    assert excess_aurc(losses, losses) == pytest.approx(0, abs=1e-12)
    assert aurc(scores[order] ** 3, losses[order]) == pytest.approx(aurc(scores, losses))
    assert aurc(np.zeros(n), losses) == pytest.approx(losses.mean())


@pytest.mark.torch
def test_the_curve_is_that_of_torch_uncertainty() -> None:
    torch = pytest.importorskip('torch', reason='torch is not installed')
    peers = pytest.importorskip('torch_uncertainty.metrics.classification',
                                reason='torch_uncertainty is not installed')
    rng = np.random.default_rng(3)
    wrong = rng.random(400) < 0.3
    confidence = np.clip(0.7 - 0.1 * wrong + 0.12 * rng.standard_normal(400), 0.501, 0.999)
    curve = risk_coverage(1 - confidence, wrong)
    probs = torch.tensor(np.stack([confidence, 1 - confidence], -1))
    truth = torch.tensor(wrong.astype(np.int64))
    assert len(curve.risk) == len(np.unique(confidence))
    # The peer ranks equal scores by the order of the data: keep one of each.
    _, kept = np.unique(confidence, return_index=True)
    curve = risk_coverage(1 - confidence[kept], wrong[kept])
    peer = peers.AURC()
    peer.update(probs[kept], truth[kept])
    area = (np.diff(curve.coverage) * (curve.risk[1:] + curve.risk[:-1]) / 2).sum()
    area /= 1 - 1 / len(kept)  # the peer leaves out coverage below 1/n
    assert float(peer.compute()) == pytest.approx(area, abs=1e-9)
    at_80 = peers.RiskAt80Cov()
    at_80.update(probs[kept], truth[kept])
    assert float(at_80.compute()) == pytest.approx(curve.risk_at_coverage(0.8), abs=2e-3)


@pytest.mark.parametrize(('scores', 'losses'), [([], []), ([1], [1, 0]), ([[1]], [[1]])])
def test_scores_and_losses_that_do_not_fit_are_refused(scores: Any, losses: Any) -> None:
    with pytest.raises(ShapeError, match='one of each a frame'):
        risk_coverage(scores, losses)
    with pytest.raises(ShapeError, match='one of each a frame'):
        excess_aurc(scores, losses)
