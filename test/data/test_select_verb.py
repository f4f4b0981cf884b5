# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verb select: from tables to a selection and its contact sheet; one sentence per error."""

from dataclasses import replace
import json
from pathlib import Path
from typing import Any

from browse_sample import page_values
import cv2
import numpy as np
import pytest
from score_tables import write_rows

pq = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed: no score table')

from uncertainty_seg.cli import select_frames as select_verb  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.data.strategies import STRATEGIES  # noqa: E402
from uncertainty_seg.storage.bags.writer import BagWriter  # noqa: E402
from uncertainty_seg.storage.perceptual_hash import perceptual_hash  # noqa: E402
from uncertainty_seg.storage.score_rows import (  # noqa: E402
    info_of,
    read_rows,
    ScoreRow,
    TableInfo,
)

INFO = TableInfo('suim', 'ab' * 32, ('water', 'robot'), ((0, 0, 9), (9, 0, 0)), 20, 0,
                 ('entropy.mean', 'mutual_information.top'), 3)


def row(index: int, ratio: float, dive: str = 'dive 1', source: str = '/nowhere',
        kind: str = 'bag', topic: str = '/cam', phash: int | None = None) -> ScoreRow:
    """Return a row of a frame that is unlike all others, unless `phash` is given."""
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
    """Return a table of ten frames of two dives with score ratios 0.3 to 3."""
    return table(tmp_path / 'ten', [row(k, 0.3 * (k + 1), f'dive {k % 2}') for k in range(10)])


def run(*words: object) -> int:
    return main(['select', *map(str, words)])


def said(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the JSON line, and stderr without the warnings about the missing model."""
    got = capsys.readouterr()
    lines = [line for line in got.err.splitlines(True)
             if 'Without masks' not in line and 'it is missing' not in line]
    return json.loads(got.out.splitlines()[-1]), ''.join(lines)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run wrong arguments; return the one sentence of the refusal."""
    capsys.readouterr()
    assert run(*words) == 2
    got = capsys.readouterr()
    assert got.out == ''
    assert got.err.count('\n') == 1 and got.err.endswith('.\n'), got.err
    return got.err


def indices(folder: Path) -> list[int]:
    return list(pq.read_table(folder / 'selection.parquet').column('index').to_pylist())


def test_the_choices_of_the_help_are_those_of_the_room() -> None:
    assert select_verb.STRATEGIES == tuple(STRATEGIES)


def test_what_is_written_is_the_chosen_rows_with_rank_and_reason(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert run(ten, '-n', 3, '--strategy', 'top-k', '-o', out) == 0
    facts, err = said(capsys)
    assert err == ''
    assert (facts['chosen'], facts['candidates'], facts['dives_chosen']) == (3, 10, 2)
    chosen, whole = pq.read_table(out / 'selection.parquet'), read_rows(ten)
    assert indices(out) == [9, 8, 7]
    assert chosen.select(whole.column_names).equals(whole.take([9, 8, 7]))
    added = chosen.drop_columns(whole.column_names).to_pylist()
    assert [one['rank'] for one in added] == [1, 2, 3]
    assert {(one['strategy'], one['origin'], one['stands_for']) for one in added} == {
        ('top-k', 'selected', 0)}
    assert 'score_ratio 3, above 95 % of 10' in added[0]['reason']
    # The next step reads it as a table, with the facts of its creation.
    assert info_of(read_rows(out).schema) == INFO
    kept = json.loads(chosen.schema.metadata[b'uncertainty_seg.selection'])
    assert (kept['strategy'], kept['seed'], kept['count']) == ('top-k', 0, 3)


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_the_tables(
    tmp_path: Path
) -> None:
    rows = [row(k, 1.0 + k % 3, f'dive {k % 4}') for k in range(40)]
    one, two = table(tmp_path / 'one', rows[:25]), table(tmp_path / 'two', rows[25:])
    for out, tables in (('a', (one, two)), ('b', (two, one))):
        assert run(*tables, '-n', 12, '--strategy', 'random', '-o', tmp_path / out) == 0
    for name in ('selection.parquet', 'contact_sheet.html'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes(), name


@pytest.mark.parametrize(('options', 'want'), [
    (['--strategy', 'threshold', '-n', '10'], [9, 8, 7, 6, 5, 4, 3]),  # above 1
    (['--strategy', 'threshold', '-n', '10', '--limit', '2.5'], [9, 8]),
    (['--strategy', 'top-k', '-n', '4', '--per-dive', '1'], [9, 8]),
    (['--strategy', 'top-k', '-n', '3', '--min-gap', '4'], [9, 8, 5]),  # frames are 1 s apart
    (['--strategy', 'top-k', '-n', '2', '--score', 'mutual_information.top'], [0, 1]),
])
def test_options_choose(options: list[str], want: list[int], ten: Path, tmp_path: Path) -> None:
    assert run(ten, '-o', tmp_path / 'out', *options) == 0
    assert indices(tmp_path / 'out') == want


def test_fewer_than_asked_for_is_said_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = table(tmp_path / 'alike', [row(k, float(k), phash=7) for k in range(5)])
    assert run(alike, '-n', 3, '-o', tmp_path / 'out') == 0
    facts, err = said(capsys)
    assert '1 of the 3' in err and '4 look like' in err
    assert (facts['chosen'], facts['near_duplicates']) == (1, 4)
    chosen = pq.read_table(tmp_path / 'out' / 'selection.parquet')
    assert chosen.column('stands_for').to_pylist() == [4]
    assert run(alike, '-n', 3, '--labelled', alike, '-o', tmp_path / 'none') == 2
    assert '5 are labelled' in capsys.readouterr().err
    assert run(alike, '-n', 3, '--min-distance', 0, '--force', '-o', tmp_path / 'out') == 0
    assert len(indices(tmp_path / 'out')) == 3
    nan = table(tmp_path / 'nan', [row(0, 1.0), row(1, float('nan')), row(2, 2.0)])
    capsys.readouterr()
    assert run(nan, '-n', 2, '--force', '-o', tmp_path / 'out') == 0
    facts, err = said(capsys)
    assert indices(tmp_path / 'out') == [1, 2] and facts['unscored'] == 1 and '1 of' in err


def test_what_is_labelled_is_not_chosen_again(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    words = ('--strategy', 'top-k', '-o')
    assert run(ten, '-n', 3, *words, first) == 0
    assert run(ten, '-n', 3, *words, second, '--labelled', first) == 0
    assert indices(second) == [6, 5, 4]
    # Scored by the network before retraining: frame 9, the most uncertain, and a frame of another
    # dive that resembles frame 8.
    alike = pq.read_table(ten / 'part.parquet').column('phash').to_pylist()[8]
    before = table(tmp_path / 'before', [row(9, 0.1, 'dive 1'), row(70, 9.0, 'old', phash=alike)],
                   replace(INFO, model_sha256='cd' * 32))
    capsys.readouterr()
    assert run(ten, '-n', 2, *words, tmp_path / 'out', '--labelled', before) == 0
    assert sorted(indices(tmp_path / 'out')) == [6, 7]
    assert '2 labelled frames' in said(capsys)[1]


def origins(out: Path, capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """Return the origins of the frames of a selection; the reported counts must agree."""
    capsys.readouterr()
    assert run(*words, '--force', '-o', out) == 0
    facts, err = said(capsys)
    found: list[str] = pq.read_table(out / 'selection.parquet').column('origin').to_pylist()
    assert facts['control'] == found.count('control')
    assert ('randomly drawn' in err) == ('random' in words and 'selected' in found)
    return found


RANDOM = ('--strategy', 'random')


@pytest.mark.parametrize('words, is_drawn', [
    ((), True), (('--min-gap', '0'), True), (('--per-dive', '2'), False),
    (('--min-gap', '0.5'), False)])
def test_a_draw_is_a_control_if_every_frame_had_the_same_chance(
    words: tuple[str, ...], is_drawn: bool, ten: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = origins(tmp_path / 'out', capsys, ten, '-n', 4, *RANDOM, *words)
    assert found == ['control' if is_drawn else 'selected'] * 4


def test_a_draw_of_what_others_left_is_none(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, top, drawn = tmp_path / 'out', tmp_path / 'top', tmp_path / 'drawn'
    # Two similar frames, and one without a score.
    odd = table(tmp_path / 'odd', [row(20, 1.0, phash=7), row(21, 2.0, phash=7),
                                   row(22, float('nan'))])
    assert origins(out, capsys, odd, '-n', 2, *RANDOM) == ['selected'] * 2
    whole = (*RANDOM, '--min-distance', 0)
    assert origins(out, capsys, odd, '-n', 2, *whole) == ['control'] * 2
    assert origins(top, capsys, ten, '-n', 5, '--strategy', 'top-k') == ['selected'] * 5
    assert origins(out, capsys, ten, '-n', 2, *whole, '--labelled', top) == ['selected'] * 2
    # Labelled frames of other dives exclude nothing.
    assert origins(out, capsys, odd, '-n', 2, *whole, '--labelled', top) == ['control'] * 2
    # Selected frames never become control frames in a later draw.
    assert origins(out, capsys, top, '-n', 3, *RANDOM) == ['selected'] * 3
    assert origins(tmp_path / 'again', capsys, out, '-n', 2, *RANDOM) == ['selected'] * 2
    # Together with the whole table, a selection does not affect the draw.
    assert origins(out, capsys, top, ten, '-n', 5, *RANDOM) == ['control'] * 5
    assert origins(drawn, capsys, ten, '-n', 6, *RANDOM) == ['control'] * 6
    assert origins(out, capsys, drawn, '-n', 3, *RANDOM, '--seed', 1) == ['control'] * 3


def test_frames_that_are_there_twice_and_dives_of_one_name_are_said(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ten, ten, '-n', 10, '-o', tmp_path / 'out') == 0
    facts, err = said(capsys)
    assert (facts['candidates'], facts['near_duplicates']) == (10, 0) and '10 duplicate' in err
    other = table(tmp_path / 'other', [row(20, 1.0, 'dive 1', '/elsewhere')])
    assert run(ten, other, '-n', 9, '--per-dive', 5, '--force', '-o', tmp_path / 'out') == 0
    facts, err = said(capsys)
    assert facts['dives'] == 3 and '2 dives' in err


@pytest.mark.parametrize(('options', 'named'), [
    (['-n', '11'], '10'), (['-n', '2', '--score', 'entropy.max'], 'mutual_information.top'),
    (['-n', '2', '--strategy', 'threshold', '--limit', '3.5'], '3.5'),
    (['-n', '2', '--strategy', 'threshold', '--score', 'entropy.mean'], 'entropy.mean'),
    (['-n', '2', '--score', 'mutual_information.top'], '-3'),
    (['-n', '2', '--labelled', '/no/such'], '/no/such'),
    (['-n', '1', '--min-distance', '13'], '13'),
])
def test_an_option_that_does_not_fit_is_one_sentence(
    options: list[str], named: str, ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(capsys, ten, '-o', tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


def test_a_table_that_cannot_be_used_is_one_sentence(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ['-n', '1', '-o', tmp_path / 'out']
    broken, plain = tmp_path / 'broken.parquet', tmp_path / 'plain.parquet'
    broken.write_bytes((ten / 'part.parquet').read_bytes()[:-200])
    (tmp_path / 'hollow').mkdir()
    pq.write_table(pq.read_table(ten / 'part.parquet').replace_schema_metadata({}), plain)
    for path in (tmp_path / 'none', broken, table(tmp_path / 'empty', []), tmp_path / 'hollow'):
        assert path.name in refused(capsys, path, *out)
    refused(capsys, plain, *out)
    other = table(tmp_path / 'other', [row(50, 1.0)], replace(INFO, model_sha256='cd' * 32))
    assert 'another model' in refused(capsys, ten, other, *out)


def test_a_selection_is_replaced_only_if_asked_and_whole_or_not_at_all(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert run(ten, '-n', 1, '-o', out) == 0
    before = (out / 'selection.parquet').read_bytes()
    assert str(out) in refused(capsys, ten, '-n', 2, '-o', out)
    refused(capsys, ten, '-n', 11, '-o', out, '--force')
    assert (out / 'selection.parquet').read_bytes() == before
    assert run(ten, '-n', 2, '-o', out, '--force') == 0
    assert len(indices(out)) == 2
    (tmp_path / 'file').write_text('')
    refused(capsys, ten, '-n', 2, '-o', tmp_path / 'file')
    refused(capsys, ten, '-n', 2, '-o', tmp_path / 'file' / 'below')
    (tmp_path / 'no' / 'selection.parquet').mkdir(parents=True)
    refused(capsys, ten, '-n', 1, '--force', '-o', tmp_path / 'no')
    assert not list((tmp_path / 'no').glob('.*'))
    # In a score table it would be a part of the table.
    assert str(ten) in refused(capsys, ten, '-n', 1, '--force', '-o', ten)
    assert not list(ten.glob('selection*'))


def textured(color: tuple[int, int, int], height: int, width: int, seed: int) -> np.ndarray:
    """Return an image with this mean colour and a unique perceptual hash."""
    blocks = np.random.default_rng(seed).uniform(-30, 30, (6, 8)).astype(np.float32)
    waves = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(np.array(color) + waves - waves.mean(), 0, 255).round().astype(np.uint8)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """Return a table of frames of a bag, images of a folder, and a frame of a missing bag."""
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
        return replace(made, stamp_ns=k * 10**9, height=900, width=600, file=f'{k}.png')

    return table(tmp_path / 'seen', [
        of_bag(0, 0.1), of_bag(1, 5.0), of_bag(4, 3.0), of_folder(2, 4.0, '<dive & 2>'),
        of_folder(1, 2.0, 'dive 2'), row(3, 1.0, 'gone', str(tmp_path / 'gone'))])


def test_the_sheet_shows_the_pictures_that_are_still_what_was_scored(
    seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    words = [seen, '-n', 5, '--strategy', 'top-k', '-o', out]
    assert run(*words) == 0
    got = capsys.readouterr()
    facts = json.loads(got.out.splitlines()[-1])
    assert facts['pictures_missing'] == 1
    assert str(tmp_path / 'gone') in got.err
    shown = page_values(out / 'contact_sheet.html')['frames']
    assert [bool(frame['pictures'][0]) for frame in shown] == [True, True, True, True, False]
    assert all(frame['selected'].startswith('top-k: ') for frame in shown)
    # One file replaced by another image, one damaged, and all sources moved.
    cv2.imwrite(str(tmp_path / 'pictures' / '1.png'), textured((9, 9, 9), 900, 600, 77))
    (tmp_path / 'pictures' / '2.png').write_bytes(b'no picture')
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'pictures').rename(tmp_path / 'disk' / 'pictures')
    (tmp_path / 'bag').rename(tmp_path / 'disk' / 'bag')
    assert run(*words, '--force', '--root', tmp_path / 'disk') == 0
    facts, err = said(capsys)
    assert facts['pictures_missing'] == 3
    assert 'has changed' in err and '2.png' in err
    assert str(tmp_path / 'nowhere') in refused(capsys, *words, '--force', '--root',
                                                tmp_path / 'nowhere')


def test_dives_of_control_frames_are_left_out_of_later_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = table(tmp_path / 'pool', [row(k, 1.0 + k, f'dive {k % 4}') for k in range(40)])
    assert run(pool, '-n', 6, '--control', 4, '-o', tmp_path / 'first') == 0
    facts, _ = said(capsys)
    first = pq.read_table(tmp_path / 'first' / 'selection.parquet').to_pylist()
    held = {one['dive'] for one in first if one['split'] == 'control'}
    assert facts['control_split'] == len(first) - 6 and 0 < len(held) < 4
    assert not held & {one['dive'] for one in first if one['split'] == ''}
    assert run(pool, '-n', 6, '--labelled', tmp_path / 'first', '-o', tmp_path / 'second') == 0
    second = pq.read_table(tmp_path / 'second' / 'selection.parquet').to_pylist()
    assert len(second) == 6 and not held & {one['dive'] for one in second}
    assert 'control' in said(capsys)[1]
    refused(capsys, pool, '-n', 1, '--control', 1, '--labelled', tmp_path / 'first', '-o',
            tmp_path / 'third')
