# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bags and tables of a few kilobytes that would expand to gigabytes, under a small budget."""

import bz2
from collections.abc import Callable
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
import pytest
from score_tables import write_rows

from uncertainty_seg.errors import BagError, TableError
from uncertainty_seg.storage import foreign_files
from uncertainty_seg.storage.bags.bounded import bound_decompression, expand
from uncertainty_seg.storage.bags.reader import BagReader, IMAGE_TYPE, McapStream, typestore
from uncertainty_seg.storage.score_rows import read_rows, ScoreRow, TableInfo

BOMB, BUDGET, HEADER = 2**23, 2**20, 'std_msgs/msg/Header'
INFO = TableInfo('pipeline', 'a' * 64, ('sea',), ((0, 0, 0),), 1, 0, ('entropy.mean',), 2)


def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, 'MAX_EXPANDED_BYTES', BUDGET)
    monkeypatch.setattr(foreign_files, 'MAX_EXPANSION', 0)


def message(store: Any, num_bytes: int) -> Any:
    """Make an image of zeros; in ROS 1 the header also has a sequence number."""
    kinds = store.types
    number = [0] if 'seq' in kinds[HEADER].__dataclass_fields__ else []
    header = kinds[HEADER](*number, kinds['builtin_interfaces/msg/Time'](1, 0), 'camera')
    return kinds[IMAGE_TYPE](header, num_bytes // 64, 64, 'mono8', 0, 64,
                             np.zeros(num_bytes, np.uint8))


def write_rosbag2(folder: Path, storage: str, mode: str, num_bytes: int) -> Path:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

    writer = Writer(folder, version=8, storage_plugin=StoragePlugin[storage])
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/image', IMAGE_TYPE, typestore=typestore())
        writer.write(connection, 10**9, typestore().serialize_cdr(
            message(typestore(), num_bytes), IMAGE_TYPE))
    return folder


def write_rosbag1(path: Path, compression: str, num_bytes: int) -> Path:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import get_typestore, Stores

    store, writer = get_typestore(Stores.ROS1_NOETIC), Writer(path)
    writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        connection = writer.add_connection('/image', IMAGE_TYPE, typestore=store)
        writer.write(connection, 10**9, store.serialize_ros1(
            message(store, num_bytes), IMAGE_TYPE))
    return path


def count(path: Path) -> int:
    with BagReader(path) as bag:
        return sum(len(item.raw.data) for item in bag.images('/image'))


KINDS: dict[str, Callable[[Path, int], Path]] = {
    'mcap': lambda place, size: write_rosbag2(place / 'bag', 'MCAP', 'STORAGE', size),
    'message': lambda place, size: write_rosbag2(place / 'bag', 'SQLITE3', 'MESSAGE', size),
    'file': lambda place, size: write_rosbag2(place / 'bag', 'SQLITE3', 'FILE', size),
    'bz2': lambda place, size: write_rosbag1(place / 'bag.bag', 'BZ2', size),
    'lz4': lambda place, size: write_rosbag1(place / 'bag.bag', 'LZ4', size),
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_bag_expands_to_its_budget_and_no_further(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (('plain', BUDGET // 2), ('bomb', BOMB)):
        (tmp_path / name).mkdir()
        KINDS[kind](tmp_path / name, size)
    plain, bomb = (next((tmp_path / name).iterdir()) for name in ('plain', 'bomb'))
    bound_decompression()
    small_budget(monkeypatch)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    assert count(plain) == BUDGET // 2
    with pytest.raises(BagError, match=str(BUDGET)):
        count(bomb)


def test_an_mcap_file_read_from_its_start_has_the_same_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(KINDS['mcap'](tmp_path, BOMB).glob('*.mcap'))
    assert sum(len(item.message.data) for item in McapStream(file).messages('/image')) == BOMB
    small_budget(monkeypatch)
    with pytest.raises(BagError, match='breaks off'):
        list(McapStream(file).messages('/image'))


@pytest.mark.parametrize('frames', [1, 3])
def test_nothing_is_made_beyond_the_limit_whatever_was_said(frames: int) -> None:
    made = []

    class Counting:

        def __init__(self) -> None:
            self._of = bz2.BZ2Decompressor()

        def decompress(self, data: bytes, max_length: int) -> bytes:
            made.append(self._of.decompress(data, max_length))
            return made[-1]

        def __getattr__(self, name: str) -> object:
            return getattr(self._of, name)

    data = bz2.compress(bytes(BOMB // 4)) * frames
    assert expand(Counting, data, frames * BOMB // 4) == bytes(frames * BOMB // 4)
    for most in (0, 1, BUDGET):
        made.clear()
        with pytest.raises(ValueError, match=str(most)):
            expand(Counting, data, most)
        assert sum(map(len, made)) == most + 1
    with pytest.raises(ValueError, match='truncated'):
        expand(Counting, data[:-3], frames * BOMB)


def test_a_table_of_repeated_text_is_read_up_to_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('pyarrow')
    for name, dive in (('plain', 'dive'), ('bomb', 'dive' * BUDGET)):
        row = ScoreRow(dive, 'bag', 'bag', '/image', 0, 10**9, 4, 4, True, 'confident', 0.5, [0.1],
                       [1.0], 7, np.zeros(2, np.float32))
        write_rows(tmp_path / f'{name}.parquet', INFO, [row] * 50)
    assert (tmp_path / 'bomb.parquet').stat().st_size < BUDGET
    small_budget(monkeypatch)
    assert read_rows(tmp_path / 'plain.parquet').num_rows == 50
    with pytest.raises(TableError, match=str(BUDGET)):
        read_rows(tmp_path / 'bomb.parquet')
