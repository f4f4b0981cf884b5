# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Cast one ray per pixel into the world: the surface it meets, with its normal and its albedo.

Labels here are those of clear water; `water.visible` decides what can be seen. All surfaces are
matt, including metal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import (
    Camera,
    FloatArray,
    ramp,
    sample_grid,
    sample_rows,
    sample_tile,
)
from uncertainty_seg.sim.objects import hit_prop, meet, Thing
from uncertainty_seg.sim.pipe import (
    ANODE,
    ANODE_RAISE_M,
    DEBRIS,
    FIELD_JOINT,
    GROWTH_CELL_M,
    GROWTH_COLUMNS,
    GROWTH_MAX_M,
    IGNORE,
    JOINT_RAISE_M,
    MARINE_GROWTH,
    Pipe,
    PIPELINE,
    SEABED,
)
from uncertainty_seg.sim.world import CELL_M, Seabed, World

FAR_M = 16.0
# What a ray met, finer than the classes: debris has numbers from PROP on, one for each piece.
OPEN_WATER, BED, ON_PIPE, ROPE, UNKNOWN, PROP = -1, 0, 1, 2, 3, 10
GROWTH_SEEN_M = 0.006
ROPE_RADIUS_M, ROPE_LEAST_PX = 0.03, 3.0
BED_STEPS = 18


@dataclass(eq=False)
class Hits:
    """
    What each pixel's ray met: metres along it, outward normal, what, and class ids.

    `what` is `OPEN_WATER`, `BED`, `ON_PIPE`, `ROPE`, `UNKNOWN`, or `PROP` plus the object's index;
    `paint` is the albedo of objects never shown in training. Labels are those of clear water.
    """

    t: FloatArray
    normal: FloatArray
    what: NDArray[np.int16]
    mask: NDArray[np.uint8]
    paint: FloatArray | None = None


def trace_bed(bed: Seabed, origin: FloatArray, rays: FloatArray) -> FloatArray:
    """Return metres to the height field, `FAR_M` for rays that do not meet it."""
    oz, dz = np.float32(origin[2]), np.ascontiguousarray(rays[..., 2])
    column, row = bed.cells(*(np.float32(v) for v in origin[:2]))
    columns, rows = (rays[..., i] * np.float32(1 / CELL_M) for i in range(2))
    slant = 1 / np.minimum(dz, np.float32(-1e-3))
    start = np.clip((bed.high - oz) * slant, 0, FAR_M).astype(np.float32)
    stop = np.clip((bed.low - oz) * slant, 0, FAR_M).astype(np.float32)
    step = (stop - start) / np.float32(BED_STEPS)

    def above(t: FloatArray) -> FloatArray:
        return oz + dz * t - sample_grid(bed.height, column + columns * t, row + rows * t)

    low, high = start.copy(), start.copy()
    below = np.full(start.shape, -1, np.float32)
    over, t = above(start), start
    found = over < 0
    for _ in range(BED_STEPS):
        t = t + step
        gap = above(t)
        new = (gap < 0) & ~found
        np.copyto(high, t, where=new)
        np.copyto(below, gap, where=new)
        found |= new
        np.copyto(low, t, where=~found)
        np.copyto(over, gap, where=~found)
    for _ in range(3):
        t = low + (high - low) * np.clip(over / np.maximum(over - below, 1e-6), 0.03, 0.97)
        gap = above(t)
        under = gap < 0
        high, below = np.where(under, t, high), np.where(under, gap, below)
        low, over = np.where(under, low, t), np.where(under, over, gap)
    t = low + (high - low) * np.clip(over / np.maximum(over - below, 1e-6), 0, 1)
    return np.where(found, t, np.float32(FAR_M)).astype(np.float32)


def pipe_surface(pipe: Pipe, x: FloatArray, left: FloatArray, up: FloatArray
                 ) -> tuple[FloatArray, FloatArray]:
    """Return the outer radius at points (N,) near the pipe, and the thickness of growth in it."""
    i = pipe.index(x)
    angle = np.arctan2(up, left) * np.float32(GROWTH_COLUMNS / (2 * np.pi))
    column = np.where(angle < 0, angle + GROWTH_COLUMNS, angle)[None]
    row = ((x - np.float32(pipe.start)) * np.float32(1 / GROWTH_CELL_M))[None]
    growth = sample_rows(pipe.growth, column, row)
    # Bracelet anodes are two half shells, with a slot on either side.
    slot = np.abs(up) < 0.03
    raised = np.where(slot, 0, pipe.anode[i]) * np.float32(ANODE_RAISE_M)
    return pipe.radius + raised + pipe.joint[i] * np.float32(JOINT_RAISE_M) + growth, growth


def trace_pipe(pipe: Pipe, origin: FloatArray, rays: FloatArray, limit: FloatArray
               ) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the flat indices (K,) of rays that meet the pipe before `limit`, and metres (K,)."""
    flat, limits, shell = rays.reshape(-1, 3), limit.ravel(), pipe.radius + GROWTH_MAX_M

    def walk(ids: NDArray[np.intp], t: FloatArray, steps: int, arrived_m: float, care: float,
             least_m: float, is_outer: bool) -> tuple[NDArray[np.intp], FloatArray]:
        """March rays to the shell around all growth, or from there to the surface."""
        d, end = [np.ascontiguousarray(flat[ids, i]) for i in range(3)], limits[ids]
        found, where = [ids[:0]], [t[:0]]
        for _ in range(steps):
            if ids.size == 0:
                break
            x, y, z = (np.float32(origin[i]) + d[i] * t for i in range(3))
            left, up = pipe.across(x, y, z)
            far = np.sqrt(left * left + up * up)
            gap = far - (np.float32(shell) if is_outer else pipe_surface(pipe, x, left, up)[0])
            near = gap < arrived_m
            found.append(ids[near])
            where.append(t[near])
            t = t + np.maximum(gap * np.float32(care), least_m)
            keep = ~near & (t < end) & (is_outer | (far < shell + 0.02))
            ids, t, end = ids[keep], t[keep], end[keep]
            d = [v[keep] for v in d]
        return np.concatenate(found), np.concatenate(where)

    ready = walk(np.arange(limits.size), np.zeros(limits.size, np.float32), 40, 0.004, 1.0, 0.003,
                 True)
    pixels, t = walk(*ready, 48, 0.0015, 0.7, 0.0015, False)
    before = t < limits[pixels]
    return pixels[before], t[before]


def pipe_normal(pipe: Pipe, points: FloatArray) -> FloatArray:
    """Return the outward normals at points (N, 3) on the pipe, by finite differences."""
    x, y, z = (np.ascontiguousarray(points[:, i]) for i in range(3))
    step = np.float32(0.008)

    def gap(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        left, up = pipe.across(x, y, z)
        return np.sqrt(left * left + up * up) - pipe_surface(pipe, x, left, up)[0]

    here = gap(x, y, z)
    normal = np.stack([gap(x + step, y, z) - here, gap(x, y + step, z) - here,
                       gap(x, y, z + step) - here], axis=1)
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)


def _put_pipe(world: World, origin: FloatArray, rays: FloatArray, hits: Hits) -> None:
    """Draw the pipe into the hits."""
    pixels, t = trace_pipe(world.pipe, origin, rays, hits.t)
    if pixels.size == 0:
        return
    points = origin + rays.reshape(-1, 3)[pixels] * t[:, None]
    x = np.ascontiguousarray(points[:, 0])
    left, up = world.pipe.across(x, points[:, 1], points[:, 2])
    _, growth = pipe_surface(world.pipe, x, left, up)
    i = world.pipe.index(x)
    part = np.full(pixels.size, PIPELINE, np.uint8)
    part[world.pipe.joint[i] > 0.5] = FIELD_JOINT
    part[(world.pipe.anode[i] > 0.3) & (np.abs(up) >= 0.03)] = ANODE
    part[growth > GROWTH_SEEN_M] = MARINE_GROWTH
    hits.t.reshape(-1)[pixels] = t
    hits.normal.reshape(-1, 3)[pixels] = pipe_normal(world.pipe, points)
    hits.what.reshape(-1)[pixels] = ON_PIPE
    hits.mask.reshape(-1)[pixels] = part


def _put_props(world: World, camera: Camera, rays: FloatArray, hits: Hits) -> None:
    """Draw the debris into the hits."""
    for number, prop in enumerate(world.props):
        box = camera.box(prop.centre, prop.reach)
        away = float(np.linalg.norm(prop.centre - camera.position))
        if box is None or away > FAR_M:
            continue
        t, normal, hit = hit_prop(prop, camera.position, rays[box])
        hit &= t < hits.t[box]
        hits.t[box][hit] = t[hit]
        hits.normal[box][hit] = normal[hit]
        hits.what[box][hit] = PROP + number
        hits.mask[box][hit] = DEBRIS


def _put_things(world: World, camera: Camera, rays: FloatArray, things: tuple[Thing, ...],
                hits: Hits) -> None:
    """Draw objects never shown in training into the hits."""
    hits.paint = np.zeros_like(hits.normal)
    for thing in things:
        found = meet(thing, camera, rays, world.tiles[0])
        if found is None:
            continue
        box, (index, t, normal, albedo) = found
        row, column = np.unravel_index(index, hits.t[box].shape)
        first = t < hits.t[box][row, column]
        row, column = row[first], column[first]
        hits.t[box][row, column] = t[first]
        hits.normal[box][row, column] = normal[first]
        hits.paint[box][row, column] = albedo[first]
        hits.what[box][row, column] = UNKNOWN
        hits.mask[box][row, column] = IGNORE


def _put_bed(world: World, camera: Camera, rays: FloatArray) -> Hits:
    """Start the hits with the seabed and the ropes on it."""
    bed, origin = world.seabed, camera.position
    t = trace_bed(bed, origin, rays)
    x, y = origin[0] + rays[..., 0] * t, origin[1] + rays[..., 1] * t
    cells = bed.cells(x, y)
    slope = sample_grid(bed.surface[..., :2], *cells)
    normal = np.concatenate([-slope, np.ones_like(slope[..., :1])], axis=-1)
    normal /= np.sqrt(np.einsum('hwi,hwi->hw', normal, normal))[..., None]
    what = np.where(t < FAR_M, BED, OPEN_WATER).astype(np.int16)
    mask = np.full(t.shape, SEABED, np.uint8)
    if float(bed.rope.min()) < 1:
        # Farther away a rope is too thin in the picture to be seen.
        thick = np.float32(camera.focal_px * 2 * ROPE_RADIUS_M / ROPE_LEAST_PX)
        rope = (sample_grid(bed.rope, *cells) < ROPE_RADIUS_M) & (what == BED) & (t < thick)
        what[rope], mask[rope] = ROPE, DEBRIS
    return Hits(t, normal, what, mask)


def cast(world: World, camera: Camera, rays: FloatArray, things: tuple[Thing, ...] = ()) -> Hits:
    """Return the hits of the rays."""
    hits = _put_bed(world, camera, rays)
    _put_pipe(world, camera.position, rays, hits)
    _put_props(world, camera, rays, hits)
    if things:
        _put_things(world, camera, rays, things, hits)
    return hits


@dataclass(frozen=True, eq=False)
class Surface:
    """
    The surface to be lit: points, unit normals and linear BGR albedo (H, W, 3).

    `across` is to the left of and above the pipe's axis, in metres; `open_to_light` is 1 in the
    open, and less in corners beside the pipe and the debris.
    """

    points: FloatArray
    normal: FloatArray
    albedo: FloatArray
    across: tuple[FloatArray, FloatArray]
    open_to_light: FloatArray


def _paint_bed(world: World, hits: Hits, x: FloatArray, y: FloatArray, albedo: FloatArray,
               normal: FloatArray) -> None:
    """Paint the whole image as seabed, before the other surfaces."""
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
    """Paint ropes as round and twisted, although their geometry is flat."""
    here = hits.what == ROPE
    if not here.any():
        return
    off = sample_grid(world.seabed.rope, *world.seabed.cells(x, y))[here] / ROPE_RADIUS_M
    round_ = np.sqrt(np.clip(1 - off * off, 0.08, 1))
    twist = 0.85 + 0.25 * np.sin((x[here] + y[here]) * np.float32(260))
    albedo[here] = world.rope_colour * (round_ * twist)[:, None]


def _paint_props(world: World, camera: Camera, hits: Hits, points: FloatArray,
                 albedo: FloatArray, light: FloatArray) -> None:
    """Paint debris, with sediment on top, and darken the ground around it."""
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
    normal = np.where((hits.what == BED)[..., None], normal, hits.normal)
    _paint_pipe(world, hits, points, albedo, normal)
    _paint_rope(world, hits, x, y, albedo)
    _paint_props(world, camera, hits, points, albedo, light)
    if hits.paint is not None:
        new = hits.what == UNKNOWN
        albedo[new] = hits.paint[new]
    normal /= np.sqrt(np.einsum('hwi,hwi->hw', normal, normal) + 1e-9)[..., None]
    return Surface(points, normal, np.clip(albedo, 0.005, 0.95), across, light)
