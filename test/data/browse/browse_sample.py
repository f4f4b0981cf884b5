# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A folder of coloured pictures with labels, one of them wrong, that the tiny bundle scores."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from conftest import make_tiny_bundle
import cv2
import numpy as np

from uncertainty_seg.cli.main import main

NAMES = ('blue', 'green', 'red')
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
# What a page must not take for its own: names of folders and dives are anybody's.
HOSTILE = '</script><script>document.title=1</script><img src=x onerror=document.title=2>&"\''
FOLDER = '<img src=x onerror=document.title=3>&amp;"\'<!--'
PLANTED = 'frame_3'


def picture(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of two halves of a frame, noise on it, and its true mask."""
    mask = np.full((48, 64), index % 3, np.uint8)
    mask[:, 20 + 4 * (index % 5):] = (index + 1) % 3
    image = np.array(COLOURS, np.uint8)[mask]
    noise = np.random.default_rng(index).integers(-9, 10, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def write_labelled(folder: Path, count: int = 8) -> Path:
    """Write images and masks; the mask of PLANTED names a class that is not there."""
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image, mask = picture(index)
        stem = f'frame_{index}'
        if stem == PLANTED:
            mask = mask.copy()
            mask[8:40, 2:18] = (index + 2) % 3
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), image)
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask)
    table = [{'id': k, 'name': name, 'rgb': list(COLOURS[k][::-1])} for k, name in
             enumerate(NAMES)]
    (folder / 'classes.json').write_text(json.dumps({'classes': table, 'ignore_index': 255}))
    return folder


def write_sample(
    folder: Path, *, is_hostile: bool = False, count: int = 8, more: Sequence[object] = ()
) -> tuple[Path, Path]:
    """Write and score a labelled folder; return it and its table."""
    labelled = write_labelled(folder / (FOLDER if is_hostile else 'labelled'), count)
    words = ['--dive', HOSTILE] if is_hostile else []
    assert main(['score', str(labelled / 'images'), '--out', str(folder / 'table'), '--model',
                 str(make_tiny_bundle(folder / 'tiny')), '--backend', 'onnxruntime', *words,
                 *map(str, more)]) == 0
    return labelled, folder / 'table'


def page_values(page: Path) -> dict:
    """Return what the script of a page reads."""
    text = page.read_text(encoding='utf-8')
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start:text.index('</script>', start)])
