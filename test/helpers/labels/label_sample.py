# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames for the tests of labels: random masks, and a log written by the node's own code."""

from collections.abc import Sequence
from functools import partial
import json
from pathlib import Path
import struct
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.data.label_formats import READERS
from uncertainty_seg.data.label_frames import FrameRow, LabelFrame, read_table
from uncertainty_seg.storage.frame_log.format import decode_frame, frame_files, LogAbout, LogFrame
from uncertainty_seg.storage.labelled_folder import ClassTable

# The names contain the characters that XML, JSON and file names must escape.
CLASSES = ClassTable(('sea-floor / rocks', 'pipe', 'a "diver" & <fish>'),
                     ((0, 0, 0), (255, 0, 0), (0, 200, 100)), 255)
REASON = 'flagged: entropy.mean 0.9 > 0.7 & "more" <here>'


def make_frame(
    index: int, size: tuple[int, int], dive: str = 'dive.1', mask: ImageU8 | None = None,
    **facts: Any,
) -> LabelFrame:
    """Return a frame of random pixels of size (H, W); odd indices are JPEG, even ones PNG."""
    rng = np.random.default_rng(index)
    if mask is None:
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
    stem, ending = f'{dive}_{index:04d}.raw', '.jpg' if index % 2 else '.png'
    _, data = cv2.imencode(ending, rng.integers(0, 255, (*size, 3), np.uint8))
    known = {'stem': stem, 'file': stem + ending, 'key': f'key {index}', 'dive': dive,
             'stamp_ns': 1_700_000_000_123_456_789 + index, 'height': size[0], 'width': size[1],
             'reason': REASON, 'score': 1.25, 'origin': 'selected'}
    return LabelFrame(FrameRow(**{**known, **facts}), data.tobytes(), mask)


def corrected(folder: Path, kind: str) -> Path:
    """Return what a labelling tool returns for an export without corrections."""
    if kind != 'label-studio':
        return folder
    # Label Studio turns accepted predictions into annotations.
    tasks: list[dict[str, Any]] = json.loads((folder / 'tasks.json').read_text())
    for number, task in enumerate(tasks):
        task['annotations'] = [{'id': number, **prediction}
                               for prediction in task.pop('predictions')]
    file = folder / 'export.json'
    file.write_text(json.dumps(tasks))
    return file


def read_back(folder: Path, kind: str) -> dict[str, ImageU8]:
    """Return the masks of an export by stem, read by the reader of its format."""
    return {one.stem: one.mask for one in
            READERS[kind](corrected(folder, kind), read_table(folder))}


def write_log(
    folder: Path, masks: Sequence[ImageU8], dive: str = 'dive_7',
    names: tuple[str, ...] = CLASSES.names,
) -> Path:
    """Write a frame log by the node's own code; frames of odd index arrive as JPEG."""
    about = LogAbout(dive, 'tiny', '0' * 64, names, CLASSES.palette[:len(names)], passes=8)
    for index, mask in enumerate(masks):
        rng = np.random.default_rng(index)
        image: ImageU8 | ImageFile = rng.integers(0, 255, (*mask.shape, 3), np.uint8)
        if index % 2:
            data = cv2.imencode('.jpg', np.asarray(image))[1].tobytes()
            image = ImageFile(data, 'jpeg')
        values = rng.random(mask.shape, np.float32)
        values[0, 0] = np.nan
        ratio = 0.5 + index
        reasons = ('within limits',) if ratio <= 1 else ('entropy.mean 0.9 > 0.7',)
        verdict = Verdict(ratio <= 1, reasons, ratio,
                          'confident' if ratio <= 1 else 'uncertain')
        frame = LogFrame(10**18 + index, 'front', 'camera', image, 'bgr8', verdict,
                         {'entropy.mean': 0.9}, {'entropy.mean': 0.7}, partial(_same, mask),
                         partial(_same, values))
        frame_id = f'{10**18 + index}_front'
        facts = {'frame_id': frame_id, 'reason': ('control', 'flagged')[ratio > 1]}
        place = folder / 'frames' / frame_id
        place.mkdir(parents=True)
        files = frame_files(frame, decode_frame(frame)[0], about, 'received', facts)
        for name, data in files.items():
            (place / name).write_bytes(data)
    return folder


def turned(jpeg: bytes, orientation: int, order: str = '<') -> bytes:
    """Add an EXIF orientation to a JPEG, as a camera in a rotated mount does."""
    tiff = struct.pack(f'{order}2sHIH', b'II' if order == '<' else b'MM', 42, 8, 2)
    tiff += struct.pack(f'{order}HHIHH', 0x0103, 3, 1, 6, 0)
    tiff += struct.pack(f'{order}HHIHH', 0x0112, 3, 1, orientation, 0) + bytes(4)
    body = b'Exif\0\0' + tiff
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body + jpeg[2:]


def _same(array: Any) -> Any:
    return array
