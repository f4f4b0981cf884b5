# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Foreign files: too large or too deep ones raise with a reason; formulas are escaped."""

import os
from pathlib import Path

import pytest

from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import (
    parse_json,
    parse_yaml,
    plain_name,
    read_bytes,
    why,
)
from uncertainty_seg.storage.labelled_folder import load_folder, read_classes


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / 'ten').write_bytes(bytes(10))
    assert read_bytes(tmp_path / 'ten', 10) == bytes(10)
    with pytest.raises(ValueError, match='ten'):
        read_bytes(tmp_path / 'ten', 9)
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ValueError, match='pipe'):  # raises without blocking
        read_bytes(tmp_path / 'pipe')


def test_what_is_too_deep_is_a_reason() -> None:
    with pytest.raises(ValueError):
        parse_json('{"a":' * 10**5)
    assert parse_json('[' * 50 + ']' * 50)


@pytest.mark.parametrize('text', [
    '[' * 10_000 + ']' * 10_000, 'a: [', 'a: !!python/object/apply:os.system [ls]',
    'x' * 2**18 + 'x', 'a: &a [1]\nb: [*a, *a]', 'x: [{a: 1, b: 2, a: 3}]',
], ids=['deep', 'cut', 'call', 'large', 'aliases', 'doubled'])
def test_a_file_of_yaml_that_would_do_harm_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / 'classes.yaml').write_text(text)
    with pytest.raises(ValueError):
        parse_yaml(tmp_path / 'classes.yaml')
    with pytest.raises(DatasetError, match='classes.yaml') as caught:
        read_classes(tmp_path / 'classes.yaml')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['', '.', '..', '/x', 'a/b', '..\\x', 'C:x', 'a\n', 'x' * 256])
def test_a_path_is_no_plain_name(name: str) -> None:
    with pytest.raises(ValueError):
        plain_name(name)


def test_the_reason_of_an_error_is_a_part_of_a_sentence() -> None:
    assert why(ImageError('it is large', 'less', 'shrink it')) == 'it is large, expected less'
    assert why(OSError(2, 'No such file')) == 'No such file'
    assert why(ValueError('a\n  b')) == 'a b'
    assert why(ValueError()) == 'ValueError'


@pytest.mark.parametrize('stem', ['/etc/x', '../x', 'a/../../x'])
def test_splits_that_name_files_elsewhere_are_refused(stem: str, tmp_path: Path) -> None:
    (tmp_path / 'splits.json').write_text(f'{{"train": ["{stem}"]}}')
    with pytest.raises(DatasetError):
        load_folder(tmp_path, 'train')
