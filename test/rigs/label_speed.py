# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How long labels take in each format: the table of docs/labels.md, as Markdown.

    python test/rigs/label_speed.py
    PYTHONPATH=.:label_tools python test/rigs/label_speed.py --brush

The second compares the brush codec with that of Label Studio's SDK, which is in `label_tools`.

"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
import sys
import tempfile
from time import perf_counter
from typing import Any

import cv2
from label_sample import corrected
import numpy as np

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.labels.formats import READERS, write_export, WRITERS
from uncertainty_seg.data.labels.frames import LabelFrame, read_table
from uncertainty_seg.data.labels.label_studio import decode_brush, encode_brush
from uncertainty_seg.sim.pipe import CLASS_NAMES, PALETTE
from uncertainty_seg.sim.scene import render_scene
from uncertainty_seg.storage.labelled_folder import ClassTable

FRAMES, SIZE = 40, (1280, 720)
CLASSES = ClassTable(CLASS_NAMES, PALETTE, 255)


def main() -> None:
    cv2.setNumThreads(1)
    frames = make_frames()
    if '--brush' in sys.argv:
        compare_brushes(frames[0].mask)
        return
    print(f'image: {np.mean([len(frame.image_file) for frame in frames]) / 1e3:.0f} kB')
    print('| format | write, ms | read, ms | kB |\n|---|---|---|---|')
    for kind in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            print(row_of(kind, Path(folder) / 'out', frames), flush=True)


def make_frames() -> list[LabelFrame]:
    """Render four scenes, each ten times as a frame."""
    scenes = [render_scene(seed, size=SIZE, turbidity=0.2) for seed in (5, 6, 7, 8)]
    frames = []
    for index in range(FRAMES):
        scene = scenes[index % len(scenes)]
        data = cv2.imencode('.jpg', scene.image)[1].tobytes()
        frames.append(LabelFrame(
            f'd_{index:03d}', str(index), 'd', index, 'camera', data, '.jpg', scene.mask,
            np.zeros(scene.mask.shape, np.float32), 'flagged', 1.2))
    return frames


def row_of(kind: str, out: Path, frames: list[LabelFrame]) -> str:
    write_ms = timed_ms(partial(write_export, out, kind, frames, CLASSES)) / FRAMES
    size = sum(file.stat().st_size for file in out.rglob('*') if file.is_file()) / FRAMES / 1e3
    read = ''
    if kind in READERS:
        labels, table = corrected(out, kind), read_table(out)
        masks: dict[str, LabelMap] = {}
        read_ms = timed_ms(lambda: masks.update(
            (one.stem, one.mask) for one in READERS[kind](labels, table))) / FRAMES
        assert len(masks) == FRAMES
        read = f'{read_ms:.0f}'
    return f'| `{kind}` | {write_ms:.0f} | {read} | {size:.0f} |'


def compare_brushes(mask: LabelMap) -> None:
    from label_studio_sdk.converter import brush  # type: ignore[import-not-found, unused-ignore]

    layers = [mask == index for index in range(len(CLASS_NAMES)) if (mask == index).any()]
    pictures = [(layer * 255).astype(np.uint8) for layer in layers]
    ours, theirs = ([encode_brush(layer) for layer in layers],
                    [brush.mask2rle(picture) for picture in pictures])
    for name, work in {
        'packed here': lambda: [encode_brush(layer) for layer in layers],
        'packed by the SDK': lambda: [brush.mask2rle(picture) for picture in pictures],
        'unpacked here': lambda: [decode_brush(item, *mask.shape) for item in ours],
        'unpacked by the SDK': lambda: [brush.decode_rle(item) for item in theirs],
    }.items():
        print(f'{name}: {min(timed_ms(work) for _ in range(5)):.0f} ms')


def timed_ms(work: Callable[[], Any]) -> float:
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e3


if __name__ == '__main__':
    main()
