# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as a FiftyOneDataset on disk: ``samples.json`` with every fact, images and masks.

The form without a version in ``metadata.json``, which every FiftyOne since 0.7 loads by
``fo.Dataset.from_dir(folder, dataset_type=fo.types.FiftyOneDataset)``; the newer form changes
with each release. Labels are not read back.

"""

from __future__ import annotations

from collections.abc import Iterable
import json
from pathlib import Path
from typing import Any

from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.labels.frames import encoded_png, hex_color, LabelFrame, write_image

DATA = 'data'
FIELD = 'prediction'
# FiftyOne takes the paths of a field below `fields` as relative to the data set.
MASKS = f'fields/{FIELD}'


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; facts of a frame are fields, its dive is also a tag."""
    (folder / MASKS).mkdir(parents=True)
    samples = []
    for frame in frames:
        write_image(folder / DATA, frame)
        (folder / MASKS / f'{frame.stem}.png').write_bytes(encoded_png(frame.mask))
        samples.append(_sample(frame))
    (folder / 'samples.json').write_text(json.dumps({'samples': samples}), encoding='utf-8')
    (folder / 'metadata.json').write_text(json.dumps(_metadata(classes), indent=1),
                                          encoding='utf-8')


def _sample(frame: LabelFrame) -> dict[str, Any]:
    mask = {'_cls': 'Segmentation', 'tags': [], 'mask_path': f'{MASKS}/{frame.stem}.png'}
    return {'filepath': f'{DATA}/{frame.file_name}', 'tags': [frame.dive], **frame.facts(),
            FIELD: mask}


def _metadata(classes: ClassTable) -> dict[str, Any]:
    targets = {str(index): name for index, name in enumerate(classes.names)}
    colors = {name: hex_color(rgb) for name, rgb in
              zip(classes.names, classes.palette, strict=True)}
    return {'media_type': 'image', 'info': {
        'description': 'exported by uncertainty_seg', 'default_mask_targets': targets,
        'colors': colors, 'ignore_index': classes.ignore_index}}
