# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The engines that a bundle lacks, for this machine's GPU or for another: what is to be built.

Shared by `uncertainty_seg build-engines` and the node, so that both build what the backend looks
for. Building takes minutes; whoever does it says so.

"""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.backends.bundle_engines import (
    build_missing,
    BundleEngines,
    engines_of,
    missing,
    NeededEngine,
)
from uncertainty_seg.backends.cuda_device import find_device
from uncertainty_seg.backends.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.engine_progress import Progress
from uncertainty_seg.backends.tensorrt_api import load_tensorrt, TensorRt
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.errors import BackendUnavailableError


@dataclass(frozen=True)
class EngineWork:
    """
    The engines of a bundle for one GPU.

    Attributes
    ----------
    trt : TensorRt
        What builds and runs them.
    engines : BundleEngines
        What is needed.
    target : EngineTarget
        Where they will run.

    """

    trt: TensorRt
    engines: BundleEngines
    target: EngineTarget

    def missing(self, cache: EngineCache) -> list[NeededEngine]:
        """List what the cache does not hold."""
        return missing(self.engines, cache, self.target)

    def build(self, cache: EngineCache, progress: Progress | None = None) -> list[NeededEngine]:
        """Build that, one after the other; return what was built."""
        return build_missing(self.trt, self.engines, cache, self.target, progress)


def work_here(bundle: ModelBundle, settings: Settings) -> EngineWork:
    """
    Say what the backend `tensorrt` needs on this machine.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, precision and memory budget.

    Returns
    -------
    EngineWork
        For the first GPU.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU or no TensorRT, or it cannot compute in that precision.
    ModelBundleError
        If the bundle has no head that TensorRT runs.

    """
    # The driver first: without it some versions of TensorRT end the process.
    device = find_device()
    trt = load_tensorrt()
    engines = engines_of(bundle, settings, _passes(bundle, settings), trt)
    return EngineWork(trt, engines, EngineTarget.of(trt, device))


def work_ahead(
    bundle: ModelBundle, settings: Settings, compute_capability: str, trt: TensorRt | None = None,
) -> EngineWork:
    """
    Say what TensorRT-RTX needs on every GPU of a compute capability; none has to be here.

    Parameters
    ----------
    bundle, settings : ModelBundle, Settings
        As `work_here`.
    compute_capability : str
        As '8.6'.
    trt : TensorRt, optional
        Else what is installed.

    Returns
    -------
    EngineWork
        Its target names no GPU, driver or number of multiprocessors: it fits all of them.

    Raises
    ------
    BackendUnavailableError
        If TensorRT is not installed, or builds for the GPU of this machine only.
    ModelBundleError
        If the bundle has no head that TensorRT runs.

    """
    trt = trt or load_tensorrt()
    if not trt.is_rtx:
        raise BackendUnavailableError(
            f'TensorRT {trt.version} builds for the GPU of this machine only',
            fix='leave --compute-capability out on the machine that runs the engines, or build '
                'with TensorRT-RTX',
        )
    engines = engines_of(bundle, settings, _passes(bundle, settings), trt,
                         compute_capabilities=(compute_capability,))
    return EngineWork(trt, engines, EngineTarget.ahead(trt, compute_capability))


def build_here(bundle: ModelBundle, settings: Settings, progress: Progress) -> None:
    """Build what the backend `tensorrt` lacks on this machine, into the cache of this user."""
    work_here(bundle, settings).build(EngineCache(), progress)


def _passes(bundle: ModelBundle, settings: Settings) -> int:
    return bundle.card.passes if settings.passes == BUNDLE_PASSES else settings.passes
