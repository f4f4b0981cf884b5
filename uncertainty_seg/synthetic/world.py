# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The world along a pipe: seabed, pipe, debris and their colours, drawn from one seed.

It stands still: silt clouds, divers and fish are handed to the renderer beside it.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uncertainty_seg.synthetic.noise import FloatArray, spectral_tile, stream
from uncertainty_seg.synthetic.objects import Prop, random_prop
from uncertainty_seg.synthetic.pipe import build_pipe, draw_route, Pipe, Route, TABLE_STEP_M
from uncertainty_seg.synthetic.plan import PipePlan
from uncertainty_seg.synthetic.seabed import build_seabed, Seabed


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
