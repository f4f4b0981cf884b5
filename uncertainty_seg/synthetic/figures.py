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

__all__ = ['Limbs', 'Slab', 'march', 'soft_union']

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
        length = np.maximum(np.einsum('ki,ki->k', axis, axis), 1e-8)
        along = points @ axis.T - np.einsum('ki,ki->k', self.start, axis)
        share = np.clip(along / length, 0, 1)
        square = (np.einsum('ni,ni->n', points, points)[:, None] - 2 * points @ self.start.T
                  + np.einsum('ki,ki->k', self.start, self.start)
                  - 2 * share * along + share * share * length)
        radius = self.radii[:, 0] + share * (self.radii[:, 1] - self.radii[:, 0])
        return (np.sqrt(np.maximum(square, 0)) - radius).astype(np.float32)


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


def soft_union(distances: FloatArray, roundness_m: float) -> FloatArray:
    """Join distances (N, K) to one (N,), with fillets of about `roundness_m`."""
    least = distances.min(axis=1)
    close = np.exp((least[:, None] - distances) / np.float32(roundness_m))
    return (least - np.float32(roundness_m) * np.log(close.sum(axis=1))).astype(np.float32)


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
    normal : ndarray of float32, shape (K, 3)
        Outward unit normal in the object's frame.

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
    index, flat = index[hit], flat[hit]
    points, step = origin + flat * t[:, None], np.float32(0.004)
    here = distance(points)
    normal = np.stack([distance(points + step * axis) - here
                       for axis in np.eye(3, dtype=np.float32)], axis=1)
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    return index, t, (normal / np.maximum(size, 1e-9)).astype(np.float32)


def _chord(origin: FloatArray, rays: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Return where rays (N, 3) enter and leave a ball around 0; those that miss leave at 0."""
    middle = -(rays @ origin)
    square = np.float32(reach * reach - float(origin @ origin)) + middle * middle
    half = np.sqrt(np.maximum(square, 0))
    end = np.where(square > 0, middle + half, 0).astype(np.float32)
    return np.maximum(middle - half, np.float32(0.05)), end
