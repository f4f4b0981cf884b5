# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Folders of small labelled images for the tiny network, of which it is known which are bad."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

COLORS_BGR = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.float32)
CLASSES = ['blue', 'green', 'red']


def few_draws(patch: pytest.MonkeyPatch) -> None:
    """
    Let intervals over blocks be of 40 draws, not 500 or 1000: most of the time of `evaluate`.

    The intervals themselves are held against known answers in test_bootstrap.

    """
    from uncertainty_seg.calibration import evaluation_run
    from uncertainty_seg.calibration.statistics import bootstrap, evaluation, nested

    block_interval = bootstrap.block_interval

    def interval(*args: Any, draws: int = 0, **more: Any) -> bootstrap.Interval:
        return block_interval(*args, draws=40, **more)

    for module in (bootstrap, evaluation, nested, evaluation_run):
        patch.setattr(module, 'block_interval', interval)


def picture(rng: np.random.Generator, greyness: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw blocks of colour; the greyer, the less sure the tiny network and the worse its mask."""
    labels = rng.integers(0, 3, (4, 5)).repeat(12, 0).repeat(13, 1)[:48, :64].astype(np.uint8)
    image = COLORS_BGR[labels] * (1 - greyness) + 128 * greyness
    image += rng.normal(0, 10 + 50 * greyness, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_folder(
    folder: Path, count: int, seed: int, bad_share: float = 0.25, hidden_share: float = 0.04,
    splits: bool = False,
) -> Path:
    """
    Write a labelled folder.

    A share of the pictures is grey, and labelled by lot: bad, and the scores see it. A smaller
    share is clear and labelled by lot: bad, and nothing can see it.

    """
    rng = np.random.default_rng(seed)
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stems = [f'frame_{seed}_{i:03}' for i in range(count)]
    for stem in stems:
        chance = rng.uniform()
        is_grey = chance < bad_share
        image, labels = picture(rng, rng.uniform(0.75, 0.95) if is_grey else rng.uniform(0, 0.5))
        if is_grey or chance > 1 - hidden_share:
            labels = rng.permutation(labels.ravel()).reshape(labels.shape)
        cv2.imwrite(str(folder / 'images' / f'{stem}.png'), image)
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), labels)
    rows = [{'id': i, 'name': name, 'rgb': COLORS_BGR[i][::-1].astype(int).tolist()}
            for i, name in enumerate(CLASSES)]
    (folder / 'classes.json').write_text(json.dumps({'classes': rows, 'ignore_index': 255}))
    if splits:
        (folder / 'splits.json').write_text(json.dumps({
            'train': stems[:count // 2], 'val': stems[count // 2:]}))
    return folder
