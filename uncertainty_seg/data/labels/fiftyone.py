# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as a FiftyOneDataset on disk: ``samples.json`` with every fact, images, masks and heatmaps.

The form without a version in ``metadata.json``, which every FiftyOne since 0.7 loads by
``fo.Dataset.from_dir(folder, dataset_type=fo.types.FiftyOneDataset)``; the newer form changes
with each release. Read back is what ``dataset.export`` writes under the same type: masks in files,
or, where Python set them, packed in ``samples.json``.

"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
import io
import json
from pathlib import Path
from typing import Any
import zlib

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.data.labels.frames import (
    DATA,
    encoded_png,
    ExportedFrames,
    FrameRow,
    hex_color,
    LabelFrame,
    read_json,
    read_mask,
    write_image,
    write_prediction,
)
from uncertainty_seg.data.labels.regions import damage, LabelCanvas, Labelled, MALFORMED
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.foreign_files import plain_name
from uncertainty_seg.storage.labelled_folder import ClassTable

FIELD, HEATMAP = 'prediction', 'uncertainty'
# A field of the labeller's own has precedence over our corrected one.
FIELDS = ('ground_truth', FIELD)
# FiftyOne takes the paths of a field below `fields` as relative to the data set.
PLACE = 'fields'
FILE, ABOUT_FILE = 'samples.json', 'metadata.json'
MARK = 'reviewed'
# Before the dive in its tag, so that no dive has the name of the mark.
_DIVE_TAG = 'dive:'
_DAMAGE = (*MALFORMED, binascii.Error, zlib.error)


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; its facts are fields, its dive is also a tag."""
    (folder / PLACE).mkdir()
    samples = []
    for frame in frames:
        write_image(folder / DATA, frame)
        write_prediction(folder / PLACE / FIELD, frame.stem, frame.mask)
        if frame.uncertainty is not None:
            place = folder / PLACE / HEATMAP
            place.mkdir(exist_ok=True)
            (place / f'{frame.stem}.png').write_bytes(encoded_png(_grey(frame.uncertainty)))
        samples.append(_sample(frame))
    (folder / FILE).write_text(json.dumps({'samples': samples}), encoding='utf-8')
    (folder / ABOUT_FILE).write_text(json.dumps(_metadata(classes), indent=1), encoding='utf-8')


def read_labels(path: Path, table: ExportedFrames) -> Iterator[Labelled]:
    """
    Read corrected labels; see `formats`.

    A folder that ``dataset.export`` wrote, of the field `ground_truth` where a sample has it, or
    else of `prediction`. A frame is marked as finished by the tag `reviewed`.
    """
    file = path / FILE if path.is_dir() else path
    _require_same_classes(file.parent / ABOUT_FILE, table.classes)
    try:
        for sample in read_json(file)['samples']:
            row = table.row_of(str(sample['filepath']), file)
            canvas = LabelCanvas(row, table.classes)
            field = next((name for name in FIELDS if sample.get(name)), '')
            if field:
                canvas.paint_ids(_mask(sample[field], field, row, (file.parent, table.folder)))
            yield from canvas.labelled(
                f'{MARK} in FiftyOne' if _is_marked(sample['tags'], row) else '')
    except _DAMAGE as err:
        raise DatasetError(f'{file} is no FiftyOneDataset ({damage(err)})',
                           'what dataset.export writes as fo.types.FiftyOneDataset') from err


def _is_marked(tags: Iterable[str], row: FrameRow) -> bool:
    # An older release wrote the dive as it is, which says nothing if it has the mark's name.
    return MARK in tags and (row.dive != MARK or _DIVE_TAG + row.dive in tags)


def _sample(frame: LabelFrame) -> dict[str, Any]:
    name = f'{frame.stem}.png'
    found: dict[str, Any] = {
        'filepath': f'{DATA}/{frame.file_name}', 'tags': [_DIVE_TAG + frame.dive], **frame.facts(),
        FIELD: {'_cls': 'Segmentation', 'tags': [], 'mask_path': f'{PLACE}/{FIELD}/{name}'}}
    if frame.uncertainty is not None:
        found[HEATMAP] = {'_cls': 'Heatmap', 'tags': [], 'map_path': f'{PLACE}/{HEATMAP}/{name}'}
    for name, vector in (('embedding', frame.embedding), ('features', frame.features)):
        if vector is not None:
            found[name] = [round(float(value), 6) for value in vector]
    return found


def _grey(uncertainty: FloatMap) -> ImageU8:
    """Return a map as 0..255; what could not be computed counts as most uncertain."""
    values = np.nan_to_num(uncertainty, nan=1.0).clip(0, 1)
    return np.asarray((values * 255).round(), np.uint8)


def _metadata(classes: ClassTable) -> dict[str, Any]:
    targets = {str(index): name for index, name in enumerate(classes.names)}
    colors = {name: hex_color(rgb) for name, rgb in
              zip(classes.names, classes.palette, strict=True)}
    return {'media_type': 'image', 'info': {
        'description': 'exported by uncertainty_seg', 'default_mask_targets': targets,
        'colors': colors, 'ignore_index': classes.ignore_index}}


def _require_same_classes(file: Path, classes: ClassTable) -> None:
    """Refuse a data set whose masks have other names for the ids."""
    if not file.is_file():
        return
    about = read_json(file)
    about = about if isinstance(about, dict) else {}
    # A release of FiftyOne writes them at the top, its importer's old form under `info`.
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
    """Return the mask of a label: packed in it, or a file of its name where masks of it are."""
    if label.get('mask') is not None:
        return _unpacked(str(label['mask']['$binary']['base64']), row)
    # Only the name counts: a path of another machine is none here.
    name = plain_name(str(label['mask_path']).replace('\\', '/').rpartition('/')[2])
    places = [folder / PLACE / field / name for folder in folders]
    return read_mask(next((place for place in places if place.is_file()), places[0]))


def _unpacked(text: str, row: FrameRow) -> LabelMap:
    """Undo FiftyOne's packing of an array: base64 of zlib of the .npy of numpy."""
    size = row.height * row.width
    try:
        # 8 bytes a pixel and a header; what expands to more is not of this frame.
        content = zlib.decompressobj().decompress(base64.b64decode(text), 8 * size + 4096)
        data = io.BytesIO(content)
        if np.lib.format.read_magic(data) != (1, 0):
            raise ValueError('another version of .npy')
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(data)
    except (ValueError, zlib.error) as err:  # base64's is one, and so are numpy's
        raise _wrong_mask(row, 'cannot be unpacked') from err
    if shape != (row.height, row.width):
        raise DatasetError(f'the labels of {row.file} are {"x".join(map(str, shape[::-1]))}',
                           f'the {row.width}x{row.height} of its image',
                           'label the images of the export in their own size')
    rest = data.read()
    if dtype.kind not in 'uib' or len(rest) != size * dtype.itemsize:
        raise _wrong_mask(row, f'is {len(rest)} bytes of {dtype}')
    values = np.frombuffer(rest, dtype).reshape(shape, order='F' if is_fortran else 'C')
    if values.min() < 0 or values.max() > 255:
        raise _wrong_mask(row, 'has ids beyond 0 to 255')
    return np.ascontiguousarray(values, np.uint8)


def _wrong_mask(row: FrameRow, what: str) -> DatasetError:
    return DatasetError(f'the mask of {row.file} {what}', 'class ids, as FiftyOne packs an array')
