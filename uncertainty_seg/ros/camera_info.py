# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The camera's calibration, relayed beside the mask so that its pixels can be projected.

The mask has the size of the image, so the relay is the input itself, under the header of the frame
it stands with. Only a driver that publishes the calibration of another size has it scaled.

"""

from __future__ import annotations

import logging
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from uncertainty_seg.ros import qos
from uncertainty_seg.ros.camera_topics import camera_info_topic, output_topic

_log = logging.getLogger(__name__)


class CameraInfoRelay:
    """
    Publish `~/camera_info` with each frame, from the newest message of `camera_info`.

    Parameters
    ----------
    node : Node
        Owns subscription and publisher.
    camera : str, optional
        Name of one of several.

    """

    def __init__(self, node: Node, camera: str = '') -> None:
        self._node = node
        self._newest: CameraInfo | None = None
        self._said = ''
        self._publisher = node.create_publisher(
            CameraInfo, output_topic('camera_info', camera), qos.picture_qos())
        try:
            # Best effort matches every camera.
            self._subscription = node.create_subscription(
                CameraInfo, camera_info_topic(node, camera), self._on_info,
                qos.camera_qos('best_effort'))
        except BaseException:
            node.destroy_publisher(self._publisher)
            raise

    def publish(self, header: Any, height: int, width: int) -> bool:
        """
        Publish the calibration that fits a frame, if there is one and somebody listens.

        Parameters
        ----------
        header : std_msgs/Header
            Of the frame.
        height, width : int
            H, W of the mask.

        Returns
        -------
        bool
            Whether it was published.

        """
        info = self._newest
        if info is None or not self._publisher.get_subscription_count():
            return False
        fitting = fit_camera_info(info, header, height, width)
        if fitting is None:
            self._say(f'camera_info of {info.width}x{info.height} is not relayed: it does not '
                      f'belong to images of {width}x{height}, which have another shape')
            return False
        self._publisher.publish(fitting)
        return True

    def close(self) -> None:
        """Listen no more and take the topic off the graph."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _on_info(self, msg: CameraInfo) -> None:
        self._newest = msg

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            _log.warning(sentence)


def fit_camera_info(
    info: CameraInfo, header: Any, height: int, width: int
) -> CameraInfo | None:
    """
    Return a calibration for images of a size.

    Parameters
    ----------
    info : sensor_msgs/CameraInfo
        As received; it is not changed.
    header : std_msgs/Header
        Put in place of its own.
    height, width : int
        H, W of the image.

    Returns
    -------
    sensor_msgs/CameraInfo or None
        Equal to `info` if it describes images of that size (its own, or that of its region and
        binning) or none at all (an uncalibrated camera). Scaled if the image has its shape, to a
        pixel: pixel centres are whole numbers, so c becomes (c + 0.5) s - 0.5. None if the shape
        is another, for then nobody knows what was cut off.

    """
    if (width, height) in ((info.width, info.height), _described_size(info)) or info.width == 0:
        return _copy(info, header=header)
    has_shape = abs(width * info.height - height * info.width) < max(info.width, width)
    if not has_shape or _described_size(info) != (info.width, info.height):
        return None
    scales = width / info.width, height / info.height
    return _copy(info, header=header, width=width, height=height,
                 k=_scaled(info.k, 3, scales), p=_scaled(info.p, 4, scales))


def _described_size(info: CameraInfo) -> tuple[int, int]:
    """Return W, H of the images a calibration is for; zeros stand for everything."""
    width, height = info.roi.width or info.width, info.roi.height or info.height
    return width // max(info.binning_x, 1), height // max(info.binning_y, 1)


def _scaled(matrix: Any, columns: int, scales: tuple[float, float]) -> list[float]:
    """Scale the first two rows of a matrix that projects to pixels."""
    values = [float(value) for value in matrix]
    for row, scale in enumerate(scales):
        start = row * columns
        values[start:start + columns] = [scale * v for v in values[start:start + columns]]
        # An uncalibrated camera has zeros there, which stay zeros.
        if values[2 * columns + 2]:
            values[start + 2] += (scale - 1) / 2
    return values


def _copy(info: CameraInfo, **changes: Any) -> CameraInfo:
    fields = {name: getattr(info, name) for name in info.get_fields_and_field_types()}
    return CameraInfo(**{**fields, **changes})
