# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From chunks of logits to maps on the CPU, without ever holding the probabilities.

It computes what `core.uncertainty.maps_from_logits` defines, to 2e-6 in every float map for
logits within about 20 of each other and up to 500 passes, to 3e-6 for 1000. The same logits give
the same bits with any number of threads and any size of chunk. The loops are in
`reduction_kernels`; this file owns the memory, the threads and the compilation, and knows no
runtime.

"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
import logging
import math
import time
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import require_shape
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import BackendUnavailableError, ShapeError

if TYPE_CHECKING:
    from uncertainty_seg.backends.reduction_kernels import Columns, Kernels, Maps, Rows, Sums

# A float32 sum of this many equal passes is exact to 1.5e-6; longer ones are sums of groups.
_GROUP = 32
# The product of softmax denominators, each at most C, must stay below 2**127.
_PRODUCT_BITS = 120
_BLOCK_BYTES = 64 * 1024
_BLOCKS_A_THREAD = 4
_MAX_PASSES = 65535  # of the vote counters
_log = logging.getLogger(__name__)


class Reduction:
    """
    A streaming accumulator: reset, add chunks, finish.

    Parameters
    ----------
    num_classes : int
        C, 2 to 255.
    height, width : int
        h, w of the maps.
    threads : int
        Upper bound of the threads that compute, the caller's among them.

    Raises
    ------
    BackendUnavailableError
        If numba is not installed.

    Notes
    -----
    Memory is about 6 C + 40 bytes a pixel, twice that from the 33rd pass on, whatever T.
    Building the first compiles the loops, or loads them from numba's cache.

    """

    def __init__(self, num_classes: int, height: int, width: int, threads: int) -> None:
        if not (2 <= num_classes <= 255 and height >= 1 and width >= 1 and threads >= 1):
            raise ShapeError(
                f'reduction of {num_classes} classes to {width}x{height} on {threads} threads',
                '2 to 255 classes, a pixel and a thread',
            )
        self._kernels = load_kernels()
        self._shape = (num_classes, height, width)
        self._threads = min(threads, height)
        self._pool = ThreadPoolExecutor(self._threads, 'reduction') if self._threads > 1 else None
        self._group = min(_GROUP, int(_PRODUCT_BITS / math.log2(num_classes)))
        self._block = _block_size(num_classes, width)
        self._sums = _new_sums(*self._shape)
        self._groups: Sums | None = None
        self._plans: dict[tuple[int, int], tuple[Rows, Columns]] = {}
        self._num_phases = 0
        self._count = 0
        self._num_groups = 0

    def reset(self) -> None:
        """Forget all passes."""
        self._count = self._num_groups = 0

    def add(self, logits: NDArray[np.float32], inv_temperature: float) -> None:
        """
        Add passes.

        Parameters
        ----------
        logits : ndarray of float32, shape (Tc, C, hl, wl)
            The next passes; not needed after the call.
        inv_temperature : float
            The logits are multiplied by it.

        Raises
        ------
        ShapeError
            If the logits have another shape or dtype, or are more than 65535 passes.

        """
        require_shape('logits', logits, (None, self._shape[0], None, None), np.float32)
        if min(logits.shape) < 1 or self._count + len(logits) > _MAX_PASSES:
            raise ShapeError(f'logits of shape {logits.shape} after {self._count} passes',
                             f'no empty axis and at most {_MAX_PASSES} passes')
        rows, columns = self._plan(logits.shape[2], logits.shape[3])
        scale = np.float32(inv_temperature * math.log2(math.e))
        start = 0
        while start < len(logits):
            position = self._count % self._group
            if position == 0 and self._count > 0:
                self._close_group()
            stop = min(len(logits), start + self._group - position)
            chunk = np.ascontiguousarray(logits[start:stop])
            arguments = (chunk, scale, rows, columns, self._sums, self._block,
                         self._count == 0, position == 0)
            self._over_rows(self._kernels.accumulate_rows, arguments)
            self._count += stop - start
            start = stop

    def finish(self, total_passes: int) -> UncertaintyMaps:
        """
        Compute the maps of all passes added since `reset`, and forget the passes.

        Parameters
        ----------
        total_passes : int
            T; a check that none was lost.

        Returns
        -------
        UncertaintyMaps
            New arrays of shape (h, w). NaN wherever a logit that counts was NaN or infinite.

        Raises
        ------
        ShapeError
            If another number of passes was added.

        """
        if total_passes != self._count or total_passes < 1:
            raise ShapeError(f'{self._count} passes were added', f'{total_passes}, at least 1')
        sums = self._sums
        if self._groups is not None and self._num_groups:
            self._close_group()
            sums = self._groups
        num_classes, height, width = self._shape
        maps = _new_maps(height, width)
        arguments = (sums, self._num_phases, np.float32(total_passes),
                     np.float32(1 / math.log2(num_classes)), maps)
        self._over_rows(self._kernels.finish_rows, arguments)
        self.reset()
        return UncertaintyMaps(*maps)

    def close(self) -> None:
        """End the threads; may be called twice."""
        if self._pool is not None:
            self._pool.shutdown()

    def _over_rows(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Run a kernel on all rows, in blocks that the threads take as they come free."""
        height = self._shape[1]
        if self._pool is None:
            kernel(*arguments, 0, height)
            return
        edges = np.linspace(0, height, min(height, self._threads * _BLOCKS_A_THREAD) + 1)
        bounds = [int(edge) for edge in edges]
        tasks = [self._pool.submit(kernel, *arguments, first, stop)
                 for first, stop in itertools.pairwise(bounds)]
        for task in tasks:
            task.result()

    def _close_group(self) -> None:
        """Move the sums of a group, not its votes, to the sums of groups."""
        low = self._sums
        if self._groups is None:
            self._groups = _new_sums(*self._shape)._replace(votes=low.votes)
            self._groups.norms.fill(1.0)
        groups = self._groups
        if self._num_groups == 0:
            for total in (groups.probs, groups.squares, groups.entropy):
                total.fill(0.0)
        groups.probs[...] += low.probs
        groups.squares[...] += low.squares
        groups.entropy[...] += low.entropy + np.log2(low.norms)
        self._num_groups += 1

    def _plan(self, low_height: int, low_width: int) -> tuple[Rows, Columns]:
        """Return where output rows and columns come from, for one size of logits."""
        key = (low_height, low_width)
        if key not in self._plans:
            self._plans[key] = _new_plan(*key, *self._shape[1:])
        num_phases = self._plans[key][1].phase_offsets.size
        if self._count and num_phases != self._num_phases:
            raise ShapeError(f'logits of {low_width}x{low_height} among others',
                             'one size for all passes')
        self._num_phases = num_phases
        return self._plans[key]


@functools.lru_cache(maxsize=1)
def load_kernels() -> Kernels:
    """
    Compile the loops for this processor, or take them from numba's cache on disk.

    Returns
    -------
    Kernels
        Ready to be called; they never compile again.

    Raises
    ------
    BackendUnavailableError
        If numba is not installed.

    """
    try:
        from uncertainty_seg.backends import reduction_kernels
    except ImportError as err:
        raise BackendUnavailableError(
            f'numba cannot be imported ({err})', fix='pip install numba'
        ) from err
    start_s = time.perf_counter()
    try:
        kernels = _warmed(reduction_kernels.compile_kernels(True))
    except Exception as err:  # numba passes on whatever its cache on disk meets
        _log.warning('numba cannot keep compiled loops on disk (%s: %s), so that every start '
                     'compiles them: set NUMBA_CACHE_DIR to a writable folder',
                     type(err).__name__, err)
        kernels = _warmed(reduction_kernels.compile_kernels(False))
    _log.info('compiled loops of the reduction ready in %.1f s', time.perf_counter() - start_s)
    return kernels


def _warmed(kernels: Kernels) -> Kernels:
    """Call each kernel once and forbid it to compile for any other type later."""
    rows, columns = _new_plan(1, 1, 1, 1)
    sums, maps, one = _new_sums(2, 1, 1), _new_maps(1, 1), np.float32(1)
    logits = np.zeros((1, 2, 1, 1), np.float32)
    logits.flags.writeable = False  # what is compiled for it accepts writable arrays too
    kernels.accumulate_rows(logits, one, rows, columns, sums, 64, True, True, 0, 1)
    kernels.finish_rows(sums, 0, one, one, maps, 0, 1)
    for kernel in kernels:
        kernel.disable_compile()
    return kernels


def _block_size(num_classes: int, width: int) -> int:
    """Split a row in equal blocks whose working set stays in the caches of a core."""
    bytes_a_slot = 4 * (3 * num_classes + 7)
    num_blocks = math.ceil(width * bytes_a_slot / _BLOCK_BYTES)
    return max(math.ceil(width / num_blocks / 16) * 16, 64)


def _new_sums(num_classes: int, height: int, width: int) -> Sums:
    from uncertainty_seg.backends.reduction_kernels import Sums

    classes, pixels = (height, num_classes, width), (height, width)
    return Sums(
        np.empty(classes, np.float32), np.empty(classes, np.uint16),
        *(np.empty(pixels, np.float32) for _ in range(3)),
    )


def _new_maps(height: int, width: int) -> Maps:
    from uncertainty_seg.backends.reduction_kernels import Maps

    label = np.empty((height, width), np.uint8)
    return Maps(label, *(np.empty((height, width), np.float32) for _ in range(6)))


def _new_plan(low_height: int, low_width: int, height: int, width: int) -> tuple[Rows, Columns]:
    from uncertainty_seg.backends.reduction_kernels import Columns, Rows

    upper, lower, row_weights = _taps(low_height, height)
    rows = Rows(upper.astype(np.int64), lower.astype(np.int64), row_weights)
    none = np.empty(0, np.float32)
    if width % low_width:
        left, right, weights = _taps(low_width, width)
        sources = np.stack([left + 1, right + 1]).astype(np.uint32)  # 1 for the padding
        return rows, Columns(sources, weights, np.empty(0, np.int64), none)
    centres = (np.arange(width // low_width) + 0.5) * low_width / width - 0.5
    offsets = np.floor(centres).astype(np.int64) + 1
    phase_weights = (centres - np.floor(centres)).astype(np.float32)
    return rows, Columns(np.empty((2, 0), np.uint32), none, offsets, phase_weights)


def _taps(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return both sources and the second's share, as `core.uncertainty.upsample_bilinear`."""
    centre = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0.0)
    low = np.minimum(centre.astype(np.intp), old - 1)
    return low, np.minimum(low + 1, old - 1), (centre - low).astype(np.float32)
