# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The score table: exact rows, parts that are whole or absent, one model per table."""

from dataclasses import replace
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_tables import write_rows

from uncertainty_seg.errors import TableError
from uncertainty_seg.storage import score_rows
from uncertainty_seg.storage.score_rows import (
    info_of,
    read_facts,
    read_info,
    read_rows,
    schema_of,
    ScoreRow,
    TABLE_KEY,
    TableInfo,
    unique_dives,
)

pyarrow = pytest.importorskip('pyarrow', reason='pyarrow is not installed')
parquet = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed')

INFO = TableInfo(
    'suim', 'ab' * 32, ('sand', 'fish'), ((1, 2, 3), (4, 5, 6)), 20, 7,
    ('entropy.mean', 'entropy.top'), 3, {'seed': 7, 'gate.scores': ['entropy.mean']})


def row(index: int, **changes: Any) -> ScoreRow:
    made = ScoreRow('dive_07', '/bags/dive_07', 'bag', '/cam', index, 10**18 + index, 480, 640,
                    True, 'confident', 0.5, (0.25, 0.1), (0.75, 0.25), 2**64 - 1 - index,
                    np.array([0.6, 0.8, index], np.float32))
    return replace(made, **changes)


def test_a_row_comes_back_to_the_bit(tmp_path: Path) -> None:
    write_rows(tmp_path / 'a.parquet', INFO, [
        row(3), row(4, scores=(math.nan, 0.0), score_ratio=math.inf, is_confident=False,
                    verdict='fault')])
    table = read_rows(tmp_path)
    first, second = table.to_pylist()
    assert first == {
        'frame_key': '/bags/dive_07#/cam#3', 'dive': 'dive_07', 'run': '/bags/dive_07',
        'source': '/bags/dive_07',
        'kind': 'bag', 'topic': '/cam', 'index': 3, 'stamp_ns': 10**18 + 3, 'height': 480,
        'width': 640, 'confident': True, 'verdict': 'confident', 'score_ratio': 0.5, 'file': '',
        'verdict_reason': '',
        'score.entropy.mean': 0.25, 'score.entropy.top': float(np.float32(0.1)),
        'share.sand': 0.75, 'share.fish': 0.25, 'phash': 2**64 - 4,
        'features': [float(np.float32(0.6)), float(np.float32(0.8)), 3.0]}
    # NaN stays NaN: a null would be silently skipped in a mean.
    assert math.isnan(second['score.entropy.mean']) and second['score_ratio'] == math.inf
    assert table['score.entropy.mean'].null_count == 0


def test_order_is_kept_beyond_what_is_held_in_memory(tmp_path: Path) -> None:
    count = 2 * score_rows._GROUP + 5
    assert write_rows(tmp_path / 'a.parquet', INFO, map(row, range(count))) == count
    table = read_rows(tmp_path, ['index', 'features'])
    assert table['index'].to_pylist() == list(range(count))
    last = np.asarray(table['features'].combine_chunks().flatten()).reshape(count, 3)[:, 2]
    np.testing.assert_array_equal(last, np.arange(count))


def test_what_made_a_table_comes_back(tmp_path: Path) -> None:
    part = tmp_path / 'a.parquet'
    write_rows(part, INFO, [row(0)], {'num_bad': 3, 'text': 'ä'})
    assert read_info(part) == INFO == info_of(read_rows(part, ['index']).schema)
    assert read_facts(part) == {'num_bad': 3, 'text': 'ä'}


def test_two_runs_of_one_name_are_two_dives_and_files_of_one_run_one(tmp_path: Path) -> None:
    write_rows(tmp_path / 'a.parquet', INFO, [
        row(0, dive='bag', source='/north/bag'),
        row(1, dive='bag', source='/south/bag'),
        row(2, dive='long', source='/long/x_0.mcap', run='/long'),
        row(3, dive='long', source='/long/x_1.mcap', run='/long'),
        row(4, dive='given', source='/p/x.mcap', run='given'),
        row(5, dive='given', source='/q/x.mcap', run='given')])
    table = read_rows(tmp_path)
    # The sha256 of '/north/bag' and '/south/bag', computed with sha256sum.
    expected = ['bag_f1d93c', 'bag_802f93', 'long', 'long', 'given', 'given']
    assert unique_dives(table) == expected
    again = table.set_column(1, 'dive', pyarrow.array(expected))
    assert unique_dives(again) == expected
    assert unique_dives(table.slice(0, 1)) == ['bag']


def test_what_is_no_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TableError):
        read_rows(tmp_path)
    with pytest.raises(TableError):
        read_rows(tmp_path / 'nothing')
    (tmp_path / 'a.parquet').write_bytes(b'PAR1 and no more')
    with pytest.raises(TableError, match='a.parquet'):
        read_rows(tmp_path)


@pytest.mark.parametrize(('name', 'column'), [
    ('width', None), ('share.fish', None), ('dive', [None]), ('phash', [1.5]), ('features', [[1]]),
])
def test_a_part_with_other_columns_is_one_sentence(
    tmp_path: Path, name: str, column: list[Any] | None
) -> None:
    part = tmp_path / 'a.parquet'
    write_rows(part, INFO, [row(1)])
    table, at = parquet.read_table(part), parquet.read_schema(part).get_field_index(name)
    kind = table.schema.field(at).type if column == [None] else None
    parquet.write_table(table.remove_column(at) if column is None else table.set_column(
        at, name, pyarrow.array(column, kind)), part)
    with pytest.raises(TableError, match=f"a.parquet.*'{name}'"):
        read_rows(part)


def test_metadata_of_another_form_or_version_are_one_sentence() -> None:
    whole = json.loads(schema_of(INFO).metadata[TABLE_KEY])
    for raw in ('[1]', '{', *(json.dumps(whole | change) for change in (
            {'palette': [1]}, {'class_names': None}, {'more': 1}, {'version': 99}))):
        with pytest.raises(TableError, match='metadata|version 99'):
            info_of(pyarrow.schema([], metadata={TABLE_KEY: raw}))
