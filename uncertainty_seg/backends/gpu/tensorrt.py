# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
TensorRT, 10.3 or newer, and TensorRT-RTX on an NVIDIA GPU.

The trunk runs once. The passes run in calls of several passes; each call returns their sums, and
the host adds these. No engine is built here: both are loaded from the cache.

Work that is the same in every frame is recorded as CUDA graphs when the backend is opened; if
recording fails, it is enqueued in every frame. A recorded execution context must not change
afterwards, or the replay is undefined. So a context keeps its shapes and addresses for its
lifetime, and calls of another size use another context.

TensorRT-RTX compiles kernels for a shape when it first occurs. By default it does so in the
background and runs slower kernels meanwhile, which a CUDA graph would then keep; here kernels are
compiled immediately. Its contexts get their working memory from outside, because a CUDA graph
cannot allocate.

TensorRT reports failures by False or None and continues; here each of these raises an exception
with the errors that TensorRT logged.
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
    """Raised if the GPU's memory is full; engines and device remain usable."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f'the GPU has no memory for {name!r} ({reason})', fix='free memory, or set '
            'memory_budget_mb lower and build its engines again: run uncertainty_seg self-check')


class TensorRtBackend(Runner):
    """
    Run a bundle with TensorRT.

    The settings give passes, memory budget and precision. TensorRT, CUDA, device and cache default
    to those installed, the first GPU and this user's cache. With `is_recorded`, the work of a
    frame is recorded as CUDA graphs. A second thread in `run` waits for the first, because a
    context used by two threads computes wrong results. After an error of the device everything is
    reopened, once; after the next error the backend stays closed.

    Raises EngineMissingError if an engine was not built yet, or is no longer usable;
    BackendUnavailableError if there is no GPU, TensorRT or cuda-python, or the bundle or its
    precision cannot be run, or failed its self-check on this machine; ConfigError if the graphs
    cannot be computed in the precision of the settings; ModelBundleError if a graph does not fit
    the card; BackendError if the GPU has no memory for the engines, or an engine does not fit the
    card.
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
                if not self._is_open:  # closed while this frame ran
                    self._free()

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run; see `Runner.timings_ms`."""
        return self._timings_ms

    def close(self) -> None:
        """Free engines and buffers, now or when the running frame ends; may be called twice."""
        self._is_open = False
        # A frame whose last check of `_is_open` came before the line above frees nothing.
        if self._lock.acquire(timeout=CLOSE_TIMEOUT_S):
            try:
                self._free()
            finally:
                self._lock.release()

    @property
    def version(self) -> str:
        """Version of TensorRT."""
        return self._trt.version

    @property
    def device_name(self) -> str:
        """Name of the GPU."""
        return self._device.name

    @property
    def is_recorded(self) -> bool:
        """Whether CUDA graphs are in use; False if one could not be recorded."""
        return self._runner is not None and self._runner.is_recorded

    def _run(self, image: ImageU8, masks: Masks, passes: int, temperature: float) -> PassSums:
        runner = self._ready()
        try:
            sums = runner.run(image, masks, passes, temperature)
        except MemoryError as err:  # the device itself still works
            runner.forget()
            raise NoMemoryError(self._card.name, err) from err
        except Exception as err:  # TensorRT's errors have no narrower base class
            raise self._failed(err, passes) from err
        self._timings_ms = runner.timings_ms
        return sums

    def _open(self) -> None:
        try:
            self._runner = self._new_runner()
            return
        except MemoryError as err:
            # As text, because the exception would keep everything opened so far alive.
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
        with self._cache.reading():  # load both plans before opening one
            found = [self._plan(needed) for needed in engines.all]
        runtime = Runtime(self._trt)
        trunk, passes = (self._engine(runtime, needed, *one, memory)
                         for needed, one in zip(engines.all, found, strict=True))
        return FrameRunner(self._card, self._names, trunk, passes, memory, engines.calls,
                           self._has_graphs)

    def _plan(self, needed: NeededEngine) -> tuple[str, bytes]:
        """Return name and plan of an engine for this GPU, or for its compute capability."""
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
        """Record an error of the device, free everything, and return the error to raise."""
        says = str(err) if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {err}'
        self._fault = says
        self._free()
        return BackendError(f'tensorrt failed on {passes} passes of {self._card.name!r} ({says})')

    def _ready(self) -> FrameRunner:
        """Return the runner of frames; after an error of the device, reopen it once."""
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
        except Exception as err:  # after an error of the device, freeing fails too
            _log.info('freeing TensorRT: %s', err)


# -------------------------------------------------------------------------------------------------
# One frame through the two engines.


class FrameRunner:
    """
    Two opened engines with their buffers and recorded CUDA graphs.

    `calls` holds the passes of each call of a usual frame. Raises BackendError if the engines do
    not fit the card, MemoryError if there is no room for the buffers.

    Memory does not grow with the passes of a frame, since masks are sent call by call. If a frame
    has only one call, its masks stay on the device as long as the same object is passed.
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
        self._loaded: tuple[Masks, slice] | None = None  # holding it prevents reuse of its id
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
        """Release the contexts of unusual numbers of passes, after memory was full."""
        self._settle()
        self._others = {}

    def close(self) -> None:
        """Release recorded graphs, contexts, engines and buffers."""
        self._settle()
        for context in (*self._usual, *self._others.values()):
            context.close()
        self._passes.close()
        self._trunk.close()
        vars(self).clear()  # the traceback of a stored exception may keep this object alive

    def _warm_up(self) -> None:
        """Run once on zeros, so that no frame waits for one-time work."""
        for inlet in (self._image, self._scale, *self._masks.values()):
            inlet.fill(np.zeros(inlet.buffer.shape, inlet.buffer.dtype))
        for context in self._usual:
            context.enqueue()
        self._memory.wait()

    @property
    def _usual(self) -> list[EngineCall]:
        return [self._trunk_call, *self._calls.values()]

    def _record(self) -> bool:
        """Record CUDA graphs; return False, with a warning, if that fails."""
        try:
            for context in self._usual:
                context.record()
        except Exception as err:  # TensorRT's errors have no narrower base class
            _log.warning('running without CUDA graphs, which only costs time: %s', err)
            return False
        return True

    def _contexts_for(self, calls: Calls) -> Mapping[int, EngineCall]:
        """Return a context for each size of call; drop unusual sizes that are no longer used."""
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
        """Run the passes of one call, wait, and return their sums in new arrays."""
        self._load(masks, call)
        contexts[call.stop - call.start].enqueue()
        self._memory.mark(self._marks[-1])
        self._memory.wait()
        return {name: landed.numpy().copy() for name, (landed, _) in self._sums.items()}

    def _load(self, masks: Masks, call: slice) -> None:
        """Enqueue the copy of the masks to the device, unless the same object was loaded last."""
        if self._loaded is not None and self._loaded[0] is masks and self._loaded[1] == call:
            return
        self._loaded = None
        for name, inlet in self._masks.items():
            inlet.fill(masks[name][call])
        self._loaded = masks, call

    def _landing(self, buffers: Mapping[str, CudaBuffer]) -> dict[str, Copy]:
        """Allocate host buffers for results; return each with its device buffer."""
        return {name: (self._memory.host(buffer.shape, buffer.dtype), buffer)
                for name, buffer in buffers.items()}

    def _settle(self) -> None:
        """Wait for enqueued work, which uses the buffers that are about to be freed."""
        with contextlib.suppress(BackendError):
            self._memory.wait()


def _sizes(calls: Calls) -> set[int]:
    return {call.stop - call.start for call in calls}


class Engine:
    """An opened engine, `role` in messages; its contexts run on the stream of `memory`."""

    def __init__(
        self, runtime: Runtime, engine: tensorrt.ICudaEngine, memory: CudaMemory, role: str
    ) -> None:
        self.runtime, self.memory, self.role = runtime, memory, role
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _tensors(runtime.trt, engine)
        # Configuration of every context, only for TensorRT-RTX.
        self._config = self._new_config(engine) if runtime.trt.is_rtx else None

    def context(
        self, buffers: Mapping[str, CudaBuffer], copies: Iterable[Copy], passes: int = 0
    ) -> EngineCall:
        """
        Return a new context for `passes` passes, for which each buffer must have room.

        Raises MemoryError if there is no room for the context's working memory.
        """
        if self._engine is None:
            raise BackendError(f'{self.role} is closed')
        opened = self._engine.create_execution_context(
            *(() if self._config is None else (self._config,)))
        if opened is None:
            raise MemoryError(f'no context for {self.role}: {self.runtime.logger.reason()}')
        context = EngineCall(self, opened, buffers, copies, passes)
        if self._config is not None:
            # The first size is 0 if the call fails; the second suffices for all shapes.
            context.give_memory(opened.update_device_memory_size_for_shapes()
                                or self._engine.device_memory_size_v2)
        return context

    def close(self) -> None:
        """Release the engine; its contexts must be closed before."""
        self._engine = self._config = None

    def require(self, is_done: bool, what: str) -> None:
        """Raise an error with TensorRT's logged reason if a step was not done."""
        if is_done:
            return
        reason = self.runtime.logger.reason()
        if says_full(reason):
            raise MemoryError(f'{self.role} {what}: {reason}')
        raise BackendError(f'{self.role} {what} ({reason})')

    def _new_config(self, engine: tensorrt.ICudaEngine) -> tensorrt.IRuntimeConfig:
        """Return the configuration of RTX contexts: eager kernels, memory from outside."""
        module, config = self.runtime.trt.module, engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER)
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED)
        return config


class EngineCall:
    """
    An execution context and the copies after it; replayed as a CUDA graph once recorded.

    Shapes and addresses are set only once, in the constructor.
    """

    def __init__(
        self, engine: Engine, opened: tensorrt.IExecutionContext,
        buffers: Mapping[str, CudaBuffer], copies: Iterable[Copy], passes: int,
    ) -> None:
        self._engine, self._memory, self._passes = engine, engine.memory, passes
        self._opened: tensorrt.IExecutionContext | None = opened
        self._buffers = dict(buffers)  # kept alive, since TensorRT stores only addresses
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
        """Allocate the working memory of a context that does not allocate its own."""
        self._scratch = self._memory.empty((max(size, 1),), np.uint8)
        self._context.set_device_memory(self._scratch.address, size)

    def enqueue(self) -> None:
        """Enqueue the context and its copies on the memory's stream."""
        (self._replay or self._enqueue)()

    def record(self) -> None:
        """Record the enqueued work as a CUDA graph; it must have run once before."""
        is_capturable = getattr(self._context, 'is_stream_capturable', None)  # TensorRT-RTX only
        if is_capturable is not None and not is_capturable(self._memory.stream):
            raise BackendError(f'{self._engine.role} cannot be recorded on a stream')
        self._replay = self._memory.capture(self._enqueue)

    def close(self) -> None:
        """Release the context, its recorded graph, and its references to buffers."""
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
        is_open = -1 in shape  # the first axis, of the passes, has any length
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
        # TensorRT's factories may return None, although their signatures do not say so.
        self._runtime: tensorrt.Runtime | None = trt.module.Runtime(self.logger)
        if self._runtime is None:
            raise BackendError(f'TensorRT {trt.version} does not start ({self.logger.reason()})')

    def open_plan(self, plan: bytes) -> tensorrt.ICudaEngine | None:
        """Return the engine of a plan, or None if this TensorRT and GPU cannot use it."""
        assert self._runtime is not None
        return self._runtime.deserialize_cuda_engine(plan)
