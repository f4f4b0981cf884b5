# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which engines a bundle needs, and how those that are missing are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uncertainty_seg.backends.engine_build import EngineSpec, Progress
from uncertainty_seg.backends.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.resources import Chunking
from uncertainty_seg.backends.tensorrt_api import TensorRt
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings

TRUNK, HEAD_STATS = 'trunk', 'head_stats'


@dataclass(frozen=True)
class NeededEngine:
    """
    One engine of a bundle.

    Attributes
    ----------
    role : str
        'trunk' or 'head_stats'.
    path : Path
        Its graph.
    spec : EngineSpec
        What it is built for.

    """

    role: str
    path: Path
    spec: EngineSpec

    def key(self, target: EngineTarget) -> str:
        """Its key in the cache."""
        raise NotImplementedError


@dataclass(frozen=True)
class BundleEngines:
    """
    The engines of a bundle.

    Attributes
    ----------
    trunk, head_stats : NeededEngine
        Once a frame; once a chunk of passes.
    chunking : Chunking
        Passes of a call of the head, at most.

    """

    trunk: NeededEngine
    head_stats: NeededEngine
    chunking: Chunking


def engines_of(
    bundle: ModelBundle, settings: Settings, passes: int, trt: TensorRt, chunk: int = 0,
    compute_capabilities: tuple[str, ...] = (),
) -> BundleEngines:
    """Decide which engines a bundle needs for T passes; `chunk` 0: from the memory budget."""
    raise NotImplementedError


def missing(
    engines: BundleEngines, cache: EngineCache, target: EngineTarget
) -> list[NeededEngine]:
    """List the engines that the cache does not hold."""
    raise NotImplementedError


def build_missing(
    trt: TensorRt, engines: BundleEngines, cache: EngineCache, target: EngineTarget,
    progress: Progress | None = None, now: Callable[[], str] | None = None,
) -> list[NeededEngine]:
    """Build what is missing, one after the other; return what was built."""
    raise NotImplementedError
