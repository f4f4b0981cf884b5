# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Reduce chunks of logits to maps on the CPU, without ever storing the probabilities.

`Reduction` computes what `core.uncertainty.maps_from_logits` defines, to 2e-6 in every float map
for logits within about 20 of each other and up to 500 passes, to 3e-6 for 1000. Its loops are in
`reduction_kernels`; this file owns the memory, the threads and the compilation.

`CoarseReduction` computes what `core.uncertainty.maps_from_coarse_logits` defines, to 4e-6, in
numpy and OpenCV. The passes are summed at (hl, wl), a sixteenth of the pixels where the network
gives logits of a quarter of each side, so that nothing needs to be compiled: each step over a tile
that stays in the second cache is one call of numpy. Only the last softmax is at (h, w), whatever T
is.

The same logits give the same bits with any number of threads and any chunk size.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import functools
import itertools
import logging
import math
import threading
import time
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import (
    bilinear_taps,
    LEAST_PROBABILITY,
    LOGIT_SCALE,
    MapRequest,
    MAPS_OF_MEANS,
    NO_MORE,
    UncertaintyMaps,
)
from uncertainty_seg.errors import BackendUnavailableError, install_command, ShapeError

Floats = NDArray[np.float32]

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
            named['energy'] = self._squashed(plan, labels.shape)[0]
        found = {name: values for name, values in named.items() if name in self._request.names}
        self.reset()
        return UncertaintyMaps(labels, *maps, **found)

    def _squashed(self, plan: ReductionPlan, shape: tuple[int, ...]) -> FloatMap:
        assert self._sum_logits is not None
        means = (self._sum_logits / self._count).astype(np.float32)[None]
        maps = np.empty((1, *shape), np.float32)
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
        np.empty((1, 1, 1), np.float32), one, one, 0, 1))


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


# -------------------------------------------------------------------------------------------------
# Sums at the size of the logits.

# Of the largest array of a tile and of a band, of which a handful are in use at a time.
_TILE_BYTES, _BAND_BYTES = 300_000, 600_000
_FEWEST_PIXELS = 1024  # of a tile: below, calling numpy takes longer than computing
_PIXEL_STEP = 64  # pixels that vectors take at once: between them a tile's end changes no bit
_ONE = np.float32(1)
_SPREAD = ('mutual_information', 'variation_ratio', 'total_variance')  # upsampled as they are


@dataclass
class _CoarseSums:
    """
    Sums over the passes, for each pixel of the logits.

    `group` (C + 2, n) holds the probabilities, the entropies in nats and the squared probabilities
    of the passes since the last multiple of `_GROUP`, `total` those before; `votes` and
    `total_votes` (C, n) count the passes in which a class won; `logits` (C, n) is None unless a
    map of them is wanted.
    """

    group: Floats
    votes: NDArray[np.uint8]
    total: NDArray[np.float64]
    total_votes: NDArray[np.uint16]
    logits: NDArray[np.float64] | None = None


class CoarseReduction:
    """
    Sums over the passes of a frame at the size of the logits, and the maps of them.

    Parameters
    ----------
    logits_shape : (int, int, int)
        (C, hl, wl) of one pass.
    height, width : int
        h, w of the maps.
    threads : int
        Threads of this object, the caller's among them.
    upsampling : str
        'half_pixel' or 'align_corners'.

    Raises
    ------
    ShapeError
        If C is not in 2..255, or a size or `threads` is below 1.

    """

    def __init__(
        self, logits_shape: tuple[int, int, int], height: int, width: int, threads: int,
        upsampling: str = 'half_pixel',
    ) -> None:
        num_classes, rows, columns = logits_shape
        if not 2 <= num_classes <= 255 or min(*logits_shape, height, width, threads) < 1:
            raise ShapeError(
                f'reduction of {num_classes} classes to {width}x{height} on {threads} threads',
                '2 to 255 classes, a pixel and a thread',
            )
        self._shape, self._size = logits_shape, (height, width)
        self._threads = TileThreads(threads)
        self._tiles = _cut_pixels(num_classes, rows * columns, threads)
        self._bands = _bands(logits_shape, height, width, upsampling)
        stack = (num_classes + 2, rows * columns)
        self._sums = _CoarseSums(
            np.empty(stack, np.float32), np.empty((num_classes, stack[1]), np.uint8),
            np.empty(stack, np.float64), np.empty((num_classes, stack[1]), np.uint16))
        self._scratch = _Scratch()
        self._request = NO_MORE
        self._count = 0

    def reset(self, request: MapRequest = NO_MORE) -> None:
        """Forget all passes, and compute the maps of `request` too, for the next frame only."""
        self._count = 0
        self._request, self._sums.logits = request, None

    def add(self, logits: Floats, inv_temperature: float) -> None:
        """Add passes that are not the last; see `Reduction.add`."""
        require_shape('logits', logits, (None, *self._shape), np.float32)
        if len(logits) < 1 or self._count + len(logits) > MOST_PASSES:
            raise ShapeError(f'logits of shape {logits.shape} after {self._count} passes',
                             f'no empty axis, and at most {MOST_PASSES} passes')
        flat = np.ascontiguousarray(logits).reshape(len(logits), self._shape[0], -1)
        if self._request.of_logits:
            if self._sums.logits is None:
                self._sums.logits = np.zeros(flat.shape[1:])
            for one in flat:  # in their order: the same bits for any chunk size
                self._sums.logits += one
        self._threads.run(_add_tiles, len(self._tiles), (
            flat, np.float32(inv_temperature), self._sums, self._count, self._tiles,
            self._scratch))
        self._count += len(logits)

    def finish(self, logits: Floats, inv_temperature: float) -> UncertaintyMaps:
        """Add the last passes and compute the maps of all; see `Reduction.finish`."""
        self.add(logits, inv_temperature)
        means, votes = _means(self._sums, self._count)
        logits_sum, request = self._sums.logits, self._request
        maps = self._maps_of(means, votes, logits_sum, self._count, request)
        self.reset()
        return maps

    def maps_of_sums(
        self, sums: Mapping[str, NDArray[np.float64]], passes: int, request: MapRequest
    ) -> UncertaintyMaps:
        """
        Compute the maps of passes that a head has summed itself.

        Parameters
        ----------
        sums : mapping of str to ndarray of float64
            'sum_p', 'votes' (C, hl, wl), 'sum_entropy' in nats, 'sum_p2' (hl, wl), and
            'sum_logits' (C, hl, wl) if a map of logits is asked for.
        passes : int
            T.
        request : MapRequest
            What is wanted besides the maps that every frame has.

        Returns
        -------
        UncertaintyMaps
            As `finish`.

        """
        count = self._shape[0]
        means = np.concatenate([sums['sum_p'], sums['sum_entropy'][None],
                                sums['sum_p2'][None]]) / passes
        logits = sums['sum_logits'].reshape(count, -1) if request.of_logits else None
        return self._maps_of(means.reshape(count + 2, -1).astype(np.float32),
                             sums['votes'].reshape(count, -1), logits, passes, request)

    def _maps_of(
        self, means: Floats, votes: NDArray[Any], logits: NDArray[np.float64] | None, count: int,
        request: MapRequest,
    ) -> UncertaintyMaps:
        labels, maps = new_maps(*self._size)
        more = {name: np.empty(self._size, np.float32)
                for name in (*request.of_means, *request.of_logits)}
        with np.errstate(all='ignore'):
            sources = _sources(means, votes, logits, count, self._shape)
        self._threads.run(_finish_bands, len(self._bands), (
            sources, self._shape[0], labels, maps, more, request.unknown_temperature,
            self._bands, self._scratch))
        return UncertaintyMaps(labels, *maps, **more)

    def close(self) -> None:
        """End the threads; may be called twice."""
        self._threads.close()


class _Scratch:
    """Memory that a thread takes and gives back: new memory would cost as much as the sums."""

    def __init__(self) -> None:
        self._free: list[Floats] = []

    def take(self, size: int) -> Floats:
        """Return at least `size` float32 of any content."""
        try:
            found = self._free.pop()
        except IndexError:
            found = np.empty(size, np.float32)
        return found if found.size >= size else np.empty(size, np.float32)

    def give_back(self, memory: Floats) -> None:
        """Keep memory for the next."""
        self._free.append(memory)


def _arrays(memory: Floats, *shapes: tuple[int, ...]) -> list[Floats]:
    """Return arrays of these shapes, one behind the other in memory."""
    edges = list(itertools.accumulate((math.prod(shape) for shape in shapes), initial=0))
    return [memory[first:stop].reshape(shape)
            for shape, first, stop in zip(shapes, edges, edges[1:], strict=False)]


# -------------------------------------------------------------------------------------------------
# At the resolution of the logits.


def _parts(size: int, count: int) -> list[slice]:
    edges = [size * index // count for index in range(count + 1)]
    return [slice(first, stop) for first, stop in zip(edges, edges[1:], strict=False)]


def _cut_pixels(num_classes: int, pixels: int, threads: int) -> list[slice]:
    most = max(_FEWEST_PIXELS, min(_TILE_BYTES // (4 * num_classes), pixels // threads))
    steps = math.ceil(pixels / _PIXEL_STEP)
    return [slice(part.start * _PIXEL_STEP, min(part.stop * _PIXEL_STEP, pixels))
            for part in _parts(steps, min(steps, math.ceil(pixels / most)))]


def _add_tiles(
    flat: Floats, scale: np.float32, sums: _CoarseSums, count: int, tiles: list[slice],
    scratch: _Scratch, first: int, stop: int,
) -> None:
    """Add passes (Tc, C, n), before which there were `count`, in some tiles."""
    num_classes = flat.shape[1]
    memory = scratch.take((3 * num_classes + 3) * max(t.stop - t.start for t in tiles))
    with np.errstate(all='ignore'):
        for tile in tiles[first:stop]:
            part = _CoarseSums(sums.group[:, tile], sums.votes[:, tile],
                               sums.total[:, tile], sums.total_votes[:, tile])
            _add_tile(flat[:, :, tile], scale, part, count, memory)
    scratch.give_back(memory)


def _add_tile(z: Floats, scale: np.float32, sums: _CoarseSums, count: int, memory: Floats) -> None:
    num_classes, pixels = z.shape[1:]
    probs, (entropy, squares) = sums.group[:num_classes], sums.group[num_classes:]
    stack = (num_classes, pixels)
    below, e, (row, norm, inverse), rest = _arrays(memory, stack, stack, (3, pixels), stack)
    won = rest.view(np.bool_)[:, :pixels]
    for index, one in enumerate(z, count):
        _begin(sums, index)
        np.maximum.reduce(one, 0, out=row)
        np.subtract(one, row, out=below)
        np.equal(below, 0, out=won)
        if np.count_nonzero(won) > pixels:
            _leave_first(won)
        np.add(sums.votes, won.view(np.uint8), out=sums.votes)
        np.multiply(below, scale, out=below)
        np.exp(below, out=e)
        np.add.reduce(e, 0, out=norm)
        np.divide(1, norm, out=inverse)
        # The entropy is log(norm) - sum(e * below) / norm.
        np.einsum('cn,cn->n', e, below, out=row)
        row *= inverse
        np.log(norm, out=norm)
        norm -= row
        entropy += norm
        e *= inverse
        np.add(probs, e, out=probs)
        np.einsum('cn,cn->n', e, e, out=row)
        squares += row


def _begin(sums: _CoarseSums, index: int) -> None:
    """Prepare the sums for the pass of this index."""
    if index % _GROUP:
        return
    if index == _GROUP:
        sums.total[...], sums.total_votes[...] = sums.group, sums.votes
    elif index:
        sums.total += sums.group
        sums.total_votes += sums.votes
    sums.group[...], sums.votes[...] = 0, 0


def _leave_first(won: NDArray[np.bool_]) -> None:
    """Of classes that are equal leave the lowest."""
    taken = won[0].copy()
    for row in won[1:]:
        row &= ~taken
        taken |= row


def _means(sums: _CoarseSums, count: int) -> tuple[Floats, NDArray[Any]]:
    """Return the means over the passes (C + 2, n), and the votes (C, n)."""
    has_total = count > _GROUP
    whole = sums.group + sums.total if has_total else sums.group
    with np.errstate(all='ignore'):
        means = (whole / np.float32(count)).astype(np.float32)
    return means, sums.votes + sums.total_votes if has_total else sums.votes


def _sources(
    stack: Floats, votes: NDArray[Any], logits: NDArray[np.float64] | None, count: int,
    shape: tuple[int, int, int],
) -> Floats:
    """
    Return what is upsampled, one plane after the other.

    These are log p* (C), the maps of `_SPREAD`, of which mutual information is over ln C, and the
    mean logits (C) if they were summed.
    """
    num_classes = shape[0]
    mean, (entropy, squares) = stack[:num_classes], stack[num_classes:]
    broken = entropy * 0  # of a pass with an infinite logit, the entropy alone may be NaN
    log_mean = np.log(np.maximum(mean, np.float32(LEAST_PROBABILITY))) + broken
    parts = [
        log_mean,
        np.maximum(-np.einsum('cn,cn->n', mean, log_mean) - entropy, 0) / math.log(num_classes),
        _ONE - votes.max(0) / np.float32(count) + broken,
        np.maximum(squares - np.einsum('cn,cn->n', mean, mean), 0) + broken,
    ]
    if logits is not None:
        parts.append(logits / count + broken)
    return np.vstack(parts).astype(np.float32, copy=False).reshape(-1, *shape[1:])


# -------------------------------------------------------------------------------------------------
# At the resolution of the maps.


@dataclass(frozen=True)
class _WholeBand:
    """Rows of the maps, where these are a whole multiple of the logits: OpenCV is exact there."""

    rows: slice
    sources: slice  # rows of the logits, with a neighbour above and below
    offset: int  # of `rows` in what the sources become
    size: tuple[int, int]  # what the sources become

    def upsampled(self, planes: Floats, memory: Floats) -> Floats:
        """Return the band (N, rows, w) of planes (N, hl, wl)."""
        full, = _arrays(memory, (len(planes), *self.size))
        for source, target in zip(planes[:, self.sources], full, strict=True):
            cv2.resize(source, self.size[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        return full[:, self.offset:self.offset + self.rows.stop - self.rows.start]


@dataclass(frozen=True)
class _AnyBand:
    """Rows of the maps, of any size and upsampling."""

    rows: slice
    size: tuple[int, int]
    row_taps: tuple[NDArray[np.intp], NDArray[np.intp], Floats]
    column_taps: tuple[NDArray[np.intp], NDArray[np.intp], Floats]

    def upsampled(self, planes: Floats, memory: Floats) -> Floats:
        """Return the band (N, rows, w) of planes (N, hl, wl)."""
        upper, lower, share = self.row_taps
        left, right, rest = self.column_taps
        mixed = planes[:, upper] * (_ONE - share) + planes[:, lower] * share
        full: Floats = mixed.take(left, 2) * (_ONE - rest) + mixed.take(right, 2) * rest
        return full


def _bands(
    logits_shape: tuple[int, int, int], height: int, width: int, upsampling: str
) -> list[_WholeBand] | list[_AnyBand]:
    num_classes, rows, columns = logits_shape
    most = max(1, _BAND_BYTES // (4 * num_classes * width))
    is_whole = upsampling == 'half_pixel' and height % rows == 0 and width % columns == 0
    if not is_whole:
        y, x = (float_taps(*sizes, upsampling) for sizes in ((rows, height), (columns, width)))
        return [_AnyBand(part, (part.stop - part.start, width),
                         (y[0][part], y[1][part], y[2][part][:, None]), x)
                for part in _parts(height, math.ceil(height / most))]
    factor = height // rows
    found = []
    for part in _parts(rows, math.ceil(rows / max(1, most // factor))):
        sources = slice(max(part.start - 1, 0), min(part.stop + 1, rows))
        found.append(_WholeBand(
            slice(part.start * factor, part.stop * factor), sources,
            (part.start - sources.start) * factor,
            ((sources.stop - sources.start) * factor, width)))
    return found


def _finish_bands(
    sources: Floats, num_classes: int, labels: LabelMap, maps: FloatMap,
    more: dict[str, FloatMap], unknown_temperature: float,
    bands: list[_WholeBand] | list[_AnyBand], scratch: _Scratch, first: int, stop: int,
) -> None:
    """Compute some bands of all maps; see `_sources`."""
    most = max(math.prod(band.size) for band in bands)
    memory = scratch.take((len(sources) + 2 * num_classes + 2) * most)
    full_size = len(sources) * most
    with np.errstate(all='ignore'):
        for band in bands[first:stop]:
            full, rows = band.upsampled(sources, memory), band.rows
            log_mean, spread = full[:num_classes], full[num_classes:num_classes + len(_SPREAD)]
            plane = log_mean.shape[1:]
            below, rest = _arrays(memory[full_size:], log_mean.shape, (num_classes + 2, *plane))
            np.maximum.reduce(log_mean, 0, out=rest[0])
            np.subtract(log_mean, rest[0], out=below)
            _write_labels(below, labels[rows], rest)
            _write_maps(below, spread, maps[:, rows], rest)
            for name, values in more.items():
                if name == 'margin':
                    values[rows] = _margin(below, maps[0, rows])
                elif name == 'unknown':
                    softened = below / np.float32(unknown_temperature)
                    _write_entropy(softened, values[rows], rest[1], rest)
                else:
                    values[rows] = _energy(full[num_classes + len(_SPREAD):])
    scratch.give_back(memory)


def _write_labels(below: Floats, labels: LabelMap, memory: Floats) -> None:
    """Write the lowest class whose logarithm is the largest; any where it is NaN."""
    num_classes = len(below)
    is_best = memory.reshape(-1).view(np.bool_)[:below.size].reshape(below.shape)
    np.equal(below, 0, out=is_best)
    ranks = is_best.view(np.uint8)
    np.multiply(ranks, np.arange(num_classes, 0, -1).astype(np.uint8)[:, None, None], out=ranks)
    np.maximum.reduce(ranks, 0, out=labels)
    np.subtract(np.uint8(num_classes), labels, out=labels)
    np.minimum(labels, np.uint8(num_classes - 1), out=labels)


def _write_entropy(
    below: Floats, entropy: FloatMap, largest: FloatMap, memory: Floats
) -> None:
    """Write entropy over ln C and largest probability of logits whose largest is 0."""
    tilt, e = memory[0], memory[-len(below):]
    np.exp(below, out=e)
    np.add.reduce(e, 0, out=entropy)
    np.divide(1, entropy, out=largest)
    np.einsum('crw,crw->rw', e, below, out=tilt)
    tilt *= largest
    np.log(entropy, out=entropy)
    entropy -= tilt
    entropy *= np.float32(1 / math.log(len(below)))


def _write_maps(below: Floats, spread: Floats, maps: FloatMap, memory: Floats) -> None:
    """Fill a band of the maps, in the order of `UncertaintyMaps`."""
    confidence, entropy, mutual, variation, variance, aleatoric = maps
    _write_entropy(below, entropy, confidence, memory)
    np.minimum(spread[0], entropy, out=mutual)
    variation[...], variance[...] = spread[1:]
    np.subtract(entropy, mutual, out=aleatoric)


def _margin(below: Floats, largest: FloatMap) -> Floats:
    """Return 1 less the distance of the two largest probabilities."""
    first, second = below[0].copy(), np.full(below.shape[1:], -np.inf, np.float32)
    for values in below[1:]:
        np.maximum(second, np.minimum(first, values), out=second)
        np.maximum(first, values, out=first)
    return _ONE - (largest - np.exp(second) * largest)


def _energy(logits: Floats) -> Floats:
    """Return the map 'energy' of mean logits."""
    x = np.maximum.reduce(logits, 0)
    x = x + np.log(np.exp(logits - x).sum(0))
    half = np.float32(0.5)
    return half - half * np.tanh(x * (half / np.float32(LOGIT_SCALE)))
