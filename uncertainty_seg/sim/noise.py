# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Noise tiles and fast look-ups into them.

A tile is square and periodic, so a world of any length needs only a few of them. Look-ups go
through `cv2.remap`, whose bilinear weights are quantised to 1/32 of a cell: enough for textures,
and for heights where a cell is a few centimetres.

"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def stream(seed: int, *path: int) -> np.random.Generator:
    """Return the generator of one purpose: the same seed and path, the same numbers."""
    return np.random.default_rng([seed, *path])


def spectral_tile(rng: np.random.Generator, size: int, beta: float, low: float,
                  high: float) -> FloatArray:
    """
    Make a periodic noise tile (size, size) of mean 0 and standard deviation 1.

    Between `low` and `high`, cycles per tile, the amplitude falls as (frequency)**(-beta).
    """
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    rows = np.fft.fftfreq(size, 1 / size)[:, None]
    columns = np.fft.rfftfreq(size, 1 / size)[None, :]
    frequency = np.hypot(rows, columns)
    gain = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, 1) ** -beta, 0)
    tile = np.fft.irfft2(spectrum * gain, s=(size, size))
    return (tile / max(float(tile.std()), 1e-9)).astype(np.float32)


def sample_tile(tile: FloatArray, u: FloatArray, v: FloatArray, period_m: float) -> FloatArray:
    """Look the periodic tile up at metres `u` (columns) and `v` (rows), any 2-D shape."""
    scale = np.float32(tile.shape[0] / period_m)
    # remap keeps the whole part in 16 bits, so long worlds are looked up near their own middle.
    middle = u.shape[0] // 2, u.shape[1] // 2
    u0, v0 = (np.float32(np.floor(w[middle] / period_m) * period_m) for w in (u, v))
    return cv2.remap(tile, (u - u0) * scale, (v - v0) * scale, cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_WRAP)


def sample_grid(grid: FloatArray, column: FloatArray, row: FloatArray) -> FloatArray:
    """Look a grid up at fractional cells; outside, its nearest edge."""
    return cv2.remap(grid, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def sample_rows(grid: FloatArray, column: FloatArray, row: FloatArray) -> FloatArray:
    """Look up (1, N) cells of a grid that closes on itself sideways; remap wants short rows."""
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
    """Rise smoothly from 0 at `start` to 1 at `stop` (which may be the smaller one)."""
    u = np.clip((x - np.float32(start)) / np.float32(stop - start), 0, 1)
    return (u * u * (3 - 2 * u)).astype(np.float32)


def window(x: FloatArray, start: float, stop: float, edge: float) -> FloatArray:
    """Be 1 between `start` and `stop`, fall to 0 over `edge` outside of them."""
    return ramp(x, start - edge, start) * ramp(x, stop + edge, stop)
