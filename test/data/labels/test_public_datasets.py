# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What becomes of SubPipe and MarinaPipe, made of small files in the helper `public_samples`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from public_samples import image_of, pipe_of, write, write_marinapipe, write_subpipe
import pytest

from uncertainty_seg.cli import import_labels
from uncertainty_seg.cli.main import main
from uncertainty_seg.data.labels import public
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import load_folder, read_blocks
from uncertainty_seg.storage.review_record import read_review, require_reviewed


@pytest.fixture
def subpipe(tmp_path: Path) -> Path:
    return write_subpipe(tmp_path / 'SubPipe')


@pytest.fixture
def marinapipe(tmp_path: Path) -> Path:
    return write_marinapipe(tmp_path / 'MarinaPipe')


def imported(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert main(['import-labels', *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_verb_names_the_datasets_and_annotations_there_are() -> None:
    assert import_labels.PUBLIC == public.PUBLIC
    assert import_labels.ANNOTATIONS == public.ANNOTATIONS


@pytest.mark.parametrize('below', ['.', 'DATA', 'DATA/Chunk2', 'DATA/Chunk2/Segmentation'])
def test_subpipe_becomes_a_training_folder_from_any_level_of_it(
    subpipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    out = tmp_path / 'out'
    done = imported(capsys, subpipe / below, out, '--format', 'subpipe', '--parts', 3)
    assert (done['frames'], done['dives'], sum(done['splits'].values())) == (9, 3, 9)
    data = load_folder(out, 'train')
    both = data.stems + load_folder(out, 'val').stems
    assert sorted(both) == [f'Chunk2_{1693574361 + k}.444' for k in range(9)]
    assert data.class_names == ('background', 'pipe')
    for stem, image, mask in zip(data.stems, data.images, data.masks, strict=True):
        seed = int(stem.split('_')[1].split('.')[0]) - 1693574361
        np.testing.assert_array_equal(image, image_of(seed)[..., ::-1])
        np.testing.assert_array_equal(mask, pipe_of(seed))
    # A part is a stretch of time, and no part is in two splits.
    blocks = read_blocks(out / 'blocks.json', sorted(both)).tolist()
    assert blocks == ['Chunk2_1'] * 3 + ['Chunk2_2'] * 3 + ['Chunk2_3'] * 3
    split_of = {stem: name for name in ('train', 'val') for stem in load_folder(out, name).stems}
    assert len({(block, split_of[stem]) for block, stem in zip(blocks, sorted(both),
                                                               strict=True)}) == 3


def test_a_whole_chunk_is_one_dive_and_a_warning_says_what_to_do(
    subpipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['import-labels', str(subpipe), str(tmp_path / 'out'), '--format', 'subpipe']) == 0
    assert 'val is empty: cut them with --parts, or add another dataset.' in \
        capsys.readouterr().err
    assert len(load_folder(tmp_path / 'out', 'train').stems) == 9
    reviews = read_review(tmp_path / 'out')
    assert {(one.reviewed, one.evidence, one.origin, one.dive) for one in reviews.values()} == {
        (True, 'published with subpipe', 'control', 'Chunk2')}
    require_reviewed(tmp_path / 'out', list(reviews))


def test_marinapipe_becomes_a_training_folder_whose_videos_are_its_dives(
    marinapipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['import-labels', str(marinapipe), str(tmp_path / 'fine'), '--format',
                 'marinapipe']) == 0
    said = capsys.readouterr().err
    assert 'video_5 has no fine_annotation and was left out' in said and 'video_6' in said
    data = load_folder(tmp_path / 'fine', 'train')
    stems = data.stems + load_folder(tmp_path / 'fine', 'val').stems
    assert sorted({stem[:7] for stem in stems}) == [f'video_{k}' for k in (1, 2, 3, 4, 7)]
    for stem, image, mask in zip(data.stems, data.images, data.masks, strict=True):
        video, k = int(stem[6]), int(stem[-4])
        np.testing.assert_array_equal(image, image_of(10 * video + k)[..., ::-1])
        np.testing.assert_array_equal(mask, pipe_of(k + 1))
    done = imported(capsys, marinapipe, tmp_path / 'coarse', '--format', 'marinapipe',
                    '--annotation', 'coarse')
    assert (done['frames'], done['dives']) == (21, 7)
    coarse = load_folder(tmp_path / 'coarse', 'train')
    np.testing.assert_array_equal(coarse.masks[0][:, :-1],
                                  pipe_of(int(coarse.stems[0][-4]) + 1)[:, 1:])


def test_labels_of_the_original_size_take_the_original_images_and_need_no_ending(
    marinapipe: Path, tmp_path: Path
) -> None:
    video = marinapipe / 'video_3'
    for file in (video / 'fine_annotation').iterdir():
        write(video / 'fine_annotation' / file.name.replace('_label', ''),
              pipe_of(1, 48, 64).astype(np.uint8))
        file.unlink()
    frames, _ = public.find_public('marinapipe', [video])
    out = tmp_path / 'out'
    out.mkdir()
    public.write_public(out, frames, 'marinapipe', {'train': 1.0}, 0)
    data = load_folder(out, 'train')
    assert [image.shape for image in data.images] == [(48, 64, 3)] * 3
    assert (data.masks[0] == pipe_of(1, 48, 64)).all()


@pytest.mark.parametrize(('pixels', 'ending'), [
    (pipe_of(1).astype(np.uint8), 'png'),
    (pipe_of(1).astype(np.uint8) * 255, 'png'),
    (pipe_of(1).astype(np.uint16) * 65535, 'png'),
    (pipe_of(1)[..., None] * np.uint8((0, 128, 0)), 'png'),
    (np.dstack([pipe_of(1) * np.uint8(128)] * 3 + [np.full((24, 32), 255, np.uint8)]), 'png'),
    (pipe_of(1).astype(np.uint8) * 255, 'jpg'),
])
def test_a_mask_of_two_values_is_read_whatever_they_are(
    tmp_path: Path, pixels: np.ndarray, ending: str
) -> None:
    write(tmp_path / f'a.{ending}', pixels)
    mask = public.read_public_mask(tmp_path / f'a.{ending}')
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, pipe_of(1))


@pytest.mark.parametrize(('damage', 'match'), [
    (lambda folder: (folder / '1693574363.444.png').unlink(),
     '1 labels of subpipe have no image (1693574363.444_label.png)'),
    (lambda folder: write(folder / '1693574363.444.png', image_of(0, 30, 40)),
     'is 32x24 and its image 40x30, expected equal sizes'),
    (lambda folder: write(folder / '1693574363.444_label.png', image_of(0)[..., 0]),
     'has the values 0, 1, 2, 3 and'),
    # Two classes whose colours are equally bright are two.
    (lambda folder: write(folder / '1693574363.444_label.png', np.where(
        np.arange(24)[:, None, None] < 12, np.uint8((0, 0, 255)), np.uint8((0, 255, 0)))
        * pipe_of(2)[..., None].astype(np.uint8)), 'has 2 colours besides black'),
    (lambda folder: (folder / '1693574363.444_label.png').write_bytes(b'no picture'),
     '1693574363.444_label.png cannot be read'),
    (lambda folder: [file.unlink() for file in folder.glob('*_label.png')],
     'no labelled frames of subpipe in '),
])
def test_what_is_damaged_is_one_sentence_and_nothing_is_written(
    subpipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage, match: str
) -> None:
    damage(subpipe / 'DATA' / 'Chunk2' / 'Segmentation')
    assert main(['import-labels', str(subpipe), str(tmp_path / 'out'), '--format',
                 'subpipe']) == 2
    assert match in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('words', 'match'), [
    (('--format', 'subpipe', '--annotation', 'fine'), '--annotation with --format subpipe'),
    (('--format', 'subpipe', '--accept-unchanged'), '--accept-unchanged with --format subpipe'),
    (('--format', 'coco', '--parts', '2'), '--parts with --format coco'),
    (('--format', 'marinapipe', '--annotation', 'rough'), 'expected one of fine, coarse'),
])
def test_options_of_another_format_are_refused(
    subpipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    match: str,
) -> None:
    assert main(['import-labels', str(subpipe), str(tmp_path / 'out'), *words]) == 2
    assert match in capsys.readouterr().err


def test_one_dataset_given_twice_is_refused(subpipe: Path) -> None:
    with pytest.raises(DatasetError, match='9 frames are there twice'):
        public.find_public('subpipe', [subpipe, subpipe / 'DATA'])


def test_both_go_into_a_growing_dataset(
    subpipe: Path, marinapipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(capsys, subpipe, tmp_path / 'one', '--format', 'subpipe')
    imported(capsys, marinapipe, tmp_path / 'two', '--format', 'marinapipe')
    data = tmp_path / 'data'
    assert main(['dataset', 'init', str(data)]) == 0
    for source in ('one', 'two'):
        assert main(['dataset', 'add', str(data), str(tmp_path / source)]) == 0
    blocks = json.loads((data / 'blocks.json').read_text())
    assert set(blocks.values()) == {'Chunk2', *(f'video_{k}' for k in (1, 2, 3, 4, 7))}
    assert len(blocks) == 24
