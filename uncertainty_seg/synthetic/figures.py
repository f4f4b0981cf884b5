# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Signed distances of round-ended limbs and boxes, and a ray's way to them.

Made for objects that debris has nothing in common with: bodies and hulls, not boxes and drums.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.synthetic.noise import FloatArray


Distance = Callable[[FloatArray], FloatArray]
MOST_STEPS, BLOCK_PX = 48, 6


@dataclass(frozen=True, eq=False)
class Limbs:
    """
    Capsules whose two ends may differ in radius.

    Parameters
    ----------
    start, stop : ndarray of float32, shape (K, 3)
        Ends of the K axes.
    radii : ndarray of float32, shape (K, 2)
        Radius at either end.

    """

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
    """Return vectors (N, 3) at length 1."""
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(size, 1e-9)).astype(np.float32)


def _walk(distance: Distance, origin: FloatArray, rays: FloatArray, t: FloatArray,
          end: FloatArray, cone: float, care: float) -> tuple[NDArray[np.intp], FloatArray]:
    """
    Walk rays (N, 3) from `t` until a cone around them touches something.

    Returns the rays that touch before `end` and how far they came. A cone of radius 0 would
    never touch: the least is a millimetre or so.

    """
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


def march(distance: Distance, origin: FloatArray, rays: FloatArray, reach: float, focal_px: float,
          care: float = 0.9) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """
    Walk the rays of an image to where a distance function becomes zero.

    Blocks of pixels walk together first, as one cone; only those that touch go on pixel by pixel.

    Parameters
    ----------
    distance : callable
        Points (N, 3) to distances (N,), in the object's frame.
    origin : ndarray of float32, shape (3,)
        Where the rays start, in the object's frame.
    rays : ndarray of float32, shape (H, W, 3)
        Unit vectors in that frame.
    reach : float
        Radius of a ball around the object.
    focal_px : float
        Focal length, which says how wide a block of pixels is.
    care : float, optional
        Share of the distance walked each step; smaller for functions that promise too much.

    Returns
    -------
    index : ndarray of int, shape (K,)
        The rays that arrive, flattened.
    t : ndarray of float32, shape (K,)
        How far along them.
    points : ndarray of float32, shape (K, 3)
        Where, in the object's frame.

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


def _chord(origin: FloatArray, rays: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Return where rays (N, 3) enter and leave a ball around 0; those that miss leave at 0."""
    middle = -(rays @ origin)
    square = np.float32(reach * reach - float(origin @ origin)) + middle * middle
    half = np.sqrt(np.maximum(square, 0))
    end = np.where(square > 0, middle + half, 0).astype(np.float32)
    return np.maximum(middle - half, np.float32(0.05)), end
