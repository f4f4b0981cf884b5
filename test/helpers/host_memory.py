# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A device's memory in the host's, so that everything around an engine runs without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from uncertainty_seg.backends.gpu.device import ALIGNMENT, is_memory_full, Replay, torch_dtype


class HostMemory:
    """The same in the host's memory: what a stream would do later is done at once."""

    computes = True
    device: Any = 'cpu'
    stream = 1

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate, aligned as on a device, and filled with what is surely wrong."""
        import torch

        kind = torch_dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        raw = torch.full((count * np.dtype(dtype).itemsize + ALIGNMENT,), 0xFF, dtype=torch.uint8)
        start = -raw.data_ptr() % ALIGNMENT
        size = count * np.dtype(dtype).itemsize
        return raw[start:start + size].view(kind).view(shape)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate."""
        return self.empty(shape, dtype)

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Any, Any]:
        """Allocate two."""
        return self.empty(shape, dtype), self.host(shape, dtype)

    def copy(self, target: Any, source: Any) -> None:
        """Copy."""
        if target is not source:
            target.copy_(source)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Do nothing: there is one stream."""
        yield

    def wait(self) -> None:
        """Do nothing: all is done."""

    def mark(self) -> Any:
        """Read the clock."""
        return time.perf_counter()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks."""
        return float(end - start) * 1e3

    def capture(self, work: Callable[[], None]) -> Replay:
        """Return the work itself."""
        return work

    def is_full(self, error: BaseException) -> bool:
        """Recognise Python's error, and what CUDA says."""
        return is_memory_full(error)

    def close(self) -> None:
        """Do nothing."""
