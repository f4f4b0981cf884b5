# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The loops of `reduction_kernels`, compiled when first needed, and run over tiles by threads.

Knows how to call them, not what they compute.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
import logging
import time
from typing import Any

import numpy as np

from uncertainty_seg.backends.reduction_plan import new_plan
from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.errors import BackendUnavailableError

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
        from uncertainty_seg.backends import reduction_kernels
    except ImportError as err:
        raise BackendUnavailableError(
            f'numba cannot be imported ({err})', fix='pip install numba'
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
