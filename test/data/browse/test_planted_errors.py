# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Labels of made scenes, some of them wrong on purpose, and what the shipped network says."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score table')
pytest.importorskip('jinja2', reason='jinja2 is not installed: no page')
pytest.importorskip('openvino', reason='openvino is not installed')

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.sim.scene import render_scene  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

# Scenes 0 to 8; the pipe (1) of these is labelled as debris (5).
SWAPPED = (1, 4, 7)


@pytest.mark.release
def test_planted_swaps_are_the_first_of_the_list(tmp_path: Path) -> None:
    card = load_bundle('pipeline').card
    folder = tmp_path / 'scenes'
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for seed in range(9):
        scene = render_scene(500 + seed, size=(256, 192), turbidity=0.05)
        mask = np.array(scene.mask, np.uint8)
        if seed in SWAPPED:
            assert (mask == 1).mean() > 0.01
            mask[mask == 1] = 5
        cv2.imwrite(str(folder / 'images' / f'{seed}.png'), scene.image)
        cv2.imwrite(str(folder / 'masks' / f'{seed}.png'), mask)
    (folder / 'classes.json').write_text(json.dumps({'classes': [
        {'id': k, 'name': name, 'rgb': list(rgb)} for k, (name, rgb) in
        enumerate(zip(card.class_names, card.palette, strict=True))], 'ignore_index': 255}))
    assert main(['score', str(folder / 'images'), '--out', str(tmp_path / 'table'), '--model',
                 'pipeline', '--backend', 'onnxruntime']) == 0
    assert main(['browse', str(tmp_path / 'table'), '-o', str(tmp_path / 'page.html'), '--most',
                 '2', '--labelled', str(folder), '--errors', str(tmp_path / 'errors.json')]) == 0
    found = json.loads((tmp_path / 'errors.json').read_text())
    swaps = [row['label'] in map(str, SWAPPED)
             and (row['given'], row['predicted']) == ('debris', 'pipeline') for row in found]
    assert {row['label'] for row in found[:3]} == set(map(str, SWAPPED)), found[:6]
    assert all(swaps[:3])
    assert all(row['given'] != row['predicted'] and row['reviewed'] for row in found)
