# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put objects never shown in training into a camera's view.

They stay clear of seabed and pipe; debris may still stand in front of them.

"""

from __future__ import annotations

import math

import numpy as np

from uncertainty_seg.synthetic.camera import Camera
from uncertainty_seg.synthetic.noise import FloatArray
from uncertainty_seg.synthetic.unknowns import Thing, thing_axes
from uncertainty_seg.synthetic.world import World


def _lift(world: World, point: FloatArray, clearance: float) -> FloatArray:
    """Raise a point so that seabed and pipe are `clearance` below it."""
    floor = world.seabed.height_at(float(point[0]), float(point[1]))
    left, up = world.pipe.across(*(point[i:i + 1] for i in range(3)))
    if abs(float(left[0])) < world.pipe.radius + clearance:
        floor = max(floor, float(point[2] - up[0]) + world.pipe.radius)
    lifted = point.copy()
    lifted[2] = max(float(point[2]), floor + clearance)
    return lifted


def _ahead(camera: Camera, right: float, down: float, away: float) -> FloatArray:
    """Return the point at `away` metres in the direction of a place in the image, -1..1 each."""
    width, height = camera.size
    local = np.array([right * width / 2, down * height / 2, camera.focal_px])
    local *= away / np.linalg.norm(local)
    return (camera.position + camera.axes @ local.astype(np.float32)).astype(np.float32)


def shoal(seed: int, rng: np.random.Generator, middle: FloatArray, heading: float, count: int,
          time_s: float) -> tuple[Thing, ...]:
    """Return a shoal around a point, all swimming the same way, each a little its own."""
    fish = []
    for k in range(count):
        offset = rng.normal(0, 1, 3) * [0.75, 0.6, 0.34]
        sway = 0.05 * np.sin(1.3 * time_s + rng.uniform(0, 6, 3))
        axes = thing_axes(heading + rng.normal(0, 0.22), rng.normal(0, 0.1), 0.0)
        fish.append(Thing('fish', (middle + offset + sway).astype(np.float32), axes, time_s,
                          seed + k))
    return tuple(fish)


def place(kind: str, seed: int, rng: np.random.Generator, world: World, camera: Camera
          ) -> tuple[Thing, ...]:
    """Return the things that put one object, or one shoal, well into view."""
    looking = math.atan2(float(camera.axes[1, 2]), float(camera.axes[0, 2]))
    right, down = rng.uniform(-0.4, 0.4), rng.uniform(-0.35, 0.2)
    if kind == 'fish':
        middle = _lift(world, _ahead(camera, right, down, rng.uniform(1.6, 2.3)), 0.45)
        side = looking + rng.choice([-1, 1]) * rng.uniform(0.7, 2.2)
        return shoal(seed, rng, middle, side, int(rng.integers(22, 45)), rng.uniform(0, 9))
    if kind == 'diver':
        point = _lift(world, _ahead(camera, right, down, rng.uniform(2.1, 3.0)), 0.35)
        axes = thing_axes(looking + rng.uniform(-math.pi, math.pi), rng.normal(-0.1, 0.25),
                          rng.normal(0, 0.3))
        return (Thing('diver', point, axes, rng.uniform(0, 9), seed),)
    level = math.hypot(camera.axes[0, 2], camera.axes[1, 2])
    away = rng.uniform(2.9, 3.7) if level > 0.5 else 1.2
    sideways = looking + rng.choice([-1, 1]) * rng.uniform(0.1, 0.42)
    spot = camera.position + np.array([math.cos(sideways), math.sin(sideways), 0]) * away
    ground = world.seabed.height_at(float(spot[0]), float(spot[1]))
    centre = np.array([spot[0], spot[1], ground + rng.uniform(0.45, 0.65)], np.float32)
    axes = thing_axes(looking + rng.uniform(-math.pi, math.pi), rng.normal(0.05, 0.08),
                      rng.normal(0, 0.16))
    return (Thing('wreck', centre, axes, 0.0, seed),)
