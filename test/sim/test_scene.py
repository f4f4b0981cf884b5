# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Single scenes: repeatable, correctly labelled, and less visible with more turbidity."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from uncertainty_seg.sim.basics import Camera, rotation, stream
from uncertainty_seg.sim.pipe import IGNORE, PipePlan, SEABED
from uncertainty_seg.sim.scene import render, render_scene, Scene
from uncertainty_seg.sim.surfaces import cast
from uncertainty_seg.sim.water import LEAST_TRANSMISSION, random_sensor, random_water
from uncertainty_seg.sim.world import build_world

SMALL = (160, 120)


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.mask.tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = ('import hashlib; from uncertainty_seg.sim.scene import render_scene; '
            's = render_scene(11, size=(160, 120), unknown="diver"); '
            'print(hashlib.sha256(s.image.tobytes() + s.mask.tobytes()).hexdigest())')
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                           check=True)
    assert other.stdout.strip() == digest(render_scene(11, size=SMALL, unknown='diver'))


@pytest.mark.release
def test_all_classes_appear_over_a_few_scenes():
    pixels = np.zeros(256, np.int64)
    for seed in range(100, 124):
        pixels += np.bincount(render_scene(seed, size=(96, 72)).mask.ravel(), minlength=256)
    share = pixels / pixels.sum()
    assert 0.5 < share[SEABED] < 0.9
    assert (share[1:6] > 0.003).all(), share[:6]


@pytest.mark.parametrize('kind', ['diver', 'fish'])
def test_unknown_objects_are_ignored_in_the_mask_and_clearly_in_view(kind: str):
    shares = []
    for seed in range(5):
        scene = render_scene(seed, size=SMALL, unknown=kind)
        shares.append((scene.mask == IGNORE).mean())
    assert sorted(shares)[1] > 0.01 and np.median(shares) > 0.03, shares


def test_turbidity_takes_contrast_and_labels_away_step_by_step():
    for seed in (3, 15):
        contrast, labelled = [], []
        for turbidity in (0.0, 0.3, 0.55, 0.8, 1.0):
            scene = render_scene(seed, size=SMALL, turbidity=turbidity)
            grey = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
            # Structures of a few pixels: wider than noise, narrower than the light of the lamps.
            band = cv2.GaussianBlur(grey, (0, 0), 2) - cv2.GaussianBlur(grey, (0, 0), 6)
            contrast.append(float(np.median(np.abs(band))))
            labelled.append(float((scene.mask != SEABED).mean()))
        assert all(a > b for a, b in zip(contrast, contrast[1:], strict=False)), contrast
        assert all(a >= b for a, b in zip(labelled, labelled[1:], strict=False)), labelled
        assert labelled[0] > 0.05 and labelled[-1] < 0.02


def test_nothing_is_labelled_where_the_water_lets_nothing_through():
    world = build_world(7, PipePlan(-6, 8, 6))
    i = world.pipe.index(np.zeros(1, np.float32))[0]
    place = np.array([-1, world.pipe.y[i], world.pipe.z[i] + 1.2], np.float32)
    camera = Camera(place, rotation(0, 0.45, 0), 120.0, SMALL)
    rng = stream(7, 0)
    water = random_water(rng, 0.6)
    sensor = random_sensor(rng, water)
    scene = render(world, camera, water, sensor, (stream(7, 3), stream(7, 4)),
                   np.zeros(3, np.float32))
    through = np.exp(-cast(world, camera, camera.rays()).t * float(water.attenuation.min()))
    labelled = scene.mask != SEABED
    assert labelled.sum() > 100
    assert through[labelled].min() >= LEAST_TRANSMISSION * 0.999
    assert (through < LEAST_TRANSMISSION).sum() > 100
