# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Objects that training never shows: a diver, the bow of a wreck, a shoal of fish.

Their shapes share nothing with the debris of `objects`; a diver kicks and fish swim with time.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.synthetic.camera import Camera
from uncertainty_seg.synthetic.figures import Limbs, march, Slab, slope
from uncertainty_seg.synthetic.noise import FloatArray, sample_rows, stream


REACH_M = {'diver': 1.9, 'wreck': 2.75, 'fish': 0.29}
HULL_LENGTH, HULL_HEIGHT, HULL_WIDTH = 3.8, 1.55, 0.95


@dataclass(frozen=True, eq=False)
class Thing:
    """
    One object never shown in training.

    Parameters
    ----------
    kind : str
        'diver', 'wreck' or 'fish' (one fish).
    centre : ndarray of float32, shape (3,)
        Of the ball of radius `REACH_M` around it, metres.
    axes : ndarray of float32, shape (3, 3)
        Columns forward, left, up.
    time_s : float
        Moves fins and tails.
    seed : int
        Sets its colours and damage.

    """

    kind: str
    centre: FloatArray
    axes: FloatArray
    time_s: float
    seed: int


Met = tuple[NDArray[np.intp], FloatArray, FloatArray, FloatArray]


def thing_axes(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Return axes that look along yaw (to the left of x), nose up by pitch, rolled right."""
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    left = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    up = np.cross(forward, left)
    return np.stack([forward, np.cos(roll) * left + np.sin(roll) * up,
                     np.cos(roll) * up - np.sin(roll) * left], axis=1).astype(np.float32)


# The parts of a diver: name of the paint, start, stop, radii. Prone, head to +x, tank up.
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


def _limbs(time_s: float) -> tuple[tuple[str, ...], Limbs, tuple[Slab, ...]]:
    """Return the parts of a diver at a moment of the kick."""
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


def _diver(thing: Thing, origin: FloatArray, rays: FloatArray, focal_px: float,
           tile: FloatArray) -> Met:
    """Meet a diver."""
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


def _hull(points: FloatArray, bites: FloatArray) -> FloatArray:
    """Return the distance to the bow of a wreck; its ground is at z = -0.7."""
    x, y, z = points[:, 0] + HULL_LENGTH / 2, np.abs(points[:, 1]), points[:, 2] + 0.7
    along = np.clip(x / HULL_LENGTH, 0, 1)
    height = HULL_HEIGHT * (0.86 + 0.2 * along * along)
    belly = 0.4 + 0.6 * np.sqrt(np.clip(z / HULL_HEIGHT, 0.02, 1))
    aside = y - HULL_WIDTH * (1 - along * along) * belly
    ends = np.maximum(x - HULL_LENGTH, -x + 0.12 * np.sin(9 * z) + 0.08 * np.sin(23 * z + 2))
    box = np.maximum(ends, np.maximum(z - height, -0.4 - z))
    shell = np.maximum(np.abs(aside) - 0.03, box)
    frame = np.abs(np.mod(x, 0.42) - 0.21) - 0.03
    ribs = np.maximum(np.maximum(frame, np.abs(aside + 0.08) - 0.07), box)
    deck = np.maximum(np.maximum(np.abs(z - 0.8 * height) - 0.025, aside),
                      np.maximum(box, 1.5 - x + 0.2 * np.sin(11 * y)))
    torn = np.minimum(shell, deck)
    for bite in bites:
        hole = bite[3] - np.sqrt(np.sum((points - bite[:3]) ** 2, axis=1))
        torn = np.maximum(torn, hole)
    rail_z = z - height - 0.3
    inside = np.maximum(x - HULL_LENGTH + 0.15, 0.5 - x)
    rail = np.maximum(np.sqrt(aside * aside + rail_z * rail_z) - 0.022, inside)
    post = np.abs(np.mod(x, 0.55) - 0.275)
    posts = np.maximum(np.sqrt(aside * aside + post * post) - 0.018,
                       np.maximum(np.abs(rail_z + 0.15) - 0.16, inside))
    mast = np.sqrt((x - 2.1 + 0.25 * (z - 1)) ** 2 + points[:, 1] ** 2) - 0.07
    mast = np.maximum(mast, np.maximum(z - 2.75, 1.0 - z))
    return np.minimum.reduce([torn, ribs, rail, posts, mast]).astype(np.float32)


def _wreck(thing: Thing, origin: FloatArray, rays: FloatArray, focal_px: float,
           tile: FloatArray) -> Met:
    """Meet the bow of a wreck."""
    rng = stream(thing.seed, 72)
    bites = np.stack([rng.uniform(-1.6, 1.2, 5), rng.choice([-.8, .8], 5),
                      rng.uniform(-.4, .7, 5), rng.uniform(.16, .4, 5)], 1).astype(np.float32)
    index, t, p = march(lambda p: _hull(p, bites), origin, rays, REACH_M['wreck'], focal_px, 0.8)
    normal = slope(lambda p: _hull(p, bites), p)
    rows = tile.shape[0]
    u, v = (p[:, 0] + 0.3 * p[:, 1]) % 2 / 2, (p[:, 2] + 0.2 * p[:, 1]) % 2 / 2
    blotch = sample_rows(tile, (u * rows)[None], (v * (rows - 1))[None])
    streak = sample_rows(tile, (u * 4 % 1 * rows)[None], (v * 0.3 * (rows - 1))[None])
    rust = np.clip(0.7 + 0.2 * blotch + 0.3 * streak, 0.1, 1)[:, None]
    plate = np.array([[.16, .18, .19], [.20, .18, .15], [.11, .15, .15]])[rng.integers(3)]
    albedo = plate + (np.array([.06, .14, .30]) - plate) * rust
    seam = np.minimum(np.abs(np.mod(p[:, 0], 0.63) - 0.3), np.abs(np.mod(p[:, 2], 0.42) - 0.2))
    albedo = albedo * np.where(seam < 0.012, 0.4, 1)[:, None]
    pane = np.hypot(np.mod(p[:, 0], 0.8) - 0.4, p[:, 2] - 0.25)
    albedo[pane < 0.13] = [.30, .36, .38]
    albedo[pane < 0.095] = [.01, .01, .01]
    white = np.clip((blotch - 1.1) * 0.9, 0, 0.8)[:, None]
    albedo = albedo + (np.array([.30, .38, .40]) - albedo) * white
    return index, t, normal, albedo.astype(np.float32)


def _fish(thing: Thing, origin: FloatArray, rays: FloatArray, focal_px: float,
          tile: FloatArray) -> Met:
    """Meet one fish: a body and a tail, both ellipsoids, found without marching."""
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


def meet(thing: Thing, camera: Camera, rays: FloatArray, tile: FloatArray
         ) -> tuple[tuple[slice, slice], Met] | None:
    """
    Meet an object.

    Parameters
    ----------
    thing : Thing
        The object.
    camera : Camera
        Where the rays start.
    rays : ndarray of float32, shape (H, W, 3)
        One unit vector a pixel.
    tile : ndarray of float32, shape (S, S)
        Noise for its surface.

    Returns
    -------
    tuple or None
        Rows and columns searched, and within them, flattened: the pixels that meet it, metres,
        normals in the world, linear BGR albedo. None where it is out of view.

    """
    box = camera.box(thing.centre, REACH_M[thing.kind])
    if box is None:
        return None
    local = rays[box] @ thing.axes
    origin = ((camera.position - thing.centre) @ thing.axes).astype(np.float32)
    find = {'diver': _diver, 'wreck': _wreck, 'fish': _fish}[thing.kind]
    index, t, normal, albedo = find(thing, origin, local, camera.focal_px, tile)
    return box, (index, t, (normal @ thing.axes.T).astype(np.float32), albedo)
