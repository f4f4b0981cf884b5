# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every format gives back the pixels it was given, and carries why a frame is there."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import tempfile
from xml.etree import ElementTree
import zipfile

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from label_sample import CLASSES, make_frame, messages_of, read_back, REASON
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.data.labels.bag import (
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    MASK_TOPIC,
    REASON_TOPIC,
    UNCERTAINTY_TOPIC,
)
from uncertainty_seg.data.labels.coco import FILE as COCO_FILE  # noqa: E402
from uncertainty_seg.data.labels.formats import (
    BAGS,
    READERS,
    WITH_SHAPES,
    write_export,
    WRITERS,
)
from uncertainty_seg.data.labels.frames import LabelFrame, read_table  # noqa: E402
from uncertainty_seg.data.labels.regions import INSTANCES, POLYGONS  # noqa: E402
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.storage.bags.reader import header_stamp_ns  # noqa: E402
from uncertainty_seg.storage.labelled_folder import ClassTable, load_folder  # noqa: E402
from uncertainty_seg.storage.review_record import mask_sha256  # noqa: E402

FACTS = ('key', 'dive', 'stamp_ns', 'reason', 'score')


@pytest.fixture
def frames() -> list[LabelFrame]:
    return [make_frame(0, (7, 9)), make_frame(1, (33, 20)),
            make_frame(2, (1, 1), 'dive 2', np.ones((1, 1), np.uint8))]


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 24), width=st.integers(1, 24), num_classes=st.integers(2, 200),
       seed=st.integers(0, 2**32 - 1), is_blocky=st.booleans())
def test_a_round_trip_keeps_every_pixel(
    height: int, width: int, num_classes: int, seed: int, is_blocky: bool
) -> None:
    rng = np.random.default_rng(seed)
    names = tuple(f'class {i}' for i in range(num_classes))
    palette = tuple((i, 255 - i, i // 2) for i in range(num_classes))
    classes = ClassTable(names, palette, 255)
    ids = np.array([*range(num_classes), 255], np.uint8)
    mask = rng.choice(ids, (height, width))
    if is_blocky:
        mask = mask[np.arange(height)[:, None] // 5, np.arange(width) // 5]
    frame = make_frame(seed % 1000, (height, width), mask=mask)
    with tempfile.TemporaryDirectory() as folder:
        for kind in READERS:
            out = Path(folder) / kind
            write_export(out, kind, [frame], classes)
            masks = read_back(out, kind)
            if (mask == 255).all():
                assert masks == {}
            else:
                np.testing.assert_array_equal(masks[frame.stem], mask, kind)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 30), width=st.integers(2, 30),
       is_blocky=st.booleans(), has_unknown=st.booleans())
def test_parts_and_polygons_come_back_pixel_by_pixel(
    seed: int, height: int, width: int, is_blocky: bool, has_unknown: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1, 2, *[255] * has_unknown], np.uint8)
    mask = rng.choice(ids, (height, width))
    if is_blocky:
        mask = mask[np.arange(height)[:, None] // 5, np.arange(width) // 5]
    mask[0, 0] = 1
    frame = make_frame(seed % 1000, (height, width), mask=mask)
    for kind in WITH_SHAPES:
        for shapes in (INSTANCES, POLYGONS):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / kind
                write_export(out, kind, [frame], CLASSES, shapes=shapes)
                found = read_back(out, kind)[frame.stem]
                row = read_table(out).rows[frame.stem]
                assert mask_sha256(found) == row.mask_sha256
                # What polygons surround they cover.
                is_known = mask != 255 if shapes == POLYGONS else np.full(mask.shape, True)
                np.testing.assert_array_equal(found[is_known], mask[is_known], kind)


def test_each_part_is_an_instance_and_a_polygon_that_other_readers_draw(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    mask = np.zeros((20, 30), np.uint8)
    mask[2:8, 3:9] = mask[10:15, 20:28] = 1
    mask[4, 5] = 2
    frame = make_frame(0, mask.shape, mask=mask)
    for shapes in (INSTANCES, POLYGONS):
        write_export(tmp_path / shapes, 'coco', [frame], CLASSES, shapes=shapes)
        coco = COCO(str(tmp_path / shapes / COCO_FILE))
        items = coco.loadAnns(coco.getAnnIds())
        assert sorted(item['category_id'] for item in items) == [1, 2, 2, 3]
        drawn = np.full(mask.shape, 255, np.uint8)
        for item in items:
            assert isinstance(item['segmentation'], list) == (shapes == POLYGONS)
            drawn[coco.annToMask(item).astype(bool)] = item['category_id'] - 1
        np.testing.assert_array_equal(drawn, mask)


@pytest.mark.parametrize('kind', READERS)
def test_images_are_the_bytes_that_came(
    kind: str, tmp_path: Path, frames: list[LabelFrame]
) -> None:
    write_export(tmp_path / 'out', kind, frames, CLASSES)
    table = read_table(tmp_path / 'out')
    assert table.classes == CLASSES
    assert list(table.rows) == [frame.stem for frame in frames]
    for frame in frames:
        row = table.rows[frame.stem]
        assert table.image_file(row) == frame.image_file
        assert (row.dive, row.reason, row.score) == (frame.dive, REASON, 1.25)


def test_coco_reads_by_its_own_reader(tmp_path: Path, frames: list[LabelFrame]) -> None:
    from pycocotools.coco import COCO

    write_export(tmp_path / 'out', 'coco', frames, CLASSES)
    coco = COCO(str(tmp_path / 'out' / COCO_FILE))
    assert [c['name'] for c in coco.loadCats(sorted(coco.getCatIds()))] == list(CLASSES.names)
    assert len(set(coco.getAnnIds())) == len(coco.dataset['annotations'])
    for frame, image in zip(frames, coco.loadImgs(coco.getImgIds()), strict=True):
        assert image['dive'] == frame.dive and image['reason'] == REASON
        assert image['stamp_ns'] == frame.stamp_ns and image['score'] == 1.25
        drawn = np.full(frame.mask.shape, 255, np.uint8)
        for item in coco.loadAnns(coco.getAnnIds(imgIds=image['id'])):
            pixels = coco.annToMask(item).astype(bool)
            drawn[pixels] = item['category_id'] - 1
            assert item['area'] == pixels.sum()
            left, top, width, height = item['bbox']
            rows, columns = np.nonzero(pixels)
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        np.testing.assert_array_equal(drawn, frame.mask)


def test_a_mask_of_cvat_is_runs_by_row_from_its_corner(tmp_path: Path) -> None:
    mask = np.full((5, 6), 255, np.uint8)
    mask[1:4, 2:5] = 1
    mask[2, 3] = 255
    write_export(tmp_path / 'out', 'cvat', [make_frame(0, (5, 6), mask=mask)], CLASSES)
    with zipfile.ZipFile(tmp_path / 'out' / 'cvat.zip') as archive:
        root = ElementTree.fromstring(archive.read('annotations.xml'))
    shape = root.find('image/mask')
    assert shape is not None
    assert shape.attrib['rle'] == '0, 4, 1, 4'
    assert [shape.attrib[key] for key in ('left', 'top', 'width', 'height')] == list('2133')
    texts = {item.get('name'): item.text for item in root.iterfind('image/tag/attribute')}
    assert texts == {'dive': 'dive.1', 'reason': REASON, 'score': '1.25', 'reviewed': 'false'}
    raw = json.loads((tmp_path / 'out' / 'labels.json').read_text())
    declared = [label.findtext('name') for label in root.iterfind('meta/task/labels/label')]
    assert [label['name'] for label in raw] == declared == [*CLASSES.names, 'uncertainty_seg']


def test_a_mask_of_labelme_is_a_box_whose_last_pixels_belong_to_it(tmp_path: Path) -> None:
    mask = np.full((5, 6), 255, np.uint8)
    mask[1:4, 2:5] = 1
    frame = make_frame(0, (5, 6), mask=mask)
    write_export(tmp_path / 'out', 'labelme', [frame], CLASSES)
    file = json.loads((tmp_path / 'out' / 'images' / f'{frame.stem}.json').read_text())
    (shape,) = file['shapes']
    assert (shape['label'], shape['shape_type']) == ('pipe', 'mask')
    assert shape['points'] == [[2, 1], [4, 3]]
    assert (file['imagePath'], file['imageData']) == (frame.file_name, None)


@pytest.mark.parametrize('kind', ['label-studio', 'labelme', 'fiftyone'])
def test_the_reason_goes_along(kind: str, tmp_path: Path, frames: list[LabelFrame]) -> None:
    write_export(tmp_path / 'out', kind, frames[:1], CLASSES)
    file, keys = {
        'label-studio': ('tasks.json', (0, 'data')),
        'labelme': (f'images/{frames[0].stem}.json', ()),
        'fiftyone': ('samples.json', ('samples', 0)),
    }[kind]
    facts = json.loads((tmp_path / 'out' / file).read_text())
    for key in keys:
        facts = facts[key]
    assert {key: facts[key] for key in FACTS} == {
        'key': 'key 0', 'dive': 'dive.1', 'stamp_ns': frames[0].stamp_ns, 'reason': REASON,
        'score': 1.25}


def test_tasks_carry_their_images_or_where_they_are(
    tmp_path: Path, frames: list[LabelFrame]
) -> None:
    write_export(tmp_path / 'inside', 'label-studio', frames, CLASSES)
    write_export(tmp_path / 'served', 'label-studio', frames, CLASSES, '/data/?d=dive/')
    inside, served = (json.loads((tmp_path / name / 'tasks.json').read_text())
                      for name in ('inside', 'served'))
    assert inside[1]['data']['image'].startswith('data:image/jpeg;base64,')
    assert served[1]['data']['image'] == f'/data/?d=dive/{frames[1].file_name}'
    config = ElementTree.parse(tmp_path / 'inside' / 'config.xml').getroot()
    labels = [(item.get('value'), item.get('background')) for item in config.iter('Label')]
    assert labels == list(zip(CLASSES.names, ('#000000', '#ff0000', '#00c864'), strict=True))


def test_tasks_that_are_too_much_for_one_upload_are_parts(
    tmp_path: Path, frames: list[LabelFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / 'one', 'label-studio', frames, CLASSES)
    whole = json.loads((tmp_path / 'one' / 'tasks.json').read_text())
    lengths = [len(json.dumps(task)) for task in whole]
    monkeypatch.setattr('uncertainty_seg.data.labels.label_studio.PART_CHARACTERS',
                        lengths[1] + lengths[2] + 10)
    order = [frames[1], frames[2], frames[0]]
    write_export(tmp_path / 'parts', 'label-studio', order, CLASSES)
    parts = [json.loads((tmp_path / 'parts' / name).read_text())
             for name in ('tasks.json', 'tasks_2.json')]
    assert parts == [[whole[1], whole[2]], [whole[0]]]
    assert not (tmp_path / 'parts' / 'tasks_3.json').exists()


def test_a_folder_is_what_training_reads_once_it_is_no_export(
    tmp_path: Path, frames: list[LabelFrame]
) -> None:
    write_export(tmp_path / 'out', 'folder', frames, CLASSES)
    with pytest.raises(DatasetError, match='out is an export for labelling.* import-labels'):
        load_folder(tmp_path / 'out', 'train')
    (tmp_path / 'out' / 'frames.json').unlink()
    for frame in frames:  # as a program writes them that keeps no texts
        file = tmp_path / 'out' / 'masks' / f'{frame.stem}.png'
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    data = load_folder(tmp_path / 'out', 'train')
    by_stem = dict(zip(data.stems, data.masks, strict=True))
    assert (data.class_names, data.palette) == (CLASSES.names, CLASSES.palette)
    for frame in frames:
        np.testing.assert_array_equal(by_stem[frame.stem], frame.mask)


def test_yolo_has_a_polygon_for_each_part_in_shares_of_the_image(
    tmp_path: Path, frames: list[LabelFrame]
) -> None:
    from pycocotools import mask as coco_mask

    frames[0] = replace(frames[0], mask=np.full((7, 9), 255, np.uint8))  # nothing to label
    write_export(tmp_path / 'out', 'yolo', frames, CLASSES)
    yaml = pytest.importorskip('yaml')
    about = yaml.safe_load((tmp_path / 'out' / 'data.yaml').read_text())
    assert about == {'train': 'images', 'val': 'images', 'names': dict(enumerate(CLASSES.names))}
    for frame in frames:
        assert (tmp_path / 'out' / 'images' / frame.file_name).read_bytes() == frame.image_file
        drawn = np.full(frame.mask.shape, 255, np.uint8)
        for line in (tmp_path / 'out' / 'labels' / f'{frame.stem}.txt').read_text().splitlines():
            class_id, *shares = line.split()
            corners = np.array(shares, float).reshape(-1, 2)
            assert len(corners) >= 3 and corners.min() >= 0 and corners.max() <= 1
            flat = (corners * (frame.width, frame.height)).ravel().tolist()
            (part,) = coco_mask.frPyObjects([flat], *frame.mask.shape)
            drawn[coco_mask.decode(part).astype(bool)] = int(class_id)
        is_known = frame.mask != 255
        np.testing.assert_array_equal(drawn[is_known], frame.mask[is_known])


def test_voc_has_indices_with_the_colours_of_the_classes(
    tmp_path: Path, frames: list[LabelFrame]
) -> None:
    Image = pytest.importorskip('PIL.Image')
    write_export(tmp_path / 'out', 'voc', frames, CLASSES)
    listed = (tmp_path / 'out' / 'ImageSets' / 'Segmentation' / 'default.txt').read_text()
    assert listed.split('\n') == [*(frame.stem for frame in frames), '']
    for frame in frames:
        with Image.open(tmp_path / 'out' / 'SegmentationClass' / f'{frame.stem}.png') as picture:
            assert picture.mode == 'P'
            np.testing.assert_array_equal(np.asarray(picture), frame.mask)
            colors = np.asarray(picture.convert('RGB'))
        for index, rgb in enumerate(CLASSES.palette):
            assert (colors[frame.mask == index] == rgb).all()
        assert (tmp_path / 'out' / 'JPEGImages' / frame.file_name).read_bytes() == \
            frame.image_file


@pytest.mark.parametrize('kind', BAGS)
def test_a_bag_has_the_stamps_and_the_bytes(
    kind: str, tmp_path: Path, frames: list[LabelFrame]
) -> None:
    frames[2] = replace(frames[2], dive='dive.1')
    write_export(tmp_path / 'out', kind, frames, CLASSES)
    found = messages_of(tmp_path / 'out')
    stamps = [frame.stamp_ns for frame in frames]
    for topic in (MASK_TOPIC, UNCERTAINTY_TOPIC, REASON_TOPIC):
        assert [header_stamp_ns(message) for message in found[topic]] == stamps
    for frame, mask, values in zip(frames, found[MASK_TOPIC], found[UNCERTAINTY_TOPIC],
                                   strict=True):
        np.testing.assert_array_equal(mask.data.reshape(frame.mask.shape), frame.mask)
        assert bytes(values.data) == np.asarray(frame.uncertainty, '<f4').tobytes()
    (compressed,) = found[COMPRESSED_TOPIC]
    assert bytes(compressed.data) == frames[1].image_file
    assert header_stamp_ns(compressed) == stamps[1]
    assert [header_stamp_ns(message) for message in found[IMAGE_TOPIC]] == stamps[::2]
    pixels = cv2.imdecode(np.frombuffer(frames[0].image_file, np.uint8), cv2.IMREAD_COLOR)
    assert bytes(found[IMAGE_TOPIC][0].data) == np.asarray(pixels).tobytes()
    (status,) = found[REASON_TOPIC][2].status
    assert status.message == REASON
    assert {'dive': 'dive.1', 'class.1': 'pipe'}.items() <= {
        item.key: item.value for item in status.values}.items()


@pytest.mark.parametrize('kind', BAGS)
def test_dives_and_cameras_of_equal_stamps_are_kept_apart(kind: str, tmp_path: Path) -> None:
    wanted: dict[tuple[str, str], LabelFrame] = {}
    for dive, place in (('a b', 'a_b'), ('a_b', 'a_b_2'), ('frames.json', 'frames.json_2'),
                        ('bag', 'bag')):
        for camera in ('front', 'down'):
            frame = make_frame(len(wanted), (5, 6), dive)
            wanted[place, camera] = replace(frame, stem=str(len(wanted)), stamp_ns=7,
                                            camera=camera, frame_id=f'{camera}_frame')
    write_export(tmp_path / 'out', kind, wanted.values(), CLASSES)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'frames.json', *(place for place, _ in wanted)}
    rows = read_table(tmp_path / 'out').rows
    for (place, camera), frame in wanted.items():
        found = messages_of(tmp_path / 'out' / place)
        (mask,) = found[f'/uncertainty_seg/{camera}/mask']
        np.testing.assert_array_equal(mask.data.reshape(frame.mask.shape), frame.mask)
        ending = '/compressed' if frame.ending == '.jpg' else ''
        (image,) = found[f'/{camera}/image_raw{ending}']
        pixels = bytes(image.data) if ending else image.data.reshape(frame.image().shape)
        np.testing.assert_array_equal(pixels, frame.image_file if ending else frame.image())
        assert image.header.frame_id == mask.header.frame_id == f'{camera}_frame'
        for name in ('uncertainty', 'kept'):
            assert len(found[f'/uncertainty_seg/{camera}/{name}']) == 1
        assert rows[frame.stem].camera == camera


def test_a_dive_that_is_interrupted_is_no_bag(tmp_path: Path) -> None:
    frames = [make_frame(0, (4, 4)), make_frame(1, (4, 4), 'other'), make_frame(2, (4, 4))]
    with pytest.raises(DatasetError, match='dive by dive'):
        write_export(tmp_path / 'out', 'mcap', frames, CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kind', WRITERS)
def test_nothing_is_left_of_an_export_that_fails(kind: str, tmp_path: Path) -> None:
    twice = [make_frame(0, (4, 4)), make_frame(0, (4, 4))]
    with pytest.raises(DatasetError, match="two frames are called 'dive.1_0000.raw'"):
        write_export(tmp_path / 'out', kind, twice, CLASSES)
    with pytest.raises(DatasetError, match='no frame to export'):
        write_export(tmp_path / 'out', kind, [], CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('x')
    with pytest.raises(DatasetError, match='not empty'):
        write_export(tmp_path / 'out', 'folder', [make_frame(0, (4, 4))], CLASSES)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']
