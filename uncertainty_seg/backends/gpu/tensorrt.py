# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
TensorRT on an NVIDIA GPU, from 10.3 on, and TensorRT-RTX.

The trunk runs once; the passes run in calls of some of them, each of which gives their sums, and
the host adds these up. No engine is built here: both are taken from the cache.

What is enqueued the same way in every frame is recorded as CUDA graphs when the backend is opened,
and enqueued where that does not work. What TensorRT recorded of an execution context is undefined
when the context changes afterwards: here a context keeps its shapes and addresses to its end, and
calls of another size have another context.

TensorRT-RTX compiles kernels when shapes first come. By default it does so in the background and
runs slower ones meanwhile, which a graph would then keep for good: here they are compiled at once.
Its contexts get their working memory from outside, because a graph cannot allocate.

TensorRT reports by False or None that something did not work, and continues with what it has: here
each of these is an exception with what TensorRT logged.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import logging
import threading
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.check_record import require_not_failed, SelfCheckKey
from uncertainty_seg.backends.gpu.engine_build import (
    Calls,
    engines_of,
    NeededEngine,
    split_passes,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.nvidia import (
    CudaBuffer,
    CudaDevice,
    CudaMemory,
    find_device,
    load_tensorrt,
    Replay,
    says_full,
    Shape,
    TensorRt,
)
from uncertainty_seg.backends.runner import (
    added_sums,
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
    UncertaintySegError,
)

if TYPE_CHECKING:
    import tensorrt

Spec: TypeAlias = 'tuple[Shape, np.dtype[Any]]'
Copy: TypeAlias = tuple[CudaBuffer, CudaBuffer]  # to, from

CLOSE_TIMEOUT_S = 0.5
_BUILD = 'compile the bundle and build its engines again'
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

    The settings give passes, memory budget and precision; TensorRT, CUDA, device and cache are
    what is installed, the first GPU and this user's. With `is_recorded`, what is enqueued in every
    frame is recorded as CUDA graphs. A second thread in `run` waits for the first, because a
    context that two threads use computes wrong results. After an error of the device everything is
    opened again, once; after the next error the backend stays closed.

    Raises EngineMissingError if an engine was not built yet, or cannot be used any more;
    BackendUnavailableError if there is no GPU, TensorRT or cuda-python, or the bundle or its
    precision cannot be run, or failed its self-check here; ConfigError if the graphs cannot be
    computed in the precision of the settings; ModelBundleError if a graph does not fit the card;
    BackendError if the GPU has no memory for the engines, or an engine does not fit the card.
    """

    name = 'tensorrt'

    def __init__(
        self, bundle: ModelBundle, settings: Settings, trt: TensorRt | None = None,
        cuda: Any = None, device: CudaDevice | None = None, cache: EngineCache | None = None,
        is_recorded: bool = True,
    ) -> None:
        self._bundle, self._card, self._settings = bundle, bundle.card, settings
        self.precision = precision_of(bundle.card, settings.precision)
        self._device = device or find_device()  # before TensorRT is touched
        self._trt, self._cuda = trt or load_tensorrt(), cuda
        self._cache = cache or EngineCache()
        require_not_failed(SelfCheckKey.of(self._card, self.name, self.version, self.precision,
                                           self.device_name), self._cache.folder)
        self._names = require_graphs(bundle)
        self._has_graphs = is_recorded
        self._lock = threading.Lock()
        self._fault, self._is_last_try = '', False
        self._runner: FrameRunner | None = None
        self._is_open = True
        self._open()
        _log.info('TensorRT %s on %s, %s', self.version, self.device_name, self.precision)

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """Return the sums over the passes of one image; see `Runner.run`; one thread at a time."""
        with self._lock:
            if not self._is_open:
                raise BackendError('run of a closed backend', fix='open it again')
            passes = require_inputs(self._card, image, masks)
            try:
                return self._run(image, masks, passes, temperature)
            finally:
                if not self._is_open:  # closed meanwhile
                    self._free()

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run; see `Runner.timings_ms`."""
        return self._timings_ms

    def close(self) -> None:
        """Free engines and buffers, now or when the running frame ends; may be called twice."""
        self._is_open = False
        # A frame that has passed its last look at the line above is waited for.
        if self._lock.acquire(timeout=CLOSE_TIMEOUT_S):
            try:
                self._free()
            finally:
                self._lock.release()

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
        return self._runner is not None and self._runner.is_recorded

    def _run(self, image: ImageU8, masks: Masks, passes: int, temperature: float) -> PassSums:
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

    def _open(self) -> None:
        try:
            self._runner = self._new_runner()
            return
        except MemoryError as err:
            # As text: the error itself would keep alive what was opened so far.
            reason = str(err)
        except UncertaintySegError:
            raise
        except Exception as err:  # as in run
            raise BackendError(f'tensorrt does not open {self._card.name!r} '
                               f'({type(err).__name__}: {err})') from err
        raise NoMemoryError(self._card.name, reason)

    def _new_runner(self) -> FrameRunner:
        memory = CudaMemory(self._device.is_integrated, self._cuda)
        target = EngineTarget.of(self._trt, self._device)
        engines = engines_of(self._bundle, self._settings, self._trt, target)
        with self._cache.reading():  # both, before one is opened
            found = [self._plan(needed) for needed in engines.all]
        runtime = Runtime(self._trt)
        trunk, passes = (self._engine(runtime, needed, *one, memory)
                         for needed, one in zip(engines.all, found, strict=True))
        return FrameRunner(self._card, self._names, trunk, passes, memory, engines.calls,
                           self._has_graphs)

    def _plan(self, needed: NeededEngine) -> tuple[str, bytes]:
        """Return an engine that was built here, or one for all GPUs like this, with its name."""
        keys = [needed.key]
        if self._trt.is_rtx:
            ahead = EngineTarget.ahead(self._trt, self._device.compute_capability)
            keys.append(dataclasses.replace(needed.key, **dataclasses.asdict(ahead)))
        for key in keys:
            plan = self._cache.load(key.digest)
            if plan is not None:
                return key.digest, plan
        raise self._missing(needed)

    def _engine(
        self, runtime: Runtime, needed: NeededEngine, name: str, plan: bytes, memory: CudaMemory
    ) -> Engine:
        engine = runtime.open_plan(plan)
        if engine is None:
            self._cache.discard(name, runtime.logger.reason())
            raise self._missing(needed)
        return Engine(runtime, engine, memory, needed.role)

    def _missing(self, needed: NeededEngine) -> EngineMissingError:
        return EngineMissingError(
            f'no engine for {needed.name} of {self._card.name!r} in '
            f'{needed.key.precision}, TensorRT {self.version}, {self.device_name}',
            'one built on this machine',
            f'run uncertainty_seg self-check {self._bundle.folder}, which builds it')

    def _failed(self, err: Exception, passes: int) -> BackendError:
        """Record an error of the device, and return what to raise."""
        says = str(err) if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {err}'
        self._fault = says
        self._free()
        return BackendError(f'tensorrt failed on {passes} passes of {self._card.name!r} ({says})')

    def _ready(self) -> FrameRunner:
        """Return what runs frames; after an error of the device, open it again, once."""
        if self._fault and self._is_last_try:
            raise BackendError(f'tensorrt gave up after a second error ({self._fault})',
                               fix='restart the process: an error can spoil all later work on '
                               'the GPU; if it comes back, run uncertainty_seg self-check')
        if self._fault:
            self._is_last_try = True
            _log.warning('opening tensorrt again after an error: %s', self._fault)
            try:
                self._open()
            except Exception as err:  # as in run
                self._fault = f'{self._fault}; opening again: {err}'
                raise BackendError(f'tensorrt cannot be opened again ({self._fault})') from err
            self._fault = ''
        assert self._runner is not None
        return self._runner

    def _free(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            runner.close()
        except Exception as err:  # after an error of the device, freeing fails as well
            _log.info('freeing TensorRT: %s', err)


# -------------------------------------------------------------------------------------------------
# One frame through the two engines.


class FrameRunner:
    """
    Two opened engines on a memory, their buffers, and what has been recorded of them.

    `calls` says which passes each call of a usual frame takes. Raises BackendError if the engines
    do not fit the card, MemoryError if there is no room for the buffers.

    No memory grows with the passes of a frame: masks are sent for one call after the other. Those
    of a frame of one call stay where they are as long as they are the same object.

    """

    def __init__(
        self, card: ModelCard, names: GraphNames, trunk: Engine, passes: Engine,
        memory: CudaMemory, calls: Calls, is_recorded: bool,
    ) -> None:
        self._memory, self._trunk, self._passes, self._most = memory, trunk, passes, calls[0].stop
        spec = card.input
        self._image = memory.inlet((1, spec.height, spec.width, 3), np.uint8)
        self._scale = memory.inlet((1,), np.float32)
        self._masks = {site.name: memory.inlet((self._most, *site.shape), np.float32)
                       for site in card.dropout_sites}
        self._loaded: tuple[Masks, slice] | None = None  # kept, so that no other gets its identity
        planes = {name: memory.empty(*trunk.outputs[name]) for name in names.trunk_outputs
                  if name in trunk.outputs}
        sums = {name: memory.empty(
            card.logits_shape[1:] if name in (SUM_ENTROPY, SUM_P2) else card.logits_shape,
            np.float32) for name in SUMS}
        self._features = self._landing({name: planes[name] for name in names.features})
        self._sums = self._landing(sums)
        given = {IMAGE: self._image.buffer, INV_TEMPERATURE: self._scale.buffer, **planes}
        self._fixed = {**{name: given[name] for name in passes.inputs if name in given}, **sums}
        self._trunk_call = trunk.context({IMAGE: self._image.buffer, **planes},
                                         self._features.values())
        self._calls = {size: self._new_call(size) for size in _sizes(calls)}
        self._others: dict[int, EngineCall] = {}
        self._marks = [memory.event() for _ in range(3)]
        self.timings_ms: dict[str, float] = {}
        self._warm_up()
        self.is_recorded = is_recorded and self._record()

    def run(self, image: ImageU8, masks: Masks, passes: int, temperature: float) -> PassSums:
        """Return the sums over the passes of a checked image; see `Runner.run`."""
        memory, (begin, middle, end) = self._memory, self._marks
        memory.activate()
        calls = split_passes(passes, self._most)
        contexts = self._contexts_for(calls)
        memory.mark(begin)
        self._image.fill(image[None])
        self._scale.fill(np.array([1 / temperature], np.float32))
        self._trunk_call.enqueue()
        memory.mark(middle)
        sums = added_sums((self._sums_of(masks, call, contexts) for call in calls), passes,
                          temperature)
        self.timings_ms = {'trunk': memory.elapsed_ms(begin, middle),
                           'passes': memory.elapsed_ms(middle, end)}
        for landed, _ in self._features.values():
            sums = dataclasses.replace(sums, features=landed.numpy().copy())
        return sums

    def forget(self) -> None:
        """Release what an unusual number of passes needed, after memory was full."""
        self._settle()
        self._others = {}

    def close(self) -> None:
        """Release everything: what was recorded, contexts, engines, buffers."""
        self._settle()
        for context in (*self._usual, *self._others.values()):
            context.close()
        self._passes.close()
        self._trunk.close()
        vars(self).clear()  # an exception that is kept keeps this object by its traceback

    def _warm_up(self) -> None:
        """Run once on nothing, so that no frame waits for what is done once."""
        for inlet in (self._image, self._scale, *self._masks.values()):
            inlet.fill(np.zeros(inlet.buffer.shape, inlet.buffer.dtype))
        for context in self._usual:
            context.enqueue()
        self._memory.wait()

    @property
    def _usual(self) -> list[EngineCall]:
        return [self._trunk_call, *self._calls.values()]

    def _record(self) -> bool:
        """Record CUDA graphs; what cannot be recorded is enqueued, with a warning."""
        try:
            for context in self._usual:
                context.record()
        except Exception as err:  # TensorRT's errors derive from nothing narrower
            _log.warning('running without CUDA graphs, which only costs time: %s', err)
            return False
        return True

    def _contexts_for(self, calls: Calls) -> Mapping[int, EngineCall]:
        """Return a context for each size of call; those of earlier frames that are unused go."""
        unusual = _sizes(calls) - set(self._calls)
        self._others = {size: one for size, one in self._others.items() if size in unusual}
        for size in unusual - set(self._others):
            _log.info('calls of %d passes run without a CUDA graph', size)
            self._others[size] = self._new_call(size)
        return {**self._calls, **self._others}

    def _new_call(self, size: int) -> EngineCall:
        masks = {name: inlet.buffer for name, inlet in self._masks.items()}
        return self._passes.context({**self._fixed, **masks}, self._sums.values(), size)

    def _sums_of(
        self, masks: Masks, call: slice, contexts: Mapping[int, EngineCall]
    ) -> dict[str, NDArray[np.float32]]:
        """Run some passes to their end, and return their sums in new arrays."""
        self._load(masks, call)
        contexts[call.stop - call.start].enqueue()
        self._memory.mark(self._marks[-1])
        self._memory.wait()
        return {name: landed.numpy().copy() for name, (landed, _) in self._sums.items()}

    def _load(self, masks: Masks, call: slice) -> None:
        """Enqueue the masks' way to the device, unless this same object was loaded last."""
        if self._loaded is not None and self._loaded[0] is masks and self._loaded[1] == call:
            return
        self._loaded = None
        for name, inlet in self._masks.items():
            inlet.fill(masks[name][call])
        self._loaded = masks, call

    def _landing(self, buffers: Mapping[str, CudaBuffer]) -> dict[str, Copy]:
        """Allocate where the host reads what engines wrote."""
        return {name: (self._memory.host(buffer.shape, buffer.dtype), buffer)
                for name, buffer in buffers.items()}

    def _settle(self) -> None:
        """Wait for what was enqueued, which uses the buffers that are about to be freed."""
        with contextlib.suppress(BackendError):
            self._memory.wait()


def _sizes(calls: Calls) -> set[int]:
    return {call.stop - call.start for call in calls}


class Engine:
    """
    An opened engine, of which execution contexts are made, on the stream of a memory.

    `role` is for messages.

    """

    def __init__(
        self, runtime: Runtime, engine: tensorrt.ICudaEngine, memory: CudaMemory, role: str
    ) -> None:
        self.runtime, self.memory, self.role = runtime, memory, role
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _tensors(runtime.trt, engine)
        # Of every context: of TensorRT-RTX alone.
        self._config = self._new_config(engine) if runtime.trt.is_rtx else None

    def context(
        self, buffers: Mapping[str, CudaBuffer], copies: Iterable[Copy], passes: int = 0
    ) -> EngineCall:
        """
        Return a new context for a number of passes, each buffer having room for as many.

        Raises MemoryError if there is no room for what the context works in.

        """
        if self._engine is None:
            raise BackendError(f'{self.role} is closed')
        opened = self._engine.create_execution_context(
            *(() if self._config is None else (self._config,)))
        if opened is None:
            raise MemoryError(f'no context for {self.role}: {self.runtime.logger.reason()}')
        context = EngineCall(self, opened, buffers, copies, passes)
        if self._config is not None:
            # The first is 0 where it fails; the second suffices for all shapes.
            context.give_memory(opened.update_device_memory_size_for_shapes()
                                or self._engine.device_memory_size_v2)
        return context

    def close(self) -> None:
        """Release the engine; its contexts were closed before."""
        self._engine = self._config = None

    def require(self, is_done: bool, what: str) -> None:
        """Raise what TensorRT said when it did not do something."""
        if is_done:
            return
        reason = self.runtime.logger.reason()
        if says_full(reason):
            raise MemoryError(f'{self.role} {what}: {reason}')
        raise BackendError(f'{self.role} {what} ({reason})')

    def _new_config(self, engine: tensorrt.ICudaEngine) -> tensorrt.IRuntimeConfig:
        """Return how contexts of TensorRT-RTX work: kernels at once, memory from outside."""
        module, config = self.runtime.trt.module, engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER)
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED)
        return config


class EngineCall:
    """
    An execution context and the copies after it; replayed once they were recorded.

    Shapes and addresses are set once, when `Engine.context` makes it.

    """

    def __init__(
        self, engine: Engine, opened: tensorrt.IExecutionContext,
        buffers: Mapping[str, CudaBuffer], copies: Iterable[Copy], passes: int,
    ) -> None:
        self._engine, self._memory, self._passes = engine, engine.memory, passes
        self._opened: tensorrt.IExecutionContext | None = opened
        self._buffers = dict(buffers)  # kept: TensorRT knows their addresses only
        self._copies = tuple(copies)
        self._scratch: CudaBuffer | None = None
        self._replay: Replay | None = None
        tensors = {**engine.inputs, **engine.outputs}
        if set(buffers) != set(tensors):
            raise BackendError(f'the engine of {engine.role} has {sorted(tensors)}',
                               f'{sorted(buffers)} as the card says', _BUILD)
        for name, buffer in buffers.items():
            self._bind(opened, name, buffer, *tensors[name])
        unknown = opened.infer_shapes()
        engine.require(not unknown, f'does not know the shapes of {sorted(unknown)}')

    def give_memory(self, size: int) -> None:
        """Give it the memory that it works in, where it allocates none."""
        self._scratch = self._memory.empty((max(size, 1),), np.uint8)
        self._context.set_device_memory(self._scratch.address, size)

    def enqueue(self) -> None:
        """Enqueue on the memory's stream."""
        (self._replay or self._enqueue)()

    def record(self) -> None:
        """Record what is enqueued as a CUDA graph; it must have run once."""
        is_capturable = getattr(self._context, 'is_stream_capturable', None)  # TensorRT-RTX only
        if is_capturable is not None and not is_capturable(self._memory.stream):
            raise BackendError(f'{self._engine.role} cannot be recorded on a stream')
        self._replay = self._memory.capture(self._enqueue)

    def close(self) -> None:
        """Release the context, what was recorded of it, and its hold on buffers."""
        self._replay = self._opened = self._scratch = None
        self._buffers, self._copies = {}, ()

    def _enqueue(self) -> None:
        is_done = self._context.execute_async_v3(stream_handle=self._memory.stream)
        self._engine.require(is_done, 'refused to run')
        for target, source in self._copies:
            self._memory.copy(target, source)

    @property
    def _context(self) -> tensorrt.IExecutionContext:
        if self._opened is None:
            raise BackendError(f'{self._engine.role} is closed')
        return self._opened

    def _bind(
        self, opened: tensorrt.IExecutionContext, name: str, buffer: CudaBuffer, shape: Shape,
        dtype: np.dtype[Any],
    ) -> None:
        engine = self._engine
        is_open = -1 in shape  # in its first axis, the passes
        if buffer.shape[is_open:] != shape[is_open:] or buffer.dtype != dtype \
                or (is_open and buffer.shape[0] < self._passes):
            raise BackendError(
                f'the engine of {engine.role} has {name} as {dtype} {shape}',
                f'{buffer.dtype} {buffer.shape} for {self._passes} passes', _BUILD)
        if name in engine.inputs:
            wanted = (self._passes, *shape[1:]) if is_open else shape
            engine.require(opened.set_input_shape(name, wanted), f'takes no {name} of {wanted}')
        engine.require(opened.set_tensor_address(name, buffer.address),
                       f'takes no address for {name}')


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
                np.dtype(trt.module.nptype(engine.get_tensor_dtype(name))))
        (inputs if is_input else outputs)[name] = spec
    return inputs, outputs


class Runtime:
    """TensorRT's runtime with its logger."""

    def __init__(self, trt: TensorRt) -> None:
        self.trt, self.logger = trt, trt.logger()
        # TensorRT may give None for whatever it makes, which its own signatures do not say.
        self._runtime: tensorrt.Runtime | None = trt.module.Runtime(self.logger)
        if self._runtime is None:
            raise BackendError(f'TensorRT {trt.version} does not start ({self.logger.reason()})')

    def open_plan(self, plan: bytes) -> tensorrt.ICudaEngine | None:
        """Return the engine of a plan, or None if this TensorRT and GPU cannot use it."""
        assert self._runtime is not None
        return self._runtime.deserialize_cuda_engine(plan)
