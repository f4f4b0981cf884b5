# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Files of others: what is too large or too deep has a reason; a formula becomes a text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import (
    csv_text,
    from_csv_text,
    parse_json,
    parse_yaml,
    plain_name,
    read_bytes,
    why,
)
from uncertainty_seg.storage.labelled_folder import load_folder, read_blocks, read_classes


@pytest.mark.parametrize('text', ['=HYPERLINK("http://x","y")', '+1', '-1+2', '@SUM(A1)', '\tx',
                                  '\r=1', '=', "'=1"])
def test_a_formula_is_behind_an_apostrophe_and_comes_back(text: str) -> None:
    assert csv_text(text) == f"'{text}"
    assert from_csv_text(csv_text(text)) == text


@pytest.mark.parametrize('text', ['', 'dive 7', "'quoted'", "'", 'a=b', '1e5', '3'])
def test_a_text_stays_as_it_is(text: str) -> None:
    assert csv_text(text) == from_csv_text(text) == text


@hypothesis.given(st.text(st.sampled_from("'=+-@\t\r ab1"), max_size=6))
def test_every_text_comes_back_and_none_begins_like_a_formula(text: str) -> None:
    field = csv_text(text)
    assert from_csv_text(field) == text
    assert not field.startswith(('=', '+', '-', '@', '\t', '\r'))


def test_blocks_that_a_spreadsheet_wrote_have_their_names_again(tmp_path: Path) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([csv_text('-frame'), csv_text('=dive')])
    (tmp_path / 'blocks.csv').write_text(file.getvalue())
    np.testing.assert_array_equal(read_blocks(tmp_path / 'blocks.csv', ['-frame']), ['=dive'])


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / 'ten').write_bytes(bytes(10))
    assert read_bytes(tmp_path / 'ten', 10) == bytes(10)
    with pytest.raises(ValueError, match='ten has more than 9 bytes'):
        read_bytes(tmp_path / 'ten', 9)


def test_what_is_too_deep_is_a_reason() -> None:
    with pytest.raises(ValueError, match='nested too deeply'):
        parse_json('{"a":' * 10**5)
    assert parse_json('[' * 50 + ']' * 50)


@pytest.mark.parametrize('text, words', [
    ('a: &a [x, x]\nb: [*a, *a]\n', 'it has aliases'),
    ('[' * 10**4, 'nested too deeply'),
    ('- ' * 10**4, 'nested too deeply'),
    ('? ' * 10**4, 'nested too deeply'),
    ('a: [', 'line 1 is not understood'),
    ('a: !!python/object/apply:os.system [ls]', 'line 1 is not understood'),
    ('x' * 2**18 + 'x', 'more than 262144 bytes'),
], ids=['aliases', 'brackets', 'dashes', 'keys', 'cut', 'call', 'large'])
def test_a_file_of_yaml_that_would_do_harm_is_a_reason(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / 'classes.yaml').write_text(text)
    with pytest.raises(ValueError, match=words):
        parse_yaml(tmp_path / 'classes.yaml')
    with pytest.raises(DatasetError, match='classes.yaml is no YAML') as caught:
        read_classes(tmp_path / 'classes.yaml')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['', '.', '..', '/x', 'a/b', '..\\x', 'C:x', 'a\n', 'x' * 256])
def test_a_path_is_no_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match='is not a plain file name'):
        plain_name(name)


def test_a_plain_name_may_have_points_and_spaces() -> None:
    assert plain_name('dive 1..0_ü.png') == 'dive 1..0_ü.png'


def test_the_reason_of_an_error_is_a_part_of_a_sentence() -> None:
    assert why(ImageError('it is large', 'less', 'shrink it')) == 'it is large, expected less'
    assert why(OSError(2, 'No such file')) == 'No such file'
    assert why(ValueError('a\n  b')) == 'a b'
    assert why(ValueError()) == 'ValueError'


@pytest.mark.parametrize('stem', ['/etc/x', '../x', 'a/../../x'])
def test_splits_that_name_files_elsewhere_are_refused(stem: str, tmp_path: Path) -> None:
    (tmp_path / 'splits.json').write_text(f'{{"train": ["{stem}"]}}')
    with pytest.raises(DatasetError, match='expected files of its folder'):
        load_folder(tmp_path, 'train')
