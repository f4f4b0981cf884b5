# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The seabed: a height field with banks, ripples, boulders, ropes, burials and free spans.

A height field has one height a place: no overhangs, and nothing lies under a boulder.

"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.noise import FloatArray, sample_tile, window
from uncertainty_seg.sim.pipe import PipePlan, Route, TABLE_STEP_M

CELL_M = 0.03


@dataclass(frozen=True, eq=False)
class Seabed:
    """
    The height field; row = y, column = x, `CELL_M` a cell.

    `surface` holds, for each cell, the two slopes, the brightness of the sediment and the share of
    bare rock; `rope` the distance to the nearest rope, metres, capped at 1.
    """

    x0: float
    y0: float
    height: FloatArray
    surface: FloatArray
    rope: FloatArray
    low: float
    high: float

    def cells(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return fractional columns and rows."""
        scale = np.float32(1 / CELL_M)
        return (x - np.float32(self.x0)) * scale, (y - np.float32(self.y0)) * scale

    def height_at(self, x: float, y: float) -> float:
        """Return the height of the nearest cell."""
        column = int(np.clip((x - self.x0) / CELL_M, 0, self.height.shape[1] - 1))
        row = int(np.clip((y - self.y0) / CELL_M, 0, self.height.shape[0] - 1))
        return float(self.height[row, column])


def _boulders(rng: np.random.Generator, plan: PipePlan, height: FloatArray, rock: FloatArray,
              aside: FloatArray, tile: FloatArray) -> None:
    """Raise domes of rock in place, off the pipe."""
    rows, columns = height.shape
    for _ in range(int(rng.poisson((plan.stop - plan.start) * rng.choice([0.1, 0.6, 1.4])))):
        size = float(np.clip(rng.lognormal(-1.6, 0.5), 0.07, 0.55))
        reach = int(size * 1.5 / CELL_M) + 1
        r, c = int(rng.integers(reach, rows - reach)), int(rng.integers(reach, columns - reach))
        x = plan.start + c * CELL_M
        if abs(aside[r, c]) < 0.3 + size or any(a - 2 < x < b for a, b, _ in plan.clear):
            continue
        box = slice(r - reach, r + reach + 1), slice(c - reach, c + reach + 1)
        dy, dx = np.mgrid[-reach:reach + 1, -reach:reach + 1].astype(np.float32) * CELL_M / size
        turn, long = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        k = int(rng.integers(0, tile.shape[0] - 2 * reach - 1))
        bumpy = 1 + 0.13 * tile[k:k + 2 * reach + 1, k:k + 2 * reach + 1]
        dome = np.sqrt(np.clip(1 - (u / long) ** 2 - (v * long) ** 2, 0, None)) * bumpy
        top = height[r, c] + size * (rng.uniform(0.5, 0.9) * dome - 0.15)
        raised = (dome > 0) & (top > height[box])
        height[box] = np.where(raised, top, height[box])
        rock[box] = np.maximum(rock[box], raised.astype(np.float32))


def _ropes(
    rng: np.random.Generator, plan: PipePlan, shape: tuple[int, int], y0: float
) -> FloatArray:
    """Return each cell's distance to the nearest rope, metres, capped at 1."""
    drawn = np.full(shape, 255, np.uint8)
    for _ in range(int(rng.poisson((plan.stop - plan.start) * plan.props_per_m * 0.12))):
        steps = int(rng.integers(60, 160))
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(np.cumsum(rng.normal(0, 0.02, steps)))
        x = rng.uniform(plan.start, plan.stop) + np.cumsum(np.cos(angle)) * 0.03
        y = rng.normal(0, 1.6) + np.cumsum(np.sin(angle)) * 0.03
        if any(np.any((x > a - 1) & (x < b + 1)) for a, b, _ in plan.clear):
            continue
        line = np.stack([(x - plan.start) / CELL_M, (y - y0) / CELL_M], 1) * 16
        cv2.polylines(drawn, [line.round().astype(np.int32)], False, 0, 1, cv2.LINE_8, 4)
    if drawn.min() > 0:
        return np.ones(shape, np.float32)
    far = cv2.distanceTransform(drawn, cv2.DIST_L2, 5).astype(np.float32) * CELL_M
    return np.minimum(cv2.GaussianBlur(far, (0, 0), 1.0), 1)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Positions of all cells, (H, W), or of columns, (W,); `aside` is metres left of the axis."""

    along: FloatArray
    x: FloatArray
    y: FloatArray
    aside: FloatArray
    pick: NDArray[np.intp]


def _grid(plan: PipePlan, route: Route) -> _Grid:
    """Lay the cells out."""
    nx, ny = int((plan.stop - plan.start) / CELL_M), int(2 * plan.half_width / CELL_M)
    along = np.arange(nx, dtype=np.float32) * CELL_M + np.float32(plan.start)
    beside = np.arange(ny, dtype=np.float32) * CELL_M - np.float32(plan.half_width)
    pick = np.minimum((np.arange(nx) * (CELL_M / TABLE_STEP_M)).astype(int), route.x.size - 1)
    x = np.ascontiguousarray(np.broadcast_to(along[None, :], (ny, nx)))
    y = np.ascontiguousarray(np.broadcast_to(beside[:, None], (ny, nx)))
    aside = (y - route.y[pick][None, :]) * route.cosine[pick][None, :]
    return _Grid(along, x, y, aside, pick)


def _ripples(rng: np.random.Generator, grid: _Grid, coarse: FloatArray
             ) -> tuple[FloatArray, FloatArray]:
    """Return the height of sand ripples and how they tint the sediment."""
    turn, wave = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(0.14, 0.4)
    phase = (np.cos(turn) * grid.x + np.sin(turn) * grid.y) * np.float32(wave)
    phase += 1.6 * sample_tile(coarse, grid.x, grid.y, 5.0)
    patchy = np.clip(0.6 + 0.6 * sample_tile(coarse, grid.y, grid.x, 9.0), 0, 1.4)
    ripple = np.sin(phase) + 0.25 * np.sin(2 * phase + 1)
    strength = np.float32(rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.35, 0.35]))
    return (strength * np.float32(0.055 / wave * 2) * patchy * ripple,
            strength * 0.06 * patchy * ripple)


def _meet_pipe(rng: np.random.Generator, plan: PipePlan, grid: _Grid, axis: FloatArray,
               radius: float, coarse: FloatArray, height: FloatArray) -> FloatArray:
    """Scour the seabed under free spans, bank it against the pipe, heap it over burials."""
    span = np.zeros(grid.along.size, np.float32)
    for start, stop, deep in plan.spans:
        span = np.maximum(span, window(grid.along, start, stop, 0.8)
                          * np.float32(0.15 + 0.35 * deep))
    height -= (span + radius * span)[None, :] * np.exp(-(grid.aside / 0.9) ** 2)
    pressed = rng.uniform(-0.4, 0.7) * radius * np.exp(
        -((np.abs(grid.aside) - radius) / 0.3) ** 2)
    height += pressed * (1 - np.minimum(span * 4, 1))[None, :] * np.clip(
        0.7 + 0.5 * sample_tile(coarse, grid.x, grid.y, 3.5), 0, 1.5)
    ragged = 0.09 * sample_tile(coarse, grid.y, grid.x, 3.1)
    for start, stop, level in plan.burials:
        over = window(grid.along, start, stop, 0.9)
        crest = axis + np.float32(radius) * (np.float32(0.7 + 1.5 * level) * over - 1.0)
        slope = 0.55 * np.maximum(np.abs(grid.aside) - 0.15, 0)
        mound = crest[None, :] + ragged * over[None, :] - slope
        height = np.where(over[None, :] > 0, np.maximum(height, mound), height)
    return np.ascontiguousarray(height, np.float32)


def build_seabed(rng: np.random.Generator, plan: PipePlan, route: Route, coarse: FloatArray,
                 lumpy: FloatArray) -> tuple[Seabed, FloatArray]:
    """
    Build the seabed around a pipe, buried or hanging free as the plan says.

    `coarse` and `lumpy` are periodic noise (S, S). Returns the height field, and the height of the
    pipe's axis along its route (N,), metres.
    """
    grid = _grid(plan, route)
    ny, nx = grid.x.shape
    banks = rng.uniform(0.04, 0.13) * sample_tile(coarse, grid.x, grid.y, 12.0)
    rows = np.clip((route.y[grid.pick] + plan.half_width) / CELL_M, 0, ny - 1).astype(int)
    # The pipe is stiff: it follows the seabed's long waves only.
    under = cv2.GaussianBlur(banks[rows, np.arange(nx)][None], (0, 0), 1.2 / CELL_M)[0]
    axis = under + np.float32(route.radius * rng.uniform(0.35, 0.85))
    height = banks + rng.uniform(0.006, 0.02) * sample_tile(coarse, grid.y, grid.x, 2.3)
    ripples, tint = _ripples(rng, grid, coarse)
    height += ripples
    height = _meet_pipe(rng, plan, grid, axis, route.radius, coarse, height)
    rock = np.zeros((ny, nx), np.float32)
    _boulders(rng, plan, height, rock, grid.aside, lumpy)
    slope_y, slope_x = (cv2.Sobel(height, cv2.CV_32F, dx, dy, ksize=3, scale=1 / (8 * CELL_M))
                        for dx, dy in ((0, 1), (1, 0)))
    shade = 1 + 0.1 * sample_tile(coarse, grid.x, grid.y, 4.0) + 0.07 * sample_tile(
        lumpy, grid.x, grid.y, 3.0) + tint
    surface = np.stack([slope_x, slope_y, np.clip(shade, 0.4, 1.6), rock], axis=-1)
    rope = _ropes(rng, plan, (ny, nx), -plan.half_width)
    seabed = Seabed(plan.start, -plan.half_width, height, surface.astype(np.float32), rope,
                    float(height.min()), float(height.max()))
    return seabed, np.interp(route.x, grid.along, axis).astype(np.float32)
