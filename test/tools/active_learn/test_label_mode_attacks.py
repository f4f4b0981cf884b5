# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Labels of people that come late, in pieces, under other names, or for another study."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('pyarrow.parquet')
pytest.importorskip('scipy')
pytest.importorskip('matplotlib')
pytest.importorskip('jinja2')

from ramp_nets import WHITE, write_greys  # noqa: E402
from test_active_learn import refused, rows_of  # noqa: E402
from test_label_mode import asked, give, POOL, words  # noqa: E402

from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.tools.main import main  # noqa: E402


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, 'sync', lambda path: None)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with a pool of images alone, the same with masks, and test images."""
    write_greys(tmp_path / 'known', {'train': POOL, 'test': {'t': 40, 'u': 200}})
    (tmp_path / 'photos').mkdir()
    for stem in POOL:
        shutil.copy(tmp_path / 'known' / 'images' / f'{stem}.png', tmp_path / 'photos')
    return tmp_path


@pytest.mark.parametrize(('more', 'sentence'), [
    (['--strategy', 'entropy'], 'for --strategy mi --seeds 0, expected the same again'),
    (['--seeds', '1'], 'for --strategy mi --seeds 0, expected the same again')])
def test_another_strategy_does_not_take_the_labels_of_the_first(
    here: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert main(words(here)) == 0
    give(here, 0, ['grey_0', 'white_0'])
    assert main(words(here)) == 0
    give(here, 1, asked(here, 1))
    assert sentence in refused(capsys, words(here, *more))
    page, text = here / 'page.html', here / 'summary.md'
    assert main(words(here, '--report', str(page), '--markdown', str(text))) == 0
    assert [row['num_labelled'] for row in rows_of(here / 'label')] == [2, 3]
    assert '| mi | not known without all labels | 1 |' in text.read_text() and page.is_file()


def test_a_threshold_that_finds_nothing_ends_as_with_the_oracle(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ['--strategy', 'threshold', '--threshold-rule', 'mean+99']
    assert main(words(here, *more)) == 0
    give(here, 0, ['grey_0', 'white_0'])
    capsys.readouterr()
    for _ in range(2):
        assert main(words(here, *more)) == 0
        said = capsys.readouterr()
        assert 'round 1 finds no frame to ask for' in said.err
        assert 'All rounds are finished.' in said.out
    assert [row['num_labelled'] for row in rows_of(here / 'label')] == [2]


def test_labels_that_come_after_the_round_went_on_are_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    give(here, 0, ['white_0'])
    assert main(words(here)) == 0
    assert 'came after' not in capsys.readouterr().err
    give(here, 0, ['grey_0'], 'labelled_late')
    assert main(words(here)) == 0
    assert 'labels of 1 frames of round 0 came after it had gone on and are not used (grey_0)' \
        in capsys.readouterr().err


def test_names_that_no_archive_accepts_come_back_as_they_were(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem, other in (('grey_0', 'grey 0'), ('white_0', 'weiß:0')):
        (here / 'photos' / f'{stem}.png').rename(here / 'photos' / f'{other}.png')
    command = words(here)
    (here / 'start.txt').write_text('grey 0\nweiß:0\n')
    assert main(command) == 0
    export = here / 'label' / 'round-0' / 'to_label'
    for path, stem in zip(sorted((export / 'masks').glob('*.png')), ('grey_0', 'white_0'),
                          strict=True):
        shutil.copy(here / 'known' / 'masks' / f'{stem}.png', path)
    assert main(['import-labels', str(export), str(export.with_name('labelled')), '--format',
                 'folder']) == 0
    assert main(command) == 0
    assert rows_of(here / 'label')[0]['num_labelled'] == 2


def test_names_that_become_one_are_both_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem, other in (('grey_0', 'a b'), ('white_0', 'a_b')):
        (here / 'photos' / f'{stem}.png').rename(here / 'photos' / f'{other}.png')
    command = words(here)
    (here / 'start.txt').write_text('a b\na_b\n')
    code = main(command)
    said = capsys.readouterr()
    assert code in (0, 2) and 'Traceback' not in said.err
    if code == 0:
        assert len(list((here / 'label/round-0/to_label/masks').iterdir())) == 2


@pytest.mark.parametrize('damage', ['empty', 'text', 'colour', 'classes', 'review'])
def test_damaged_labels_are_one_sentence_and_nothing_is_lost(
    here: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    assert main(words(here)) == 0
    folder = give(here, 0, ['grey_0', 'white_0'])
    mask = folder / 'masks' / 'grey_0.png'
    whole = mask.read_bytes()
    if damage == 'empty':
        mask.write_bytes(b'')
    elif damage == 'text':
        mask.write_text('grey')
    elif damage == 'colour':
        shutil.copy(here / 'photos' / 'grey_0.png', mask)
    elif damage == 'classes':
        (folder / 'classes.json').unlink()
    else:
        (folder / 'review.json').write_text('[]')
    refused(capsys, words(here))
    mask.write_bytes(whole)
    shutil.copy(here / 'known' / 'classes.json', folder)
    (folder / 'review.json').unlink(missing_ok=True)
    assert main(words(here)) == 0
    assert rows_of(here / 'label')[0]['num_labelled'] == 2


def test_a_photograph_that_is_gone_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    (here / 'photos' / 'grey_3.png').write_bytes(b'no image')
    assert 'grey_3.png cannot be read' in refused(capsys, words(here))
    (here / 'photos' / 'grey_3.png').unlink()
    assert 'holds a study of other images of --pool' in refused(capsys, words(here))
    assert json.loads((here / 'label/study.json').read_text())['labels'] == [2, 3, 5]
    assert WHITE in POOL.values()
