# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Comparison rows with known results: equal, better, worse; and unbiased choices."""

from dataclasses import replace
from html import unescape
import json
import re

from comparison_sample import comparison, COUNT, planted, rows
import numpy as np
import pytest

pytest.importorskip('jinja2', reason='jinja2 is not installed: no page is written')

from uncertainty_seg.calibration.compare import Comparison  # noqa: E402
from uncertainty_seg.calibration.comparison_rows import (  # noqa: E402
    FigureRow,
    folds_of,
    pick,
    picked_column,
    picked_histograms,
)
from uncertainty_seg.calibration.report.page import interval_text  # noqa: E402
from uncertainty_seg.calibration.report.reports import comparison_page  # noqa: E402
from uncertainty_seg.calibration.stats.intervals import (  # noqa: E402
    Interval,
    weighted_pixel_auroc,
)
from uncertainty_seg.errors import DatasetError  # noqa: E402

OWN = {'mean_iou', 'ece', 'error_auroc', 'bad_auroc', 'excess_aurc', 'accepted@0.1',
       'accepted@0.15', 'ood_auroc'}


def rows_of(found: Comparison, label: str) -> dict[str, FigureRow]:
    return {row.figure: row for row in found.rows if row.label == label}


@pytest.mark.parametrize(('gain', 'direction'), [
    ((0.02, 0.01, 0.03), 1), ((-0.02, -0.03, -0.01), -1), ((0.02, -0.01, 0.03), 0),
    ((0.0004, 0.0001, 0.001), 0), ((-0.0004, -0.001, -0.0001), 0), ((0.01, 0.0, 0.02), 0),
])
def test_no_difference_is_seen_where_it_rounds_to_0_or_the_interval_contains_0(
    gain: tuple[float, float, float], direction: int
) -> None:
    row = FigureRow('mean_iou', 'new', '', Interval(0.5, 0.4, 0.6, 50), Interval(*gain, 50))
    assert row.direction == direction
    assert FigureRow('mean_iou', 'new', '', row.value).direction == 0


@pytest.fixture(scope='module')
def found() -> Comparison:
    # 'worse' has a map of disagreement, which the baseline lacks.
    return comparison({
        'single': planted(), 'twin': planted(), 'better': planted(0.8, 0.9, 1),
        'worse': planted(-1.0, 0.6, 2, ('mutual_information',))})


def test_a_twin_of_the_baseline_gains_exactly_nothing_and_is_not_better(
    found: Comparison
) -> None:
    rows = [row for row in found.rows if row.label == 'twin' and row.gain]
    assert {row.figure for row in rows} == OWN
    for row in rows:
        assert row.gain is not None
        assert (row.gain.value, row.gain.lower, row.gain.upper) == (0, 0, 0)
    twin = found.verdicts()['twin']
    assert 'better in' not in twin and 'worse in' not in twin and '0.000 [0.000, 0.000]' in twin


def test_what_was_planted_better_has_an_interval_above_zero(found: Comparison) -> None:
    rows = rows_of(found, 'better')
    for key in OWN - {'ece'}:
        gain = rows[key].gain
        assert gain is not None and gain.lower > 0, key
    # An accuracy of 0.9 at a confidence of 0.83 is a calibration error of 0.07.
    assert rows['ece'].value.value == pytest.approx(0.07, abs=0.01)
    assert 'better in mean IoU' in found.verdicts()['better']
    assert {*OWN} - {'ece'} <= {*found.line()['better']['better']}


def test_what_was_planted_worse_says_not_better_and_worse(found: Comparison) -> None:
    rows = rows_of(found, 'worse')
    for key in ('mean_iou', 'error_auroc', 'bad_auroc', 'excess_aurc', 'ood_auroc'):
        gain = rows[key].gain
        assert gain is not None and gain.upper < 0, key
    assert 'worse in mean IoU' in found.verdicts()['worse']
    assert found.line()['better']['worse'] == []


def test_the_baseline_has_figures_and_no_gain(found: Comparison) -> None:
    rows = [row for row in found.rows if row.label == 'single']
    assert rows and all(row.gain is None for row in rows)
    assert found.baseline == 'single'


def test_a_cost_and_a_check_of_the_promise_are_not_judged(found: Comparison) -> None:
    rows = rows_of(found, 'better')
    for key in ('cost_ratio', 'accepted_and_bad@0.1'):
        assert rows[key].gain is None
    assert rows['cost_ratio'].value.value == 1.5
    assert rows['accepted_and_bad@0.1'].value.value <= 0.11


def test_maps_and_scores_that_say_nothing_are_not_picked() -> None:
    flat = planted()
    yes, _ = flat.errors['entropy']
    nothing = np.zeros_like(yes)
    nothing[:, 0] = 5
    flat = replace(
        flat, errors={**flat.errors, 'mutual_information': (nothing, nothing)},
        scores={**flat.scores, 'mutual_information.mean': np.full(COUNT, 1e-9)},
        foreign={**flat.foreign, 'mutual_information.mean': np.full(40, 1e-9)})
    assert flat.told_maps() == ('entropy',)
    assert flat.told_scores() == ('entropy.mean', 'entropy.top')


def test_the_picked_score_of_noise_is_not_flattered() -> None:
    values = []
    for seed in range(6):
        rng, plain = np.random.default_rng(seed), planted(seed=seed)
        noise = replace(plain, scores={f's.{i}': rng.uniform(size=COUNT) for i in range(60)},
                        foreign={f's.{i}': rng.uniform(size=40) for i in range(60)})
        values += [row.value.value for row in rows({'single': noise})
                   if row.figure in ('bad_auroc', 'ood_auroc')]
    assert len(values) == 12 and np.mean(values) < 0.55


def test_frames_that_are_all_good_leave_bad_frames_out() -> None:
    good = replace(planted(), is_bad=np.zeros(COUNT, bool))
    keys = {row.figure for row in rows({'single': good})}
    assert {'mean_iou', 'error_auroc', 'ood_auroc'} <= keys
    assert not keys & {'bad_auroc', 'excess_aurc', 'accepted@0.1'}


def cells_of(page: str) -> list[list[str]]:
    """Return the text of every cell of all tables, row by row."""
    rows = re.findall('<tr.*?</tr>', page, re.DOTALL)
    return [[unescape(re.sub('<.*?>', '', cell)) for cell in
             re.findall('<t[dh].*?>(.*?)</t[dh]>', row, re.DOTALL)] for row in rows]


def test_page_and_figures_show_the_same_rows_and_the_terminal_says_which_is_better(
    found: Comparison
) -> None:
    page = comparison_page(found)
    shown, text = cells_of(page), found.text()
    facts = json.loads(json.dumps(found.summary()['rows']))
    assert len(facts) == len(found.rows)
    for row, fact in zip(found.rows, facts, strict=True):
        assert (fact['figure'], fact['bundle']) == (row.figure, row.label)
        assert fact['value']['value'] == pytest.approx(row.value.value, nan_ok=True)
        gain = interval_text(row.gain, 3, is_gain=True) if row.gain else ''
        cells = [row.label, interval_text(row.value, 3), gain, row.name]
        assert any(cells == one[1:5] for one in shown), cells
        if row.gain and row.gain.lower > 0:
            assert row.title in found.verdicts()[row.label]
    assert all(sentence in text for sentence in found.verdicts().values())
    assert '<planted>' not in page and '&lt;planted&gt;' in page


# -------------------------------------------------------------------------------------------------
# A choice on some folds that is reported on the others is not biased.


def test_folds_keep_blocks_whole_and_are_nearly_equal() -> None:
    blocks = np.repeat(np.arange(23), 3)
    folds = folds_of(blocks, 5, 1)
    assert all(len(set(folds[blocks == block])) == 1 for block in range(23))
    assert sorted(np.bincount(folds[::3])) == [4, 4, 5, 5, 5]
    assert (folds == folds_of(blocks, 5, 1)).all()
    assert (folds != folds_of(blocks, 5, 2)).any()


def test_fewer_blocks_than_folds_are_refused() -> None:
    with pytest.raises(DatasetError, match='4'):
        folds_of(np.arange(4), 5, 0)


def test_one_choice_leaves_the_values_as_they_are_and_two_become_ranks() -> None:
    folds = np.array([0, 0, 0, 1, 1, 1])
    columns = {'a': np.array([1.0, 2, 3, 4, 5, 6]), 'b': np.array([60.0, 10, 20, 30, 40, 50])}
    assert picked_column(columns, ('a', 'a'), folds) is columns['a']
    values = picked_column(columns, ('a', 'b'), folds)
    # Fold 0 uses a, where it is below all of fold 1; fold 1 uses b, ranked among 60, 10, 20.
    assert (values[:3] < 1 / 6 + 1e-9).all() and (np.diff(values[:3]) > 0).all()
    assert (values[3:] > 0.5).all() and (np.diff(values[3:]) > 0).all()
    assert values[5] < 5 / 6
    unknown = {**columns, 'b': np.array([1.0, 2, 3, np.nan, 2, 9])}
    assert picked_column(unknown, ('a', 'b'), folds)[3] == np.inf


def test_the_choice_sees_the_other_folds_only_and_nan_is_the_least() -> None:
    folds = np.array([0, 1, 2])
    seen = []

    def merit(name: str, rows: np.ndarray) -> float:
        seen.append(rows.tolist())
        return {'a': 1.0, 'b': np.nan, 'c': 2.0 - rows[0]}[name]

    assert pick(('b', 'a', 'c'), merit, folds) == ('c', 'a', 'a')
    assert seen[0] == [False, True, True]


def test_pixels_of_two_maps_on_other_scales_are_ranked_alike() -> None:
    rng = np.random.default_rng(0)
    low, high = np.zeros((20, 101), int), np.zeros((20, 101), int)
    for frame in range(20):
        low[frame, :20] = rng.multinomial(500, np.linspace(2, 0, 20) / 20)
        high[frame, :20] = rng.multinomial(500, np.linspace(0, 2, 20) / 20)
    stretched = tuple(np.repeat(part[:, :20], 5, 1)[:, :101] // 5 for part in (high, low))
    maps = {'narrow': (high, low), 'wide': stretched}
    folds = np.arange(20) % 2
    all_frames = np.ones((1, 20))
    alone = weighted_pixel_auroc(high, low, all_frames)
    mixed = picked_histograms(maps, ('narrow', 'wide'), folds)
    assert weighted_pixel_auroc(*mixed, all_frames) == pytest.approx(alone, abs=0.03)
    assert mixed[0][folds == 0].sum() == high[folds == 0].sum()
    assert picked_histograms(maps, ('wide', 'wide'), folds) is stretched


def test_beyond_the_other_folds_the_order_is_kept() -> None:
    folds = np.array([0, 0, 0, 1, 1, 1])
    columns = {'a': np.array([1, 2, 3, 7, 8, 9]) / 100, 'b': np.array([1, 2, 3, 9, 8, 7]) / 100}
    values = picked_column(columns, ('a', 'b'), folds)
    # By b, fold 1 is above all of fold 0, so its ranks must exceed 1.
    assert (values[:3] < 1 / 6).all() and (values[3:] > 1).all()
    assert values.argsort().tolist() == [0, 1, 2, 5, 4, 3]
