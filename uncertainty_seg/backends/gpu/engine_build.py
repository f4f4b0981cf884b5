# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which TensorRT engines a bundle needs, and how the missing ones are built.

There are two: the trunk, whose shapes are all fixed, and the head with its reduction inside, which
takes from one pass to a chunk of them. The backend only looks them up. Building takes minutes, so
only the self-check and the node do it, and report it; both use this file, so that they build what
the backend looks for.

Networks are strongly typed: the graph says what is 16 bits and what is float32, as the compiler
wrote it. The parser owns the weights and the network points at them: both live until the build
has ended.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timezone
import hashlib
import logging
from pathlib import Path
import threading
import time
from typing import Any, TYPE_CHECKING, TypeAlias

from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget, key_of_facts
from uncertainty_seg.backends.gpu.nvidia import (
    available_bytes,
    find_device,
    load_tensorrt,
    Messages,
    Shape,
    TensorRt,
)
from uncertainty_seg.backends.runner import (
    bytes_a_pass,
    choose_chunk,
    Chunking,
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

TRUNK, PASSES = 'trunk', 'passes'
_FITTING = 'min <= opt <= max, and shapes that the graph allows'
# Called with the share of the work that is done, 0..1, never falling, and the phase.
Progress: TypeAlias = Callable[[float, str], None]
_LEAST_STEP = 0.001  # of the share, to be worth a report
# How long to wait for a build that was stopped.
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSpec:
    """
    What an engine is built for, besides its graph.

    Attributes
    ----------
    precision : str
        What the graph computes in, one of `core.settings.COMPUTED`. In 'tf32' products of float32
        may round their factors to 10 bits, which is TensorRT's own default and not this one.
    profiles : mapping of str to (min, opt, max)
        Shapes of each input that has a symbolic axis; the others are left out.
    compute_capabilities : tuple of str
        Of GPUs that are not here, for TensorRT-RTX, as ('8.6', '8.9'); empty for any.

    """

    precision: str
    profiles: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class NeededEngine:
    """An engine of a bundle: its role, 'trunk' or 'passes', its graph, and what it is for."""

    role: str
    path: Path
    spec: EngineSpec

    def content(self) -> bytes:
        """Return the graph that is built, as an ONNX file."""
        return self.path.read_bytes()

    def graph_sha256(self) -> str:
        """Return the hash of its ONNX file with weights."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def key(self, target: EngineTarget) -> str:
        """Return its key in the cache; reads the graph."""
        return key_of_facts(self.graph_sha256(), dataclasses.asdict(self.spec), target)

    def key_ahead(self, trt: TensorRt, compute_capability: str) -> str:
        """Return the key of its twin for every GPU of a compute capability."""
        spec = dataclasses.replace(self.spec, compute_capabilities=(compute_capability,))
        return dataclasses.replace(self, spec=spec).key(
            EngineTarget.ahead(trt, compute_capability))


@dataclass(frozen=True)
class BundleEngines:
    """
    The engines of a bundle: the trunk runs once a frame, the head once a chunk of passes.

    `chunking` says how many passes a call of the head takes at most.

    """

    trunk: NeededEngine
    passes: NeededEngine
    chunking: Chunking

    @property
    def all(self) -> tuple[NeededEngine, NeededEngine]:  # noqa: A003
        """Both, in the order they run."""
        return self.trunk, self.passes


def engines_of(
    bundle: ModelBundle, settings: Settings, compute_capabilities: tuple[str, ...] = (),
) -> BundleEngines:
    """
    Decide which engines a bundle needs.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, precision and memory budget.
    compute_capabilities : tuple of str
        For TensorRT-RTX, to build for GPUs that are not here.

    Raises
    ------
    BackendUnavailableError
        If the graphs are of another precision than that of the settings.
    ModelBundleError
        If the bundle has no head with statistics, or one of an unknown form.

    """
    card, path = bundle.card, bundle.passes_path
    precision = precision_of(card, settings.precision)
    if precision not in (card.precision, 'tf32'):
        raise BackendUnavailableError(
            f'TensorRT computes a graph in the types it is written in, and {card.name!r} is '
            f'written in {card.precision}, not {precision}',
            fix=f'compile a variant of it in {precision}')
    chunking = choose_chunk(passes_of(card, settings), bytes_a_pass(path),
                            settings.memory_budget_mb)
    spec = EngineSpec(precision, {}, compute_capabilities)
    head_spec = dataclasses.replace(spec, profiles=_profiles(path, chunking.passes))
    return BundleEngines(NeededEngine(TRUNK, bundle.trunk_path, spec),
                         NeededEngine(PASSES, path, head_spec), chunking)


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
        """List what the cache does not hold, in the order they run."""
        return [engine for engine in self.engines.all if not cache.has(engine.key(self.target))]

    def build(self, cache: EngineCache, progress: Progress | None = None) -> list[NeededEngine]:
        """
        Build what the cache does not hold; minutes on a Jetson.

        Parameters
        ----------
        cache : EngineCache
            Where engines are stored.
        progress : callable, optional
            Called with the share of everything that is done, and the engine and phase at work.

        Returns
        -------
        list of NeededEngine
            Those that were built; one that another process built meanwhile is not among them.

        Raises
        ------
        GraphError, BackendError
            As `build_engine`; what was built before stays.

        """
        wanted = self.missing(cache)
        built = []
        for index, engine in enumerate(wanted):
            key = engine.key(self.target)
            with cache.lock(key):
                if not cache.has(key):
                    self._build(engine, key, cache,
                                _part(progress, index, len(wanted), engine.role))
                    built.append(engine)
        return built

    def _build(
        self, engine: NeededEngine, key: str, cache: EngineCache, progress: Progress | None
    ) -> None:
        made = build_engine(self.trt, engine.path.name, engine.content(), engine.spec, progress,
                            cache.timing_cache(self.target), self.available_bytes)
        cache.store(key, made.plan, {
            'role': engine.role,
            'graph': str(engine.path),
            'graph_sha256': engine.graph_sha256(),
            'spec': dataclasses.asdict(engine.spec),
            'target': dataclasses.asdict(self.target),
            'available_bytes': self.available_bytes,
            'build_s': round(made.build_s, 3),
            'built': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        })
        if made.timing_cache:
            cache.store_timing_cache(self.target, made.timing_cache)


def _part(progress: Progress | None, index: int, count: int, role: str = '') -> Progress | None:
    """Turn the progress of one of several engines or targets into that of all."""
    if progress is None:
        return None

    def tell(share: float, phase: str) -> None:
        progress((index + share) / count, f'{role}: {phase}' if role else phase)

    return tell


def work_here(bundle: ModelBundle, settings: Settings) -> EngineWork:
    """
    Return the engines that the backend `tensorrt` needs on this machine's first GPU.

    Parameters and errors are those of `engines_of`; raises BackendUnavailableError too if there is
    no GPU or no TensorRT.

    """
    device = find_device()  # before TensorRT is touched
    trt = load_tensorrt()
    return EngineWork(trt, engines_of(bundle, settings), EngineTarget.of(trt, device),
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
            fix='name no compute capability on the machine that runs the engines, or build with '
                'TensorRT-RTX',
        )
    return EngineWork(trt, engines_of(bundle, settings, (compute_capability,)),
                      EngineTarget.ahead(trt, compute_capability))


def build_here(bundle: ModelBundle, settings: Settings, progress: Progress) -> None:
    """Build what the backend `tensorrt` lacks on this machine, in this user's cache."""
    work_here(bundle, settings).build(EngineCache(), progress)


def build_engines(
    bundle: ModelBundle, settings: Settings, compute_capabilities: Sequence[str] = (),
    folder: Path | None = None, progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """
    Build the engines of a bundle that are missing, and say which there are.

    Parameters
    ----------
    bundle, settings : ModelBundle, Settings
        As `engines_of`.
    compute_capabilities : sequence of str
        Of GPUs that are not here, as '8.6', for TensorRT-RTX; without any, for the GPU of this
        machine.
    folder : Path, optional
        Of the engines; by default that of this user.
    progress : callable, optional
        Called in this thread with the share of everything that is done, and the phase.

    Returns
    -------
    list of dict
        For each engine `role`, `compute_capability`, `gpu`, `precision`, `chunk`, `tensorrt`,
        `path`, `mb`, and `is_built`: whether it was built now.

    Raises
    ------
    UncertaintySegError
        As `work_here` or `work_ahead`, and `EngineWork.build`.
    OSError
        If the folder cannot be written to.
    KeyboardInterrupt
        The build ends at TensorRT's next report. While `is_building()`, a process must end
        without taking TensorRT apart: by `os._exit`.

    """
    works = [work_ahead(bundle, settings, one) for one in compute_capabilities] \
        or [work_here(bundle, settings)]
    cache = EngineCache(folder)
    built: list[NeededEngine] = []

    def build(tell: Progress) -> None:
        for index, work in enumerate(works):
            built.extend(work.build(cache, _part(tell, index, len(works))))

    running = EngineBuild(build)
    try:
        while not running.wait(_POLL_S):
            if progress is not None:
                progress(running.state.share, running.state.phase)
    except BackendError as err:
        if isinstance(err.__cause__, OSError):  # such as a full disk
            raise err.__cause__ from None
        raise
    except BaseException:
        running.stop(_POLL_S * 5)
        raise
    return [_entry(engine, work, cache, engine in built)
            for work in works for engine in work.engines.all]


def _entry(
    engine: NeededEngine, work: EngineWork, cache: EngineCache, is_built: bool
) -> dict[str, Any]:
    path = cache.plan_path(engine.key(work.target))
    return {'role': engine.role, 'compute_capability': work.target.compute_capability,
            'gpu': work.target.gpu, 'precision': engine.spec.precision,
            'chunk': work.engines.chunking.passes,
            'tensorrt': f'{work.trt.name} {work.trt.version}', 'path': str(path),
            'mb': round(path.stat().st_size / 1e6, 2), 'is_built': is_built}


# -------------------------------------------------------------------------------------------------
# A build in a thread of its own, so that whoever waits for it can stop it. TensorRT calls back
# from C++, where an interrupt would be lost: Ctrl-C that came inside of a report of progress did
# nothing, and the build went on to its end.

_THREAD = 'engine-build'


@dataclass(frozen=True)
class BuildState:
    """
    How far a build is.

    Attributes
    ----------
    share : float
        Of its steps, 0..1; not of its time.
    phase : str
        The engine and what is done to it; empty before the first report.

    """

    share: float = 0.0
    phase: str = ''

    def __str__(self) -> str:
        """Return it as a reason for the flag to be down."""
        return f'building engine ({self.share * 100:.0f} %)'


class _Stopped(Exception):
    """Ends the build from within; never leaves this file."""


class EngineBuild:
    """
    One build, in a thread of its own from the start.

    Parameters
    ----------
    build : callable
        Given a function to report progress to, from any thread; returns when it is built.

    """

    def __init__(self, build: Callable[[Progress], None]) -> None:
        self._build = build
        self._state = BuildState()
        self._error: Exception | None = None
        self._is_stopped = False
        self._done = threading.Event()
        # A build that cannot be stopped must not keep the process.
        threading.Thread(target=self._run, name=_THREAD, daemon=True).start()

    @property
    def state(self) -> BuildState:
        """How far it is."""
        return self._state

    def wait(self, timeout_s: float) -> bool:
        """
        Wait for the end, at most so long; return whether it is built.

        Raises UncertaintySegError as the build did, BackendError for any other of its errors.

        """
        if not self._done.wait(timeout_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """End it at the next report of progress; False if none came for too long."""
        self._is_stopped = True
        return self._done.wait(timeout_s)

    def _tell(self, share: float, phase: str) -> None:
        if self._is_stopped:
            raise _Stopped
        self._state = BuildState(share, phase)

    def _run(self) -> None:
        try:
            self._build(self._tell)
        except _Stopped:
            self._error = BackendError('the build was stopped')
        except UncertaintySegError as err:
            self._error = err
        except Exception as err:  # TensorRT's and the system's own; the thread must report them
            self._error = BackendError(
                f'the engine cannot be built ({type(err).__name__}: {err})')
            self._error.__cause__ = err
        finally:
            self._done.set()


def is_building() -> bool:
    """Say whether a build runs in this process, if only to the next report that would end it."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


# -------------------------------------------------------------------------------------------------
# One engine.


@dataclass(frozen=True)
class BuiltEngine:
    """
    A serialised engine.

    Attributes
    ----------
    plan : bytes
        What `Runtime.deserialize_cuda_engine` takes.
    timing_cache : bytes
        What the build measured, the given cache included; empty if there is none.
    build_s : float
        How long it took.

    """

    plan: bytes
    timing_cache: bytes
    build_s: float


def build_engine(
    trt: TensorRt, name: str, graph: bytes, spec: EngineSpec, progress: Progress | None = None,
    timing_cache: bytes = b'', available_bytes: int = 0,
) -> BuiltEngine:
    """
    Build an engine; minutes on a Jetson.

    Parameters
    ----------
    trt : TensorRt
        What builds it.
    name, graph : str, bytes
        Of an ONNX file, and its content.
    spec : EngineSpec
        What for.
    progress : callable, optional
        Called with the share that is done and the phase. What it raises stops the build and is
        raised here.
    timing_cache : bytes
        Measurements of earlier builds of this TensorRT on this GPU; makes the build faster.
    available_bytes : int
        Free memory of a machine whose GPU shares it; 0 where the GPU has its own, or for no limit.

    Raises
    ------
    GraphError
        If TensorRT cannot read the graph; names the node.
    BackendError
        If the spec does not fit graph or version, or the build failed; says why.
    BackendUnavailableError
        If there is no builder on this machine, as without a GPU (TensorRT-RTX needs none).

    """
    start_s = time.monotonic()
    messages = Messages()
    logger = trt.logger(messages)
    try:
        builder = trt.module.Builder(logger)
    except TypeError as err:  # "factory function returned nullptr": pybind11 has no other word
        raise BackendUnavailableError(
            f'TensorRT {trt.version} has no builder here ({messages.reason()})',
            fix='build engines on the machine with the GPU they are for') from err
    network = builder.create_network(trt.creation_flags())
    parser = trt.module.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _unreadable(trt, parser, name, spec.precision)
    config = builder.create_builder_config()
    _configure(trt, config, spec)
    _set_profiles(builder, config, network, spec, name)
    limit_memory(trt, config, available_bytes)
    cache = _set_timing_cache(trt, config, timing_cache)
    monitor = progress_monitor(trt, progress or (lambda share, phase: None))
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    if memory is None:
        raise BackendError(f'TensorRT {trt.version} cannot build {name} in {spec.precision} '
                           f'({messages.reason()})')
    built = BuiltEngine(bytes(memory), b'' if cache is None else bytes(cache.serialize()),
                        time.monotonic() - start_s)
    if progress is not None:
        progress(1.0, 'built')
    _log.info('TensorRT %s built %s in %s: %.1f MB in %.1f s', trt.version, name, spec.precision,
              len(built.plan) / 1e6, built.build_s)
    return built


def _unreadable(
    trt: TensorRt, parser: tensorrt.OnnxParser, name: str, precision: str
) -> GraphError:
    reasons = '; '.join(_sentence(parser.get_error(index)) for index in range(parser.num_errors))
    others = {'bf16': 'fp16 or fp32', 'fp16': 'fp32', 'int8': 'fp16 or fp32'}.get(precision)
    return GraphError(
        f'TensorRT {trt.version} cannot read {name} in {precision} ({reasons or "no reason"})',
        fix=f'take a bundle in {others}, or another backend' if others else
        'use another backend, or compile a network without that operator')


def _sentence(error: tensorrt.ParserError) -> str:
    """Name the node of an error, where it is one of a node."""
    text = ' '.join(error.desc().split())
    node, operator = error.node_name(), error.node_operator()
    return f'node {node!r} ({operator}): {text}' if operator else text


def _configure(trt: TensorRt, config: tensorrt.IBuilderConfig, spec: EngineSpec) -> None:
    tf32 = trt.module.BuilderFlag.TF32
    if spec.precision == 'tf32':
        config.set_flag(tf32)
    else:
        config.clear_flag(tf32)
    if trt.is_rtx:
        # What allocates when it runs cannot be in a CUDA graph. 1.4 has no such flag.
        flag = getattr(trt.module.BuilderFlag, 'REQUIRE_USER_ALLOCATION', None)
        if flag is not None:
            config.set_flag(flag)
    if not spec.compute_capabilities:
        return
    members = trt.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(spec.compute_capabilities)
    for index, number in enumerate(spec.compute_capabilities):
        name = f'SM{number.replace(".", "")}'
        if name not in members or not config.set_compute_capability(members[name], index):
            raise BackendError(f'TensorRT-RTX {trt.version} cannot build for {number!r}',
                               ', '.join(f'{key[2:-1]}.{key[-1]}' for key in members
                                         if key.startswith('SM')))


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
    network: tensorrt.INetworkDefinition, spec: EngineSpec, name: str,
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {t.name for t in inputs if -1 in tuple(t.shape)}
    if dynamic != set(spec.profiles):
        raise BackendError(
            f'{name} has symbolic axes in {sorted(dynamic)}, and profiles are given for '
            f'{sorted(spec.profiles)}', 'a profile for each of them')
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    try:
        for tensor, shapes in spec.profiles.items():
            profile.set_shape(tensor, *shapes)
        is_taken = config.add_optimization_profile(profile) >= 0
    except ValueError as err:
        raise BackendError(f'profile {dict(spec.profiles)} of {name} ({err})',
                           _FITTING) from err
    if not is_taken:
        raise BackendError(f'TensorRT refuses the profile {dict(spec.profiles)} of {name}',
                           _FITTING)


def _set_timing_cache(
    trt: TensorRt, config: tensorrt.IBuilderConfig, data: bytes
) -> tensorrt.ITimingCache | None:
    """Give earlier measurements to the config; None where this TensorRT keeps none."""
    if not trt.has_timing_cache:
        return None
    cache = config.create_timing_cache(data)
    if cache is not None and config.set_timing_cache(cache, False):
        return cache
    if not data:
        return None
    _log.info('timing cache of %d bytes does not fit: measuring again', len(data))
    return _set_timing_cache(trt, config, b'')


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


def progress_monitor(trt: TensorRt, progress: Progress) -> Any:
    """
    Return the object that TensorRT calls, from several threads; keep it until the build has ended.

    A phase has steps; a phase that starts inside one is part of its parent's current step.
    TensorRT does not know in advance how long a step takes, so the share counts steps and not
    time, and it never falls. `error` is what `progress` raised, which stops the build.

    """
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor as base  # the checker must know it by name
    else:
        base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]

        def __init__(self) -> None:
            base.__init__(self)  # pybind11 wants the base named
            self.error: BaseException | None = None
            self._phases: dict[str, _Phase] = {}
            self._lock = threading.Lock()
            self._share, self._last = 0.0, -1.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = _Phase(parent_phase or None, max(num_steps, 1))
                self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    self._phases[phase_name].done = step + 1
                    self._tell(phase_name)
                return self.error is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _tell(self, name: str) -> None:
            """Report a change; never a share of 1, which is for the built engine."""
            roots = [key for key, one in self._phases.items() if one.parent not in self._phases]
            share = max((self._share_of(key) for key in roots), default=0.0)
            self._share = max(self._share, min(share, 0.99))
            if self.error is not None or self._share < self._last + _LEAST_STEP:
                return
            self._last = self._share
            try:
                progress(self._share, name)
            except BaseException as err:  # an interrupt too must not unwind through TensorRT
                self.error = err

        def _share_of(self, name: str) -> float:
            phase = self._phases[name]
            inside = [self._share_of(key) for key, other in self._phases.items()
                      if other.parent == name and key != name]
            return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)

    return Monitor()
