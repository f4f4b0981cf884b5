# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Labelled folders: frames and blocks in every file format, and errors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import load_folder, load_folders, read_blocks


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding='utf-8')
    return path


@pytest.mark.parametrize(('name', 'text'), [
    ('b.json', '{"a": "dive", "b": "dive", "c": "other"}'),
    ('b.csv', 'c, other\nb,dive\na,dive\n'),
    # As spreadsheets write it, with a byte order mark first and empty lines last.
    ('b.csv', '\ufeffb,dive\r\nc, other\r\na,dive\r\n\r\n'),
    ('b.json', '\ufeff{"a": "dive", "b": "dive", "c": "other"}'),
])
def test_each_form_gives_the_block_of_each_frame(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    assert read_blocks(path, ['b', 'c', 'a', 'b']).tolist() == ['dive', 'other', 'dive', 'dive']


def test_the_blocks_of_suim_are_those_of_its_split_limits() -> None:
    recipes = Path(__file__).parents[2] / 'config' / 'recipes'
    limits = json.loads((recipes / 'suim.splits.json').read_text())['limits']
    assert len(set(read_blocks(recipes / 'suim.blocks.json', limits).tolist())) == 292


@pytest.mark.parametrize(('name', 'text', 'words'), [
    ('b.json', '{"a": "dive"}', "no block for 'b' and 0 more"),
    ('b.json', '{"a": "dive", "a": "other", "b": "dive"}', "has the frame 'a' twice"),
    ('b.json', '[1]', '1'), ('b.json', '{"dive": {"a": "b"}}', 'dive'),
    ('b.json', '{"dive": 3}', 'dive'), ('b.json', '3', 'b.json'), ('b.json', 'no', 'b.json'),
    ('b.csv', 'a\n', 'a'), ('none.json', '', 'none.json'),
])
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        read_blocks(write(tmp_path, name, text), ['a', 'b'])
    with pytest.raises(DatasetError, match='missing.csv'):
        read_blocks(tmp_path / 'missing.csv', ['a'])


@pytest.mark.parametrize(('mask', 'words'), [
    (np.zeros((6, 8, 3), np.uint8), 'a.png .*3 channels'),
    (np.zeros((6, 8), np.uint16), 'a.png .*16 bits'), (np.zeros((3, 8), np.uint8), '8x6.*8x3'),
    # A 1-bit mask as Pillow saves it: OpenCV reads it as 0 and 255, and 255 is unknown.
    (cv2.imencode('.png', np.eye(6, 8, dtype=np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])[1],
     'a.png .*1 bit'),
    (cv2.imencode('.jpg', np.eye(6, 8, dtype=np.uint8))[1], 'a.png .*jpeg'),
])
def test_a_mask_that_holds_no_ids_is_said(
    tmp_path: Path, mask: np.ndarray, words: str
) -> None:
    for place in ('images', 'masks'):
        (tmp_path / place).mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.zeros((6, 8, 3), np.uint8))
    file = mask if mask.ndim == 1 else cv2.imencode('.png', mask)[1]
    (tmp_path / 'masks' / 'a.png').write_bytes(file.tobytes())
    (tmp_path / 'classes.json').write_text('{"classes": ["one", "two"], "ignore_index": 255}')
    with pytest.raises(DatasetError, match=words):
        load_folder(tmp_path, 'train')


def test_a_class_with_the_id_of_the_ignore_index_counts_as_unlabelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ('images', 'masks'):
        (tmp_path / place).mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.zeros((6, 8, 3), np.uint8))
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), mask)
    (tmp_path / 'classes.json').write_text(
        '{"classes": ["sea", "reef", "void"], "ignore_index": 2}')
    with caplog.at_level('INFO'):
        found = load_folder(tmp_path, 'train')
    assert found.class_names == ('sea', 'reef') and found.ignore_index == 2
    assert (found.masks[0] == mask).all() and found.pixel_counts().tolist() == [[16, 16]]
    assert [line for line in caplog.messages if "'void'" in line]


@pytest.mark.parametrize(('splits', 'words'), [
    ('', "'a'"), ('{"val": ["a", "b"]}', "'a'"),
])
def test_one_name_for_two_images_is_refused(tmp_path: Path, splits: str, words: str) -> None:
    """Refuse it, since one image would count twice and the other not at all."""
    for name in ('images/a.png', 'images/a.jpg', 'images/b.png', 'masks/a.png', 'masks/b.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        grey = np.full((8, 8, 1 if name.startswith('masks') else 3), len(name) % 2, np.uint8)
        cv2.imwrite(str(tmp_path / name), grey)
    (tmp_path / 'classes.json').write_text('{"classes": ["water", "reef"]}')
    if splits:
        (tmp_path / 'splits.json').write_text(splits)
    with pytest.raises(DatasetError, match=words):
        load_folder(tmp_path, 'val')
    # A second name of the same file, as on a case-insensitive file system, is not an image.
    (tmp_path / 'images' / 'a.jpg').unlink()
    (tmp_path / 'images' / 'a.PNG').hardlink_to(tmp_path / 'images' / 'a.png')
    (tmp_path / 'splits.json').write_text('{"val": ["a", "b", "a"]}')
    assert load_folder(tmp_path, 'val').stems == ['a', 'b']


def test_all_faults_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    (tmp_path / 'classes.json').write_text('{"classes": ["one", "two"]}')
    for k, name in enumerate(('a', 'b', 'c', 'd')):
        # File endings are case-insensitive, as in `score`.
        ending = 'Png' if name == 'd' else 'png'
        cv2.imwrite(str(tmp_path / 'images' / f'{name}.{ending}'),
                    np.full((6, 8, 3), k, np.uint8))
        cv2.imwrite(str(tmp_path / 'masks' / f'{name}.png'), np.full((6, 8), k, np.uint8))
    with pytest.raises(DatasetError, match="2 of 4 .*'c'.* id 2.*'d'.* id 3"):
        load_folders([tmp_path], ['train'])
    for name in ('a', 'c'):
        (tmp_path / 'images' / f'{name}.png').write_bytes(b'no image')
    with pytest.raises(DatasetError, match=r'2 of 4 .*a\.png.*c\.png'):
        load_folder(tmp_path, 'train')
