# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as Pascal VOC's segmentation: JPEGImages/, SegmentationClass/, ImageSets/, labelmap.txt.

A mask is a PNG with a palette, whose index is the class id and 255 is "void", as in VOC itself,
and the mark of a prediction. An image keeps its type: of a log it may be a PNG. Not read back, but
compared with what comes back by a format that is.

"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import struct
import zlib

import numpy as np

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged, ImageFile
from uncertainty_seg.data.labels.frames import LabelFrame, VOC_IMAGES, write_image
from uncertainty_seg.data.labels.regions import VOID_NAME
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.review_record import marked

MASKS, FILE = 'SegmentationClass', 'labelmap.txt'
SETS = 'ImageSets/Segmentation'
# datumaro refuses a colour that is not declared.
_VOID, _VOID_RGB = 255, (224, 224, 192)


def write_labels(folder: Path, frames: Iterable[LabelFrame], classes: ClassTable) -> None:
    """Write frames into an empty folder; dive, reason and score are only in frames.json."""
    for name in (MASKS, SETS):
        (folder / name).mkdir(parents=True)
    stems = []
    for frame in frames:
        write_image(folder / VOC_IMAGES, frame)
        mask = np.where(frame.mask == classes.ignore_index, np.uint8(_VOID), frame.mask)
        png = palette_png(mask, classes)
        png = marked(png, decode_unchanged(ImageFile(png)))
        (folder / MASKS / f'{frame.stem}.png').write_bytes(png)
        stems.append(frame.stem)
    (folder / SETS / 'default.txt').write_text('\n'.join(stems) + '\n', encoding='utf-8')
    lines = [f'{name.replace(":", "_")}:{",".join(map(str, rgb))}::' for name, rgb in
             zip(classes.names, classes.palette, strict=True)]
    void = f'{VOID_NAME}:{",".join(map(str, _VOID_RGB))}::'
    text = '\n'.join(['# label:color_rgb:parts:actions', *lines, void])
    (folder / FILE).write_text(text + '\n', encoding='utf-8')


def palette_png(mask: LabelMap, classes: ClassTable) -> bytes:
    """Encode a mask, (H, W) uint8, as a PNG whose pixels are indices; OpenCV writes none."""
    height, width = mask.shape
    colors = [*classes.palette, *[(0, 0, 0)] * (_VOID - len(classes.palette)), _VOID_RGB]
    rows = np.concatenate((np.zeros((height, 1), np.uint8), mask), 1)  # filter 0 before each
    return b'\x89PNG\r\n\x1a\n' + b''.join((
        _chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)),
        _chunk(b'PLTE', bytes(value for rgb in colors for value in rgb)),
        _chunk(b'IDAT', zlib.compress(rows.tobytes())), _chunk(b'IEND', b'')))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + \
        struct.pack('>I', zlib.crc32(kind + content))
