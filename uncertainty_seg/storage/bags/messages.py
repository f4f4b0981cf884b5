# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The messages of a bag, built from plain values and serialised without ROS.

The definitions are those of Humble, which later distributions share for every type used here.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.status import Status
from uncertainty_seg.errors import BagError

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
# Types of an image topic.
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
BOOL_TYPE = 'std_msgs/msg/Bool'
FLOAT_TYPE = 'std_msgs/msg/Float32'
STRING_TYPE = 'std_msgs/msg/String'
NUMBERS_TYPE = 'sensor_msgs/msg/JointState'
DIAGNOSTICS_TYPE = 'diagnostic_msgs/msg/DiagnosticArray'

# dtype and channels that an encoding of `image_message` stands for.
ENCODINGS = {'mono8': ('u1', 1), 'bgr8': ('u1', 3), 'rgb8': ('u1', 3), '32FC1': ('f4', 1)}


def ros2_name(kind: str) -> str:
    """Return the name of a message type as ROS 2 has it, also of 'sensor_msgs/Image' of ROS 1."""
    package, _, name = kind.partition('/')
    return f'{package}/msg/{name}' if name and '/' not in name else kind


@dataclass(frozen=True)
class PinholeCamera:
    """A camera without distortion; pixels. The principal point is the centre of the image."""

    width: int
    height: int
    focal_px: float


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Return the message definitions, cached since loading takes 0.1 s."""
    from rosbags.typesys import get_typestore, Stores

    return get_typestore(Stores.ROS2_HUMBLE)


def image_message(
    stamp_ns: int, frame_id: str, array: NDArray[Any], encoding: str
) -> Any:
    """
    Build a sensor_msgs/Image without padding.

    Raises BagError if array and encoding do not match.

    Parameters
    ----------
    stamp_ns, frame_id : int, str
        Of the header.
    array : ndarray, shape (H, W) or (H, W, 3)
        Pixels, of the dtype of the encoding.
    encoding : str
        One of `ENCODINGS`.

    """
    dtype, channels = ENCODINGS.get(encoding, ('', 0))
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if dtype == '' or array.dtype != np.dtype(dtype) or shape[2:] != (channels,):
        raise BagError(
            f'array {array.shape} of {array.dtype} as {encoding}',
            f'one of {", ".join(ENCODINGS)} with its dtype and channels',
        )
    data = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder('<'))
    return _message(
        IMAGE_TYPE, header=_header(stamp_ns, frame_id), height=shape[0], width=shape[1],
        encoding=encoding, is_bigendian=0, step=shape[1] * channels * data.itemsize,
        data=data.reshape(-1).view(np.uint8),
    )


def compressed_message(stamp_ns: int, frame_id: str, kind: str, data: bytes) -> Any:
    """Build a sensor_msgs/CompressedImage; `kind` is its format field, such as 'jpeg'."""
    return _message(
        COMPRESSED_TYPE, header=_header(stamp_ns, frame_id), format=kind,
        data=np.frombuffer(data, np.uint8),
    )


def camera_info_message(stamp_ns: int, frame_id: str, camera: PinholeCamera) -> Any:
    """Build a sensor_msgs/CameraInfo of a camera without distortion."""
    focal, cx, cy = camera.focal_px, camera.width / 2, camera.height / 2
    roi = _message('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
                   do_rectify=False)
    return _message(
        CAMERA_INFO_TYPE, header=_header(stamp_ns, frame_id), height=camera.height,
        width=camera.width, distortion_model='plumb_bob', d=np.zeros(5),
        k=np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1.0]), r=np.eye(3).ravel(),
        p=np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1.0, 0]),
        binning_x=0, binning_y=0, roi=roi,
    )


def value_message(kind: str, value: bool | float | str) -> Any:
    """Build a message of one field `data`: Bool, Float32 or String."""
    return _message(kind, data=value)


def numbers_message(stamp_ns: int, frame_id: str, numbers: Mapping[str, float]) -> Any:
    """Build a sensor_msgs/JointState of named numbers, as `~/verdict` is."""
    return _message(
        NUMBERS_TYPE, header=_header(stamp_ns, frame_id), name=list(numbers),
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
    return _message(DIAGNOSTICS_TYPE, header=_header(stamp_ns, frame_id), status=entries)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = _message('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return _message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)
