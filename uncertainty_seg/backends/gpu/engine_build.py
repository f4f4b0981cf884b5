# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From an ONNX graph to a TensorRT engine, with any version from 8.6 on and with TensorRT-RTX.

The parser owns the weights and the network points at them: both live until the build has ended.

From 10 on networks are strongly typed: the graph says what is 16 bits and what is float32, as
`graph.precision` wrote it. TensorRT 8.6 chooses types itself; there every layer behind the logits
is held in float32. That way was run against names and types only, never on a GPU.

Progress comes from the phases that TensorRT reports. A phase has steps; a phase that starts inside
one is part of its parent's current step. TensorRT does not know in advance how long a step takes,
so the share counts steps and not time.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import logging
from pathlib import Path
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

from uncertainty_seg.backends.gpu.tensorrt_api import Messages, Shape, TensorRt
from uncertainty_seg.backends.graph_files import coarse_statistics
from uncertainty_seg.errors import BackendError, BackendUnavailableError, GraphError

if TYPE_CHECKING:
    import onnx
    import tensorrt

# Precision -> flag of the builder, where TensorRT chooses the types.
_WEAK_FLAGS = {'fp16': 'FP16', 'bf16': 'BF16', 'int8': 'INT8'}
_FITTING = 'min <= opt <= max, and shapes that the graph allows'
# Called with the share of the work that is done, 0..1, never falling, and the phase.
Progress: TypeAlias = Callable[[float, str], None]
_LEAST_STEP = 0.001  # of the share, to be worth a report
# The parser of 8.6 ignores axes that are inputs, as in opset 18, and reduces over all axes.
_LAST_OPSET_OF_8 = 17
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
    is_strongly_typed : bool
        Whether the types of the graph are kept. False is for TensorRT 8.6, which cannot.
    float32_behind : str
        Tensor behind which everything stays in float32 where types are weak; empty for none.
    compute_capabilities : tuple of str
        Of GPUs that are not here, for TensorRT-RTX, as ('8.6', '8.9'); empty for any.
    summed : (int, int), optional
        (hl, wl) for a head that is to sum its passes at the size of the logits.

    """

    precision: str
    profiles: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    is_strongly_typed: bool = True
    float32_behind: str = ''
    compute_capabilities: tuple[str, ...] = ()
    summed: tuple[int, int] | None = None


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
    trt: TensorRt, graph: Path | bytes, spec: EngineSpec, progress: Progress | None = None,
    timing_cache: bytes = b'', available_bytes: int = 0,
) -> BuiltEngine:
    """
    Build an engine; minutes on a Jetson.

    Parameters
    ----------
    trt : TensorRt
        What builds it.
    graph : Path or bytes
        An ONNX file, or its content.
    spec : EngineSpec
        What for.
    progress : callable, optional
        Called with the share that is done and the phase. Only 0 and 1 on 8.6, which reports none.
        What it raises stops the build and is raised here.
    timing_cache : bytes
        Measurements of earlier builds of this TensorRT on this GPU; makes the build faster.
    available_bytes : int
        Free memory of a machine whose GPU shares it; 0 where the GPU has its own, or for no limit.

    Returns
    -------
    BuiltEngine
        The plan, whole.

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
    what = graph.name if isinstance(graph, Path) else 'the graph'
    builder = _new_builder(trt, logger, messages)
    network = builder.create_network(trt.creation_flags(spec.is_strongly_typed))
    parser = trt.module.OnnxParser(network, logger)
    if spec.summed and isinstance(graph, Path):
        graph = coarse_statistics(graph, spec.summed)
    _parse(trt, parser, graph, what, spec.precision)
    config = builder.create_builder_config()
    configure(trt, builder, config, network, spec, what)
    limit_memory(trt, config, available_bytes)
    cache = _set_timing_cache(trt, config, timing_cache)
    tracker = PhaseTracker(progress or (lambda share, phase: None))
    monitor = progress_monitor(trt, tracker) if trt.has_progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    tracker.start('build', None, 1)
    memory = None
    if tracker.error is None:
        memory = builder.build_serialized_network(network, config)
    if tracker.error is not None:
        raise tracker.error
    if memory is None:
        raise BackendError(f'TensorRT {trt.version} cannot build {what} in {spec.precision} '
                           f'({messages.reason()})')
    built = BuiltEngine(bytes(memory), _serialised(cache), time.monotonic() - start_s)
    if progress is not None:
        progress(1.0, 'built')
    _log.info('TensorRT %s built %s in %s: %.1f MB in %.1f s', trt.version, what, spec.precision,
              len(built.plan) / 1e6, built.build_s)
    return built


def limit_memory(
    trt: TensorRt, config: tensorrt.IBuilderConfig, available_bytes: int
) -> None:
    """
    Leave memory that is shared with the processor to the rest of the machine.

    By itself TensorRT tries kernels that work in all memory of the GPU. Here one may work in a
    quarter of what is free, and everything that lives while one is tried takes half of it.

    """
    if not available_bytes:
        return
    pools = trt.module.MemoryPoolType
    config.set_memory_pool_limit(pools.WORKSPACE, available_bytes // 4)
    if hasattr(pools, 'TACTIC_DRAM'):
        config.set_memory_pool_limit(pools.TACTIC_DRAM, available_bytes // 2)


def merge_timing_caches(trt: TensorRt, first: bytes, second: bytes) -> bytes:
    """
    Join the timing caches of two builds; where both know a layer, the first counts.

    Returns `second` alone if `first` is empty, damaged or of another version.

    """
    if not first or not second:
        return first or second
    messages = Messages()
    logger = trt.logger(messages)
    builder = _new_builder(trt, logger, messages)
    config = builder.create_builder_config()
    caches = [config.create_timing_cache(data) for data in (first, second)]
    # Some versions return a cache for anything, and find out when it is combined or set.
    if None in caches or not caches[0].combine(caches[1], False):
        _log.info('timing cache dropped: it fits no more (%s)', messages.reason())
        return second
    return _serialised(caches[0])


def _new_builder(
    trt: TensorRt, logger: tensorrt.ILogger, messages: Messages
) -> tensorrt.Builder:
    try:
        builder = trt.module.Builder(logger)
    except TypeError as err:  # "factory function returned nullptr": pybind11 has no other word
        raise BackendUnavailableError(
            f'TensorRT {trt.version} has no builder here ({messages.reason()})',
            fix='build engines on the machine with the GPU they are for') from err
    return builder


def _parse(
    trt: TensorRt, parser: tensorrt.OnnxParser, graph: Path | bytes, what: str, precision: str
) -> None:
    model = _model(graph, what)
    opset = max((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), default=0)
    if not trt.is_rtx and trt.major < 10 and opset > _LAST_OPSET_OF_8:
        raise GraphError(
            f'{what} is of opset {opset}, of which TensorRT {trt.version} computes some operators '
            'wrongly', f'opset {_LAST_OPSET_OF_8}', 'compile the bundle again')
    if isinstance(graph, Path):
        is_read = parser.parse_from_file(str(graph))
    else:
        is_read = parser.parse(graph)
    if not is_read:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = '; '.join(_sentence(error, model) for error in errors)
        others = {'bf16': 'fp16 or fp32', 'fp16': 'fp32', 'int8': 'fp16 or fp32'}.get(precision)
        raise GraphError(
            f'TensorRT {trt.version} cannot read {what} in {precision} '
            f'({reasons or "no reason"})',
            fix=f'take a bundle in {others}, or another backend' if others else
            'use another backend, or compile a network without that operator')


def _model(graph: Path | bytes, what: str) -> onnx.ModelProto:
    """Read the graph with onnx, whose errors about damaged files say more than TensorRT's."""
    import onnx

    try:
        if isinstance(graph, Path):
            return onnx.load(str(graph), load_external_data=False)
        return onnx.load_model_from_string(graph)
    except OSError as err:
        raise GraphError(f'{what} cannot be read ({err})', fix='restore the bundle') from err
    except Exception as err:  # protobuf's own error class has moved between versions
        raise GraphError(f'{what} is no ONNX file ({err})', fix='restore the bundle') from err


def _sentence(error: tensorrt.ParserError, model: onnx.ModelProto) -> str:
    """Name the node of an error; 8.6 knows its number only."""
    text = ' '.join(str(error.desc()).split())
    index = error.node()
    if not 0 <= index < len(model.graph.node):
        return text
    node = model.graph.node[index]
    return f'node {node.name or index!r} ({node.op_type}): {text}'


def configure(
    trt: TensorRt, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition, spec: EngineSpec, what: str,
) -> None:
    """
    Write a spec into a builder's configuration, and into the parsed network where types are weak.

    `what` names the graph in errors. Raises BackendError if the spec does not fit the graph or the
    version, GraphError if the graph lacks the tensor behind which all is float32.

    """
    _set_types(trt, config, network, spec, what)
    _allow_recording(trt, config)
    _set_profiles(builder, config, network, spec, what)
    _set_targets(trt, config, spec)


def _set_types(
    trt: TensorRt, config: tensorrt.IBuilderConfig, network: tensorrt.INetworkDefinition,
    spec: EngineSpec, what: str,
) -> None:
    tf32 = trt.module.BuilderFlag.TF32
    if spec.precision == 'tf32':
        config.set_flag(tf32)
    else:
        config.clear_flag(tf32)
    if spec.is_strongly_typed:
        return
    if trt.has_strong_types and not trt.has_weak_types:
        raise BackendError(f'TensorRT {trt.version} knows strongly typed networks only',
                           'is_strongly_typed')
    if spec.precision in ('fp32', 'tf32'):
        return
    flag = trt.builder_flag(_WEAK_FLAGS[spec.precision])
    if flag is None:
        raise BackendError(f'TensorRT {trt.version} does not compute in {spec.precision}',
                           fix='take a bundle in fp32 or fp16, or TensorRT 10')
    config.set_flag(flag)
    config.set_flag(trt.module.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if spec.float32_behind:
        _hold_float32(trt, network, spec.float32_behind, what)


def _allow_recording(trt: TensorRt, config: tensorrt.IBuilderConfig) -> None:
    """Let TensorRT-RTX allocate nothing when an engine runs, which no CUDA graph could hold."""
    flag = trt.builder_flag('REQUIRE_USER_ALLOCATION')
    if trt.compiles_kernels and flag is not None:
        config.set_flag(flag)


def _hold_float32(
    trt: TensorRt, network: tensorrt.INetworkDefinition, start: str, what: str
) -> None:
    """Hold every layer behind a tensor in float32; in 16 bits most entropies were NaN."""
    kinds = trt.module.DataType
    floats = (kinds.FLOAT, kinds.HALF)
    behind, is_found = {start}, False
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        is_found = is_found or any(t.name == start for t in outputs)
        given = [t for t in map(layer.get_input, range(layer.num_inputs)) if t is not None]
        if behind.isdisjoint(t.name for t in given):
            continue
        behind.update(t.name for t in outputs)
        if any(t.dtype in floats for t in given):
            layer.precision = kinds.FLOAT
        for number, tensor in enumerate(outputs):
            if tensor.dtype in floats:
                layer.set_output_type(number, kinds.FLOAT)
    if not is_found:
        raise GraphError(f'{what} has no tensor {start!r}', 'the reduction behind it',
                         'compile the bundle again')


def _set_profiles(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition, spec: EngineSpec, what: str,
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {t.name for t in inputs if -1 in tuple(t.shape)}
    if dynamic != set(spec.profiles):
        raise BackendError(
            f'{what} has symbolic axes in {sorted(dynamic)}, and profiles are given for '
            f'{sorted(spec.profiles)}', 'a profile for each of them')
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    try:
        for name, shapes in spec.profiles.items():
            profile.set_shape(name, *shapes)
        is_taken = config.add_optimization_profile(profile) >= 0
    except ValueError as err:
        raise BackendError(f'profile {dict(spec.profiles)} of {what} ({err})',
                           _FITTING) from err
    if not is_taken:
        raise BackendError(f'TensorRT refuses the profile {dict(spec.profiles)} of {what}',
                           _FITTING)


def _set_targets(trt: TensorRt, config: tensorrt.IBuilderConfig, spec: EngineSpec) -> None:
    if not spec.compute_capabilities:
        return
    if not trt.is_rtx:
        raise BackendError(
            f'TensorRT {trt.version} builds for the GPU of this machine only',
            'no compute capability', 'use TensorRT-RTX to build for another GPU')
    members = trt.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(spec.compute_capabilities)
    for index, number in enumerate(spec.compute_capabilities):
        name = f'SM{number.replace(".", "")}'
        if name not in members or not config.set_compute_capability(members[name], index):
            raise BackendError(f'TensorRT-RTX {trt.version} cannot build for {number!r}',
                               ', '.join(f'{key[2:-1]}.{key[-1]}' for key in members
                                         if key.startswith('SM')))


def _set_timing_cache(
    trt: TensorRt, config: tensorrt.IBuilderConfig, data: bytes
) -> tensorrt.ITimingCache | None:
    """Give earlier measurements to the config; None where this TensorRT keeps none."""
    if not trt.has_timing_cache:
        return None
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        if data:
            _log.info('timing cache of %d bytes does not fit: measuring again', len(data))
            return _set_timing_cache(trt, config, b'')
        return None
    return cache


def _serialised(cache: tensorrt.ITimingCache | None) -> bytes:
    return b'' if cache is None else bytes(cache.serialize())


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTracker:
    """
    Turns the phases that TensorRT reports, from several threads, into one share that never falls.

    Attributes
    ----------
    error : BaseException or None
        What `progress` raised, which stops the build.

    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._share = 0.0
        self._last = -1.0
        self.error: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Enter a phase."""
        with self._lock:
            self._phases[name] = _Phase(parent or None, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Record that a step is done; False if the build must stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._tell(name)
            return self.error is None

    def finish(self, name: str) -> None:
        """Leave a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        """Report a change; never a share of 1, which is for the built engine."""
        roots = [key for key, phase in self._phases.items() if phase.parent not in self._phases]
        share = max((self._share_of(key) for key in roots), default=0.0)
        self._share = max(self._share, min(share, 0.99))
        if self.error is not None or self._share < self._last + _LEAST_STEP:
            return
        self._last = self._share
        try:
            self._progress(self._share, name)
        except BaseException as err:  # an interrupt too must not unwind through TensorRT
            self.error = err

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        inside = [self._share_of(key) for key, other in self._phases.items()
                  if other.parent == name and key != name]
        return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)


def progress_monitor(trt: TensorRt, tracker: PhaseTracker) -> tensorrt.IProgressMonitor:
    """Return the object that TensorRT calls; keep it until the build has ended."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor as base  # the checker must know it by name
    else:
        base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]

        def __init__(self) -> None:
            base.__init__(self)  # pybind11 wants the base named

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return tracker.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            tracker.finish(phase_name)

    return Monitor()
