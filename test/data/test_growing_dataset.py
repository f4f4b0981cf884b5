# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A growing dataset: no dive in two splits, atomic additions, bad input refused."""

from collections.abc import Callable
import errno
import hashlib
import json
import os
from pathlib import Path
import shutil
import signal
from typing import Any

import cv2
import numpy as np
import pytest

from uncertainty_seg.calibration.labelled_pairs import drawn_frames
from uncertainty_seg.cli.main import main
from uncertainty_seg.data import dataset as growth
from uncertainty_seg.data.dataset import add_folder, Dataset, locked_dataset, SHARES
from uncertainty_seg.storage.labelled_folder import (
    blocks_path,
    load_folder,
    load_folders,
    read_blocks,
)
from uncertainty_seg.storage.review_record import CONTROL, FrameReview, SELECTED, write_review

SIZE = (12, 16)
NAMES = ('seabed', 'pipe', 'diver')
SPLITS = {'a': 'train', 'b': 'val', 'c': 'limits'}


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3)).astype(np.uint8)


def labels(seed: int) -> Any:
    mask = np.random.default_rng(seed).integers(0, len(NAMES), SIZE).astype(np.uint8)
    mask[0, 0] = 255
    return mask


def make(folder: Path, frames: dict[str, int], *, mask_of: Callable[[int], Any] = labels,
         reviews: dict[str, FrameReview] | None = None) -> Path:
    """Write a labelled folder with an image and a mask for each stem, drawn from its seed."""
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for stem, seed in frames.items():
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), picture(seed))
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask_of(seed))
    (folder / 'classes.json').write_text(json.dumps({'classes': NAMES}))
    if reviews is not None:
        write_review(folder, reviews)
    return folder


def dive(folder: Path, name: str, count: int = 3, seed: int = 0, **more: Any) -> Path:
    """Write an import of one dive; every second frame is a control frame."""
    stems = {f'{name}_{i}': seed + i for i in range(count)}
    reviews = {stem: FrameReview(True, 'corrected', (CONTROL, SELECTED)[i % 2], name)
               for i, stem in enumerate(stems)}
    return make(folder, stems, reviews=reviews, **more)


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    """Run an action; return its JSON line, or the sentence of its refusal."""
    capsys.readouterr()
    assert main(['dataset', *map(str, words)]) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    if not code:
        return json.loads(out.splitlines()[-1])
    (line,) = err.splitlines()
    return line


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*')
            if path.is_file()}


def frames_of(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((folder / 'dataset.json').read_text())['frames']
    return found


def splits_of(folder: Path) -> dict[str, str]:
    splits = json.loads((folder / 'splits.json').read_text())
    return {stem: split for split, stems in splits.items() for stem in stems}


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return a dataset of three dives, each in the split of `SPLITS`."""
    for number, (name, split) in enumerate(SPLITS.items()):
        source = dive(tmp_path / f'source_{name}', name, seed=10 * number)
        said(capsys, 'add', tmp_path / 'data', source, '--split', split)
    return tmp_path / 'data'


def test_the_split_of_a_dive_is_the_documented_formula() -> None:
    dataset = Dataset(Path('data'), SHARES)
    for number in range(300):
        place = int(hashlib.sha256(f'dive {number}'.encode()).hexdigest()[:16], 16) / 16**16
        expected = 'train' if place < 0.7 else 'val' if place < 0.85 else 'limits'
        assert dataset.split_of(f'dive {number}') == expected


def test_splits_stay_and_dives_are_whole_while_200_dives_are_added(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, order = splits_of(data), np.random.default_rng(0).permutation(200)
    for part in range(4):
        # Each part adds frames to new and to known dives.
        stems = {f'd{d}_{part}{i}': 1000 * part + 100 + 2 * d + i for i in range(2)
                 for d in (order[part::4] if not i else order[max(part - 1, 0)::4])}
        many = make(tmp_path / f'part_{part}', stems, reviews={
            stem: FrameReview(True, 'corrected', dive=stem.split('_')[0]) for stem in stems})
        said(capsys, 'add', data, many)
        now = splits_of(data)
        assert before.items() <= now.items() and len(now) == len(before) + len(stems)
        before = now
    by_dive: dict[str, set[str]] = {}
    for stem, split in before.items():
        by_dive.setdefault(frames_of(data)[stem]['review']['dive'], set()).add(split)
    assert len(by_dive) == 203
    rule = Dataset(data, SHARES)
    assert by_dive == {name: {SPLITS.get(name, rule.split_of(f'dive {name}'))}
                       for name in by_dive}


def test_a_dive_that_was_put_somewhere_stays_there_when_more_of_it_comes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = dive(tmp_path / 'more', 'b', seed=60)
    found = said(capsys, 'add', data, more)
    assert found['added'] == 3 and found['splits'] == {'train': 3, 'val': 6, 'limits': 3}
    before, other = content(data), dive(tmp_path / 'other', 'b', seed=70)
    text = said(capsys, 'add', data, other, '--split', 'train', code=2)
    assert "'b'" in text and 'val' in text and content(data) == before


def test_frames_without_a_dive_stand_alone_and_one_may_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / 'data'
    said(capsys, 'add', data, make(tmp_path / 'loose', {f'f{i}': i for i in range(30)}))
    blocks = read_blocks(blocks_path(data, None), list(frames_of(data)))
    assert len(set(blocks)) == 30 and len(set(splits_of(data).values())) > 1
    said(capsys, 'add', data, make(tmp_path / 'named', {'g0': 90, 'g1': 91}), '--dive', 'reef')
    assert read_blocks(blocks_path(data, None), ['g0', 'g1']).tolist() == ['reef', 'reef']
    assert splits_of(data)['g0'] == splits_of(data)['g1']


def test_train_calibrate_and_evaluate_read_it_as_any_labelled_folder(data: Path) -> None:
    every = load_folders([data], tuple(SHARES))
    assert sorted(every.stems) == [f'{name}_{i}' for name in SPLITS for i in range(3)]
    for stem, image, mask in zip(every.stems, every.images, every.masks, strict=True):
        seed = 10 * list(SPLITS).index(stem[0]) + int(stem[-1])
        np.testing.assert_array_equal(image[..., ::-1], picture(seed))
        np.testing.assert_array_equal(mask, labels(seed))
    assert every.class_names == NAMES
    # Frames 0 and 2 of each dive are control frames; calibrate uses no others.
    assert {stem[-1] for stem in drawn_frames(every, data).stems} == {'0', '2'}
    assert read_blocks(blocks_path(data, None), every.stems).tolist() == [
        stem[0] for stem in every.stems]


def test_what_is_there_already_changes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    found = said(capsys, 'add', data, tmp_path / 'source_a')
    assert (found['added'], found['same'], found['frames']) == (0, 3, 9)
    assert content(data) == before


def test_another_mask_of_an_image_is_refused_or_replaces_the_old_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    other = dive(tmp_path / 'bob', 'a', mask_of=lambda seed: labels(seed + 5))
    text = said(capsys, 'add', data, other, code=2)
    assert '3 images' in text and "'a_0'" in text and content(data) == before
    found = said(capsys, 'add', data, other, '--replace')
    assert (found['replaced'], found['added'], found['frames']) == (3, 0, 9)
    read = load_folder(data, 'train')
    for i in range(3):
        np.testing.assert_array_equal(read.masks[read.stems.index(f'a_{i}')], labels(i + 5))


def test_a_selected_frame_that_is_also_drawn_by_chance_counts_as_drawn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frames_of(data)['a_1']['review']['origin'] == SELECTED
    stems = {f'x{i}': i for i in range(3)}
    drawn = make(tmp_path / 'drawn', stems, reviews={
        stem: FrameReview(True, 'corrected', CONTROL, 'a') for stem in stems})
    assert said(capsys, 'add', data, drawn)['same'] == 3
    assert frames_of(data)['a_1']['review']['origin'] == CONTROL


def test_an_image_is_in_one_split_and_one_that_looks_the_same_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'again'
    shutil.copytree(tmp_path / 'source_a', source)
    write_review(source, {f'a_{i}': FrameReview(True, 'corrected', dive='other')
                          for i in range(3)})
    text = said(capsys, 'add', data, source, '--split', 'val', code=2)
    assert '3 images' in text and 'train' in text
    for i in range(3):
        image = picture(800 + i)
        if not i:  # one bit of one pixel differs: a near duplicate
            image = picture(0)
            image[0, 0, 0] ^= 1
        cv2.imwrite(str(source / 'images' / f'a_{i}.png'), image)
    assert main(['dataset', 'add', str(data), str(source), '--split', 'val']) == 0
    warning = capsys.readouterr().err
    assert '1 new frames' in warning and 'train' in warning


def killed_at(step: int, data: Path, source: Path) -> bool:
    """Add in a process that is killed before system call `step`; return whether it was."""
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
            with locked_dataset(data) as dataset:
                add_folder(dataset, source, replace=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_moment_leaves_the_old_dataset_or_the_new_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = dive(tmp_path / 'next', 'a', seed=40)
    shutil.copy(tmp_path / 'source_a' / 'images' / 'a_0.png', source / 'images' / 'old.png')
    cv2.imwrite(str(source / 'masks' / 'old.png'), labels(99))
    write_review(source, {stem: FrameReview(True, 'corrected', dive='a')
                          for stem in ('a_0', 'a_1', 'a_2', 'old')})
    old, seen, step = splits_of(data), set[int](), 0
    was_killed = True
    while was_killed:
        copy = tmp_path / f'copy_{step}'
        shutil.copytree(data, copy)
        was_killed = killed_at(step, copy, source)
        read = splits_of(copy)
        for split in SHARES:  # every reader can read it, old or new
            load_folder(copy, split)
        read_blocks(blocks_path(copy, None), list(read))
        assert len(read) == 12 or read == old
        seen.add(len(read))
        said(capsys, 'add', copy, source, '--replace')
        assert len(splits_of(copy)) == len(frames_of(copy)) == 12
        assert not [path for path in copy.glob('.*') if path.name != '.lock']
        shutil.rmtree(copy)
        step += 1
    assert seen == {9, 12} and step > 15


def test_another_process_at_work_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    with locked_dataset(data):
        assert 'another process' in said(capsys, 'add', data, tmp_path / 'source_a', code=2)
    assert content(data) == before


def test_a_full_disk_leaves_the_dataset_as_it_was(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, source = content(data), dive(tmp_path / 'next', 'a', seed=40)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'mask.png')

    monkeypatch.setattr(growth, 'replace_file', full)
    assert 'no space left' in said(capsys, 'add', data, source, code=1)
    assert content(data) == before


def test_an_addition_takes_no_name_that_is_in_use_or_that_no_file_may_have(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = data / 'images' / 'e.jpg'
    cv2.imwrite(str(note), picture(500))
    held, seeds = note.read_bytes(), {'a_0': 600, 'e': 601, '12:30': 602}
    source = make(tmp_path / 'next', seeds)
    before = splits_of(data)
    assert said(capsys, 'add', data, source)['added'] == 3
    new = {stem: split for stem, split in splits_of(data).items() if stem not in before}
    assert {stem[:2] for stem in new} == {'a_', 'e_', '12'} and note.read_bytes() == held
    assert '12_30' in new
    for stem, split in new.items():
        read = load_folder(data, split)
        seed = {'a': 600, 'e': 601, '1': 602}[stem[0]]
        np.testing.assert_array_equal(
            read.images[read.stems.index(stem)][..., ::-1], picture(seed))


def spoiled(source: Path, what: str) -> None:
    classes = {'renamed': (*NAMES[:-1], 'kelp'), 'longer': (*NAMES, 'kelp')}
    if what in ('empty', 'gone'):
        shutil.rmtree(source)
        if what == 'empty':
            source.mkdir()
    elif what == 'mask':
        next((source / 'masks').iterdir()).unlink()
    elif what in ('id', 'size'):
        mask = np.full(SIZE, 99, np.uint8) if what == 'id' else np.zeros((3, 3), np.uint8)
        cv2.imwrite(str(source / 'masks' / 'z_0.png'), mask)
    elif what == 'unreviewed':
        write_review(source, {f'z_{i}': FrameReview(i > 0, 'untouched') for i in range(3)})
    elif what == 'truncated':
        image = source / 'images' / 'z_1.png'
        image.write_bytes(image.read_bytes()[:99])
    else:
        (source / 'classes.json').write_text(json.dumps({'classes': classes[what]}))


@pytest.mark.parametrize(('what', 'word'), [
    ('empty', 'nine'), ('gone', 'nine'), ('mask', 'z_'), ('id', '99'), ('size', '3x3'),
    ('unreviewed', '1 of 3'), ('truncated', 'z_1.png'), ('renamed', 'kelp'), ('longer', 'kelp')])
def test_what_cannot_be_added_is_one_sentence_and_nothing_changes(
    what: str, word: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, before = dive(tmp_path / 'nine', 'z', seed=90), content(data)
    spoiled(source, what)
    assert word in said(capsys, 'add', data, source, code=2)
    assert content(data) == before


def test_other_misuse_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, new = tmp_path / 'source_a', tmp_path / 'new'
    for words, word in (
        (('add', source, data), str(source)), (('status', tmp_path), str(tmp_path)),
        (('add', data, data), str(data)), (('add', data, source, '--split', 'half'), "'half'"),
        (('add', data, source, '--shares', 'train=0.5', 'val=0.5'), 'train'),
        (('add', new, source, '--shares', 'train=0.5', 'val=0.6'), '0.6'),
        (('add', new, source, '--shares', 'train=nan', 'val=0.5'), 'nan'),
        (('add', new, source, '--shares', '=1'), '=1'),
    ):
        assert word in said(capsys, *words, code=2), words
    assert not new.exists()


@pytest.mark.parametrize('change', [
    {'phash': 'xyz'}, {'phash': 7}, {'split': ['val']}, {'split': 'other'}, {'review': None},
    {'review': {'dive': 7}}, {'pixels_sha256': ['a']}, {'more': 1}])
def test_values_of_another_form_are_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    whole = json.loads((data / 'dataset.json').read_text())
    whole['frames']['a_0'] |= change
    (data / 'dataset.json').write_text(json.dumps(whole))
    for words in (('status', data), ('add', data, tmp_path / 'source_b')):
        assert 'dataset.json' in said(capsys, *words, code=2)


def test_status_counts_frames_dives_and_those_drawn_by_chance(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, 'status', data)
    assert (found['frames'], found['dives'], found['control']) == (9, 3, 6)
    assert found['splits'] == {'train': 3, 'val': 3, 'limits': 3}
