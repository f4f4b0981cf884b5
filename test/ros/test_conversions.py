# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back, by the package's codec and by a cv_bridge that may be faulty."""

import array
from collections.abc import Callable, Iterator
import logging
from pathlib import Path
import re
import sys
import time
from typing import Any

import numpy as np
import pytest
from ros_helpers import HAS_ROS, ROOT, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from builtin_interfaces.msg import Time  # noqa: I100
import fake_cv_bridge
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from uncertainty_seg.core.image_codec import decode, ENCODINGS, ImageFile, RawImage
from uncertainty_seg.ros.conversions import (
    BRIDGE_READS,
    BRIDGE_WRITES,
    CODEC_READS,
    image_bridge,
    image_from_msg,
    image_to_msg,
    stamp_ns,
)

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


# -------------------------------------------------------------------------------------------------
# cv_bridge. The real one is in test_cv_bridge.py; here are the faults that it does not have.


@pytest.fixture(autouse=True)
def fresh_bridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget which cv_bridge was found, before and after."""
    image_bridge.cache_clear()
    yield
    monkeypatch.undo()
    image_bridge.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, **changes: Callable[..., Any]) -> Any:
    """Install a cv_bridge whose methods are changed, and return what is made of it."""
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


def test_a_right_cv_bridge_is_used_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    route = use(monkeypatch)
    assert (route.name, route.is_fault, route.writes) == (
        'cv_bridge', False, set(BRIDGE_WRITES))
    assert route.reads == set(BRIDGE_READS) - set(fake_cv_bridge.UNKNOWN)
    assert route.sentence == (
        'images are read and written by cv_bridge; it does not know uyvy, yuyv, yuv422_yuy2, '
        "which the package's codec reads")
    num_read, num_written = route.bridge.num_read, route.bridge.num_written
    for encoding in ENCODINGS:
        msg = picture(encoding)
        read = image_from_msg(msg)
        assert isinstance(read, RawImage)
        assert (read.values is not None) is (encoding in route.reads)
        assert read.values is None or np.shares_memory(read.values, read.data)
        own = RawImage(read.data, msg.height, msg.width, encoding, msg.step)
        np.testing.assert_array_equal(decode(read), decode(own))
    assert route.bridge.num_read == num_read + len(route.reads)
    image_to_msg(HEADER, np.zeros((2, 3, 3), np.uint8), 'bgr8')
    assert route.bridge.num_written == num_written + 1


def test_pixels_that_cv_bridge_read_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
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
    # More bytes than the rows need are no fault.
    msg.data.append(7)
    assert image_from_msg(msg).values is not None


def test_no_cv_bridge_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    route = image_bridge()
    assert (route.name, route.is_fault) == ('own codec', False)
    assert route.sentence == ('cv_bridge is not installed: images are read and written by the '
                              "package's own codec")


@pytest.mark.parametrize(('source', 'reason'), [
    ("import sys; print('a page'); print('of advice', file=sys.stderr); "
     "raise ImportError('numpy.core.multiarray failed to import')",
     'ImportError: numpy.core.multiarray failed to import'),
    ("raise AttributeError('_ARRAY_API\\n not found')", 'AttributeError: _ARRAY_API not found'),
    ('import no_such_module_of_cv_bridge',
     "ModuleNotFoundError: No module named 'no_such_module_of_cv_bridge'"),
    ('import sys; sys.exit(3)', 'SystemExit: 3'),
    ('', "ImportError: cannot import name 'CvBridge' from 'cv_bridge'"),
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
    assert route.sentence.startswith(f'cv_bridge is left aside ({reason}')
    assert route.sentence.endswith("): images are read and written by the package's own codec")
    assert '\n' not in route.sentence
    assert capfd.readouterr() == ('', '')


def raising(error: Exception) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        raise error
    return method


def swapped(self: Any, msg: Any, desired: str) -> Any:
    """Read values of 16 bits in the wrong order, as ROS 1's package on PyPI does."""
    values = fake_cv_bridge_read(self, msg, desired)
    return values.byteswap() if msg.encoding == '16UC1' else values


def other_type(self: Any, msg: Any, desired: str) -> Any:
    return fake_cv_bridge_read(self, msg, desired).astype('f8')


def without_header(self: Any, pixels: Any, encoding: str, header: Any = None) -> Any:
    return fake_cv_bridge_write(self, pixels, encoding)


fake_cv_bridge_read = fake_cv_bridge.CvBridge.imgmsg_to_cv2
fake_cv_bridge_write = fake_cv_bridge.CvBridge.cv2_to_imgmsg
# What is wrong with a cv_bridge -> why it is left aside.
FAULTS: list[tuple[dict[str, Callable[..., Any]], str]] = [
    ({'__init__': raising(KeyError('CV_8U'))}, "KeyError: 'CV_8U'"),
    ({'imgmsg_to_cv2': raising(KeyError(64))}, 'it cannot read bgr8: KeyError: 64'),
    ({'cv2_to_imgmsg': raising(KeyError(16))}, 'it cannot write mono8: KeyError: 16'),  # OpenCV 5
    ({'cv2_to_imgmsg': raising(AttributeError("no attribute 'tostring'"))},  # numpy 2.3
     "it cannot write mono8: AttributeError: no attribute 'tostring'"),
    ({'imgmsg_to_cv2': swapped}, 'it reads 16UC1 with other pixels'),
    ({'imgmsg_to_cv2': other_type}, 'it reads bgr8 with other pixels'),
    ({'imgmsg_to_cv2': lambda *_: None}, "it cannot read bgr8: AttributeError: 'NoneType'"),
    ({'cv2_to_imgmsg': without_header}, 'it writes mono8 with other pixels or fields'),
    ({'imgmsg_to_cv2': raising(fake_cv_bridge.CvBridgeError())},
     'it knows none of the encodings'),
]


@pytest.mark.parametrize(('changes', 'reason'), FAULTS, ids=[reason for _, reason in FAULTS])
def test_a_cv_bridge_that_fails_the_check_is_left_aside(
    changes: dict[str, Callable[..., Any]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = use(monkeypatch, **changes)
    assert (route.name, route.is_fault, route.bridge) == ('own codec', True, None)
    assert route.sentence.startswith(f'cv_bridge is left aside ({reason}')
    assert image_from_msg(picture()).values is None
    assert len(image_to_msg(HEADER, np.zeros((2, 3), np.uint8), 'mono8').data) == 6


def test_a_cv_bridge_that_writes_slowly_reads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return fake_cv_bridge_write(self, *args, **kwargs)

    route = use(monkeypatch, cv2_to_imgmsg=slow)
    assert (route.is_fault, route.writes, 'bgr8' in route.reads) == (False, set(), True)
    assert re.match("images are read by cv_bridge and written by the package's own codec, since "
                    r'cv_bridge takes \d+ times as long to write one; ', route.sentence)
    num_written = route.bridge.num_written
    assert len(image_to_msg(HEADER, np.zeros((2, 3), np.uint8), 'mono8').data) == 6
    assert route.bridge.num_written == num_written


def test_a_message_that_makes_cv_bridge_fail_is_read_and_written_by_the_codec(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    route = use(monkeypatch)
    right = decode(image_from_msg(picture('rgb8')))
    for fault in (raising(RuntimeError('broken')), lambda *_: None, other_type,
                  lambda self, msg, _: fake_cv_bridge_read(self, msg)[:, 1:]):
        monkeypatch.setattr(type(route.bridge), 'imgmsg_to_cv2', fault)
        for _ in range(2):
            read = image_from_msg(picture('rgb8'))
            assert isinstance(read, RawImage) and read.values is None
            np.testing.assert_array_equal(decode(read), right)
    monkeypatch.setattr(type(route.bridge), 'cv2_to_imgmsg', raising(ValueError('broken')))
    with caplog.at_level(logging.WARNING):
        sent = [image_to_msg(HEADER, right, 'bgr8') for _ in range(2)]
    assert sent[0].data.tobytes() == right.tobytes()
    said = [record.message for record in caplog.records if 'write' in record.message]
    assert said == ['cv_bridge could not write an image of encoding bgr8 (ValueError); the '
                    "package's own codec is used for such images"]


def test_the_page_says_what_goes_through_cv_bridge() -> None:
    text = (ROOT / 'docs' / 'cameras.md').read_text(encoding='utf-8')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()
            if line.startswith(('| read |', '| write |'))]
    named: dict[tuple[str, str], set[str]] = {}
    for verb, what, by in rows:
        if '`' in what:
            named.setdefault((verb, by), set()).update(re.findall('`([^`]+)`', what))
    assert named == {
        ('read', 'cv_bridge'): set(BRIDGE_READS),
        ('read', 'own codec'): set(ENCODINGS) - set(BRIDGE_READS),
        ('write', 'cv_bridge'): set(BRIDGE_WRITES),
    }
    said = [what for verb, what, by in rows if by == 'own codec' and '`' not in what]
    assert said[:len(CODEC_READS)] == list(CODEC_READS)
    assert len(said) == len(CODEC_READS) + 2  # what it does not know, and compressed images
