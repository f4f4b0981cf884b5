# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
TensorRT on an NVIDIA GPU, from 10.3 on, and TensorRT-RTX.

The trunk runs once and the head with its reduction inside runs in chunks of passes; their sums
are copied to the host, which computes the maps. No engine is built here: both are taken from the
cache.

All of a frame is enqueued on one stream and waited for once. What is enqueued the same way in
every frame is recorded as a CUDA graph when it first runs; where that does not work it is
enqueued.

TensorRT-RTX compiles kernels when shapes first come. By default it does so in the background and
runs slower ones meanwhile, which a graph would then keep for good: here they are compiled at once.
Its contexts get their working memory from outside, because a graph cannot allocate, and the
compiled kernels are kept in the cache of engines.

TensorRT reports by False or None that something did not work, and continues with what it has: here
each of these is an exception with what TensorRT logged.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from dataclasses import dataclass, replace
import logging
import threading
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from uncertainty_seg.backends.gpu.engine_build import engines_of, NeededEngine
from uncertainty_seg.backends.gpu.engine_cache import (
    EngineCache,
    EngineTarget,
    require_not_failed,
    SelfCheckKey,
)
from uncertainty_seg.backends.gpu.nvidia import (
    ALIGNMENT,
    CudaBuffer,
    CudaDevice,
    CudaMemory,
    find_device,
    load_tensorrt,
    Messages,
    Replay,
    says_full,
    Shape,
    TensorRt,
)
from uncertainty_seg.backends.runner import (
    GraphNames,
    IMAGE,
    INV_TEMPERATURE,
    require_graphs,
    require_inputs,
    Runner,
    SUM_ENTROPY,
    SUM_P2,
    SUMS,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import precision_of, Settings
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import (
    BackendError,
    EngineMissingError,
    ModelBundleError,
    UncertaintySegError,
)

if TYPE_CHECKING:
    import tensorrt

Spec = tuple[Shape, 'np.dtype[Any]']
# How long after an error of the device everything is opened again, at the earliest.
BACK_OFF_S = 1.0
_log = logging.getLogger(__name__)


class NoMemoryError(BackendError):
    """The GPU's memory is full; engines and device are in order."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f'the GPU has no memory for {name!r} ({reason})', fix='free memory, or set '
            'memory_budget_mb lower and build its engines again: run uncertainty_seg self-check')


class TensorRtBackend(Runner):
    """
    Run a bundle with TensorRT.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.
    settings : Settings
        Gives passes, memory budget, precision, reduction and threads.
    trt, cuda, device, cache : optional
        By default what is installed, the first GPU, and this user's cache of engines.
    is_recorded : bool
        Whether to record what is the same in every frame as CUDA graphs.
    clock : callable, optional
        Seconds, for the back-off.

    Raises
    ------
    EngineMissingError
        If an engine was not built yet, or cannot be used any more.
    BackendUnavailableError
        If there is no GPU, TensorRT or cuda-python, or the bundle or its precision cannot be run,
        or failed its self-check here.
    ConfigError
        If the graphs cannot be computed in the precision of the settings.
    ModelBundleError
        If a graph or an engine does not fit the card.
    BackendError
        If the GPU has no memory for the engines.

    Notes
    -----
    A second thread in `run` is refused, because a context that two threads use computes wrong
    results. After an error of the device everything is opened again, once; after the next error
    the backend stays closed.

    """

    name = 'tensorrt'

    def __init__(
        self, bundle: ModelBundle, settings: Settings, trt: TensorRt | None = None,
        cuda: Any = None, device: CudaDevice | None = None, cache: EngineCache | None = None,
        is_recorded: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle, self._card, self._settings = bundle, bundle.card, settings
        self.precision = precision_of(bundle.card, settings.precision)
        self._device = device or find_device()  # before TensorRT is touched
        self._trt, self._cuda = trt or load_tensorrt(), cuda
        self._cache = cache or EngineCache()
        require_not_failed(SelfCheckKey.of(self._card, self.name, self.version, self.precision,
                                           self.device_name), self._cache.folder)
        self._names = require_graphs(bundle)
        self._has_graphs, self._clock = is_recorded, clock
        self._lock = threading.Lock()
        self._user = ''
        self._fault, self._retry_s, self._is_last_try = '', 0.0, False
        self._runner: FrameRunner | None = None
        self._is_open = True
        self._open()
        _log.info('TensorRT %s on %s, %s', self.version, self.device_name, self.precision)

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """Return the sums over the passes of one image; see `Runner.run`; one thread at a time."""
        with self._alone():
            passes = require_inputs(self._card, image, masks)
            runner = self._ready()
            try:
                sums = runner.run(image, masks, passes, temperature)
            except MemoryError as err:  # which is no error of the device
                runner.forget()
                raise NoMemoryError(self._card.name, err) from err
            except Exception as err:  # TensorRT's errors derive from nothing narrower
                raise self._failed(err, passes) from err
            self._timings_ms = runner.timings_ms
            return sums

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run; see `Runner.timings_ms`."""
        return self._timings_ms

    def close(self) -> None:
        """Free engines and buffers, now or when the running frame ends; may be called twice."""
        self._is_open = False
        self._free_if_idle()

    @property
    def version(self) -> str:
        """Of TensorRT."""
        return self._trt.version

    @property
    def device_name(self) -> str:
        """Of the GPU."""
        return self._device.name

    @property
    def is_recorded(self) -> bool:
        """Whether CUDA graphs are in use; false where one could not be recorded."""
        return self._runner is not None and self._runner.recording.is_on

    def _open(self) -> None:
        try:
            self._runner = self._new_runner()
            return
        except MemoryError as err:
            # As text: the error itself would keep alive what was opened so far.
            reason = str(err)
        raise NoMemoryError(self._card.name, reason)

    def _new_runner(self) -> FrameRunner:
        memory = CudaMemory(self._device.is_integrated, self._cuda)
        engines = engines_of(self._bundle, self._settings)
        # Both are loaded before one is opened.
        found = [self._plan(needed) for needed in engines.all]
        runtime = Runtime(self._trt)
        trunk, head = (self._engine(runtime, needed, *one, memory)
                       for needed, one in zip(engines.all, found, strict=True))
        return FrameRunner(self._bundle, self._settings, self._names, trunk, head, memory,
                           engines.chunking.passes, self._has_graphs)

    def _plan(self, needed: NeededEngine) -> tuple[str, bytes]:
        """Return an engine that was built here, or one for all GPUs like this, with its key."""
        keys = [needed.key(self._target)]
        if self._trt.is_rtx:
            keys.append(needed.key_ahead(self._trt, self._device.compute_capability))
        for key in keys:
            plan = self._cache.load(key)
            if plan is not None:
                return key, plan
        raise self._missing(needed)

    def _engine(
        self, runtime: Runtime, needed: NeededEngine, key: str, plan: bytes, memory: CudaMemory
    ) -> Engine:
        engine = runtime.open_plan(plan)
        if engine is None:
            self._cache.discard(key, runtime.messages.reason())
            raise self._missing(needed)
        # Of this machine, also where the engine was built for every GPU of its kind.
        own = needed.key(self._target)
        return Engine(runtime, engine, memory, needed.role,
                      Kernels(self._cache, own) if self._trt.is_rtx else None)

    @property
    def _target(self) -> EngineTarget:
        return EngineTarget.of(self._trt, self._device)

    def _missing(self, needed: NeededEngine) -> EngineMissingError:
        return EngineMissingError(
            f'no engine for {needed.path.name} of {self._card.name!r} in '
            f'{needed.spec.precision}, TensorRT {self.version}, {self.device_name}',
            'one built on this machine',
            f'run uncertainty_seg self-check {self._bundle.folder}, which builds it')

    def _failed(self, err: Exception, passes: int) -> BackendError:
        """Record an error of the device, and return what to raise."""
        says = str(err) if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {err}'
        self._fault, self._retry_s = says, self._clock() + BACK_OFF_S
        self._free()
        return BackendError(f'tensorrt failed on {passes} passes of {self._card.name!r} ({says})')

    def _ready(self) -> FrameRunner:
        """Return what runs frames; after an error, open it again, once and after a delay."""
        if self._fault:
            self._reopen()
        assert self._runner is not None
        return self._runner

    def _reopen(self) -> None:
        if self._is_last_try:
            raise BackendError(f'tensorrt gave up after a second error ({self._fault})',
                               fix='restart the process: an error can spoil all later work on '
                               'the GPU; if it comes back, run uncertainty_seg self-check')
        wait_s = self._retry_s - self._clock()
        if wait_s > 0:
            raise BackendError(f'tensorrt opens again in {wait_s:.1f} s after an error '
                               f'({self._fault})')
        self._is_last_try = True
        _log.warning('opening tensorrt again after an error: %s', self._fault)
        try:
            self._open()
        except Exception as err:  # as in run
            self._fault = f'{self._fault}; opening again: {err}'
            raise BackendError(f'tensorrt cannot be opened again ({self._fault})') from err
        self._fault = ''

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        thread = threading.current_thread().name
        if not self._lock.acquire(blocking=False):
            raise BackendError(f'run from thread {thread!r} while {self._user!r} is in it',
                               'one thread', 'open a backend for each thread')
        try:
            self._user = thread
            if not self._is_open:
                raise BackendError('run of a closed backend', fix='open it again')
            yield
        finally:
            self._lock.release()
            if not self._is_open:
                self._free_if_idle()

    def _free_if_idle(self) -> None:
        """Free everything, unless a frame runs, whose end does it."""
        if self._lock.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._lock.release()

    def _free(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            runner.close()
        except Exception as err:  # after an error of the device, freeing fails as well
            _log.info('freeing TensorRT: %s', err)


# -------------------------------------------------------------------------------------------------
# How T passes become calls of the head, their masks, and their sums.


def split_passes(passes: int, limit: int) -> list[slice]:
    """
    Split T passes into calls of at most `limit` passes.

    All parts have one size, unless T has no divisor between half of `limit` and `limit`: a call of
    another size would have to be recorded again in every frame.

    """
    limit = max(1, min(limit, passes))
    divisors = [n for n in range(limit // 2 + 1, limit + 1) if passes % n == 0]
    size = divisors[-1] if divisors else -(-passes // -(-passes // limit))
    return [slice(first, min(first + size, passes)) for first in range(0, passes, size)]


class MaskBank:
    """
    Buffers for the masks of T passes, which keep their addresses: CUDA graphs hold them.

    Masks are copied when others come. Each part has a buffer for each site, because an engine
    takes aligned addresses only.

    """

    def __init__(self, card: ModelCard, parts: Sequence[slice], memory: CudaMemory) -> None:
        self._parts, self._memory = parts, memory
        self._both = [{site.name: memory.inlet((part.stop - part.start, *site.shape), np.float32)
                       for site in card.dropout_sites} for part in parts]
        self.buffers = [{name: buffer for name, (buffer, _) in both.items()}
                        for both in self._both]
        # Kept, so that no other object can get the same identity.
        self._loaded: Masks | None = None

    def load(self, masks: Masks) -> None:
        """Enqueue the masks' way to the device, unless this same object was loaded last."""
        if masks is self._loaded:
            return
        self._loaded = None
        for part, both in zip(self._parts, self._both, strict=True):
            for name, (buffer, filled) in both.items():
                filled.numpy()[...] = masks[name][part]
                self._memory.copy(buffer, filled)
        self._loaded = masks

    def clear(self) -> None:
        """Release all buffers; nothing can be loaded afterwards."""
        self.buffers, self._both, self._loaded = [], [], None


class HostSums:
    """
    The sums of a frame's calls of the head, added up on the host.

    Those of each call are copied to a place of their own; what they add up to is computed when
    the stream was waited for.

    """

    def __init__(self, shapes: Mapping[str, Shape], memory: CudaMemory) -> None:
        self.shapes, self._memory = shapes, memory
        self._landed: list[dict[str, CudaBuffer]] = []  # for each call of a frame
        self._num_calls = 0

    def reset(self) -> None:
        """Begin a frame."""
        self._num_calls = 0

    def add(self, statistics: Mapping[str, CudaBuffer]) -> None:
        """Enqueue copies of the sums of a call."""
        if self._num_calls == len(self._landed):
            self._landed.append({name: self._memory.host(shape, np.float32)
                                 for name, shape in self.shapes.items()})
        for name, landed in self._landed[self._num_calls].items():
            self._memory.copy(landed, statistics[name])
        self._num_calls += 1

    def totals(self, passes: int) -> PassSums:
        """Return the sums over all passes."""
        sums = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        for landed in self._landed[:self._num_calls]:
            for name, total in sums.items():
                total += landed[name].numpy()
        return PassSums(passes, *(sums[name].astype(np.float32) for name in SUMS))


# -------------------------------------------------------------------------------------------------
# One frame through the two engines.


class FrameRunner:
    """
    Two engines, their buffers, and what has been recorded of them.

    Parameters
    ----------
    bundle, settings, names : ModelBundle, Settings, GraphNames
        What is run, and how.
    trunk, head : Engine
        Opened; `head` is the one with statistics.
    memory : CudaMemory
        Holds all buffers.
    chunk : int
        Passes of a call of the head, at most.
    is_recorded : bool
        Whether to record CUDA graphs.

    Raises
    ------
    ModelBundleError
        If the engines do not fit the card.
    MemoryError
        If there is no room for the buffers.

    """

    def __init__(
        self, bundle: ModelBundle, settings: Settings, names: GraphNames, trunk: Engine,
        head: Engine, memory: CudaMemory, chunk: int, is_recorded: bool,
    ) -> None:
        self._card = card = bundle.card
        self._memory, self._trunk, self._head, self._chunk = memory, trunk, head, chunk
        self.recording = Recording(is_recorded)
        self._sums = HostSums({
            name: card.logits_shape[1:] if name in (SUM_ENTROPY, SUM_P2) else card.logits_shape
            for name in SUMS}, memory)
        self._require_engines(names)
        # The host's buffers are read until the frame was waited for, and not afterwards.
        spec = card.input
        self._image, self._host_image = memory.inlet((1, spec.height, spec.width, 3), np.uint8)
        self._scale, self._host_scale = memory.inlet((1,), np.float32)
        planes = {name: memory.empty(*trunk.outputs[name]) for name in names.trunk_outputs}
        self._features = [(planes[name], memory.host(planes[name].shape, np.float32))
                          for name in names.features]
        self._statistics = {name: memory.empty(*head.outputs[name]) for name in SUMS}
        self._trunk_call = _Call(trunk, {IMAGE: self._image, **planes}, self.recording)
        given = {IMAGE: self._image, INV_TEMPERATURE: self._scale, **planes}
        self._fixed = {**{name: given[name] for name in head.inputs if name in given},
                       **self._statistics}
        self._plans: dict[int, _HeadCalls] = {}
        self.timings_ms: dict[str, float] = {}

    def run(self, image: ImageU8, masks: Masks, passes: int, temperature: float) -> PassSums:
        """Return the sums over the passes of a checked image; see `Runner.run`."""
        memory = self._memory
        memory.activate()
        plan = self._plan(passes)
        marks = [memory.mark()]
        np.copyto(self._host_image.numpy()[0], image)
        self._host_scale.numpy()[0] = 1 / temperature
        memory.copy(self._image, self._host_image)
        memory.copy(self._scale, self._host_scale)
        plan.bank.load(masks)
        self._trunk_call.enqueue()
        marks.append(memory.mark())
        self._sums.reset()
        for call in plan.calls:
            call.enqueue()
            self._sums.add(self._statistics)
        for planes, host in self._features:
            memory.copy(host, planes)
        marks.append(memory.mark())
        memory.wait()
        self.timings_ms = {name: memory.elapsed_ms(marks[i], marks[i + 1])
                           for i, name in enumerate(('trunk', 'passes'))}
        if not plan.has_run:
            plan.has_run = True
            self._trunk.keep_kernels()
            self._head.keep_kernels()
        sums = self._sums.totals(passes)
        for _, host in self._features:
            sums = replace(sums, features=host.numpy().copy())
        return sums

    def forget(self) -> None:
        """Release what belongs to a number of passes, after memory was full."""
        self._settle()
        self._plans = {}

    def close(self) -> None:
        """Release everything: what was recorded, engines, buffers."""
        self._settle()
        for plan in self._plans.values():
            plan.clear()
        self._trunk_call.clear()
        self._head.close()
        self._trunk.close()
        # One by one, because an exception that is kept keeps this object by its traceback.
        for name in ('_image', '_scale', '_host_image', '_host_scale', '_sums'):
            delattr(self, name)
        self._plans, self._statistics, self._fixed, self._features = {}, {}, {}, []

    def _settle(self) -> None:
        """Wait for what was enqueued, which uses the buffers that are about to be freed."""
        with contextlib.suppress(BackendError):
            self._memory.wait()

    def _plan(self, passes: int) -> _HeadCalls:
        """Return the calls for T passes, which replace those for another T."""
        if passes not in self._plans:
            self._plans = {}
            parts = split_passes(passes, self._chunk)
            bank = MaskBank(self._card, parts, self._memory)
            # A context has one shape at a time, and what was recorded holds for that shape.
            sizes = [part.stop - part.start for part in parts]
            is_uniform = len(set(sizes)) == 1
            recording = self.recording if is_uniform else Recording(False)
            calls = [_Call(self._head, {**self._fixed, **buffers}, recording)
                     for buffers in bank.buffers]
            self._plans[passes] = _HeadCalls(bank, calls)
            _log.info('T=%d in calls of %s passes%s', passes, '+'.join(map(str, sizes)),
                      '' if recording.is_on else ', not recorded')
        return self._plans[passes]

    def _require_engines(self, names: GraphNames) -> None:
        sites = {site.name for site in self._card.dropout_sites}
        shapes = self._sums.shapes
        _require_tensors(self._trunk, 'the trunk', {IMAGE}, set(names.trunk_outputs), {}, set())
        _require_tensors(self._head, 'the head', sites, set(shapes), shapes,
                         {IMAGE, INV_TEMPERATURE, *names.frontier})


class _HeadCalls:
    """The calls of the head for T passes, and the masks they read."""

    def __init__(self, bank: MaskBank, calls: list[_Call]) -> None:
        self.bank, self.calls = bank, calls
        self.has_run = False

    def clear(self) -> None:
        for call in self.calls:
            call.clear()
        self.bank.clear()


class _Call:
    """An engine with buffers; recorded when it has run once, if it may be."""

    def __init__(
        self, engine: Engine, buffers: Mapping[str, CudaBuffer], recording: Recording
    ) -> None:
        self._engine, self._buffers, self._recording = engine, buffers, recording
        self._replay: Replay | None = None

    def enqueue(self) -> None:
        if self._replay is not None:
            self._replay()
            return
        self._engine.bind(self._buffers)
        self._engine.enqueue()
        if self._recording.is_on:
            # An error of this run belongs to the frame and not to the recording.
            self._engine.wait()
            try:
                self._replay = self._engine.capture()
            except Exception as err:  # TensorRT's errors derive from nothing narrower
                self._recording.is_on = False
                _log.warning('no CUDA graphs, which only costs time: %s', err)

    def clear(self) -> None:
        self._buffers, self._replay = {}, None


@dataclass
class Recording:
    """Whether calls are recorded as CUDA graphs; not any more once one could not be."""

    is_on: bool


def _require_tensors(
    engine: Engine, role: str, inputs: set[str], outputs: set[str], shapes: Mapping[str, Shape],
    known: set[str],
) -> None:
    """
    Refuse an engine that does not fit the card, with ModelBundleError.

    It must take `inputs` and may take `known`, must give `outputs`, and of these those in `shapes`
    as float32 of that shape.

    """
    fix = 'compile the bundle and build its engines again'
    taken, given = set(engine.inputs), set(engine.outputs)
    if not inputs <= taken <= inputs | known or given != outputs:
        raise ModelBundleError(f'the engine of {role} takes {sorted(taken)}, gives '
                               f'{sorted(given)}', f'{sorted(inputs)}, {sorted(outputs)}', fix)
    for name, shape in shapes.items():
        if engine.outputs[name] != (shape, np.dtype(np.float32)):
            raise ModelBundleError(f'the engine of {role} gives {name!r} as '
                                   f'{engine.outputs[name]}', f'float32 {shape}', fix)


class Engine:
    """
    An engine and its one context, on the stream of a memory.

    Raises MemoryError if there is no room for the context's own buffers. `role` is for messages;
    `kernels` is where TensorRT-RTX finds those it has compiled.

    """

    def __init__(
        self, runtime: Runtime, engine: tensorrt.ICudaEngine, memory: CudaMemory, role: str,
        kernels: Kernels | None = None,
    ) -> None:
        self._runtime, self._memory, self._role = runtime, memory, role
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _tensors(runtime.trt, engine)
        self._kernels = kernels
        self._opened = self._new_context(engine)
        if self._opened is None:
            raise MemoryError(f'no context for {role}: {runtime.messages.reason()}')
        self._bound: dict[str, CudaBuffer] = {}
        self._shapes: dict[str, Shape] = {}
        self._scratch: CudaBuffer | None = None
        self._has_scratch = False  # for these shapes

    def bind(self, buffers: Mapping[str, CudaBuffer]) -> None:
        """
        Set where the engine reads and writes.

        Each buffer is kept until another is bound in its place, because the engine knows its
        address only.

        """
        for name, buffer in buffers.items():
            if self._bound.get(name) is not buffer:
                self._bind(name, buffer)
        unbound = {*self.inputs, *self.outputs} - set(self._bound)
        if unbound:
            raise BackendError(f'{self._role} has no buffer for {sorted(unbound)}')
        unknown = self._context.infer_shapes()
        if unknown:
            raise BackendError(f'{self._role} does not know the shapes of {sorted(unknown)}')
        if self._kernels is not None and not self._has_scratch:
            self._give_scratch()

    def enqueue(self) -> None:
        """Enqueue on the memory's stream."""
        is_done = self._context.execute_async_v3(stream_handle=self._memory.stream)
        self._require(is_done, 'refused to run')

    def wait(self) -> None:
        """Wait for everything that was enqueued; errors of the device are raised here."""
        self._memory.wait()

    def capture(self) -> Replay:
        """Record `enqueue` as a CUDA graph; it must have run once with the same buffers."""
        is_capturable = getattr(self._context, 'is_stream_capturable', None)  # TensorRT-RTX only
        if is_capturable is not None and not is_capturable(self._memory.stream):
            raise BackendError(f'{self._role} cannot be recorded on a stream')
        return self._memory.capture(self.enqueue)

    def close(self) -> None:
        """Release context and engine, in this order."""
        self._opened = None
        self._engine = None
        self._bound, self._scratch = {}, None
        if self._kernels is not None:
            self._kernels.clear()

    def keep_kernels(self) -> None:
        """Write what was compiled so far to the cache, if it is more than was found there."""
        if self._kernels is not None:
            self._kernels.store()

    def _new_context(self, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
        """Return a context; TensorRT-RTX compiles at once, allocates nothing, finds kernels."""
        if self._kernels is None:
            return engine.create_execution_context()
        module = self._runtime.trt.module
        config = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER)
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._kernels.give(config, self._role)
        return engine.create_execution_context(config)

    def _give_scratch(self) -> None:
        """Give the context the memory that it works in, for the shapes of now."""
        assert self._engine is not None, 'scratch of a closed engine'
        # The first is 0 where it fails; the second suffices for all shapes.
        size = (self._context.update_device_memory_size_for_shapes()
                or self._engine.device_memory_size_v2)
        if self._scratch is None or self._scratch.nbytes < size:
            self._scratch = None  # before as much again is asked for
            self._scratch = self._memory.empty((max(size, 1),), np.uint8)
        self._context.set_device_memory(self._scratch.address, size)
        self._has_scratch = True

    @property
    def _context(self) -> tensorrt.IExecutionContext:
        if self._opened is None:
            raise BackendError(f'{self._role} is closed')
        return self._opened

    def _bind(self, name: str, buffer: CudaBuffer) -> None:
        if name not in self.inputs and name not in self.outputs:
            raise BackendError(f'{self._role} has no tensor {name!r}')
        self._require_fit(name, buffer)
        if name in self.inputs and self._shapes.get(name) != buffer.shape:
            is_set = self._context.set_input_shape(name, buffer.shape)
            self._require(is_set, f'takes no {name} of shape {buffer.shape}')
            self._shapes[name] = buffer.shape
            self._has_scratch = False
        is_set = self._context.set_tensor_address(name, buffer.address)
        self._require(is_set, f'takes no address for {name}')
        self._bound[name] = buffer

    def _require_fit(self, name: str, buffer: CudaBuffer) -> None:
        wanted, dtype = {**self.inputs, **self.outputs}[name]
        is_shape = len(buffer.shape) == len(wanted) and all(
            n in (-1, m) for n, m in zip(wanted, buffer.shape, strict=True))
        if not is_shape or buffer.dtype != dtype:
            raise BackendError(f'{self._role}: buffer {name} is {buffer.dtype} {buffer.shape}',
                               f'{dtype} {wanted}')
        if buffer.address % ALIGNMENT:
            raise BackendError(f'{self._role}: buffer {name} is cut out of another', 'its own')

    def _require(self, is_done: bool, what: str) -> None:
        if is_done:
            return
        reason = self._runtime.messages.reason()
        if says_full(reason):
            raise MemoryError(f'{self._role} {what}: {reason}')
        raise BackendError(f'{self._role} {what} ({reason})')


class Kernels:
    """The kernels that TensorRT-RTX compiled for one engine, and their place in the cache."""

    def __init__(self, cache: EngineCache, key: str) -> None:
        self._cache, self._key = cache, key
        self._held: tensorrt.IRuntimeCache | None = None
        self._config: tensorrt.IRuntimeConfig | None = None  # kept as long as the context
        self._stored = b''

    def give(self, config: tensorrt.IRuntimeConfig, role: str) -> None:
        """Let a context take kernels from the cache, and collect what it compiles."""
        held = config.create_runtime_cache()
        if held is None:
            _log.warning('TensorRT-RTX keeps no kernels of %s: each start compiles them', role)
            return
        found = self._found()
        if found and held.deserialize(found):
            self._stored = found
        elif found:
            _log.warning('compiled kernels of %s do not fit this GPU and driver and are ignored: '
                         '%s', role, self._cache.kernels_path(self._key))
        if config.set_runtime_cache(held):
            self._held, self._config = held, config

    def store(self) -> None:
        """Write what was compiled, if it is not what was found; a full disk only costs time."""
        kernels = b'' if self._held is None else bytes(self._held.serialize())
        if not kernels or kernels == self._stored:
            return
        try:
            self._cache.store_kernels(self._key, kernels)
        except BackendError as err:
            _log.warning('compiled kernels are not kept, each start compiles them: %s', err)
        self._stored = kernels

    def clear(self) -> None:
        """Release what TensorRT holds."""
        self._held = self._config = None

    def _found(self) -> bytes:
        try:
            return self._cache.load_kernels(self._key)
        except BackendError as err:
            _log.warning('compiled kernels cannot be read and are compiled again: %s', err)
            return b''


def _tensors(
    trt: TensorRt, engine: tensorrt.ICudaEngine
) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """Return shape and dtype of every input and output; -1 for an axis of any length."""
    inputs: dict[str, Spec] = {}
    outputs: dict[str, Spec] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.module.TensorIOMode.INPUT
        spec = (tuple(engine.get_tensor_shape(name)),
                trt.numpy_dtype(engine.get_tensor_dtype(name)))
        (inputs if is_input else outputs)[name] = spec
    return inputs, outputs


class Runtime:
    """TensorRT's runtime with its logger."""

    def __init__(self, trt: TensorRt) -> None:
        self.trt, self.messages = trt, Messages()
        self._logger = trt.logger(self.messages)
        # TensorRT may give None for whatever it makes, which its own signatures do not say.
        self._runtime: tensorrt.Runtime | None = trt.module.Runtime(self._logger)
        if self._runtime is None:
            raise BackendError(f'TensorRT {trt.version} does not start ({self.messages.reason()})')

    def open_plan(self, plan: bytes) -> tensorrt.ICudaEngine | None:
        """Return the engine of a plan, or None if this TensorRT and GPU cannot use it."""
        assert self._runtime is not None
        return self._runtime.deserialize_cuda_engine(plan)
