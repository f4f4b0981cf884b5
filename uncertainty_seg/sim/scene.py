# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One picture with its exact labels: camera, world and water are drawn from one seed.

A scene has no time: `dive` moves the camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import math
import multiprocessing
import os
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import Camera, FloatArray, rotation, stream
from uncertainty_seg.sim.objects import Thing
from uncertainty_seg.sim.pipe import random_plan, SEABED
from uncertainty_seg.sim.surfaces import cast, look, ON_PIPE
from uncertainty_seg.sim.water import (
    Cloud,
    develop,
    exposure,
    form,
    lamps_of,
    random_sensor,
    random_water,
    Sensor,
    visible,
    Water,
)
from uncertainty_seg.sim.world import build_world, place, World

MAX_TRAINING_TURBIDITY = 0.6
# Rendering fewer pictures takes less time than starting processes.
_FEW_JOBS = 24
_Job = TypeVar('_Job')
_Done = TypeVar('_Done')


@dataclass(frozen=True, eq=False)
class Scene:
    """
    A BGR picture, and its mask of class ids.

    The mask is 255 on the visible part of objects never shown in training, and seabed where
    nothing is visible.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def _camera(rng: np.random.Generator, world: World, size: tuple[int, int]) -> Camera:
    """Draw a viewpoint: mostly along the pipe, sometimes across it or straight down."""
    altitude = float(np.clip(rng.normal(1.15, 0.4), 0.55, 2.4))
    kind = rng.random()
    if kind < 0.68:
        yaw, pitch = rng.normal(0, 0.28), rng.normal(0.66, 0.16)
    elif kind < 0.92:
        yaw, pitch = rng.uniform(-1.7, 1.7), rng.normal(0.62, 0.2)
    else:
        yaw, pitch = rng.uniform(-1.7, 1.7), rng.uniform(1.1, 1.5)
    pitch = float(np.clip(pitch, 0.25, 1.5))
    fov = rng.uniform(math.radians(55), math.radians(80))
    focal = size[0] / 2 / math.tan(fov / 2)
    # Aim at a point on the pipe, sometimes well beside it.
    i = world.pipe.index(np.zeros(1, np.float32))[0]
    ground = min(altitude / math.tan(pitch), 4.5)
    beside = rng.normal(0, 0.35) if rng.random() < 0.88 else rng.normal(0, 1.4)
    target_y = float(world.pipe.y[i]) + beside
    target_x = rng.uniform(-0.5, 0.5)
    x, y = target_x - math.cos(yaw) * ground, target_y - math.sin(yaw) * ground
    path = np.linspace(0, 0.75, 6)
    floor = max(float(world.pipe.z[i]), *(
        world.seabed.height_at(x + (target_x - x) * k, y + (target_y - y) * k) for k in path))
    position = np.array([x, y, floor + altitude], np.float32)
    return Camera(position, rotation(yaw, pitch, rng.normal(0, 0.05)), focal, size)


def render(world: World, camera: Camera, water: Water, sensor: Sensor,
           streams: tuple[np.random.Generator, np.random.Generator], drift: FloatArray,
           things: tuple[Thing, ...] = (), cloud: Cloud | None = None) -> Scene:
    """
    Render one picture of a world; the streams draw marine snow and noise.

    The water has drifted `drift` (3,) metres; `things` and `cloud` are added if given.
    """
    rays = camera.rays()
    hits = cast(world, camera, rays, things)
    surface = look(world, camera, rays, hits)
    places = []
    for lamp in lamps_of(water, camera):
        x, y, z = (np.float32(v).reshape(1) for v in lamp.position)
        left, up = world.pipe.across(x, y, z)
        places.append((float(left[0]), float(up[0])))
    formed = form(water, camera, surface, hits.t, world.pipe.radius, (places[0], places[1]),
                  hits.what != ON_PIPE, cloud)
    gain = exposure(formed, sensor)
    image = develop(formed, gain, camera, water, sensor, streams, drift)
    seen = visible(formed, gain)
    return Scene(image, np.where(seen, hits.mask, SEABED).astype(np.uint8))


def render_scene(seed: int, *, size: tuple[int, int] = (512, 384), turbidity: float | None = None,
                 unknown: str | None = None) -> Scene:
    """
    Render the scene of a seed.

    Parameters
    ----------
    seed : int
        Not negative. The same seed and arguments give the same bytes.
    size : tuple of int, optional
        Width and height in pixels.
    turbidity : float, optional
        0 clear .. 1 opaque; if omitted, drawn below `MAX_TRAINING_TURBIDITY`.
    unknown : str, optional
        Object never shown in training to put into view: a 'diver' or 'fish'.

    """
    rng = stream(seed, 0)
    drawn = float(MAX_TRAINING_TURBIDITY * rng.beta(1.1, 1.5))
    world = build_world(seed, random_plan(seed))
    if unknown is not None:
        # An object that is not visible would test nothing.
        drawn *= 0.5
    water = random_water(rng, drawn if turbidity is None else float(turbidity))
    camera = _camera(rng, world, size)
    sensor = random_sensor(rng, water)
    things = () if unknown is None else place(unknown, seed, stream(seed, 5), world, camera)
    return render(world, camera, water, sensor, (stream(seed, 3), stream(seed, 4)),
                  np.zeros(3, np.float32), things)


def render_all(work: Callable[[_Job], _Done], jobs: Sequence[_Job],
               prepare: Callable[..., None] | None = None, facts: tuple[object, ...] = ()
               ) -> Iterator[_Done]:
    """
    Yield the results of `work`, a function of a module, for jobs, in order.

    Many jobs are distributed over as many processes as there are cores, so that the calling
    program must guard its entry with ``if __name__ == '__main__'``, as `multiprocessing` requires.
    In each process `prepare` is called with the facts first.
    """
    if len(jobs) < _FEW_JOBS:
        if prepare is not None:
            prepare(*facts)
        yield from map(work, jobs)
        return
    # OpenCV's threads do not survive a fork: its thread pool would wait for ever.
    with multiprocessing.get_context('spawn').Pool(os.cpu_count(), prepare, facts) as pool:
        yield from pool.imap(work, jobs, chunksize=4)
