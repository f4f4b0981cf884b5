# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The pipe: its route and the features along it, its centre line, joints, anodes and growth.

Field joints and anodes are closer together than on a real pipeline (12 m and over 100 m). The
classes of the scenes are here too: open water counts as seabed, as does everything too dim to be
seen. Their colours (Okabe and Ito, 2008) suit the common forms of colour blindness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import FloatArray, sample_tile, stream, window

SEABED, PIPELINE, FIELD_JOINT, ANODE, MARINE_GROWTH, DEBRIS = range(6)
IGNORE = 255
CLASS_NAMES = ('seabed', 'pipeline', 'field_joint', 'anode', 'marine_growth', 'debris')
# RGB, one per class.
PALETTE = ((0, 0, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0))
Stretches = tuple[tuple[float, float, float], ...]
TABLE_STEP_M = 0.002
GROWTH_CELL_M, GROWTH_COLUMNS = 0.01, 160
GROWTH_MAX_M, ANODE_RAISE_M, JOINT_RAISE_M = 0.09, 0.035, -0.008
# Linear BGR: concrete, grey and black polymer, weathered orange, pale polymer.
COATS = np.array([[.20, .21, .22], [.33, .33, .31], [.06, .06, .055], [.10, .20, .26],
                  [.26, .30, .32]], np.float32)


@dataclass(frozen=True)
class PipePlan:
    """
    Features along the pipe; stretches are (start, stop, strength 0..1), in metres.

    The world extends from `start` to `stop` and `half_width` to either side. Sediment covers the
    pipe in burials, and the pipe hangs free in spans; `props_per_m` is pieces of debris per metre.
    """

    start: float
    stop: float
    half_width: float
    burials: Stretches = ()
    spans: Stretches = ()
    growths: Stretches = ()
    props_per_m: float = 0.4


def random_plan(seed: int) -> PipePlan:
    """Draw the features of a single scene of normal operation around x = 0."""
    rng = stream(seed, 1)

    def stretch(chance: float, short: float, long: float) -> Stretches:
        length, middle = rng.uniform(short, long), rng.uniform(0.5, 5)
        side, strength, hit = rng.choice([-1, 1]), rng.uniform(0.3, 1), rng.random()
        a = side * middle - length / 2
        return ((float(a), float(a + length), float(strength)),) if hit < chance else ()

    burials, spans = stretch(0.38, 1.5, 6), stretch(0.3, 2, 6)
    growths = stretch(0.7, 2, 8) + stretch(0.6, 2, 6)
    return PipePlan(-11, 11, 9, burials, spans, growths,
                    props_per_m=float(rng.choice([0.4, 1.0, 1.8])))


@dataclass(frozen=True, eq=False)
class Route:
    """The route of the pipe: x, y and the cosine of its angle to x, every `TABLE_STEP_M`."""

    x: FloatArray
    y: FloatArray
    cosine: FloatArray
    radius: float


@dataclass(frozen=True, eq=False)
class Pipe:
    """Centre line and surface, every `TABLE_STEP_M` from `start`; growth over (x, angle)."""

    start: float
    radius: float
    y: FloatArray
    z: FloatArray
    cosine: FloatArray
    joint: FloatArray
    anode: FloatArray
    growth: FloatArray
    colours: FloatArray
    tile: FloatArray

    def index(self, x: FloatArray) -> NDArray[np.int32]:
        """Return the table index of positions x."""
        steps = (x - np.float32(self.start)) * np.float32(1 / TABLE_STEP_M)
        return np.clip(steps, 0, self.y.size - 1).astype(np.int32)

    def across(self, x: FloatArray, y: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the coordinates across the pipe (left, up) relative to its axis."""
        i = self.index(x)
        return (y - self.y[i]) * self.cosine[i], z - self.z[i]


def draw_route(rng: np.random.Generator, plan: PipePlan) -> Route:
    """Draw a gently curved route and the pipe's radius."""
    x = np.arange(plan.start, plan.stop, TABLE_STEP_M, dtype=np.float64)
    y, slope = np.zeros_like(x), np.zeros_like(x)
    for _ in range(2):
        wave = 2 * np.pi / rng.uniform(16, 40)
        size, phase = rng.uniform(0.02, 0.1) / wave, rng.uniform(0, 2 * np.pi)
        y += size * np.sin(wave * x + phase)
        slope += size * wave * np.cos(wave * x + phase)
    cosine = (1 / np.sqrt(1 + slope * slope)).astype(np.float32)
    return Route(x.astype(np.float32), y.astype(np.float32), cosine,
                 float(rng.uniform(0.16, 0.3)))


def _bands(rng: np.random.Generator, x: FloatArray, every: tuple[float, float], length: float,
           edge: float) -> FloatArray:
    """Return a table that is 1 on bands around the pipe and 0 between them."""
    table = np.zeros_like(x)
    place = float(x[0]) + rng.uniform(0, every[1])
    while place < x[-1]:
        near = slice(*np.searchsorted(x, [place - length, place + length]))
        table[near] = np.maximum(table[near], window(x[near], place - length / 2,
                                                     place + length / 2, edge))
        place += rng.uniform(*every)
    return table


def _growth(
    rng: np.random.Generator, plan: PipePlan, tile: FloatArray, radius: float
) -> FloatArray:
    """Return metres of growth over (x, angle)."""
    x = np.arange(plan.start, plan.stop, GROWTH_CELL_M, dtype=np.float32)
    around = np.linspace(0, 2 * np.pi * radius, GROWTH_COLUMNS, endpoint=False, dtype=np.float32)
    where = np.zeros_like(x)
    for start, stop, strength in plan.growths:
        where = np.maximum(where, np.float32(0.4 + 0.6 * strength)
                           * window(x, start, stop, 0.5))
    u, v = np.broadcast_arrays(x[:, None], around[None, :])
    u, v = np.ascontiguousarray(u), np.ascontiguousarray(v)
    girth = 2 * np.pi * radius
    patches = sample_tile(tile, u, v, girth * 4) + 0.7 * sample_tile(tile, v, u, girth * 2)
    lumps = np.abs(sample_tile(tile, u, v, girth))
    # The angle starts at the pipe's left side: growth is on the top and the sides.
    lit = np.float32(0.35) * np.sin(np.linspace(0, 2 * np.pi, GROWTH_COLUMNS, endpoint=False))
    wanted = (patches + lit[None, :].astype(np.float32) + 2.8 * where[:, None] - 1.75) * 0.8
    cover = np.clip(wanted, 0, 1) * np.minimum(where[:, None] * 3, 1)
    size = rng.uniform(0.5, 1.0) * GROWTH_MAX_M
    return np.clip(cover * (0.25 + 0.4 * lumps) * size, 0, GROWTH_MAX_M).astype(np.float32)


def build_pipe(rng: np.random.Generator, plan: PipePlan, route: Route, axis: FloatArray,
               tiles: tuple[FloatArray, FloatArray]) -> Pipe:
    """Build the pipe on its route, with its axis at heights (N,); tiles are lumpy and fine."""
    joint = _bands(rng, route.x, (1.7, 3.8), float(rng.uniform(0.4, 0.7)), 0.02)
    anode = _bands(rng, route.x, (2.4, 5.0), float(rng.uniform(0.4, 0.65)), 0.05)
    joint = np.where(anode > 0, 0, joint).astype(np.float32)
    coat = COATS[rng.integers(len(COATS))]
    dark = float(coat.mean()) < 0.15
    wrap = np.array([.30, .32, .33] if dark else [.045, .045, .05], np.float32)
    metal = np.array([.62, .63, .60], np.float32) * np.float32(rng.uniform(0.8, 1.1))
    return Pipe(plan.start, route.radius, route.y, axis, route.cosine, joint, anode,
                _growth(rng, plan, tiles[0], route.radius), np.stack([coat, wrap, metal]),
                tiles[1])
