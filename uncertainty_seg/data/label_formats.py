# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The label formats: COCO, Label Studio, FiftyOne and a plain folder; other tools by way of COCO.

Each format has one function that writes frames into an empty folder, and one that reads corrected
labels. The reader yields a `Labelled` for each frame and labeller. It raises DatasetError if a
file is damaged, or a frame, class or size is not that of the export, which the table of exported
frames lists.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.label_frames import (
    BoolMask,
    CLASSES_FILE,
    damage,
    DATA,
    ExportedFrames,
    FrameRow,
    IMAGES,
    LabelCanvas,
    LabelFrame,
    Labelled,
    MALFORMED,
    MASKS,
    PREDICTIONS,
    without_metadata,
    write_classes,
    write_image,
    write_prediction,
    write_table,
)
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.foreign_files import plain_name, why
from uncertainty_seg.storage.labelled_folder import (
    ClassTable,
    read_classes,
    read_mask,
    require_same_classes,
)
from uncertainty_seg.storage.review_record import mask_sha256, read_json, TABLE_FILE
from uncertainty_seg.storage.whole_files import whole_folder

# Where datumaro and others expect it in a folder; tools also export it under the second name.
COCO_FILE, OTHER_COCO_FILE = 'annotations/instances_default.json', 'annotations.json'
TASKS_FILE, CONFIG_FILE = 'tasks.json', 'config.xml'
SAMPLES_FILE, ABOUT_FILE = 'samples.json', 'metadata.json'
# COCO has no mark for a finished frame: this is a field of an image, or an attribute of all its
# annotations.
MARK = 'reviewed'


def write_export(
    out: Path, kind: str, frames: Iterable[LabelFrame], classes: ClassTable,
    image_prefix: str = '',
) -> list[FrameRow]:
    """
    Write an export of a kind in `WRITERS` into a new folder, whole or not at all.

    Frames are read once, one at a time; their rows are returned. For Label Studio `image_prefix`
    precedes the name of an image in its address, such as ``/data/local-files/?d=dive_7/images/``;
    if it is empty, the task contains the image. Raises DatasetError if the folder is not empty,
    two frames share a name, or there is no frame.
    """
    rows: list[FrameRow] = []
    with new_folder(out) as work:
        every = _listed(work, frames, rows)
        if kind == 'label-studio':
            write_label_studio(work, every, classes, image_prefix)
        else:
            WRITERS[kind](work, every, classes)
        if not rows:
            raise DatasetError('no frame to export', 'at least one that can be read')
        write_table(work, classes, rows, kind)
    return rows


def _listed(
    folder: Path, frames: Iterable[LabelFrame], rows: list[FrameRow]
) -> Iterator[LabelFrame]:
    """
    Yield frames without the metadata of their images, and append the row of each to `rows`.

    Also writes the mask of each, for comparison with the corrected one.
    """
    seen: set[str] = set()
    for frame in frames:
        stem = frame.row.stem
        if stem in seen:
            raise DatasetError(f'two frames are called {stem!r}', 'unique names',
                               'export their logs one by one')
        seen.add(stem)
        image_file = without_metadata(frame.image_file)
        rows.append(replace(frame.row, mask_sha256=mask_sha256(frame.mask),
                            image_sha256=hashlib.sha256(image_file).hexdigest()))
        write_prediction(folder / PREDICTIONS, stem, frame.mask)
        yield replace(frame, row=rows[-1], image_file=image_file)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """
    Yield a folder to write into, which becomes `out` at the end of the block.

    Raises DatasetError if `out` exists and is not an empty folder, or if writing fails: then
    nothing is left behind.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DatasetError(f'{out} exists and is not empty', 'a new folder',
                           'give another name')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: these are thousands of small files, which can be exported again.
        with whole_folder(out, is_synced=False, is_replacing=False) as work:
            yield work
    except OSError as err:
        raise DatasetError(f'{out} cannot be written ({why(err)})',
                           'a writable folder with free space',
                           'make room, or name another folder; nothing was written') from err


def find_table(labels: Path, frames: Path | str | None) -> Path:
    """Return the folder with frames.json: `frames`, or else the labels or a folder above."""
    if frames is not None:
        return Path(frames)
    around = (labels, labels.parent, labels.parent.parent)
    return next((place for place in around if (place / TABLE_FILE).is_file()), labels.parent)


# -------------------------------------------------------------------------------------------------
# COCO: one lossless run-length annotation for each class in a frame. Category ids are one more
# than class ids, since many tools take 0 for background; categories and frames are read by name.


def write_coco(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; `images[]` has dive, reason, score and stamp."""
    import pycocotools.mask  # noqa: F401  (fails before an image is written)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frame in frames:
        write_image(folder / IMAGES, frame)
        row = frame.row
        images.append({'id': len(images) + 1, 'file_name': row.file, 'width': row.width,
                       'height': row.height, MARK: False, **row.facts()})
        annotations += [
            {'id': len(annotations) + number, 'image_id': len(images), **item}
            for number, item in enumerate(_annotations(frame.mask, len(classes.names)), start=1)]
    categories = [{'id': index + 1, 'name': name, 'supercategory': '', 'color': list(rgb)}
                  for index, (name, rgb) in
                  enumerate(zip(classes.names, classes.palette, strict=True))]
    content = {'info': {'description': 'exported by uncertainty_seg'}, 'licenses': [],
               'images': images, 'annotations': annotations, 'categories': categories}
    (folder / COCO_FILE).parent.mkdir()
    (folder / COCO_FILE).write_text(json.dumps(content), encoding='utf-8')


def read_coco(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read COCO: the JSON file, or a folder with it.

    Also reads polygons, as pycocotools draws them, and datumaro's conversions of other tools'
    labels. A frame is marked as finished by ``"reviewed": true`` in its image, or in the
    attributes of all its annotations.
    """
    file = _coco_file(path)
    content = read_json(file)
    try:
        names = {item['id']: str(item['name']) for item in content['categories']}
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for item in content['annotations']:
            by_image.setdefault(item['image_id'], []).append(item)
        for image in content['images']:
            canvas = LabelCanvas(table.row_of(str(image['file_name']), file), table.classes)
            canvas.require_size(int(image['height']), int(image['width']))
            items = by_image.get(image['id'], [])
            # datumaro adds boxes to the masks; boxes alone do not label pixels.
            regions = [item for item in items if item['segmentation']]
            if items and not regions:
                raise DatasetError(f'{canvas.row.file} has boxes only', 'polygons or run lengths',
                                   'export in a format with masks')
            for item in regions:
                name = names.get(item['category_id'], str(item['category_id']))
                _paint_coco(canvas, name, item['segmentation'])
            yield from canvas.labelled(_coco_mark(image, items))
    except MALFORMED as err:
        raise DatasetError(f'{file} is no COCO file ({damage(err)})',
                           'images, annotations and categories') from err


def _coco_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    # The export does not write the first, so it comes from the labelling tool.
    return next((path / name for name in (OTHER_COCO_FILE, COCO_FILE) if (path / name).is_file()),
                path / COCO_FILE)


def _coco_mark(image: dict[str, Any], items: list[dict[str, Any]]) -> str:
    """Return the mark of a finished image, in its field or in all annotations; '' without."""
    flags = [(item.get('attributes') or {}).get(MARK) for item in items]
    is_marked = image.get(MARK) is True or bool(flags) and all(flag is True for flag in flags)
    return f'{MARK} in COCO' if is_marked else ''


def _annotations(mask: LabelMap, num_classes: int) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    for class_id in np.unique(mask[mask < num_classes]).tolist():
        packed = coco_mask.encode(np.asfortranarray(mask == class_id, np.uint8))
        yield {'category_id': class_id + 1, 'iscrowd': 0, 'area': int(coco_mask.area(packed)),
               'bbox': [int(side) for side in coco_mask.toBbox(packed)],
               'segmentation': {'size': [int(n) for n in packed['size']],
                                'counts': packed['counts'].decode('ascii')}}


def _paint_coco(canvas: LabelCanvas, name: str, segmentation: Any) -> None:
    """Paint a COCO segmentation: polygons, or run lengths as a list or packed as text."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        canvas.paint_polygons(name, segmentation)
        return
    height, width = (int(n) for n in segmentation['size'])
    canvas.require_size(height, width)
    packed = segmentation if isinstance(segmentation['counts'], (str, bytes)) else \
        coco_mask.frPyObjects(segmentation, height, width)
    pixels = np.asarray(coco_mask.decode(packed), np.uint8)
    # pycocotools leaves memory uninitialised if the run lengths end before the image does.
    if pixels.max(initial=0) > 1 or int(pixels.sum()) != int(coco_mask.area(packed)):
        raise DatasetError(f'run lengths of {canvas.row.file} do not fill {width}x{height}',
                           'those of all pixels of its image')
    canvas.paint(name, pixels.astype(bool))


# -------------------------------------------------------------------------------------------------
# A plain folder: images, masks of class ids and classes.json, for a painting program.


def write_folder(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; dive, reason and score are only in frames.json."""
    for frame in frames:
        write_image(folder / IMAGES, frame)
        write_prediction(folder / MASKS, frame.row.stem, frame.mask)
    write_classes(folder, classes)


def read_folder(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """Read a folder of ``STEM.png``, or its folder ``masks``; no frame is marked as finished."""
    file = path / CLASSES_FILE
    if file.is_file():
        require_same_classes(read_classes(file), table.classes, str(file), 'the export')
    place = path / MASKS if (path / MASKS).is_dir() else path
    files = sorted(place.glob('*.png'))
    if not files:
        raise DatasetError(f'{place} holds no masks', 'files STEM.png')
    for file in files:
        if file.is_symlink():
            raise DatasetError(f'{file} is a link', 'the masks themselves')
        row = table.row_of(file.name, place)
        canvas = LabelCanvas(row, table.classes)
        canvas.paint_ids(read_mask(file))
        yield from canvas.labelled()


# -------------------------------------------------------------------------------------------------
# FiftyOne: a FiftyOneDataset without a version in its metadata, which every release since 0.7
# loads. The reader takes the output of ``dataset.export`` with masks in files.

FIELD = 'prediction'
# A field that the labeller added has precedence over the corrected prediction.
FIELDS = ('ground_truth', FIELD)
# FiftyOne resolves the paths of a field below `fields` relative to the dataset.
PLACE = 'fields'
# Prefix of the dive in its tag, so that no dive can be taken for the mark.
_DIVE_TAG = 'dive:'


def write_fiftyone(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; facts are fields, and the dive is also a tag."""
    (folder / PLACE).mkdir()
    samples = []
    for frame in frames:
        write_image(folder / DATA, frame)
        write_prediction(folder / PLACE / FIELD, frame.row.stem, frame.mask)
        samples.append(_sample(frame))
    (folder / SAMPLES_FILE).write_text(json.dumps({'samples': samples}), encoding='utf-8')
    (folder / ABOUT_FILE).write_text(json.dumps(_metadata(classes), indent=1), encoding='utf-8')


def read_fiftyone(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read a folder that ``dataset.export`` wrote.

    The masks are those of the field `ground_truth` if a sample has it, else of `prediction`. A
    frame is marked as finished by the tag `reviewed`.
    """
    file = path / SAMPLES_FILE if path.is_dir() else path
    try:
        _require_targets(file.parent / ABOUT_FILE, table.classes)
        for sample in read_json(file)['samples']:
            row = table.row_of(str(sample['filepath']), file)
            canvas = LabelCanvas(row, table.classes)
            field = next((name for name in FIELDS if sample.get(name)), '')
            if field:
                canvas.paint_ids(_mask(sample[field], field, row, (file.parent, table.folder)))
            yield from canvas.labelled(f'{MARK} in FiftyOne' if MARK in sample['tags'] else '')
    except MALFORMED as err:
        raise DatasetError(f'{path} is no FiftyOneDataset ({damage(err)})',
                           'what dataset.export writes as fo.types.FiftyOneDataset') from err


def _sample(frame: LabelFrame) -> dict[str, Any]:
    row = frame.row
    return {
        'filepath': f'{DATA}/{row.file}', 'tags': [_DIVE_TAG + row.dive], **row.facts(),
        FIELD: {'_cls': 'Segmentation', 'tags': [],
                'mask_path': f'{PLACE}/{FIELD}/{row.stem}.png'}}


def _metadata(classes: ClassTable) -> dict[str, Any]:
    targets = {str(index): name for index, name in enumerate(classes.names)}
    colors = {name: _hex_color(rgb) for name, rgb in
              zip(classes.names, classes.palette, strict=True)}
    return {'media_type': 'image', 'info': {
        'description': 'exported by uncertainty_seg', 'default_mask_targets': targets,
        'colors': colors, 'ignore_index': classes.ignore_index}}


def _require_targets(file: Path, classes: ClassTable) -> None:
    """Refuse a dataset whose masks have other names for the ids."""
    if not file.is_file():
        return
    about = read_json(file)
    about = about if isinstance(about, dict) else {}
    # FiftyOne writes them at the top level, our export writes them under `info`.
    targets = about.get('default_mask_targets') or (about.get('info') or {}).get(
        'default_mask_targets')
    wanted = {str(index): name for index, name in enumerate(classes.names)}
    if isinstance(targets, dict) and targets and targets != wanted:
        raise DatasetError(
            f'{file} has the classes {", ".join(map(str, targets.values()))}',
            f'those of the export, {", ".join(classes.names)}',
            'keep default_mask_targets, or export with a bundle of the new classes')


def _mask(
    label: dict[str, Any], field: str, row: FrameRow, folders: Iterable[Path]
) -> LabelMap:
    """Return the mask of a label, from the file of its name in the folder of its field."""
    if 'mask_path' not in label:
        raise DatasetError(f'the mask of {row.file} is not in a file', 'a mask_path',
                           'call export_mask(path, update=True) of its Segmentation in FiftyOne, '
                           'and export again')
    # Only the name counts: the path may be of another machine.
    name = plain_name(str(label['mask_path']).replace('\\', '/').rpartition('/')[2])
    places = [folder / PLACE / field / name for folder in folders]
    return read_mask(next((place for place in places if place.is_file()), places[0]))


# -------------------------------------------------------------------------------------------------
# Label Studio: a task contains its image as a data URL, so that no image has to be served; or the
# address of the image is a prefix and its name.

# Names in the labelling config.
_BRUSH, _IMAGE = 'mask', 'image'
_TYPES = {'.jpg': 'jpeg', '.png': 'png'}
# The run lengths of the brush are a stream of bits over RGBA bytes, the format of the JavaScript
# package ``@thi.ng/rle-pack``. Label Studio's SDK has a codec in Python, but pins OpenCV below
# 4.13 and needs 70 packages; tests compare this codec with it in both directions.
# The stream begins with the number of bytes, the bits of a byte and of four kinds of lengths,
# each less one: 8, and 3, 4, 8, 16. This codec writes only runs of the longest kind.
_HEADER = '00111' + '0010' + '0011' + '0111' + '1111'
_LONG, _LONGEST = 3, 1 << 16
# Least alpha of a painted pixel: the rim of a brush may be transparent.
_PAINTED = 128


def write_label_studio(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, image_prefix: str = ''
) -> None:
    """Write frames into an empty folder, reading them one at a time; see `write_export`."""
    (folder / CONFIG_FILE).write_text(labelling_config(classes), encoding='utf-8')
    # One task at a time: with images, the whole list may not fit into memory.
    with (folder / TASKS_FILE).open('w', encoding='utf-8') as file:
        before = '['
        for frame in frames:
            write_image(folder / IMAGES, frame)
            file.write(f'{before}\n{json.dumps(_task(frame, classes, image_prefix))}')
            before = ','
        file.write('[]\n' if before == '[' else '\n]\n')


def read_label_studio(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read an export as "JSON", or a folder with it as ``tasks.json``; regions in order.

    The newest annotation of each labeller that was not cancelled counts. It is marked as finished
    if it was submitted in the editor, which measures the time, or has the star of a ground truth;
    not if it was made from the prediction in bulk.
    """
    file = path / TASKS_FILE if path.is_dir() else path
    try:
        for task in read_json(file):
            if 'annotations' not in task and 'predictions' in task:
                continue  # the task as it was exported
            for labeller, annotation in _newest(task['annotations']).items():
                canvas = LabelCanvas(table.row_of(_name(task['data']), file), table.classes)
                for region in annotation['result']:
                    _paint_brush(canvas, region)
                yield from canvas.labelled(_studio_mark(annotation), labeller)
    except MALFORMED as err:
        raise DatasetError(f'{file} is no export of Label Studio ({damage(err)})',
                           'its format "JSON"',
                           'export again as JSON, not as JSON-MIN or CSV') from err


def _newest(annotations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the newest annotation that was not cancelled of each labeller."""
    found: dict[str, dict[str, Any]] = {}
    for one in sorted(annotations, key=lambda a: (str(a.get('updated_at') or ''),
                                                  a.get('id') or 0)):
        if not one.get('was_cancelled'):
            found[_labeller(one)] = one
    return found


def _labeller(annotation: dict[str, Any]) -> str:
    who = annotation.get('completed_by')
    if isinstance(who, dict):
        who = who.get('email') or who.get('id')
    return '' if who is None else str(who)


def _studio_mark(annotation: dict[str, Any]) -> str:
    if annotation.get('ground_truth') is True:
        return 'ground truth in Label Studio'
    # "Create Annotations From Predictions" sets no time.
    time_s = annotation.get('lead_time')
    is_timed = isinstance(time_s, (int, float)) and time_s is not True and time_s > 0
    is_seen = is_timed and not annotation.get('bulk_created')
    return 'submitted in Label Studio' if is_seen else ''


def labelling_config(classes: ClassTable) -> str:
    """Return the XML for "Labeling interface, code": the classes with their colours."""
    view = ElementTree.Element('View')
    ElementTree.SubElement(view, 'Header', value='$dive: $reason', size='5')
    ElementTree.SubElement(view, 'Image', name=_IMAGE, value='$image', zoom='true',
                           zoomControl='true')
    brush = ElementTree.SubElement(view, 'BrushLabels', name=_BRUSH, toName=_IMAGE)
    for name, rgb in zip(classes.names, classes.palette, strict=True):
        ElementTree.SubElement(brush, 'Label', value=name, background=_hex_color(rgb))
    ElementTree.indent(view)
    return ElementTree.tostring(view, 'unicode') + '\n'


def _task(frame: LabelFrame, classes: ClassTable, prefix: str) -> dict[str, Any]:
    kind = _TYPES[Path(frame.row.file).suffix]
    inline = f'data:image/{kind};base64,'
    image = prefix + frame.row.file if prefix else \
        inline + base64.b64encode(frame.image_file).decode('ascii')
    ids = np.unique(frame.mask[frame.mask < len(classes.names)]).tolist()
    regions = [_result(class_id, frame, classes) for class_id in ids]
    # Our score is not the prediction's score, which Label Studio takes for a confidence.
    return {'data': {_IMAGE: image, 'frame': frame.row.stem, **frame.row.facts()},
            'predictions': [{'model_version': 'uncertainty_seg', 'result': regions}]}


def _result(class_id: int, frame: LabelFrame, classes: ClassTable) -> dict[str, Any]:
    return {
        'id': f'class{class_id}', 'type': 'brushlabels', 'from_name': _BRUSH,
        'to_name': _IMAGE, 'original_width': frame.row.width, 'original_height': frame.row.height,
        'image_rotation': 0,
        'value': {'format': 'rle', 'rle': encode_brush(frame.mask == class_id),
                  'brushlabels': [classes.names[class_id]]},
    }


def _name(data: dict[str, Any]) -> str:
    """Return the name of the frame: our field, or the end of its image's address."""
    return str(data.get('frame') or str(data[_IMAGE]).rpartition('=')[2])


def _paint_brush(canvas: LabelCanvas, region: dict[str, Any]) -> None:
    kind = region.get('type')
    if kind != 'brushlabels':
        raise DatasetError(f'{canvas.row.file} has a region of type {kind!r} in Label Studio',
                           'brushlabels', 'draw with the brush, as config.xml offers it')
    height, width = int(region['original_height']), int(region['original_width'])
    canvas.require_size(height, width)
    packed = region['value']['rle']
    if not isinstance(packed, list):  # bytes(n) of a number would be n zeros
        raise DatasetError(f'{canvas.row.file} has an rle that is no list in Label Studio',
                           'the bytes of a brush')
    pixels = decode_brush(packed, height, width)
    for name in region['value']['brushlabels']:
        canvas.paint(str(name), pixels)


def encode_brush(pixels: BoolMask) -> list[int]:
    """Pack a painted region, bool (H, W), into the bytes of Label Studio's JSON."""
    flat = pixels.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    bits = [f'{4 * flat.size:032b}', _HEADER]
    for start, end in zip(edges, edges[1:], strict=False):
        value = 255 if flat[start] else 0
        for first in range(4 * start, 4 * end, _LONGEST):
            length = min(_LONGEST, 4 * end - first)
            bits.append(f'1{_LONG:02b}{length - 1:016b}{value:08b}')
    text = ''.join(bits)
    text += '0' * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, 'big'))


def decode_brush(packed: Sequence[int], height: int, width: int) -> BoolMask:
    """
    Unpack a region of an image of this size, bool (H, W): True where alpha is at least half.

    The inverse of `encode_brush`. Raises DatasetError if the bytes end early or belong to an image
    of another size.
    """
    try:
        values = _unpacked(bytes(packed), height * width * 4)
    except (ValueError, IndexError, TypeError, OverflowError) as err:
        raise DatasetError(f'a brush of {width}x{height} pixels cannot be unpacked ({err})',
                           'the rle of a region of Label Studio') from err
    return values.reshape(height, width, 4)[..., 3] >= _PAINTED


def _unpacked(data: bytes, expected: int) -> NDArray[np.uint8]:
    text, place = ''.join(f'{byte:08b}' for byte in data), 0

    def read(count: int) -> int:
        nonlocal place
        start, place = place, place + count
        if place > len(text):
            raise ValueError(f'it ends at byte {len(data)}')
        return int(text[start:place], 2)

    num, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if num != expected:
        raise ValueError(f'it has {num} values for {expected}')
    values, at = np.zeros(num, np.uint8), 0
    while at < num:
        is_run = read(1)
        end = at + 1 + read(sizes[read(2)])
        if end > num:
            raise ValueError(f'a run ends at {end} of {num}')
        values[at:end] = read(word) if is_run else [read(word) for _ in range(at, end)]
        at = end
    return values


def _hex_color(rgb: tuple[int, int, int]) -> str:
    return '#' + bytes(rgb).hex()


WRITERS: dict[str, Callable[[Path, Iterable[LabelFrame], ClassTable], None]] = {
    'coco': write_coco, 'label-studio': write_label_studio, 'folder': write_folder,
    'fiftyone': write_fiftyone,
}
READERS: dict[str, Callable[[Path, ExportedFrames], Iterator[Labelled]]] = {
    'coco': read_coco, 'label-studio': read_label_studio, 'folder': read_folder,
    'fiftyone': read_fiftyone,
}
# How a labeller marks a frame as finished, as part of a sentence; a folder of masks cannot mark.
HOW_TO_MARK = {
    'coco': 'set "reviewed" to true in its entry of "images"',
    'label-studio': 'open and submit them in Label Studio',
    'folder': '',
    'fiftyone': 'tag them "reviewed" in FiftyOne',
}
