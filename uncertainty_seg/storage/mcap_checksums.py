# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put the checksum of each chunk into an MCAP file that rosbags writes.

rosbags writes 0 there, which means none. A reader then takes a message whose bytes were damaged on
the disk for a sound one: most of a photograph is stored as it is, and any byte of it decodes.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
import struct
from typing import Any, BinaryIO
import zlib

# Of the format: its magic, a chunk's code, what stands before its checksum (two times, a size).
_MAGIC_BYTES, _CHUNK, _BEFORE_CHECKSUM = 8, 0x06, 24
_HEAD = struct.Struct('<BQ')


def note_checksums(storage: Any) -> list[int]:
    """
    Have the checksum of each chunk noted while it is written.

    Parameters
    ----------
    storage : rosbags.rosbag2.storage_mcap.McapWriter
        An open one.

    Returns
    -------
    list of int
        Grows by the CRC-32 of the bytes of each chunk, before they are compressed.

    """
    noted: list[int] = []
    compress = storage.compressor

    def compressed(data: bytes) -> bytes:
        noted.append(zlib.crc32(data))
        packed: bytes = compress(data)
        return packed

    storage.compressor = compressed
    return noted


def write_checksums(path: Path, checksums: Sequence[int]) -> None:
    """
    Write checksums into a finished file.

    Parameters
    ----------
    path : Path
        The file; its size does not change.
    checksums : sequence of int
        Of its chunks, in order.

    Raises
    ------
    OSError
        If the disk refuses.

    """
    with path.open('r+b') as file:
        for place, checksum in zip(list(_chunk_places(file)), checksums, strict=True):
            file.seek(place + _BEFORE_CHECKSUM)
            file.write(struct.pack('<I', checksum))


def _chunk_places(file: BinaryIO) -> Iterator[int]:
    """Yield where the content of each chunk begins."""
    file.seek(_MAGIC_BYTES)
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        code, size = _HEAD.unpack(head)
        if code == _CHUNK:
            yield file.tell()
        file.seek(size, 1)
