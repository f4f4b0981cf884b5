# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Uncorrected labels: counted, refused, marked as reviewed in the tool, or accepted by users."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import shutil
from typing import Any

import cv2
from label_sample import CLASSES, corrected, make_frame
import numpy as np
import pytest

pytest.importorskip('pycocotools', reason='pycocotools is not installed: no labels as COCO')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.arrays import LabelMap  # noqa: E402
from uncertainty_seg.data.label_formats import (  # noqa: E402
    COCO_FILE,
    encode_brush,
    READERS,
    write_export,
)
from uncertainty_seg.data.label_frames import (  # noqa: E402
    encoded_png,
    LabelFrame,
    write_prediction,
)
from uncertainty_seg.data.label_review import (  # noqa: E402
    is_redrawn,
    require_shares,
    split_by_dive,
)
from uncertainty_seg.errors import ConfigError, DatasetError  # noqa: E402
from uncertainty_seg.sim.dive import Dive  # noqa: E402
from uncertainty_seg.storage.labelled_folder import load_folder  # noqa: E402
from uncertainty_seg.storage.review_record import (  # noqa: E402
    is_prediction,
    marked,
    mask_sha256,
    read_review,
)

HEIGHT, WIDTH = 60, 80
SEABED, PIPE, DIVER = CLASSES.names


def scene(shift: int = 0) -> LabelMap:
    """Return the mask of a seabed with a pipe across it and a diver on the pipe."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[25:35] = 1
    cv2.circle(mask, (30 + shift, 28), 9, 2, cv2.FILLED)
    return mask


def four(*origins: str) -> list[LabelFrame]:
    given = [*origins, *['selected'] * 4]
    return [make_frame(i, (HEIGHT, WIDTH), f'dive {i % 2}', scene(i), origin=given[i])
            for i in range(4)]


@pytest.fixture
def frames() -> list[LabelFrame]:
    return four()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def bring(out: Path, kind: str, *words: object, labels: object = None) -> int:
    """Import an export into `train`."""
    places = [labels or corrected(out, kind)]
    return main([str(word) for word in (
        'labels', 'import', *places, out.parent / 'train', '--format', kind, '--frames', out,
        *words)])


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def whole_image() -> dict[str, Any]:
    """Return COCO run lengths that cover all pixels."""
    return {'size': [HEIGHT, WIDTH], 'counts': [0, HEIGHT * WIDTH]}


# For each tool: label the whole frame of a stem as pipe, as a labeller would.


def paint_coco(out: Path, stem: str) -> None:
    def change(content: Any) -> None:
        (image,) = (i for i in content['images'] if stem in i['file_name'])
        content['annotations'].append({
            'id': 999, 'image_id': image['id'], 'category_id': 2, 'iscrowd': 0, 'area': 1,
            'bbox': [0, 0, 1, 1], 'segmentation': whole_image()})
    edit_json(out / COCO_FILE, change)


def paint_folder(out: Path, stem: str) -> None:
    cv2.imwrite(str(out / 'masks' / f'{stem}.png'), np.ones((HEIGHT, WIDTH), np.uint8))


def edit_task(out: Path, stem: str, change: Callable[[Any], object]) -> None:
    def edit(tasks: Any) -> None:
        (task,) = (t for t in tasks if t['data']['frame'] == stem)
        change(task['predictions'][0])
    edit_json(out / 'tasks.json', edit)


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


def paint_fiftyone(out: Path, stem: str) -> None:
    place = out / 'fields' / 'ground_truth'
    place.mkdir(exist_ok=True)
    (place / f'{stem}.png').write_bytes(encoded_png(np.ones((HEIGHT, WIDTH), np.uint8)))
    edit_sample(out, stem, lambda sample: sample.update(
        ground_truth={'_cls': 'Segmentation', 'mask_path': f'/elsewhere/{stem}.png'}))


PAINT = {'coco': paint_coco, 'folder': paint_folder, 'label-studio': paint_label_studio,
         'fiftyone': paint_fiftyone}


# For each tool: mark the frame of a stem as finished, without changing its mask.


def mark_coco(out: Path, stem: str) -> None:
    edit_json(out / COCO_FILE, lambda content: [
        image.update(reviewed=True) for image in content['images'] if stem in image['file_name']])


def submit(out: Path, stem: str) -> None:
    edit_task(out, stem, lambda annotation: annotation.update(lead_time=4.2, completed_by=3))


def mark_fiftyone(out: Path, stem: str) -> None:
    edit_sample(out, stem, lambda sample: sample['tags'].append('reviewed'))


MARK = {'coco': mark_coco, 'label-studio': submit, 'fiftyone': mark_fiftyone}


@pytest.mark.parametrize('kind', READERS)
def test_what_came_back_as_it_went_is_refused_or_left_out(
    kind: str, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stems = [frame.row.stem for frame in frames]
    write_export(out, kind, frames, CLASSES)
    PAINT[kind](out, stems[1])
    train = out.parent / 'train'
    assert bring(out, kind) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '3 of 4 masks' in line and not train.exists()
    if kind in MARK:
        MARK[kind](out, stems[2])
    assert bring(out, kind, '--shares', 'all=1', '--skip-unchanged') == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = [stems[1], *([stems[2]] if kind in MARK else [])]
    data = load_folder(train, 'all')
    masks = dict(zip(data.stems, data.masks, strict=True))
    assert set(masks) == set(wanted) and said['skipped'] == 4 - len(wanted)
    assert (masks[stems[1]] == 1).all()
    for name in ('images', 'masks'):
        assert sorted(path.stem for path in (train / name).iterdir()) == sorted(wanted)
    reviews = read_review(train)
    assert reviews is not None and set(reviews) == set(wanted)
    assert reviews[stems[1]].evidence == 'corrected'
    if kind in MARK:
        np.testing.assert_array_equal(masks[stems[2]], scene(2))
        assert reviews[stems[2]].evidence not in ('corrected', 'accepted unchanged')


def test_the_user_may_say_that_somebody_looked_and_the_record_says_so(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = four('control')
    write_export(out, 'folder', frames, CLASSES)
    assert bring(out, 'folder', '--accept-unchanged') == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said['reviewed'], said['control'], said['skipped']) == ({'accepted unchanged': 4}, 1,
                                                                    0)
    reviews = read_review(out.parent / 'train')
    assert reviews is not None
    first = reviews[frames[0].row.stem]
    assert (first.reviewed, first.evidence, first.origin) == (True, 'accepted unchanged',
                                                              'control')
    assert (first.dive, first.frame, first.score) == ('dive 0', 'key 0', 1.25)
    assert reviews[frames[1].row.stem].origin == 'selected'


@pytest.mark.parametrize('num_painted, num_control', [(1, 0), (2, 2)])
def test_controls_of_which_the_right_ones_are_left_out_are_none(
    num_painted: int, num_control: int, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = four('control', 'control')
    write_export(out, 'folder', frames, CLASSES)
    for frame in frames[:num_painted]:
        paint_folder(out, frame.row.stem)
    assert bring(out, 'folder', '--skip-unchanged') == 0
    got = capsys.readouterr()
    said = json.loads(got.out.splitlines()[-1])
    assert (said['control'], said['control_skipped']) == (num_control, 2 - num_painted)
    assert ('1 unchanged' in got.err) == (num_control == 0)
    reviews = read_review(out.parent / 'train')
    assert reviews is not None and len(reviews) == num_painted
    assert {one.origin for one in reviews.values()} == {'control' if num_control else 'selected'}


@pytest.mark.parametrize('labelled, missing', [([0, 1, 2], 0), ([0, 2], 1), ([2], 0)])
def test_controls_that_came_back_without_a_label_are_counted(
    labelled: list[int], missing: int, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report them, since a promise from easy frames alone holds for easy frames only."""
    write_export(out, 'folder', four('control', 'control'), CLASSES)
    for k, frame in enumerate(four()):
        if k in labelled:
            paint_folder(out, frame.row.stem)
        else:
            (out / 'masks' / f'{frame.row.stem}.png').unlink()
    assert bring(out, 'folder') == 0
    got = capsys.readouterr()
    said = json.loads(got.out.splitlines()[-1])
    assert (said['control_unlabelled'], said['frames']) == (missing, len(labelled))
    assert ('1 control' in got.err) == bool(missing)


@pytest.mark.parametrize('changes, is_seen', [
    ({'lead_time': 3.5}, True), ({'ground_truth': True}, True),
    ({'lead_time': None}, False),  # "Create Annotations From Predictions"
    ({'lead_time': 3.5, 'bulk_created': True}, False), ({'lead_time': 'x'}, False),
    ({'lead_time': True}, False), ({'lead_time': 0.0}, False),
])
def test_an_annotation_made_in_bulk_was_seen_by_nobody(
    changes: dict[str, Any], is_seen: bool, frames: list[LabelFrame], out: Path
) -> None:
    write_export(out, 'label-studio', frames[:1], CLASSES)
    edit_task(out, frames[0].row.stem, lambda annotation: annotation.update(changes))
    assert bring(out, 'label-studio') == (0 if is_seen else 2)


# --- changes that tools make to masks by themselves ----------------------------------------------


def polygons(masks: dict[int, LabelMap], epsilon: float) -> Callable[[Any], None]:
    """Return an edit that replaces labels by polygons, as tools without masks do."""
    def change(content: Any) -> None:
        content['annotations'] = []
        for image, mask in masks.items():
            for class_id in np.unique(mask).tolist():
                rings, _ = cv2.findContours((mask == class_id).astype(np.uint8),
                                            cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                for ring in rings:
                    points = cv2.approxPolyDP(ring, epsilon, True).reshape(-1, 2)
                    if len(points) > 2:
                        content['annotations'].append({
                            'id': len(content['annotations']) + 1, 'image_id': image,
                            'iscrowd': 0, 'category_id': class_id + 1, 'area': 1,
                            'bbox': [0, 0, 1, 1],
                            'segmentation': [points.ravel().astype(float).tolist()]})
    return change


@pytest.mark.parametrize('epsilon', [0.0, 0.7])
def test_outlines_of_an_untouched_mask_are_untouched(
    epsilon: float, frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = scene(1)
    moved[36:50, 10:30] = 2  # a labeller's addition to the second frame
    write_export(out, 'coco', frames[:2], CLASSES)
    edit_json(out / COCO_FILE, polygons({1: frames[0].mask, 2: moved}, epsilon))
    assert bring(out, 'coco') == 2
    assert '1 of 2 masks' in capsys.readouterr().err
    assert bring(out, 'coco', '--skip-unchanged', '--shares', 'all=1') == 0
    assert load_folder(out.parent / 'train', 'all').stems == [frames[1].row.stem]


def test_what_is_erased_or_added_is_more_than_an_outline() -> None:
    base = np.zeros((40, 40), np.uint8)
    base[10:12, 5:30] = 1  # thin, so that all its pixels are on the outline
    grown = cv2.dilate(base, np.ones((3, 3), np.uint8))
    assert is_redrawn(base, base, 255) and is_redrawn(base, grown, 255)
    assert not is_redrawn(base, np.zeros_like(base), 255)
    assert not is_redrawn(np.zeros_like(base), base, 255)
    assert not is_redrawn(base, cv2.dilate(base, np.ones((7, 7), np.uint8)), 255)
    assert not is_redrawn(base, np.where(base == 1, np.uint8(2), base), 255)
    for size, is_small in ((2, True), (3, False)):  # away from outlines
        block = base.copy()
        block[30:30 + size, 20:20 + size] = 1
        assert is_redrawn(base, block, 255) == is_small
    ring = base.copy()
    cv2.circle(ring, (20, 25), 9, 2, 3)
    filled = ring.copy()
    cv2.circle(filled, (20, 25), 9, 2, cv2.FILLED)
    assert is_redrawn(ring, filled, 255)  # outlines have no holes


@pytest.mark.parametrize('part', [2, 3, 4])
def test_a_mask_that_went_through_a_smaller_size_is_no_correction_and_what_is_painted_there_is(
    part: int
) -> None:
    dive = Dive(7, duration_s=12.0, rate_hz=1.0, size=(160, 128))  # thin ropes, small anodes
    for mask in (dive.frame(index).mask for index in range(0, 12, 3)):
        size = mask.shape[::-1]
        small = cv2.resize(mask, (round(size[0] / part), round(size[1] / part)),
                           interpolation=cv2.INTER_NEAREST)
        other = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        assert is_redrawn(mask, other, 255)
        other[52:76, 60:84] = (mask[64, 64] + 1) % 6 if mask[64, 64] != 255 else 0
        assert not is_redrawn(mask, other, 255)


def without_a_class(out: Path) -> None:
    """Drop the first category as background, as some tools do."""
    edit_json(out / COCO_FILE, lambda c: c.update(
        annotations=[a for a in c['annotations'] if a['category_id'] != 1]))


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
    ('coco', without_a_class), ('folder', edit_masks(halved)),
    ('folder', edit_masks(lambda mask: mask[:1].fill(255))),
    ('folder', edit_masks(lambda mask: mask[0, :1].fill(1))),
    ('folder', edit_masks(lambda mask: mask[50, 60:61].fill(1))),  # 15 pixels from an outline
], ids=['class lost', 'halved', 'void row', 'pixel at the rim', 'pixel'])
def test_what_a_tool_does_by_itself_is_no_correction(
    kind: str, by_tool: Callable[[Path], None], frames: list[LabelFrame], out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_export(out, kind, frames, CLASSES)
    by_tool(out)
    PAINT[kind](out, frames[1].row.stem)
    assert bring(out, kind) == 2
    assert '3 of 4 masks' in capsys.readouterr().err


@pytest.mark.parametrize('words', [(), ('--accept-unchanged',), ('--skip-unchanged',)])
def test_masks_under_the_names_of_other_frames_are_refused(
    words: tuple[str, ...], frames: list[LabelFrame], out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_export(out, 'folder', frames, CLASSES)
    files = sorted((out / 'masks').iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    paint_folder(out, frames[3].row.stem)
    assert bring(out, 'folder', *words) == 2
    assert '3 of 4 masks' in capsys.readouterr().err
    assert not (out.parent / 'train').exists()


def test_a_correction_may_happen_to_be_the_mask_of_another_frame_or_be_all_new(
    frames: list[LabelFrame], out: Path
) -> None:
    frames[0].mask[:] = 0  # only seabed, like the second frame
    frames[2].mask[:] = 255  # unknown everywhere
    write_export(out, 'folder', frames[:3], CLASSES)
    for frame, class_id in zip(frames, (1, 0, 1), strict=False):
        cv2.imwrite(str(out / 'masks' / f'{frame.row.stem}.png'),
                    np.full((HEIGHT, WIDTH), class_id, np.uint8))
    assert bring(out, 'folder') == 0


@pytest.mark.parametrize('swap', ['image', 'link', 'pipe'])
def test_another_image_under_the_name_of_a_frame_is_refused(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str], swap: str
) -> None:
    write_export(out, 'folder', frames[:2], CLASSES)
    paint_folder(out, frames[0].row.stem)
    file, other = (out / 'images' / frame.row.file for frame in frames[:2])
    data = other.read_bytes()  # of the same size
    file.unlink()
    if swap == 'image':
        file.write_bytes(data)
    elif swap == 'link':
        file.symlink_to(other)
    else:
        os.mkfifo(file)
    assert bring(out, 'folder', '--accept-unchanged') == 2
    assert file.name in capsys.readouterr().err


def test_the_masks_of_the_export_are_not_for_editing(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'coco', frames[:1], CLASSES)
    edit_json(out / COCO_FILE, polygons({1: frames[0].mask}, 0.0))
    file = out / 'predictions' / f'{frames[0].row.stem}.png'
    cv2.imwrite(str(file), np.ones((HEIGHT, WIDTH), np.uint8))
    for _ in range(2):  # with another file, then without one
        assert bring(out, 'coco') == 2
        assert file.name in capsys.readouterr().err
        file.unlink(missing_ok=True)


# --- two labellers, splits -----------------------------------------------------------------------


def relabel(content: Any, category_id: int, *image_ids: int) -> None:
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] not in image_ids]
    content['annotations'] += [
        {'id': 900 + i, 'image_id': i, 'category_id': category_id, 'iscrowd': 0, 'area': 1,
         'bbox': [0, 0, 1, 1], 'segmentation': whole_image()} for i in image_ids]


def test_two_labellers_who_disagree_are_named_and_others_are_joined(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'coco', frames, CLASSES)
    other = out.parent / 'other' / 'annotations.json'  # its name in tools without subsets
    other.parent.mkdir()
    whole = (out / COCO_FILE).read_text()
    words = ['labels', 'import', str(out), str(other.parent), str(out.parent / 'train'),
             '--format', 'coco', '--shares', 'all=1']
    for disputed in ((1, 4), ()):
        # Only the second labeller corrected frame 2, only the first frame 3.
        (out / COCO_FILE).write_text(whole)
        other.write_text(whole)
        edit_json(out / COCO_FILE, lambda c, also=disputed: relabel(c, 2, 3, *also))
        edit_json(other, lambda c, also=disputed: relabel(c, 3, 2, *also))
        assert main([*words, '--skip-unchanged']) == (2 if disputed else 0)
        if disputed:
            err = capsys.readouterr().err
            assert '2 frames' in err and str(out) in err and str(other.parent) in err
    data = load_folder(out.parent / 'train', 'all')
    assert {stem: set(mask.flat) for stem, mask in zip(data.stems, data.masks, strict=True)} == {
        frames[1].row.stem: {2}, frames[2].row.stem: {1}}


def test_the_annotations_of_one_task_by_two_people(
    frames: list[LabelFrame], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(out, 'label-studio', frames[:1], CLASSES)
    labels = corrected(out, 'label-studio')
    region = json.loads(labels.read_text())[0]['annotations'][0]['result'][0]

    def by(who: str, name: str, when: str) -> dict[str, Any]:
        value = {'format': 'rle', 'brushlabels': [name],
                 'rle': encode_brush(np.ones((HEIGHT, WIDTH), bool))}
        return {'id': len(name), 'result': [{**region, 'value': value}], 'updated_at': when,
                'lead_time': 1.0, 'completed_by': {'email': who}}

    edit_json(labels, lambda tasks: tasks[0].update(annotations=[
        by('ann@x', PIPE, '1'), by('bob@x', DIVER, '2')]))
    assert bring(out, 'label-studio', labels=labels) == 2
    err = capsys.readouterr().err
    assert 'ann@x' in err and 'bob@x' in err
    edit_json(labels, lambda tasks: tasks[0].update(annotations=[
        by('ann@x', PIPE, '1'), by('bob@x', DIVER, '2'), by('bob@x', PIPE, '3')]))
    assert bring(out, 'label-studio', labels=labels) == 0  # bob now agrees with ann
    reviews = read_review(out.parent / 'train')
    assert reviews is not None and reviews[frames[0].row.stem].labeller == 'ann@x'


def test_splits_keep_dives_whole_and_are_near_their_shares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 9, rng.integers(1, 12))
        dive_of = {f'{d}_{k}': f'dive {d}' for d, size in enumerate(sizes) for k in range(size)}
        shares = {'train': 0.7, 'val': 0.2, 'test': 0.1}
        splits = split_by_dive(dive_of, shares)
        assert splits == split_by_dive(dict(reversed(dive_of.items())), shares)
        dives = [{dive_of[stem] for stem in stems} for stems in splits.values()]
        assert sum(map(len, dives)) == len(sizes) == len(set().union(*dives))
        assert sum(map(bool, dives)) == min(3, len(sizes))
        if len(sizes) >= 6:
            for name, stems in splits.items():
                assert abs(len(stems) - shares[name] * len(dive_of)) <= sizes.max()
    for wrong in ({}, {'train': 0.5}, {'train': 1.2, 'val': -0.2}):
        with pytest.raises(ConfigError):
            require_shares(wrong)


# --- masks of a model are recognized wherever they are copied to ---------------------------------


@pytest.fixture
def copied(frames: list[LabelFrame], out: Path) -> Path:
    """Return a labelled folder with copies of an export's images, masks and classes only."""
    write_export(out, 'folder', frames, CLASSES)
    for name in ('images', 'masks'):
        shutil.copytree(out / name, out.parent / 'copied' / name)
    shutil.copy(out / 'classes.json', out.parent / 'copied')
    return out.parent / 'copied'


def repaint(file: Path) -> None:
    """Change a pixel and keep the file's text chunks, as some programs do."""
    from PIL import Image, PngImagePlugin

    with Image.open(file) as image:
        texts, pixels = dict(image.text), np.array(image)
    assert texts
    pixels[0, 0] = 2 if pixels[0, 0] != 2 else 1
    kept = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        kept.add_text(key, value)
    Image.fromarray(pixels).save(file, pnginfo=kept)


def test_masks_that_were_copied_out_of_an_export_are_refused(
    copied: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatasetError, match='4 of 4'):
        load_folder(copied, 'train')
    assert main(['dataset', 'add', str(out.parent / 'data'), str(copied)]) == 2
    assert '4 of 4' in capsys.readouterr().err
    repaint(min((copied / 'masks').iterdir()))
    with pytest.raises(DatasetError, match='3 of 4'):
        load_folder(copied, 'train')
    for file in sorted((copied / 'masks').iterdir())[1:]:
        repaint(file)
    assert len(load_folder(copied, 'train').masks) == 4
    # They are refused in an imported folder, too.
    assert bring(out, 'folder', '--accept-unchanged', '--shares', 'train=1.0') == 0
    train = out.parent / 'train'
    stem = load_folder(train, 'train').stems[0]
    shutil.copy(out / 'predictions' / f'{stem}.png', train / 'masks')
    with pytest.raises(DatasetError, match='1 of 4'):
        load_folder(train, 'train')


@pytest.mark.parametrize('kind', ['last', 'UTF-8', 'compressed'])
def test_a_program_that_moves_the_mark_does_not_make_labels_of_them(
    kind: str, tmp_path: Path
) -> None:
    from PIL import Image, PngImagePlugin

    # Random pixels, so that the file is as large as masks of photographs.
    mask = np.random.default_rng(0).integers(0, 6, (120, 160), np.uint8)
    write_prediction(tmp_path, 'one', mask)
    file, key, digest = tmp_path / 'one.png', 'uncertainty_seg prediction', mask_sha256(mask)
    before, info = file.read_bytes(), PngImagePlugin.PngInfo()
    if kind == 'last':
        info.add(b'tEXt', f'{key}\0{digest}'.encode(), after_idat=True)
    elif kind == 'UTF-8':
        info.add_itxt(key, digest)
    else:
        info.add_text(key, digest, zip=True)
    Image.fromarray(mask).save(file, pnginfo=info)
    assert file.read_bytes() != before
    assert np.array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), mask)
    assert is_prediction(file)
    # A pixel changed by a person, while the program kept the text.
    edited = mask.copy()
    edited[0, 0] ^= 1
    (tmp_path / 'two.png').write_bytes(marked(encoded_png(edited), mask))
    assert not is_prediction(tmp_path / 'two.png')


def test_a_folder_is_read_only_if_every_frame_of_it_is_reviewed(
    frames: list[LabelFrame], out: Path
) -> None:
    write_export(out, 'folder', frames, CLASSES)
    assert bring(out, 'folder', '--accept-unchanged') == 0
    train = out.parent / 'train'
    stem = load_folder(train, 'train').stems[0]
    record = json.loads((train / 'review.json').read_text())
    for change in (lambda c: c['frames'][stem].update(reviewed=False),
                   lambda c: c['frames'].pop(stem), lambda c: c.update(version=2),
                   lambda c: c['frames'][stem].update(reviewed='yes'),
                   lambda c: c['frames'][stem].update(origin='luck')):
        (train / 'review.json').write_text(json.dumps(record))
        edit_json(train / 'review.json', change)
        with pytest.raises(DatasetError, match=r'review'):
            load_folder(train, 'train')
    (train / 'review.json').unlink()  # as in folders from other sources
    assert len(load_folder(train, 'train').stems) == 2
