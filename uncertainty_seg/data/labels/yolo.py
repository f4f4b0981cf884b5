# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels for YOLO's segmentation: ``images/``, ``labels/STEM.txt`` with a polygon a line, data.yaml.

A line is the class id and the corners of one part, as shares of width and height, the largest part
first; an outline has no holes. The two splits that YOLO wants are the same images. A line has no
place for a mark, so data.yaml says whose labels these are. Not read back, but compared with what
comes back by a format that is.

"""

from __future__ import annotations

from collections.abc import Iterable
import json
from pathlib import Path

from uncertainty_seg.data.labels.frames import IMAGES, LabelFrame, write_image
from uncertainty_seg.data.labels.regions import Outline, outlines_of
from uncertainty_seg.storage.labelled_folder import ClassTable

LABELS, FILE = 'labels', 'data.yaml'
_REMARK = '# The labels are what a model predicted, and nobody looked at them yet.'


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; dive, reason and score are only in frames.json."""
    (folder / LABELS).mkdir()
    for frame in frames:
        write_image(folder / IMAGES, frame)
        lines = [_line(outline, frame) for outline in
                 outlines_of(frame.mask, len(classes.names))]
        (folder / LABELS / f'{frame.stem}.txt').write_text(''.join(lines), encoding='utf-8')
    # A text of JSON is one of YAML too, whatever is in a name.
    names = ''.join(f'  {index}: {json.dumps(name)}\n' for index, name in
                    enumerate(classes.names))
    (folder / FILE).write_text(
        f'{_REMARK}\ntrain: {IMAGES}\nval: {IMAGES}\nnames:\n{names}', encoding='utf-8')


def _line(outline: Outline, frame: LabelFrame) -> str:
    shares = (outline.points / (frame.width, frame.height)).ravel()
    return f'{outline.class_id} {" ".join(f"{share:.7f}" for share in shares)}\n'
