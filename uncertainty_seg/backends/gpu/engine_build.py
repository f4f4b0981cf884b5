# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Determine the TensorRT engines that a bundle needs, and build the missing ones.

There are two engines: the trunk, whose shapes are all fixed, and the passes, which takes between
one pass and the passes of one call and returns their sums. The backend only looks them up.
Building takes minutes, so only the self-check and the node build, and report progress; both use
this file, so that they build exactly the engines that the backend looks for.

Networks are strongly typed: the compiled graph states which tensors are 16 bits and which are
float32. The parser owns the weights that the network refers to, so both must live until the build
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
# Called with the share of work done, 0..1, which never decreases, and the phase.
Progress: TypeAlias = Callable[[float, str], None]
Calls: TypeAlias = Sequence[slice]
_LEAST_STEP = 0.001  # smallest change of the share to report
# Time to wait for a stopped build to end.
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.1
_log = logging.getLogger(__name__)


def _untold(share: float, phase: str) -> None:
    """Ignore progress."""


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
    The engines of a bundle: the trunk runs once per frame, the other once per call of passes.

    `calls` holds the passes of each call of a frame; no call has more passes than the first.
    """

    trunk: NeededEngine
    passes: NeededEngine
    calls: Calls

    @property
    def all(self) -> tuple[NeededEngine, NeededEngine]:  # noqa: A003
        """Both engines, in the order they run."""
        return self.trunk, self.passes


def engines_of(
    bundle: ModelBundle, settings: Settings, trt: TensorRt, target: EngineTarget
) -> BundleEngines:
    """
    Return the engines of a checked bundle for passes, precision and memory of the settings.

    Raises BackendUnavailableError if its graphs have another precision, ModelBundleError if the
    graph of the passes has an unknown form.
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
    """Return the key of a graph's engine, from the bytes of its ONNX file."""
    # An engine that allocates when it runs cannot be in a CUDA graph. RTX 1.4 lacks this flag.
    wanted = {'TF32': precision == 'tf32', 'REQUIRE_USER_ALLOCATION': trt.is_rtx}
    flags = tuple(name for name, is_wanted in wanted.items()
                  if is_wanted and hasattr(trt.module.BuilderFlag, name))
    return EngineKey(**dataclasses.asdict(target), graph=hashlib.sha256(graph).hexdigest(),
                     precision=precision, profiles=profiles, flags=flags)


def split_passes(passes: int, limit: int) -> list[slice]:
    """
    Split T passes into calls of at most `limit` passes, the first of which is the largest.

    All calls have one size unless T has no divisor between half of `limit` and `limit`, because
    each size needs a separate context.
    """
    limit = max(1, min(limit, passes))
    divisors = [n for n in range(limit // 2 + 1, limit + 1) if passes % n == 0]
    size = divisors[-1] if divisors else -(-passes // -(-passes // limit))
    return [slice(first, min(first + size, passes)) for first in range(0, passes, size)]


def _profiles(path: Path, most: int) -> Profiles:
    """
    Return the profile of each input that has one row per pass.

    The engine is optimised for the calls of a frame and needs no memory for larger calls. It also
    runs smaller calls, such as the two passes that are compared when a bundle is opened.
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
    """The engines that a bundle needs on one GPU, with the arguments to build them."""

    trt: TensorRt
    engines: BundleEngines
    available_bytes: int = 0

    def build(self, cache: EngineCache, progress: Progress = _untold) -> list[str]:
        """
        Build engines missing in the cache (minutes on a Jetson); return the roles that were built.

        Engines that another process built meanwhile are not among them. `progress` is called with
        the share of all work done, and the current engine and phase. Raises as `build_engine`;
        engines built before the error are kept.
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
    """Convert the progress of one of `count` engines or targets to the total progress."""
    def tell(share: float, phase: str) -> None:
        progress((index + share) / count, f'{role}: {phase}' if role else phase)

    return tell


def work_here(bundle: ModelBundle, settings: Settings) -> EngineWork:
    """
    Return the engines that the backend `tensorrt` needs on this machine's first GPU.

    Raises as `engines_of`, and BackendUnavailableError if there is no GPU or no TensorRT.
    """
    device = find_device()  # before TensorRT is touched
    trt = load_tensorrt()
    return EngineWork(trt, engines_of(bundle, settings, trt, EngineTarget.of(trt, device)),
                      available_bytes() if device.is_integrated else 0)


def work_ahead(
    bundle: ModelBundle, settings: Settings, compute_capability: str, trt: TensorRt | None = None,
) -> EngineWork:
    """
    Return the engines that TensorRT-RTX needs on every GPU of a compute capability, such as '8.6'.

    No such GPU is needed on this machine, since the target names no GPU, driver or number of
    multiprocessors. Raises as `engines_of`, and BackendUnavailableError if TensorRT builds only
    for the GPU of this machine.
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
    """Build the engines that are missing on this machine, in this user's cache."""
    work_here(bundle, settings).build(EngineCache(), progress)


def build_engines(
    bundle: ModelBundle, settings: Settings, compute_capabilities: Sequence[str] = (),
    folder: Path | None = None, progress: Progress = _untold,
) -> list[dict[str, Any]]:
    """
    Build the missing engines of a bundle, and return a list of all its engines.

    `compute_capabilities`, such as '8.6', are those of GPUs of other machines, for TensorRT-RTX;
    if empty, the engines are for the GPU of this machine. `folder` is by default this user's
    cache. `progress` is called in this thread with the share of all work done, and the phase. Each
    engine is a dict of `role`, `compute_capability`, `gpu`, `precision`, `chunk`, `tensorrt`,
    `path`, `mb`, and `is_built`: whether it was built now.

    Raises UncertaintySegError as `work_here`, `work_ahead` and `EngineWork.build` do, OSError if
    the folder cannot be written to. A KeyboardInterrupt ends the build at TensorRT's next report;
    while `is_building()`, a process must exit by `os._exit`, without destroying TensorRT objects.
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
# A build in a separate thread, so that the waiting thread can stop it. TensorRT calls back from
# C++, where an interrupt would be lost: Ctrl-C during a progress report had no effect, and the
# build continued to its end.

_THREAD = 'engine-build'


@dataclass(frozen=True)
class BuildState:
    """Progress of a build: share of steps, 0..1, and phase, empty before the first report."""

    share: float = 0.0
    phase: str = ''

    def __str__(self) -> str:
        """Return the state as a reason why the flag is false."""
        return f'building engine ({self.share * 100:.0f} %)'


class _Stopped(Exception):
    """Raised in the build to end it; never leaves this file."""


class EngineBuild:
    """
    One build in a separate thread, started at once; `state` is its progress.

    `build` gets a function for progress reports, callable from any thread, and returns when all
    engines are built.
    """

    def __init__(self, build: Callable[[Progress], None]) -> None:
        self.state = BuildState()
        self._build, self._is_stopped = build, False
        self._end: Future[None] = Future()
        # A daemon thread, so that a build that cannot be stopped does not keep the process alive.
        threading.Thread(target=self._run, name=_THREAD, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """
        Wait at most `timeout_s` for the end of the build; return whether it is finished.

        Raises the UncertaintySegError of the build, or BackendError for any other of its errors.
        """
        if not self._has_ended(timeout_s):
            return False
        self._end.result()
        return True

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Stop the build at its next progress report; return whether it ended in time."""
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
        except Exception as err:  # of TensorRT or the system; passed on to the waiting thread
            error = BackendError(f'the engine cannot be built ({type(err).__name__}: {err})')
            error.__cause__ = err
            self._end.set_exception(error)
        else:
            self._end.set_result(None)


def is_building() -> bool:
    """Return whether a build runs in this process, including one that was told to stop."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


# -------------------------------------------------------------------------------------------------
# One engine.


def build_engine(
    trt: TensorRt, name: str, graph: bytes, key: EngineKey, progress: Progress = _untold,
    available_bytes: int = 0,
) -> bytes:
    """
    Build the plan of a graph, the bytes of ONNX file `name`, for its key; minutes on a Jetson.

    An exception in `progress` stops the build and is raised here. `available_bytes` is the free
    memory of a machine whose GPU shares it, and 0 for no limit.

    Raises GraphError, which names the node, if TensorRT cannot read the graph; BackendError if the
    key does not fit the graph or version, or the build failed; BackendUnavailableError if there is
    no builder on this machine, as without a GPU (TensorRT-RTX needs none).
    """
    start_s = time.monotonic()
    logger = trt.logger()
    try:
        builder = trt.module.Builder(logger)
    except TypeError as err:  # pybind11's error for a missing builder: "... returned nullptr"
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
    """Return the text of a parser error, with its node if there is one."""
    text = ' '.join(error.desc().split())
    node, operator = error.node_name(), error.node_operator()
    return f'node {node!r} ({operator}): {text}' if operator else text


def configure(trt: TensorRt, config: tensorrt.IBuilderConfig, key: EngineKey) -> None:
    """Set exactly the flags of a key, and the compute capability for GPUs of other machines."""
    config.clear_flag(trt.module.BuilderFlag.TF32)  # on by default
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
    Limit the build's memory on a machine whose GPU shares memory with the CPU.

    By default TensorRT tries kernels whose workspace is all memory of the GPU. Here the workspace
    is limited to a quarter of the free memory, and all memory of a tactic to half of it.
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
    Return the object that TensorRT calls from several threads; keep it until the build has ended.

    Phases consist of steps, and new phases begin during the build. The share counts the steps
    known so far, not time, and never decreases. `error` is the exception that `progress` raised,
    which stops the build.
    """
    base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc, valid-type]

        def __init__(self) -> None:
            base.__init__(self)  # by name: pybind11 advises against super()
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
            """Report progress; the share stays below 1 until the engine is built."""
            with self._lock:
                self._known, self._done = self._known + known, self._done + done
                share = min(self._done / max(self._known, 1), 0.99)
                if self.error is not None or share < self._last + _LEAST_STEP:
                    return
                self._last = share
                try:
                    progress(share, name)
                except BaseException as err:  # not even an interrupt may unwind through TensorRT
                    self.error = err

    return Monitor()
