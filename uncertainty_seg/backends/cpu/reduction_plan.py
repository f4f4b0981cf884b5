# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How the image is cut for the reduction, and where each output pixel comes from.

The image is processed in tiles of a few rows and, where w is s times wl, in s phases: phase k of
a tile holds the columns ``i * s + k``, which all have the same interpolation weights and adjacent
sources. The slots of a phase are those of its rows one after the other, padded at the end, so that
one loop covers all of them and ends where a group of vectors ends. Otherwise, and where corners
are aligned, so that the weights of all columns differ, there is one phase, and its slots look up
their sources.

"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.uncertainty import bilinear_taps

_MAX_SLOTS = 640  # of a tile: long loops, and still within the first caches
_STEP = 64  # slots that LLVM takes at once with the widest vectors; what remains is slow


class Rows(NamedTuple):
    """
    Sources of each output row, the last repeated until the tiles are full.

    Attributes
    ----------
    upper, lower : ndarray of int64, shape (tiles * tile_rows,)
        Rows of the logits.
    shares : ndarray of float32, shape (tiles * tile_rows,)
        Share of the lower.

    """

    upper: NDArray[np.int64]
    lower: NDArray[np.int64]
    shares: NDArray[np.float32]


class Columns(NamedTuple):
    """
    Sources of each slot in the rows of a tile, which lie one after the other from 1 on.

    Attributes
    ----------
    offsets : ndarray of uint64, shape (s,) or (0,)
        Where the left sources of each phase begin, 0 or 1; empty if there are no phases.
    shares : ndarray of float32, shape (s,) or (0,)
        Share of the right source in each phase.
    left, right : ndarray of uint32, shape (0,) or (n,)
        Both sources of each slot, if there are no phases.
    weights : ndarray of float32, shape (0,) or (n,)
        Share of the right source.

    """

    offsets: NDArray[np.uint64]
    shares: NDArray[np.float32]
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]
    weights: NDArray[np.float32]


class Sums(NamedTuple):
    """
    Sufficient statistics of the passes seen, by tile, phase and slot.

    Attributes
    ----------
    probs : ndarray of float32, shape (tiles, phases, C, n)
        Sum of the probabilities.
    votes : ndarray of uint16, shape (tiles, phases, C, n)
        Passes in which the class won; the lowest class wins among equals.
    lines : ndarray of float32, shape (tiles, phases, 3, n)
        Sum of the squared probabilities of all classes; sum of the entropies in bits, less the
        logarithm of the third line, which is the product of the softmax denominators: its
        logarithm is taken once instead of T times.

    """

    probs: NDArray[np.float32]
    votes: NDArray[np.uint16]
    lines: NDArray[np.float32]


@dataclass
class ReductionPlan:
    """
    Where everything lies, for one size of logits, and the memory for it.

    Attributes
    ----------
    low_shape : (int, int)
        (hl, wl).
    rows, columns : Rows, Columns
        Where an output pixel comes from.
    num_tiles : int
        Groups of rows.
    sums : Sums
        Of the passes of this group.
    groups : Sums or None
        Of the groups before; made when the first is full.

    """

    low_shape: tuple[int, int]
    rows: Rows
    columns: Columns
    num_tiles: int
    sums: Sums
    groups: Sums | None = None


def new_plan(
    low_shape: tuple[int, int], num_classes: int, height: int, width: int,
    upsampling: str = 'half_pixel',
) -> ReductionPlan:
    """
    Cut an image of (height, width) with logits of `low_shape` (hl, wl).

    Parameters
    ----------
    low_shape, num_classes, height, width : (int, int), int, int, int
        (hl, wl), C, h, w.
    upsampling : str
        'half_pixel' or 'align_corners'.

    Returns
    -------
    ReductionPlan
        Its sums are not initialised, so that they take no memory until they are written.

    """
    low_width = low_shape[1]
    has_phases = width % low_width == 0 and (upsampling == 'half_pixel' or width == low_width)
    num_phases = width // low_width if has_phases else 1
    tile_rows = _tile_rows(width // num_phases, height)
    num_tiles = math.ceil(height / tile_rows)
    n = math.ceil(tile_rows * (width // num_phases) / _STEP) * _STEP
    upper, lower, row_shares = _taps(low_shape[0], height, upsampling)
    end = (0, num_tiles * tile_rows - height)
    rows = Rows(
        np.pad(upper, end, 'edge').astype(np.int64), np.pad(lower, end, 'edge').astype(np.int64),
        np.pad(row_shares, end, 'edge'),
    )
    shape = (num_tiles, num_phases, num_classes, n)
    sums = Sums(np.empty(shape, np.float32), np.empty(shape, np.uint16),
                np.empty((num_tiles, num_phases, 3, n), np.float32))
    columns = (_phases(low_width, width) if has_phases
               else _look_ups(low_width, width, tile_rows, n, upsampling))
    return ReductionPlan(low_shape, rows, columns, num_tiles, sums)


def _tile_rows(stride: int, height: int) -> int:
    """Choose how many rows make the loops long and waste few slots."""
    candidates = range(1, max(2, min(height, _MAX_SLOTS // stride) + 1))

    def waste(rows: int) -> float:
        slots = rows * stride
        return math.ceil(slots / _STEP) * _STEP / slots + 40 / slots

    return min(candidates, key=waste)


def _phases(low_width: int, width: int) -> Columns:
    no_index, no_weight = np.empty(0, np.uint32), np.empty(0, np.float32)
    centres = (np.arange(width // low_width) + 0.5) * low_width / width - 0.5
    offsets = (np.floor(centres) + 1).astype(np.uint64)
    shares = (centres - np.floor(centres)).astype(np.float32)
    return Columns(offsets, shares, no_index, no_index, no_weight)


def _look_ups(low_width: int, width: int, tile_rows: int, n: int, upsampling: str) -> Columns:
    left, right, weights = _taps(low_width, width, upsampling)
    starts = np.repeat(np.arange(tile_rows) * low_width + 1, width)
    end = (0, n - tile_rows * width)
    return Columns(
        np.empty(0, np.uint64), np.empty(0, np.float32),
        np.pad(np.tile(left, tile_rows) + starts, end).astype(np.uint32),
        np.pad(np.tile(right, tile_rows) + starts, end).astype(np.uint32),
        np.pad(np.tile(weights, tile_rows), end),
    )


def _taps(
    old: int, new: int, upsampling: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    low, high, share = bilinear_taps(old, new, upsampling)
    return low, high, share.astype(np.float32)
