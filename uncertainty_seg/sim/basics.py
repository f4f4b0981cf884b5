# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The basis of the renderer: noise tiles with fast look-ups, and a pinhole camera.

The world has x along the pipe, y to its left, z up, in metres. Look-ups go through `cv2.remap`,
whose weights are quantised to 1/32 of a cell. There is no lens distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import ConfigError

FloatArray = NDArray[np.float32]
# Limits of the shorter side of an image.
SIDES_PX = 8, 8192


def require_within(name: str, value: float, least: float, most: float) -> None:
    """Raise ConfigError for a number out of its range, or NaN."""
    if not least <= value <= most:
        raise ConfigError(f'{name} {value}', f'{least} to {most}')


def stream(seed: int, *path: int) -> np.random.Generator:
    """Return the random generator of one purpose: same seed and path, same numbers."""
    return np.random.default_rng([seed, *path])


def spectral_tile(rng: np.random.Generator, size: int, beta: float, low: float,
                  high: float) -> FloatArray:
    """
    Make a periodic tile (size, size), mean 0, standard deviation 1 and amplitude f**-beta.

    `low` and `high` bound the frequencies f, cycles per tile.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    rows = np.fft.fftfreq(size, 1 / size)[:, None]
    columns = np.fft.rfftfreq(size, 1 / size)[None, :]
    frequency = np.hypot(rows, columns)
    gain = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, 1) ** -beta, 0)
    tile = np.fft.irfft2(spectrum * gain, s=(size, size))
    return (tile / max(float(tile.std()), 1e-9)).astype(np.float32)


def sample_tile(tile: FloatArray, u: FloatArray, v: FloatArray, period_m: float) -> FloatArray:
    """Look up the periodic tile at metres `u` (columns) and `v` (rows), any 2-D shape."""
    scale = np.float32(tile.shape[0] / period_m)
    # remap has 16 bits for the integer part, so long worlds are looked up near their middle.
    middle = u.shape[0] // 2, u.shape[1] // 2
    u0, v0 = (np.float32(np.floor(w[middle] / period_m) * period_m) for w in (u, v))
    return cv2.remap(tile, (u - u0) * scale, (v - v0) * scale, cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_WRAP)


def sample_grid(grid: FloatArray, column: FloatArray, row: FloatArray) -> FloatArray:
    """Look up a grid at fractional cells; outside of it, use its nearest edge."""
    return cv2.remap(grid, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def sample_rows(grid: FloatArray, column: FloatArray, row: FloatArray) -> FloatArray:
    """Look up (1, N) cells of a grid with periodic columns; remap needs short rows."""
    count = column.shape[1]
    if count == 0:
        return np.zeros(0, np.float32)
    wide = 2048
    full = -(-count // wide) * wide
    u, v = np.zeros(full, np.float32), np.zeros(full, np.float32)
    u[:count], v[:count] = column[0], row[0]
    closed = np.concatenate([grid, grid[:, :1]], axis=1)
    return sample_grid(closed, u.reshape(-1, wide), v.reshape(-1, wide)).ravel()[:count]


def ramp(x: FloatArray, start: float, stop: float) -> FloatArray:
    """Rise smoothly from 0 at `start` to 1 at `stop` (which may be smaller)."""
    u = np.clip((x - np.float32(start)) / np.float32(stop - start), 0, 1)
    return (u * u * (3 - 2 * u)).astype(np.float32)


def window(x: FloatArray, start: float, stop: float, edge: float) -> FloatArray:
    """Return 1 between `start` and `stop`, falling to 0 over `edge` outside of them."""
    return ramp(x, start - edge, start) * ramp(x, stop + edge, stop)


def rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Return axes right, down, forward as columns; yaw left, pitch down and roll in radians."""
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down
    return np.stack([turned, np.cross(forward, turned), forward], axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: metres, columns right, down and forward of `axes`, width and height."""

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
        """Return pixels (N, 2) and depth along the optical axis (N,) of points (N, 3)."""
        local = (points - self.position) @ self.axes
        depth = np.maximum(local[:, 2], 1e-3)
        centre = (np.array(self.size, np.float32) - 1) / 2
        pixels = local[:, :2] / depth[:, None] * np.float32(self.focal_px) + centre
        return pixels.astype(np.float32), local[:, 2].astype(np.float32)

    def box(self, centre: FloatArray, radius: float) -> tuple[slice, slice] | None:
        """Return rows and columns that may show a ball, or None if it is out of view."""
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
