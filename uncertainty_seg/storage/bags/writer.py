# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a rosbag2 bag whose bytes depend on nothing but what is written into it.

Files inside the bag have a fixed name, stamps are given by the caller, and no clock is read, so
the same messages give the same files under any folder name. A bag appears under its name only
when it is whole. What the messages mean is not known here.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import sqlite3
import struct
import tempfile
from types import TracebackType
from typing import Any, BinaryIO, Literal
import zlib

from numpy.typing import NDArray

from uncertainty_seg.core.status import Status
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags import messages

# -------------------------------------------------------------------------------------------------
# Put the checksum of each chunk into an MCAP file that rosbags writes.
# rosbags writes 0 there, which means none. A reader then takes a message whose bytes were damaged
# on the disk for a sound one: most of a photograph is stored as it is, and any byte of it decodes.

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


# -------------------------------------------------------------------------------------------------

STORAGES = ('mcap', 'sqlite3')
# What the decoders of Humble and Jazzy accept; 9 fails on Humble.
METADATA_VERSION = 8
METADATA_FILE = 'metadata.yaml'
_INNER_NAME = 'bag_0'
_MCAP_FILE = f'{_INNER_NAME}.mcap'


class BagWriter:
    """
    A bag under construction; use it with `with`.

    Parameters
    ----------
    path : Path or str
        Folder of the bag; its parents are made.
    storage : str
        'mcap' (chunks compressed by zstd) or 'sqlite3'.
    is_overwriting : bool
        Put the finished bag in place of an older one; anything that is no bag stays untouched.

    Raises
    ------
    BagError
        If the path exists, is not writable, or the storage is unknown.

    Notes
    -----
    Leaving the `with` block by an exception removes what was written. The bag time of a message
    is its stamp unless `received_ns` says otherwise.

    """

    def __init__(
        self, path: Path | str, storage: str = 'mcap', *, is_overwriting: bool = False
    ) -> None:
        self.path = Path(path)
        if storage not in STORAGES:
            raise BagError(f'bag storage {storage!r}', f'one of {", ".join(STORAGES)}')
        _require_free(self.path, is_overwriting)
        self._storage = storage
        self._connections: dict[str, Any] = {}
        self._work: Path | None = None
        self._writer: Any = None
        self._checksums: list[int] = []
        self.num_messages = 0

    def __enter__(self) -> BagWriter:
        """Make the work folder beside the target, so that the last step is one rename."""
        with _as_bag_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f'.{self.path.name}.partial-'
            self._work = Path(tempfile.mkdtemp(prefix=prefix, dir=self.path.parent))
            try:
                self._writer = self._opened(self._work / _INNER_NAME)
            except BaseException:
                shutil.rmtree(self._work, ignore_errors=True)
                raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        """Finish and rename, or remove."""
        try:
            with _as_bag_error(self.path):
                if exc_type is None:
                    self._writer.close()
                    if self._storage == 'mcap' and self._work:
                        write_checksums(self._work / _INNER_NAME / _MCAP_FILE, self._checksums)
                    self._rename()
                else:
                    self._writer.abort()
        finally:
            if self._work is not None:
                shutil.rmtree(self._work, ignore_errors=True)
        return False

    def write_image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        array: NDArray[Any],
        encoding: str,
        received_ns: int | None = None,
    ) -> None:
        """Write a sensor_msgs/Image; see `bag_messages.image_message`."""
        message = messages.image_message(stamp_ns, frame_id, array, encoding)
        self._write(topic, messages.IMAGE_TYPE, stamp_ns, message, received_ns)

    def write_compressed(
        self, topic: str, stamp_ns: int, frame_id: str, kind: str, data: bytes
    ) -> None:
        """Write a sensor_msgs/CompressedImage."""
        message = messages.compressed_message(stamp_ns, frame_id, kind, data)
        self._write(topic, messages.COMPRESSED_TYPE, stamp_ns, message)

    def write_camera_info(
        self, topic: str, stamp_ns: int, frame_id: str, camera: messages.PinholeCamera
    ) -> None:
        """Write a sensor_msgs/CameraInfo."""
        message = messages.camera_info_message(stamp_ns, frame_id, camera)
        self._write(topic, messages.CAMERA_INFO_TYPE, stamp_ns, message)

    def write_bool(self, topic: str, stamp_ns: int, value: bool) -> None:
        """Write a std_msgs/Bool."""
        message = messages.value_message(messages.BOOL_TYPE, bool(value))
        self._write(topic, messages.BOOL_TYPE, stamp_ns, message)

    def write_float(self, topic: str, stamp_ns: int, value: float) -> None:
        """Write a std_msgs/Float32."""
        message = messages.value_message(messages.FLOAT_TYPE, float(value))
        self._write(topic, messages.FLOAT_TYPE, stamp_ns, message)

    def write_string(self, topic: str, stamp_ns: int, value: str) -> None:
        """Write a std_msgs/String."""
        message = messages.value_message(messages.STRING_TYPE, value)
        self._write(topic, messages.STRING_TYPE, stamp_ns, message)

    def write_diagnostics(
        self,
        topic: str,
        stamp_ns: int,
        statuses: tuple[Status, ...],
        received_ns: int | None = None,
    ) -> None:
        """Write a diagnostic_msgs/DiagnosticArray."""
        message = messages.diagnostics_message(stamp_ns, statuses)
        self._write(topic, messages.DIAGNOSTICS_TYPE, stamp_ns, message, received_ns)

    def write_serialized(self, topic: str, kind: str, received_ns: int, data: bytes) -> None:
        """
        Write a message that is serialised already.

        Parameters
        ----------
        topic : str
            Its topic.
        kind : str
            Its type, such as 'std_msgs/msg/Bool', one that Humble's common interfaces know.
        received_ns : int
            Bag time.
        data : bytes
            CDR, as from a raw subscription.

        Raises
        ------
        BagError
            If the type is unknown, a topic comes with two types, or the disk refuses.

        """
        with _as_bag_error(self.path):
            self._writer.write(self._connection(topic, kind), received_ns, data)
        self.num_messages += 1

    def _opened(self, folder: Path) -> Any:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        writer = Writer(
            folder, version=METADATA_VERSION, storage_plugin=StoragePlugin[self._storage.upper()]
        )
        if self._storage == 'mcap':
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        writer.open()
        if self._storage == 'mcap':
            self._checksums = note_checksums(writer.storage)
        return writer

    def _write(
        self, topic: str, kind: str, stamp_ns: int, message: Any, received_ns: int | None = None
    ) -> None:
        data = messages.typestore().serialize_cdr(message, kind)
        self.write_serialized(topic, kind, stamp_ns if received_ns is None else received_ns, data)

    def _connection(self, topic: str, kind: str) -> Any:
        known = self._connections.get(topic)
        if known is None:
            store = messages.typestore()
            if kind not in store.types:
                raise BagError(f'message type {kind} on {topic}', 'a type of common_interfaces')
            known = self._writer.add_connection(topic, kind, typestore=store)
            self._connections[topic] = known
        if known.msgtype != kind:
            raise BagError(f'{kind} on {topic}', f'{known.msgtype}, as before on this topic')
        return known

    def _rename(self) -> None:
        assert self._work is not None
        if self.path.exists():
            _require_free(self.path, True)
            aside = self._work / 'replaced'
            os.replace(self.path, aside)
            try:
                os.replace(self._work / _INNER_NAME, self.path)
            except OSError:
                os.replace(aside, self.path)
                raise
        else:
            os.replace(self._work / _INNER_NAME, self.path)


def _require_free(path: Path, is_overwriting: bool) -> None:
    with _as_bag_error(path):
        if not path.exists():
            return
        is_bag = (path / METADATA_FILE).is_file() or (path.is_dir() and not any(path.iterdir()))
    if not is_overwriting:
        raise BagError(f'{path} exists', 'a new path', 'give another name, or --force')
    if not is_bag:
        raise BagError(f'{path} exists and is no bag', 'a bag to replace', 'give another name')


@contextmanager
def _as_bag_error(path: Path) -> Iterator[None]:
    # rosbags lets the errors of its storages through, and sqlite3 has its own tree.
    from rosbags.rosbag2 import WriterError

    try:
        yield
    except (OSError, sqlite3.Error, WriterError) as err:
        reason = getattr(err, 'strerror', None) or str(err)
        raise BagError(
            f'bag {path} cannot be written ({reason})',
            'a folder with room that this user may write to', 'choose another output',
        ) from err
