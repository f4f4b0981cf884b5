# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The spread of a promise by chance, and its test on frames."""

from dataclasses import replace

import numpy as np
import pytest

from uncertainty_seg.calibration.stats.conformal import promised_limit
from uncertainty_seg.calibration.stats.promise_verdict import (
    judge_promise,
    KEPT,
    NOT_KEPT,
    PromiseVerdict,
    SEEN,
    share_interval,
    spread,
    TOO_FEW,
)
from uncertainty_seg.core.calibration import Promise

pytest.importorskip('scipy')


def judged(lost: int, count: int, is_new: bool = True) -> PromiseVerdict:
    rows = np.arange(count)
    return judge_promise(np.ones(count, bool), rows < lost, rows, 0.05, is_new)


@pytest.mark.parametrize(('lost', 'count', 'word'), [
    (0, 10, TOO_FEW), (0, 35, TOO_FEW), (0, 36, KEPT), (10, 300, KEPT), (15, 300, KEPT),
    (16, 300, TOO_FEW), (9, 100, TOO_FEW), (12, 100, NOT_KEPT), (27, 230, NOT_KEPT)])
def test_words_of_a_promise_of_five_per_cent(lost: int, count: int, word: str) -> None:
    found = judged(lost, count)
    assert found.word == word and found.share == pytest.approx(lost / count)
    assert judged(lost, count, is_new=False).word == SEEN


def test_the_interval_is_the_exact_one_over_blocks() -> None:
    found = judged(0, 20)
    assert (found.lower, found.upper) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    # Ten frames of one block count as much as one.
    many = judge_promise(np.ones(40, bool), np.arange(40) < 10, np.arange(40) // 10, 0.05, True)
    assert (many.share, many.num_blocks, many.word) == (0.25, 4, TOO_FEW)


def test_shares_are_means_over_blocks_of_any_size_with_exact_intervals() -> None:
    found = share_interval([True, False, False, False, True], ['a', 'a', 'a', 'a', 'b'])
    assert (found.value, found.num_blocks) == (0.625, 2) and found.lower < 0.1 < 0.99 < found.upper
    # None or all of twenty prove little.
    for share in (0.0, 1.0):
        ends = share_interval(np.full(20, share), np.arange(20))
        assert ends.value == share and ends.upper - ends.lower == pytest.approx(0.168, abs=1e-3)


@pytest.mark.parametrize(('count', 'alpha'), [(50, 0.1), (300, 0.05)])
def test_thresholds_of_so_many_frames_spread_as_is_said(count: int, alpha: float) -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(600):
        # A third of the frames is bad at any rank, so a limit accepts a third of its rank as bad.
        limit = promised_limit(rng.random(count), rng.random(count) < 1 / 3, np.arange(count),
                               alpha)
        shares.append(limit / 3)
    promise = replace(PROMISE, alpha=alpha, bound=alpha, num_blocks=count)
    lower, upper = spread(promise)
    within = np.mean([lower <= share <= upper for share in shares])
    assert 0.92 < within < 0.985
    assert lower < np.mean(shares) < min(alpha + 0.004, upper)


PROMISE = Promise(0.05, {'entropy.mean': 0.5}, 'iou<0.5', 300, 300, 54, 0.05, 0.5, 0.05, 0.1)
