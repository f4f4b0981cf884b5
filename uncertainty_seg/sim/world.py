# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The world along a pipe: seabed, pipe, debris and their colours, drawn from one seed.

It does not move: silt clouds, divers and fish are given to the renderer beside it. `place` and
`shoal` put objects never shown in training into a camera's view, clear of seabed and pipe; debris
may stand in front of them.

"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from uncertainty_seg.sim.camera import Camera
from uncertainty_seg.sim.noise import FloatArray, spectral_tile, stream
from uncertainty_seg.sim.objects import Prop, random_prop
from uncertainty_seg.sim.pipe import build_pipe, draw_route, Pipe, PipePlan, Route, TABLE_STEP_M
from uncertainty_seg.sim.seabed import build_seabed, Seabed
from uncertainty_seg.sim.unknowns import Thing, thing_axes

# Linear BGR: sand, grey sand, dark silt, olive mud, pale sand.
SEDIMENTS = np.array([[.24, .30, .34], [.25, .27, .28], [.16, .19, .21], [.20, .29, .31],
                      [.33, .38, .40]], np.float32)
# Olive, brown, orange, white, purple, yellow.
GROWTHS = np.array([[.05, .13, .12], [.06, .10, .17], [.05, .20, .34], [.22, .26, .30],
                    [.12, .10, .26], [.05, .16, .24]], np.float32)
ROPES = np.array([[.30, .55, .60], [.45, .45, .42], [.45, .30, .08], [.10, .30, .65]], np.float32)


@dataclass(frozen=True, eq=False)
class World:
    """
    All that does not move.

    `tiles` are noise textures (lumpy, fine); `sediment`, `rock`, `growth_colours` and
    `rope_colour` are linear BGR albedos; `gravel` is 0 for none to 1.
    """

    plan: PipePlan
    seabed: Seabed
    pipe: Pipe
    props: tuple[Prop, ...]
    tiles: tuple[FloatArray, FloatArray]
    sediment: FloatArray
    rock: FloatArray
    growth_colours: FloatArray
    rope_colour: FloatArray
    gravel: float


def build_world(seed: int, plan: PipePlan) -> World:
    """Build the world of a seed and a plan."""
    rng = stream(seed, 2)
    coarse, fine = spectral_tile(rng, 256, 1.6, 1, 60), spectral_tile(rng, 512, 0.9, 8, 256)
    lumpy = spectral_tile(rng, 256, 1.0, 6, 90)
    route = draw_route(rng, plan)
    seabed, axis = build_seabed(rng, plan, route, coarse, lumpy)
    pipe = build_pipe(rng, plan, route, axis, (lumpy, fine))
    sediment = SEDIMENTS[rng.integers(len(SEDIMENTS))]
    sediment = sediment * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    rock = sediment.mean() * np.array([.55, .6, .62], np.float32)
    growth = GROWTHS[rng.choice(len(GROWTHS), 2, replace=False)]
    growth = growth * np.float32(rng.uniform(0.8, 1.3))
    props = _props(rng, plan, route, seabed)
    rope = ROPES[rng.integers(len(ROPES))]
    gravel = float(rng.choice([0.0, 0.4, 1.0]))
    return World(plan, seabed, pipe, props, (lumpy, fine), sediment, rock, growth, rope, gravel)


def _props(rng: np.random.Generator, plan: PipePlan, route: Route, seabed: Seabed
           ) -> tuple[Prop, ...]:
    """Scatter debris along the pipe, off it and off the stretches to be kept clear."""
    props = []
    for _ in range(int(rng.poisson((plan.stop - plan.start) * plan.props_per_m))):
        x, aside = rng.uniform(plan.start, plan.stop), rng.normal(0, 1.2)
        where = int(np.clip((x - plan.start) / TABLE_STEP_M, 0, route.x.size - 1))
        y = float(route.y[where] + aside)
        prop = random_prop(rng, float(x), y, seabed.height_at(x, y))
        off = abs(aside) > route.radius + 0.5 * prop.reach
        if off and not any(a - 1 < x < b + 1 for a, b, _ in plan.clear):
            props.append(prop)
    return tuple(props)


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
