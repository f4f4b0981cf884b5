# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Rounds that people label: what is asked for, what comes back, what is refused, and the end."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('pyarrow.parquet')
pytest.importorskip('scipy')
pytest.importorskip('matplotlib')
pytest.importorskip('jinja2')

from ramp_nets import GREY, WHITE, write_greys  # noqa: E402
from test_active_learn import picked, refused, rows_of, STILL  # noqa: E402

from uncertainty_seg.cli import active_learn as learn_actively  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.storage import whole_files  # noqa: E402

POOL = {**{f'grey_{k}': GREY + k for k in range(4)}, **{f'white_{k}': WHITE - k for k in range(2)}}


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


def words(here: Path, *more: str, mode: str = 'label') -> list[str]:
    pool = here / ('photos' if mode == 'label' else 'known')
    start = here / 'start.txt'
    start.write_text('grey_0\nwhite_0\n')
    return ['active-learn', str(here / mode), '--mode', mode, '--pool', str(pool), '--test',
            str(here / 'known'), '--strategy', 'mi', '--seeds', '0', '--start', str(start),
            '--labels', '3', '5', '--label-format', 'folder', *STILL, *more]


def asked(here: Path, number: int) -> list[str]:
    table = json.loads((here / 'label' / f'round-{number}' / 'to_label' / 'frames.json')
                       .read_text())
    return [row['key'] for row in table['frames']]


def give(here: Path, number: int, stems: list[str], name: str = 'labelled') -> Path:
    """Put the known masks of frames where the study looks for them, as a folder made by hand."""
    folder = here / 'label' / f'round-{number}' / name
    (folder / 'masks').mkdir(parents=True)
    for stem in stems:
        shutil.copy(here / 'known' / 'masks' / f'{stem}.png', folder / 'masks')
    shutil.copy(here / 'known' / 'classes.json', folder)
    return folder


def test_people_who_label_like_the_oracle_get_what_the_oracle_gets(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    first = capsys.readouterr().out
    assert 'Round 0 waits for labels of 2 frames' in first and 'import-labels' in first
    assert asked(here, 0) == ['grey_0', 'white_0']
    # Days later, and nobody labelled: the same again, and nothing is lost.
    assert main(words(here)) == 0
    assert capsys.readouterr().out == first
    # The labels come back by the verb for that.
    export = here / 'label' / 'round-0' / 'to_label'
    for stem in asked(here, 0):
        shutil.copy(here / 'known' / 'masks' / f'{stem}.png', export / 'masks')
    assert main(['import-labels', str(export), str(export.with_name('labelled')),
                 '--format', 'folder']) == 0
    assert main(words(here)) == 0
    said = capsys.readouterr().out
    assert 'Round 1 waits for labels of 1 frames' in said
    assert asked(here, 1) == ['white_1']
    # Its mask to correct is what the network says: white is the first class.
    mask = cv2.imread(str(here / 'label/round-1/to_label/masks/white_1.png'), -1)
    assert mask.shape == (64, 64) and (mask == 0).all()
    give(here, 1, ['white_1'])
    assert main(words(here)) == 0
    give(here, 2, asked(here, 2))
    assert main(words(here)) == 0
    assert 'All rounds are finished.' in capsys.readouterr().out
    assert main(words(here, mode='oracle')) == 0
    ours = rows_of(here / 'label')
    theirs = [row for row in rows_of(here / 'oracle') if row['strategy'] == 'mi']
    assert ours == theirs and [row['num_labelled'] for row in ours] == [2, 3, 5]


def test_a_round_goes_on_without_labels_that_are_missing_and_says_which(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    give(here, 0, ['white_0'])
    assert main(words(here)) == 0
    said = capsys.readouterr().err
    assert 'round 0 goes on without labels of 1 of 2 frames (grey_0), 0 of which' in said
    rows = rows_of(here / 'label')
    assert rows[0]['num_labelled'] == 1 and picked(rows, 'mi', 0) == {'white_0'}
    assert len(asked(here, 1)) == 2  # what is missing is made up for


def test_what_is_to_be_labelled_keeps_the_format_it_was_written_in(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    capsys.readouterr()
    assert main(words(here, '--label-format', 'coco')) == 0
    assert 'round-0/labelled --format folder"' in capsys.readouterr().out


def test_labels_that_nobody_reviewed_are_waited_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    folder = give(here, 0, ['grey_0', 'white_0'])
    (folder / 'review.json').write_text(json.dumps({'version': 1, 'frames': {
        stem: {'reviewed': False, 'evidence': 'untouched'} for stem in ('grey_0', 'white_0')}}))
    capsys.readouterr()
    assert main(words(here)) == 0
    assert '2 frames (2 have labels that nobody reviewed)' in capsys.readouterr().out
    assert not (here / 'label' / 'results.parquet').exists()


@pytest.mark.parametrize('is_whole', [False, True])
def test_masks_copied_out_of_the_export_are_no_labels(
    here: Path, is_whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first class everywhere, which nobody looked at, was trained on as the truth."""
    assert main(words(here)) == 0
    export, labelled = (here / 'label' / 'round-0' / name for name in ('to_label', 'labelled'))
    shutil.copytree(export, labelled)
    if not is_whole:
        (labelled / 'frames.json').unlink()
    capsys.readouterr()
    code, said = main(words(here)), capsys.readouterr()
    if is_whole:
        assert code == 2 and 'labelled is an export for labelling' in said.err
    else:
        assert '2 frames (2 have labels that nobody reviewed)' in said.out
    assert not (here / 'label' / 'results.parquet').exists()


def test_two_labellers_who_disagree_are_named_with_their_iou(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    give(here, 0, ['grey_0', 'white_0'], 'labelled_ann')
    other = give(here, 0, ['grey_0'], 'labelled_bob')
    # Equal masks are no matter.
    mask = cv2.imread(str(other / 'masks' / 'grey_0.png'), -1)
    mask[:, :16] = 1  # of 32 columns of class 0 half are class 1 now
    cv2.imwrite(str(other / 'masks' / 'grey_0.png'), mask)
    # IoU 16/32 and 32/48.
    assert "two labellers disagree about 'grey_0' (their mean IoU is 0.583)" in refused(
        capsys, words(here))
    shutil.copy(here / 'known' / 'masks' / 'grey_0.png', other / 'masks')
    assert main(words(here)) == 0


def test_labels_of_other_frames_classes_and_sizes_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(here)) == 0
    folder = give(here, 0, ['grey_1'])
    assert "has labels of 'grey_1', which round-0 did not ask for" in refused(capsys, words(here))
    (folder / 'masks' / 'grey_1.png').unlink()
    place = folder / 'masks' / 'grey_0.png'
    cv2.imwrite(str(place), np.full((64, 64), 9, np.uint8))
    assert "the mask of 'grey_0' has the class id 9" in refused(capsys, words(here))
    cv2.imwrite(str(place), np.zeros((32, 64), np.uint8))
    assert "the mask of 'grey_0' is 64x32, its image 64x64, expected equal sizes: save" in refused(
        capsys, words(here))
    text = (folder / 'classes.json').read_text().replace('left', 'port')
    (folder / 'classes.json').write_text(text)
    assert 'has the classes port, right (ignored: 255), and the study left, right' in refused(
        capsys, words(here))


@pytest.mark.parametrize(('more', 'sentence'), [
    (['--strategy', 'mi', 'random'], 'one strategy that chooses and one seed'),
    (['--seeds', '0', '1'], 'one strategy that chooses and one seed'),
    (['--strategy', 'full'], 'one strategy that chooses and one seed'),
    (['--label-format', 'yolo'], '--label-format yolo, expected one of coco'),
    (['--mode', 'people'], '--mode people, expected one of oracle, label'),
])
def test_what_people_cannot_label_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert sentence in refused(capsys, words(here, *more))


def test_a_pool_without_an_image_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (here / 'photos').iterdir():
        path.unlink()
    assert 'no images in' in refused(capsys, words(here))


def test_the_formats_are_those_that_can_be_read_back() -> None:
    from uncertainty_seg.data.labels.formats import READERS

    assert set(learn_actively.LABEL_FORMATS) == set(READERS)


# --- labels that come late, in pieces, under other names, or for another study -------------------


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


@pytest.mark.parametrize('names', [('a b', 'a_b'), ('\u6f5c\u6c34', '\u6d77'), ('Frame', 'frame')])
def test_names_that_become_one_are_both_asked_for_and_come_back(
    here: Path, names: tuple[str, str]
) -> None:
    for stem, other in zip(('grey_0', 'white_0'), names, strict=True):
        (here / 'photos' / f'{stem}.png').rename(here / 'photos' / f'{other}.png')
    command = words(here)
    (here / 'start.txt').write_text('\n'.join(names))
    assert main(command) == 0
    assert asked(here, 0) == list(names)
    export = here / 'label' / 'round-0' / 'to_label'
    stems = [row['stem'] for row in json.loads((export / 'frames.json').read_text())['frames']]
    assert len({stem.casefold() for stem in stems}) == 2
    for stem, known in zip(stems, ('grey_0', 'white_0'), strict=True):
        shutil.copy(here / 'known' / 'masks' / f'{known}.png', export / 'masks' / f'{stem}.png')
    assert main(['import-labels', str(export), str(export.with_name('labelled')), '--format',
                 'folder']) == 0
    assert main(command) == 0
    assert rows_of(here / 'label')[0]['num_labelled'] == 2


@pytest.mark.parametrize('is_whole', [False, True])
def test_an_export_that_was_damaged_is_written_again_after_it_was_deleted(
    here: Path, capsys: pytest.CaptureFixture[str], is_whole: bool
) -> None:
    assert main(words(here)) == 0
    export = here / 'label' / 'round-0' / 'to_label'
    before = (export / 'frames.json').read_bytes()
    (export / 'frames.json').unlink()
    if is_whole:
        for part in ('images', 'masks'):
            shutil.rmtree(export / part)
    said = refused(capsys, words(here))
    assert 'to_label has no frames.json' in said and 'delete the folder and run' in said
    shutil.rmtree(export)
    assert main(words(here)) == 0
    assert (export / 'frames.json').read_bytes() == before


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
    said = refused(capsys, words(here))
    assert 'holds a study of other images, masks or classes of --pool' in said
    assert 'put them back as they were, or take another folder' in said
    assert json.loads((here / 'label/study.json').read_text())['labels'] == [2, 3, 5]
    assert WHITE in POOL.values()
