# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The world along a pipe: seabed, pipe, debris and their colours, drawn from one seed.

The seabed is a height field with banks, ripples, boulders, ropes, burials and free spans, without
overhangs. Nothing in it moves: the renderer takes silt, divers and fish separately. `place` and
`shoal` put objects never shown in training into a camera's view, clear of seabed and pipe.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import (
    Camera,
    FloatArray,
    sample_tile,
    spectral_tile,
    stream,
    window,
)
from uncertainty_seg.sim.objects import Prop, random_prop, Thing, thing_axes
from uncertainty_seg.sim.pipe import build_pipe, draw_route, Pipe, PipePlan, Route, TABLE_STEP_M

CELL_M = 0.03
# Linear BGR: sand, grey sand, dark silt, olive mud, pale sand.
SEDIMENTS = np.array([[.24, .30, .34], [.25, .27, .28], [.16, .19, .21], [.20, .29, .31],
                      [.33, .38, .40]], np.float32)
# Olive, brown, orange, white, purple, yellow.
GROWTHS = np.array([[.05, .13, .12], [.06, .10, .17], [.05, .20, .34], [.22, .26, .30],
                    [.12, .10, .26], [.05, .16, .24]], np.float32)
ROPES = np.array([[.30, .55, .60], [.45, .45, .42], [.45, .30, .08], [.10, .30, .65]], np.float32)


@dataclass(frozen=True, eq=False)
class Seabed:
    """
    The height field; row = y, column = x, `CELL_M` per cell.

    `surface` holds, for each cell, the two slopes, the brightness of the sediment and the share of
    bare rock; `rope` the distance to the nearest rope in metres, capped at 1.
    """

    x0: float
    y0: float
    height: FloatArray
    surface: FloatArray
    rope: FloatArray
    low: float
    high: float

    def cells(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return fractional columns and rows."""
        scale = np.float32(1 / CELL_M)
        return (x - np.float32(self.x0)) * scale, (y - np.float32(self.y0)) * scale

    def height_at(self, x: float, y: float) -> float:
        """Return the height of the nearest cell."""
        column = int(np.clip((x - self.x0) / CELL_M, 0, self.height.shape[1] - 1))
        row = int(np.clip((y - self.y0) / CELL_M, 0, self.height.shape[0] - 1))
        return float(self.height[row, column])


def _boulders(rng: np.random.Generator, plan: PipePlan, height: FloatArray, rock: FloatArray,
              aside: FloatArray, tile: FloatArray) -> None:
    """Raise domes of rock off the pipe; changes height and rock in place."""
    rows, columns = height.shape
    for _ in range(int(rng.poisson((plan.stop - plan.start) * rng.choice([0.1, 0.6, 1.4])))):
        size = float(np.clip(rng.lognormal(-1.6, 0.5), 0.07, 0.55))
        reach = int(size * 1.5 / CELL_M) + 1
        r, c = int(rng.integers(reach, rows - reach)), int(rng.integers(reach, columns - reach))
        if abs(aside[r, c]) < 0.3 + size:
            continue
        box = slice(r - reach, r + reach + 1), slice(c - reach, c + reach + 1)
        dy, dx = np.mgrid[-reach:reach + 1, -reach:reach + 1].astype(np.float32) * CELL_M / size
        turn, long = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        k = int(rng.integers(0, tile.shape[0] - 2 * reach - 1))
        bumpy = 1 + 0.13 * tile[k:k + 2 * reach + 1, k:k + 2 * reach + 1]
        dome = np.sqrt(np.clip(1 - (u / long) ** 2 - (v * long) ** 2, 0, None)) * bumpy
        top = height[r, c] + size * (rng.uniform(0.5, 0.9) * dome - 0.15)
        raised = (dome > 0) & (top > height[box])
        height[box] = np.where(raised, top, height[box])
        rock[box] = np.maximum(rock[box], raised.astype(np.float32))


def _ropes(
    rng: np.random.Generator, plan: PipePlan, shape: tuple[int, int], y0: float
) -> FloatArray:
    """Return each cell's distance to the nearest rope, metres, capped at 1."""
    drawn = np.full(shape, 255, np.uint8)
    for _ in range(int(rng.poisson((plan.stop - plan.start) * plan.props_per_m * 0.12))):
        steps = int(rng.integers(60, 160))
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(np.cumsum(rng.normal(0, 0.02, steps)))
        x = rng.uniform(plan.start, plan.stop) + np.cumsum(np.cos(angle)) * 0.03
        y = rng.normal(0, 1.6) + np.cumsum(np.sin(angle)) * 0.03
        line = np.stack([(x - plan.start) / CELL_M, (y - y0) / CELL_M], 1) * 16
        cv2.polylines(drawn, [line.round().astype(np.int32)], False, 0, 1, cv2.LINE_8, 4)
    if drawn.min() > 0:
        return np.ones(shape, np.float32)
    far = cv2.distanceTransform(drawn, cv2.DIST_L2, 5).astype(np.float32) * CELL_M
    return np.minimum(cv2.GaussianBlur(far, (0, 0), 1.0), 1)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Positions of all cells, (H, W), or of columns, (W,); `aside` is metres left of the axis."""

    along: FloatArray
    x: FloatArray
    y: FloatArray
    aside: FloatArray
    pick: NDArray[np.intp]


def _grid(plan: PipePlan, route: Route) -> _Grid:
    """Lay out the cells."""
    nx, ny = int((plan.stop - plan.start) / CELL_M), int(2 * plan.half_width / CELL_M)
    along = np.arange(nx, dtype=np.float32) * CELL_M + np.float32(plan.start)
    beside = np.arange(ny, dtype=np.float32) * CELL_M - np.float32(plan.half_width)
    pick = np.minimum((np.arange(nx) * (CELL_M / TABLE_STEP_M)).astype(int), route.x.size - 1)
    x = np.ascontiguousarray(np.broadcast_to(along[None, :], (ny, nx)))
    y = np.ascontiguousarray(np.broadcast_to(beside[:, None], (ny, nx)))
    aside = (y - route.y[pick][None, :]) * route.cosine[pick][None, :]
    return _Grid(along, x, y, aside, pick)


def _ripples(rng: np.random.Generator, grid: _Grid, coarse: FloatArray
             ) -> tuple[FloatArray, FloatArray]:
    """Return the height of sand ripples, and their change of the sediment's brightness."""
    turn, wave = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(0.14, 0.4)
    phase = (np.cos(turn) * grid.x + np.sin(turn) * grid.y) * np.float32(wave)
    phase += 1.6 * sample_tile(coarse, grid.x, grid.y, 5.0)
    patchy = np.clip(0.6 + 0.6 * sample_tile(coarse, grid.y, grid.x, 9.0), 0, 1.4)
    ripple = np.sin(phase) + 0.25 * np.sin(2 * phase + 1)
    strength = np.float32(rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.35, 0.35]))
    return (strength * np.float32(0.055 / wave * 2) * patchy * ripple,
            strength * 0.06 * patchy * ripple)


def _meet_pipe(rng: np.random.Generator, plan: PipePlan, grid: _Grid, axis: FloatArray,
               radius: float, coarse: FloatArray, height: FloatArray) -> FloatArray:
    """Scour the seabed under free spans, bank it against the pipe, and raise it over burials."""
    span = np.zeros(grid.along.size, np.float32)
    for start, stop, deep in plan.spans:
        span = np.maximum(span, window(grid.along, start, stop, 0.8)
                          * np.float32(0.15 + 0.35 * deep))
    height -= (span + radius * span)[None, :] * np.exp(-(grid.aside / 0.9) ** 2)
    pressed = rng.uniform(-0.4, 0.7) * radius * np.exp(
        -((np.abs(grid.aside) - radius) / 0.3) ** 2)
    height += pressed * (1 - np.minimum(span * 4, 1))[None, :] * np.clip(
        0.7 + 0.5 * sample_tile(coarse, grid.x, grid.y, 3.5), 0, 1.5)
    ragged = 0.09 * sample_tile(coarse, grid.y, grid.x, 3.1)
    for start, stop, level in plan.burials:
        over = window(grid.along, start, stop, 0.9)
        crest = axis + np.float32(radius) * (np.float32(0.7 + 1.5 * level) * over - 1.0)
        slope = 0.55 * np.maximum(np.abs(grid.aside) - 0.15, 0)
        mound = crest[None, :] + ragged * over[None, :] - slope
        height = np.where(over[None, :] > 0, np.maximum(height, mound), height)
    return np.ascontiguousarray(height, np.float32)


def build_seabed(rng: np.random.Generator, plan: PipePlan, route: Route, coarse: FloatArray,
                 lumpy: FloatArray) -> tuple[Seabed, FloatArray]:
    """Return the seabed of a plan, and the height of the pipe's axis along its route."""
    grid = _grid(plan, route)
    ny, nx = grid.x.shape
    banks = rng.uniform(0.04, 0.13) * sample_tile(coarse, grid.x, grid.y, 12.0)
    rows = np.clip((route.y[grid.pick] + plan.half_width) / CELL_M, 0, ny - 1).astype(int)
    # The pipe is stiff: it follows only long waves of the seabed.
    under = cv2.GaussianBlur(banks[rows, np.arange(nx)][None], (0, 0), 1.2 / CELL_M)[0]
    axis = under + np.float32(route.radius * rng.uniform(0.35, 0.85))
    height = banks + rng.uniform(0.006, 0.02) * sample_tile(coarse, grid.y, grid.x, 2.3)
    ripples, tint = _ripples(rng, grid, coarse)
    height += ripples
    height = _meet_pipe(rng, plan, grid, axis, route.radius, coarse, height)
    rock = np.zeros((ny, nx), np.float32)
    _boulders(rng, plan, height, rock, grid.aside, lumpy)
    slope_y, slope_x = (cv2.Sobel(height, cv2.CV_32F, dx, dy, ksize=3, scale=1 / (8 * CELL_M))
                        for dx, dy in ((0, 1), (1, 0)))
    shade = 1 + 0.1 * sample_tile(coarse, grid.x, grid.y, 4.0) + 0.07 * sample_tile(
        lumpy, grid.x, grid.y, 3.0) + tint
    surface = np.stack([slope_x, slope_y, np.clip(shade, 0.4, 1.6), rock], axis=-1)
    rope = _ropes(rng, plan, (ny, nx), -plan.half_width)
    seabed = Seabed(plan.start, -plan.half_width, height, surface.astype(np.float32), rope,
                    float(height.min()), float(height.max()))
    return seabed, np.interp(route.x, grid.along, axis).astype(np.float32)


@dataclass(frozen=True, eq=False)
class World:
    """
    Everything in a scene that does not move.

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
    """Scatter debris along the pipe, but not on it."""
    props = []
    for _ in range(int(rng.poisson((plan.stop - plan.start) * plan.props_per_m))):
        x, aside = rng.uniform(plan.start, plan.stop), rng.normal(0, 1.2)
        where = int(np.clip((x - plan.start) / TABLE_STEP_M, 0, route.x.size - 1))
        y = float(route.y[where] + aside)
        prop = random_prop(rng, float(x), y, seabed.height_at(x, y))
        if abs(aside) > route.radius + 0.5 * prop.reach:
            props.append(prop)
    return tuple(props)


def place(kind: str, seed: int, rng: np.random.Generator, world: World, camera: Camera
          ) -> tuple[Thing, ...]:
    """Return one object, or the fish of one shoal, placed well in view."""
    looking = math.atan2(float(camera.axes[1, 2]), float(camera.axes[0, 2]))
    right, down = rng.uniform(-0.4, 0.4), rng.uniform(-0.35, 0.2)
    if kind == 'fish':
        middle = _lift(world, _ahead(camera, right, down, rng.uniform(1.6, 2.3)), 0.45)
        side = looking + rng.choice([-1, 1]) * rng.uniform(0.7, 2.2)
        return shoal(seed, rng, middle, side, int(rng.integers(22, 45)), rng.uniform(0, 9))
    point = _lift(world, _ahead(camera, right, down, rng.uniform(2.1, 3.0)), 0.35)
    axes = thing_axes(looking + rng.uniform(-math.pi, math.pi), rng.normal(-0.1, 0.25),
                      rng.normal(0, 0.3))
    return (Thing('diver', point, axes, rng.uniform(0, 9), seed),)


def shoal(seed: int, rng: np.random.Generator, middle: FloatArray, heading: float, count: int,
          time_s: float) -> tuple[Thing, ...]:
    """Return a shoal around a point, swimming in one direction with small variations."""
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
