# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read the images of a bag, rosbag2 (MCAP, sqlite3) or rosbag1.

An image is a `RawImage` or an `ImageFile`, as the node gets it from a subscription; it is not
decoded here. A damaged message is a `BadMessage`, so that readers can count it.

`BagReader` needs a whole bag. `McapStream` reads an MCAP file from its start, for one that has no
index, because it was cut off or is still being written, or that has damaged chunks.
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
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags.bounded import bound_decompression

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
CAMERA_NAMES = ('image', 'image_raw')
# Images published by a node of this package, by the last part of the topic.
_MADE = ('mask', 'mask_color', 'confidence', 'uncertainty', 'unknown', 'heatmap', 'overlay')
MCAP_ENDING = '.mcap'
# Suffixes that image_transport appends to the topic of a camera, and to that of its depth.
_COMPRESSED, _DEPTH = '/compressed', '/compressedDepth'
_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Return Humble's message definitions, cached; those used here have not changed since."""
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

    Raises BagError if the path is missing or not a readable bag.
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
        bound_decompression()
        with _as_bag_error(self.path):
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._reader.open()
        return self

    def __exit__(self, exc_type: Any, exc: Any, trace: Any) -> Literal[False]:
        """Close the files."""
        self._reader.close()
        return False

    def topics(self) -> dict[str, str]:
        """Return the message type by topic, sorted by topic."""
        return dict(sorted((c.topic, c.msgtype) for c in self._reader.connections))

    def count(self, topic: str) -> int:
        """Return how many messages a topic has."""
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)

    def image_topic(self, topic: str | None = None) -> str:
        """Choose the topic of images to read as `choose_image_topic`; BagError if it has none."""
        topic = choose_image_topic(self.path, self.topics(), topic)
        if not self.count(topic):
            raise BagError(f'bag {self.path} has no message on {topic}', 'at least one image')
        return topic

    def messages(
        self, *topics: str, span_ns: tuple[int, int] | None = None
    ) -> Iterator[BagMessage | BadMessage]:
        """
        Read the messages of these topics in the order of bag time; missing topics are ignored.

        `span_ns` is a range of bag times, without its end; by default all are read. Raises
        BagError if the file ends early or is damaged.
        """
        wanted = [c for c in self._reader.connections if c.topic in topics]
        start, stop = span_ns or (None, None)
        stream = iter(self._reader.messages(wanted, start, stop) if wanted else ())
        while True:
            with _as_bag_error(self.path):
                item = next(stream, None)
            if item is None:
                return
            connection, received_ns, data = item
            # Some recorders write no definition, or not the one by which the message was written.
            is_known = self._reader.is2 and connection.msgtype in typestore().types
            yield _decoded(typestore().deserialize_cdr if is_known else self._reader.deserialize,
                           connection.topic, connection.msgtype, received_ns, data)

    def images(
        self, topic: str | None = None, span_ns: tuple[int, int] | None = None
    ) -> Iterator[BagImage | BadMessage]:
        """Read the images of a topic; see `image_topic` and `messages`."""
        topic = choose_image_topic(self.path, self.topics(), topic)
        for item in self.messages(topic, span_ns=span_ns):
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
    """Convert an image message, raw or compressed."""
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

    None selects the only one, or the only one with a camera's usual name, `image` or `image_raw`;
    compressed ones only if there is no other, and never one that a node of this package published.
    Raises BagError if it is missing, is not of images, or the choice is ambiguous.
    """
    listed = ', '.join(f'{name} ({kind})' for name, kind in have.items()) or 'no topic at all'
    if topic is not None:
        topic = topic if topic in have else f'/{topic.lstrip("/")}'
        if have.get(topic) not in (IMAGE_TYPE, COMPRESSED_TYPE):
            raise BagError(
                f'bag {path} has no images on {topic}, only {listed}',
                f'a topic of {IMAGE_TYPE} or CompressedImage', 'name one of these')
        return topic
    of_cameras = {name: kind for name, kind in have.items()
                  if name.removesuffix(_COMPRESSED).rpartition('/')[2] not in _MADE}
    raw = [name for name, kind in of_cameras.items() if kind == IMAGE_TYPE]
    images = raw or [name for name, kind in of_cameras.items()
                     if kind == COMPRESSED_TYPE and not name.endswith(_DEPTH)]
    if not images:
        raise BagError(f'bag {path} has no image topic of a camera, only {listed}',
                       f'one of {IMAGE_TYPE}', 'record the camera too')
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
        what, fix = 'a whole rosbag2 or rosbag1 bag', 'copy it again, or try ros2 bag reindex'
        if str(err).startswith('Profile is not'):  # an MCAP of JSON or protobuf, or of ROS 1
            what, fix = 'an MCAP of ROS 2 messages in CDR', 'convert it to a ROS 2 bag'
        raise BagError(f'bag {path} cannot be read ({str(err).rstrip(".")})', what, fix) from err


class McapStream:
    """One MCAP file, read once to its end or a damaged chunk; BagError if it is no MCAP file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Message type by topic, of the messages read so far.
        self.types: dict[str, str] = {}
        self._fault: Exception | None = None

    def counts(self) -> Counter[str]:
        """Return the number of messages by topic."""
        return Counter(topic for topic, _, _ in self._items())

    def messages(self, topic: str) -> Iterator[BagMessage | BadMessage]:
        """Read a topic in the order of the file; BagError at the end if the file ended early."""
        for name, received_ns, data in self._items():
            if name == topic:
                yield _decoded(typestore().deserialize_cdr, name, self.types[name], received_ns,
                               data)
        if self._fault is not None:
            raise BagError(
                f'bag {self._path} breaks off ({self._fault or type(self._fault).__name__})',
                'a whole file', 'copy it again, or wait until the recorder has closed it'
            ) from self._fault

    def _items(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic, bag time and bytes of each message."""
        from mcap.exceptions import InvalidMagic
        from mcap.reader import NonSeekingReader

        bound_decompression()
        with self._path.open('rb') as file:
            try:
                found = NonSeekingReader(file, validate_crcs=True)
                for schema, channel, message in found.iter_messages(log_time_order=False):
                    self.types[channel.topic] = schema.name if schema is not None else ''
                    yield channel.topic, message.log_time, message.data
            except InvalidMagic as err:
                raise BagError(f'bag {self._path} is no MCAP file') from err
            except Exception as err:  # damaged bytes make a parser raise anything
                self._fault = err


def _decoded(
    deserialize: Callable[[bytes, str], Any], topic: str, kind: str, received_ns: int, data: bytes
) -> BagMessage | BadMessage:
    try:
        return BagMessage(topic, received_ns, deserialize(data, kind))
    except Exception as err:  # damaged bytes make a decoder raise anything
        reason = f'{kind} of {len(data)} bytes cannot be read ({err})'
        return BadMessage(topic, received_ns, reason)
