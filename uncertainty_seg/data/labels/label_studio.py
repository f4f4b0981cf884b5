# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels for Label Studio: ``tasks.json`` with brush predictions, and ``config.xml``.

An image is contained in its task as a data URL, so that nothing has to be served; or its address
is a prefix and its name. What is too large for one upload is split into files. Dive, reason, score
and stamp are data of the task, and the reason is shown above the image. Labels are read from Label
Studio's export "JSON": of each labeller of a task the newest annotation that was not cancelled.

"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.data.labels.frames import (
    ExportedFrames,
    hex_color,
    IMAGES,
    LabelFrame,
    read_json,
    write_image,
)
from uncertainty_seg.data.labels.regions import (
    BoolMask,
    damage,
    LabelCanvas,
    Labelled,
    MALFORMED,
    Region,
    regions_of,
    run_lengths,
)
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.labelled_folder import ClassTable

FILE = 'tasks.json'
CONFIG_FILE = 'config.xml'
# Label Studio accepts at most 250 MB in one upload.
PART_CHARACTERS = 200_000_000
# Names in the labelling config.
_BRUSH, _IMAGE = 'mask', 'image'
_TYPES = {'.jpg': 'jpeg', '.png': 'png'}
# The run lengths of the brush are a stream of bits over RGBA bytes, the format of the JavaScript
# package ``@thi.ng/rle-pack``. Label Studio's SDK has a codec in Python, but pins OpenCV below
# 4.13 and needs 70 packages; tests compare this codec with it in both directions.
_WORD_BITS = 8
# Bits of a length; an index into these precedes it.
_SIZES = np.array([3, 4, 8, 16])
_LONGEST = 1 << 16
# Alpha from which a pixel is painted: the rim of a brush may be transparent.
_PAINTED = 128


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, image_prefix: str = ''
) -> None:
    """
    Write frames into an empty folder, reading them one at a time.

    `image_prefix` precedes the name of an image in its address, such as
    ``/data/local-files/?d=dive_7/images/``; if it is empty the task contains the image.
    """
    (folder / CONFIG_FILE).write_text(labelling_config(classes), encoding='utf-8')
    texts = (_written(folder, frame, classes, image_prefix) for frame in frames)
    held = next(texts, None)
    for number in count(1):
        # One task at a time: with images, the whole list may not fit into memory.
        with (folder / part_name(number)).open('w', encoding='utf-8') as file:
            size, before = 0, '['
            while held is not None and (size == 0 or size + len(held) < PART_CHARACTERS):
                size += file.write(f'{before}\n{held}')
                held, before = next(texts, None), ','
            file.write('\n]\n' if size else '[]\n')
        if held is None:
            return


def part_name(number: int) -> str:
    """Return tasks.json for part 1, then tasks_2.json etc."""
    return FILE if number == 1 else FILE.replace('.', f'_{number}.')


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    An export as "JSON", or a folder with it as ``tasks.json``; regions in order. Of each labeller
    the newest annotation that was not cancelled. It is marked as finished if it was submitted in
    the editor, which measures the time, or has the star of a ground truth; not if it was made of
    the prediction in bulk.
    """
    file = path / FILE if path.is_dir() else path
    try:
        for task in read_json(file):
            if 'annotations' not in task and 'predictions' in task:
                continue  # as it was sent
            for labeller, annotation in _newest(task['annotations']).items():
                canvas = LabelCanvas(table.row_of(_name(task['data']), file), table.classes)
                for region in annotation['result']:
                    _paint(canvas, region)
                yield from canvas.labelled(_mark(annotation), labeller)
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


def _mark(annotation: dict[str, Any]) -> str:
    if annotation.get('ground_truth') is True:
        return 'ground truth in Label Studio'
    # "Create Annotations From Predictions" leaves no time.
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
        ElementTree.SubElement(brush, 'Label', value=name, background=hex_color(rgb))
    ElementTree.indent(view)
    return ElementTree.tostring(view, 'unicode') + '\n'


def _written(folder: Path, frame: LabelFrame, classes: ClassTable, prefix: str) -> str:
    write_image(folder / IMAGES, frame)
    return json.dumps(_task(frame, classes, prefix))


def _task(frame: LabelFrame, classes: ClassTable, prefix: str) -> dict[str, Any]:
    kind = _TYPES[frame.ending]
    inline = f'data:image/{kind};base64,'
    image = prefix + frame.file_name if prefix else \
        inline + base64.b64encode(frame.image_file).decode('ascii')
    regions = [_result(region, frame, classes) for region in
               regions_of(frame.mask, len(classes.names))]
    # Not as score of the prediction, which Label Studio takes for a confidence.
    return {'data': {_IMAGE: image, 'frame': frame.stem, **frame.facts()},
            'predictions': [{'model_version': 'uncertainty_seg', 'result': regions}]}


def _result(region: Region, frame: LabelFrame, classes: ClassTable) -> dict[str, Any]:
    return {
        'id': 'class' + str(region.class_id), 'type': 'brushlabels', 'from_name': _BRUSH,
        'to_name': _IMAGE, 'original_width': frame.width, 'original_height': frame.height,
        'image_rotation': 0,
        'value': {'format': 'rle', 'rle': encode_brush(region.pixels),
                  'brushlabels': [classes.names[region.class_id]]},
    }


def _name(data: dict[str, Any]) -> str:
    """Return the name of the frame: our own field, or the end of its image's address."""
    return str(data.get('frame') or str(data[_IMAGE]).rpartition('=')[2])


def _paint(canvas: LabelCanvas, region: dict[str, Any]) -> None:
    kind = region.get('type')
    if kind != 'brushlabels':
        raise DatasetError(f'{canvas.row.file} has a region of type {kind!r} in Label Studio',
                           'brushlabels', 'draw with the brush, as config.xml offers it')
    height, width = int(region['original_height']), int(region['original_width'])
    canvas.require_size(height, width)
    packed = region['value']['rle']
    if not isinstance(packed, list):  # a number would become as many zeros
        raise DatasetError(f'{canvas.row.file} has an rle that is no list in Label Studio',
                           'the bytes of a brush')
    pixels = decode_brush(packed, height, width)
    for name in region['value']['brushlabels']:
        canvas.paint(str(name), pixels)


def encode_brush(pixels: BoolMask) -> list[int]:
    """Pack a painted region, bool (H, W), to the bytes of Label Studio's JSON."""
    lengths = np.array(run_lengths(pixels.ravel()), np.int64) * 4
    values = np.arange(lengths.size) % 2 * 255
    # A run whose length exceeds 16 bits is split.
    parts = -(-lengths // _LONGEST)
    chunks = np.repeat(np.where(parts > 0, _LONGEST, 0), parts)
    last = np.cumsum(parts)[parts > 0] - 1
    chunks[last] = lengths[parts > 0] - (parts[parts > 0] - 1) * _LONGEST
    body = _run_bits(chunks, np.repeat(values, parts))
    header = _bits(pixels.size * 4, 32) + _bits(_WORD_BITS - 1, 5)
    header += [bit for size in _SIZES for bit in _bits(int(size) - 1, 4)]
    return np.packbits(np.concatenate((np.array(header, np.uint8), body))).tolist()


def decode_brush(packed: Sequence[int], height: int, width: int) -> BoolMask:
    """
    Unpack a region of an image of this size, bool (H, W): True where alpha is at least half.

    The inverse of `encode_brush`. Raises DatasetError if the bytes end early or are of an image of
    another size.
    """
    try:
        values = _unpacked(_BitReader(bytes(packed)), height * width * 4)
    except (ValueError, IndexError, TypeError, OverflowError) as err:
        raise DatasetError(f'a brush of {width}x{height} pixels cannot be unpacked ({err})',
                           'the rle of a region of Label Studio') from err
    return values.reshape(height, width, 4)[..., 3] >= _PAINTED


class _BitReader:
    """Reads unsigned integers from a stream of bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data + bytes(4)  # so that the last number can be cut from 5 bytes
        self._end, self._at = len(data) * 8, 0

    def read(self, count: int) -> int:
        """Return the next number of up to 32 bits."""
        start, self._at = self._at, self._at + count
        if self._at > self._end:
            raise ValueError(f'it ends at byte {self._end // 8}')
        block = int.from_bytes(self._data[start >> 3:(start >> 3) + 5], 'big')
        return block >> (40 - (start & 7) - count) & ((1 << count) - 1)


def _unpacked(bits: _BitReader, expected: int) -> NDArray[np.uint8]:
    num, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if num != expected:
        raise ValueError(f'it has {num} values for {expected}')
    values, at = np.zeros(num, np.uint8), 0
    while at < num:
        is_run = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        if end > num:
            raise ValueError(f'a run ends at {end} of {num}')
        values[at:end] = bits.read(word) if is_run else [bits.read(word) for _ in range(at, end)]
        at = end
    return values


def _run_bits(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bits of runs: 1, which size, the length less 1, the value."""
    which = np.searchsorted(1 << _SIZES, lengths)
    size = _SIZES[which]
    code = ((0b100 | which) << size | (lengths - 1)) << _WORD_BITS | values
    used = 3 + size + _WORD_BITS
    left = (code << (32 - used)).astype('>u4')
    table = np.unpackbits(left.view(np.uint8)).reshape(-1, 32)
    bits: NDArray[np.uint8] = table[np.arange(32) < used[:, None]]
    return bits


def _bits(value: int, count: int) -> list[int]:
    return [value >> shift & 1 for shift in reversed(range(count))]
