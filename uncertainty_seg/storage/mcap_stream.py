# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read an MCAP file from its start, whatever its end is like.

For a file that has no index, since it was cut off or is still being written, or in which a chunk
is damaged: `bag_reader` refuses the one and stops at the other. What lies within a damaged chunk
is passed on as `BadMessage`, as many as the index behind the chunk names.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uncertainty_seg.errors import BackendUnavailableError, BagError
from uncertainty_seg.storage.bag_messages import typestore
from uncertainty_seg.storage.bag_reader import BadMessage, BagMessage

MCAP_ENDING = '.mcap'


@dataclass
class McapScan:
    """
    What a file holds, as far as it can be read.

    Attributes
    ----------
    types : dict of str to str
        Topic to message type, sorted by topic.
    counts : dict of str to int
        Topic to number of messages, those of damaged chunks included.
    num_bytes : int
        Read before the file broke off; its size if it did not.
    broke_off : str
        Why it ended early; empty if it did not.

    """

    types: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    broke_off: str = ''


def scan_mcap(path: Path) -> McapScan:
    """
    Read a file once to find out what it holds.

    Raises
    ------
    BagError
        If it is no MCAP file at all.
    BackendUnavailableError
        If the package mcap is not installed.

    """
    walk = _Walk(path)
    counts: dict[str, int] = {}
    for topic, _, _ in walk.items():
        counts[topic] = counts.get(topic, 0) + 1
    return McapScan(dict(sorted(walk.types.items())), counts, walk.num_bytes, walk.broke_off)


def stream_messages(
    path: Path, topic: str, known: Counter[int] | None = None
) -> Iterator[BagMessage | BadMessage]:
    """
    Read the messages of a topic.

    Parameters
    ----------
    path : Path
        The file.
    topic : str
        The topic.
    known : Counter of int, optional
        Bag times of messages to leave out, since they were read before; each that is left out is
        taken from it. Several may have one bag time, of which some were read.

    Yields
    ------
    BagMessage or BadMessage
        In the order of the chunks, and of bag time within each.

    Raises
    ------
    BagError
        At the end, if the file broke off; or at once, if it is no MCAP file.

    """
    walk = _Walk(path)
    for name, received_ns, data in walk.items():
        if name != topic:
            continue
        if known and known[received_ns] > 0:
            known[received_ns] -= 1
            continue
        yield _decoded(name, walk.types.get(name, ''), received_ns, data)
    if walk.broke_off:
        raise BagError(
            f'bag {path} breaks off after {walk.num_bytes} of {path.stat().st_size} bytes '
            f'({walk.broke_off})', 'a whole file',
            'copy it again, or wait until the recorder has closed it')


class _Walk:
    """Goes through the records of one file; remembers what channels there are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.topics: dict[int, str] = {}
        self.types: dict[str, str] = {}
        self.num_bytes = 0
        self.broke_off = ''
        self._schemas: dict[int, str] = {}

    def items(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Yield topic, bag time and bytes, which are None for a message that is lost."""
        is_lost = False
        for record in self._records():
            kind = type(record).__name__
            if kind == 'Chunk':
                messages = self._unpacked(record)
                is_lost = messages is None
                yield from sorted(messages or (), key=lambda item: item[1])
            elif kind == 'MessageIndex' and is_lost:
                if record.channel_id not in self.topics:
                    # The damaged chunk was the one to name it; later ones or the end may.
                    self._learn_all()
                topic = self.topics.get(record.channel_id, '')
                yield from ((topic, time, None) for time, _ in record.records)
            elif kind == 'Message':
                yield self.topics.get(record.channel_id, ''), record.log_time, record.data
            else:
                self._note(record)

    def _learn_all(self) -> None:
        """Take over the channels that a walk to the end meets."""
        other = _Walk(self._path)
        for record in other._records():
            if type(record).__name__ == 'Chunk':
                other._unpacked(record)
            else:
                other._note(record)
        self.topics, self.types = other.topics | self.topics, other.types | self.types

    def _records(self) -> Iterator[Any]:
        exceptions, stream_reader = _mcap()
        with self._path.open('rb') as file:
            reader = stream_reader.StreamReader(file, emit_chunks=True)
            try:
                for record in reader.records:
                    self.num_bytes = file.tell()
                    yield record
            except exceptions.McapError as err:
                if self.num_bytes == 0:
                    raise BagError(f'bag {self._path} is empty or no MCAP file') from err
                self.broke_off = 'it ends within a record'
            except Exception as err:  # whatever the bytes are taken for
                self.broke_off = str(err) or type(err).__name__

    def _unpacked(self, chunk: Any) -> list[tuple[str, int, bytes | None]] | None:
        _, stream_reader = _mcap()
        try:
            records = stream_reader.breakup_chunk(chunk, validate_crc=True)
        except Exception:  # a decompressor's, a checksum's, or that of nonsense in the records
            return None
        found: list[tuple[str, int, bytes | None]] = []
        for record in records:
            if type(record).__name__ == 'Message':
                topic = self.topics.get(record.channel_id, '')
                found.append((topic, record.log_time, record.data))
            else:
                self._note(record)
        return found

    def _note(self, record: Any) -> None:
        kind = type(record).__name__
        if kind == 'Schema':
            self._schemas[record.id] = record.name
        elif kind == 'Channel':
            self.topics[record.id] = record.topic
            self.types[record.topic] = self._schemas.get(record.schema_id, '')


def _decoded(
    topic: str, kind: str, received_ns: int, data: bytes | None
) -> BagMessage | BadMessage:
    if data is None:
        return BadMessage(topic, received_ns, 'it lies in a damaged chunk')
    try:
        return BagMessage(topic, received_ns, typestore().deserialize_cdr(data, kind))
    except Exception as err:  # damaged bytes make a decoder raise anything
        reason = f'{kind} of {len(data)} bytes cannot be read ({err})'
        return BadMessage(topic, received_ns, reason)


def _mcap() -> tuple[Any, Any]:
    try:
        from mcap import exceptions, stream_reader
    except ImportError as err:
        raise BackendUnavailableError('mcap is not installed', 'it, to read a bag without index',
                                      'pip install mcap') from err
    return exceptions, stream_reader
