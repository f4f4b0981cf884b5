# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bound the decompression of bags: a foreign bag of kilobytes must not expand to gigabytes of memory.

rosbags and mcap decompress a chunk, a message or a file in one call and without a limit, and the
size stated in the bag may be wrong. Their calls are replaced, for the whole process, by others
that stop at a budget.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
import io
import os
from types import SimpleNamespace
from typing import Any, BinaryIO

from uncertainty_seg.errors import BagError
from uncertainty_seg.storage import foreign_files

_BLOCK_BYTES = 2**20


def expand(make: Callable[[], Any], data: bytes, most: int) -> bytes:
    """
    Decompress one frame after the other, up to `most` bytes in all.

    `make` returns a decompressor with the interface of the standard library's. Raises ValueError
    if there is more, or the data is truncated.
    """
    found, left = bytearray(), data
    while True:
        frame = make()
        while not frame.eof:
            part = frame.decompress(left, max_length=min(_BLOCK_BYTES, most + 1 - len(found)))
            found += part
            if len(found) > most:
                raise ValueError(f'{len(data)} bytes expand to more than {most}')
            if not part and left == b'':
                raise ValueError('the compressed data is truncated')
            left = b''
        left = frame.unused_data
        if not left:
            return bytes(found)


class _BoundedFile(io.RawIOBase):
    """A compressed file as a stream that raises ValueError beyond so many bytes."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._most, self._count = stream, most, 0

    def read(self, size: int = -1) -> bytes:
        """Read at most a block."""
        block = self._stream.read(_BLOCK_BYTES if size < 0 else min(size, _BLOCK_BYTES))
        self._count += len(block)
        if self._count > self._most:
            raise ValueError(f'the file expands to more than {self._most} bytes')
        return block


@lru_cache(maxsize=1)
def bound_decompression() -> None:
    """Replace the libraries' decompressors; BagError if a library has moved them."""
    try:
        _replace()
    except (ImportError, AttributeError, KeyError) as err:
        raise BagError(f'rosbags or mcap decompress in another place ({err!r})',
                       'rosbags 0.11 and mcap 1', 'install these') from err


def _replace() -> None:
    import bz2

    import lz4.frame
    import mcap.stream_reader as mcap_stream
    from rosbags.rosbag1 import reader as rosbag1
    from rosbags.rosbag2 import reader as rosbag2
    from rosbags.rosbag2 import storage_mcap

    zstd = rosbag2.zstd
    kinds = {'zstd': zstd.ZstdDecompressor, 'lz4': lz4.frame.LZ4FrameDecompressor,
             'bz2': bz2.BZ2Decompressor}

    def bounded(kind: str) -> Callable[..., bytes]:
        def decompress(data: bytes, size: int | None = None) -> bytes:
            budget = foreign_files.MAX_EXPANDED_BYTES
            if size is not None and size > budget:
                raise ValueError(f'a chunk of {size} bytes, more than {budget}')
            return expand(kinds[kind], data, budget if size is None else size)

        return decompress

    def open_file(file: BinaryIO, mode: str) -> _BoundedFile:
        size = os.fstat(file.fileno()).st_size
        return _BoundedFile(zstd.open(file, mode), foreign_files.most_expanded(size))

    for places, names in ((storage_mcap.DECOMPRESSORS, ('zstd', 'lz4')),
                          (rosbag1.decompressors, ('bz2', 'lz4'))):
        for name in names:
            places[name]  # KeyError if the library does not have it
            places[name] = bounded(name)
    assert mcap_stream.lz4 and mcap_stream.zstandard
    mcap_stream.lz4 = SimpleNamespace(decompress=bounded('lz4'))
    mcap_stream.zstandard = SimpleNamespace(decompress=bounded('zstd'))
    rosbag2.zstd = SimpleNamespace(decompress=bounded('zstd'), open=open_file)
