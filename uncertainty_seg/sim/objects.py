# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Objects in the scenes: debris, and objects never shown in training.

Debris are boxes, drums and tyres, placed independently. A diver and a shoal of fish share no shape
with them: limbs are signed distances, fish ellipsoids. They move with time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.sim.basics import Camera, FloatArray, sample_rows, stream

Distance = Callable[[FloatArray], FloatArray]
MOST_STEPS, BLOCK_PX = 48, 6
REACH_M = {'diver': 1.9, 'fish': 0.29}
Met = tuple[NDArray[np.intp], FloatArray, FloatArray, FloatArray]
# The parts of a diver: paint, start, stop, radii. The diver is prone, head to +x, tank up.
_BODY = (
    ('suit', (-.26, 0, 0), (.28, 0, .02), (.155, .175)),
    ('band', (.1, 0, .0), (.2, 0, .01), (.178, .182)),
    ('suit', (.34, -.2, .02), (.34, .2, .02), (.085, .085)),
    ('suit', (.4, 0, .03), (.55, 0, .05), (.07, .07)),
    ('hood', (.62, 0, .07), (.66, 0, .06), (.115, .115)),
    ('tank', (-.24, 0, .27), (.26, 0, .26), (.095, .095)),
    ('steel', (.34, 0, .26), (.44, 0, .25), (.035, .03)),
    ('steel', (.38, .05, .25), (.56, .2, .1), (.016, .016)),
    ('steel', (.56, .2, .1), (.75, .06, -.03), (.016, .016)),
    ('steel', (.74, 0, -.03), (.77, 0, -.04), (.04, .04)),
)
_PAINTS = ('suit', 'band', 'hood', 'tank', 'steel', 'skin', 'fin', 'glass')


@dataclass(frozen=True, eq=False)
class Prop:
    """
    One piece of debris: a 'box', 'drum' or 'tyre'; the third axis is that of the round ones.

    `half` are half extents: (radius, radius, half length) of a drum, (ring, ring, tube) of a tyre.
    `colour` is linear BGR albedo, `reach` the radius of a ball around it.
    """

    kind: str
    centre: FloatArray
    axes: FloatArray
    half: FloatArray
    colour: FloatArray
    reach: float


def _turned(rng: np.random.Generator, lying: bool) -> FloatArray:
    """Return axes with a random heading and a slight tilt; `lying` makes the third horizontal."""
    yaw, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12, 2)
    heading = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    lean = np.array([[1, 0, tilt[0]], [0, 1, tilt[1]], [-tilt[0], -tilt[1], 1]])
    axes, _ = np.linalg.qr(heading @ lean)
    axes = axes * np.sign(np.einsum('ij,ij->j', axes, heading))
    return (axes[:, [1, 2, 0]] if lying else axes).astype(np.float32)


def random_prop(rng: np.random.Generator, x: float, y: float, ground: float) -> Prop:
    """Draw one piece of debris at (x, y), sunk a little into the ground."""
    kind = str(rng.choice(['box', 'drum', 'tyre'], p=[0.5, 0.3, 0.2]))
    lying = kind == 'drum' and rng.random() < 0.75
    axes = _turned(rng, lying)
    if kind == 'box':
        half = rng.uniform([0.1, 0.08, 0.03], [0.4, 0.25, 0.22])
        up = half[2]
    elif kind == 'drum':
        half = np.array([1.0, 1.0, 1.45]) * rng.uniform(0.12, 0.26)
        up = half[0] if lying else half[2]
    else:
        ring = rng.uniform(0.16, 0.26)
        half = np.array([ring, ring, ring * rng.uniform(0.3, 0.4)])
        up = half[2]
    colours = np.array([[.10, .25, .55], [.08, .10, .45], [.30, .18, .06], [.50, .50, .48],
                        [.06, .35, .45], [.10, .16, .22], [.10, .22, .08]])
    colour = np.array([.03, .03, .03]) if kind == 'tyre' else colours[rng.integers(len(colours))]
    centre = np.array([x, y, ground + up * rng.uniform(0.35, 0.95)])
    reach = float(np.linalg.norm(half) if kind != 'tyre' else half[0] + half[2])
    return Prop(kind, centre.astype(np.float32), axes, half.astype(np.float32),
                (colour * rng.uniform(0.7, 1.3)).astype(np.float32), reach)


def _hit_box(o: FloatArray, d: FloatArray, half: FloatArray
             ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Intersect an axis-aligned box: distance, normal, hit."""
    inverse = 1 / np.where(np.abs(d) < 1e-6, np.float32(1e-6), d)
    near, far = (-half * np.sign(inverse) - o) * inverse, (half * np.sign(inverse) - o) * inverse
    side = np.argmax(near, axis=-1)
    t = np.take_along_axis(near, side[..., None], -1)[..., 0].astype(np.float32)
    normal = np.zeros_like(d)
    np.put_along_axis(normal, side[..., None],
                      -np.sign(np.take_along_axis(d, side[..., None], -1)), -1)
    return t, normal, (t < far.min(axis=-1)) & (t > 0)


def _hit_drum(o: FloatArray, d: FloatArray, half: FloatArray
              ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Intersect a capped cylinder about the third axis: distance, normal, hit."""
    a = np.maximum(d[..., 0] ** 2 + d[..., 1] ** 2, 1e-9)
    b = o[0] * d[..., 0] + o[1] * d[..., 1]
    root = b * b - a * (o[0] ** 2 + o[1] ** 2 - half[0] ** 2)
    wide = np.sqrt(np.maximum(root, 0))
    dz = np.where(np.abs(d[..., 2]) < 1e-6, np.float32(1e-6), d[..., 2])
    in_z, out_z = (-half[2] * np.sign(dz) - o[2]) / dz, (half[2] * np.sign(dz) - o[2]) / dz
    in_r, out_r = (-b - wide) / a, (-b + wide) / a
    t = np.maximum(in_z, in_r)
    p = o + d * t[..., None]
    normal = np.stack([p[..., 0] / half[0], p[..., 1] / half[0], np.zeros_like(t)], -1)
    normal[in_z > in_r] = 0
    normal[..., 2] = np.where(in_z > in_r, -np.sign(dz), 0)
    return t, normal, (root > 0) & (t < np.minimum(out_z, out_r)) & (t > 0)


def _hit_tyre(o: FloatArray, d: FloatArray, half: FloatArray
              ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Intersect a ring about the third axis by sphere tracing: distance, normal, hit."""
    middle, reach = -(d @ o), (half[0] + half[2]) * np.float32(1.05)
    hit = o @ o - middle * middle < reach * reach
    t, normal = np.zeros(hit.shape, np.float32), np.zeros_like(d)
    t[hit], normal[hit], hit[hit] = _walk_tyre(o, d[hit], half, middle[hit] - reach)
    return t, normal, hit


def _walk_tyre(o: FloatArray, d: FloatArray, half: FloatArray, t: FloatArray
               ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """March rays (N, 3) from `t` to a ring: distance, normal, hit."""
    t = np.maximum(t, 0).astype(np.float32)
    for _ in range(22):
        p = o + d * t[..., None]
        ring = np.hypot(p[..., 0], p[..., 1]) - half[0]
        gap = np.hypot(ring, p[..., 2]) - half[2]
        t = t + gap
    p = o + d * t[..., None]
    round_ = np.maximum(np.hypot(p[..., 0], p[..., 1]), 1e-6)
    ring = round_ - half[0]
    normal = np.stack([p[..., 0] / round_ * ring, p[..., 1] / round_ * ring, p[..., 2]], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return t, normal.astype(np.float32), (np.abs(gap) < 0.004) & (t > 0)


def hit_prop(prop: Prop, origin: FloatArray, rays: FloatArray
             ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return metres along unit rays (H, W, 3), outward normals, and where the debris is hit."""
    o = ((origin - prop.centre) @ prop.axes).astype(np.float32)
    d = rays @ prop.axes
    meet = {'box': _hit_box, 'drum': _hit_drum, 'tyre': _hit_tyre}[prop.kind]
    t, normal, hit = meet(o, d, prop.half)
    return t.astype(np.float32), (normal @ prop.axes.T).astype(np.float32), hit


@dataclass(frozen=True, eq=False)
class Thing:
    """
    An object never shown in training: a 'diver' or one 'fish'.

    `centre` is the centre of a ball of `REACH_M` around it; `axes` has the columns forward, left,
    up; `time_s` moves fins and tails, `seed` sets colours.
    """

    kind: str
    centre: FloatArray
    axes: FloatArray
    time_s: float
    seed: int


def thing_axes(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Return axes for a yaw (left of x), a pitch (nose up) and a roll (to the right)."""
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    left = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    up = np.cross(forward, left)
    return np.stack([forward, np.cos(roll) * left + np.sin(roll) * up,
                     np.cos(roll) * up - np.sin(roll) * left], axis=1).astype(np.float32)


def meet(thing: Thing, camera: Camera, rays: FloatArray, tile: FloatArray
         ) -> tuple[tuple[slice, slice], Met] | None:
    """
    Return where the rays (H, W, 3) of a camera meet an object; None if it is out of view.

    Returns the rows and columns that were searched, and within them, flattened, the pixels that
    meet it, metres, normals in the world and linear BGR albedo.
    """
    box = camera.box(thing.centre, REACH_M[thing.kind])
    if box is None:
        return None
    local = rays[box] @ thing.axes
    origin = ((camera.position - thing.centre) @ thing.axes).astype(np.float32)
    find = {'diver': _diver, 'fish': _fish}[thing.kind]
    index, t, normal, albedo = find(thing, origin, local, camera.focal_px, tile)
    return box, (index, t, (normal @ thing.axes.T).astype(np.float32), albedo)


def _diver(thing: Thing, origin: FloatArray, rays: FloatArray, focal_px: float,
           tile: FloatArray) -> Met:
    """Intersect a diver."""
    names, limbs, slabs = _limbs(thing.time_s)
    shift = np.array([.35, 0, 0], np.float32)

    def parts(points: FloatArray) -> FloatArray:
        p = points - shift
        return np.concatenate([limbs.distance(p), *(s.distance(p)[:, None] for s in slabs)], 1)

    index, t, points = march(lambda p: parts(p).min(axis=1), origin, rays, REACH_M['diver'],
                             focal_px)
    part = parts(points).argmin(axis=1)
    normal = limbs.normal(points - shift, np.minimum(part, len(names) - 1))
    for k, slab in enumerate(slabs, len(names)):
        normal[part == k] = slope(slab.distance, points[part == k] - shift)
    rng = stream(thing.seed, 71)
    suits = np.array([[.30, .10, .05], [.05, .05, .06], [.05, .06, .30], [.12, .12, .12]])
    brights = np.array([[.08, .75, .80], [.10, .25, .85], [.75, .55, .10], [.15, .80, .35]])
    paints = np.array([suits[rng.integers(4)], brights[rng.integers(4)], [.04, .04, .05],
                       [.10, .68, .78] if rng.random() < .6 else [.70, .70, .72],
                       [.16, .16, .17], [.38, .46, .62], brights[rng.integers(4)],
                       [.35, .22, .12]], np.float32)
    of_part = np.array([_PAINTS.index(name) for name in (*names, 'glass', 'fin', 'fin')])
    albedo = paints[of_part[part]]
    grain = sample_rows(tile, (points[:, 1] * 300 % tile.shape[1])[None],
                        (points[:, 0] * 300 % (tile.shape[0] - 1))[None])
    return index, t, normal, albedo * np.clip(1 + 0.1 * grain, 0.5, 1.5)[:, None]


def _limbs(time_s: float) -> tuple[tuple[str, ...], Limbs, tuple[Slab, ...]]:
    """Return the parts of a diver at a moment of the fin kick."""
    parts: list[tuple[str, ArrayLike, ArrayLike, tuple[float, float]]] = list(_BODY)
    slabs = [Slab(np.array([.735, 0, .06], np.float32), np.eye(3, dtype=np.float32),
                  np.array([.035, .085, .05], np.float32))]
    for side in (-1.0, 1.0):
        kick = 0.3 * np.sin(2 * np.pi * 0.6 * time_s + (0 if side > 0 else np.pi))
        hip, knee = np.array([-.3, .09 * side, 0]), np.array([-.74, .12 * side, -.05 + .3 * kick])
        ankle = knee + np.array([-.42, .01 * side, .06 + .5 * kick])
        parts += [('suit', hip, knee, (.115, .085)), ('suit', knee, ankle, (.08, .055))]
        slope = .05 + 1.0 * kick
        aim = np.array([-np.cos(slope), 0, np.sin(slope)])
        fin = np.stack([aim, [0, 1, 0], np.cross(aim, [0, 1, 0])], axis=1).astype(np.float32)
        slabs.append(Slab((ankle + aim * .36).astype(np.float32), fin,
                          np.array([.34, .1, .006], np.float32)))
        elbow, hand = np.array([.56, .36 * side, -.15]), np.array([.86, .2 * side, -.2])
        parts += [('suit', np.array([.36, .2 * side, .02]), elbow, (.075, .06)),
                  ('suit', elbow, hand, (.058, .045)),
                  ('skin', hand, hand + np.array([.09, -.01 * side, 0]), (.045, .03))]
    names, start, stop, radii = zip(*parts, strict=True)
    return names, Limbs(*(np.array(v, np.float32) for v in (start, stop, radii))), tuple(slabs)


def _fish(thing: Thing, origin: FloatArray, rays: FloatArray, focal_px: float,
          tile: FloatArray) -> Met:
    """Intersect one fish: a body and a tail, both ellipsoids, without marching."""
    rng = stream(thing.seed, 73)
    rays = rays.reshape(-1, 3)
    size = np.float32(rng.uniform(0.8, 1.15))
    beat = 0.5 * np.sin(2 * np.pi * 2.2 * thing.time_s + rng.uniform(0, 6))
    best = np.full(rays.shape[0], np.inf, np.float32)
    normals = np.zeros_like(rays)
    for middle, half, turn in (((.03, 0, 0), (.17, .034, .062), 0.0),
                               ((-.185, -.03 * beat, 0), (.055, .007, .075), beat)):
        spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0],
                         [0, 0, 1]], np.float32)
        shrink = spin / (np.array(half, np.float32) * size)
        o, d = (origin - np.array(middle, np.float32) * size) @ shrink, rays @ shrink
        a, b = np.einsum('ni,ni->n', d, d), d @ o
        root = b * b - a * (o @ o - 1)
        t = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
        first = (t > 0.05) & (t < best)
        best[first] = t[first]
        outward = (o + d[first] * t[first, None]) @ shrink.T
        normals[first] = outward / np.linalg.norm(outward, axis=1, keepdims=True)
    index = np.flatnonzero(np.isfinite(best))
    p = (origin + rays[index] * best[index, None]) / size
    back = np.clip(p[:, 2] * 25 + 0.3, 0, 1)[:, None]
    albedo = np.array([.66, .68, .62]) * (1 - back) + np.array([.20, .15, .07]) * back
    albedo[np.abs(p[:, 2] - 0.006) < 0.008] = [.08, .55, .68]
    albedo[p[:, 0] < -.15] = [.10, .45, .58]
    albedo[np.hypot(p[:, 0] - .14, p[:, 2] - .012) < .012] = [.01, .01, .01]
    return index, best[index], normals[index], albedo.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Limbs:
    """Capsules with ends (K, 3) that may have different radii (K, 2)."""

    start: FloatArray
    stop: FloatArray
    radii: FloatArray

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the distances (N, K) of points (N, 3); exact where both radii are equal."""
        axis = self.stop - self.start
        length = np.maximum(np.einsum('ki,ki->k', axis, axis), np.float32(1e-8))
        unit = axis / length[:, None]
        along = points @ unit.T
        along -= np.einsum('ki,ki->k', self.start, unit)
        share = np.clip(along, 0, 1)
        # |p - a|^2 - 2 share (p - a).axis + share^2 |axis|^2, in place: this is the inner loop.
        along *= -2
        along += share
        along *= share
        along *= length
        along += points @ (-2 * self.start.T)
        along += np.einsum('ni,ni->n', points, points)[:, None]
        along += np.einsum('ki,ki->k', self.start, self.start)
        np.sqrt(np.maximum(along, 0, out=along), out=along)
        share *= self.radii[:, 1] - self.radii[:, 0]
        along -= share
        along -= self.radii[:, 0]
        return along

    def normal(self, points: FloatArray, part: NDArray[np.intp]) -> FloatArray:
        """Return the normals (N, 3) at points on limbs `part` (N,), without their taper."""
        start, axis = self.start[part], (self.stop - self.start)[part]
        away = points - start
        length = np.maximum(np.einsum('ni,ni->n', axis, axis), np.float32(1e-8))
        share = np.clip(np.einsum('ni,ni->n', away, axis) / length, 0, 1)
        return _unit(away - share[:, None] * axis)


@dataclass(frozen=True, eq=False)
class Slab:
    """A box with rounded edges: centre (3,), axes as columns (3, 3), half extents (3,)."""

    centre: FloatArray
    axes: FloatArray
    half: FloatArray

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the distances (N,) of points (N, 3)."""
        q = np.abs((points - self.centre) @ self.axes) - self.half
        outside = np.maximum(q, 0)
        out = np.sqrt(np.einsum('ni,ni->n', outside, outside))
        return (out + np.minimum(q.max(axis=1), 0) - np.float32(0.008)).astype(np.float32)


def slope(distance: Distance, points: FloatArray) -> FloatArray:
    """Return the normals (N, 3) of a distance function at points (N, 3) on its surface."""
    here, step = distance(points), np.float32(0.004)
    return _unit(np.stack([distance(points + step * axis) - here
                           for axis in np.eye(3, dtype=np.float32)], axis=1))


def _unit(vectors: FloatArray) -> FloatArray:
    """Return vectors (N, 3) of length 1."""
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(size, 1e-9)).astype(np.float32)


def march(distance: Distance, origin: FloatArray, rays: FloatArray, reach: float, focal_px: float,
          care: float = 0.9) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """
    March the rays (H, W, 3) of an image to the zeros of a distance function.

    Blocks of pixels are marched first, each as one cone; the pixels of those that touch follow one
    by one. `care` is the share of the distance marched in each step. Returns the flattened indices
    of the rays that arrive (K,), the distance along them (K,), and the points (K, 3).
    """
    height, width = rays.shape[:2]
    rows = np.minimum(np.arange(0, height, BLOCK_PX) + BLOCK_PX // 2, height - 1)
    columns = np.minimum(np.arange(0, width, BLOCK_PX) + BLOCK_PX // 2, width - 1)
    coarse = rays[rows[:, None], columns[None, :]].reshape(-1, 3)
    start, end = _chord(origin, coarse, reach + 0.05)
    block, near = _walk(distance, origin, coarse, start, end, BLOCK_PX / focal_px, care)
    begin = np.full(coarse.shape[0], np.inf, np.float32)
    begin[block] = near
    full = np.repeat(np.repeat(begin.reshape(rows.size, -1), BLOCK_PX, 0), BLOCK_PX, 1)
    begin = full[:height, :width].ravel()
    index = np.flatnonzero(np.isfinite(begin))
    flat = rays.reshape(-1, 3)[index]
    stop = _chord(origin, flat, reach)[1]
    hit, t = _walk(distance, origin, flat, begin[index], stop, 0.2 / focal_px, care)
    return index[hit], t, (origin + flat[hit] * t[:, None]).astype(np.float32)


def _walk(distance: Distance, origin: FloatArray, rays: FloatArray, t: FloatArray,
          end: FloatArray, cone: float, care: float) -> tuple[NDArray[np.intp], FloatArray]:
    """March rays (N, 3) from `t` until a cone around them touches; return which, and how far."""
    index = np.flatnonzero(t < end)
    rays, t, end = rays[index], t[index], end[index]
    found: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
    where: list[FloatArray] = [np.zeros(0, np.float32)]
    for _ in range(MOST_STEPS):
        if index.size == 0:
            break
        gap = distance(origin + rays * t[:, None])
        near = gap < np.float32(0.0015) + np.float32(cone) * t
        found.append(index[near])
        where.append(t[near])
        t = t + np.maximum(gap * np.float32(care), np.float32(0.001))
        keep = ~near & (t < end)
        index, t, end, rays = index[keep], t[keep], end[keep], rays[keep]
    return np.concatenate(found), np.concatenate(where).astype(np.float32)


def _chord(origin: FloatArray, rays: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Return where rays (N, 3) enter and leave a ball around 0; those that miss leave at 0."""
    middle = -(rays @ origin)
    square = np.float32(reach * reach - float(origin @ origin)) + middle * middle
    half = np.sqrt(np.maximum(square, 0))
    end = np.where(square > 0, middle + half, 0).astype(np.float32)
    return np.maximum(middle - half, np.float32(0.05)), end
