# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What comes back from a tool: painted over, drawn anew, misnamed, of another size, damaged."""

from __future__ import annotations

import base64
from collections.abc import Callable
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
import zipfile
import zlib

import cv2
from label_sample import ACCEPT, CLASSES, labels_of, make_frame, read_back
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.core.arrays import LabelMap  # noqa: E402
from uncertainty_seg.data.labels.coco import FILE as COCO_FILE  # noqa: E402
from uncertainty_seg.data.labels.formats import (
    find_table,
    new_folder,
    READERS,
    write_export,
)
from uncertainty_seg.data.labels.frames import LabelFrame, read_table  # noqa: E402
from uncertainty_seg.data.labels.label_studio import encode_brush  # noqa: E402
from uncertainty_seg.data.labels.training import write_training_folder  # noqa: E402
from uncertainty_seg.errors import ConfigError, DatasetError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402

HEIGHT, WIDTH = 8, 10
SEABED, PIPE, DIVER = CLASSES.names
# A change of the labels of the first frame, whatever the format.
Edit = Callable[[Path], None]


def json_edit(name: str, change: Callable[[Any], None]) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))
    return edit


def xml_edit(change: Callable[[ElementTree.Element], None]) -> Edit:
    def edit(folder: Path) -> None:
        with zipfile.ZipFile(folder / 'cvat.zip') as archive:
            root = ElementTree.fromstring(archive.read('annotations.xml'))
        change(root)
        # As CVAT gives it back when no images are asked for.
        ElementTree.ElementTree(root).write(folder / 'annotations.xml')
    return edit


def add_shape(root: ElementTree.Element, tag: str, **values: str) -> None:
    image = root.find('image')
    assert image is not None
    ElementTree.SubElement(image, tag, {'occluded': '0', **values})


@pytest.fixture
def frame() -> LabelFrame:
    return make_frame(0, (HEIGHT, WIDTH), mask=np.zeros((HEIGHT, WIDTH), np.uint8))


def edited(folder: Path, kind: str, frame: LabelFrame, edit: Edit) -> LabelMap:
    write_export(folder, kind, [frame], CLASSES)
    edit(folder)
    return read_back(folder, kind)[frame.stem]


# x from 2 to 5, y from 1 to 4 in a tool's coordinates: pixels 2..4 and 1..3.
DRAWN = {
    'coco': json_edit(COCO_FILE, lambda c: c['annotations'].append(
        {'id': 99, 'image_id': 1, 'category_id': 2, 'iscrowd': 0, 'area': 9,
         'bbox': [2, 1, 3, 3], 'segmentation': [[2, 1, 5, 1, 5, 4, 2, 4]]})),
    'cvat polygon': xml_edit(lambda r: add_shape(
        r, 'polygon', label=PIPE, points='2.0,1.0;5.0,1.0;5.0,4.0;2.0,4.0', z_order='0')),
    'cvat box': xml_edit(lambda r: add_shape(
        r, 'box', label=PIPE, xtl='2.0', ytl='1.0', xbr='5.0', ybr='4.0', z_order='1')),
    'labelme polygon': json_edit('images/dive.1_0000.raw.json', lambda c: c['shapes'].append(
        {'label': PIPE, 'points': [[2, 1], [5, 1], [5, 4], [2, 4]], 'shape_type': 'polygon'})),
    'labelme rectangle': json_edit('images/dive.1_0000.raw.json', lambda c: c['shapes'].append(
        {'label': PIPE, 'points': [[5, 4], [2, 1]], 'shape_type': 'rectangle'})),
    'coco counts': json_edit(COCO_FILE, lambda c: c['annotations'].append(
        {'id': 99, 'image_id': 1, 'category_id': 2, 'iscrowd': 1, 'area': 9,
         'segmentation': {'size': [HEIGHT, WIDTH],
                          'counts': [2 * HEIGHT + 1, 3, 5, 3, 5, 3, 5 * HEIGHT + 4]}})),
}


@pytest.mark.parametrize('case', DRAWN)
def test_what_is_drawn_anew_lies_on_top(case: str, frame: LabelFrame, tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:4, 2:5] = 1
    mask = edited(tmp_path / 'out', case.split()[0], frame, DRAWN[case])
    np.testing.assert_array_equal(mask, expected)


def test_the_z_order_of_cvat_comes_before_the_order_in_the_file(
    frame: LabelFrame, tmp_path: Path
) -> None:
    def change(root: ElementTree.Element) -> None:
        for label, order in ((DIVER, '5'), (PIPE, '2')):
            add_shape(root, 'box', label=label, xtl='0', ytl='0', xbr='3', ybr='3', z_order=order)
    mask = edited(tmp_path / 'out', 'cvat', frame, xml_edit(change))
    assert (mask[:3, :3] == 2).all() and (mask[3:] == 0).all()


def test_the_newest_annotation_that_was_not_cancelled_counts(
    frame: LabelFrame, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'label-studio', [frame], CLASSES)
    task = json.loads((tmp_path / 'out' / 'tasks.json').read_text())[0]

    def annotation(name: str, when: str, **more: Any) -> dict[str, Any]:
        region = {**task['predictions'][0]['result'][0]}
        region['value'] = {'format': 'rle', 'brushlabels': [name],
                           'rle': encode_brush(np.ones((HEIGHT, WIDTH), bool))}
        return {'id': 1, 'updated_at': when, 'result': [region], **more}

    task['annotations'] = [annotation(PIPE, '2026-01-02T00:00:00Z'),
                           annotation(SEABED, '2026-01-01T00:00:00Z'),
                           annotation(DIVER, '2026-01-03T00:00:00Z', was_cancelled=True)]
    unlabelled = {**task, 'annotations': []}
    file = tmp_path / 'export.json'
    file.write_text(json.dumps([task, unlabelled]))
    table = read_table(tmp_path / 'out')
    (one,) = READERS['label-studio'](file, table)
    assert one.stem == frame.stem and (one.mask == 1).all()


RENAMED = {
    'coco': json_edit(COCO_FILE, lambda c: c['categories'][0].update(name='squid')),
    'cvat': xml_edit(lambda r: r.find('image/mask').set('label', 'squid')),  # type: ignore
    'label-studio': json_edit('tasks.json', lambda c: c[0]['predictions'][0]['result'][0][
        'value'].update(brushlabels=['squid'])),
    'labelme': json_edit('images/dive.1_0000.raw.json',
                         lambda c: c['shapes'][0].update(label='squid')),
}


@pytest.mark.parametrize('kind', RENAMED)
def test_an_unknown_class_is_answered_with_those_there_are(
    kind: str, frame: LabelFrame, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=f"class 'squid', expected one of {SEABED}, {PIPE}"):
        edited(tmp_path / 'out', kind, frame, RENAMED[kind])


def resized_mask(folder: Path) -> None:
    file = folder / 'masks' / 'dive.1_0000.raw.png'
    cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH + 1), np.uint8))


def cut_mask(folder: Path) -> None:
    file = folder / 'masks' / 'dive.1_0000.raw.png'
    cv2.imwrite(str(file), np.zeros((HEIGHT - 1, WIDTH), np.uint8))


def resized_crop(content: Any) -> None:
    _, png = cv2.imencode('.png', np.ones((HEIGHT, WIDTH + 1), np.uint8))
    content['shapes'][0]['mask'] = base64.b64encode(png.tobytes()).decode()


def packed(mask: LabelMap) -> dict[str, Any]:
    data = io.BytesIO()
    np.save(data, mask)
    text = base64.b64encode(zlib.compress(data.getvalue())).decode()
    return {'_cls': 'Segmentation', 'mask': {'$binary': {'base64': text}}}


RESIZED = {
    'coco': json_edit(COCO_FILE, lambda c: c['images'][0].update(width=WIDTH + 1)),
    'coco counts': json_edit(COCO_FILE, lambda c: c['annotations'][0].update(
        segmentation={'size': [HEIGHT, WIDTH + 1], 'counts': [0, HEIGHT * (WIDTH + 1)]})),
    'cvat': xml_edit(lambda r: r.find('image').set('width', str(WIDTH + 1))),  # type: ignore
    'label-studio': json_edit('tasks.json', lambda c: c[0]['predictions'][0]['result'][0].update(
        original_width=WIDTH + 1)),
    'labelme': json_edit('images/dive.1_0000.raw.json',
                         lambda c: c.update(imageWidth=WIDTH + 1)),
    'labelme crop': json_edit('images/dive.1_0000.raw.json', resized_crop),
    'folder': resized_mask,
    'fiftyone': json_edit('samples.json', lambda c: c['samples'][0].update(
        ground_truth=packed(np.zeros((HEIGHT, WIDTH + 1), np.uint8)))),
    'folder cut': cut_mask,
}


@pytest.mark.parametrize('case', RESIZED)
def test_labels_of_another_size_are_one_sentence(
    case: str, frame: LabelFrame, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=f'{frame.file_name}.* (11x8|10x7).*10x8'):
        edited(tmp_path / 'out', case.split()[0], frame, RESIZED[case])


DAMAGED = {
    'coco counts': json_edit(COCO_FILE, lambda c: c['annotations'][0].update(
        segmentation={'size': [HEIGHT, WIDTH], 'counts': [0, 9]})),
    'coco text': json_edit(COCO_FILE, lambda c: c['annotations'][0].update(
        segmentation={'size': [HEIGHT, WIDTH], 'counts': '~~'})),
    'coco': json_edit(COCO_FILE, lambda c: c.pop('categories')),
    'cvat': xml_edit(lambda r: r.find('image/mask').set('rle', '1, 2')),  # type: ignore
    'cvat kind': xml_edit(lambda r: add_shape(r, 'skeleton', label=PIPE)),
    'label-studio': json_edit('tasks.json', lambda c: c[0]['predictions'][0]['result'][0][
        'value'].update(rle=[0, 0, 1, 64, 57])),
    'label-studio kind': json_edit('tasks.json', lambda c: c[0]['predictions'][0]['result'][
        0].update(type='rectanglelabels')),
    'labelme': json_edit('images/dive.1_0000.raw.json',
                         lambda c: c['shapes'][0].update(mask='AAAA')),
    'labelme kind': json_edit('images/dive.1_0000.raw.json',
                              lambda c: c['shapes'][0].update(shape_type='circle')),
    'fiftyone': json_edit('samples.json', lambda c: c['samples'][0].pop('filepath')),
    'fiftyone path': json_edit('samples.json', lambda c: c['samples'][0]['prediction'].update(
        mask_path='/etc/..')),
    'fiftyone packed': json_edit('samples.json', lambda c: c['samples'][0]['prediction'].update(
        mask={'$binary': {'base64': 'eJwDAAAAAAE='}})),
    'fiftyone bomb': json_edit('samples.json', lambda c: c['samples'][0]['prediction'].update(
        mask={'$binary': {'base64': base64.b64encode(zlib.compress(bytes(10**8))).decode()}})),
    'fiftyone classes': json_edit('metadata.json', lambda c: c['info']['default_mask_targets']
                                  .update({'1': 'cable'})),
    'folder': lambda folder: (folder / 'masks' / 'dive.1_0000.raw.png').write_bytes(b'x'),
    'folder stranger': lambda folder: (folder / 'masks' / 'other.png').write_bytes(
        cv2.imencode('.png', np.zeros((2, 2), np.uint8))[1].tobytes()),
    'folder id': lambda folder: cv2.imwrite(str(folder / 'masks' / 'dive.1_0000.raw.png'),
                                            np.full((HEIGHT, WIDTH), 3, np.uint8)),
}


@pytest.mark.parametrize('case', DAMAGED)
def test_damaged_labels_are_one_sentence(case: str, frame: LabelFrame, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        edited(tmp_path / 'out', case.split()[0], frame, DAMAGED[case])
    assert str(caught.value).endswith('.') and '\n' not in str(caught.value)


@pytest.mark.parametrize('kind, name, content', [
    ('label-studio', 'min.json', '[{"id": 1, "image": "x.png", "mask": []}]'),
    ('label-studio', 'csv.json', 'id,image'),
    ('coco', 'list.json', '[1]'),
    ('cvat', 'video.xml', '<annotations><track id="0" label="pipe"/></annotations>'),
    ('cvat', 'cut.xml', '<annotations><image'),
])
def test_another_export_of_the_tool_is_one_sentence(
    kind: str, name: str, content: str, frame: LabelFrame, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'folder', [frame], CLASSES)
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=name):
        list(READERS[kind](tmp_path / name, read_table(tmp_path / 'out')))


@pytest.mark.parametrize('kind', READERS)
def test_what_is_no_export_is_one_sentence(
    kind: str, frame: LabelFrame, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'folder', [frame], CLASSES)
    table = read_table(tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError):
        list(READERS[kind](tmp_path / 'empty', table))
    with pytest.raises(DatasetError, match=r'no frames.json|empty has no'):
        read_table(find_table(tmp_path / 'empty', tmp_path / 'empty'))


def three_dives() -> list[LabelFrame]:
    return [make_frame(i, (4, 6), f'dive {i % 3}') for i in range(9)]


def test_a_training_folder_keeps_dives_apart_and_counts(tmp_path: Path) -> None:
    frames = three_dives()
    write_export(tmp_path / 'out', 'coco', frames, CLASSES)
    json_edit(COCO_FILE, lambda c: c.update(
        annotations=[a for a in c['annotations'] if a['image_id'] != 4]))(tmp_path / 'out')
    table = read_table(tmp_path / 'out')
    with new_folder(tmp_path / 'train') as work:
        done = write_training_folder(work, table, labels_of(tmp_path / 'out', 'coco'),
                                     {'train': 0.6, 'val': 0.4}, 0, ACCEPT)
    # Dive 0 has lost frame 3: 2, 3 and 3 frames, of which 3 are nearest to 40 %.
    assert (done.frames, done.unlabelled, done.dives) == (8, 1, 3)
    assert done.splits == {'train': 5, 'val': 3}
    dive_of = json.loads((tmp_path / 'train' / 'blocks.json').read_text())
    by_stem = {frame.stem: frame for frame in frames}
    dives = {}
    for split in ('train', 'val'):
        data = load_folder(tmp_path / 'train', split)
        dives[split] = {dive_of[stem] for stem in data.stems}
        for stem, mask in zip(data.stems, data.masks, strict=True):
            np.testing.assert_array_equal(mask, by_stem[stem].mask)
    assert not dives['train'] & dives['val']


@pytest.mark.parametrize('shares', [{}, {'train': 0.5}, {'train': 1.2, 'val': -0.2}])
def test_shares_that_are_none_are_refused_before_the_work(
    shares: dict[str, float], tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'folder', three_dives(), CLASSES)
    with pytest.raises(ConfigError, match='add up to 1'):
        write_training_folder(tmp_path, read_table(tmp_path / 'out'), iter(()), shares, 0)


@pytest.mark.parametrize('change, word', [
    (lambda c: c.update(version=9), 'of another version'),
    (lambda c: c['frames'][0].pop('dive'), 'is damaged'),
    (lambda c: c['classes'].append(c['classes'][0]), 'ids'),
])
def test_a_damaged_table_is_one_sentence(
    change: Callable[[Any], None], word: str, frame: LabelFrame, tmp_path: Path
) -> None:
    write_export(tmp_path / 'out', 'folder', [frame], CLASSES)
    json_edit('frames.json', change)(tmp_path / 'out')
    with pytest.raises(DatasetError, match=word):
        read_table(tmp_path / 'out')


def test_an_image_that_was_changed_since_is_refused(frame: LabelFrame, tmp_path: Path) -> None:
    write_export(tmp_path / 'out', 'folder', [frame], CLASSES)
    cv2.imwrite(str(tmp_path / 'out' / 'images' / frame.file_name), np.zeros((9, 9, 3), np.uint8))
    table = read_table(tmp_path / 'out')
    (tmp_path / 'train').mkdir()
    labels = labels_of(tmp_path / 'out', 'folder')
    with pytest.raises(DatasetError, match='is 9x9, expected 10x8, as it was sent'):
        write_training_folder(tmp_path / 'train', table, labels, {'train': 1.0}, 0)
