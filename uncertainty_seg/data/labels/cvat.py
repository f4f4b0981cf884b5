# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as "CVAT for images 1.1": ``cvat.zip`` with annotations.xml and the images.

Dive, reason and score of a frame are attributes of a tag, `uncertainty_seg`, which ``labels.json``
declares for CVAT's constructor of labels (tab "Raw"). Masks, polygons and boxes are read back.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
import zipfile

from uncertainty_seg.data.labels.frames import (
    ARCHIVE_FILE,
    ExportedFrames,
    hex_color,
    IMAGES,
    LabelFrame,
)
from uncertainty_seg.data.labels.regions import (
    damage,
    from_run_lengths,
    INSTANCES,
    LabelCanvas,
    Labelled,
    MALFORMED,
    MASKS,
    outlines_of,
    parts_of,
    POLYGONS,
    regions_of,
    run_lengths,
)
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.foreign_files import (
    MAX_XML_BYTES,
    open_zip,
    parse_xml,
    read_bytes,
    read_entry,
    ZIP_ERRORS,
)
from uncertainty_seg.storage.labelled_folder import ClassTable

FILE = 'annotations.xml'
LABELS_FILE = 'labels.json'
_TAG, _ATTRIBUTES = 'uncertainty_seg', ('dive', 'reason', 'score')
# CVAT exports no state of a job: the labeller ticks this attribute of the tag.
MARK = 'reviewed'
_KINDS = ('mask', 'polygon', 'box')


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, shapes: str = MASKS
) -> None:
    """Write frames into an empty folder."""
    root = ElementTree.Element('annotations')
    ElementTree.SubElement(root, 'version').text = '1.1'
    meta = ElementTree.SubElement(ElementTree.SubElement(root, 'meta'), 'task')
    _add_labels(ElementTree.SubElement(meta, 'labels'), classes)
    # Images are compressed already; deflating them takes time and saves nothing.
    with zipfile.ZipFile(folder / ARCHIVE_FILE, 'w', zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(frames):
            archive.writestr(f'{IMAGES}/{frame.file_name}', frame.image_file)
            _add_image(root, number, frame, classes, shapes)
        ElementTree.indent(root)
        archive.writestr(FILE, ElementTree.tostring(root, 'utf-8', xml_declaration=True),
                         zipfile.ZIP_DEFLATED)
    (folder / LABELS_FILE).write_text(json.dumps(_raw_labels(classes), indent=1),
                                      encoding='utf-8')


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    An archive or XML file of CVAT, or a folder with one; shapes by `z_order`, then as listed. A
    frame is marked as finished by the attribute `reviewed` of its tag.
    """
    place = _place(path)
    root = _root(place)
    if root.find('image') is None:
        raise DatasetError(f'{place} has no image', 'labels of images',
                           'export as "CVAT for images 1.1", not as video')
    try:
        for image in root.iter('image'):
            canvas = LabelCanvas(table.row_of(image.attrib['name'], place), table.classes)
            canvas.require_size(int(image.attrib['height']), int(image.attrib['width']))
            shapes = [item for item in image if item.tag != 'tag']
            for shape in sorted(shapes, key=lambda item: int(item.get('z_order', 0))):
                _paint(canvas, shape)
            yield from canvas.labelled(_mark(image))
    except MALFORMED as err:
        raise DatasetError(f'{place} is no "CVAT for images 1.1" ({damage(err)})',
                           'what CVAT exports under that name') from err


def _mark(image: ElementTree.Element) -> str:
    for tag in image.iter('tag'):
        if tag.get('label') == _TAG and any(
                item.get('name') == MARK and (item.text or '').strip().lower() == 'true'
                for item in tag.iter('attribute')):
            return f'{MARK} in CVAT'
    return ''


def _add_labels(parent: ElementTree.Element, classes: ClassTable) -> None:
    for entry in _raw_labels(classes):
        label = ElementTree.SubElement(parent, 'label')
        for key in ('name', 'color', 'type'):
            ElementTree.SubElement(label, key).text = entry[key]
        attributes = ElementTree.SubElement(label, 'attributes')
        for item in entry['attributes']:
            attribute = ElementTree.SubElement(attributes, 'attribute')
            ElementTree.SubElement(attribute, 'name').text = item['name']
            ElementTree.SubElement(attribute, 'mutable').text = 'False'
            ElementTree.SubElement(attribute, 'input_type').text = item['input_type']
            ElementTree.SubElement(attribute, 'default_value').text = item['values'][0]
            ElementTree.SubElement(attribute, 'values').text = item['values'][0]


def _add_image(
    root: ElementTree.Element, number: int, frame: LabelFrame, classes: ClassTable, shapes: str
) -> None:
    image = ElementTree.SubElement(root, 'image', id=str(number), name=frame.file_name,
                                   width=str(frame.width), height=str(frame.height))
    _add_shapes(image, frame, classes, shapes)
    tag = ElementTree.SubElement(image, 'tag', label=_TAG, source='auto')
    facts = frame.facts()
    for name in _ATTRIBUTES:
        value = facts[name]
        ElementTree.SubElement(tag, 'attribute', name=name).text = \
            '' if value is None else _xml_text(str(value))
    ElementTree.SubElement(tag, 'attribute', name=MARK).text = 'false'


def _add_shapes(
    image: ElementTree.Element, frame: LabelFrame, classes: ClassTable, shapes: str
) -> None:
    if shapes == POLYGONS:
        for order, outline in enumerate(outlines_of(frame.mask, len(classes.names))):
            points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in outline.points)
            ElementTree.SubElement(image, 'polygon', label=classes.names[outline.class_id],
                                   source='auto', occluded='0', points=points, z_order=str(order))
        return
    cut = parts_of if shapes == INSTANCES else regions_of
    for region in cut(frame.mask, len(classes.names)):
        ElementTree.SubElement(
            image, 'mask', label=classes.names[region.class_id], source='auto', occluded='0',
            rle=', '.join(map(str, run_lengths(region.crop.ravel()))), left=str(region.left),
            top=str(region.top), width=str(region.crop.shape[1]),
            height=str(region.crop.shape[0]), z_order='0')


def _xml_text(text: str) -> str:
    """Remove the control characters that XML does not allow."""
    return ''.join(c for c in text if c.isprintable() or c in '\t\n')


def _raw_labels(classes: ClassTable) -> list[dict[str, Any]]:
    labels: list[dict[str, Any]] = [
        {'name': name, 'color': hex_color(rgb), 'type': 'any', 'attributes': []}
        for name, rgb in zip(classes.names, classes.palette, strict=True)]
    attributes = [{'name': name, 'input_type': 'text', 'mutable': False, 'values': ['']}
                  for name in _ATTRIBUTES]
    attributes.append({'name': MARK, 'input_type': 'checkbox', 'mutable': False,
                       'values': ['false']})
    return [*labels, {'name': _TAG, 'color': '#808080', 'type': 'tag', 'attributes': attributes}]


def _place(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in (FILE, ARCHIVE_FILE) if (path / name).is_file()]
    if not found:
        raise DatasetError(f'{path} has neither {FILE} nor {ARCHIVE_FILE}', 'an export of CVAT')
    return found[0]


def _root(place: Path) -> ElementTree.Element:
    try:
        if zipfile.is_zipfile(place):
            with open_zip(place) as archive:
                return parse_xml(read_entry(archive, FILE, MAX_XML_BYTES))
        return parse_xml(read_bytes(place, MAX_XML_BYTES))
    except ZIP_ERRORS as err:
        raise DatasetError(f'{place} cannot be read ({err})', f'a zip with {FILE}, or that file') \
            from err


def _paint(canvas: LabelCanvas, shape: ElementTree.Element) -> None:
    name, values = shape.get('label', ''), shape.attrib
    if shape.tag == 'mask':
        height, width = int(values['height']), int(values['width'])
        corner = int(values['left']), int(values['top'])
        canvas.require_part(height, width, *corner)
        pixels = from_run_lengths([int(n) for n in values['rle'].split(',')], height, width)
        if pixels is None:
            raise DatasetError(f'run lengths of {canvas.row.file} do not fill {width}x{height}',
                               'those of all pixels of the mask')
        canvas.paint(name, pixels, *corner)
    elif shape.tag == 'polygon':
        pairs = [[float(n) for n in pair.split(',')] for pair in values['points'].split(';')]
        canvas.paint_polygons(name, [pairs])
    elif shape.tag == 'box' and not float(values.get('rotation', 0)):
        left, top, right, bottom = (float(values[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        canvas.paint_box(name, left, top, right, bottom)
    else:
        raise DatasetError(f'{canvas.row.file} has a {shape.tag} of {name!r} in CVAT',
                           f'{", ".join(_KINDS)} without rotation')
