# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Figures over draws agree with those over plain rows, and a promise by draws with the promise."""

from __future__ import annotations

import numpy as np
import pytest

from uncertainty_seg.calibration.statistics import metrics
from uncertainty_seg.calibration.statistics.bootstrap import block_interval, pixel_intervals
from uncertainty_seg.calibration.statistics.conformal import mean_block_share, promised_limit
from uncertainty_seg.calibration.statistics.paired import (
    Draws,
    promised_coverage,
    weighted_auroc,
    weighted_excess_aurc,
    weighted_pixels,
    weighted_totals,
)
from uncertainty_seg.calibration.statistics.selective import excess_aurc
from uncertainty_seg.errors import CalibrationError, ConfigError, ShapeError

RNG = np.random.default_rng(3)
BLOCKS = np.array([f'dive {i}' for i in RNG.integers(0, 13, 60)])
BAD = RNG.uniform(size=60) < 0.3
# Coarse, so that frames tie, and with what is not known.
SCORES = np.where(np.arange(60) % 19 == 7, np.nan, np.round(RNG.uniform(size=60) + 0.4 * BAD, 1))
DRAWS = Draws.of(BLOCKS, 40, 5)


def rows_of(draw: int) -> np.ndarray:
    """Return the frames of a draw, each as often as it was drawn."""
    return np.repeat(np.arange(60), DRAWS.weights[draw].astype(int))


def test_the_draws_are_those_of_block_interval_and_the_first_is_the_data() -> None:
    assert (DRAWS.weights[0] == 1).all()
    assert (DRAWS.counts.sum(1) == 13).all()
    loss = BAD.astype(float)
    plain = block_interval(lambda rows: float(rows.mean()), loss, BLOCKS, draws=40, seed=5)
    found = DRAWS.interval(DRAWS.weights @ loss / DRAWS.weights.sum(1))
    assert vars(found) == pytest.approx(vars(plain))


@pytest.mark.parametrize('draw', [0, 1, 17, 40])
def test_frame_figures_of_a_draw_are_those_of_its_rows(draw: int) -> None:
    rows, loss = rows_of(draw), BAD.astype(float)
    weights = DRAWS.weights
    assert weighted_excess_aurc(SCORES, loss, weights)[draw] == pytest.approx(
        excess_aurc(SCORES[rows], loss[rows]))
    found = weighted_auroc(SCORES[BAD], SCORES[~BAD], weights[:, BAD], weights[:, ~BAD])
    drawn, bad = SCORES[rows], BAD[rows]
    assert found[draw] == pytest.approx(metrics.auroc(drawn[bad], drawn[~bad]))


def test_a_kind_that_is_missing_gives_no_auroc() -> None:
    assert np.isnan(weighted_auroc(SCORES[:0], SCORES, DRAWS.weights[:, :0],
                                   DRAWS.weights)).all()


@pytest.mark.parametrize('draw', [0, 9])
def test_pixel_figures_of_a_draw_are_those_of_a_ranking_of_its_frames(draw: int) -> None:
    yes, no = (RNG.integers(0, 50, (60, 4097)) for _ in range(2))
    chance, area = weighted_pixels(yes, no, DRAWS.weights)
    rows = rows_of(draw)
    ranking = metrics.Ranking(yes[rows].sum(0).astype(float), no[rows].sum(0).astype(float))
    assert chance[draw] == pytest.approx(ranking.auroc())
    assert area[draw] == pytest.approx(ranking.average_precision())
    nothing = weighted_pixels(np.zeros((60, 5)), no[:, :5], DRAWS.weights)
    assert np.isnan(nothing).all()


def test_iou_and_calibration_error_are_those_of_the_plain_bootstrap() -> None:
    counts = RNG.integers(0, 99, (60, 9)).astype(float)
    number = RNG.integers(1, 99, (60, 15)).astype(float)
    totals = np.concatenate([counts, number, number * RNG.uniform(size=(60, 15)),
                             number * RNG.uniform(size=(60, 15))], 1)
    plain = pixel_intervals(totals, BLOCKS, 3, draws=40)
    draws = Draws.of(BLOCKS, 40, 0)
    iou, ece = weighted_totals(totals, 3, draws.weights)
    assert vars(draws.interval(iou)) == pytest.approx(vars(plain['mean_iou']))
    assert vars(draws.interval(ece)) == pytest.approx(vars(plain['ece']))


@pytest.mark.parametrize('alpha', [0.2, 0.35])
def test_coverage_of_the_data_is_that_of_the_promise_on_each_half(alpha: float) -> None:
    names = np.unique(BLOCKS)
    order = np.random.default_rng(2).permutation(len(names))
    is_first = np.isin(BLOCKS, names[order[:len(names) // 2]])
    ranks = np.where(np.isnan(SCORES), np.inf, SCORES)
    expected = []
    for on in (is_first, ~is_first):
        try:
            limit = promised_limit(ranks[on], BAD[on], BLOCKS[on], alpha).limit
        except CalibrationError:
            limit = -np.inf
        taken = ranks[~on] <= limit
        expected.append([mean_block_share(part, BLOCKS[~on])
                         for part in (taken, taken & BAD[~on])])
    accepted, bad = promised_coverage(ranks, BAD, DRAWS, alpha, 1, 2)
    assert (accepted[0], bad[0]) == pytest.approx(tuple(np.mean(expected, axis=0)))


def test_the_promise_holds_over_halves_and_a_better_order_accepts_more() -> None:
    rng = np.random.default_rng(0)
    bad = rng.uniform(size=400) < 0.3
    draws = Draws.of(np.arange(400), 1, 0)
    good, poor = (promised_coverage(gain * bad + rng.normal(size=400), bad, draws, 0.1, 40, 0)
                  for gain in (3.0, 0.0))
    assert good[1][0] < 0.105
    assert poor[1][0] < 0.105
    assert good[0][0] > poor[0][0] + 0.3


def test_too_few_blocks_for_the_promise_give_no_coverage() -> None:
    assert np.isnan(promised_coverage(SCORES, BAD, DRAWS, 0.05, 3, 0)).all()


def test_nothing_that_is_known_is_nothing_accepted() -> None:
    accepted, bad = promised_coverage(np.full(60, np.nan), BAD, DRAWS, 0.3, 3, 0)
    assert accepted[0] == bad[0] == 0


def test_no_draw_and_no_frame_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match='0 draws'):
        Draws.of(BLOCKS, 0, 0)
    with pytest.raises(ShapeError, match='no frame'):
        Draws.of([], 3, 0)
