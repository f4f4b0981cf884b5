# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Reduce chunks of logits to maps on the CPU, without ever storing the probabilities.

`Reduction` computes what `core.uncertainty.maps_from_logits` defines, to 2e-6 in every float map
for logits within about 20 of each other and up to 500 passes, to 3e-6 for 1000. The same logits
give the same bits with any number of threads and any chunk size. The loops are in
`reduction_kernels`; this file owns the memory, the threads and the compilation, and knows no
runtime.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import functools
import itertools
import logging
import math
import threading
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import (
    bilinear_taps,
    LOGIT_SCALE,
    MapRequest,
    MAPS_OF_LOGITS,
    MAPS_OF_MEANS,
    NO_MORE,
    UncertaintyMaps,
)
from uncertainty_seg.errors import BackendUnavailableError, install_command, ShapeError

# -------------------------------------------------------------------------------------------------
# How the image is cut for the reduction, and where each output pixel comes from.
# The image is processed in tiles of a few rows and, where w is s times wl, in s phases: phase k of
# a tile holds the columns ``i * s + k``, which all have the same interpolation weights and
# adjacent sources. The slots of a phase are those of its rows one after the other, padded at the
# end, so that one loop covers all of them and ends where a group of vectors ends. Otherwise, and
# where corners are aligned, so that the weights of all columns differ, there is one phase, and its
# slots look up their sources.

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
    upper, lower, row_shares = float_taps(low_shape[0], height, upsampling)
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
    left, right, weights = float_taps(low_width, width, upsampling)
    starts = np.repeat(np.arange(tile_rows) * low_width + 1, width)
    end = (0, n - tile_rows * width)
    return Columns(
        np.empty(0, np.uint64), np.empty(0, np.float32),
        np.pad(np.tile(left, tile_rows) + starts, end).astype(np.uint32),
        np.pad(np.tile(right, tile_rows) + starts, end).astype(np.uint32),
        np.pad(np.tile(weights, tile_rows), end),
    )


def float_taps(
    old: int, new: int, upsampling: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return `bilinear_taps` with the shares in float32."""
    low, high, share = bilinear_taps(old, new, upsampling)
    return low, high, share.astype(np.float32)


# -------------------------------------------------------------------------------------------------

# A float32 sum of this many equal passes is exact to 1.5e-6; longer ones are sums of groups.
_GROUP = 32
# The product of softmax denominators, each at most C, must stay below 2**127.
_PRODUCT_BITS = 120
MOST_PASSES = 65535  # of the vote counters
_BLOCKS_A_THREAD = 4
_log = logging.getLogger(__name__)
NOTICE_S = 3.0  # of silence before it is said that loops are compiled


class Reduction:
    """
    A streaming accumulator: `add` chunks of passes, `finish` with the last.

    Parameters
    ----------
    num_classes : int
        C, 2 to 255.
    height, width : int
        h, w of the maps.
    threads : int
        Upper bound of the threads that compute, the caller's among them.
    upsampling : str
        'half_pixel' or 'align_corners'.

    Raises
    ------
    BackendUnavailableError
        If numba is not installed.

    Notes
    -----
    Sums between chunks take about 6 C + 12 bytes a pixel, and 4 C + 12 more from the 33rd pass
    on, whatever T; passes that come in one chunk need none. Building the first reduction of a
    process compiles all loops, or loads them from numba's cache: what a frame needs may change
    with what somebody looks at, and no frame may wait for a compiler.

    """

    def __init__(self, num_classes: int, height: int, width: int, threads: int,
                 upsampling: str = 'half_pixel') -> None:
        if not (2 <= num_classes <= 255 and height >= 1 and width >= 1 and threads >= 1):
            raise ShapeError(
                f'reduction of {num_classes} classes to {width}x{height} on {threads} threads',
                '2 to 255 classes, a pixel and a thread',
            )
        load_kernels()
        self._shape, self._upsampling = (num_classes, height, width), upsampling
        self._per_bit = np.float32(1 / math.log2(num_classes))
        self._threads = TileThreads(threads)
        self._group = min(_GROUP, int(_PRODUCT_BITS / math.log2(num_classes)))
        self._plan: ReductionPlan | None = None
        self._no_maps = new_maps(height, width)  # never touched, hence never in memory
        self._request = NO_MORE
        self._sum_logits: NDArray[np.float64] | None = None
        self._count = 0
        self._num_groups = 0

    def reset(self, request: MapRequest = NO_MORE) -> None:
        """Forget all passes, and compute the maps of `request` too, for the next frame only."""
        self._count = self._num_groups = 0
        self._request, self._sum_logits = request, None

    def add(self, logits: NDArray[np.float32], inv_temperature: float) -> None:
        """
        Add passes that are not the last.

        Parameters
        ----------
        logits : ndarray of float32, shape (Tc, C, hl, wl)
            The next passes; not needed after the call.
        inv_temperature : float
            The logits are multiplied by it.

        Raises
        ------
        ShapeError
            If the logits have another shape or dtype, another size than those before, or are
            more than 65535 passes.

        """
        plan = self._checked(logits)
        for part in self._parts(logits):
            self._reduce(plan, part, inv_temperature, (*self._no_maps, None), 0)

    def finish(self, logits: NDArray[np.float32], inv_temperature: float) -> UncertaintyMaps:
        """
        Add the last passes and compute the maps of all since `reset` or the last `finish`.

        Parameters
        ----------
        logits, inv_temperature : ndarray, float
            As in `add`.

        Returns
        -------
        UncertaintyMaps
            New arrays of shape (h, w), and of the other maps those that the last `reset` asked
            for. NaN wherever a logit that counts was NaN or infinite.

        Raises
        ------
        ShapeError
            As `add`.

        """
        plan = self._checked(logits)
        total = self._count + len(logits)
        maps = (*new_maps(*self._shape[1:]), self._new_more(*self._shape[1:]))
        if total <= self._group:
            self._reduce(plan, logits, inv_temperature, maps, total)
        else:
            self._finish_groups(plan, logits, inv_temperature, maps)
        return self._result(plan, *maps)

    def close(self) -> None:
        """End the threads; may be called twice."""
        self._threads.close()

    def _checked(self, logits: NDArray[np.float32]) -> ReductionPlan:
        require_shape('logits', logits, (None, self._shape[0], None, None), np.float32)
        if min(logits.shape) < 1 or self._count + len(logits) > MOST_PASSES:
            raise ShapeError(f'logits of shape {logits.shape} after {self._count} passes',
                             f'no empty axis, and at most {MOST_PASSES} passes')
        low_shape = logits.shape[2:]
        if self._plan is None or self._plan.low_shape != low_shape:
            if self._count:
                raise ShapeError(f'logits of {low_shape[1]}x{low_shape[0]} among others',
                                 'one size for all passes')
            self._plan = new_plan(low_shape, *self._shape, self._upsampling)
        return self._plan

    def _parts(self, logits: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Cut a chunk where a group of passes ends."""
        cuts = range(self._group - self._count % self._group, len(logits), self._group)
        for first, stop in itertools.pairwise([0, *cuts, len(logits)]):
            yield logits[first:stop]

    def _new_more(self, height: int, width: int) -> FloatMap | None:
        """Return memory for what is asked for of the mean probabilities, the margin first."""
        if not self._request.of_means:
            return None
        count = 2 if 'unknown' in self._request.names else 1
        return np.empty((count, height, width), np.float32)

    def _result(
        self, plan: ReductionPlan, labels: LabelMap, maps: FloatMap, more: FloatMap | None
    ) -> UncertaintyMaps:
        """Name the maps, add those of the mean logits, and forget the passes."""
        named = {} if more is None else dict(zip(MAPS_OF_MEANS, more, strict=False))
        if self._sum_logits is not None:
            named |= zip(MAPS_OF_LOGITS, self._squashed(plan, labels.shape), strict=True)
        found = {name: values for name, values in named.items() if name in self._request.names}
        self.reset()
        return UncertaintyMaps(labels, *maps, **found)

    def _squashed(self, plan: ReductionPlan, shape: tuple[int, ...]) -> FloatMap:
        assert self._sum_logits is not None
        means = (self._sum_logits / self._count).astype(np.float32)[None]
        maps = np.empty((2, *shape), np.float32)
        self._threads.run(load_squasher(), plan.num_tiles, (
            means, plan.rows, plan.columns, plan.sums.probs, maps,
            np.float32(math.log2(math.e)), np.float32(1 / LOGIT_SCALE)))
        return maps

    def _add_logits(self, part: NDArray[np.float32]) -> None:
        if self._sum_logits is None:
            self._sum_logits = np.zeros(part.shape[1:], np.float64)
        for one in part:  # in their order: the same bits for any chunk size
            self._sum_logits += one

    def _reduce(
        self, plan: ReductionPlan, part: NDArray[np.float32], inv_temperature: float,
        maps: tuple[LabelMap, FloatMap, FloatMap | None], total: int,
    ) -> None:
        if self._request.of_logits:
            self._add_logits(part)
        position = self._count % self._group
        if position == 0 and self._count:
            self._close_group(plan)
        scale = np.float32(inv_temperature * math.log2(math.e))
        self._over_tiles(plan, (np.ascontiguousarray(part), scale, plan.rows, plan.columns,
                                plan.sums, self._count == 0, position == 0, *maps,
                                np.float32(total), self._per_bit, self._inv_tau),
                         maps[2] is not None)
        self._count += len(part)

    @property
    def _inv_tau(self) -> np.float32:
        return np.float32(1 / self._request.unknown_temperature)

    def _finish_groups(
        self, plan: ReductionPlan, logits: NDArray[np.float32], inv_temperature: float,
        maps: tuple[LabelMap, FloatMap, FloatMap | None],
    ) -> None:
        """Add the last passes, leave all sums in `plan.groups`, and compute the maps."""
        self.add(logits, inv_temperature)
        self._close_group(plan)
        assert plan.groups is not None
        self._over_tiles(plan, (logits[:0], np.float32(1), plan.rows, plan.columns, plan.groups,
                                False, False, *maps, np.float32(self._count), self._per_bit,
                                self._inv_tau), maps[2] is not None)

    def _over_tiles(
        self, plan: ReductionPlan, arguments: tuple[Any, ...], has_more: bool
    ) -> None:
        self._threads.run(load_kernel(has_more), plan.num_tiles, arguments)

    def _close_group(self, plan: ReductionPlan) -> None:
        """Move the sums of a group, not its votes, to the sums of groups."""
        low = plan.sums
        if plan.groups is None:
            plan.groups = low._replace(
                probs=np.empty_like(low.probs), lines=np.empty_like(low.lines)
            )
        groups = plan.groups
        if self._num_groups == 0:
            groups.probs.fill(0.0)
            groups.lines[:, :, :2] = 0.0
            groups.lines[:, :, 2] = 1.0
        groups.probs[...] += low.probs
        groups.lines[:, :, 0] += low.lines[:, :, 0]
        groups.lines[:, :, 1] += low.lines[:, :, 1] + np.log2(low.lines[:, :, 2])
        self._num_groups += 1


def new_maps(height: int, width: int) -> tuple[LabelMap, FloatMap]:
    """Return memory for the label map and the float maps, in the order of `UncertaintyMaps`."""
    # One array of all maps is large enough for the system to give it in large pages.
    return np.empty((height, width), np.uint8), np.empty((6, height, width), np.float32)


class TileThreads:
    """The threads, the caller's among them, that share the tiles of an image."""

    def __init__(self, threads: int) -> None:
        self._num_helpers = threads - 1
        self._pool = ThreadPoolExecutor(threads - 1, 'reduction') if threads > 1 else None
        self._num_blocks = threads * _BLOCKS_A_THREAD if threads > 1 else 1

    def run(self, kernel: Callable[..., None], num_tiles: int, arguments: tuple[Any, ...]) -> None:
        """Run a kernel on all tiles, in blocks that the threads take when they are free."""
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


def _more(has_more: bool) -> FloatMap | None:
    return np.empty((1, 1, 1), np.float32) if has_more else None


@functools.lru_cache(maxsize=1)
def load_kernels() -> None:
    """Load all loops, and say so where that takes long, as it does at a first start."""
    start_s = time.perf_counter()
    word = threading.Timer(NOTICE_S, _log.info, (
        'compiling the loops of the reduction exact, which takes up to some minutes at the first '
        'start; later ones find them on disk',))
    word.daemon = True
    word.start()
    try:
        load_kernel(False)
        load_kernel(True)
        load_squasher()
    finally:
        word.cancel()
    _log.info('compiled loops of the reduction ready in %.1f s', time.perf_counter() - start_s)


@functools.lru_cache(maxsize=2)
def load_kernel(has_more: bool) -> Callable[..., None]:
    """
    Return `reduction_kernels.reduce_tiles`, compiled for this processor or from numba's cache.

    With `has_more` it takes memory for more maps of the mean probabilities, without it none.

    Raises BackendUnavailableError if numba is not installed.

    """
    plan, one = new_plan((1, 1), 2, 1, 1), np.float32(1)
    logits = np.zeros((1, 2, 1, 1), np.float32)
    logits.flags.writeable = False  # what is compiled for it accepts writable arrays too
    return _load('reduce_tiles', (logits, one, plan.rows, plan.columns, plan.sums, True, True,
                                  *new_maps(1, 1), _more(has_more), one, one,
                                  one, 0, 1))


@functools.lru_cache(maxsize=1)
def load_squasher() -> Callable[..., None]:
    """Return `reduction_kernels.squash_tiles`, as `load_kernel`."""
    plan, one = new_plan((1, 1), 2, 1, 1), np.float32(1)
    return _load('squash_tiles', (
        np.zeros((1, 2, 1, 1), np.float32), plan.rows, plan.columns, plan.sums.probs,
        np.empty((2, 1, 1), np.float32), one, one, 0, 1))


def _load(name: str, arguments: tuple[Any, ...]) -> Callable[..., None]:
    try:
        from uncertainty_seg.backends.cpu import reduction_kernels
    except ImportError as err:
        raise BackendUnavailableError(
            f'numba cannot be imported ({err})', fix=install_command('numba')
        ) from err
    try:
        return _warmed(reduction_kernels.compile_kernel(name, True), arguments)
    except Exception as err:  # numba passes on whatever its cache on disk meets
        _say_uncached(f'{type(err).__name__}: {err}')
        return _warmed(reduction_kernels.compile_kernel(name, False), arguments)


@functools.lru_cache(maxsize=1)
def _say_uncached(reason: str) -> None:
    """Say it once, and not for each of the loops."""
    _log.warning('numba cannot keep compiled loops on disk (%s), so that every start compiles '
                 'them: set NUMBA_CACHE_DIR to a writable folder', reason)


def _warmed(kernel: Any, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Call a kernel once and forbid it to compile for any other type later."""
    kernel(*arguments)
    kernel.disable_compile()
    return kernel
