# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read the images of a bag, rosbag2 (MCAP, sqlite3) or rosbag1.

An image is a `RawImage` or an `ImageFile`, as the node gets it from a subscription; it is not
decoded here. A damaged message is a `BadMessage`, so that readers can count it.

`BagReader` needs a whole bag. `McapStream` reads an MCAP file from its start, for one that has no
index, because it was cut off or is still being written, or that has damaged chunks. The messages
of a damaged chunk are `BadMessage`, as many as the index behind it names.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uncertainty_seg.core.image_codec import ImageFile, RawImage
from uncertainty_seg.errors import BackendUnavailableError, BagError, install_command

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
CAMERA_NAMES = ('image', 'image_raw')
MCAP_ENDING = '.mcap'
# What image_transport appends to the topic of a camera, and to that of its depth.
_COMPRESSED, _DEPTH = '/compressed', '/compressedDepth'
_LOG = logging.getLogger(__name__)


def ros2_name(kind: str) -> str:
    """Return the name of a message type as ROS 2 has it, also of 'sensor_msgs/Image' of ROS 1."""
    package, _, name = kind.partition('/')
    return f'{package}/msg/{name}' if name and '/' not in name else kind


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Return Humble's message definitions, cached: those used here are the same ever since."""
    from rosbags.typesys import get_typestore, Stores

    return get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class BagImage:
    """An image message: stamp and frame_id of its header, its bag time, its undecoded pixels."""

    topic: str
    stamp_ns: int
    received_ns: int
    frame_id: str
    raw: RawImage | ImageFile


@dataclass(frozen=True)
class BagMessage:
    """Any message: topic, bag time, and the decoded message of rosbags."""

    topic: str
    received_ns: int
    message: Any


@dataclass(frozen=True)
class BadMessage:
    """A message whose bytes cannot be read; its only time is the bag time."""

    topic: str
    received_ns: int
    reason: str


class BagReader:
    """
    An open bag, a rosbag2 folder, its .mcap or .db3 file, or a rosbag1 file; use it with `with`.

    Raises BagError if the path is missing or no readable bag.

    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f'no bag at {self.path}', 'a rosbag2 folder or file', 'check the path')
        self._reader: Any = None

    def __enter__(self) -> BagReader:
        """Open the files and read their index."""
        from rosbags.highlevel import AnyReader

        if self.path.is_dir() and not (self.path / 'metadata.yaml').exists():
            raise BagError(
                f'{self.path} has no metadata.yaml', 'a finished rosbag2 bag',
                f'run ros2 bag reindex {self.path}, or give the .mcap or .db3 file inside')
        with _as_bag_error(self.path):
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._reader.open()
        return self

    def __exit__(self, exc_type: Any, exc: Any, trace: Any) -> Literal[False]:
        """Close the files."""
        self._reader.close()
        return False

    def topics(self) -> dict[str, str]:
        """Return topic to message type, sorted by topic."""
        # Some recorders write CDR under the names of ROS 1.
        pairs = {c.topic: ros2_name(c.msgtype) for c in self._reader.connections}
        return dict(sorted(pairs.items()))

    def count(self, topic: str) -> int:
        """Return how many messages a topic has."""
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)

    def image_topic(self, topic: str | None = None) -> str:
        """Choose the topic of images to read; see `choose_image_topic`."""
        return choose_image_topic(self.path, self.topics(), topic)

    def messages(self, *topics: str) -> Iterator[BagMessage | BadMessage]:
        """
        Read the messages of these topics in the order of bag time; missing topics are ignored.

        Raises BagError if the file ends early or is damaged.
        """
        wanted = [c for c in self._reader.connections if c.topic in topics]
        stream = iter(self._reader.messages(connections=wanted) if wanted else ())
        while True:
            with _as_bag_error(self.path):
                item = next(stream, None)
            if item is None:
                return
            connection, received_ns, data = item
            kind = ros2_name(connection.msgtype)
            # Under another name than its own the bag's definition is not known.
            decode = self._reader.deserialize if kind == connection.msgtype else \
                typestore().deserialize_cdr
            yield _decoded(decode, connection.topic, kind, received_ns, data)

    def images(self, topic: str | None = None) -> Iterator[BagImage | BadMessage]:
        """Read the images of a topic; see `image_topic` and `messages`."""
        for item in self.messages(self.image_topic(topic)):
            yield item if isinstance(item, BadMessage) else bag_image(item)


def read_images(path: Path | str, topic: str | None = None) -> Iterator[BagImage]:
    """Read every readable image of a topic; a warning counts damaged ones. See `BagReader`."""
    num_bad = 0
    with BagReader(path) as bag:
        for item in bag.images(topic):
            if isinstance(item, BadMessage):
                num_bad += 1
            else:
                yield item
    if num_bad:
        _LOG.warning('%s: skipped %d damaged image messages', path, num_bad)


def header_stamp_ns(message: Any) -> int:
    """Return the header stamp of a decoded message, in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def bag_image(item: BagMessage) -> BagImage:
    """Convert a message of images, raw or compressed."""
    message = item.message
    data = np.asarray(message.data, np.uint8)
    raw: RawImage | ImageFile
    if hasattr(message, 'encoding'):
        raw = RawImage(data, int(message.height), int(message.width), str(message.encoding),
                       int(message.step), bool(message.is_bigendian))
    else:
        raw = ImageFile(data, str(message.format))
    return BagImage(item.topic, header_stamp_ns(message), item.received_ns,
                    str(message.header.frame_id), raw)


def choose_image_topic(path: Path, have: Mapping[str, str], topic: str | None) -> str:
    """
    Choose the topic of sensor_msgs/Image or CompressedImage to read, of those that a bag has.

    None takes the only one, or the only one with a camera's usual name, `image` or `image_raw`;
    compressed ones only if there is no other. Raises BagError if it is missing, is not of images,
    or the choice is ambiguous.
    """
    listed = ', '.join(f'{name} ({kind})' for name, kind in have.items()) or 'no topic at all'
    if topic is not None:
        topic = f'/{topic.lstrip("/")}'
        if have.get(topic) not in (IMAGE_TYPE, COMPRESSED_TYPE):
            raise BagError(
                f'bag {path} has no images on {topic}, only {listed}',
                f'a topic of {IMAGE_TYPE} or CompressedImage', 'name one of these')
        return topic
    raw = [name for name, kind in have.items() if kind == IMAGE_TYPE]
    images = raw or [name for name, kind in have.items()
                     if kind == COMPRESSED_TYPE and not name.endswith(_DEPTH)]
    if not images:
        raise BagError(f'bag {path} has no image topic, only {listed}', f'one of {IMAGE_TYPE}',
                       'record the camera too')
    usual = [name for name in images
             if name.removesuffix(_COMPRESSED).rpartition('/')[2] in CAMERA_NAMES]
    if len(images) > 1 and len(usual) != 1:
        raise BagError(f'bag {path} has {len(images)} image topics: {", ".join(images)}', 'one',
                       'name the topic')
    return usual[0] if len(usual) == 1 else images[0]


@contextmanager
def _as_bag_error(path: Path) -> Iterator[None]:
    # The errors of rosbags, sqlite, yaml and the decompressors have no common base.
    try:
        yield
    except BagError:
        raise
    except Exception as err:
        raise BagError(
            f'bag {path} cannot be read ({str(err).rstrip(".")})',
            'a whole rosbag2 or rosbag1 bag', 'copy it again, or try ros2 bag reindex') from err


class McapStream:
    """
    The records of one MCAP file, read once from its start, as far as it can be read.

    Raises BagError if it is no MCAP file at all; BackendUnavailableError without the package mcap.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Topic to message type, as far as read.
        self.types: dict[str, str] = {}
        self._topics: dict[int, str] = {}
        self._schemas: dict[int, str] = {}
        self._num_bytes, self._broke_off = 0, ''

    def counts(self) -> Counter[str]:
        """Return topic to number of messages, those of damaged chunks included."""
        return Counter(topic for topic, _, _ in self._items())

    def messages(
        self, topic: str, known: Counter[int] | None = None
    ) -> Iterator[BagMessage | BadMessage]:
        """
        Read the messages of a topic by chunks, and by bag time within each.

        `known` are bag times of messages that were read before, with their number: these are left
        out and subtracted. Raises BagError at the end, if the file ended early.
        """
        for name, received_ns, data in self._items():
            if name != topic:
                continue
            if known and known[received_ns] > 0:
                known[received_ns] -= 1
            elif data is None:
                yield BadMessage(name, received_ns, 'it lies in a damaged chunk')
            else:
                yield _decoded(typestore().deserialize_cdr, name, self.types.get(name, ''),
                               received_ns, data)
        if self._broke_off:
            raise BagError(
                f'bag {self._path} breaks off after {self._num_bytes} of '
                f'{self._path.stat().st_size} bytes ({self._broke_off})', 'a whole file',
                'copy it again, or wait until the recorder has closed it')

    def _items(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Yield topic, bag time and bytes, which are None in a damaged chunk."""
        is_lost = False
        for record in self._records():
            kind = type(record).__name__
            if kind == 'Chunk':
                messages = self._unpacked(record)
                is_lost = messages is None
                yield from sorted(messages or (), key=lambda item: item[1])
            elif kind == 'MessageIndex' and is_lost:
                if record.channel_id not in self._topics:
                    # Its channel was defined in the damaged chunk, but may be repeated later.
                    self._learn_all()
                topic = self._topics.get(record.channel_id, '')
                yield from ((topic, time, None) for time, _ in record.records)
            elif kind == 'Message':
                yield self._topics.get(record.channel_id, ''), record.log_time, record.data
            else:
                self._note(record)

    def _learn_all(self) -> None:
        """Add the channels that are defined in the rest of the file."""
        other = McapStream(self._path)
        for record in other._records():
            if type(record).__name__ == 'Chunk':
                other._unpacked(record)
            else:
                other._note(record)
        self._topics, self.types = other._topics | self._topics, other.types | self.types

    def _records(self) -> Iterator[Any]:
        exceptions, stream_reader = _mcap()
        with self._path.open('rb') as file:
            try:
                for record in stream_reader.StreamReader(file, emit_chunks=True).records:
                    self._num_bytes = file.tell()
                    yield record
            except exceptions.McapError as err:
                if self._num_bytes == 0:
                    raise BagError(f'bag {self._path} is empty or no MCAP file') from err
                self._broke_off = 'it ends within a record'
            except Exception as err:  # damaged bytes make a parser raise anything
                self._broke_off = str(err) or type(err).__name__

    def _unpacked(self, chunk: Any) -> list[tuple[str, int, bytes | None]] | None:
        _, stream_reader = _mcap()
        try:
            records = stream_reader.breakup_chunk(chunk, validate_crc=True)
        except Exception:  # of a decompressor, a checksum or a damaged record
            return None
        found: list[tuple[str, int, bytes | None]] = []
        for record in records:
            if type(record).__name__ == 'Message':
                topic = self._topics.get(record.channel_id, '')
                found.append((topic, record.log_time, record.data))
            else:
                self._note(record)
        return found

    def _note(self, record: Any) -> None:
        kind = type(record).__name__
        if kind == 'Schema':
            self._schemas[record.id] = record.name
        elif kind == 'Channel':
            self._topics[record.id] = record.topic
            self.types[record.topic] = ros2_name(self._schemas.get(record.schema_id, ''))


def _decoded(
    deserialize: Callable[[bytes, str], Any], topic: str, kind: str, received_ns: int, data: bytes
) -> BagMessage | BadMessage:
    try:
        return BagMessage(topic, received_ns, deserialize(data, kind))
    except Exception as err:  # damaged bytes make a decoder raise anything
        reason = f'{kind} of {len(data)} bytes cannot be read ({err})'
        return BadMessage(topic, received_ns, reason)


def _mcap() -> tuple[Any, Any]:
    try:
        from mcap import exceptions, stream_reader
    except ImportError as err:
        raise BackendUnavailableError('mcap is not installed', 'it, to read a bag without index',
                                      install_command('mcap')) from err
    return exceptions, stream_reader
