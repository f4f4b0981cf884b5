# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: the layout of labelled photographs, and equal bytes for equal seeds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim import scene as scene_module
from uncertainty_seg.sim.dataset import simulate_scenes
from uncertainty_seg.sim.pipe import CLASS_NAMES, PALETTE
from uncertainty_seg.sim.scene import render_scene

SMALL = (96, 72)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp('scenes') / 'set'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_module, '_FEW_JOBS', 0)  # several processes
        simulate_scenes(place, count=10, seed=4, size=SMALL, ood=2)
    return place


def test_images_masks_classes_and_splits_fit_together(folder: Path):
    splits = json.loads((folder / 'splits.json').read_text())
    assert {name: len(stems) for name, stems in splits.items()} == {
        'train': 8, 'val': 1, 'limits': 1}
    stems = splits['train'] + splits['val'] + splits['limits']
    assert len(set(stems)) == 10
    facts = json.loads((folder / 'classes.json').read_text())
    assert facts['ignore_index'] == 255
    assert [c['code'] for c in facts['classes']] == list(CLASS_NAMES)
    assert [tuple(c['rgb']) for c in facts['classes']] == list(PALETTE)
    for stem in stems:
        image = cv2.imread(str(folder / 'images' / f'{stem}.jpg'), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(folder / 'masks' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
        assert image.shape == (72, 96, 3) and mask.shape == (72, 96)
        assert mask.max() < len(CLASS_NAMES)


def test_a_written_mask_is_the_rendered_one(folder: Path):
    mask = cv2.imread(str(folder / 'masks' / 'scene_4_00003.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, render_scene(4_000_003, size=SMALL).mask)


def test_the_out_of_distribution_set_ignores_what_training_never_shows(folder: Path):
    place = folder / 'ood'
    splits = json.loads((place / 'splits.json').read_text())
    assert {kind: len(stems) for kind, stems in splits.items()} == {
        'turbid': 2, 'diver': 2, 'fish': 2}
    for kind, stems in splits.items():
        for stem in stems:
            mask = cv2.imread(str(place / 'masks' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
            assert (mask == 255).any() == (kind != 'turbid')
            assert (place / 'images' / f'{stem}.jpg').is_file()


def test_the_number_of_processes_does_not_change_a_byte(folder: Path, tmp_path: Path):
    simulate_scenes(tmp_path, count=10, seed=4, size=SMALL)
    for path in sorted(tmp_path.rglob('*')):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='file'):
        simulate_scenes(tmp_path / 'file', count=2, size=SMALL)


@pytest.mark.parametrize('more', [{'seed': 5}, {'count': 3}, {'ood': 1}])
def test_scenes_do_not_come_among_other_images(folder: Path, more: dict[str, int]):
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    with pytest.raises(ConfigError, match='other images'):
        simulate_scenes(folder, size=SMALL, **{'count': 10, 'seed': 4} | more)
    assert before == {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
