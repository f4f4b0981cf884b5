# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb select: from tables on disk to a selection and its sheet, a sentence a fault."""

from __future__ import annotations

import argparse
import base64
import csv
from dataclasses import replace
from html import unescape
import json
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest
from score_tables import write_rows

pq = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed: no score table')

from uncertainty_seg import errors  # noqa: E402
from uncertainty_seg.backends.registry import open_pipeline  # noqa: E402
from uncertainty_seg.cli import select as select_frames  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.render import FrameView, overlay  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.data.selection import sheet as select_sheet  # noqa: E402
from uncertainty_seg.data.selection.pool import STRATEGIES  # noqa: E402
from uncertainty_seg.data.selection.sheet import PicturePlace, thumbnails  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402
from uncertainty_seg.storage.foreign_files import from_csv_text  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.storage.perceptual_hash import perceptual_hash  # noqa: E402
from uncertainty_seg.storage.score_rows import (  # noqa: E402
    info_of,
    read_rows,
    ScoreRow,
    TableInfo,
    unique_dives,
)

INFO = TableInfo('suim', 'ab' * 32, ('water', 'robot'), ((0, 0, 9), (9, 0, 0)), 20, 0,
                 ('entropy.mean', 'mutual_information.top'), 3)


def row(index: int, ratio: float, dive: str = 'dive 1', source: str = '/nowhere',
        kind: str = 'bag', topic: str = '/cam', phash: int | None = None) -> ScoreRow:
    """Return a frame of its own kind, unless a hash is given."""
    rng = np.random.default_rng(index)
    share = float(rng.random())
    return ScoreRow(dive, source, kind, topic, index, 10**12 + index * 10**9, 48, 64, ratio <= 1,
                    'scores', ratio, [ratio / 10, -ratio], [share, 1 - share],
                    int(rng.integers(0, 2**64, dtype=np.uint64)) if phash is None else phash,
                    rng.normal(size=3).astype(np.float32))


def table(path: Path, rows: list[ScoreRow], info: TableInfo = INFO) -> Path:
    write_rows(path / 'part.parquet', info, rows)
    return path


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten frames of two dives, scores 0.3 to 3."""
    return table(tmp_path / 'ten', [row(k, 0.3 * (k + 1), f'dive {k % 2}') for k in range(10)])


def said(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the JSON line and what went to stderr."""
    got = capsys.readouterr()
    return json.loads(got.out.splitlines()[-1]), got.err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run with a fault in it; return the one sentence."""
    assert main(['select', *map(str, words)]) == 2
    got = capsys.readouterr()
    assert got.out == ''
    assert got.err.count('\n') == 1 and got.err.endswith('.\n'), got.err
    return got.err.removeprefix('uncertainty_seg select: ')


def indices(folder: Path) -> list[int]:
    return list(pq.read_table(folder / 'selection.parquet').column('index').to_pylist())


def test_the_strategies_of_the_help_are_those_of_the_core() -> None:
    assert sorted(select_frames.STRATEGIES) == sorted(STRATEGIES)


def test_every_option_and_strategy_is_on_its_page() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    select_frames.add_arguments(parser)
    known = {word for action in parser._actions for word in action.option_strings}
    page = (Path(__file__).resolve().parents[3] / 'docs' / 'select.md').read_text()
    shown = set(re.findall(r'(?<![\w-])--?[a-z][a-z-]*', page))
    # Of make-dive, score, export-labels and a benchmark, which stand on the page too.
    assert known <= shown <= known | {'--duration', '--rate', '--model', '--bundle'}
    assert all(f'| `{name}` |' in page for name in STRATEGIES)


def test_what_is_written_is_the_chosen_rows_with_rank_and_reason(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert main(['select', str(ten), '-n', '3', '--strategy', 'top-k', '-o', str(out)]) == 0
    facts, err = said(capsys)
    assert err == ''
    assert (facts['chosen'], facts['candidates'], facts['dives_chosen']) == (3, 10, 2)
    chosen, whole = pq.read_table(out / 'selection.parquet'), read_rows(ten)
    assert indices(out) == [9, 8, 7]
    assert chosen.select(whole.column_names).equals(whole.take([9, 8, 7]))
    assert chosen.column_names[-7:] == ['rank', 'strategy', 'origin', 'reason', 'stands_for',
                                        'high_scores', 'neighbours']
    assert chosen.column('origin').to_pylist() == ['selected'] * 3
    assert chosen.column('rank').to_pylist() == [1, 2, 3]
    assert chosen.column('strategy').to_pylist() == ['top-k'] * 3
    assert chosen.column('stands_for').to_pylist() == [0, 0, 0]
    assert chosen.column('reason')[0].as_py().startswith(
        'top-k: one of the most uncertain; score_ratio 3, above 95 % of 10 frames; ')
    # The next step reads it as a table, and finds what made it.
    assert info_of(read_rows(out).schema) == INFO
    kept = json.loads(chosen.schema.metadata[b'uncertainty_seg.selection'])
    assert (kept['strategy'], kept['seed'], kept['count']) == ('top-k', 0, 3)


def test_the_csv_says_the_same(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['select', str(ten), '-n', '4', '-o', str(tmp_path / 'out')]) == 0
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet')
    with (tmp_path / 'out' / 'selection.csv').open(newline='', encoding='utf-8') as file:
        lines = list(csv.DictReader(file))
    assert [line['frame_key'] for line in lines] == chosen.column('frame_key').to_pylist()
    assert [line['reason'] for line in lines] == chosen.column('reason').to_pylist()
    assert [int(line['phash'], 16) for line in lines] == chosen.column('phash').to_pylist()
    assert [float(line['score_ratio']) for line in lines] == pytest.approx(
        chosen.column('score_ratio').to_pylist(), rel=1e-6)
    assert set(chosen.column_names) - set(lines[0]) == {'features'}


def test_a_formula_in_a_name_is_a_text_in_the_csv_and_numbers_stay_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dive, source = '=HYPERLINK("http://x","dive")', '@SUM(A1)'
    rows = [row(k, 1.5, dive, source, topic='+cam') for k in range(3)]
    scored = table(tmp_path / 'table', rows)
    assert main(['select', str(scored), '-n', '3', '-o', str(tmp_path / 'out')]) == 0
    with (tmp_path / 'out' / 'selection.csv').open(newline='', encoding='utf-8') as file:
        lines = list(csv.DictReader(file))
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet')
    for name in ('dive', 'source', 'topic'):
        cells, texts = [line[name] for line in lines], chosen.column(name).to_pylist()
        assert cells == [f"'{text}" for text in texts]
        assert [from_csv_text(cell) for cell in cells] == texts
    assert all(cell[:1] not in tuple('=+@\t\r') for line in lines for cell in line.values())
    assert {line['score.mutual_information.top'] for line in lines} == {'-1.5'}


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(k, 1.0 + k % 3, f'dive {k % 4}') for k in range(40)]
    one, two = table(tmp_path / 'one', rows[:25]), table(tmp_path / 'two', rows[25:])
    for out, tables in (('a', (one, two)), ('b', (two, one))):
        assert main(['select', *map(str, tables), '-n', '12', '--strategy', 'power-bald',
                     '-o', str(tmp_path / out)]) == 0
    for name in ('selection.csv', 'selection.parquet', 'contact_sheet.html'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes(), name


@pytest.mark.parametrize(('options', 'want'), [
    (['--strategy', 'threshold', '-n', '10'], [9, 8, 7, 6, 5, 4, 3]),  # above 1
    (['--strategy', 'threshold', '-n', '10', '--limit', '2.5'], [9, 8]),
    (['--strategy', 'top-k', '-n', '4', '--per-dive', '1'], [9, 8]),
    (['--strategy', 'top-k', '-n', '4', '--per-dive', '50%'], [9, 8, 7, 6]),
    (['--strategy', 'top-k', '-n', '4', '--per-dive', '0.3'], [9, 8, 7, 6]),
    (['--strategy', 'top-k', '-n', '3', '--min-gap', '4'], [9, 8, 5]),  # a second apart each
    (['--strategy', 'top-k', '-n', '2', '--score', 'entropy.mean'], [9, 8]),
    (['--strategy', 'top-k', '-n', '2', '--score', 'score.mutual_information.top'], [0, 1]),
])
def test_options_choose(
    options: list[str], want: list[int], ten: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(['select', str(ten), '-o', str(tmp_path / 'out'), *options]) == 0
    assert indices(tmp_path / 'out') == want


def test_fewer_than_asked_for_is_said_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = table(tmp_path / 'alike', [row(k, float(k), phash=7) for k in range(5)])
    assert main(['select', str(alike), '-n', '3', '-o', str(tmp_path / 'out')]) == 0
    facts, err = said(capsys)
    assert err == 'only 1 of the 3 frames asked for were left of 5: 4 look like others.\n'
    assert (facts['chosen'], facts['near_duplicates']) == (1, 4)
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet')
    assert chosen.column('stands_for').to_pylist() == [4]
    assert 'it stands for 4 near duplicates' in chosen.column('reason')[0].as_py()
    assert err.strip()[1:] in (tmp_path / 'out' / 'contact_sheet.html').read_text()
    assert main(['select', str(alike), '-n', '3', '--min-distance', '0', '--force',
                 '-o', str(tmp_path / 'out')]) == 0
    assert len(indices(tmp_path / 'out')) == 3


def test_frames_that_could_not_be_scored_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path / 'nan', [row(0, 1.0), row(1, float('nan')), row(2, 2.0)])
    assert main(['select', str(rows), '-n', '2', '-o', str(tmp_path / 'out')]) == 0
    facts, err = said(capsys)
    assert indices(tmp_path / 'out') == [1, 2]
    assert facts['unscored'] == 1
    assert err.startswith('1 of the frames could not be scored: first to be chosen')
    assert main(['select', str(rows), '-n', '3', '--unscored', 'skip', '--force',
                 '-o', str(tmp_path / 'out')]) == 0
    assert 1 not in indices(tmp_path / 'out')
    assert said(capsys)[1] == ('only 2 of the 3 frames asked for were left of 3: 0 look like '
                               'others, 1 could not be scored.\n')


def test_what_is_labelled_gives_the_limit_and_is_not_chosen_again(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert main(['select', str(ten), '-n', '3', '--strategy', 'top-k', '-o', str(first)]) == 0
    # A selection is read as a table.
    assert main(['select', str(ten), '-n', '3', '--strategy', 'top-k', '-o', str(second),
                 '--labelled', str(first)]) == 0
    assert indices(second) == [6, 5, 4]
    # The median of the labelled scores 0.3, 0.6, 0.9 is the limit of the seed paper's strategy.
    low = table(tmp_path / 'low', [row(100 + k, 0.3 * (k + 1)) for k in range(3)])
    assert main(['select', str(ten), '-n', '10', '--strategy', 'threshold', '--force',
                 '-o', str(second), '--labelled', str(low), '--limit-quantile', '0.5']) == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == '{']
    assert facts[-1]['limit'] == pytest.approx(0.6)
    assert indices(second) == [9, 8, 7, 6, 5, 4, 3, 2]


def origins(out: Path, capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """Return how the frames of a selection came about; what is said of them must agree."""
    assert main(['select', *map(str, words), '--force', '-o', str(out)]) == 0
    facts, err = said(capsys)
    found: list[str] = pq.read_table(out / 'selection.parquet').column('origin').to_pylist()
    assert facts['control'] == found.count('control')
    is_remarked = 'do not count as drawn by chance' in err
    assert is_remarked == ('random' in words and 'selected' in found)
    return found


RANDOM = ('--strategy', 'random', '--sheet', '0')


@pytest.mark.parametrize('words, is_drawn', [
    ((), True),
    (('--unscored', 'skip'), True),  # all are scored
    (('--per-dive', '2'), False),
    (('--per-dive', '100%'), False),
    (('--min-gap', '0.5'), False),
    (('--min-gap', '0'), True),
])
def test_a_draw_is_a_control_if_every_frame_had_the_same_chance(
    words: tuple[str, ...], is_drawn: bool, ten: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = origins(tmp_path / 'out', capsys, ten, '-n', 4, *RANDOM, *words)
    assert found == ['control' if is_drawn else 'selected'] * 4


def test_a_draw_of_what_others_left_is_none(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, top = tmp_path / 'out', tmp_path / 'top'
    # Two that look alike, and one without a score.
    odd = table(tmp_path / 'odd', [row(20, 1.0, phash=7), row(21, 2.0, phash=7),
                                   row(22, float('nan'))])
    assert origins(out, capsys, odd, '-n', 2, *RANDOM) == ['selected'] * 2
    whole = (*RANDOM, '--min-distance', 0)
    assert origins(out, capsys, odd, '-n', 2, *whole) == ['control'] * 2
    assert origins(out, capsys, odd, '-n', 2, *whole, '--unscored', 'skip') == ['selected'] * 2
    assert origins(top, capsys, ten, '-n', 5, '--strategy', 'top-k', '--sheet', 0) == \
        ['selected'] * 5
    assert origins(out, capsys, ten, '-n', 2, *whole, '--labelled', top) == ['selected'] * 2
    # Labelled frames of other dives keep nothing out.
    assert origins(out, capsys, odd, '-n', 2, *whole, '--labelled', top) == ['control'] * 2


def test_frames_that_were_selected_once_are_never_drawn_by_chance(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top, drawn, out = tmp_path / 'top', tmp_path / 'drawn', tmp_path / 'out'
    origins(top, capsys, ten, '-n', 5, '--strategy', 'top-k', '--sheet', 0)
    assert origins(out, capsys, top, '-n', 3, *RANDOM) == ['selected'] * 3
    assert origins(tmp_path / 'again', capsys, out, '-n', 2, *RANDOM) == ['selected'] * 2
    # Beside the whole table a selection takes nothing from the draw.
    assert origins(out, capsys, top, ten, '-n', 5, *RANDOM) == ['control'] * 5
    assert origins(drawn, capsys, ten, '-n', 6, *RANDOM) == ['control'] * 6
    assert origins(out, capsys, drawn, '-n', 3, *RANDOM, '--seed', 1) == ['control'] * 3
    assert origins(out, capsys, drawn, '-n', 3, '--strategy', 'top-k', '--sheet', 0) == \
        ['selected'] * 3
    # A selection of a release that did not write the origin.
    rows = pq.read_table(drawn / 'selection.parquet')
    pq.write_table(rows.drop_columns(['origin']), drawn / 'selection.parquet')
    assert origins(out, capsys, drawn, '-n', 3, *RANDOM) == ['selected'] * 3


def test_dives_of_one_name_are_two_for_the_cap_and_in_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    north, south, west = (
        table(tmp_path / name, [row(10 * k + n, 3 - 0.1 * n, 'bag', f'/{name}/bag')
                                for n in range(4)])
        for k, name in enumerate(('north', 'south', 'west')))
    # sha256sum of '/north/bag' and so on.
    names = {'/north/bag': 'bag_f1d93c', '/south/bag': 'bag_802f93', '/west/bag': 'bag_939292'}
    words = ['--strategy', 'top-k', '--per-dive', '2', '-n', '4']
    assert main(['select', str(north), str(south), *words, '-o', str(tmp_path / 'out')]) == 0
    facts, err = said(capsys)
    assert (facts['chosen'], facts['dives'], facts['dives_chosen']) == (4, 2, 2)
    assert err.startswith('2 dives of different paths share a name') and err.count('\n') == 1
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet')
    assert [names[run] for run in chosen.column('run').to_pylist()] == \
        chosen.column('dive').to_pylist() == unique_dives(chosen)
    # What is labelled is of other runs too, whatever comes of it.
    assert main(['select', str(west), '--labelled', str(north), *words[:-1], '2',
                 '-o', str(tmp_path / 'next')]) == 0
    assert set(pq.read_table(tmp_path / 'next' / 'selection.parquet').column('dive').to_pylist()) \
        == {names['/west/bag']}


def test_a_frame_that_is_there_twice_is_one(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['select', str(ten), str(ten), '-n', '10', '-o', str(tmp_path / 'out')]) == 0
    facts, err = said(capsys)
    assert (facts['candidates'], facts['near_duplicates']) == (10, 0)
    assert err.startswith('10 rows of ') and err.count('\n') == 1


@pytest.mark.parametrize(('options', 'sentence'), [
    (['-n', '11'], '11 frames were asked of 10, expected at most 10: give a smaller -n'),
    (['-n', '2', '--score', 'entropy.max'], "no score 'entropy.max', expected one of score_ratio, "
     'entropy.mean, mutual_information.top.'),
    (['-n', '2', '--strategy', 'threshold', '--limit', '3.5'],
     'no frame has a score_ratio above the limit 3.5: the largest is 3'),
    (['-n', '2', '--strategy', 'threshold', '--score', 'entropy.mean'],
     'threshold has no limit for score.entropy.mean, expected a number: give --limit'),
    (['-n', '2', '--strategy', 'power-bald', '--score', 'mutual_information.top'],
     'mutual_information.top goes down to -3, expected scores from 0 up'),
    (['-n', '2', '--labelled', '/no/such'], 'no table at /no/such'),
])
def test_an_option_that_does_not_fit_is_one_sentence(
    options: list[str], sentence: str, ten: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refused(capsys, ten, '-o', tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('words', 'sentence'), [
    (['-n', '0'], '-n 0, expected 1 to 1000000000.'),
    (['-n', '-3'], '-n -3, expected 1 to 1000000000.'),
    (['-n', 'all'], "-n 'all', expected a whole number."),
    (['--per-dive', '0'], '--per-dive 0, expected a whole number from 1, or a share of all'),
    (['--per-dive', '120%'], '--per-dive 120%, expected'),
    (['--per-dive', '1.5'], '--per-dive 1.5, expected'),
    (['--per-dive', 'few'], "--per-dive 'few', expected a number."),
    (['--beta', '-1'], '--beta -1, expected a number from 0 up.'),
    (['--beta', 'nan'], '--beta nan, expected a number from 0 up.'),
    (['--min-gap', '-1'], '--min-gap -1, expected a number from 0 up.'),
    (['--min-distance', '33'], '--min-distance 33, expected 0 to 32.'),
    (['--limit', 'high'], "--limit 'high', expected a number."),
    (['--limit-quantile', '2'], '--limit-quantile 2, expected a number from 0 to 1.'),
    (['--seed', '-1'], '--seed -1, expected'), (['--sheet', '-1'], '--sheet -1, expected'),
])
def test_a_number_that_is_none_is_one_sentence_before_anything_is_read(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, '/no/such', *([] if '-n' in words else ['-n', '1']),
                   *words).startswith(sentence)


@pytest.mark.parametrize('words', [[], ['-n', '1', '--strategy', 'best']])
def test_misuse_is_told_before_anything_is_read(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['select', '/no/such', *words])
    assert stop.value.code == 2
    assert 'error: ' in capsys.readouterr().err


def test_a_table_that_cannot_be_used_is_one_sentence(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ['-n', '1', '-o', tmp_path / 'out']
    assert 'no table at' in refused(capsys, tmp_path / 'none', *out)
    broken = tmp_path / 'broken.parquet'
    broken.write_bytes((ten / 'part.parquet').read_bytes()[:-200])
    assert 'broken.parquet cannot be read' in refused(capsys, broken, *out)
    empty = table(tmp_path / 'empty', [])
    assert 'empty has no frame, expected at least one' in refused(capsys, empty, *out)
    (tmp_path / 'hollow').mkdir()
    assert 'no part in' in refused(capsys, tmp_path / 'hollow', *out)
    plain = tmp_path / 'plain.parquet'
    pq.write_table(pq.read_table(ten / 'part.parquet').replace_schema_metadata({}), plain)
    assert 'without the metadata of a score table' in refused(capsys, plain, *out)


def test_tables_of_different_models_are_refused(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = table(tmp_path / 'other', [row(50, 1.0)], replace(INFO, model_sha256='cd' * 32))
    out = ['-n', '1', '-o', tmp_path / 'out']
    sentence = 'was scored with another model or settings than'
    assert sentence in refused(capsys, ten, other, *out)


@pytest.mark.parametrize('has_names', [True, False])
def test_a_labelled_picture_is_not_chosen_again_from_a_folder_that_another_came_into(
    tmp_path: Path, has_names: bool
) -> None:
    """The same pictures by another path; without names they are known by their places."""
    def picture(k: int, at: int, source: str) -> ScoreRow:
        made = row(k, 3.0 - k / 10, 'dive', source, 'folder', '', 1 << k)
        return replace(made, index=at, stamp_ns=at * 10**9, file=f'{k}.png' if has_names else '')

    moved = 1 if has_names else 0
    before = table(tmp_path / 'before', [picture(k, k, '/old/reef') for k in range(3)])
    rows = [picture(k, k + moved, '/new/reef') for k in range(5)]
    now = table(tmp_path / 'now', [picture(9, 0, '/new/reef'), *rows] if has_names else rows)
    assert main(['select', str(now), '-n', '2', '--strategy', 'top-k', '--min-distance', '0',
                 '--sheet', '0', '-o', str(tmp_path / 'out'), '--labelled', str(before)]) == 0
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet').column('phash').to_pylist()
    assert chosen == [1 << 3, 1 << 4]


def test_what_was_labelled_with_the_network_of_before_is_not_chosen_again(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Frame 9, the most uncertain, by the network before it was trained again; and a frame of
    # another dive that looks like frame 8, which had the lowest score.
    alike = pq.read_table(ten / 'part.parquet').column('phash').to_pylist()[8]
    before = table(tmp_path / 'before', [row(9, 0.1, 'dive 1'), row(70, 9.0, 'old', phash=alike)],
                   replace(INFO, model_sha256='cd' * 32))
    out = tmp_path / 'out'
    assert main(['select', str(ten), '-n', '2', '--strategy', 'top-k', '-o', str(out),
                 '--labelled', str(before)]) == 0
    assert sorted(indices(out)) == [6, 7]
    assert '2 labelled frames were scored with another model' in said(capsys)[1]
    assert 'no labelled frame has a score_ratio of this model' in refused(
        capsys, ten, '-n', 1, '-o', tmp_path / 'next', '--strategy', 'threshold', '--labelled',
        before)


@pytest.mark.parametrize(('column', 'options', 'sentence'), [
    ('dive', [], 'has no column dive'), ('frame_key', [], 'has no column frame_key'),
    ('score.entropy.mean', ['--score', 'entropy.mean'], 'no column score.entropy.mean'),
    ('phash', [], 'no hashes'), ('features', ['--strategy', 'k-centre'], 'no features'),
    ('share.robot', ['--strategy', 'class-balanced'], 'no shares of classes'),
])
def test_a_missing_column_is_named(
    column: str, options: list[str], sentence: str, ten: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = pq.read_table(ten / 'part.parquet')
    pq.write_table(whole.drop_columns([column]), tmp_path / 'less.parquet')
    words = ['-n', 1, '-o', tmp_path / 'out', *options]
    assert sentence in refused(capsys, tmp_path / 'less.parquet', *words)
    # Beside a whole one.
    assert 'different columns' in refused(capsys, ten, tmp_path / 'less.parquet', *words)


def test_a_selection_is_replaced_only_if_asked(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert main(['select', str(ten), '-n', '1', '-o', str(out)]) == 0
    before = (out / 'selection.parquet').read_bytes()
    capsys.readouterr()
    assert 'holds a selection already' in refused(capsys, ten, '-n', 2, '-o', out)
    assert (out / 'selection.parquet').read_bytes() == before
    # One that fails leaves the old one whole.
    refused(capsys, ten, '-n', 11, '-o', out, '--force')
    assert (out / 'selection.parquet').read_bytes() == before
    assert main(['select', str(ten), '-n', '2', '-o', str(out), '--force', '--sheet', '0']) == 0
    capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == ['selection.csv', 'selection.parquet']
    (tmp_path / 'file').write_text('')
    assert 'is a file' in refused(capsys, ten, '-n', 2, '-o', tmp_path / 'file')
    assert 'cannot be made' in refused(capsys, ten, '-n', 2, '-o', tmp_path / 'file' / 'below')


def test_a_file_that_cannot_be_written_leaves_no_draft(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out' / 'selection.csv').mkdir(parents=True)
    assert 'selection.csv cannot be written' in refused(capsys, ten, '-n', 1,
                                                        '-o', tmp_path / 'out')
    assert not list((tmp_path / 'out').glob('.*'))


def colors_of(page: str) -> list[tuple[int, ...]]:
    """Return the mean colour, BGR, of each picture of a page, in order; all must be small."""
    found = []
    for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        picture = np.asarray(image)
        assert picture.shape[0] <= 192 and picture.shape[1] <= 256
        found.append(tuple(int(v) for v in picture.mean((0, 1)).round(-1)))
    return found


def textured(color: tuple[int, int, int], height: int, width: int, seed: int) -> np.ndarray:
    """Return a picture of that mean colour whose hash is its own."""
    blocks = np.random.default_rng(seed).uniform(-30, 30, (6, 8)).astype(np.float32)
    waves = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(np.array(color) + waves - waves.mean(), 0, 255).round().astype(np.uint8)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """Two frames of a bag, two pictures of a folder, one of a bag that is gone."""
    red = [textured((60, 60, 60 + 30 * k), 48, 64, k) for k in range(5)]
    blue = [textured((60 + 60 * k, 60, 60), 900, 600, 9 + k) for k in range(3)]
    with BagWriter(tmp_path / 'bag') as bag:
        for k, image in enumerate(red):
            bag.write_image('/cam', 10**12 + k * 10**9, 'cam', image, 'bgr8')
    (tmp_path / 'pictures').mkdir()
    for k, image in enumerate(blue):
        cv2.imwrite(str(tmp_path / 'pictures' / f'{k}.png'), image)
    bag_at, folder_at = str(tmp_path / 'bag'), str(tmp_path / 'pictures')

    def of_bag(k: int, ratio: float) -> ScoreRow:
        return row(k, ratio, source=bag_at, phash=perceptual_hash(red[k]))

    def of_folder(k: int, ratio: float, dive: str) -> ScoreRow:
        made = row(k, ratio, dive, folder_at, 'folder', '', perceptual_hash(blue[k]))
        return replace(made, stamp_ns=k * 10**9)

    # A time in a dive counts from its first row, chosen or not.
    return table(tmp_path / 'seen', [
        of_bag(0, 0.1), of_bag(1, 5.0), of_bag(4, 3.0), of_folder(2, 4.0, '<dive & 2>'),
        of_folder(1, 2.0, 'dive 2'), row(3, 1.0, 'gone', str(tmp_path / 'gone'))])


def test_the_sheet_shows_each_frame_with_its_picture_dive_time_and_reason(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['select', str(seen), '-n', '5', '--strategy', 'top-k', '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    assert said(capsys)[0]['pictures_missing'] == 1
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert colors_of(page) == [(60, 60, 90), (180, 60, 60), (60, 60, 180), (120, 60, 60)]
    captions = [unescape(re.sub('<[^>]+>', '|', text)) for text in
                re.findall('<figcaption>(.*?)</figcaption>', page, re.DOTALL)]
    assert captions[0].startswith('|1| · dive 1 · 0:00:01|score_ratio 5.000||High: entropy.mean '
                                  '0.5 (above 91.6 %)||top-k: ')
    assert 'Without masks and heatmaps: ' in page  # the bundle of the table is not there
    assert captions[1].startswith('|2| · <dive & 2>|score_ratio 4.000|')
    assert captions[2].startswith('|3| · dive 1 · 0:00:04|')
    assert captions[4].startswith('|5| · gone · 0:00:00|')
    reasons = pq.read_table(tmp_path / 'out' / 'selection.parquet').column('reason').to_pylist()
    assert all(reason in caption for reason, caption in zip(reasons, captions, strict=True))
    assert '1 of 5 pictures could not be read from their sources and are grey.' in page
    assert page.count('class="none"') == 1
    assert f'{tmp_path / "gone"}' in page
    assert '5 of 6 frames, from 4 of 4 dives, by top-k on score_ratio, seed 0.' in page
    # Nothing is fetched: no script, no address but those in the page.
    assert '<script' not in page
    assert {text.split(':')[0] for text in re.findall(r'(?:src|href)="([^"]*)"', page)} == {'data'}


def test_no_name_of_a_dive_a_file_or_a_model_is_markup_on_the_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = '<script>alert("x")</script> & \'y\''
    rows = [row(0, 1.0, nasty, f'{tmp_path}/gone/{nasty}', topic=nasty), row(1, 2.0, nasty)]
    info = replace(INFO, model=nasty, score_names=(nasty, 'b'))
    given = table(tmp_path / 'nasty', rows, info)
    assert main(['select', str(given), '-n', '2', '--strategy', 'top-k', '--score', nasty,
                 '--no-masks', '-o', str(tmp_path / 'out')]) == 0
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert '<script' not in page
    # Score in the lead, model and score as facts, dive and score of two cards (the dive in the key
    # too), the source that could not be read, and the dive in the table.
    escaped = page.count('&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &#39;y&#39;')
    assert escaped == page.count('script&gt;') / 2 >= 10


def test_a_sheet_without_jinja2_is_refused_before_anything_is_read(
    ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = errors.find_spec
    monkeypatch.setattr(errors, 'find_spec',
                        lambda name: None if name == 'jinja2' else find(name))
    words = ['select', str(ten), '-n', '1', '-o', str(tmp_path / 'out')]
    assert main(words) == 1
    assert 'jinja2 is not installed' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert main([*words, '--sheet', '0']) == 0


def test_a_sheet_of_fewer_pictures_says_where_the_others_are(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['select', str(seen), '-n', '5', '--strategy', 'top-k', '--sheet', '2',
                 '-o', str(tmp_path / 'out')]) == 0
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert len(colors_of(page)) == 2
    assert '3 more frames are in selection.csv.' in page


def test_a_picture_that_is_damaged_is_grey_and_the_next_one_is_not(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'pictures' / '1.png').write_bytes(b'no picture')
    assert main(['select', str(seen), '-n', '4', '--strategy', 'top-k',
                 '-o', str(tmp_path / 'out')]) == 0
    assert said(capsys)[0]['pictures_missing'] == 1
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert '1 of 4 pictures could not be read' in page
    assert colors_of(page) == [(60, 60, 90), (180, 60, 60), (60, 60, 180)]


def test_pictures_are_read_where_their_sources_are_now(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['select', str(seen), '-n', '4', '--strategy', 'top-k', '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    pages = [(tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')]
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'pictures').rename(tmp_path / 'disk' / 'pictures')
    assert main([*words, '--force', '--root', str(tmp_path / 'disk')]) == 0
    pages.append((tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8'))
    assert len(colors_of(pages[0])) == 4 and colors_of(pages[0]) == colors_of(pages[1])
    capsys.readouterr()
    assert main([*words, '--force', '--root', str(tmp_path / 'nowhere')]) == 2
    assert 'expected a folder that holds the sources' in capsys.readouterr().err


def test_a_picture_that_is_another_one_now_is_grey_and_said(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every picture behind it is in another place now.
    (tmp_path / 'pictures' / '0.png').unlink()
    words = ['select', str(seen), '-n', '5', '--strategy', 'top-k', '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    facts, err = said(capsys)
    # The last one has no picture, as before, and the one of the bag that is gone has none.
    assert (facts['pictures_missing'], facts['pictures_changed']) == (3, 1)
    assert err == ('1 of the frames are other pictures now than those that were scored: score '
                   'their sources again.\n')
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert colors_of(page) == [(60, 60, 90), (60, 60, 180)]
    assert page.count('>another picture now<') == 1 and page.count('>no picture<') == 2
    assert ('2 of 5 pictures could not be read from their sources and are grey. 1 of 5 frames are '
            'other pictures now than those that were scored, and are grey.') in page
    assert (f'{tmp_path / "pictures"} has changed since it was scored: 1 of its frames are other '
            'pictures now; score it again') in page


@pytest.mark.parametrize(('late_ns', 'bits', 'is_same'), [
    (0, 0, True), (0, 0b11, True), (0, 0b111, False), (1, 0, False), (0, None, True),
    (1, None, False)])
def test_a_picture_is_known_by_its_stamp_and_within_two_bits_by_its_hash(
    late_ns: int, bits: int | None, is_same: bool, tmp_path: Path
) -> None:
    image = textured((90, 90, 90), 48, 64, 7)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write_image('/cam', 17, 'cam', image, 'bgr8')
    # A table may have no column of hashes.
    phash = None if bits is None else perceptual_hash(image) ^ bits
    place = PicturePlace(str(tmp_path / 'bag'), 'bag', '/cam', 0, 17 + late_ns, phash)
    found = thumbnails([place])
    assert (set(found.addresses), found.changed) == (
        ({place}, set()) if is_same else (set(), {place}))
    assert len(found.problems) == (not is_same)


@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '0:00:00'), (59.9, '0:00:59'), (3671, '1:01:11'), (36_000, '10:00:00')])
def test_times_are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert select_sheet.clock(seconds) == text


def test_without_pyarrow_it_says_what_to_install(ten: Path, tmp_path: Path) -> None:
    code = ('import sys\nsys.modules["pyarrow"] = None\nsys.modules["pyarrow.parquet"] = None\n'
            'from uncertainty_seg.cli.main import main\nsys.exit(main(sys.argv[1:]))\n')
    done = subprocess.run(
        [sys.executable, '-c', code, 'select', str(ten), '-n', '1', '-o', str(tmp_path / 'out')],
        capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1 and "pip install '.[score]'" in done.stderr


def test_frames_without_stamps_count_as_a_second_apart_which_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [replace(row(k, 1.0 + k), stamp_ns=0) for k in range(12)]
    given = table(tmp_path / 'table', rows)
    words = ['select', str(given), '-n', '6', '--min-gap', '2', '--strategy', 'top-k', '-o',
             str(tmp_path / 'out'), '--sheet', '0']
    assert main(words) == 0
    assert said(capsys)[1] == ('1 dives have no stamps, or hardly any that differ (dive 1): their '
                               'frames count as 1 s apart.\n')
    assert indices(tmp_path / 'out') == [11, 9, 7, 5, 3, 1]


def test_what_is_high_in_a_frame_and_what_is_next_to_it_is_written(
    ten: Path, tmp_path: Path
) -> None:
    assert main(['select', str(ten), '-n', '2', '--strategy', 'top-k', '-o', str(tmp_path / 'out'),
                 '--sheet', '0']) == 0
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet').to_pylist()
    # Of the ten the scores of mutual information fall where those of entropy rise.
    assert chosen[0]['high_scores'] == 'entropy.mean 0.3 (above 95 %)'
    assert re.fullmatch(r'2 s before: score_ratio 2.4, [\d.]+ away', chosen[0]['neighbours'])
    assert (chosen[0]['index'], chosen[1]['index']) == (9, 8)


@pytest.mark.release
def test_the_sheet_shows_mask_and_heatmap_where_the_model_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    (tmp_path / 'pictures').mkdir()
    for k, color in enumerate([(250, 0, 0), (0, 0, 250), (128, 128, 128)]):
        cv2.imwrite(str(tmp_path / 'pictures' / f'{k}.png'), np.full((48, 64, 3), color, np.uint8))
    assert main(['score', str(tmp_path / 'pictures'), '--out', str(tmp_path / 'table'), '--model',
                 str(bundle), '--backend', 'onnxruntime']) == 0
    words = ['select', str(tmp_path / 'table'), '-n', '3', '--strategy', 'top-k',
             '--min-distance', '0', '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert 'Without masks' not in page
    colors = colors_of(page)
    assert len(colors) == 9
    assert colors[0] == (130, 130, 130) and set(colors[3::3]) == {(250, 0, 0), (0, 0, 250)}
    with open_pipeline(load_bundle(str(bundle)), Settings(backend='onnxruntime')) as pipeline:
        for image, mask, heatmap in zip(colors[::3], colors[1::3], colors[2::3], strict=True):
            solid = np.full((48, 64, 3), np.clip(image, 0, 250), np.uint8)
            view = FrameView(solid, pipeline.measure(solid), pipeline.card, pipeline.settings,
                             pipeline.calibrated)
            laid = overlay(solid, view.mask, pipeline.card.palette)
            for found, drawn in ((mask, laid), (heatmap, view.heatmap)):
                assert np.abs(np.array(found) - drawn.mean((0, 1))).max() <= 7
    assert max(abs(a - b) for a, b in zip(colors[2], colors[5], strict=True)) > 50
    assert main([*words, '--force', '--no-masks']) == 0
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert len(colors_of(page)) == 3
    make_tiny_bundle(bundle, words='another')
    assert main([*words, '--force']) == 0
    page = (tmp_path / 'out' / 'contact_sheet.html').read_text(encoding='utf-8')
    assert len(colors_of(page)) == 3 and 'is another model than the one of the table' in page
