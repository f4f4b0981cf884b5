# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which engines a bundle needs on a GPU, and how the missing ones are built.

There are two: the trunk, whose shapes are all fixed, and the head with its reduction inside, which
takes from one pass to a chunk of them. The backend only asks what is missing. Building takes
minutes, so only `uncertainty_seg build-engines` and the node do it, and report it; both use this
file, so that they build what the backend looks for.

"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timezone
import hashlib
import math
from pathlib import Path

from uncertainty_seg.backends.gpu.device import available_bytes, find_device
from uncertainty_seg.backends.gpu.engine_build import (
    build_engine,
    EngineSpec,
    merge_timing_caches,
    Progress,
)
from uncertainty_seg.backends.gpu.engine_cache import engine_key, EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.tensorrt_api import load_tensorrt, Shape, TensorRt
from uncertainty_seg.backends.graph_files import (
    coarse_statistics,
    COMPILE,
    input_tensors,
    LOGITS,
    read_graph,
    whole_graph,
)
from uncertainty_seg.backends.resources import (
    choose_chunk,
    Chunking,
    head_bytes_a_pass,
)
from uncertainty_seg.core.bundle import HEAD_STATS_FILE, ModelBundle, reduction_of
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.errors import BackendUnavailableError, ModelBundleError

TRUNK, HEAD_STATS = 'trunk', 'head_stats'
# float32 planes (C, h, w) of one pass that live at once in the reduction if nothing is fused:
# log p, p, and their product.
_PLANES = 3


@dataclass(frozen=True)
class NeededEngine:
    """An engine of a bundle: its role, 'trunk' or 'head_stats', its graph, and what it is for."""

    role: str
    path: Path
    spec: EngineSpec

    def content(self) -> bytes:
        """Return the graph that is built, as an ONNX file."""
        if self.spec.summed is not None:
            return coarse_statistics(self.path, self.spec.summed)
        return whole_graph(self.path)

    def key(self, target: EngineTarget) -> str:
        """Return its key in the cache; reads the graph."""
        return engine_key(whole_graph(self.path), self.spec, target)

    def key_ahead(self, trt: TensorRt, compute_capability: str) -> str:
        """Return the key of its twin for every GPU of a compute capability."""
        spec = dataclasses.replace(self.spec, compute_capabilities=(compute_capability,))
        return dataclasses.replace(self, spec=spec).key(
            EngineTarget.ahead(trt, compute_capability))


@dataclass(frozen=True)
class BundleEngines:
    """
    The engines of a bundle: the trunk runs once a frame, the head once a chunk of passes.

    `chunking` says how many passes a call of the head takes at most; exactly, if the card has a
    chunk.

    """

    trunk: NeededEngine
    head_stats: NeededEngine
    chunking: Chunking

    @property
    def all(self) -> tuple[NeededEngine, NeededEngine]:  # noqa: A003
        """Both, in the order they run."""
        return self.trunk, self.head_stats


@dataclass(frozen=True)
class EngineWork:
    """
    The engines that a bundle needs on one GPU, and the TensorRT that builds them.

    `available_bytes` is the free memory of a machine whose GPU shares it, else 0.

    """

    trt: TensorRt
    engines: BundleEngines
    target: EngineTarget
    available_bytes: int = 0

    def missing(self, cache: EngineCache) -> list[NeededEngine]:
        """List what the cache does not hold."""
        return missing(self.engines, cache, self.target)

    def build(self, cache: EngineCache, progress: Progress | None = None) -> list[NeededEngine]:
        """Build those; return what was built."""
        return build_missing(self.trt, self.engines, cache, self.target, progress,
                             self.available_bytes)


def work_here(bundle: ModelBundle, settings: Settings) -> EngineWork:
    """
    Return the engines that the backend `tensorrt` needs on this machine's first GPU.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, precision and memory budget.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU or no TensorRT, or it cannot compute in that precision.
    ModelBundleError
        If the bundle has no head that TensorRT runs.

    """
    device = find_device()  # before TensorRT is touched
    trt = load_tensorrt()
    engines = engines_of(bundle, settings, passes_of(bundle.card, settings), trt)
    return EngineWork(trt, engines, EngineTarget.of(trt, device),
                      available_bytes() if device.is_integrated else 0)


def work_ahead(
    bundle: ModelBundle, settings: Settings, compute_capability: str, trt: TensorRt | None = None,
) -> EngineWork:
    """
    Return the engines that TensorRT-RTX needs on every GPU of a compute capability.

    No such GPU has to be here: the target names no GPU, driver or number of multiprocessors.

    Parameters
    ----------
    bundle, settings : ModelBundle, Settings
        As `work_here`.
    compute_capability : str
        As '8.6'.
    trt : TensorRt, optional
        By default what is installed.

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
    engines = engines_of(bundle, settings, passes_of(bundle.card, settings), trt,
                         compute_capabilities=(compute_capability,))
    return EngineWork(trt, engines, EngineTarget.ahead(trt, compute_capability))


def build_here(bundle: ModelBundle, settings: Settings, progress: Progress) -> None:
    """Build what the backend `tensorrt` lacks on this machine, in this user's cache."""
    work_here(bundle, settings).build(EngineCache(), progress)


def engines_of(
    bundle: ModelBundle, settings: Settings, passes: int, trt: TensorRt, chunk: int = 0,
    compute_capabilities: tuple[str, ...] = (),
) -> BundleEngines:
    """
    Decide which engines a bundle needs.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives precision and memory budget.
    passes : int
        T.
    trt : TensorRt
        The version that will run them.
    chunk : int
        Passes of a call of the head, at most; 0 to fit them into the memory budget.
    compute_capabilities : tuple of str
        For TensorRT-RTX, to build for GPUs that are not here.

    Returns
    -------
    BundleEngines
        What to look up or build.

    Raises
    ------
    BackendUnavailableError
        If this TensorRT cannot compute the graphs in the precision of the settings.
    ModelBundleError
        If the bundle has no head with statistics, or one of an unknown form.

    """
    precision = _precision(bundle, settings, trt)
    path = bundle.folder / HEAD_STATS_FILE
    if HEAD_STATS_FILE not in bundle.card.sha256:
        raise ModelBundleError(f'{bundle.card.name!r} has no {HEAD_STATS_FILE}',
                               'the head with its reduction, which TensorRT runs', COMPILE)
    _, rows, columns = bundle.card.logits_shape
    summed = (rows, columns) if reduction_of(bundle, settings) == 'coarse' else None
    chunking = _chunking(bundle, settings, passes, chunk)
    spec = EngineSpec(precision, {}, trt.has_strong_types,
                      compute_capabilities=compute_capabilities)
    head_spec = dataclasses.replace(spec, profiles=_profiles(path, chunking.passes),
                                    float32_behind=LOGITS, summed=summed)
    return BundleEngines(NeededEngine(TRUNK, bundle.trunk_path, spec),
                         NeededEngine(HEAD_STATS, path, head_spec), chunking)


def missing(
    engines: BundleEngines, cache: EngineCache, target: EngineTarget
) -> list[NeededEngine]:
    """List the engines that the cache does not hold, in the order they run."""
    return [engine for engine in engines.all if not cache.has(engine.key(target))]


def build_missing(
    trt: TensorRt, engines: BundleEngines, cache: EngineCache, target: EngineTarget,
    progress: Progress | None = None, available_bytes: int = 0,
) -> list[NeededEngine]:
    """
    Build what the cache does not hold; minutes on a Jetson.

    Parameters
    ----------
    trt, engines, cache : TensorRt, BundleEngines, EngineCache
        What builds, what is needed, and where it is stored.
    target : EngineTarget
        Where they will run: here, or for TensorRT-RTX what the specs name.
    progress : callable, optional
        Called with the share of everything that is done, and the engine and phase at work.
    available_bytes : int
        As `build_engine`.

    Returns
    -------
    list of NeededEngine
        Those that were built; one that another process built meanwhile is not among them.

    Raises
    ------
    GraphError, BackendError
        As `build_engine`; what was built before stays.

    """
    wanted = missing(engines, cache, target)
    built = []
    for index, engine in enumerate(wanted):
        key = engine.key(target)
        with cache.lock(key):
            if not cache.has(key):
                _build(trt, engine, key, cache, target, _part(progress, index, wanted),
                       available_bytes)
                built.append(engine)
    return built


def _build(
    trt: TensorRt, engine: NeededEngine, key: str, cache: EngineCache, target: EngineTarget,
    progress: Progress | None, available_bytes: int,
) -> None:
    made = build_engine(trt, engine.path, engine.spec, progress, cache.timing_cache(target),
                        available_bytes)
    cache.store(key, made.plan, {
        'role': engine.role,
        'graph': str(engine.path),
        'graph_sha256': hashlib.sha256(whole_graph(engine.path)).hexdigest(),
        'spec': dataclasses.asdict(engine.spec),
        'target': dataclasses.asdict(target),
        'available_bytes': available_bytes,
        'build_s': round(made.build_s, 3),
        'built': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    })
    cache.merge_timing_cache(target, made.timing_cache,
                             lambda old, new: merge_timing_caches(trt, old, new))


def _part(progress: Progress | None, index: int, wanted: list[NeededEngine]) -> Progress | None:
    """Turn the progress of one engine into that of all."""
    if progress is None:
        return None

    def tell(share: float, phase: str) -> None:
        progress((index + share) / len(wanted), f'{wanted[index].role}: {phase}')

    return tell


def _precision(bundle: ModelBundle, settings: Settings, trt: TensorRt) -> str:
    wanted, card = precision_of(bundle.card, settings.precision), bundle.card
    if wanted not in (card.precision, 'tf32'):
        raise BackendUnavailableError(
            f'TensorRT computes a graph in the types it is written in, and {card.name!r} is '
            f'written in {card.precision}, not {wanted}',
            fix=f'make a bundle of it: uncertainty_seg convert --precision {wanted}')
    if wanted == 'bf16' and trt.builder_flag('BF16') is None and not trt.has_strong_types:
        raise BackendUnavailableError(f'TensorRT {trt.version} has no bf16',
                                      fix='take a bundle in fp32 or fp16, or TensorRT 10')
    return wanted


def _chunking(bundle: ModelBundle, settings: Settings, passes: int, chunk: int) -> Chunking:
    card = bundle.card
    if chunk and not card.chunk:
        return Chunking(min(chunk, passes), 'asked for')
    plane = math.prod((card.num_classes, card.input.height, card.input.width))
    if reduction_of(bundle, settings) == 'coarse':
        plane = math.prod(card.logits_shape)
    # The head's tensors are freed when the reduction's are largest.
    bytes_a_pass = max(head_bytes_a_pass(bundle.head_path), 4 * _PLANES * plane)
    return choose_chunk(passes, bytes_a_pass, settings.memory_budget_mb, card.chunk)


def _profiles(path: Path, chunk: int) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Return the shapes of each input with a row for each pass: from one to a chunk."""
    profiles = {}
    for name, (_, dims) in input_tensors(read_graph(path)).items():
        rest = tuple(dims[1:])
        if None not in dims:
            continue
        if dims[0] is not None or None in rest:
            raise ModelBundleError(f'{path.name} takes {name!r} of shape {dims}',
                                   'passes as its only symbolic axis, and the first', COMPILE)
        full = (chunk, *(int(n) for n in rest if n is not None))
        profiles[name] = ((1, *full[1:]), full, full)
    return profiles
