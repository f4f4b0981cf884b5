# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The verbs compile and simulate, through the command line."""

from collections.abc import Callable
import json
from pathlib import Path

from calibration_helpers import write_folder
from conftest import last_json
import cv2
from graph_samples import net
import numpy as np
import onnx
import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import load_folder, read_classes
from uncertainty_seg.storage.model_bundle import load_bundle

FIRST = 'frame_1_000'


def test_compile_makes_a_bundle_of_an_onnx_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(net('element', resize=True), str(tmp_path / 'net.onnx'))
    classes = {'classes': [{'id': i, 'name': f'c{i}', 'rgb': [i, i, i]} for i in range(4)]}
    (tmp_path / 'classes.json').write_text(json.dumps(classes))
    arguments = ['compile', str(tmp_path / 'net.onnx'), '--input', '16x8', '--classes',
                 str(tmp_path / 'classes.json'), '-o', str(tmp_path / 'out'), '--passes', '7']
    assert main(arguments) == 0
    assert last_json(capsys)['folded'] == []
    card = load_bundle(str(tmp_path / 'out')).card
    assert (card.passes, card.class_names[3], card.dropout_sites[0].p) == (7, 'c3', 0.5)
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'card.json', 'trunk.onnx', 'passes.onnx', 'SHA256SUMS'}


@pytest.mark.parametrize('change, words', [
    ({'classes': [{'id': 0, 'name': 'a', 'rgb': [0, 0, 0]}, {'id': 5, 'name': 'b',
                                                             'rgb': [1, 1, 1]}]}, r'ids \[0, 5\]'),
    ({'classes': [{'id': 0, 'name': 'a'}]}, 'another form'),
    ({'classes': ['sea', 'rock', 'sand'], 'ignore_index': 1}, r'ids \[0, 2\] and ignore_index 1'),
    ({'classes': ['void'], 'ignore_index': 0}, 'only class'),
    ({'classes': ['sea', 'rock', 'sea', 'fish', 'rock', 'sea']},
     "names more than one class 'rock', 'sea', expected a unique name for each class"),
    ({'classes': ['7', {'id': 1, 'name': 7, 'rgb': [0, 0, 0]}]}, "more than one class '7'"),
])
def test_a_table_of_classes_that_would_shift_or_mix_the_mask_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    (tmp_path / 'classes.json').write_text(json.dumps(change))
    with pytest.raises(DatasetError, match=words):
        read_classes(tmp_path / 'classes.json')


@pytest.mark.parametrize('break_it, words', [
    (lambda p: (p / 'masks' / f'{FIRST}.png').unlink(), rf'masks/{FIRST}\.png'),
    (lambda p: (p / 'images' / f'{FIRST}.png').unlink(), f"'{FIRST}'"),
    (lambda p: (p / 'masks' / f'{FIRST}.png').write_bytes(b'x'), rf'masks/{FIRST}\.png'),
    (lambda p: (p / 'splits.json').write_text('{"train": []}'), 'is empty'),
    (lambda p: (p / 'splits.json').write_text('{"train"'), 'is no JSON'),
    (lambda p: (p / 'splits.json').write_text('{"val": ["1"]}'), "split 'train' is not in"),
    (lambda p: (p / 'classes.json').unlink(), r'classes\.json is missing'),
    (lambda p: cv2.imwrite(str(p / 'masks' / f'{FIRST}.png'), np.zeros((5, 5), np.uint8)),
     'its mask 5x5'),
])
def test_a_damaged_folder_of_images_is_refused_in_words(
    tmp_path: Path, break_it: Callable[[Path], object], words: str
) -> None:
    folder = write_folder(tmp_path / 'data', 4, 1, splits=True)
    break_it(folder)
    with pytest.raises(DatasetError, match=words):
        load_folder(folder, 'train')
