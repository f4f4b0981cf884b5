# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Debris: boxes, drums and tyres that lie on the seabed, and how a ray meets them.

They are placed without regard to each other, so that two may overlap.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.noise import FloatArray


@dataclass(frozen=True, eq=False)
class Prop:
    """
    One piece of debris.

    Parameters
    ----------
    kind : str
        'box', 'drum' or 'tyre'.
    centre : ndarray of float32, shape (3,)
        Metres.
    axes : ndarray of float32, shape (3, 3)
        Columns are the object's own axes; a drum's and a tyre's axis is the third.
    half : ndarray of float32, shape (3,)
        Half extents; radius, radius, half length for a drum; ring, ring, tube radius for a tyre.
    colour : ndarray of float32, shape (3,)
        Linear BGR albedo.
    reach : float
        Radius of a ball around it.

    """

    kind: str
    centre: FloatArray
    axes: FloatArray
    half: FloatArray
    colour: FloatArray
    reach: float


def _turned(rng: np.random.Generator, lying: bool) -> FloatArray:
    """Return axes with a random heading and a slight tilt; lying puts the third one level."""
    yaw, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12, 2)
    heading = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    lean = np.array([[1, 0, tilt[0]], [0, 1, tilt[1]], [-tilt[0], -tilt[1], 1]])
    axes, _ = np.linalg.qr(heading @ lean)
    axes = axes * np.sign(np.einsum('ij,ij->j', axes, heading))
    return (axes[:, [1, 2, 0]] if lying else axes).astype(np.float32)


def random_prop(rng: np.random.Generator, x: float, y: float, ground: float) -> Prop:
    """Draw one piece of debris that lies at (x, y), sunk a little into the ground."""
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
    """Meet an axis-aligned box: distance, normal, hit."""
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
    """Meet a capped cylinder about the third axis: distance, normal, hit."""
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
    """Meet a ring about the third axis by sphere tracing: distance, normal, hit."""
    middle, reach = -(d @ o), (half[0] + half[2]) * np.float32(1.05)
    hit = o @ o - middle * middle < reach * reach
    t, normal = np.zeros(hit.shape, np.float32), np.zeros_like(d)
    t[hit], normal[hit], hit[hit] = _walk_tyre(o, d[hit], half, middle[hit] - reach)
    return t, normal, hit


def _walk_tyre(o: FloatArray, d: FloatArray, half: FloatArray, t: FloatArray
               ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Walk rays (N, 3) from `t` to a ring: distance, normal, hit."""
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
    """
    Return where rays, unit vectors (H, W, 3) from `origin`, meet one piece of debris.

    That is metres along the ray (H, W), valid where `hit`, the outward normals in the world (H, W,
    3), and `hit` (H, W).
    """
    o = ((origin - prop.centre) @ prop.axes).astype(np.float32)
    d = rays @ prop.axes
    meet = {'box': _hit_box, 'drum': _hit_drum, 'tyre': _hit_tyre}[prop.kind]
    t, normal, hit = meet(o, d, prop.half)
    return t.astype(np.float32), (normal @ prop.axes.T).astype(np.float32), hit
