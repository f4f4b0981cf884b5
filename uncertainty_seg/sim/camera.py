# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A pinhole camera in the world: x along the pipe, y to its left, z up, metres.

There is no lens distortion: the masks are exact for the image as it is.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uncertainty_seg.sim.noise import FloatArray


def rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    """
    Return the camera's axes (right, down, forward) as the columns of a matrix.

    Parameters
    ----------
    yaw : float
        Radians to the left of the pipe's direction.
    pitch : float
        Radians below the horizon.
    roll : float
        Radians about the line of sight.

    """
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down
    return np.stack([turned, np.cross(forward, turned), forward], axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Camera:
    """
    Where the camera is and how it sees.

    Parameters
    ----------
    position : ndarray of float32, shape (3,)
        Metres.
    axes : ndarray of float32, shape (3, 3)
        Columns right, down, forward.
    focal_px : float
        Focal length in pixels.
    size : tuple of int
        Width and height in pixels.

    """

    position: FloatArray
    axes: FloatArray
    focal_px: float
    size: tuple[int, int]

    def rays(self, step: int = 1) -> FloatArray:
        """Return unit vectors through every `step`-th pixel, shape (H, W, 3)."""
        width, height = self.size
        offset = (step - 1) / 2
        u = (np.arange(0, width, step) + offset - (width - 1) / 2) / self.focal_px
        v = (np.arange(0, height, step) + offset - (height - 1) / 2) / self.focal_px
        u, v = u[None, :].astype(np.float32), v[:, None].astype(np.float32)
        shrink = 1 / np.sqrt(u * u + v * v + 1)
        rays = np.empty((*shrink.shape, 3), np.float32)
        for i, (right, down, forward) in enumerate(self.axes):
            rays[..., i] = (right * u + down * v + forward) * shrink
        return rays

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return pixels (N, 2) and distance along the line of sight (N,) of points (N, 3)."""
        local = (points - self.position) @ self.axes
        depth = np.maximum(local[:, 2], 1e-3)
        centre = (np.array(self.size, np.float32) - 1) / 2
        pixels = local[:, :2] / depth[:, None] * np.float32(self.focal_px) + centre
        return pixels.astype(np.float32), local[:, 2].astype(np.float32)

    def box(self, centre: FloatArray, radius: float) -> tuple[slice, slice] | None:
        """Return rows and columns that may show a ball, or None where it cannot be seen."""
        pixels, depth = self.project(centre[None])
        if depth[0] < -radius:
            return None
        width, height = self.size
        if depth[0] < 1.2 * radius:
            return slice(0, height), slice(0, width)
        reach = self.focal_px * radius / (depth[0] - radius) * 1.15 + 1
        left, right = (int(np.clip(pixels[0, 0] + k * reach, 0, width)) for k in (-1, 1))
        top, bottom = (int(np.clip(pixels[0, 1] + k * reach, 0, height)) for k in (-1, 1))
        return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None
