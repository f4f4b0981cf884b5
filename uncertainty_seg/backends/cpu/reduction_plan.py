# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How the image is cut for the reduction, and where each output pixel comes from.

The image is worked on in tiles of a few rows, and where w is s times wl, in s phases: phase k of
a tile holds the columns ``i * s + k``, which all have the same interpolation weights and whose
sources lie side by side. The slots of a phase are those of its rows one after the other, and at
the end some that mean nothing, so that a loop runs over all of them at once and ends where a group
of vectors ends. Otherwise, and where corners are aligned, which makes the weights of all columns
differ, there is one phase, and its slots look up their sources.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import functools
import itertools
import logging
import math
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.uncertainty import bilinear_taps
from uncertainty_seg.errors import BackendUnavailableError, install_command

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
    Cut an image of (height, width) whose logits are of `low_shape`.

    Parameters
    ----------
    low_shape : (int, int)
        (hl, wl).
    num_classes, height, width : int
        C, h, w.
    upsampling : str
        'half_pixel' or 'align_corners'.

    Returns
    -------
    Plan
        Its sums are not filled: nothing of them is in memory until it is written.

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
    """Choose how many rows of slots make the loops long and leave little over."""
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


# -------------------------------------------------------------------------------------------------
# The loops of `reduction_kernels`, compiled when first needed, and run over tiles by threads.
# Knows how to call them, not what they compute.

_BLOCKS_A_THREAD = 4
_log = logging.getLogger(__name__)


class TileThreads:
    """
    Threads that share the tiles of an image among them.

    Parameters
    ----------
    threads : int
        Upper bound of those that compute, the caller's among them.

    """

    def __init__(self, threads: int) -> None:
        self._num_helpers = threads - 1
        self._pool = ThreadPoolExecutor(threads - 1, 'reduction') if threads > 1 else None
        self._num_blocks = threads * _BLOCKS_A_THREAD if threads > 1 else 1

    def run(self, kernel: Callable[..., None], num_tiles: int, arguments: tuple[Any, ...]) -> None:
        """Run a kernel on all tiles, in blocks that the threads take as they come free."""
        count = min(num_tiles, self._num_blocks)
        edges = [num_tiles * index // count for index in range(count + 1)]
        blocks = deque(itertools.pairwise(edges))

        def work() -> None:
            while True:
                try:
                    first, stop = blocks.popleft()
                except IndexError:
                    return
                kernel(*arguments, first, stop)

        helpers = [self._pool.submit(work) for _ in range(self._num_helpers)] if self._pool else []
        work()
        for helper in helpers:
            helper.result()

    def close(self) -> None:
        """End the threads; may be called twice."""
        if self._pool is not None:
            self._pool.shutdown()


@functools.lru_cache(maxsize=1)
def load_kernel() -> Callable[..., None]:
    """
    Compile the loops for this processor, or take them from numba's cache on disk.

    Returns
    -------
    callable
        `reduction_kernels.reduce_tiles`, which never compiles again.

    Raises
    ------
    BackendUnavailableError
        If numba is not installed.

    """
    plan, one = new_plan((1, 1), 2, 1, 1), np.float32(1)
    logits = np.zeros((1, 2, 1, 1), np.float32)
    logits.flags.writeable = False  # what is compiled for it accepts writable arrays too
    return _load('reduce_tiles', (logits, one, plan.rows, plan.columns, plan.sums, True, True,
                                  *new_maps(1, 1), one, one, 0, 1))


@functools.lru_cache(maxsize=1)
def load_spreader() -> Callable[..., None]:
    """Do the same for `reduction_kernels.spread_tiles`."""
    plan, one = new_plan((1, 1), 2, 1, 1), np.float32(1)
    sources = np.zeros((1, 5, 1, 1), np.float32)
    return _load('spread_tiles', (sources, plan.rows, plan.columns, plan.sums.probs,
                                  *new_maps(1, 1), one, 0, 1))


def new_maps(height: int, width: int) -> tuple[LabelMap, FloatMap]:
    """Return memory for the label map and the float maps, in the order of `UncertaintyMaps`."""
    # One array of all maps is large enough for the system to give it in large pages.
    return np.empty((height, width), np.uint8), np.empty((6, height, width), np.float32)


def _load(name: str, arguments: tuple[Any, ...]) -> Callable[..., None]:
    try:
        from uncertainty_seg.backends.cpu import reduction_kernels
    except ImportError as err:
        raise BackendUnavailableError(
            f'numba cannot be imported ({err})', fix=install_command('numba')
        ) from err
    start_s = time.perf_counter()
    try:
        kernel = _warmed(reduction_kernels.compile_kernel(name, True), arguments)
    except Exception as err:  # numba passes on whatever its cache on disk meets
        _log.warning('numba cannot keep compiled loops on disk (%s: %s), so that every start '
                     'compiles them: set NUMBA_CACHE_DIR to a writable folder',
                     type(err).__name__, err)
        kernel = _warmed(reduction_kernels.compile_kernel(name, False), arguments)
    _log.info('compiled loops of the reduction ready in %.1f s', time.perf_counter() - start_s)
    return kernel


def _warmed(kernel: Any, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Call a kernel once and forbid it to compile for any other type later."""
    kernel(*arguments)
    kernel.disable_compile()
    return kernel
