# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Scores and guards earn their place on planted frames, and nested figures are not optimistic."""

from dataclasses import replace

import numpy as np
import pytest

from uncertainty_seg.calibration.gate_choice import (
    _choose_order,
    _parts,
    block_folds,
    choose_gate,
    GateChoice,
    is_earned,
    is_guard,
    is_order,
    rank_limit,
)
from uncertainty_seg.calibration.statistics.conformal import HIGHEST_RANK, PromisedLimit
from uncertainty_seg.calibration.statistics.frame_table import FrameTable
from uncertainty_seg.calibration.statistics.nested import (
    fit_gate,
    FittedGate,
    FoldFrames,
    nested_figures,
    NestedFigures,
    ranks_of_others,
    share_of_blocks,
)
from uncertainty_seg.calibration.statistics.selective import excess_aurc
from uncertainty_seg.core.calibration import RankFamily
from uncertainty_seg.errors import CalibrationError, ConfigError

ALPHAS = (0.05, 0.1)


def table(scores: dict[str, np.ndarray], is_bad: np.ndarray | None = None,
          blocks: np.ndarray | None = None) -> FrameTable:
    count = len(next(iter(scores.values())))
    names = np.array([f'{i:04}' for i in range(count)])
    return FrameTable(tuple(names), names if blocks is None else blocks, scores,
                      np.zeros(count), np.zeros(count, bool) if is_bad is None else is_bad)


def planted(count: int, seed: int, foreign: int = 0) -> FrameTable:
    """
    Draw frames: a fifth is bad, which `margin.class_mean` sees and `entropy.mean` sees less well.

    `features.knn` is high on foreign frames alone, `image.blur` and `mutual_information.top` on
    nothing that matters. A foreign frame looks good to all but `features.knn`.
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


def in_folds(frames: FrameTable, num_folds: int = 3,
             foreign: FrameTable | None = None) -> FoldFrames:
    return FoldFrames(frames, block_folds(frames.blocks, num_folds), foreign,
                      None if foreign is None else block_folds(foreign.blocks, num_folds))


def nested(known: FoldFrames, names: tuple[str, ...] = ()) -> NestedFigures:
    return nested_figures(dict.fromkeys(known.names, known), ALPHAS, names)


def test_the_best_score_leads_and_only_the_useful_guard_is_kept() -> None:
    """Over ten sets: the guard that sees foreign frames always, one that sees nothing hardly."""
    kept = []
    for seed in range(10):
        frames, foreign = with_foreign(400, 200, seed)
        choice = choose_gate(frames, ALPHAS, foreign)
        assert choice.order[0] == 'margin.class_mean'
        assert choice.guards[0] == 'features.knn' and choice.powers['features.knn'] == 8
        blind = foreign.with_score(
            'features.knn', np.random.default_rng(seed + 50).gamma(4, 0.02, 200))
        kept += choose_gate(frames, ALPHAS, blind).guards
    assert len(kept) <= 4  # of thirty


def test_a_guard_that_catches_bad_frames_needs_no_foreign_ones() -> None:
    """Half of the bad frames look good to the order; the guard is high on these alone."""
    frames, foreign = with_foreign(600, 200, 2)
    rng = np.random.default_rng(3)
    is_hidden = frames.is_bad & (rng.uniform(size=600) < 0.5)
    scores = {
        'margin.class_mean': np.where(is_hidden, 0.1, frames.scores['margin.class_mean']),
        'features.knn': frames.scores['features.knn'],
        'image.blur': np.clip(rng.uniform(0.1, 0.4, 600) + 0.5 * is_hidden, 0, 0.99),
    }
    caught = FrameTable(frames.sources, frames.blocks, scores, frames.mean_iou, frames.is_bad)
    blind = foreign.with_score('features.knn', rng.gamma(4, 0.02, 200))
    assert choose_gate(caught, ALPHAS, blind).guards == ('image.blur',)


@pytest.mark.parametrize(('after', 'earned'), [
    ((0.65, 0.05), True), ((0.65, 0.45), False), ((0.58, 0.36), False), ((0.72, 0.5), True),
    ((0.705, 0.5), False), ((0.70, 0.45), True),
])
def test_what_a_guard_must_bring(after: tuple[float, float], earned: bool) -> None:
    """Before it, 70 % of the familiar frames and 50 % of the foreign ones are accepted."""
    before = np.tile([0.7, 0.5], (5, 1))
    assert is_earned(before, np.tile(after, (5, 1))) is earned
    one_part = before.copy()
    one_part[0] = np.array(after) * 1.0
    assert not is_earned(before, one_part)


def test_without_foreign_frames_one_guard_is_taken_unproven() -> None:
    frames = planted(600, 4)
    assert choose_gate(frames, ALPHAS).guards == ('features.knn',)


@pytest.mark.parametrize(('name', 'orders', 'guards'), [
    ('margin.class_mean', True, False), ('mutual_information.top', True, True),
    ('density.scores', False, True), ('image.blur', False, True), ('energy.mean', True, True),
    ('features.knn', False, True),
])
def test_what_a_score_may_be(name: str, orders: bool, guards: bool) -> None:
    assert (is_order(name), is_guard(name)) == (orders, guards)


def test_the_figures_of_a_fold_do_not_depend_on_its_own_answers() -> None:
    """Other answers of one fold change what is counted there, and not one of its verdicts."""
    frames, foreign = with_foreign(450, 90, 5)
    known = in_folds(frames, 3, foreign)
    one = nested(known)
    flipped = np.where(known.folds == 1, ~frames.is_bad, frames.is_bad)
    changed = FrameTable(frames.sources, frames.blocks, frames.scores, frames.mean_iou, flipped)
    other = nested(in_folds(changed, 3, foreign))
    assert np.array_equal(one.order[known.folds == 1], other.order[known.folds == 1])
    assert one.choices[1] == other.choices[1]
    assert one.promises[0].of_folds[1] != other.promises[0].of_folds[1]


@pytest.mark.release
def test_nested_figures_are_not_optimistic_where_no_score_knows_anything() -> None:
    """
    Twelve sets of pure noise, where the truth is known: no order of frames is worth anything.

    The figures of the frames that chose are better than the truth; the nested ones are not.

    """
    aurocs, seen, lost = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores = {f'entropy.class.{i}': rng.uniform(0.05, 0.95, 240) for i in range(8)}
        frames = table(scores, rng.uniform(size=240) < 0.3)
        known = in_folds(frames)
        found = nested(known)
        aurocs.append(found.bad_auroc.value)
        lost.append(found.promises[1].accepted_and_bad.value)
        gate = fit_gate(known, ALPHAS)
        ranks = gate.family.frame_ranks(frames.scores, gate.choice.names)
        none = excess_aurc(np.zeros(240), frames.is_bad)
        seen.append(none - excess_aurc(ranks, frames.is_bad))
    error = np.std(aurocs) / np.sqrt(len(aurocs))
    assert abs(np.mean(aurocs) - 0.5) < 3 * error < 0.06
    assert np.mean(seen) > 3 * np.std(seen) / np.sqrt(len(seen))
    assert np.mean(lost) < 0.1 + 3 * np.std(lost) / np.sqrt(len(lost))


def test_the_promise_is_kept_on_frames_that_chose_nothing() -> None:
    """Mean over simulated sets, of the nested figure and of new frames judged by what ships."""
    lost = {'nested': [], 'new': []}
    for seed in range(8):
        frames = planted(240, 100 + seed)
        known = in_folds(frames)
        lost['nested'].append([p.accepted_and_bad.value for p in nested(known).promises])
        gate, fresh = fit_gate(known, ALPHAS), planted(3000, 900 + seed)
        lost['new'].append([float((fresh.accepted(gate.thresholds(a)) & fresh.is_bad).mean())
                            for a in ALPHAS])
    for values in lost.values():
        means, errors = np.mean(values, 0), np.std(values, 0) / np.sqrt(len(values))
        assert (means < np.array(ALPHAS) + 2 * errors).all()
        # Nor does it keep the promise by accepting nothing.
        assert (means > 0.4 * np.array(ALPHAS)).all()


def test_the_promise_holds_for_a_network_whose_scores_are_larger_or_smaller() -> None:
    """Each network has a scale of its own, the one that ships too; the mean is over networks."""
    lost = []
    for seed in range(12):
        scales = np.exp(np.random.default_rng(seed).normal(0, 0.2, 6))
        known = in_folds(planted(300, 300 + seed), 5)
        known = replace(known, frames=scaled(known.frames, scales[known.folds]))
        named = ('margin.class_mean',)
        gate = fit_gate(known, ALPHAS, named, ranks_of_others(known, ALPHAS, named))
        fresh = scaled(planted(2000, 900 + seed), scales[5])
        lost.append([float((fresh.accepted(gate.thresholds(a)) & fresh.is_bad).mean())
                     for a in ALPHAS])
    means, errors = np.mean(lost, 0), np.std(lost, 0) / np.sqrt(len(lost))
    assert (means < np.array(ALPHAS) + 2 * errors).all()


def scaled(frames: FrameTable, scale: np.ndarray | float) -> FrameTable:
    return frames.with_score('margin.class_mean', np.clip(
        frames.scores['margin.class_mean'] * scale, 0.001, 0.99))


def test_the_rank_of_a_frame_comes_from_the_other_folds_alone() -> None:
    """Scores of one fold that are ten times as large move its own ranks, and are no reference."""
    known = in_folds(planted(300, 7), 3)
    named = ('margin.class_mean',)
    before = ranks_of_others(known, ALPHAS, named)
    shifted = replace(known, frames=scaled(known.frames, np.where(known.folds == 2, 0.1, 1.0)))
    after = ranks_of_others(shifted, ALPHAS, named)
    rest, own = shifted.split(2)
    reference = np.sort(rest.frames.scores['margin.class_mean'])
    shares = np.searchsorted(reference, own.frames.scores['margin.class_mean']) / len(reference)
    np.testing.assert_allclose(after[known.folds == 2], shares, atol=0.02)
    assert (after[known.folds == 2] < before[known.folds == 2]).all()
    assert (after[known.folds != 2] >= before[known.folds != 2] - 1e-9).all()


def test_blocks_are_dealt_out_whole_and_the_same_way_every_time() -> None:
    blocks = np.repeat([f'dive {i}' for i in range(11)], 5)
    folds = block_folds(blocks, 4)
    assert all(len(set(folds[blocks == name])) == 1 for name in blocks)
    assert sorted(np.bincount(folds)) == [10, 15, 15, 15]
    assert np.array_equal(folds, block_folds(blocks, 4))


def test_named_scores_are_not_chosen_and_must_be_there() -> None:
    known = in_folds(planted(300, 6))
    found = nested(known, ('entropy.mean', 'image.blur'))
    assert {choice.names for choice in found.choices} == {('entropy.mean', 'image.blur')}
    assert found.choices[0].guards == ('image.blur',)
    with pytest.raises(ConfigError, match="no score 'entropy.median'"):
        nested(known, ('entropy.median',))


@pytest.mark.parametrize(('value', 'word'), [(False, 'good'), (True, 'bad')])
def test_frames_that_are_all_alike_choose_no_gate(value: bool, word: str) -> None:
    frames = planted(100, 1)
    alike = FrameTable(frames.sources, frames.blocks, frames.scores, frames.mean_iou,
                       np.full(100, value))
    with pytest.raises(CalibrationError, match=f'all 100 frames to choose scores on are {word}'):
        choose_gate(alike, ALPHAS)


def test_every_block_counts_alike_however_many_frames_it_has() -> None:
    blocks = np.array(['long'] * 8 + ['short'] * 2)
    found = share_of_blocks(np.array([True] * 8 + [False] * 2), blocks)
    assert found.value == 0.5 and found.lower == 0 and found.upper == 1


def test_no_promise_lifts_a_limit_above_the_frames_of_reference() -> None:
    family = RankFamily.fit({'a': np.linspace(0.01, 0.5, 50)})
    gate = FittedGate(GateChoice(('a',), ()), family,
                      {0.1: PromisedLimit(1.9, 0.1, 50, 0.05, 1.0, 0.03, '')})
    assert gate.thresholds(0.1) == {'a': pytest.approx(0.5)}


def test_no_rank_is_promised_beyond_those_of_reference() -> None:
    ranks, good = np.linspace(0.1, 3.0, 100), np.zeros(100, bool)
    assert rank_limit(ranks, good, np.arange(100), 0.1) == HIGHEST_RANK
    assert rank_limit(ranks[:5], good[:5], np.arange(5), 0.1) == -np.inf  # too few blocks


def test_a_fifth_is_ranked_among_the_other_four_alone() -> None:
    frames = planted(400, 1)
    parts = list(_parts(frames, None))
    assert len(parts) == 5
    for part in parts:
        own, rest = part.own[0]['entropy.mean'], part.rest[0]['entropy.mean']
        assert len(own) == len(part.own_bad) == 80 and len(rest) == len(part.rest_bad) == 320
        # Among themselves the four have every rank.
        assert np.sort(rest) == pytest.approx((np.arange(320) + 1) / 320, abs=0.02)


def test_a_second_score_must_help_on_most_parts_and_not_on_one_by_much() -> None:
    class Part:
        orders = ('first', 'second')

        def __init__(self, helped: float) -> None:
            self._helped = helped

        def area(self, names: tuple[str, ...]) -> float:
            return {('first',): 0.1, ('second',): 0.3}.get(names, 0.1 - self._helped)

    assert _choose_order([Part(0.01)] * 5) == ('first', 'second')
    # The mean falls by 18 % in both, for one part alone in the second.
    assert _choose_order([Part(0.018)] * 5) == ('first', 'second')
    assert _choose_order([Part(0.094), *[Part(-0.001)] * 4]) == ('first',)
