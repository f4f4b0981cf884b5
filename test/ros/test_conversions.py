# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back, with the package's codec and with a possibly faulty cv_bridge."""

import array
from collections.abc import Callable, Iterator
from pathlib import Path
import sys
from typing import Any

from builtin_interfaces.msg import Time
from cases import for_each
import fake_cv_bridge
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, ENCODINGS, RawImage
from uncertainty_seg.ros.conversions import (
    BRIDGE_READS,
    image_bridge,
    image_from_msg,
    image_to_msg,
)

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id='camera_optical')


@for_each('encoding, shape, dtype', [('bgr8', (4, 5, 3), 'u1'), ('32FC1', (4, 5), 'f4')])
def test_pixels_go_out_with_header_step_and_values(
    encoding: str, shape: tuple[int, ...], dtype: str
) -> None:
    wide = (np.arange(2 * np.prod(shape)) * 1.5).reshape(*shape, 2).astype(dtype)
    pixels = wide[..., 0]  # with strides
    msg = image_to_msg(HEADER, pixels, encoding)
    assert msg.header == HEADER
    assert (msg.height, msg.width, msg.encoding) == (4, 5, encoding)
    assert msg.step * msg.height == len(msg.data) == pixels.nbytes
    assert not msg.is_bigendian
    back = np.frombuffer(msg.data, dtype).reshape(shape)
    np.testing.assert_array_equal(back, pixels)


# cv_bridge. test_cv_bridge.py tests the real one; these are faults that it does not have.


@pytest.fixture(autouse=True)
def fresh_bridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the cached cv_bridge before and after each test."""
    image_bridge.cache_clear()
    yield
    monkeypatch.undo()
    image_bridge.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, **changes: Callable[..., Any]) -> Any:
    """Install a fake cv_bridge with changed methods, and return the package's `image_bridge`."""
    class Changed(fake_cv_bridge.CvBridge):
        pass

    for name, method in changes.items():
        setattr(Changed, name, method)
    monkeypatch.setattr(fake_cv_bridge, 'CvBridge', Changed)
    monkeypatch.setitem(sys.modules, 'cv_bridge', fake_cv_bridge)
    image_bridge.cache_clear()
    return image_bridge()


def picture(encoding: str = 'bgr8', height: int = 6, width: int = 8) -> Any:
    """Return a message without padding, in this machine's byte order."""
    kind = ENCODINGS[encoding]
    step = kind.row_bytes(width)
    size = kind.needed_bytes(height, width, step) // kind.itemsize
    values = np.random.default_rng(2).random(size)
    values = values if kind.dtype == 'f4' else values * np.iinfo(kind.dtype).max
    return Image(height=height, width=width, encoding=encoding, step=step,
                 is_bigendian=int(sys.byteorder == 'big'),
                 data=array.array('B', values.astype(kind.dtype).tobytes()))


def test_a_right_cv_bridge_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    route = use(monkeypatch)
    assert (route.name, route.is_fault) == ('cv_bridge', False)
    assert route.reads == set(BRIDGE_READS) - set(fake_cv_bridge.UNKNOWN)
    assert 'uyvy, yuyv, yuv422_yuy2' in route.sentence
    num_read = route.bridge.num_read
    for encoding in ENCODINGS:
        msg = picture(encoding)
        read = image_from_msg(msg)
        assert isinstance(read, RawImage)
        assert (read.values is not None) is (encoding in route.reads)
        assert read.values is None or np.shares_memory(read.values, read.data)
        own = RawImage(read.data, msg.height, msg.width, encoding, msg.step)
        np.testing.assert_array_equal(decode(read), decode(own))
    assert route.bridge.num_read == num_read + len(route.reads)
    assert not decode(image_from_msg(picture())).flags.writeable


def test_cv_bridge_is_not_asked_for_what_it_misreads(monkeypatch: pytest.MonkeyPatch) -> None:
    route = use(monkeypatch)
    num_read = route.bridge.num_read
    msg = picture('mono16')
    order = int(sys.byteorder != 'big')
    for field, value in (('step', msg.step + 1), ('step', msg.step - 1), ('width', 7),
                         ('height', 7), ('height', 0), ('width', 0), ('encoding', 'mono8'),
                         ('is_bigendian', order), ('is_bigendian', 2), ('data', msg.data[:-1])):
        changed = picture('mono16')
        setattr(changed, field, value)
        assert image_from_msg(changed).values is None, field
    assert route.bridge.num_read == num_read
    # Extra bytes after the rows are accepted.
    msg.data.append(7)
    assert image_from_msg(msg).values is not None


def test_no_cv_bridge_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    route = image_bridge()
    assert (route.name, route.is_fault) == ('own codec', False)


@pytest.mark.parametrize(('source', 'reason'), [
    ("import sys; print('a page'); print('of advice', file=sys.stderr); "
     "raise ImportError('numpy.core.multiarray failed to import')", 'numpy.core.multiarray'),
    ('import sys; sys.exit(3)', 'SystemExit: 3'), ('', 'CvBridge'),
])
def test_a_cv_bridge_that_cannot_be_imported_is_left_aside(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / 'cv_bridge.py').write_text(source)
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    route = image_bridge()
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    assert (route.name, route.is_fault) == ('own codec', True)
    assert reason in route.sentence and '\n' not in route.sentence
    assert capfd.readouterr() == ('', '')


def raising(error: Exception) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        raise error
    return method


fake_cv_bridge_read = fake_cv_bridge.CvBridge.imgmsg_to_cv2


def swapped(self: Any, msg: Any, desired: str) -> Any:
    """Read 16-bit values in the wrong byte order, as ROS 1's package on PyPI does."""
    values = fake_cv_bridge_read(self, msg, desired)
    return values.byteswap() if msg.encoding == '16UC1' else values


@for_each('read, reason', [
    (raising(KeyError(64)), '64'), (swapped, '16UC1'),
    (lambda *given: fake_cv_bridge_read(*given).astype('f8'), 'bgr8'),
    (raising(fake_cv_bridge.CvBridgeError()), 'none of the encodings')])
def test_a_cv_bridge_that_fails_the_check_is_left_aside(
    read: Callable[..., Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = use(monkeypatch, imgmsg_to_cv2=read)
    assert (route.name, route.is_fault, route.bridge) == ('own codec', True, None)
    assert reason in route.sentence
    assert image_from_msg(picture()).values is None
