# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Folders of small labelled images for the tiny network; which frames are bad is known."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.cli.main import main

COLORS_BGR = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.float32)
CLASSES = ['blue', 'green', 'red']


RUN = ['--set', 'backend=onnxruntime', '--set', 'threads=1']
BASE = {'backend': 'onnxruntime', 'threads': 1}
RULE = 'accuracy<0.6'


def call_json(*words: str | Path) -> tuple[int, dict[str, Any], str]:
    """Run the command line; return its exit code, its JSON line, and its stderr."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main([str(words[0]), *RUN, *map(str, words[1:])])
    return code, json.loads(out.getvalue().splitlines()[-1]) if code == 0 else {}, said.getvalue()


def write_folders(root: Path) -> Path:
    """Write frames of the three splits, and a fourth folder 'fresh'; return their root."""
    for seed, (name, count) in enumerate((
            ('train', 120), ('val', 50), ('limits', 100), ('fresh', 150)), 1):
        write_folder(root / name, count, seed)
    return root


def calibrate_on(bundle: Path, root: Path, *words: str | Path) -> dict[str, Any]:
    """Calibrate a bundle on the folders of `write_folders`; return the verb's JSON line."""
    code, found, said = call_json('calibrate', bundle, *splits_of(root), '--bad', RULE, *words)
    assert code == 0, said
    return found


def splits_of(root: Path, limits: str = 'limits') -> list[str]:
    """Return the command line arguments that name the folders of the three splits."""
    return ['--train', str(root / 'train'), '--val', str(root / 'val'), '--limits',
            str(root / limits)]


def picture(rng: np.random.Generator, greyness: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw blocks of colour; a greyer image makes the tiny network less certain and less right."""
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

    `bad_share` of the images are grey with random labels: bad frames that the scores detect.
    `hidden_share` are clear with random labels: bad frames that no score can detect.
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
            'train': stems[:count // 2], 'val': stems[count // 2:count * 2 // 3],
            'limits': stems[count * 2 // 3:]}))
    return folder
