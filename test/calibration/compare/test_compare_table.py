# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Rows with known answers: what is equal, better or worse is called so, everywhere the same."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser
import json
from pathlib import Path

from comparison_sample import comparison, COUNT, maker, planted
import numpy as np
import pytest

pytest.importorskip('jinja2', reason='jinja2 is not installed: no page is written')

from uncertainty_seg.calibration.compare.run import Comparison  # noqa: E402
from uncertainty_seg.calibration.compare.show import (
    comparison_page,
    interval_text,
    terminal_text,
    value_text,
    write_csv,
    write_json,
)
from uncertainty_seg.calibration.compare.table import Row, verdict_of  # noqa: E402
from uncertainty_seg.calibration.statistics.bootstrap import Interval  # noqa: E402
from uncertainty_seg.errors import ConfigError  # noqa: E402

OWN = {'mean_iou', 'ece', 'error_auroc', 'error_aupr', 'bad_auroc', 'excess_aurc', 'accepted@0.1',
       'accepted@0.15', 'ood_auroc reefs', 'unseen_auroc', 'unseen_aupr'}


def rows_of(found: Comparison, label: str, picked: bool = True) -> dict[str, Row]:
    return {row.kind.key: row for row in found.rows
            if row.label == label and row.is_picked == picked}


@pytest.fixture(scope='module')
def found() -> Comparison:
    # Disagreement, which the baseline does not have.
    return comparison({
        'single': planted(), 'twin': planted(), 'better': planted(0.8, 0.9, 1),
        'worse': planted(-1.0, 0.6, 2, ('mutual_information',))})


def test_a_twin_of_the_baseline_gains_exactly_nothing_and_is_not_better(
    found: Comparison
) -> None:
    rows = [row for row in found.rows if row.label == 'twin' and row.gain]
    assert {row.kind.key for row in rows} == OWN
    for row in rows:
        assert row.gain is not None
        assert (row.gain.value, row.gain.lower, row.gain.upper) == (0, 0, 0)
        assert row.verdict == 'not better than single'
    assert found.verdicts()['twin'] == 'not better than single in anything.'


def test_what_was_planted_better_has_an_interval_above_zero(found: Comparison) -> None:
    rows = rows_of(found, 'better')
    for key in OWN - {'ece'}:
        gain = rows[key].gain
        assert gain is not None and gain.lower > 0, key
        assert rows[key].verdict == 'better than single'
    # An accuracy of 0.9 at a confidence of 0.83 is farther off than one of 0.7 is not.
    assert rows['ece'].value.value == pytest.approx(0.07, abs=0.01)
    assert found.verdicts()['better'].startswith('better than single in mean IoU')


def test_what_was_planted_worse_says_not_better_and_worse(found: Comparison) -> None:
    rows = rows_of(found, 'worse')
    for key in ('mean_iou', 'error_auroc', 'bad_auroc', 'excess_aurc', 'ood_auroc reefs'):
        assert rows[key].verdict == 'not better than single: worse', key
    assert ', and worse in mean IoU' in found.verdicts()['worse']
    assert 'not better than single in anything' in found.verdicts()['worse']


def test_the_baseline_has_figures_and_no_verdict(found: Comparison) -> None:
    rows = [row for row in found.rows if row.label == 'single']
    assert rows and all(row.gain is None and row.verdict == '' for row in rows)
    assert found.baseline == 'single'


def test_a_cost_and_a_check_of_the_promise_are_not_judged(found: Comparison) -> None:
    rows = rows_of(found, 'better')
    for key in ('cost_ratio', 'memory_mb', 'accepted_and_bad@0.1'):
        assert rows[key].gain is None and rows[key].verdict == ''
    assert rows['cost_ratio'].value.value == 1.5
    assert rows['accepted_and_bad@0.1'].value.value <= 0.11


def test_a_map_is_compared_with_its_own_name_or_with_what_was_picked(found: Comparison) -> None:
    rows = [row for row in found.rows if row.label == 'worse' and not row.is_picked
            and row.kind.key == 'error_auroc']
    assert {row.name: row.against for row in rows} == {
        'entropy': 'entropy', 'mutual_information': 'picked: entropy'}


def test_maps_and_scores_that_say_nothing_are_no_rows() -> None:
    flat = planted()
    yes, no = flat.errors['entropy']
    nothing = np.zeros_like(yes)
    nothing[:, 0] = 5
    flat = replace(
        flat, errors={**flat.errors, 'mutual_information': (nothing, nothing)},
        scores={**flat.scores, 'mutual_information.mean': np.full(COUNT, 1e-9)},
        foreign={'reefs': {**flat.foreign['reefs'],
                           'mutual_information.mean': np.full(40, 1e-9)}})
    assert flat.maps() == ('entropy',)
    assert flat.told_scores() == ('entropy.mean', 'entropy.top')


def test_the_best_score_of_noise_is_flattered_and_the_picked_one_is_not() -> None:
    picked, best = [], []
    for seed in range(6):
        rng, plain = np.random.default_rng(seed), planted(seed=seed)
        noise = replace(
            plain, scores={f's.{i}': rng.uniform(size=COUNT) for i in range(60)},
            foreign={'reefs': {f's.{i}': rng.uniform(size=40) for i in range(60)}})
        rows = maker(5).rows({'single': noise}, {})
        values = {key: [row.value.value for row in rows
                        if row.kind.key == key and not row.is_picked]
                  for key in ('bad_auroc', 'ood_auroc reefs')}
        best += [max(column) for column in values.values()]
        picked += [row.value.value for row in rows if row.is_picked and row.kind.key in values]
    assert len(picked) == 12
    assert np.mean(best) > 0.62
    assert np.mean(picked) < 0.55


def test_frames_that_are_all_good_leave_bad_frames_out() -> None:
    good = planted()
    good = replace(good, is_bad=np.zeros(COUNT, bool))
    keys = {row.kind.key for row in maker().rows({'single': good}, {})}
    assert {'mean_iou', 'error_auroc', 'ood_auroc reefs'} <= keys
    assert not keys & {'bad_auroc', 'excess_aurc', 'accepted@0.1'}


def test_an_interval_that_is_not_known_is_no_verdict() -> None:
    nan = float('nan')
    assert verdict_of(Interval(nan, nan, nan, 0.95, 3), 'single').startswith('not known')


class _Cells(HTMLParser):
    """The rows of all tables of a page, as lists of text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self._is_cell = True
            self.rows[-1].append('')

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ('td', 'th')

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data


def test_terminal_page_json_and_csv_show_the_same_rows(found: Comparison, tmp_path: Path) -> None:
    write_json(tmp_path / 'j', found)
    write_csv(tmp_path / 'c', found)
    stored = json.loads((tmp_path / 'j').read_text())
    listed = list(csv.DictReader((tmp_path / 'c').read_text().splitlines()))
    shown = [row for row in _Cells(comparison_page(found)).rows if len(row) >= 7][1:]
    lines = terminal_text(found).splitlines()
    assert len(stored['rows']) == len(listed) == len(found.rows)
    assert [facts['figure'] for facts in found.summary()['rows']] == [
        facts['figure'] for facts in stored['rows'] if facts['is_picked']]
    for row, facts, line in zip(found.rows, stored['rows'], listed, strict=True):
        assert float(line['value']) == facts['value'] == row.value.value
        assert (line['verdict'], line['bundle']) == (facts['verdict'], facts['bundle'])
        gain = interval_text(row.gain, row.kind.digits, True) if row.gain else ''
        cells = [row.label, value_text(row),
                 interval_text(row.value, row.kind.digits), gain, row.verdict, row.name]
        assert any(cells == one[1:7] for one in shown), cells
        if row.is_picked:
            assert any(row.label in one and value_text(row) in one and gain in one
                       and row.verdict in one for one in lines), cells


@pytest.mark.parametrize(('name', 'shown'), [
    ('margin.mean', '(margin.mean)'), ('a (4 of 5), b (1 of 5)', '(a (4 of 5), b (1 of 5))'),
    ('image.flat_color (2 of 5), image.blue_cast (2 of 5), c (1 of 5)',
     '(image.flat_color (2 of 5), 2 more)'),
    ('a' * 60, f'({"a" * 60})'),
])
def test_the_terminal_names_whole_scores_and_counts_the_rest(
    found: Comparison, name: str, shown: str
) -> None:
    row = replace(found.rows[-1], is_picked=True, name=name)
    assert terminal_text(replace(found, rows=(row,))).count(f'  {shown}\n') == 1


def test_texts_are_escaped_and_signs_are_those_of_the_gain(found: Comparison) -> None:
    page = comparison_page(found)
    assert '<planted>' not in page and '&lt;planted&gt;' in page
    gain = Interval(0.0123, -0.0004, 0.025, 0.95, 9)
    assert interval_text(gain, 3, True) == '+0.012 [0.000, +0.025]'
    assert interval_text(gain, 2) == '[-0.00, 0.03]'
    assert interval_text(None, 3, True) == '–'


def test_a_file_that_cannot_be_written_is_one_sentence(found: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='cannot be written'):
        write_json(tmp_path / 'missing' / 'j.json', found)
