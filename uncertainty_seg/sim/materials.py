# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What surfaces look like: linear BGR albedo, fine relief, and the shade near the pipe.

Surfaces are matt: nothing shines, not even metal.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uncertainty_seg.sim.camera import Camera
from uncertainty_seg.sim.noise import FloatArray, ramp, sample_grid, sample_rows, sample_tile
from uncertainty_seg.sim.pipe import ANODE, FIELD_JOINT, MARINE_GROWTH
from uncertainty_seg.sim.raycast import BED, Hits, ON_PIPE, PROP, ROPE, ROPE_RADIUS_M, UNKNOWN
from uncertainty_seg.sim.world import World


@dataclass(frozen=True, eq=False)
class Surface:
    """
    What the light will fall on.

    Parameters
    ----------
    points, normal, albedo : ndarray of float32, shape (H, W, 3)
        Metres in the world, unit normals, linear BGR.
    across : tuple of ndarray of float32, shape (H, W)
        To the left of and above the pipe's axis, metres.
    open_to_light : ndarray of float32, shape (H, W)
        1 in the open, less in the nooks beside the pipe and the debris.

    """

    points: FloatArray
    normal: FloatArray
    albedo: FloatArray
    across: tuple[FloatArray, FloatArray]
    open_to_light: FloatArray


def _paint_bed(world: World, hits: Hits, x: FloatArray, y: FloatArray, albedo: FloatArray,
               normal: FloatArray) -> None:
    """Paint the whole image as seabed; the other painters come after."""
    lumpy, fine = world.tiles
    near = 1 / (1 + (hits.t * np.float32(0.25)) ** 2)
    shade, rock = (sample_grid(np.ascontiguousarray(world.seabed.surface[..., 2 + i]),
                               *world.seabed.cells(x, y)) for i in range(2))
    grain = sample_tile(fine, x, y, 1.7) * near
    mottle = sample_tile(lumpy, x, y, 2.1)
    slant = sample_tile(fine, x + np.float32(0.006), y, 1.7) * near - grain
    normal[..., 0] -= np.clip(slant, -1, 1) * np.float32(0.4)
    stones = world.gravel * ramp(mottle + 0.35 * grain, 1.0, 1.5) * (1 - rock)
    tone = shade * (1 + np.float32(0.2) * grain + np.float32(0.1) * mottle)
    tone *= 1 + stones * np.clip(grain, -0.6, 0.9)
    albedo[:] = tone[..., None] * world.sediment
    stone = np.clip(0.75 + 0.3 * mottle + 0.25 * grain, 0.2, 1.8)[..., None] * world.rock
    bare = (rock * ramp(normal[..., 2], 0.98, 0.8) * 0.5 + 0.5 * rock)[..., None]
    albedo += (stone - albedo) * bare


def _paint_pipe(world: World, hits: Hits, points: FloatArray, albedo: FloatArray,
                normal: FloatArray) -> None:
    """Paint coating, joints, anodes and growth."""
    here = np.flatnonzero(hits.what.ravel() == ON_PIPE)
    if here.size == 0:
        return
    pipe = world.pipe
    p, part = points.reshape(-1, 3)[here], hits.mask.reshape(-1)[here]
    x = np.ascontiguousarray(p[:, 0])
    left, up = pipe.across(x, p[:, 1], p[:, 2])
    arc = np.arctan2(up, left) * np.float32(pipe.radius)
    near = 1 / (1 + (hits.t.reshape(-1)[here] * np.float32(0.25)) ** 2)
    u, v = (x % np.float32(4.0)) / 4.0, (arc % np.float32(4.0)) / 4.0
    size = world.tiles[1].shape[0]
    grain = sample_rows(world.tiles[1], v[None] * (4 * size % size or size),
                        u[None] * (size - 1)) * near
    blotch = sample_rows(world.tiles[0], v[None] * 256, u[None] * 255)
    coat, wrap, metal = pipe.colours
    base = coat * (1 + 0.10 * grain + 0.10 * blotch)[:, None]
    base[part == FIELD_JOINT] = (wrap * (1 + 0.06 * grain)[:, None])[part == FIELD_JOINT]
    base[part == ANODE] = (metal * (1 + 0.07 * grain + 0.07 * blotch)[:, None])[part == ANODE]
    facing = normal.reshape(-1, 3)[here]
    dust = ramp(facing[:, 2] + 0.12 * blotch, 0.55, 1.0) * 0.45
    dust[(part == ANODE) | (part == MARINE_GROWTH)] *= 0.35
    base += (world.sediment - base) * dust[:, None]
    grown = part == MARINE_GROWTH
    blend = ramp(blotch + 0.3 * grain, -0.4, 0.6)[grown, None]
    first, second = world.growth_colours
    tint = first + (second - first) * blend
    base[grown] = tint * np.clip(1 + 0.5 * grain + 0.2 * blotch, 0.25, 2.2)[grown, None]
    albedo.reshape(-1, 3)[here] = base
    facing[grown] += (np.float32(0.25) * grain)[grown, None] * np.array([1, .5, -.5], np.float32)
    normal.reshape(-1, 3)[here] = facing


def _paint_rope(world: World, hits: Hits, x: FloatArray, y: FloatArray, albedo: FloatArray
                ) -> None:
    """Paint ropes as round and twisted, though they are flat."""
    here = hits.what == ROPE
    if not here.any():
        return
    off = sample_grid(world.seabed.rope, *world.seabed.cells(x, y))[here] / ROPE_RADIUS_M
    round_ = np.sqrt(np.clip(1 - off * off, 0.08, 1))
    twist = 0.85 + 0.25 * np.sin((x[here] + y[here]) * np.float32(260))
    albedo[here] = world.rope_colour * (round_ * twist)[:, None]


def _paint_props(world: World, camera: Camera, hits: Hits, points: FloatArray,
                 albedo: FloatArray, light: FloatArray) -> None:
    """Paint debris, dusted on top, and darken the ground around it."""
    for number in np.unique(hits.what[hits.what >= PROP]) - PROP:
        prop = world.props[number]
        box = camera.box(prop.centre, prop.reach * 1.6)
        if box is None:
            continue
        here = hits.what[box] == PROP + number
        off = np.linalg.norm(points[box] - prop.centre, axis=-1) / np.float32(prop.reach)
        light[box] *= np.where(here, 1, 0.5 + 0.5 * ramp(off, 0.75, 1.5))
        local = (points[box][here] - prop.centre) @ prop.axes
        stain = sample_rows(world.tiles[0], ((local[:, 0] + local[:, 2]) % 1 * 256)[None],
                            ((local[:, 1] + 0.5 * local[:, 2]) % 1 * 255)[None])
        paint = prop.colour * np.clip(1 + 0.22 * stain, 0.3, 1.8)[:, None]
        if prop.kind == 'drum':
            rib = np.abs(np.abs(local[:, 2]) - prop.half[2] * 0.33) < 0.018
            paint = paint * np.where(rib, 0.6, 1)[:, None]
        dust = ramp(hits.normal[box][here][:, 2] + 0.2 * stain, 0.5, 1.1) * 0.55
        albedo[box][here] = paint + (world.sediment - paint) * dust[:, None]


def look(world: World, camera: Camera, rays: FloatArray, hits: Hits) -> Surface:
    """Return the surface seen through each pixel."""
    points = camera.position + rays * hits.t[..., None]
    x, y, z = (np.ascontiguousarray(points[..., i]) for i in range(3))
    albedo, normal = np.empty_like(points), hits.normal.copy()
    _paint_bed(world, hits, x, y, albedo, normal)
    across = world.pipe.across(x, y, z)
    gap = np.sqrt(across[0] ** 2 + across[1] ** 2) - np.float32(world.pipe.radius)
    light = np.where(hits.what == BED, 0.45 + 0.55 * ramp(gap, 0.0, 0.3), 1).astype(np.float32)
    pipe_normal = hits.normal
    normal = np.where((hits.what == BED)[..., None], normal, pipe_normal)
    _paint_pipe(world, hits, points, albedo, normal)
    _paint_rope(world, hits, x, y, albedo)
    _paint_props(world, camera, hits, points, albedo, light)
    if hits.paint is not None:
        new = hits.what == UNKNOWN
        albedo[new] = hits.paint[new]
    normal /= np.sqrt(np.einsum('hwi,hwi->hw', normal, normal) + 1e-9)[..., None]
    return Surface(points, normal, np.clip(albedo, 0.005, 0.95), across, light)
