# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Folds: each image is kept from one network, by a rule that no order or machine changes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.folds import fold_of, read_folds, without_fold, write_folds
from uncertainty_seg.storage.labelled_folder import LabelledFolder, subset

STEMS = [f'frame_{i}' for i in range(11)]


def data(classes: list[int]) -> LabelledFolder:
    """Images of one colour and one class each, of as many grey levels as images."""
    images = [np.full((4, 5, 3), i, np.uint8) for i in range(len(classes))]
    masks = [np.full((4, 5), c, np.uint8) for c in classes]
    return LabelledFolder(images, masks, STEMS[:len(classes)], ('mud', 'pipe'),
                          ((0, 0, 0), (1, 1, 1)), 255)


def test_the_fold_is_the_rank_of_the_digest_whatever_the_order() -> None:
    found = fold_of(STEMS, 3, 5)
    ranked = sorted(STEMS, key=lambda s: hashlib.sha256(f'5:{s}'.encode()).hexdigest())
    assert [found[stem] for stem in ranked] == [0, 1, 2] * 3 + [0, 1]
    assert fold_of(STEMS[::-1], 3, 5) == found
    assert fold_of(STEMS, 3, 6) != found
    # Known since the rule was made: other machines and versions must agree.
    assert fold_of(['a', 'b', 'c', 'd'], 2) == {'a': 1, 'b': 1, 'c': 0, 'd': 0}


def test_every_image_is_outside_of_exactly_one_training_set() -> None:
    whole = data([0, 1] * 5 + [0])
    folds = fold_of(whole.stems, 3)
    seen = [set(without_fold(whole, k, folds).stems) for k in range(3)]
    for stem in STEMS:
        assert [stem in part for part in seen] == [folds[stem] != k for k in range(3)]


def test_an_image_goes_with_its_mask_and_may_come_twice() -> None:
    part = subset(data([0, 1, 0, 1]), [3, 0, 3])
    assert part.stems == ['frame_3', 'frame_0', 'frame_3']
    assert [int(image[0, 0, 0]) for image in part.images] == [3, 0, 3]
    assert [int(mask[0, 0]) for mask in part.masks] == [1, 0, 1]


def test_a_fold_that_takes_a_class_away_is_refused() -> None:
    whole = data([0] * 10 + [1])
    folds = fold_of(whole.stems, 3)
    lost, kept = folds[STEMS[10]], (folds[STEMS[10]] + 1) % 3
    with pytest.raises(DatasetError, match=rf"outside of fold {lost} hold no pixel of 'pipe'"):
        without_fold(whole, lost, folds)
    assert STEMS[10] in without_fold(whole, kept, folds).stems
    # A class that no image has is not missed.
    assert len(without_fold(data([0] * 11), 0, folds).stems) == 7


@pytest.mark.parametrize(('stems', 'folds', 'words'), [
    (STEMS, 1, '1 folds of 11 images, expected 2 to 11 folds'),
    (STEMS, 12, '12 folds of 11 images'), (['a', 'a'], 2, 'comes twice')])
def test_folds_that_cannot_be_are_refused(stems: list[str], folds: int, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        fold_of(stems, folds)


@pytest.mark.parametrize('fold', [-1, 3])
def test_a_fold_that_is_not_there_is_refused(fold: int) -> None:
    whole = data([0, 1] * 5)
    with pytest.raises(DatasetError, match=f'fold {fold} of 3, expected 0 to 2'):
        without_fold(whole, fold, fold_of(whole.stems, 3))


def test_the_file_of_folds_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / 'folds.json'
    write_folds(path, {'b': 1, 'a': 0})
    assert path.read_text() == '{\n "a": 0,\n "b": 1\n}\n'
    assert read_folds(path) == {'a': 0, 'b': 1}


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"a": "0"}', '{"a": true}'])
def test_a_file_that_holds_no_folds_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'folds.json').write_text(text)
    with pytest.raises(DatasetError, match=r'folds.json.*expected \{"STEM": FOLD, ...\}'):
        read_folds(tmp_path / 'folds.json')
