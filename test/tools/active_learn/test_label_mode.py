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

from ramp_nets import GREY, WHITE, write_greys  # noqa: E402
from test_active_learn import picked, refused, rows_of, STILL  # noqa: E402

from uncertainty_seg.storage import whole_files  # noqa: E402
from uncertainty_seg.tools.active_learn import learn_actively  # noqa: E402
from uncertainty_seg.tools.main import main  # noqa: E402

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
    assert "the mask of 'grey_0' is (32, 64), its image (64, 64)" in refused(capsys, words(here))
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
    from uncertainty_seg.storage.labels.formats import READERS

    assert set(learn_actively.LABEL_FORMATS) == set(READERS)
