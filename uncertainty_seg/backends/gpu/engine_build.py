# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which TensorRT engines a bundle needs, and how the missing ones are built.

There are two: the trunk, whose shapes are all fixed, and the graph of the passes, which takes from
one pass to those of a call and gives their sums. The backend only looks them up. Building takes
minutes, so only the self-check and the node do it, and report it; both use this file, so that they
build what the backend looks for.

Networks are strongly typed: the graph says what is 16 bits and what is float32, as the compiler
wrote it. The parser owns the weights and the network points at them: both live until the build
has ended.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timezone
import hashlib
import logging
from pathlib import Path
import threading
import time
from typing import Any, TYPE_CHECKING, TypeAlias

from uncertainty_seg.backends.gpu.engine_cache import (
    EngineCache,
    EngineKey,
    EngineTarget,
    Profiles,
)
from uncertainty_seg.backends.gpu.nvidia import (
    available_bytes,
    find_device,
    load_tensorrt,
    TensorRt,
)
from uncertainty_seg.backends.runner import (
    bytes_a_pass,
    choose_chunk,
    COMPILE,
    input_tensors,
    read_graph,
)
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    GraphError,
    ModelBundleError,
    UncertaintySegError,
)

if TYPE_CHECKING:
    import tensorrt

_FITTING = 'min <= opt <= max, and shapes that the graph allows'
# Called with the share of the work that is done, 0..1, never falling, and the phase.
Progress: TypeAlias = Callable[[float, str], None]
Calls: TypeAlias = Sequence[slice]
_LEAST_STEP = 0.001  # of the share, to be worth a report
# How long to wait for a build that was stopped.
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.1
_log = logging.getLogger(__name__)


def _untold(share: float, phase: str) -> None:
    """Take no notice of progress."""


@dataclass(frozen=True)
class NeededEngine:
    """An engine: its role, 'trunk' or 'passes', the name and bytes of its graph, and its key."""

    role: str
    name: str
    graph: bytes = field(repr=False)
    key: EngineKey


@dataclass(frozen=True)
class BundleEngines:
    """
    The engines of a bundle: the trunk runs once a frame, the other once a call of some passes.

    `calls` says which passes each call of a frame takes; no call takes more than the first.

    """

    trunk: NeededEngine
    passes: NeededEngine
    calls: Calls

    @property
    def all(self) -> tuple[NeededEngine, NeededEngine]:  # noqa: A003
        """Both, in the order they run."""
        return self.trunk, self.passes


def engines_of(
    bundle: ModelBundle, settings: Settings, trt: TensorRt, target: EngineTarget
) -> BundleEngines:
    """
    Decide which engines a checked bundle needs for passes, precision and memory of the settings.

    Raises BackendUnavailableError if its graphs are of another precision, ModelBundleError if the
    graph of the passes is of an unknown form.

    """
    card, path = bundle.card, bundle.passes_path
    precision = precision_of(card, settings.precision)
    if precision not in (card.precision, 'tf32'):
        raise BackendUnavailableError(
            f'TensorRT computes a graph in the types it is written in, and {card.name!r} is '
            f'written in {card.precision}, not {precision}',
            fix=f'compile a variant of it in {precision}')
    passes = passes_of(card, settings)
    chunk = choose_chunk(passes, bytes_a_pass(path.read_bytes()), settings.memory_budget_mb)
    calls = split_passes(passes, chunk)
    engines = []
    for role, graph, profiles in (('trunk', bundle.trunk_path, {}),
                                  ('passes', path, _profiles(path, calls[0].stop))):
        content = graph.read_bytes()
        key = key_of_graph(trt, target, content, precision, profiles)
        engines.append(NeededEngine(role, graph.name, content, key))
    return BundleEngines(engines[0], engines[1], calls)


def key_of_graph(
    trt: TensorRt, target: EngineTarget, graph: bytes, precision: str, profiles: Profiles,
) -> EngineKey:
    """Return everything that the engine of a graph, an ONNX file, depends on."""
    # What allocates when it runs cannot be in a CUDA graph. RTX 1.4 has no such flag.
    wanted = {'TF32': precision == 'tf32', 'REQUIRE_USER_ALLOCATION': trt.is_rtx}
    flags = tuple(name for name, is_wanted in wanted.items()
                  if is_wanted and hasattr(trt.module.BuilderFlag, name))
    return EngineKey(**dataclasses.asdict(target), graph=hashlib.sha256(graph).hexdigest(),
                     precision=precision, profiles=profiles, flags=flags)


def split_passes(passes: int, limit: int) -> list[slice]:
    """
    Split T passes into calls of at most `limit` passes, the first of which is the largest.

    All have one size, unless T has no divisor between half of `limit` and `limit`: each size needs
    a context of its own.

    """
    limit = max(1, min(limit, passes))
    divisors = [n for n in range(limit // 2 + 1, limit + 1) if passes % n == 0]
    size = divisors[-1] if divisors else -(-passes // -(-passes // limit))
    return [slice(first, min(first + size, passes)) for first in range(0, passes, size)]


def _profiles(path: Path, most: int) -> Profiles:
    """
    Return the shapes of each input with a row for each pass.

    The engine is made fastest for the calls of a frame, and takes no memory for larger ones.
    Smaller ones are run too, such as the two passes that are compared when a bundle is opened.

    """
    profiles = {}
    for name, (_, dims) in input_tensors(read_graph(path)).items():
        if None not in dims:
            continue
        rest = tuple(n for n in dims[1:] if n is not None)
        if dims[0] is not None or len(rest) + 1 < len(dims):
            raise ModelBundleError(f'{path.name} takes {name!r} of shape {dims}',
                                   'passes as its only symbolic axis, and the first', COMPILE)
        profiles[name] = ((1, *rest), (most, *rest), (most, *rest))
    return profiles


@dataclass(frozen=True)
class EngineWork:
    """The engines that a bundle needs on one GPU, and how `build_engine` builds them."""

    trt: TensorRt
    engines: BundleEngines
    available_bytes: int = 0

    def build(self, cache: EngineCache, progress: Progress = _untold) -> list[str]:
        """
        Build what the cache does not hold, minutes on a Jetson, and return the roles.

        What another process built meanwhile is not among them. `progress` is called with the share
        of everything that is done, and the engine and phase at work. Raises as `build_engine`;
        what was built before stays.

        """
        wanted = [one for one in self.engines.all if not cache.has(one.key.digest)]
        built = []
        for index, engine in enumerate(wanted):
            with cache.lock(engine.key.digest):
                if not cache.has(engine.key.digest):
                    self._build(engine, cache, _part(progress, index, len(wanted), engine.role))
                    built.append(engine.role)
        return built

    def _build(self, engine: NeededEngine, cache: EngineCache, progress: Progress) -> None:
        start_s = time.monotonic()
        plan = build_engine(self.trt, engine.name, engine.graph, engine.key, progress,
                            self.available_bytes)
        cache.store(engine.key.digest, plan, {
            'role': engine.role,
            'key': dataclasses.asdict(engine.key),
            'available_bytes': self.available_bytes,
            'build_s': round(time.monotonic() - start_s, 3),
            'built': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        })


def _part(progress: Progress, index: int, count: int, role: str = '') -> Progress:
    """Turn the progress of one of several engines or targets into that of all."""
    def tell(share: float, phase: str) -> None:
        progress((index + share) / count, f'{role}: {phase}' if role else phase)

    return tell


def work_here(bundle: ModelBundle, settings: Settings) -> EngineWork:
    """
    Return the engines that the backend `tensorrt` needs on this machine's first GPU.

    Raises as `engines_of`; BackendUnavailableError too if there is no GPU or no TensorRT.

    """
    device = find_device()  # before TensorRT is touched
    trt = load_tensorrt()
    return EngineWork(trt, engines_of(bundle, settings, trt, EngineTarget.of(trt, device)),
                      available_bytes() if device.is_integrated else 0)


def work_ahead(
    bundle: ModelBundle, settings: Settings, compute_capability: str, trt: TensorRt | None = None,
) -> EngineWork:
    """
    Return the engines that TensorRT-RTX needs on every GPU of a compute capability, as '8.6'.

    No such GPU has to be here: the target names no GPU, driver or number of multiprocessors.
    Raises BackendUnavailableError too if TensorRT builds for the GPU of this machine only.

    """
    trt = trt or load_tensorrt()
    if not trt.is_rtx:
        raise BackendUnavailableError(
            f'TensorRT {trt.version} builds for the GPU of this machine only',
            fix='build on the machine that runs the engines, without a compute capability, or '
                'with TensorRT-RTX',
        )
    target = EngineTarget.ahead(trt, compute_capability)
    return EngineWork(trt, engines_of(bundle, settings, trt, target))


def build_here(bundle: ModelBundle, settings: Settings, progress: Progress) -> None:
    """Build what the backend `tensorrt` lacks on this machine, in this user's cache."""
    work_here(bundle, settings).build(EngineCache(), progress)


def build_engines(
    bundle: ModelBundle, settings: Settings, compute_capabilities: Sequence[str] = (),
    folder: Path | None = None, progress: Progress = _untold,
) -> list[dict[str, Any]]:
    """
    Build the engines of a bundle that are missing, and say which there are.

    `compute_capabilities`, as '8.6', are of GPUs that are not here, for TensorRT-RTX; without any,
    the engines are for the GPU of this machine. `folder` is that of this user unless it is named;
    `progress` is called in this thread with the share of everything that is done, and the phase.
    Each engine is a dict of `role`, `compute_capability`, `gpu`, `precision`, `chunk`, `tensorrt`,
    `path`, `mb`, and `is_built`: whether it was built now.

    Raises UncertaintySegError as `work_here`, `work_ahead` and `EngineWork.build` do, OSError if
    the folder cannot be written to. A KeyboardInterrupt ends the build at TensorRT's next report;
    while `is_building()`, a process must end without taking TensorRT apart: by `os._exit`.
    """
    works = [work_ahead(bundle, settings, one) for one in compute_capabilities] \
        or [work_here(bundle, settings)]
    cache = EngineCache(folder)
    built: list[list[str]] = []

    def build(tell: Progress) -> None:
        for index, work in enumerate(works):
            built.append(work.build(cache, _part(tell, index, len(works))))

    running = EngineBuild(build)
    try:
        while not running.wait(_POLL_S):
            progress(running.state.share, running.state.phase)
    except BackendError as err:
        if isinstance(err.__cause__, OSError):  # such as a full disk
            raise err.__cause__ from None
        raise
    except BaseException:
        running.stop(_POLL_S * 5)
        raise
    return [
        {'role': engine.role, 'compute_capability': engine.key.compute_capability,
         'gpu': engine.key.gpu, 'precision': engine.key.precision,
         'chunk': work.engines.calls[0].stop,
         'tensorrt': f'{engine.key.module} {engine.key.version}',
         'path': str(cache.plan_path(engine.key.digest)),
         'mb': round(cache.plan_path(engine.key.digest).stat().st_size / 1e6, 2),
         'is_built': engine.role in roles}
        for work, roles in zip(works, built, strict=True) for engine in work.engines.all]


# -------------------------------------------------------------------------------------------------
# A build in a thread of its own, so that whoever waits for it can stop it. TensorRT calls back
# from C++, where an interrupt would be lost: Ctrl-C that came inside of a report of progress did
# nothing, and the build went on to its end.

_THREAD = 'engine-build'


@dataclass(frozen=True)
class BuildState:
    """How far a build is: share of its steps, 0..1, and phase, empty before the first report."""

    share: float = 0.0
    phase: str = ''

    def __str__(self) -> str:
        """Return it as a reason for the flag to be down."""
        return f'building engine ({self.share * 100:.0f} %)'


class _Stopped(Exception):
    """Ends the build from within; never leaves this file."""


class EngineBuild:
    """
    One build, in a thread of its own from the start; `state` says how far it is.

    `build` is given a function to report progress to, from any thread; it returns when all is
    built.
    """

    def __init__(self, build: Callable[[Progress], None]) -> None:
        self.state = BuildState()
        self._build, self._is_stopped = build, False
        self._end: Future[None] = Future()
        # A build that cannot be stopped must not keep the process.
        threading.Thread(target=self._run, name=_THREAD, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """
        Wait for the end, at most so long; return whether it is built.

        Raises UncertaintySegError as the build did, BackendError for any other of its errors.

        """
        if not self._has_ended(timeout_s):
            return False
        self._end.result()
        return True

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """End it at the next report of progress; False if none came for too long."""
        self._is_stopped = True
        return self._has_ended(timeout_s)

    def _has_ended(self, timeout_s: float) -> bool:
        return bool(futures.wait([self._end], timeout_s).done)

    def _tell(self, share: float, phase: str) -> None:
        if self._is_stopped:
            raise _Stopped
        self.state = BuildState(share, phase)

    def _run(self) -> None:
        try:
            self._build(self._tell)
        except _Stopped:
            self._end.set_exception(BackendError('the build was stopped'))
        except UncertaintySegError as err:
            self._end.set_exception(err)
        except Exception as err:  # TensorRT's and the system's own; the thread must report them
            error = BackendError(f'the engine cannot be built ({type(err).__name__}: {err})')
            error.__cause__ = err
            self._end.set_exception(error)
        else:
            self._end.set_result(None)


def is_building() -> bool:
    """Say whether a build runs in this process, if only to the next report that would end it."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


# -------------------------------------------------------------------------------------------------
# One engine.


def build_engine(
    trt: TensorRt, name: str, graph: bytes, key: EngineKey, progress: Progress = _untold,
    available_bytes: int = 0,
) -> bytes:
    """
    Build the plan of a graph, an ONNX file of some name, for its key; minutes on a Jetson.

    What `progress` raises stops the build and is raised here. `available_bytes` is the free memory
    of a machine whose GPU shares it, and 0 for no limit.

    Raises GraphError if TensorRT cannot read the graph, with the node; BackendError if the key
    does not fit graph or version, or the build failed; BackendUnavailableError if there is no
    builder here, as without a GPU (TensorRT-RTX needs none).

    """
    start_s = time.monotonic()
    logger = trt.logger()
    try:
        builder = trt.module.Builder(logger)
    except TypeError as err:  # "factory function returned nullptr": pybind11 has no other word
        raise BackendUnavailableError(
            f'TensorRT {trt.version} has no builder here ({logger.reason()})',
            fix='build engines on the machine with the GPU they are for') from err
    network = builder.create_network(trt.creation_flags())
    parser = trt.module.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _unreadable(trt, parser, name, key.precision)
    config = builder.create_builder_config()
    configure(trt, config, key)
    _set_profiles(builder, config, network, key.profiles, name)
    limit_memory(trt, config, available_bytes)
    monitor = progress_monitor(trt, progress)
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    if memory is None:
        raise BackendError(f'TensorRT {trt.version} cannot build {name} in {key.precision} '
                           f'({logger.reason()})')
    plan = bytes(memory)
    progress(1.0, 'built')
    _log.info('TensorRT %s built %s in %s: %.1f MB in %.1f s', trt.version, name, key.precision,
              len(plan) / 1e6, time.monotonic() - start_s)
    return plan


def _unreadable(
    trt: TensorRt, parser: tensorrt.OnnxParser, name: str, precision: str
) -> GraphError:
    reasons = '; '.join(_sentence(parser.get_error(index)) for index in range(parser.num_errors))
    others = {'bf16': 'fp16 or fp32', 'fp16': 'fp32'}.get(precision)
    return GraphError(
        f'TensorRT {trt.version} cannot read {name} in {precision} ({reasons or "no reason"})',
        fix=f'take a bundle in {others}, or another backend' if others else
        'use another backend, or compile a network without that operator')


def _sentence(error: tensorrt.ParserError) -> str:
    """Name the node of an error, where it is one of a node."""
    text = ' '.join(error.desc().split())
    node, operator = error.node_name(), error.node_operator()
    return f'node {node!r} ({operator}): {text}' if operator else text


def configure(trt: TensorRt, config: tensorrt.IBuilderConfig, key: EngineKey) -> None:
    """Set the flags of a key and no others, and the GPU where none is here."""
    config.clear_flag(trt.module.BuilderFlag.TF32)  # which is on by itself
    for name in key.flags:
        config.set_flag(getattr(trt.module.BuilderFlag, name))
    if not key.is_ahead:
        return
    members = trt.module.ComputeCapability.__members__
    name = f'SM{key.compute_capability.replace(".", "")}'
    config.num_compute_capabilities = 1
    if name not in members or not config.set_compute_capability(members[name], 0):
        raise BackendError(
            f'TensorRT-RTX {trt.version} cannot build for {key.compute_capability!r}',
            ', '.join(f'{one[2:-1]}.{one[-1]}' for one in members if one.startswith('SM')))


def limit_memory(
    trt: TensorRt, config: tensorrt.IBuilderConfig, available_bytes: int
) -> None:
    """
    Leave memory that is shared with the processor to the rest of the machine.

    By itself TensorRT tries kernels that work in all memory of the GPU. Here one may work in a
    quarter of what is free, and everything that lives while one is tried takes half of it.

    """
    if available_bytes:
        pools = trt.module.MemoryPoolType
        config.set_memory_pool_limit(pools.WORKSPACE, available_bytes // 4)
        config.set_memory_pool_limit(pools.TACTIC_DRAM, available_bytes // 2)


def _set_profiles(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition, profiles: Profiles, name: str,
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {t.name for t in inputs if -1 in tuple(t.shape)}
    if dynamic != set(profiles):
        raise BackendError(
            f'{name} has symbolic axes in {sorted(dynamic)}, and profiles are given for '
            f'{sorted(profiles)}', 'a profile for each of them')
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    try:
        for tensor, shapes in profiles.items():
            profile.set_shape(tensor, *shapes)
        is_taken = config.add_optimization_profile(profile) >= 0
    except ValueError as err:
        raise BackendError(f'profile {dict(profiles)} of {name} ({err})', _FITTING) from err
    if not is_taken:
        raise BackendError(f'TensorRT refuses the profile {dict(profiles)} of {name}', _FITTING)


def progress_monitor(trt: TensorRt, progress: Progress) -> Any:
    """
    Return the object that TensorRT calls, from several threads; keep it until the build has ended.

    Phases have steps, and more phases begin as it goes on. The share is that of the steps which
    are known, never falls, and is not one of time. `error` is what `progress` raised, which stops
    the build.

    """
    base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc, valid-type]

        def __init__(self) -> None:
            base.__init__(self)  # pybind11 wants the base named
            self.error: BaseException | None = None
            self._lock = threading.Lock()
            self._known = self._done = 0
            self._last = -1.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(phase_name, num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, 0, 1)
            return self.error is None

        def phase_finish(self, phase_name: str) -> None:
            pass

        def _tell(self, name: str, known: int, done: int) -> None:
            """Report a change; never a share of 1, which is for the built engine."""
            with self._lock:
                self._known, self._done = self._known + known, self._done + done
                share = min(self._done / max(self._known, 1), 0.99)
                if self.error is not None or share < self._last + _LEAST_STEP:
                    return
                self._last = share
                try:
                    progress(share, name)
                except BaseException as err:  # an interrupt too must not unwind through TensorRT
                    self.error = err

    return Monitor()
