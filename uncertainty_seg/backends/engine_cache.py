# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Engines on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from uncertainty_seg.backends.engine_build import EngineSpec
from uncertainty_seg.backends.tensorrt_api import TensorRt


class Device(Protocol):
    """What the cache asks of a GPU; `cuda_device.CudaDevice` is one."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def compute_capability(self) -> str: ...  # noqa: D102
    @property
    def driver(self) -> str: ...  # noqa: D102
    @property
    def multiprocessors(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class EngineTarget:
    """
    Where an engine runs: it fits no other version, GPU or driver.

    Attributes
    ----------
    module, version : str
        Of TensorRT, as `TensorRt.name` and `TensorRt.version`.
    gpu, compute_capability, driver : str
        As 'Orin', '8.7', '12.6'.
    multiprocessors : int
        A Jetson has fewer in some power modes.

    """

    module: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    multiprocessors: int

    @staticmethod
    def of(trt: TensorRt, device: Device) -> EngineTarget:
        """Take the facts of a TensorRT and a GPU."""
        return EngineTarget(trt.name, trt.version, device.name, str(device.compute_capability),
                            str(device.driver), device.multiprocessors)


def engine_key(graph: bytes, spec: EngineSpec, target: EngineTarget) -> str:
    """Return the sha256 over everything that an engine depends on, in hex."""
    raise NotImplementedError


def cache_folder() -> Path:
    """Return $UNCERTAINTY_SEG_ENGINE_CACHE, or uncertainty_seg/engines in the user's cache."""
    raise NotImplementedError


class EngineCache:
    """Engines in a folder; created when the first is stored."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()

    def plan_path(self, key: str) -> Path:
        """Where an engine lies."""
        return self.folder / f'{key}.engine'

    def load(self, key: str) -> bytes | None:
        """Return a plan whose hash is that of its JSON, else None; damage is said once."""
        raise NotImplementedError

    def store(self, key: str, plan: bytes, facts: Mapping[str, object]) -> Path:
        """Write plan and JSON, each by rename."""
        raise NotImplementedError

    def discard(self, key: str, reason: str) -> None:
        """Remove an engine that TensorRT cannot read, and say so once."""
        raise NotImplementedError

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other processes out of one engine (its key) or the timing cache."""
        raise NotImplementedError
        yield

    def timing_cache(self, target: EngineTarget) -> bytes:
        """Return what earlier builds measured for a target; empty at first."""
        raise NotImplementedError

    def merge_timing_cache(
        self, target: EngineTarget, new: bytes, merge: Callable[[bytes, bytes], bytes]
    ) -> None:
        """Join new measurements with those on disk, under the lock."""
        raise NotImplementedError
