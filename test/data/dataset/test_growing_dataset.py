# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A dataset that grows: splits that stay, versions that are whole, bad input in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import errno
import hashlib
import json
import math
import os
from pathlib import Path
import re
import shutil
import signal
from typing import Any

import cv2
import numpy as np
import pytest

from uncertainty_seg.calibration.labelled_pairs import drawn_frames
from uncertainty_seg.cli import dataset as grow_dataset
from uncertainty_seg.cli.main import main
from uncertainty_seg.data.dataset import book as dataset_book
from uncertainty_seg.data.dataset import growth
from uncertainty_seg.data.dataset.book import DATASET_FILE, locked_book, SplitShares
from uncertainty_seg.data.dataset.upkeep import name_of
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import (
    blocks_path,
    load_folder,
    load_folders,
    read_blocks,
)
from uncertainty_seg.storage.review_record import CONTROL, FrameReview, SELECTED, write_review

SIZE = (12, 16)
# Dive 0 falls to train and dive 1 to val.
VAL = 0.45
NAMES = ('seabed', 'pipe', 'diver')


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3)).astype(np.uint8)


def labels(seed: int) -> Any:
    mask = np.random.default_rng(seed).integers(0, len(NAMES), SIZE).astype(np.uint8)
    mask[0, 0] = 255
    return mask


def make(folder: Path, frames: dict[str, int], *, mask_of: Callable[[int], Any] = labels,
         names: tuple[str, ...] = NAMES, reviews: dict[str, FrameReview] | None = None) -> Path:
    """Write a labelled folder: an image and mask of each stem by its seed."""
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for stem, seed in frames.items():
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), picture(seed))
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask_of(seed))
    (folder / 'classes.json').write_text(json.dumps({'classes': list(names)}))
    if reviews is not None:
        write_review(folder, reviews)
    return folder


def dive(folder: Path, name: str, count: int = 3, seed: int = 0, **more: Any) -> Path:
    """Write an import of one dive; its frames are drawn by chance in turn."""
    stems = {f'{name}_{i}': seed + i for i in range(count)}
    reviews = {stem: FrameReview(True, 'corrected', (CONTROL, SELECTED)[i % 2], name, f'key {i}',
                                 'flagged', 1.5, 'ada') for i, stem in enumerate(stems)}
    return make(folder, stems, reviews=reviews, **more)


def run(*words: object) -> int:
    return main(['dataset', *map(str, words)])


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """Run an action that succeeds; return its line for scripts."""
    capsys.readouterr()
    assert run(*words) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run an action that is refused; return its one sentence."""
    capsys.readouterr()
    assert run(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith('.'), lines
    return lines[0]


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*')
            if path.is_file()}


def lines_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / 'frames.jsonl').read_text().splitlines()]
    return {row['stem']: row for row in rows}


def splits_of(folder: Path) -> dict[str, str]:
    splits = json.loads((folder / 'splits.json').read_text())
    return {stem: split for split, stems in splits.items() for stem in stems}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a dataset of two dives, three frames each."""
    folder = tmp_path / 'data'
    assert run('init', folder, '--val-share', VAL) == 0
    for number in range(2):
        source = dive(tmp_path / f'source_{number}', f'dive {number}', seed=10 * number)
        assert run('add', folder, source, '-m', f'dive number {number}') == 0
    return folder


# --- splits --------------------------------------------------------------------------------------


def test_the_split_of_a_dive_is_the_documented_formula() -> None:
    shares = SplitShares(0.2, 0.1)
    for number in range(300):
        name = f'dive {number}'
        digits = hashlib.sha256(name.encode()).hexdigest()[:16]
        place = int(digits, 16) / 16**16
        expected = 'test' if place < 0.1 else 'val' if place < 0.3 else 'train'
        assert shares.split_of(name) == expected


def test_shares_of_many_dives_are_within_what_chance_allows() -> None:
    shares, count = SplitShares(0.2, 0.1), 2000
    found = Counter(shares.split_of(f'dive run_{i}') for i in range(count))
    for split, share in (('train', 0.7), ('val', 0.2), ('test', 0.1)):
        # Four standard deviations of a binomial count.
        assert abs(found[split] - share * count) < 4 * math.sqrt(count * share * (1 - share))


def test_splits_stay_and_dives_are_whole_while_200_dives_are_added(
    data: Path, tmp_path: Path
) -> None:
    before, order = splits_of(data), np.random.default_rng(0).permutation(200)
    for part in range(4):
        stems = {f'd{d}_{i}': 100 + 2 * d + i for d in order[part::4] for i in range(2)}
        many = make(tmp_path / f'part_{part}', stems, reviews={
            stem: FrameReview(True, 'corrected', dive=stem.split('_')[0]) for stem in stems})
        assert run('add', data, many) == 0
        now = splits_of(data)
        assert before.items() <= now.items()
        before = now
    after, rows = splits_of(data), lines_of(data)
    assert len(after) == 406
    by_dive: dict[str, set[str]] = {}
    for stem, split in after.items():
        by_dive.setdefault(rows[stem]['dive'], set()).add(split)
    assert len(by_dive) == 202 and {len(found) for found in by_dive.values()} == {1}
    for name, found in by_dive.items():
        assert found == {SplitShares(VAL).split_of(f'dive {name}')}
    in_val = sum(found == {'val'} for found in by_dive.values())
    assert abs(in_val - VAL * 202) < 4 * math.sqrt(202 * VAL * (1 - VAL))


def test_a_dive_that_was_put_somewhere_stays_there_when_more_of_it_comes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = 'train' if SplitShares(0.3).split_of('dive held') == 'val' else 'val'
    first = dive(tmp_path / 'first', 'held', seed=50)
    assert said(capsys, 'add', data, first, '--split', held)['added'] == 3
    more = dive(tmp_path / 'more', 'held', seed=60)
    assert run('add', data, more) == 0
    rows = lines_of(data)
    assert {row['split'] for row in rows.values() if row['dive'] == 'held'} == {held}
    assert len(rows) == 12  # the stems of `more` are those of other frames
    other = dive(tmp_path / 'other', 'held', seed=70)
    assert "dive 'held' is in" in refused(capsys, 'add', data, other, '--split', 'test')


def test_frames_without_a_dive_stand_alone_and_one_may_be_named(tmp_path: Path) -> None:
    data = tmp_path / 'data'
    assert run('init', data) == 0
    assert run('add', data, make(tmp_path / 'loose', {f'f{i}': i for i in range(30)})) == 0
    blocks = read_blocks(blocks_path(data, None), list(lines_of(data)))
    assert len(set(blocks)) == 30 and len(set(splits_of(data).values())) == 2
    assert run('add', data, make(tmp_path / 'named', {'g0': 90, 'g1': 91}), '--dive', 'reef') == 0
    rows = lines_of(data)
    assert {rows[stem]['dive'] for stem in ('g0', 'g1')} == {'reef'}
    assert read_blocks(blocks_path(data, None), ['g0', 'g1']).tolist() == ['reef', 'reef']


def test_given_splits_are_kept_unless_an_image_is_in_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, source = tmp_path / 'data', make(tmp_path / 'public', {'a': 1, 'b': 2, 'c': 1})
    assert run('init', data) == 0
    given = {'train': ['a'], 'val': ['c'], 'test': ['b']}
    (source / 'splits.json').write_text(json.dumps(given))
    assert 'is in train and in val' in refused(capsys, 'add', data, source, '--split', 'given')
    (source / 'splits.json').write_text(json.dumps(given | {'val': ['a', 'c']}))
    assert 'are in two of train, val' in refused(capsys, 'add', data, source, '--split', 'given')
    (source / 'splits.json').write_text(json.dumps({'train': ['a'], 'seed': ['a', 'b', 'c']}))
    assert 'in none of train, val' in refused(capsys, 'add', data, source, '--split', 'given')
    more = {'train': ['a', 'c'], 'test': ['b'], 'seed': ['a'], 'note': 'official'}
    (source / 'splits.json').write_text(json.dumps(more))
    found = said(capsys, 'add', data, source, '--split', 'given')
    assert found['splits'] == {'train': 1, 'val': 0, 'test': 1} and found['same'] == 1


# --- what readers read ---------------------------------------------------------------------------


def test_train_calibrate_and_evaluate_read_it_as_any_labelled_folder(data: Path) -> None:
    splits = splits_of(data)
    assert splits == {f'dive {d}_{i}': ('train', 'val')[d] for d in range(2) for i in range(3)}
    every = load_folders([data], ('train', 'val'))
    assert sorted(every.stems) == [f'dive {d}_{i}' for d in range(2) for i in range(3)]
    for stem, image, mask in zip(every.stems, every.images, every.masks, strict=True):
        seed = 10 * int(stem[5]) + int(stem[-1])
        np.testing.assert_array_equal(image[..., ::-1], picture(seed))
        np.testing.assert_array_equal(mask, labels(seed))
    assert every.class_names == NAMES
    # Frames 0 and 2 of each dive were drawn by chance; calibrate takes no other.
    drawn = drawn_frames(every, data)
    assert sorted(drawn.stems) == [f'dive {d}_{i}' for d in range(2) for i in (0, 2)]
    blocks = read_blocks(blocks_path(data, None), every.stems)
    assert blocks.tolist() == [stem[:6] for stem in every.stems]
    row = lines_of(data)['dive 1_0']
    assert (row['labeller'], row['reason'], row['source'], row['frame'], row['added']) == (
        'ada', 'flagged', 'source_1', 'key 0', 2)


def test_frames_of_a_dataset_that_nobody_reviewed_are_refused(data: Path) -> None:
    reviews = json.loads((data / 'review.json').read_text())
    split = splits_of(data)['dive 0_1']
    reviews['frames']['dive 0_1']['reviewed'] = False
    (data / 'review.json').write_text(json.dumps(reviews))
    with pytest.raises(DatasetError, match='1 of . frames of .* are not reviewed'):
        load_folder(data, split)


def test_blocks_of_a_dataset_are_found_and_others_are_as_given(data: Path, tmp_path: Path) -> None:
    assert blocks_path(data, None) == data / 'blocks.json'
    assert blocks_path(data, 'mine.csv') == Path('mine.csv')
    assert blocks_path(tmp_path / 'source_0', None) is None


# --- duplicates and labellers --------------------------------------------------------------------


def test_what_is_there_already_is_skipped_and_makes_no_version(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    found = said(capsys, 'add', data, tmp_path / 'source_0')
    assert (found['added'], found['same'], found['version']) == (0, 3, 2)
    assert content(data) == before


def test_two_masks_of_an_image_are_refused_and_decided_by_prefer(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    other = dive(tmp_path / 'bob', 'dive 0', mask_of=lambda seed: labels(seed + 5))
    text = refused(capsys, 'add', data, other)
    assert '3 images' in text and "'dive 0_0', of ada" in text and content(data) == before
    assert said(capsys, 'add', data, other, '--prefer', 'old')['kept'] == 3
    assert content(data) == before
    found = said(capsys, 'add', data, other, '--prefer', 'new')
    assert (found['replaced'], found['frames'], found['version']) == (3, 6, 3)
    data_now = load_folder(data, splits_of(data)['dive 0_0_v3'])
    mask = data_now.masks[data_now.stems.index('dive 0_0_v3')]
    np.testing.assert_array_equal(mask, labels(5))
    # The old masks are still those of version 2.
    assert run('export', data, tmp_path / 'old', '--version', 2) == 0
    again = load_folder(tmp_path / 'old', 'train')
    np.testing.assert_array_equal(again.masks[again.stems.index('dive 0_0')], labels(0))


def test_a_selected_frame_that_is_also_drawn_by_chance_counts_as_drawn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines_of(data)['dive 0_1']['origin'] == SELECTED
    stems = {f'x{i}': i for i in range(3)}
    drawn = make(tmp_path / 'drawn', stems, reviews={
        stem: FrameReview(True, 'corrected', CONTROL, 'dive 0') for stem in stems})
    found = said(capsys, 'add', data, drawn)
    assert (found['added'], found['drawn'], found['version']) == (0, 1, 3)
    assert lines_of(data)['dive 0_1']['origin'] == CONTROL


def test_near_duplicates_in_another_split_and_a_dive_of_two_names_are_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'again'
    shutil.copytree(tmp_path / 'source_0', source)
    write_review(source, {f'dive 0_{i}': FrameReview(True, 'corrected', dive='other')
                          for i in range(3)})
    # One bit of one pixel: another image, which looks the same.
    image = picture(0)
    image[0, 0, 0] ^= 1
    cv2.imwrite(str(source / 'images' / 'dive 0_0.png'), image)
    wanted = 'val' if splits_of(data)['dive 0_0'] == 'train' else 'train'
    text = refused(capsys, 'add', data, source, '--split', wanted)
    assert '2 images' in text and 'in another split' in text
    for i in (1, 2):
        cv2.imwrite(str(source / 'images' / f'dive 0_{i}.png'), picture(800 + i))
    assert run('add', data, source, '--split', wanted) == 0
    assert '1 new frames look like one in another split' in capsys.readouterr().err
    more = tmp_path / 'renamed'
    shutil.copytree(tmp_path / 'source_1', more)
    write_review(more, {f'dive 1_{i}': FrameReview(True, 'corrected', dive='one')
                        for i in range(3)})
    assert run('add', data, more) == 0
    assert "dive 'one' are in the dataset as those of dive 'dive 1'" in capsys.readouterr().err


def test_datasets_are_merged_by_adding_one_to_another(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'other'
    assert run('init', other, '--val-share', VAL) == 0
    assert run('add', other, tmp_path / 'source_0') == 0
    found = said(capsys, 'add', other, data)
    assert (found['added'], found['same'], found['frames']) == (3, 3, 6)
    assert splits_of(other) == splits_of(data)
    mine, theirs = lines_of(other)['dive 1_2'], lines_of(data)['dive 1_2']
    differ = {key for key in mine if mine[key] != theirs[key]}
    assert differ == {'source'}


# --- versions ------------------------------------------------------------------------------------


def test_an_old_version_comes_back_as_it_was(data: Path, tmp_path: Path) -> None:
    assert run('export', data, tmp_path / 'v1', '--version', 1) == 0
    assert run('export', data, tmp_path / 'v2') == 0
    # Nothing of version 1 is in val.
    assert len(load_folders([tmp_path / 'v1'], ('train', 'val')).stems) == 3
    assert set(splits_of(tmp_path / 'v1')) == {f'dive 0_{i}' for i in range(3)}
    assert splits_of(tmp_path / 'v2') == splits_of(data)
    for name, file in content(tmp_path / 'v2').items():
        assert file == (data / name).read_bytes(), name


def test_the_digest_of_a_version_is_that_of_its_frames(data: Path) -> None:
    *_, last = [json.loads(line) for line in (data / 'versions.jsonl').read_text().splitlines()]
    assert (last['version'], last['words'], last['added'], last['frames']) == (
        2, 'dive number 1', 3, 6)
    assert last['digest'] == hashlib.sha256((data / 'frames.jsonl').read_bytes()).hexdigest()


def killed_at(step: int, data: Path, source: Path) -> bool:
    """Add in another process that is killed before its nth rename or flush; False if it ended."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counting(function: Any) -> Any:
            def call(*words: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*words)
            return call

        os.replace, os.fsync = counting(os.replace), counting(os.fsync)
        try:
            with locked_book(data) as book:
                growth.add_folder(book, source, growth.AddRules(prefer=growth.NEW))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.release
def test_a_kill_at_any_moment_leaves_the_old_version_or_the_new_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = dive(tmp_path / 'next', 'dive 2', seed=40)
    shutil.copy(tmp_path / 'source_0' / 'images' / 'dive 0_0.png', source / 'images')
    cv2.imwrite(str(source / 'masks' / 'dive 0_0.png'), labels(99))
    reviews = {f'dive 2_{i}': FrameReview(True, 'corrected', dive='dive 2') for i in range(3)}
    write_review(source, reviews | {'dive 0_0': FrameReview(True, 'corrected', dive='dive 0')})
    old, seen, step = splits_of(data), set[int](), 0
    while True:
        copy = tmp_path / f'copy_{step}'
        shutil.copytree(data, copy)
        was_killed = killed_at(step, copy, source)
        read = splits_of(copy)
        for split in set(read.values()):  # every reader reads it, old or new
            load_folder(copy, split)
        read_blocks(blocks_path(copy, None), list(read))
        is_new = len(read) == 9
        assert is_new or read == old
        found = said(capsys, 'status', copy)
        assert not found['edited'] and not found['missing'] and not found['tables']
        assert found['strays'] == 0 and found['version'] in (2, 3)
        assert not is_new or found['version'] == 3
        assert not list(copy.glob('.*'))
        seen.add(found['version'])
        assert said(capsys, 'add', copy, source, '--prefer', 'new')['version'] == 3
        assert len(splits_of(copy)) == 9
        shutil.rmtree(copy)
        if not was_killed:
            break
        step += 1
    assert seen == {2, 3} and step > 20


def test_another_process_at_work_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked_book(data):
        assert 'another process works on' in refused(capsys, 'add', data, tmp_path / 'source_0')


# --- edited by hand ------------------------------------------------------------------------------


def test_edits_are_named_and_refuse_an_addition_until_they_are_accepted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(data / 'masks' / 'dive 0_1.png'), labels(77))
    (data / 'images' / 'dive 1_1.png').unlink()
    (data / 'images' / 'my note.png').write_bytes(b'')
    found = said(capsys, 'status', data)
    assert (found['edited'], found['missing'], found['strays']) == (
        ['dive 0_1'], ['dive 1_1'], 1)
    more = dive(tmp_path / 'more', 'dive 5', seed=60)
    text = refused(capsys, 'add', data, more)
    assert 'edited by hand since version 2: 1 changed (dive 0_1); 1 missing (dive 1_1)' in text
    found = said(capsys, 'status', data, '--accept')
    assert (found['version'], found['frames'], found['edited']) == (3, 5, [])
    assert said(capsys, 'add', data, more)['frames'] == 8
    text = refused(capsys, 'export', data, tmp_path / 'v2', '--version', 2)
    assert '1 frames of version 2 were edited by hand afterwards (dive 0_1)' in text


def test_a_second_image_of_a_name_is_noticed_since_readers_would_take_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(data / 'images' / 'dive 0_1.jpg'), picture(500))
    assert said(capsys, 'status', data)['edited'] == ['dive 0_1']
    assert 'dive 0_1.jpg beside dive 0_1.png' in refused(capsys, 'status', data, '--accept')


def test_an_addition_takes_no_name_that_is_in_use_or_that_no_file_may_have(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = data / 'images' / 'e.jpg'
    cv2.imwrite(str(note), picture(500))
    held = note.read_bytes()
    source = make(tmp_path / 'next', {'dive 0_0': 600, 'e': 601, '12:30': 602})
    assert said(capsys, 'add', data, source)['added'] == 3
    names = {row['stem'].rstrip('0123456789abcdef') for row in lines_of(data).values()
             if row['added'] == 3}
    assert names == {'dive 0_0_', 'e_', '12_'} and note.read_bytes() == held
    for stem, row in lines_of(data).items():
        pixels = load_folder(data, row['split'])
        seed = {'e': 601, '1': 602}.get(stem[0], 600)
        if row['added'] == 3:
            np.testing.assert_array_equal(
                pixels.images[pixels.stems.index(stem)][..., ::-1], picture(seed))


def test_a_full_disk_leaves_the_dataset_as_it_was(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, source = content(data), dive(tmp_path / 'next', 'dive 2', seed=40)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'mask.png')

    monkeypatch.setattr(shutil, 'copyfile', full)
    assert run('add', data, source) == 1
    assert 'no space left on device' in capsys.readouterr().err
    assert content(data) == before


def test_a_card_says_which_version_was_trained_on(data: Path, tmp_path: Path) -> None:
    assert name_of(tmp_path / 'source_0') == 'source_0'
    assert name_of(data) == 'data (version 2)'
    cv2.imwrite(str(data / 'masks' / 'dive 0_1.png'), labels(77))
    assert name_of(data) == 'data (version 2, edited by hand since)'


@pytest.mark.parametrize('name', ['splits.json', 'blocks.json', 'review.json', 'frames.jsonl',
                                  'classes.json'])
def test_an_edited_table_is_named(
    name: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (data / name).read_text()
    (data / name).write_text(text.replace('"ada"', '"bob"', 1) if 'ada' in text else text + '\n')
    assert said(capsys, 'status', data)['tables'] == [name]
    if name == 'classes.json':
        assert 'says what every mask means' in refused(capsys, 'status', data, '--accept')
        return
    assert said(capsys, 'status', data, '--accept')['tables'] == []
    assert ('"bob"' in (data / 'frames.jsonl').read_text()) is (name == 'frames.jsonl')


def test_other_shares_are_not_taken_by_a_dataset_that_has_frames(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New dives went to other splits than those that init had promised."""
    text = (data / DATASET_FILE).read_text()
    (data / DATASET_FILE).write_text(text.replace('"val_share": 0.', '"val_share": 0.9'))
    assert said(capsys, 'status', data)['tables'] == [DATASET_FILE]
    for words in (('add', data, tmp_path / 'source_0'), ('status', data, '--accept')):
        assert DATASET_FILE in refused(capsys, *words)
    (data / DATASET_FILE).write_text(text)
    # Versions that were written before this was kept are taken as they are.
    lines = [json.loads(line) for line in (data / 'versions.jsonl').read_text().splitlines()]
    for line in lines:
        assert line.pop('shares_sha256') == hashlib.sha256(text.encode()).hexdigest()
    (data / 'versions.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert said(capsys, 'status', data)['tables'] == []


@pytest.mark.parametrize(('change', 'sentence'), [
    (lambda lines: [], 'lacks a version, or has one twice'),
    (lambda lines: lines[1:], 'lacks a version, or has one twice'),
    (lambda lines: [*lines, lines[-1]], 'lacks a version, or has one twice'),
    (lambda lines: [lines[0], {**lines[1], 'version': '2'}], 'line 2 of'),
    (lambda lines: [{**lines[0], 'frames': None}, lines[1]], 'line 1 of'),
    (lambda lines: [{**lines[0], 'words': 7}, lines[1]], 'line 1 of'),
])
def test_versions_that_were_edited_are_one_sentence(
    data: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], sentence: str,
) -> None:
    lines = [json.loads(line) for line in (data / 'versions.jsonl').read_text().splitlines()]
    (data / 'versions.jsonl').write_text(
        ''.join(json.dumps(line) + '\n' for line in change(lines)))
    for words in (('status', data), ('status', data, '--accept')):
        assert sentence in refused(capsys, *words)


def test_what_is_edited_in_the_frames_follows_in_the_other_files(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (data / 'frames.jsonl').read_text()
    (data / 'frames.jsonl').write_text(text.replace('"dive": "dive 0"', '"dive": "reef"'))
    assert said(capsys, 'status', data, '--accept')['version'] == 3
    assert json.loads((data / 'blocks.json').read_text())['dive 0_0'] == 'reef'
    assert json.loads((data / 'review.json').read_text())['frames']['dive 0_0']['dive'] == 'reef'


def test_a_dive_that_is_moved_by_hand_is_not_accepted_in_parts(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = splits_of(data)['dive 0_0']
    text = (data / 'frames.jsonl').read_text()
    (data / 'frames.jsonl').write_text(text.replace(f'"split": "{split}"', '"split": "test"', 1))
    assert "has dive 'dive 0' in" in refused(capsys, 'status', data, '--accept')


def test_lines_that_were_lost_are_not_accepted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An editor that wrote half of a file would take frames and their history away."""
    whole = (data / 'frames.jsonl').read_text()
    first, *rest = whole.splitlines(keepends=True)
    for text, sentence in (
        ('', 'has not the 3 frames that version 1 added'),
        (''.join(rest), r'has not the 3 frames that version \d added, expected every line'),
        (first.replace('"added": 1', '"added": 9') + ''.join(rest), 'has not the 3 frames'),
        (whole + first.replace('"added": 1', '"added": 9').replace('dive 0_0', 'dive 0_9'),
         'has frames of version 9, expected 1 to 2'),
    ):
        (data / 'frames.jsonl').write_text(text)
        assert re.search(sentence, refused(capsys, 'status', data, '--accept'))
        assert (data / 'frames.jsonl').read_text() == text
    (data / 'frames.jsonl').write_text(whole)
    assert said(capsys, 'status', data)['tables'] == []


# --- bad input -----------------------------------------------------------------------------------


def spoiled(source: Path, what: str) -> None:
    if what == 'empty':
        shutil.rmtree(source)
        source.mkdir()
    elif what == 'mask':
        next((source / 'masks').iterdir()).unlink()
    elif what == 'id':
        cv2.imwrite(str(source / 'masks' / 'dive 9_0.png'), np.full(SIZE, 99, np.uint8))
    elif what == 'size':
        cv2.imwrite(str(source / 'masks' / 'dive 9_0.png'), np.zeros((3, 3), np.uint8))
    elif what == 'unreviewed':
        write_review(source, {f'dive 9_{i}': FrameReview(i > 0, 'untouched') for i in range(3)})
    elif what == 'renamed':
        (source / 'classes.json').write_text(json.dumps({'classes': [*NAMES[:-1], 'kelp']}))
    elif what == 'longer':
        (source / 'classes.json').write_text(json.dumps({'classes': [*NAMES, 'kelp']}))
    elif what == 'gone':
        shutil.rmtree(source)


@pytest.mark.parametrize(('what', 'sentence'), [
    ('empty', 'holds no labelled image'), ('mask', "the mask of 'dive 9_"),
    ('id', 'has the class id 99'), ('size', r'is 3x3, its image \d+x\d+, .*: save the mask'),
    ('unreviewed', '1 of 3 frames of .* are not reviewed'),
    ('renamed', rf"has other classes than .*: {len(NAMES) - 1} is 'kelp' and not "
     rf"'{NAMES[-1]}', expected"),
    ('longer', rf"other classes than .*: {len(NAMES)} is 'kelp' and not missing"),
    ('gone', 'no folder'),
])
def test_what_cannot_be_added_is_one_sentence_and_nothing_changes(
    what: str, sentence: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, before = dive(tmp_path / 'nine', 'dive 9', seed=90), content(data)
    spoiled(source, what)
    assert re.search(sentence, refused(capsys, 'add', data, source))
    assert content(data) == before


def test_other_misuse_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'source_0'
    for words, sentence in (
        (('add', source, data), 'is not a dataset'), (('status', tmp_path), 'is not a dataset'),
        (('init', data), 'is a dataset already'), (('init', source), 'holds images already'),
        (('init', tmp_path / 'x', '--val-share', '0.7', '--test-share', '0.3'), 'shares'),
        (('init', tmp_path / 'x', '--val-share', 'nan'), 'shares'),
        (('export', data, tmp_path / 'x', '--version', 7), 'has no version 7, expected 1 to 2'),
        (('export', data, source), 'is not empty'),
        (('add', data, data), 'is the dataset itself'),
        (('add', data, source, '--split', 'half'), '--split half, expected one of train'),
        (('add', data, source, '--prefer', 'me'), '--prefer me, expected one of new'),
        (('add', data, source, '--dive', 'reef'), 'every frame of .* has its dive'),
    ):
        assert re.search(sentence, refused(capsys, *words)), words
    assert not (tmp_path / 'x').exists()


def test_damaged_files_of_a_dataset_are_one_sentence(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / 'frames.jsonl').write_text('{}\n')
    assert 'line 1 of' in refused(capsys, 'status', data)
    (data / 'frames.jsonl').unlink()
    assert 'is missing or unreadable' in refused(capsys, 'status', data)
    (data / DATASET_FILE).write_text('[]')
    assert 'is damaged' in refused(capsys, 'status', data)


@pytest.mark.parametrize('change', [
    {'pixels': 'x'}, {'pixels': {'0': None}}, {'pixels': []}, {'added': '1'}, {'since': None},
    {'removed': True}, {'phash': 'xyz'}, {'phash': 7}, {'dive': 7}, {'dive': ['a']},
    {'labeller': {}}, {'score': 'high'}, {'mask_sha256': None}, {'split': ['val']}])
def test_values_of_another_form_in_an_edited_line_are_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    first, *rest = (data / 'frames.jsonl').read_text().splitlines()
    (data / 'frames.jsonl').write_text('\n'.join([json.dumps(json.loads(first) | change), *rest]))
    for words in (('status', data), ('add', data, tmp_path / 'source_0'),
                  ('status', data, '--accept')):
        assert 'line 1 of' in refused(capsys, *words)


def test_the_verb_names_what_there_is() -> None:
    assert grow_dataset.SPLITS == dataset_book.SPLITS
    assert grow_dataset.SPLIT_CHOICES == (*dataset_book.SPLITS, growth.GIVEN)
    assert grow_dataset.PREFER_CHOICES == (growth.NEW, growth.OLD)
