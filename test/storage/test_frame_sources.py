# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Sources: bags, folders and logs give equal frames; damaged frames are counted, not fatal."""

from collections.abc import Callable, Iterable
import json
import os
from pathlib import Path
import shutil

from conftest import compressed_message
import cv2
import numpy as np
import pytest

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.errors import BagError, UncertaintySegError
from uncertainty_seg.storage.bags import reader as bag_reader
from uncertainty_seg.storage.bags.reader import IMAGE_TYPE, typestore
from uncertainty_seg.storage.bags.writer import (
    BagWriter,
    image_message,
)
from uncertainty_seg.storage.frame_sources import (
    BadFrame,
    find_sources,
    frames_at,
    FrameSource,
    read_source,
    SourceFrame,
)

CAMERA = '/camera/image_raw'
START_NS, STEP_NS = 1_700_000_000_123_456_789, 10**8
NUM = 12


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (12, 16, 3), np.uint8)


def png(k: int) -> bytes:
    return bytes(cv2.imencode('.png', picture(k))[1])


def message(k: int) -> bytes:
    made = image_message(START_NS + k * STEP_NS, 'cam', picture(k), 'bgr8')
    return bytes(typestore().serialize_cdr(made, IMAGE_TYPE))


def rosbag2(path: Path, storage: str = 'mcap', topic: str = CAMERA, count: int = NUM) -> Path:
    with BagWriter(path, storage) as bag:
        for k in range(count):
            bag.write_image(topic, START_NS + k * STEP_NS, 'cam', picture(k), 'bgr8')
    return path


def compressed(path: Path) -> Path:
    with BagWriter(path) as bag:
        for k in range(NUM):
            stamp_ns = START_NS + k * STEP_NS
            bag.write(f'{CAMERA}/compressed', compressed_message(
                stamp_ns, 'cam', 'bgr8; png compressed bgr8', png(k)), stamp_ns)
    return path


def rosbag1(path: Path) -> Path:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import get_typestore, Stores

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    with Writer(path) as bag:
        connection = bag.add_connection(CAMERA, IMAGE_TYPE, typestore=store)
        for k in range(NUM):
            seconds, nanoseconds = divmod(START_NS + k * STEP_NS, 10**9)
            stamp = types['builtin_interfaces/msg/Time'](seconds, nanoseconds)
            header = types['std_msgs/msg/Header'](seq=k, stamp=stamp, frame_id='cam')
            made = types[IMAGE_TYPE](header=header, height=12, width=16, encoding='bgr8',
                                     is_bigendian=0, step=48, data=picture(k).reshape(-1))
            bag.write(connection, START_NS + k * STEP_NS, store.serialize_ros1(made, IMAGE_TYPE))
    return path


def chunked(path: Path, damaged: Iterable[int] = (), count: int = NUM) -> Path:
    """Write an MCAP file with one message per chunk; the bytes of `damaged` chunks are changed."""
    from mcap.writer import CompressionType, Writer

    with path.open('wb') as file:
        writer = Writer(file, chunk_size=1, compression=CompressionType.ZSTD)
        writer.start(profile='ros2')
        text = typestore().generate_msgdef(IMAGE_TYPE)[0]
        schema = writer.register_schema(IMAGE_TYPE, 'ros2msg', text.encode())
        channel = writer.register_channel(CAMERA, 'cdr', schema)
        for k in range(count):
            writer.add_message(channel, START_NS + k * STEP_NS, message(k), 0)
        writer.finish()
    data = bytearray(path.read_bytes())
    places = chunk_places(path)
    for k in damaged:
        start, length = places[k]
        middle = start + length // 2
        data[middle:middle + 40] = bytes(b ^ 0xFF for b in data[middle:middle + 40])
    path.write_bytes(data)
    return path


def chunk_places(path: Path) -> list[tuple[int, int]]:
    from mcap.reader import make_reader

    with path.open('rb') as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    return [(c.chunk_start_offset, c.chunk_length) for c in summary.chunk_indexes]


def log(path: Path, dive: str = 'dive_07') -> Path:
    for k in range(NUM):
        folder = path / 'frames' / f'{START_NS + k * STEP_NS}_cam'
        folder.mkdir(parents=True)
        (folder / 'image.png').write_bytes(png(k))
        (folder / 'frame.json').write_text(json.dumps({
            'version': 1, 'frame_id': folder.name, 'stamp_ns': START_NS + k * STEP_NS,
            'camera': 'front', 'dive': dive, 'image': {'file': 'image.png'}}))
    return path


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for k in range(NUM):
        (path / f'{k:03}.png').write_bytes(png(k))
    return path


def made(path: Path) -> Path:
    path.mkdir()
    return path


def found(*inputs: Path, topics: Iterable[str] = (), dive: str = '') -> list[FrameSource]:
    problems: list[str] = []
    sources = find_sources(list(inputs), list(topics), problems, dive)
    assert problems == []
    return sources


def indices(frames: Iterable[SourceFrame | BadFrame]) -> list[int]:
    return [frame.index for frame in frames]


MAKERS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    'mcap': (rosbag2, 'bag', CAMERA), 'sqlite3': (lambda p: rosbag2(p, 'sqlite3'), 'bag', CAMERA),
    'rosbag1': (lambda p: rosbag1(made(p) / 'hour_1.bag'), 'bag', CAMERA),
    'compressed': (compressed, 'bag', f'{CAMERA}/compressed'),
    'log': (log, 'log', 'front'), 'folder': (folder, 'folder', ''),
    'one file': (lambda p: chunked(made(p) / 'hour_1.mcap'), 'bag', CAMERA),
}


@pytest.mark.parametrize('what', MAKERS)
def test_every_kind_gives_the_same_frames(tmp_path: Path, what: str) -> None:
    make, kind, topic = MAKERS[what]
    path = make(tmp_path / 'dive_07')
    (source,) = found(path)
    assert (source.path, source.kind, source.dive, source.num_frames) == (
        str(path), kind, 'dive_07', NUM)
    assert indices(read_source(source, 5)) == [0, 5, 10]
    frames = list(read_source(source))
    assert indices(frames) == list(range(NUM))
    for k, frame in enumerate(frames):
        assert isinstance(frame, SourceFrame)
        stamp = k * 10**9 if kind == 'folder' else START_NS + k * STEP_NS
        assert (frame.stamp_ns, frame.topic, frame.dive) == (stamp, topic, 'dive_07')
        np.testing.assert_array_equal(decode(frame.raw), picture(k))
    again = list(frames_at(str(path), kind, topic, {1, 7, 99}))
    assert indices(again) == [1, 7]
    for frame in again:
        assert isinstance(frame, SourceFrame)
        np.testing.assert_array_equal(decode(frame.raw), picture(frame.index))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('late_ns', [20_000_000, -3600 * 10**9])
def test_a_few_frames_of_a_long_bag_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, late_ns: int
) -> None:
    # Two frames with equal stamps are distinguished by their position.
    stamps = {k: START_NS + (k - (k == 301)) * STEP_NS for k in range(400)}
    with BagWriter(tmp_path / 'bag', storage) as bag:
        for k, stamp_ns in stamps.items():
            bag.write_image(CAMERA, stamp_ns, 'cam', picture(k), 'bgr8',
                            START_NS + k * STEP_NS + late_ns + k % 7 * 10**7)
    read = []
    image = bag_reader.bag_image
    monkeypatch.setattr(bag_reader, 'bag_image', lambda item: read.append(item) or image(item))
    for wanted, most in (({5, 250, 399}, 40), ({301, 398}, 500)):
        read.clear()
        frames = list(frames_at(str(tmp_path / 'bag'), 'bag', CAMERA, wanted, stamps=stamps))
        assert sorted(indices(frames)) == sorted(wanted) and len(read) < most
        for frame in frames:
            assert isinstance(frame, SourceFrame) and frame.stamp_ns == stamps[frame.index]
            np.testing.assert_array_equal(decode(frame.raw), picture(frame.index))


def test_a_picture_is_known_by_its_name_wherever_it_is_now(tmp_path: Path) -> None:
    folder(tmp_path / 'reef')
    before = list(read_source(FrameSource(str(tmp_path / 'reef'), 'folder', '')))
    files = {frame.index: frame.file for frame in before}
    assert sorted(files.values()) == list(files.values())
    (tmp_path / 'reef' / '0.png').write_bytes(png(99))  # sorts first
    (tmp_path / 'reef' / files.pop(3)).unlink()
    again = list(frames_at(str(tmp_path / 'reef'), 'folder', '', [*files, 3], files | {3: 'gone'}))
    assert again == [frame for frame in before if frame.index != 3]


@pytest.mark.parametrize('share', [0.25, 0.5, 0.95])
def test_a_truncated_mcap_is_read_as_far_as_it_goes(tmp_path: Path, share: float) -> None:
    path = chunked(tmp_path / 'cut.mcap')
    size = int(share * path.stat().st_size)
    whole = sum(start + length <= size for start, length in chunk_places(path))
    os.truncate(path, size)
    (source,) = found(path)
    assert source.num_frames == whole > 0
    frames = []
    with pytest.raises(BagError, match='cut.mcap'):
        for frame in read_source(source):
            frames.append(frame)
    assert indices(frames) == list(range(whole))
    last = frames[-1]
    assert isinstance(last, SourceFrame)
    np.testing.assert_array_equal(decode(last.raw), picture(whole - 1))


def test_frames_before_a_damaged_chunk_are_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = chunked(tmp_path / 'bag.mcap', [5])
    (source,) = found(path)
    assert source.num_frames == NUM
    frames = []
    with pytest.raises(BagError, match='bag.mcap'):
        for frame in read_source(source):
            frames.append(frame)
    assert indices(frames) == list(range(5))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_that_is_still_being_written_is_read(tmp_path: Path, storage: str) -> None:
    bag = rosbag2(tmp_path / 'dive_07', storage)
    (bag / 'metadata.yaml').unlink()
    (file,) = bag.iterdir()
    # rosbag2's name of the file; one message per chunk, so that each is already on the disk.
    file = file.rename(bag / f'dive_07_0{file.suffix}')
    if storage == 'mcap':
        chunked(file)
        os.truncate(file, chunk_places(file)[NUM - 1][0])
    (source,) = found(bag)
    assert (source.path, source.dive) == (str(file), 'dive_07')
    frames = []
    try:
        for frame in read_source(source):
            frames.append(frame)
    except BagError as err:
        assert storage == 'mcap' and 'until the recorder has closed it' in str(err)
    assert indices(frames) == list(range(NUM - (storage == 'mcap')))


def test_files_of_a_bag_are_read_in_their_order(tmp_path: Path) -> None:
    bag = rosbag2(tmp_path / 'bag')
    shutil.rmtree(bag)
    bag.mkdir()
    (bag / 'metadata.yaml').write_text('cut off')
    for name, count in (('bag_10.mcap', 2), ('bag_9.mcap', 3)):
        chunked(bag / name, count=count)
    (source,) = found(bag)
    stamps = [f.stamp_ns - START_NS for f in read_source(source) if isinstance(f, SourceFrame)]
    assert stamps == [0, STEP_NS, 2 * STEP_NS, 0, STEP_NS]


def test_a_damaged_sidecar_keeps_its_place(tmp_path: Path) -> None:
    path = log(tmp_path / 'log')
    names = sorted((path / 'frames').iterdir())
    for k in (0, 4, NUM - 1):
        (names[k] / 'frame.json').write_text('{')
    (names[6] / 'image.png').unlink()
    (source,) = found(path)
    frames = list(read_source(source))
    assert indices(frames) == list(range(NUM))
    assert [f.index for f in frames if isinstance(f, BadFrame)] == [0, 4, 6, NUM - 1]


def test_everything_below_a_folder_is_found_once(tmp_path: Path) -> None:
    fleet = tmp_path / 'fleet'
    for dive in ('north/bag', 'south/bag'):
        rosbag2(fleet / dive, count=1)
    chunked(fleet / 'alone.mcap', count=1)
    log(fleet / 'log_3')
    folder(fleet / 'photos' / 'images')
    (fleet / 'photos' / 'masks').mkdir()
    (fleet / 'photos' / 'masks' / 'mask.png').write_bytes(png(0))
    (fleet / 'empty').mkdir()
    sources = found(fleet, fleet / 'north', fleet / 'north' / 'bag')
    assert [(s.path.removeprefix(f'{fleet}/'), s.kind, s.dive) for s in sources] == [
        ('alone.mcap', 'bag', 'fleet'), ('log_3', 'log', 'log_3'),
        ('north/bag', 'bag', 'bag'), ('photos/images', 'folder', 'photos'),
        ('south/bag', 'bag', 'bag')]
    assert len({s.run for s in sources}) == 5


def test_pictures_beside_folders_are_read_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    reef = folder(tmp_path / 'reef')
    folder(reef / 'day_2')
    assert [s.path for s in found(tmp_path)] == [str(reef), str(reef / 'day_2')]
    dive = tmp_path / 'dive'
    rosbag2(dive / 'bag', count=1)
    (dive / 'shot.png').write_bytes(png(0))
    labelled = tmp_path / 'labelled'
    for name in ('images', 'masks', 'unlabelled'):
        folder(labelled / name)
    export = tmp_path / 'export'
    for name in ('data', 'predictions'):
        folder(export / name)
    (export / 'frames.json').write_text('{}')
    unread: list[str] = []
    sources = find_sources([dive, labelled, export], [], [], unread=unread)
    assert [s.path for s in sources] == [
        str(dive / 'bag'), str(labelled / 'images'), str(export / 'data')]
    assert len(unread) == 2
    assert 'shot.png' in unread[0] and str(labelled / 'unlabelled') in unread[1]


def test_files_of_one_folder_are_one_run_however_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / 'eight' / '2026_dive7'
    place.mkdir(parents=True)
    first, second = (chunked(place / f'rec_{k}.mcap', count=1) for k in range(2))
    monkeypatch.chdir(place)
    for inputs in ([place], [first, second], [tmp_path], [Path('rec_0.mcap'), second],
                   [first, Path('rec_1.mcap')], [Path()]):
        assert [(s.dive, s.run) for s in found(*inputs)] == [('2026_dive7', str(place))] * 2
    monkeypatch.chdir(tmp_path)
    assert [s.run for s in found(Path('eight'))] == ['eight/2026_dive7'] * 2


def test_a_dive_that_is_given_holds_for_bags_folders_and_logs(tmp_path: Path) -> None:
    inputs = [rosbag2(tmp_path / name, count=1) for name in ('hour_1', 'hour_2')]
    sources = found(*inputs, log(tmp_path / 'log', 'what the log says'), dive='2026_dive7')
    assert [(s.dive, s.run) for s in sources] == [('2026_dive7', '2026_dive7')] * 3
    frames = [frame for source in sources for frame in read_source(source)]
    assert {f.dive for f in frames if isinstance(f, SourceFrame)} == {'2026_dive7'}
    assert len(frames) == 2 + NUM


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    rosbag2(tmp_path / 'fleet' / 'bag', count=1)
    (tmp_path / 'fleet' / 'to_itself').symlink_to(tmp_path / 'fleet')
    assert [s.path for s in found(tmp_path / 'fleet')] == [str(tmp_path / 'fleet' / 'bag')]


def test_a_topic_that_one_bag_lacks_does_not_stop_the_others(tmp_path: Path) -> None:
    rosbag2(tmp_path / 'a', topic='/front', count=2)
    rosbag2(tmp_path / 'b', topic='/rear', count=2)
    problems: list[str] = []
    sources = find_sources([tmp_path], ['/front'], problems)
    assert [s.path for s in sources] == [str(tmp_path / 'a')]
    assert len(problems) == 1
    assert all(named in problems[0] for named in (
        f'{tmp_path / "b"} ', '/front', '/rear (sensor_msgs/msg/Image)'))


def test_a_changed_file_changes_the_digest(tmp_path: Path) -> None:
    for make in (rosbag2, folder, log):
        path = make(tmp_path / make.__name__)
        (first,), (same,) = found(path), found(path)
        assert first == same
        file = next(p for p in sorted(path.rglob('*')) if p.suffix in ('.mcap', '.png', '.json')
                    and p.name not in ('image.png',))
        os.utime(file, ns=(1, 1))
        assert found(path)[0].digest != first.digest


def written(path: Path, name: str, data: bytes) -> Path:
    path.mkdir()
    (path / name).write_bytes(data)
    return path / name


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    'missing': (lambda p: p / 'nothing', 'nothing'),
    'empty folder': (made, 'input'),
    'text': (lambda p: written(p, 'a.txt', b'x'), 'a.txt'),
    'picture': (lambda p: written(p, 'a.png', png(0)), 'a.png'),
    'empty mcap': (lambda p: written(p, 'a.mcap', b''), 'a.mcap'),
    'no mcap': (lambda p: written(p, 'a.mcap', b'x' * 99), 'a.mcap'),
    'head only': (lambda p: written(p, 'a.mcap', b'\x89MCAP0\r\n'), 'a.mcap'),
    'no sqlite3': (lambda p: written(p, 'a.db3', b'x' * 99), 'a.db3'),
    'no message': (lambda p: rosbag2(p, count=0), 'input'),
}


@pytest.mark.parametrize('what', BAD)
def test_nothing_to_read_is_one_sentence(tmp_path: Path, what: str) -> None:
    make, expected = BAD[what]
    path = make(tmp_path / 'input')
    with pytest.raises(UncertaintySegError, match=expected) as caught:
        find_sources([path], [], [])
    assert str(caught.value).count('. ') == 0
