# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bags: written messages are read back, writing is deterministic, bad bags give one sentence."""

from collections.abc import Callable
import os
from pathlib import Path
import sqlite3
from typing import Any

from conftest import compressed_message
import cv2
from mcap import reader as mcap_reader
from mcap import writer as mcap_writer
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from uncertainty_seg.core.image_codec import decode, RawImage
from uncertainty_seg.core.status import Status
from uncertainty_seg.errors import BagError
from uncertainty_seg.storage.bags.reader import (
    BadMessage,
    BagMessage,
    BagReader,
    choose_image_topic,
    header_stamp_ns,
    IMAGE_TYPE,
    read_images,
    typestore,
)
from uncertainty_seg.storage.bags.writer import (
    BagWriter,
    camera_info_message,
    diagnostics_message,
    image_message,
    PinholeCamera,
    STORAGES,
    value_message,
)

CAMERA = '/camera/image_raw'
START_NS = 1_700_000_000_123_456_789
both_storages = pytest.mark.parametrize('storage', STORAGES)


def picture(k: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)


def write_camera(path: Path, storage: str = 'mcap', count: int = 3, topic: str = CAMERA) -> Path:
    with BagWriter(path, storage) as bag:
        for k in range(count):
            bag.write_image(topic, START_NS + k, 'cam', picture(k), 'bgr8', START_NS + 10 + k)
    return path


def write_everything(path: Path, storage: str) -> Path:
    with BagWriter(path, storage) as bag:
        for k in range(3):
            t = START_NS + k * 10**8
            bag.write('/event', value_message('silt_cloud'), t)
            bag.write_image(CAMERA, t, 'cam', picture(k), 'bgr8')
            bag.write_image('/map', t, 'cam', picture(k)[..., 0].astype(np.float32), '32FC1')
            bag.write('/camera/camera_info',
                      camera_info_message(t, 'cam', PinholeCamera(16, 12, 20.5)), t)
            bag.write('/jpeg', compressed_message(t, 'cam', 'jpeg', bytes([1, 2, k])), t)
            bag.write('/flag', value_message(k == 1), t)
            bag.write('/score', value_message(float('inf')), t)
            status = Status(1, 'who', 'what', {'a': 'b'}, 'hw')
            bag.write('/status', diagnostics_message(t, (status,)), t)
    return path


def files_of(bag: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in bag.iterdir()}


@both_storages
def test_images_come_back_with_stamp_frame_and_pixels(tmp_path: Path, storage: str) -> None:
    images = list(read_images(write_camera(tmp_path / 'bag', storage)))
    assert [i.stamp_ns for i in images] == [START_NS, START_NS + 1, START_NS + 2]
    assert [i.received_ns for i in images] == [START_NS + 10, START_NS + 11, START_NS + 12]
    assert {(i.topic, i.frame_id) for i in images} == {(CAMERA, 'cam')}
    raw = [i.raw for i in images if isinstance(i.raw, RawImage)]
    assert [(r.encoding, r.step) for r in raw] == [('bgr8', 48)] * 3
    for k, image in enumerate(images):
        np.testing.assert_array_equal(decode(image.raw), picture(k))


@both_storages
def test_every_message_type_comes_back(tmp_path: Path, storage: str) -> None:
    topics = ('/event', '/map', '/camera/camera_info', '/jpeg', '/flag', '/score', '/status')
    with BagReader(write_everything(tmp_path / 'bag', storage)) as bag:
        assert set(bag.topics()) == {*topics, CAMERA}
        assert bag.count('/flag') == 3
        items = [i for i in bag.messages(*topics) if i.received_ns == START_NS + 10**8]
    found = {i.topic: i.message for i in items if isinstance(i, BagMessage)}
    assert found['/event'].data == 'silt_cloud'
    assert found['/flag'].data is True
    assert found['/score'].data == float('inf')
    assert found['/jpeg'].data.tolist() == [1, 2, 1]
    assert found['/camera/camera_info'].k.tolist() == [20.5, 0, 8, 0, 20.5, 6, 0, 0, 1]
    assert found['/map'].data.view('<f4').reshape(12, 16)[3, 4] == picture(1)[3, 4, 0]
    status = found['/status'].status[0]
    assert (status.level, status.name, status.message, status.hardware_id) == (
        1, 'who', 'what', 'hw'
    )
    assert [(v.key, v.value) for v in status.values] == [('a', 'b')]
    assert header_stamp_ns(found['/status']) == START_NS + 10**8


def test_an_mcap_bag_is_what_rosbag2_writes_to_the_readers_of_rosbags_and_mcap(
    tmp_path: Path
) -> None:
    path = write_everything(tmp_path / 'bag', 'mcap')
    with AnyReader([path]) as bag:
        expected = [(c.topic, c.msgtype, time, bytes(data)) for c, time, data in bag.messages()]
        hashes = {c.topic: c.digest for c in bag.connections}
    assert len(expected) == 24
    with (path / 'bag_0.mcap').open('rb') as file:
        bag = mcap_reader.make_reader(file, validate_crcs=True)
        assert bag.get_header().profile == 'ros2'
        (note,) = bag.iter_metadata()
        found = list(bag.iter_messages())
    assert [(c.topic, s.name, m.log_time, m.data) for s, c, m in found] == expected
    assert {(s.encoding, c.message_encoding) for s, c, _ in found} == {('ros2msg', 'cdr')}
    assert {c.topic: c.metadata for _, c, _ in found} == {
        topic: {'offered_qos_profiles': '', 'topic_type_hash': name}
        for topic, name in hashes.items()}
    # Players that get only the file read the metadata from this record.
    assert note.name == 'rosbag2' and note.metadata['serialized_metadata'].endswith('version: 8')


def test_pixels_that_were_damaged_on_the_disk_are_told_from_sound_ones(tmp_path: Path) -> None:
    # Noise is stored uncompressed, so that a changed byte still decodes.
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write_image(CAMERA, START_NS, 'cam', picture(0, 200, 200), 'bgr8')
    file = tmp_path / 'bag' / 'bag_0.mcap'
    data = bytearray(file.read_bytes())
    data[data.index(picture(0, 200, 200).tobytes()[60_000:60_100]) + 50] ^= 1
    file.write_bytes(data)
    with pytest.raises(BagError, match='checksum'):
        list(read_images(tmp_path / 'bag'))


@both_storages
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_truncated_bag_is_one_sentence(tmp_path: Path, storage: str, share: float) -> None:
    bag = write_camera(tmp_path / 'bag', storage, count=200)
    data = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    data.write_bytes(data.read_bytes()[: int(share * data.stat().st_size)])
    with pytest.raises(BagError):
        list(read_images(bag))


def write_jpegs(path: Path, *topics: str) -> Path:
    with BagWriter(path) as bag:
        for k, topic in enumerate(topics):
            data = bytes(cv2.imencode('.png', picture(k))[1])
            form = 'bgr8; png compressed bgr8'
            bag.write(topic, compressed_message(START_NS + k, 'cam', form, data), START_NS + k)
    return path


@both_storages
def test_damaged_message_is_passed_on_or_left_out(tmp_path: Path, storage: str) -> None:
    path = tmp_path / 'bag'
    with BagWriter(path, storage) as bag:
        bag.write_image(CAMERA, START_NS, 'cam', picture(0), 'bgr8')
        bag.write_serialized(CAMERA, 'sensor_msgs/msg/Image', START_NS + 1, b'\0\1\0\0\7\7')
        bag.write_image(CAMERA, START_NS + 2, 'cam', picture(2), 'bgr8')
    with BagReader(path) as reader:
        items = list(reader.images())
    assert [isinstance(i, BadMessage) for i in items] == [False, True, False]
    assert items[1].received_ns == START_NS + 1
    assert [i.stamp_ns for i in read_images(path)] == [START_NS, START_NS + 2]


def test_of_two_runs_the_one_that_ends_later_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(BagError):
        with BagWriter(tmp_path / 'bag') as late:
            late.write('/flag', value_message(False), START_NS)
            write_camera(tmp_path / 'bag')
            before = files_of(tmp_path / 'bag')
    assert files_of(tmp_path / 'bag') == before and os.listdir(tmp_path) == ['bag']


def test_images_are_read_without_their_definition_and_from_a_topic_without_a_slash(
    tmp_path: Path
) -> None:
    message = image_message(START_NS, 'cam', picture(0), 'bgr8')
    with (tmp_path / 'a.mcap').open('wb') as file:
        out = mcap_writer.Writer(file)
        out.start('ros2')
        channel = out.register_channel(
            'cam/image', 'cdr', out.register_schema(IMAGE_TYPE, 'ros2msg', b''))
        data = bytes(typestore().serialize_cdr(message, IMAGE_TYPE))
        out.add_message(channel, START_NS, data, START_NS)
        out.finish()
    assert [image.stamp_ns for image in read_images(tmp_path / 'a.mcap')] == [START_NS]


@both_storages
def test_interrupted_bag_leaves_nothing(tmp_path: Path, storage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        with BagWriter(tmp_path / 'bag', storage) as writer:
            writer.write_image(CAMERA, START_NS, 'cam', picture(0), 'bgr8')
            assert not (tmp_path / 'bag').exists()
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('fault', [OSError(28, 'No space left on device'),
                                   sqlite3.OperationalError('database or disk is full')])
def test_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BagError):
        with BagWriter(tmp_path / 'bag') as writer:
            def refuse(*args: object) -> None:
                raise fault

            writer.write('/flag', value_message(True), START_NS)
            monkeypatch.setattr(writer._writer, 'write', refuse)
            writer.write('/flag', value_message(True), START_NS)
    assert os.listdir(tmp_path) == []


def bag_of(path: Path, *topics: str) -> Path:
    """Write a bag with a flag, and an image on each topic."""
    with BagWriter(path) as bag:
        bag.write('/flag', value_message(True), START_NS)
        for topic in topics:
            bag.write_image(topic, START_NS, 'cam', picture(0), 'bgr8')
    return path


def spoilt(path: Path, name: str) -> Path:
    write_camera(path)
    (path / name).write_text('{{{')
    return path / (name if name.endswith('.txt') else '')


def of_json(path: Path) -> Path:
    file = path.with_suffix('.mcap')
    with file.open('wb') as out:
        writer = mcap_writer.Writer(out)
        writer.start()
        writer.finish()
    return file


def emptied(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(('make', 'topic', 'named'), [
    (lambda p: p / 'nothing', None, 'nothing'),
    (emptied, None, 'metadata.yaml'),
    (of_json, None, 'ROS 2'),
    (lambda p: spoilt(p, 'notes.txt'), None, 'notes.txt'),
    (lambda p: spoilt(p, 'metadata.yaml'), None, 'bag'),
    (bag_of, None, r'/flag \(std_msgs/msg/Bool\)'),
    (write_camera, 'front', CAMERA),
    (bag_of, '/flag', '/flag'),
    (lambda p: bag_of(p, '/left/image_raw', '/right/image_raw'), None, '/left/image_raw, /right'),
    (lambda p: write_jpegs(p, '/depth/image/compressedDepth'), None, 'compressedDepth'),
], ids=['missing', 'empty', 'json', 'text', 'yaml', 'none', 'absent', 'no camera', 'two', 'depth'])
def test_a_bag_without_the_images_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], topic: str | None, named: str
) -> None:
    with pytest.raises(BagError, match=named):
        list(read_images(make(tmp_path / 'bag'), topic))


@pytest.mark.parametrize(('there', 'more', 'named'), [
    (None, {'storage': 'rosbag1'}, 'rosbag1'), ('bag', {}, 'bag'),
    ('file', {'overwrite': True}, 'bag'), ('folder', {'overwrite': True}, 'bag'),
    ('parent', {}, 'bag'),
])
def test_an_output_that_cannot_be_is_refused_and_nothing_is_touched(
    tmp_path: Path, there: str | None, more: dict[str, Any], named: str
) -> None:
    target = tmp_path / 'bag'
    if there == 'bag':
        write_camera(target)
    if there == 'folder':
        target.mkdir()
        (target / 'thesis.tex').write_text('ten years of work')
    if there in ('file', 'parent'):
        target.write_text('ten years of work')
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob('*')}
    with pytest.raises(BagError, match=named):
        with BagWriter(target / 'bag' if there == 'parent' else target, **more):
            pass
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob('*')} == before


@both_storages
def test_a_time_that_a_bag_cannot_hold_is_one_sentence(tmp_path: Path, storage: str) -> None:
    time_ns = {'mcap': -1, 'sqlite3': 2**63}[storage]
    with pytest.raises(BagError, match='time'), BagWriter(tmp_path / 'bag', storage) as bag:
        bag.write('/flag', value_message(True), time_ns)
    assert not (tmp_path / 'bag').exists()


def test_what_a_node_makes_of_a_camera_is_no_camera(tmp_path: Path) -> None:
    types = {'/uncertainty_seg/heatmap': IMAGE_TYPE, '/front/rgb': IMAGE_TYPE}
    assert choose_image_topic(tmp_path, types, None) == '/front/rgb'
    assert choose_image_topic(tmp_path, types, '/uncertainty_seg/heatmap').endswith('heatmap')
    with pytest.raises(BagError, match='camera'):
        choose_image_topic(tmp_path, {'/uncertainty_seg/mask': IMAGE_TYPE}, None)
