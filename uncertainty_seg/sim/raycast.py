# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Cast one ray a pixel into the world: what it meets, where, and how the surface is turned there.

Labels here are those of clear water; `sensor.visible` decides what can be seen.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.camera import Camera
from uncertainty_seg.sim.noise import FloatArray, sample_grid, sample_rows
from uncertainty_seg.sim.objects import hit_prop
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
from uncertainty_seg.sim.seabed import CELL_M, Seabed
from uncertainty_seg.sim.unknowns import meet, Thing
from uncertainty_seg.sim.world import World

FAR_M = 16.0
# What a ray met, finer than the classes: the props follow from PROP on, one number each.
OPEN_WATER, BED, ON_PIPE, ROPE, UNKNOWN, PROP = -1, 0, 1, 2, 3, 10
GROWTH_SEEN_M = 0.006
ROPE_RADIUS_M, ROPE_LEAST_PX = 0.03, 3.0
BED_STEPS = 18


@dataclass(eq=False)
class Hits:
    """
    What each pixel's ray met.

    Parameters
    ----------
    t : ndarray of float32, shape (H, W)
        Metres along the ray; `FAR_M` for open water.
    normal : ndarray of float32, shape (H, W, 3)
        Outward unit normal.
    what : ndarray of int16, shape (H, W)
        `OPEN_WATER`, `BED`, `ON_PIPE`, `ROPE`, or `PROP` plus the object's index.
    mask : ndarray of uint8, shape (H, W)
        Class ids, as if the water were clear.
    paint : ndarray of float32, shape (H, W, 3), or None
        Albedo of the objects never shown in training, where there are any.

    """

    t: FloatArray
    normal: FloatArray
    what: NDArray[np.int16]
    mask: NDArray[np.uint8]
    paint: FloatArray | None = None


def trace_bed(bed: Seabed, origin: FloatArray, rays: FloatArray) -> FloatArray:
    """Return metres to the height field, `FAR_M` where it is not met."""
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
    """Return the outer radius at points (N,) near the pipe, and the growth's share of it."""
    i = pipe.index(x)
    angle = np.arctan2(up, left) * np.float32(GROWTH_COLUMNS / (2 * np.pi))
    column = np.where(angle < 0, angle + GROWTH_COLUMNS, angle)[None]
    row = ((x - np.float32(pipe.start)) * np.float32(1 / GROWTH_CELL_M))[None]
    growth = sample_rows(pipe.growth, column, row)
    # Bracelets are two half shells: a slot to either side.
    slot = np.abs(up) < 0.03
    raised = np.where(slot, 0, pipe.anode[i]) * np.float32(ANODE_RAISE_M)
    return pipe.radius + raised + pipe.joint[i] * np.float32(JOINT_RAISE_M) + growth, growth


def trace_pipe(pipe: Pipe, origin: FloatArray, rays: FloatArray, limit: FloatArray
               ) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the flat indices (K,) of rays that meet the pipe before `limit`, and metres (K,)."""
    flat, limits, shell = rays.reshape(-1, 3), limit.ravel(), pipe.radius + GROWTH_MAX_M

    def walk(ids: NDArray[np.intp], t: FloatArray, steps: int, arrived_m: float, care: float,
             least_m: float, is_outer: bool) -> tuple[NDArray[np.intp], FloatArray]:
        """Walk rays to the shell around all growth, or from there to the surface."""
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
    """Draw what training never shows into the hits."""
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
        # A rope thinner than this in the picture cannot be seen.
        thick = np.float32(camera.focal_px * 2 * ROPE_RADIUS_M / ROPE_LEAST_PX)
        rope = (sample_grid(bed.rope, *cells) < ROPE_RADIUS_M) & (what == BED) & (t < thick)
        what[rope], mask[rope] = ROPE, DEBRIS
    return Hits(t, normal, what, mask)


def cast(world: World, camera: Camera, rays: FloatArray, things: tuple[Thing, ...] = ()) -> Hits:
    """Return what the rays meet."""
    hits = _put_bed(world, camera, rays)
    _put_pipe(world, camera.position, rays, hits)
    _put_props(world, camera, rays, hits)
    if things:
        _put_things(world, camera, rays, things, hits)
    return hits
