# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""SubPipe and MarinaPipe, as their authors' READMEs lay them out, made of small files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def image_of(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pipe_of(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Return where the pipe is: a band, in every third frame none."""
    pipe = np.zeros((height, width), bool)
    if seed % 3:
        pipe[:, seed % 5 + 4:seed % 5 + 12] = True
    return pipe


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_subpipe(root: Path) -> Path:
    """Write SubPipe/DATA/Chunk0 .. 2 with what else is there; only Chunk2 has labels."""
    for chunk in ('Chunk0', 'Chunk1', 'Chunk2'):
        folder = root / 'DATA' / chunk
        write(folder / 'Cam0_images' / '1693574361.444.jpg', image_of(99))
        write(folder / 'SSS_HF_images' / 'Image' / '1693574361.444.png', image_of(98))
        (folder / 'Depth.csv').write_text('timestamp,depth\n')
    for k in range(9):
        folder, name = root / 'DATA' / 'Chunk2' / 'Segmentation', f'{1693574361 + k}.444'
        write(folder / f'{name}.png', image_of(k))
        write(folder / f'{name}_label.png', pipe_of(k).astype(np.uint8) * 255)
    (root / 'config.yaml').write_text('a: 1\n')
    return root


def write_marinapipe(root: Path) -> Path:
    """Write seven videos, two without fine labels; labels have the size of the cropped image."""
    for video in range(1, 8):
        for k in range(3):
            folder, name = root / f'video_{video}', f'frame0-01-2{k}.40'
            write(folder / 'original_selected_images' / f'{name}.jpg', image_of(k, 48, 64))
            write(folder / 'resized_selected_images' / f'{name}.png', image_of(10 * video + k))
            write(folder / 'coarse_annotation' / f'{name}_label.png',
                  np.pad(pipe_of(k + 1)[:, 1:], ((0, 0), (0, 1))).astype(np.uint8))
            if video not in (5, 6):
                write(folder / 'fine_annotation' / f'{name}_label.png',
                      pipe_of(k + 1)[..., None] * np.uint8((0, 0, 200)))
    return root
