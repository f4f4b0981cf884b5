# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a rosbag2 bag whose bytes depend on its messages alone, and build messages without ROS.

Files in the bag have fixed names, stamps are given by the caller, and no clock is read, so the
same messages give the same files under any folder name. A bag appears under its name only when it
is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
from pathlib import Path
import sqlite3
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.status import Status
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags.reader import IMAGE_TYPE, typestore
from uncertainty_seg.storage.whole_files import rename, whole_folder

STORAGES = ('mcap', 'sqlite3')
# Humble and Jazzy read 8; Humble does not read 9.
METADATA_VERSION = 8
METADATA_FILE = 'metadata.yaml'
# rosbags names the file after its folder; with this folder the name is the same in every bag.
_INNER_NAME = 'bag_0'
# The latest time in the header of a message: seconds of 31 bits, and nanoseconds of 32.
LATEST_NS = (2**31 - 1) * 10**9 + 2**32 - 1


class BagWriter:
    """
    A bag under construction, in a folder whose parents are made; use it with `with`.

    The storage is 'mcap' (chunks compressed by zstd) or 'sqlite3'. After an exception in the block
    the unfinished bag is removed. `overwrite` replaces an older bag at the end, but nothing that
    is not a bag. Raises BagError if the path exists, is not writable, or the storage is unknown.
    """

    def __init__(
        self, path: Path | str, storage: str = 'mcap', *, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        if storage not in STORAGES:
            raise BagError(f'bag storage {storage!r}', f'one of {", ".join(STORAGES)}')
        _require_free(self.path, overwrite)
        self._storage, self._overwrite = storage, overwrite
        self._connections: dict[str, Any] = {}
        self._stack = ExitStack()
        self._inner = self.path / _INNER_NAME
        self._writer: Any = None
        self.num_messages = 0

    def __enter__(self) -> BagWriter:
        """Create the draft of the bag next to its final path."""
        with _as_bag_error(self.path), ExitStack() as stack:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._inner = stack.enter_context(
                whole_folder(self.path, is_replacing=self._overwrite)) / _INNER_NAME
            self._writer = self._opened(self._inner)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, exc_type: Any, exc: Any, trace: Any) -> Literal[False]:
        """Finish the draft and rename it, or remove it."""
        with _as_bag_error(self.path):
            if exc_type is not None:
                self._writer.abort()
                self._stack.__exit__(exc_type, exc, trace)
                return False
            with self._stack:
                self._writer.close()
                for file in sorted(self._inner.iterdir()):
                    rename(file, self._inner.with_name(file.name))
                self._inner.rmdir()
        return False

    def write_image(
        self, topic: str, stamp_ns: int, frame_id: str, array: NDArray[Any], encoding: str,
        received_ns: int | None = None,
    ) -> None:
        """Write a sensor_msgs/Image; see `image_message`. Its bag time is its stamp by default."""
        message = image_message(stamp_ns, frame_id, array, encoding)
        self.write(topic, message, stamp_ns if received_ns is None else received_ns)

    def write(self, topic: str, message: Any, received_ns: int) -> None:
        """Write a message of `rosbags`, such as the functions of this module build."""
        kind = message.__msgtype__
        self.write_serialized(topic, kind, received_ns,
                              typestore().serialize_cdr(message, kind))

    def write_serialized(self, topic: str, kind: str, received_ns: int, data: bytes) -> None:
        """
        Write a message as CDR, as from a raw subscription, of a type of Humble's interfaces.

        Raises BagError if the type is unknown or writing fails.
        """
        with _as_bag_error(self.path):
            self._writer.write(self._connection(topic, kind), received_ns, data)
        self.num_messages += 1

    def _opened(self, folder: Path) -> Any:
        from rosbags.rosbag2 import StoragePlugin, Writer

        plugin = StoragePlugin[self._storage.upper()]
        writer = Writer(folder, version=METADATA_VERSION, storage_plugin=plugin)
        if self._storage == 'mcap':
            # The storage of rosbags writes no checksums of chunks, without which readers do not
            # notice bytes that were damaged on the disk.
            writer.STORAGE_PLUGINS = {plugin: _McapStorage}
        writer.open()
        return writer

    def _connection(self, topic: str, kind: str) -> Any:
        known = self._connections.get(topic)
        if known is None:
            store = typestore()
            if kind not in store.types:
                raise BagError(f'message type {kind} on {topic}', 'a type of common_interfaces')
            known = self._writer.add_connection(topic, kind, typestore=store)
            self._connections[topic] = known
        return known


class _McapStorage:
    """The MCAP storage of a rosbags `Writer` (its protocol `StorageWriter`), by package mcap."""

    def __init__(self, folder: Path, compression: object) -> None:
        from mcap.writer import Writer

        self.path = folder / f'{folder.name}.mcap'
        self._file = self.path.open('xb')
        self._writer = Writer(self._file)  # zstd, and a checksum for each chunk
        self._writer.start('ros2', 'uncertainty_seg')
        self._schemas: dict[str, int] = {}
        self._channels: dict[int, int] = {}

    def add_msgtype(self, connection: Any) -> None:
        self._schemas[connection.msgtype] = self._writer.register_schema(
            connection.msgtype, 'ros2msg', connection.msgdef.data.encode())

    def add_connection(self, connection: Any, offered_qos_profiles: str) -> None:
        self._channels[connection.id] = self._writer.register_channel(
            connection.topic, 'cdr', self._schemas[connection.msgtype],
            {'offered_qos_profiles': offered_qos_profiles, 'topic_type_hash': connection.digest})

    def write(self, connection: Any, timestamp: int, data: bytes | memoryview) -> None:
        self._writer.add_message(self._channels[connection.id], timestamp, bytes(data), timestamp)

    def close(self, version: int, metadata: str) -> None:
        with self._file:
            self._writer.add_metadata('rosbag2', {'serialized_metadata': metadata})
            self._writer.finish()

    def abort(self) -> None:
        self._file.close()


def _require_free(path: Path, overwrite: bool) -> None:
    with _as_bag_error(path):
        if not path.exists():
            return
        is_bag = (path / METADATA_FILE).is_file() or (path.is_dir() and not any(path.iterdir()))
    if not overwrite:
        raise BagError(f'{path} exists', 'a new path', 'give another name, or allow to replace it')
    if not is_bag:
        raise BagError(f'{path} exists and is no bag', 'a bag to replace', 'give another name')


@contextmanager
def _as_bag_error(path: Path) -> Iterator[None]:
    # rosbags passes on the errors of its storages; those of sqlite3 are not OSErrors.
    from rosbags.rosbag2 import WriterError

    try:
        yield
    except (OverflowError, struct.error) as err:
        raise BagError(f'bag {path} cannot hold the time of a message ({err})',
                       'one after 1970, and with sqlite3 before 2262') from err
    except (OSError, sqlite3.Error, WriterError) as err:
        reason = getattr(err, 'strerror', None) or str(err)
        raise BagError(
            f'bag {path} cannot be written ({reason})',
            'a writable folder with free space', 'choose another output',
        ) from err


# -------------------------------------------------------------------------------------------------
# Messages.


@dataclass(frozen=True)
class PinholeCamera:
    """A camera without distortion; pixels. The principal point is the centre of the image."""

    width: int
    height: int
    focal_px: float


def image_message(
    stamp_ns: int, frame_id: str, array: NDArray[Any], encoding: str
) -> Any:
    """
    Build a sensor_msgs/Image without padding.

    `array` are the pixels, (H, W) or (H, W, 3), of the dtype that the encoding stands for.
    """
    data = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
    return _message(
        IMAGE_TYPE, header=_header(stamp_ns, frame_id), height=len(data), width=data.shape[1],
        encoding=encoding, is_bigendian=0, step=data.nbytes // len(data),
        data=data.reshape(-1).view(np.uint8),
    )


def camera_info_message(stamp_ns: int, frame_id: str, camera: PinholeCamera) -> Any:
    """Build a sensor_msgs/CameraInfo of a camera without distortion."""
    focal, cx, cy = camera.focal_px, camera.width / 2, camera.height / 2
    roi = _message('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
                   do_rectify=False)
    return _message(
        'sensor_msgs/msg/CameraInfo', header=_header(stamp_ns, frame_id), height=camera.height,
        width=camera.width, distortion_model='plumb_bob', d=np.zeros(5),
        k=np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1.0]), r=np.eye(3).ravel(),
        p=np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1.0, 0]),
        binning_x=0, binning_y=0, roi=roi,
    )


def value_message(value: bool | float | str) -> Any:
    """Build a Bool, Float32 or String of std_msgs, by the type of a value."""
    if isinstance(value, str):
        return _message('std_msgs/msg/String', data=value)
    if isinstance(value, bool | np.bool_):
        return _message('std_msgs/msg/Bool', data=bool(value))
    return _message('std_msgs/msg/Float32', data=float(value))


def numbers_message(stamp_ns: int, frame_id: str, numbers: Mapping[str, float]) -> Any:
    """Build a sensor_msgs/JointState of named numbers, the type of `~/verdict`."""
    return _message(
        'sensor_msgs/msg/JointState', header=_header(stamp_ns, frame_id), name=list(numbers),
        position=np.array(list(numbers.values()), np.float64), velocity=np.zeros(0),
        effort=np.zeros(0),
    )


def diagnostics_message(
    stamp_ns: int, statuses: tuple[Status, ...], frame_id: str = ''
) -> Any:
    """Build a diagnostic_msgs/DiagnosticArray."""
    entries = [
        _message(
            'diagnostic_msgs/msg/DiagnosticStatus', level=entry.level, name=entry.name,
            message=entry.message, hardware_id=entry.hardware_id,
            values=[
                _message('diagnostic_msgs/msg/KeyValue', key=key, value=value)
                for key, value in entry.values.items()
            ],
        )
        for entry in statuses
    ]
    return _message('diagnostic_msgs/msg/DiagnosticArray', header=_header(stamp_ns, frame_id),
                    status=entries)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds = min(stamp_ns // 10**9, 2**31 - 1)
    nanoseconds = stamp_ns - seconds * 10**9
    if seconds < -2**31 or stamp_ns > LATEST_NS:  # a ROS 1 time may be up to 2106
        raise BagError(f'the stamp of an image is {stamp_ns // 10**9} s',
                       'a time before 2038, as ROS 2 has')
    stamp = _message('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return _message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)
