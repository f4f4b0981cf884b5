# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back."""

import array

import numpy as np
import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from builtin_interfaces.msg import Time  # noqa: I100
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, ImageFile, RawImage
from uncertainty_seg.ros.conversions import image_from_msg, image_to_msg, stamp_ns

pytestmark = pytest.mark.ros

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id='camera_optical')


def test_the_pixels_of_a_message_are_not_copied() -> None:
    msg = Image(height=2, width=3, encoding='mono8', step=3, data=array.array('B', range(6)))
    raw = image_from_msg(msg)
    msg.data[4] = 200
    assert np.asarray(raw.data)[4] == 200


def test_every_field_of_the_message_is_taken_over() -> None:
    msg = Image(height=2, width=3, encoding='mono16', step=8, is_bigendian=1)
    raw = image_from_msg(msg)
    assert isinstance(raw, RawImage)
    assert (raw.height, raw.width, raw.encoding, raw.step, raw.is_bigendian) == (
        2, 3, 'mono16', 8, True)


def test_a_compressed_message_is_a_file_and_is_not_copied() -> None:
    msg = CompressedImage(format='rgb8; jpeg compressed bgr8', data=array.array('B', range(6)))
    file = image_from_msg(msg)
    msg.data[4] = 200
    assert isinstance(file, ImageFile)
    assert (file.format, np.asarray(file.data)[4]) == ('rgb8; jpeg compressed bgr8', 200)
    assert (file.original, file.packing) == ('rgb8', 'jpeg compressed bgr8')


@pytest.mark.parametrize(
    ('encoding', 'shape', 'dtype'),
    [('mono8', (4, 5), 'u1'), ('bgr8', (4, 5, 3), 'u1'), ('32FC1', (4, 5), 'f4')],
)
def test_pixels_go_out_with_header_step_and_values(
    encoding: str, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = (np.arange(np.prod(shape)) * 1.5).reshape(shape).astype(dtype)
    msg = image_to_msg(HEADER, pixels, encoding)
    assert msg.header == HEADER
    assert (msg.height, msg.width, msg.encoding) == (4, 5, encoding)
    assert msg.step * msg.height == len(msg.data) == pixels.nbytes
    assert not msg.is_bigendian
    back = np.frombuffer(msg.data, dtype).reshape(shape)
    np.testing.assert_array_equal(back, pixels)


def test_a_view_with_strides_goes_out_in_row_order() -> None:
    wide = np.arange(24, dtype=np.uint8).reshape(4, 6)
    msg = image_to_msg(HEADER, wide[:, ::2], 'mono8')
    np.testing.assert_array_equal(np.frombuffer(msg.data, np.uint8), wide[:, ::2].ravel())


def test_a_picture_survives_the_way_out_and_in() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 9, 3), np.uint8)
    np.testing.assert_array_equal(
        decode(image_from_msg(image_to_msg(HEADER, pixels, 'bgr8'))), pixels)


def test_a_stamp_is_seconds_and_nanoseconds() -> None:
    assert stamp_ns(HEADER) == 12_000_000_345
