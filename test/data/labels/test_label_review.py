# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Labels that nobody corrected: counted, refused, marked by the tool, or confirmed by the user."""

from __future__ import annotations

import base64
from collections.abc import Callable
import io
import json
from pathlib import Path
import re
from typing import Any
from xml.etree import ElementTree
import zipfile
import zlib

import cv2
from label_sample import CLASSES, corrected, make_frame
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import LabelMap  # noqa: E402
from uncertainty_seg.data.labels.coco import FILE as COCO_FILE  # noqa: E402
from uncertainty_seg.data.labels.formats import READERS, write_export  # noqa: E402
from uncertainty_seg.data.labels.frames import LabelFrame  # noqa: E402
from uncertainty_seg.data.labels.label_studio import encode_brush  # noqa: E402
from uncertainty_seg.data.labels.review import is_redrawn  # noqa: E402
from uncertainty_seg.errors import DatasetError  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402
from uncertainty_seg.storage.review_record import (
    mask_sha256,  # noqa: E402
    read_review,  # noqa: E402
)

HEIGHT, WIDTH = 60, 80
SEABED, PIPE, DIVER = CLASSES.names


def scene(shift: int = 0) -> LabelMap:
    """Return a seabed with a pipe across it, on which a diver stands."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[25:35] = 1
    cv2.circle(mask, (30 + shift, 28), 9, 2, cv2.FILLED)
    return mask


@pytest.fixture
def frames() -> list[LabelFrame]:
    return [make_frame(i, (HEIGHT, WIDTH), f'dive {i % 2}', scene(i)) for i in range(4)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def bring(labels: Path, *words: object) -> int:
    """Import labels beside the export `out` into `train`."""
    out, train = labels.parent / 'out', labels.parent / 'train'
    return main([str(word) for word in ('import-labels', labels, train, '--frames', out, *words)])


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def whole_image() -> dict[str, Any]:
    """Return the run lengths of COCO of all pixels."""
    from pycocotools import mask as coco_mask

    packed = coco_mask.encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8)))
    return {'size': packed['size'], 'counts': packed['counts'].decode()}


# What a labeller does to the frame of a stem, in each tool: label all of it as the pipe.


def paint_coco(out: Path, stem: str) -> None:
    def change(content: Any) -> None:
        (image,) = (i for i in content['images'] if stem in i['file_name'])
        content['annotations'].append({
            'id': 999, 'image_id': image['id'], 'category_id': 2, 'iscrowd': 0, 'area': 1,
            'bbox': [0, 0, 1, 1], 'segmentation': whole_image()})
    edit_json(out / COCO_FILE, change)


def edit_cvat(out: Path, stem: str, change: Callable[[ElementTree.Element], object]) -> None:
    if not (out / 'annotations.xml').is_file():
        with zipfile.ZipFile(out / 'cvat.zip') as archive:
            (out / 'annotations.xml').write_bytes(archive.read('annotations.xml'))
    tree = ElementTree.parse(out / 'annotations.xml')
    (image,) = (i for i in tree.iter('image') if stem in i.get('name', ''))
    change(image)
    tree.write(out / 'annotations.xml')


def paint_cvat(out: Path, stem: str) -> None:
    edit_cvat(out, stem, lambda image: ElementTree.SubElement(
        image, 'mask', label=PIPE, left='0', top='0', width=str(WIDTH), height=str(HEIGHT),
        rle=f'0, {HEIGHT * WIDTH}', z_order='1'))


def paint_labelme(out: Path, stem: str) -> None:
    edit_json(out / 'images' / f'{stem}.json', lambda content: content['shapes'].append(
        {'label': PIPE, 'shape_type': 'rectangle', 'points': [[0, 0], [WIDTH, HEIGHT]]}))


def paint_folder(out: Path, stem: str) -> None:
    cv2.imwrite(str(out / 'masks' / f'{stem}.png'), np.ones((HEIGHT, WIDTH), np.uint8))


def edit_task(out: Path, stem: str, change: Callable[[Any], object]) -> None:
    def edit(tasks: Any) -> None:
        (task,) = (t for t in tasks if t['data']['frame'] == stem)
        change(task['annotations'][0])
    edit_json(out / 'export.json', edit)


def paint_label_studio(out: Path, stem: str) -> None:
    def change(annotation: Any) -> None:
        annotation['result'] = [dict(annotation['result'][0], value={
            'format': 'rle', 'brushlabels': [PIPE],
            'rle': encode_brush(np.ones((HEIGHT, WIDTH), bool))})]
    edit_task(out, stem, change)


def edit_sample(out: Path, stem: str, change: Callable[[Any], object]) -> None:
    def edit(content: Any) -> None:
        (sample,) = (s for s in content['samples'] if stem in s['filepath'])
        change(sample)
    edit_json(out / 'samples.json', edit)


def packed(mask: Any) -> dict[str, Any]:
    """Return a mask as FiftyOne stores one that Python set: fiftyone.core.utils."""
    data = io.BytesIO()
    np.save(data, mask)
    text = base64.b64encode(zlib.compress(data.getvalue())).decode()
    return {'_cls': 'Segmentation', 'mask': {'$binary': {'base64': text, 'subType': '00'}}}


def paint_fiftyone(out: Path, stem: str) -> None:
    edit_sample(out, stem, lambda sample: sample.update(
        ground_truth=packed(np.ones((HEIGHT, WIDTH), np.int64))))


PAINT = {'coco': paint_coco, 'cvat': paint_cvat, 'labelme': paint_labelme,
         'folder': paint_folder, 'label-studio': paint_label_studio, 'fiftyone': paint_fiftyone}


# How a labeller marks the frame of a stem as finished without changing its mask.


def mark_coco(out: Path, stem: str) -> None:
    edit_json(out / COCO_FILE, lambda content: [
        image.update(reviewed=True) for image in content['images'] if stem in image['file_name']])


def mark_cvat(out: Path, stem: str) -> None:
    def tick(image: ElementTree.Element) -> None:
        (attribute,) = (a for a in image.iterfind('tag/attribute') if a.get('name') == 'reviewed')
        attribute.text = 'true'
    edit_cvat(out, stem, tick)


def mark_labelme(out: Path, stem: str) -> None:
    edit_json(out / 'images' / f'{stem}.json',
              lambda content: content['flags'].update(reviewed=True))


def submit(out: Path, stem: str) -> None:
    edit_task(out, stem, lambda annotation: annotation.update(lead_time=4.2, completed_by=3))


def mark_fiftyone(out: Path, stem: str) -> None:
    edit_sample(out, stem, lambda sample: sample['tags'].append('reviewed'))


MARK = {'coco': mark_coco, 'cvat': mark_cvat, 'labelme': mark_labelme, 'label-studio': submit,
        'fiftyone': mark_fiftyone}


@pytest.mark.parametrize('kind', READERS)
def test_what_came_back_as_it_went_is_counted_and_refused(
    kind: str, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, kind, frames, CLASSES)
    labels = corrected(out, kind)
    PAINT[kind](out, frames[1].stem)
    place = labels if labels != out else out
    assert main(['import-labels', str(place), str(out.parent / 'train'), '--format', kind]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '3 of 4 masks came back as they were exported' in line
    assert 'limits fitted on it promise too much' in line
    assert '--accept-unchanged' in line and '--skip-unchanged' in line
    assert not (out.parent / 'train').exists()


@pytest.mark.parametrize('kind', READERS)
def test_corrected_marked_and_left_out(
    kind: str, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, kind, frames, CLASSES)
    labels = corrected(out, kind)
    PAINT[kind](out, frames[1].stem)
    if kind in MARK:
        MARK[kind](out, frames[2].stem)
    train = out.parent / 'train'
    assert main(['import-labels', str(labels), str(train), '--format', kind, '--shares',
                 'all=1', '--skip-unchanged']) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = [frames[1].stem, *([frames[2].stem] if kind in MARK else [])]
    data = load_folder(train, 'all')
    masks = dict(zip(data.stems, data.masks, strict=True))
    assert set(masks) == set(wanted) and said['skipped'] == 4 - len(wanted)
    assert (masks[frames[1].stem] == 1).all()
    for name in ('images', 'masks'):
        assert sorted(path.stem for path in (train / name).iterdir()) == sorted(wanted)
    reviews = read_review(train)
    assert reviews is not None and set(reviews) == set(wanted)
    assert reviews[frames[1].stem].evidence == 'corrected'
    if kind in MARK:
        np.testing.assert_array_equal(masks[frames[2].stem], scene(2))
        assert reviews[frames[2].stem].evidence.endswith({
            'coco': 'in COCO', 'cvat': 'in CVAT', 'labelme': 'in LabelMe',
            'label-studio': 'submitted in Label Studio', 'fiftyone': 'in FiftyOne'}[kind])


def test_the_user_may_say_that_somebody_looked_and_the_record_says_so(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames[0] = LabelFrame(**{**vars(frames[0]), 'origin': 'control'})
    write_export(out, 'folder', frames, CLASSES)
    assert bring(out, '--format', 'folder', '--accept-unchanged') == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said['reviewed'], said['control'], said['skipped']) == ({'accepted unchanged': 4}, 1,
                                                                    0)
    reviews = read_review(out.parent / 'train')
    assert reviews is not None
    first = reviews[frames[0].stem]
    assert (first.reviewed, first.evidence, first.origin) == (True, 'accepted unchanged',
                                                              'control')
    assert (first.dive, first.frame, first.score) == ('dive 0', 'key 0', 1.25)
    assert first.reason == frames[0].reason and reviews[frames[1].stem].origin == 'selected'


@pytest.mark.parametrize('is_old', [False, True])
def test_a_dive_with_the_name_of_the_mark_marks_nothing_in_fiftyone(
    is_old: bool, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [make_frame(i, (HEIGHT, WIDTH), 'reviewed', scene(i)) for i in range(2)]
    write_export(out, 'fiftyone', frames, CLASSES)
    if is_old:
        edit_json(out / 'samples.json',
                  lambda c: [sample.update(tags=['reviewed']) for sample in c['samples']])
    assert bring(out, '--format', 'fiftyone') == 2
    assert '2 of 2 masks came back as they were exported' in capsys.readouterr().err
    if not is_old:
        for frame in frames:
            mark_fiftyone(out, frame.stem)
        assert bring(out, '--format', 'fiftyone') == 0


@pytest.mark.parametrize('num_painted, num_control', [(1, 0), (2, 2)])
def test_controls_of_which_the_right_ones_are_left_out_are_none(
    num_painted: int, num_control: int, frames: list[LabelFrame], out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    origins = ('control', 'control', 'selected', 'selected')
    frames = [LabelFrame(**{**vars(frame), 'origin': origin})
              for frame, origin in zip(frames, origins, strict=True)]
    write_export(out, 'folder', frames, CLASSES)
    for frame in frames[:num_painted]:
        paint_folder(out, frame.stem)
    assert bring(out, '--format', 'folder', '--skip-unchanged') == 0
    got = capsys.readouterr()
    said = json.loads(got.out.splitlines()[-1])
    assert (said['control'], said['control_skipped']) == (num_control, 2 - num_painted)
    is_warned = 'warning: 1 control frames came back unchanged and were left out' in got.err
    assert is_warned == (num_control == 0)
    reviews = read_review(out.parent / 'train')
    assert reviews is not None and len(reviews) == num_painted
    assert {one.origin for one in reviews.values()} == {'control' if num_control else 'selected'}


@pytest.mark.parametrize('labelled', [[0, 1, 2], [0, 2], [2]])
def test_controls_that_came_back_without_a_label_are_counted(
    labelled: list[int], frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever labels the easy ones only gets a promise for easy frames."""
    frames = [LabelFrame(**{**vars(frame), 'origin': 'control' if k < 2 else 'selected'})
              for k, frame in enumerate(frames)]
    write_export(out, 'folder', frames, CLASSES)
    for k, frame in enumerate(frames):
        if k in labelled:
            paint_folder(out, frame.stem)
        else:
            (out / 'masks' / f'{frame.stem}.png').unlink()
    assert bring(out, '--format', 'folder') == 0
    got = capsys.readouterr()
    said = json.loads(got.out.splitlines()[-1])
    missing = 1 if labelled == [0, 2] else 0
    assert (said['control_unlabelled'], said['frames']) == (missing, len(labelled))
    assert ('1 frames that were drawn by chance have no label' in got.err) == bool(missing)


@pytest.mark.parametrize('changes, is_seen', [
    ({'lead_time': 3.5}, True),
    ({'lead_time': None}, False),  # "Create Annotations From Predictions"
    ({'lead_time': 3.5, 'bulk_created': True}, False),
    ({'lead_time': 'x'}, False),
    ({'lead_time': True}, False),
    ({'lead_time': 0.0}, False),
    ({'ground_truth': True}, True),
])
def test_an_annotation_made_in_bulk_was_seen_by_nobody(
    changes: dict[str, Any], is_seen: bool, frames: list[LabelFrame], out: Path
) -> None:
    write_export(out, 'label-studio', frames[:1], CLASSES)
    labels = corrected(out, 'label-studio')
    edit_task(out, frames[0].stem, lambda annotation: annotation.update(changes))
    assert main(['import-labels', str(labels), str(out.parent / 'train'), '--format',
                 'label-studio']) == (0 if is_seen else 2)


# --- outlines ----------------------------------------------------------------------------------


def outlines(content: Any, masks: dict[int, LabelMap], epsilon: float) -> None:
    """Give the labels back as polygons, as tools do that know no masks."""
    content['annotations'] = []
    for image, mask in masks.items():
        for class_id in np.unique(mask).tolist():
            rings, _ = cv2.findContours((mask == class_id).astype(np.uint8), cv2.RETR_EXTERNAL,
                                        cv2.CHAIN_APPROX_NONE)
            for ring in rings:
                points = cv2.approxPolyDP(ring, epsilon, True).reshape(-1, 2)
                if len(points) > 2:
                    content['annotations'].append({
                        'id': len(content['annotations']) + 1, 'image_id': image, 'iscrowd': 0,
                        'category_id': class_id + 1, 'area': 1, 'bbox': [0, 0, 1, 1],
                        'segmentation': [points.ravel().astype(float).tolist()]})


@pytest.mark.parametrize('epsilon', [0.0, 0.7])
def test_outlines_of_an_untouched_mask_are_untouched(
    epsilon: float, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = scene(1)
    moved[36:50, 10:30] = 2  # what a labeller added to the second frame
    write_export(out, 'coco', frames[:2], CLASSES)
    edit_json(out / COCO_FILE,
              lambda c: outlines(c, {1: frames[0].mask, 2: moved}, epsilon))
    assert bring(out, '--format', 'coco') == 2
    assert '1 of 2 masks came back as they were exported (the first is ' \
        f'{frames[0].stem!r})' in capsys.readouterr().err
    assert bring(out, '--format', 'coco', '--skip-unchanged', '--shares', 'all=1') == 0
    assert load_folder(out.parent / 'train', 'all').stems == [frames[1].stem]


@pytest.mark.parametrize('kind', ['coco', 'cvat', 'labelme'])
def test_polygons_that_came_back_as_they_went_are_counted(
    kind: str, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames[0].mask[3:9, 5:12] = 255  # a hole, which polygons cannot have
    write_export(out, kind, frames, CLASSES, shapes='polygons')
    PAINT[kind](out, frames[1].stem)
    assert bring(out, '--format', kind) == 2
    assert '3 of 4 masks came back as they were exported' in capsys.readouterr().err


def test_what_is_erased_or_added_is_more_than_an_outline() -> None:
    base = np.zeros((40, 40), np.uint8)
    base[10:12, 5:30] = 1  # thin: each of its pixels touches its outline
    grown = cv2.dilate(base, np.ones((3, 3), np.uint8))
    assert is_redrawn(base, base, 255) and is_redrawn(base, grown, 255)
    assert not is_redrawn(base, np.zeros_like(base), 255)
    assert not is_redrawn(np.zeros_like(base), base, 255)
    assert not is_redrawn(base, cv2.dilate(base, np.ones((7, 7), np.uint8)), 255)
    renamed = np.where(base == 1, np.uint8(2), base)
    assert not is_redrawn(base, renamed, 255)
    ring = base.copy()
    cv2.circle(ring, (20, 25), 9, 2, 3)
    filled = ring.copy()
    cv2.circle(filled, (20, 25), 9, 2, cv2.FILLED)
    assert is_redrawn(ring, filled, 255)  # outlines have no holes


# --- what tools do to masks by themselves --------------------------------------------------------


def without_a_class(out: Path) -> None:
    """Take the first category for background, as some tools do."""
    edit_json(out / COCO_FILE, lambda c: c.update(
        annotations=[a for a in c['annotations'] if a['category_id'] != 1]))


def simplified_runs(out: Path) -> None:
    """Keep outlines, and give them back as run lengths."""
    from pycocotools import mask as coco_mask

    def change(content: Any) -> None:
        for one in content['annotations']:
            pixels = np.ascontiguousarray(coco_mask.decode(one['segmentation']))
            rings, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
            rings = [cv2.approxPolyDP(ring, 1, True) for ring in rings]
            cv2.drawContours(drawn, rings, -1, 1, cv2.FILLED)
            packed_runs = coco_mask.encode(np.asfortranarray(drawn))
            one['segmentation'] = {'size': packed_runs['size'],
                                   'counts': packed_runs['counts'].decode()}
    edit_json(out / COCO_FILE, change)


def edit_masks(change: Callable[[LabelMap], object]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        for file in (out / 'masks').iterdir():
            mask = np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.uint8)
            change(mask)
            cv2.imwrite(str(file), mask)
    return edit


def halved(mask: LabelMap) -> None:
    mask[:] = np.repeat(np.repeat(mask[::2, ::2], 2, 0), 2, 1)


@pytest.mark.parametrize('kind, by_tool', [
    ('coco', without_a_class),
    ('coco', simplified_runs),
    ('folder', edit_masks(halved)),
    ('folder', edit_masks(lambda mask: mask[:1].fill(255))),
    ('folder', edit_masks(lambda mask: mask[0, :1].fill(1))),
    ('folder', edit_masks(lambda mask: mask[50, 60:61].fill(1))),  # 15 pixels from an outline
], ids=['class lost', 'simplified', 'halved', 'void row', 'pixel at the rim', 'pixel'])
def test_what_a_tool_does_by_itself_is_no_correction(
    kind: str, by_tool: Callable[[Path], None], frames: list[LabelFrame], out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_export(out, kind, frames, CLASSES)
    by_tool(out)
    PAINT[kind](out, frames[1].stem)
    assert bring(out, '--format', kind) == 2
    assert '3 of 4 masks came back as they were exported' in capsys.readouterr().err


@pytest.mark.parametrize('kind', READERS)
def test_nine_pixels_away_from_outlines_are_a_correction_in_every_format(
    kind: str, frames: list[LabelFrame], out: Path
) -> None:
    before = [LabelFrame(**{**vars(frame), 'mask': frame.mask.copy()}) for frame in frames]
    for frame in frames:
        frame.mask[48:51, 60:63] = 1
    write_export(out, kind, frames, CLASSES)
    labels = corrected(out, kind)
    # As if these had been exported, and the nine pixels painted in the tool.
    for frame in before:
        cv2.imwrite(str(out / 'predictions' / f'{frame.stem}.png'), frame.mask)
    digests = {frame.stem: mask_sha256(frame.mask) for frame in before}
    edit_json(out / 'frames.json', lambda c: [
        row.update(mask_sha256=digests[row['stem']]) for row in c['frames']])
    assert main(['import-labels', str(labels), str(out.parent / 'train'), '--format', kind]) == 0
    reviews = read_review(out.parent / 'train')
    assert reviews is not None
    assert [one.evidence for one in reviews.values()] == ['corrected'] * 4


def shifted(out: Path) -> None:
    files = sorted((out / 'masks').iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)


@pytest.mark.parametrize('words', [(), ('--accept-unchanged',), ('--skip-unchanged',)])
def test_masks_under_the_names_of_other_frames_are_refused(
    words: tuple[str, ...], frames: list[LabelFrame], out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_export(out, 'folder', frames, CLASSES)
    shifted(out)
    paint_folder(out, frames[3].stem)
    assert bring(out, '--format', 'folder', *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '3 of 4 masks are those that were exported for other frames' in line
    assert not (out.parent / 'train').exists()


def test_a_correction_may_happen_to_be_the_mask_of_another_frame(
    frames: list[LabelFrame], out: Path
) -> None:
    frames[0].mask[:] = 0  # nothing but the seabed, as a second frame turns out to be
    write_export(out, 'folder', frames[:2], CLASSES)
    for frame, class_id in zip(frames, (1, 0), strict=False):
        cv2.imwrite(str(out / 'masks' / f'{frame.stem}.png'),
                    np.full((HEIGHT, WIDTH), class_id, np.uint8))
    assert bring(out, '--format', 'folder') == 0


def test_labels_where_the_model_knew_nothing_are_new(
    frames: list[LabelFrame], out: Path
) -> None:
    frames[0].mask[:] = 255
    write_export(out, 'folder', frames[:1], CLASSES)
    paint_folder(out, frames[0].stem)
    assert bring(out, '--format', 'folder') == 0


def test_the_masks_of_the_export_are_not_for_editing(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'coco', frames[:1], CLASSES)
    edit_json(out / COCO_FILE, lambda c: outlines(c, {1: frames[0].mask}, 0.0))
    file = out / 'predictions' / f'{frames[0].stem}.png'
    cv2.imwrite(str(file), np.ones((HEIGHT, WIDTH), np.uint8))
    assert bring(out, '--format', 'coco') == 2
    assert 'is not the mask that was exported' in capsys.readouterr().err
    file.unlink()
    assert bring(out, '--format', 'coco') == 2
    assert 'is missing or unreadable' in capsys.readouterr().err


def test_an_export_of_an_older_release_cannot_show_a_correction(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'labelme', frames, CLASSES)

    def older(content: Any) -> None:
        content['version'] = 1
        for row in content['frames']:
            del row['mask_sha256'], row['origin']
    edit_json(out / 'frames.json', older)
    mark_labelme(out, frames[3].stem)
    paint_labelme(out, frames[2].stem)
    assert bring(out, '--format', 'labelme') == 2
    assert '3 of 4 masks cannot be compared' in capsys.readouterr().err
    assert bring(out, '--format', 'labelme', '--accept-unchanged') == 0


# --- two labellers -----------------------------------------------------------------------------


def second(out: Path, change: Callable[[Any], object]) -> Path:
    """Return the labels of a second labeller, in a folder beside the export."""
    other = out.parent / 'other'
    other.mkdir()
    # As tools call it that know no subsets.
    (other / 'annotations.json').write_bytes(
        (out / COCO_FILE).read_bytes())
    edit_json(other / 'annotations.json', change)
    return other


def relabel(content: Any, category_id: int, *image_ids: int) -> None:
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] not in image_ids]
    content['annotations'] += [
        {'id': 900 + i, 'image_id': i, 'category_id': category_id, 'iscrowd': 0, 'area': 1,
         'bbox': [0, 0, 1, 1], 'segmentation': whole_image()} for i in image_ids]


def test_two_labellers_who_disagree_are_named_and_one_may_be_preferred(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'coco', frames, CLASSES)
    other = second(out, lambda c: relabel(c, 3, 1, 2, 4))
    edit_json(out / COCO_FILE, lambda c: relabel(c, 2, 1, 3, 4))
    # 1 and 4 are disputed; 2 was corrected by the second alone, 3 by the first alone.
    words = ('import-labels', out, other, out.parent / 'train', '--format', 'coco')

    def bring_both(*more: str) -> int:
        return main([str(word) for word in (*words, *more)])

    assert bring_both() == 2
    said = capsys.readouterr().err
    assert f'2 frames have masks that differ (the first is {frames[0].stem!r}, of {out} and ' \
        f'{other})' in said and '--prefer' in said
    assert not (out.parent / 'train').exists()
    assert bring_both('--prefer', 'nobody') == 2
    assert f'--prefer nobody, expected one of {other}, {out}' in capsys.readouterr().err
    assert bring_both('--prefer', f'{other}/', '--shares', 'all=1') == 0
    data = load_folder(out.parent / 'train', 'all')
    masks = dict(zip(data.stems, data.masks, strict=True))
    assert [sorted(set(masks[frame.stem].flat)) for frame in frames] == [[2], [2], [1], [2]]


def test_the_annotations_of_one_task_by_two_people(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'label-studio', frames[:1], CLASSES)
    labels = corrected(out, 'label-studio')

    def by(who: str, name: str, when: str) -> dict[str, Any]:
        task = json.loads((out / 'tasks.json').read_text())[0]
        region = {**task['predictions'][0]['result'][0], 'value': {
            'format': 'rle', 'brushlabels': [name],
            'rle': encode_brush(np.ones((HEIGHT, WIDTH), bool))}}
        return {'id': len(name), 'result': [region], 'updated_at': when, 'lead_time': 1.0,
                'completed_by': {'email': who}}

    edit_json(labels, lambda tasks: tasks[0].update(annotations=[
        by('ann@x', PIPE, '1'), by('bob@x', DIVER, '2'), by('bob@x', PIPE, '3')]))
    words = ['import-labels', str(labels), str(out.parent / 'train'), '--format', 'label-studio']
    assert main(words) == 0  # bob came round to ann's view
    edit_json(labels, lambda tasks: tasks[0].update(annotations=[
        by('ann@x', PIPE, '1'), by('bob@x', DIVER, '2')]))
    words[2] += '_2'
    assert main(words) == 2
    assert 'export.json ann@x and ' in capsys.readouterr().err
    assert main([*words, '--prefer', 'bob@x']) == 0
    (mask,) = load_folder(Path(words[2]), 'train').masks
    assert (mask == 2).all()
    reviews = read_review(Path(words[2]))
    assert reviews is not None and reviews[frames[0].stem].labeller == 'bob@x'


# --- what the readers of a data set refuse -------------------------------------------------------


def test_a_folder_is_read_if_every_frame_of_it_is_reviewed(
    frames: list[LabelFrame], out: Path
) -> None:
    write_export(out, 'folder', frames, CLASSES)
    assert bring(out, '--format', 'folder', '--accept-unchanged') == 0
    train = out.parent / 'train'
    assert len(load_folder(train, 'train').stems) == 2
    record = json.loads((train / 'review.json').read_text())

    def write(change: Callable[[Any], object]) -> None:
        (train / 'review.json').write_text(json.dumps(record))
        edit_json(train / 'review.json', change)

    stem = load_folder(train, 'train').stems[0]
    write(lambda c: c['frames'][stem].update(reviewed=False))
    with pytest.raises(DatasetError, match=f'1 of 2 frames of {train} are not reviewed .*{stem}'):
        load_folder(train, 'train')
    assert load_folder(train, 'val').stems
    write(lambda c: c['frames'].pop(stem))
    with pytest.raises(DatasetError, match='1 of 2 frames .* are not in its review.json'):
        load_folder(train, 'train')
    for change in (lambda c: c.update(version=2), lambda c: c.pop('frames'),
                   lambda c: c['frames'][stem].update(reviewed='yes'),
                   lambda c: c['frames'][stem].update(origin='luck'),
                   lambda c: c['frames'][stem].update(more=1), lambda c: c.update(frames=[1])):
        write(change)
        with pytest.raises(DatasetError, match='review.json has another form'):
            load_folder(train, 'train')
    (train / 'review.json').unlink()  # as every folder from elsewhere
    assert len(load_folder(train, 'train').stems) == 2


# Words of Python that say nothing to who wrote the file.
OF_PYTHON = re.compile(r"__init__|Error\(|NoneType|argument|indices|Expecting|codec|b'")


@pytest.mark.parametrize('text, words', [
    ('', 'cannot be read as JSON (it is empty)'),
    ('{"version": 1,\n "frames"', 'it is damaged at line 2, column 10'),
    (b'\xff\xfe\xfd', 'it is no text in UTF-8'),
    ('[]', 'it is no object'),
    ('{"version": 1, "frames": null}', '"frames" is no object'),
    ('{"version": 2, "frames": {}}', 'version 2'),
    ('{"version": 1, "frames": {"a": null}}', "what 'a' has is no object"),
    ('{"version": 1, "frames": {"a": {"evidence": "x"}}}', '\'a\' has no "reviewed"'),
    ('{"version": 1, "frames": {"a": {"reviewed": true, "comment": 1, "evidence": "x"}}}',
     '\'a\' has the field "comment", and fields are reviewed, evidence, origin'),
])
def test_a_damaged_record_is_one_sentence_without_python(
    text: str | bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / 'review.json'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError) as caught:
        read_review(tmp_path)
    assert words in str(caught.value) and not OF_PYTHON.search(str(caught.value))


@pytest.mark.parametrize('kind, file, change, words', [
    ('coco', COCO_FILE, lambda c: c.pop('categories'), '("categories" is missing)'),
    ('coco', COCO_FILE, lambda c: c['annotations'][0].update(segmentation=None),
     '(a value is of another type, or out of range)'),
    ('coco', COCO_FILE, lambda c: c['annotations'][0].update(
        segmentation={'size': [HEIGHT, WIDTH], 'counts': 'zz~~'}), 'do not fill 80x60'),
    ('labelme', 'images/dive 0_0000.raw.json', lambda c: c.pop('shapes'),
     '("shapes" is missing)'),
    ('labelme', 'images/dive 0_0000.raw.json', lambda c: c.update(shapes=[None]),
     '(a value is of another type, or out of range)'),
    ('label-studio', 'export.json', lambda c: c[0]['annotations'][0].pop('result'),
     '("result" is missing)'),
    ('fiftyone', 'samples.json', lambda c: c.pop('samples'), '("samples" is missing)'),
    ('fiftyone', 'samples.json', lambda c: c['samples'][0].update(tags=None),
     '(a value is of another type, or out of range)'),
    ('fiftyone', 'samples.json', lambda c: c['samples'][0].update(filepath='elsewhere.png'),
     "samples.json has labels of 'elsewhere.png', which is not in "),
    *(('fiftyone', 'samples.json', lambda c, mask=mask: c['samples'][0].update(
        ground_truth=mask), words) for mask, words in (
            ({'mask': {'$binary': {'base64': '=='}}}, 'raw.png cannot be unpacked, expected'),
            ({'mask': {'$binary': {'base64': 'eJwDAAAAAAE='}}}, 'raw.png cannot be unpacked'),
            ({'mask': {'$binary': {}}}, '("base64" is missing)'),
            (packed(np.zeros((HEIGHT, WIDTH), np.float32)), 'raw.png is 19200 bytes of float32'),
            (packed(np.full((HEIGHT, WIDTH), 300)), 'raw.png has ids beyond 0 to 255'))),
    *((kind, file, None, 'cannot be read as JSON (it is damaged at line 1, column 2)')
      for kind, file in (('coco', COCO_FILE), ('labelme', 'images/dive 0_0000.raw.json'),
                         ('label-studio', 'export.json'), ('fiftyone', 'samples.json'))),
    ('fiftyone', 'frames.json', lambda c: c.update(frames=None), '("frames" is no list)'),
    ('fiftyone', 'frames.json', lambda c: c.update(frames=[None]), '(a frame is no object'),
    ('fiftyone', 'frames.json', lambda c: c['frames'][0].pop('dive'), '("dive" of a frame is'),
    ('fiftyone', 'frames.json', lambda c: c['frames'][0].update(more=1), 'the field "more")'),
])
def test_damaged_labels_are_one_sentence_without_python(
    kind: str, file: str, change: Callable[[Any], object] | None, words: str,
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    write_export(out, kind, frames, CLASSES)
    labels = corrected(out, kind)
    if change is None:
        (out / file).write_text('{')
    else:
        edit_json(out / file, change)
    assert main(['import-labels', str(labels), str(out.parent / 'train'), '--frames', str(out),
                 '--format', kind]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not OF_PYTHON.search(line)


def test_another_list_of_classes_is_one_sentence(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'folder', frames, CLASSES)
    edit_json(out / 'classes.json', lambda c: c['classes'][1].update(name='cable'))
    assert bring(out, '--format', 'folder') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'cable' in line and 'expected those of the export' in line
