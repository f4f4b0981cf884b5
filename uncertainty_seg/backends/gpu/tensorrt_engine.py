# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One frame through the two engines of a bundle: everything between the image and the maps.

All of it is enqueued on one stream and waited for once. What is enqueued the same way in every
frame is recorded as a CUDA graph when it first runs; where that does not work it is enqueued, and
tried again in later frames.

TensorRT-RTX compiles kernels when shapes first come. By default it does so in the background and
runs slower ones meanwhile, which a graph would then keep for good: here they are compiled at once.
Its contexts get their working memory from outside, because a graph cannot allocate, and the
compiled kernels are kept in the cache of engines.

TensorRT reports by False or None that something did not work, and continues with what it has: here
each of these is an exception with what TensorRT logged.

"""

from __future__ import annotations

from collections.abc import Mapping
import logging
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from uncertainty_seg.backends.gpu.device import (
    ALIGNMENT,
    DeviceMemory,
    Replay,
    says_full,
    work_ranges,
)
from uncertainty_seg.backends.gpu.device_passes import (
    DeviceReduction,
    HostReduction,
    MaskBank,
    Part,
    split_passes,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache
from uncertainty_seg.backends.gpu.tensorrt_api import Messages, Shape, TensorRt
from uncertainty_seg.backends.graph_files import (
    given_statistics,
    GraphNames,
    IMAGE,
    INV_TEMPERATURE,
    require_statistics,
    STATISTICS,
    SUM_LOGITS,
)
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import MapRequest, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import BackendError, ModelBundleError

if TYPE_CHECKING:
    import tensorrt

Spec = tuple[Shape, 'np.dtype[Any]']
# Frames after which a CUDA graph that could not be recorded is tried again: three times in all.
_RETRY_FRAMES = (1, 10, 100)
_log = logging.getLogger(__name__)


class FrameRunner:
    """
    Two engines, their buffers, and what has been recorded of them.

    Parameters
    ----------
    card, names : ModelCard, GraphNames
        Of the bundle.
    trunk, head : Engine
        Opened; `head` is the one with statistics.
    memory : DeviceMemory
        Holds all buffers.
    chunk : int
        Passes of a call of the head, at most.
    is_recorded : bool
        Whether to record CUDA graphs.

    Raises
    ------
    ModelBundleError
        If the engines do not fit the card.

    """

    def __init__(
        self, card: ModelCard, names: GraphNames, trunk: Engine, head: Engine,
        memory: DeviceMemory, chunk: int, is_recorded: bool,
    ) -> None:
        self._card, self._memory, self._trunk, self._head = card, memory, trunk, head
        self.chunk = chunk
        self.recording = Recording(is_recorded)
        self._range = work_ranges()
        spec = card.input
        with memory.active():
            statistics = given_statistics(head.outputs)
            reduction = DeviceReduction if memory.computes else HostReduction
            rows, columns = card.logits_shape[1:]
            # An engine whose sums are of the size of the logits was built for `coarse`.
            is_coarse = head.outputs[STATISTICS[0]][0][1:] == (rows, columns)
            self._reduction = reduction(
                card.num_classes, spec.height, spec.width, memory,
                card.logits_shape if SUM_LOGITS in statistics else None, card.upsampling,
                (rows, columns) if is_coarse else None)
            self._require_engines(names)
            # The host's buffers are read until the frame was waited for, and not afterwards.
            self._image, self._host_image = memory.inlet((1, spec.height, spec.width, 3), np.uint8)
            self._scale, self._host_scale = memory.inlet((1,), np.float32)
            features = {name: memory.empty(*trunk.outputs[name]) for name in names.trunk_outputs}
            self._reduction.take_features([features[name] for name in names.features])
            self._statistics = {name: memory.empty(*head.outputs[name]) for name in statistics}
        self._trunk_call = _Call(trunk, {IMAGE: self._image, **features}, self.recording)
        given = {IMAGE: self._image, INV_TEMPERATURE: self._scale, **features}
        self._fixed = {**{name: given[name] for name in head.inputs if name in given},
                       **self._statistics}
        self._plans: dict[int, _HeadCalls] = {}
        self.timings_ms: dict[str, float] = {}

    def run(
        self, image: ImageU8, masks: Masks, passes: int, temperature: float,
        request: MapRequest = NO_MORE,
    ) -> UncertaintyMaps:
        """Compute the maps of a checked image; see `Runner.run`."""
        memory = self._memory
        with memory.active():
            self.recording.begin_frame()
            plan = self._plan(passes)
            marks = [memory.mark()]
            with self._range('inputs'):
                self._load(image, temperature)
                plan.bank.load(masks)
            with self._range('trunk'):
                self._trunk_call.enqueue()
            marks.append(memory.mark())
            with self._range('head'):
                self._reduction.reset()
                for part, call in zip(plan.parts, plan.calls, strict=True):
                    call.enqueue()
                    self._reduction.add(self._statistics, part.counted, part.share)
            marks.append(memory.mark())
            with self._range('reduction'):
                self._reduction.enqueue_finish(request)
            marks.append(memory.mark())
            with self._range('wait'):
                memory.wait()
        self.timings_ms = {name: memory.elapsed_ms(marks[i], marks[i + 1])
                           for i, name in enumerate(('trunk', 'head', 'reduction'))}
        if not plan.has_run:
            plan.has_run = True
            self._trunk.keep_kernels()
            self._head.keep_kernels()
        start_s = time.perf_counter()
        with self._range('maps'):
            maps = self._reduction.maps()
        self.timings_ms['reduction'] += (time.perf_counter() - start_s) * 1e3
        return maps

    def _load(self, image: ImageU8, temperature: float) -> None:
        """Enqueue the way of an image and a temperature to the device."""
        np.copyto(self._host_image.numpy()[0], image)
        self._host_scale.numpy()[0] = 1 / temperature
        self._memory.copy(self._image, self._host_image)
        self._memory.copy(self._scale, self._host_scale)

    def require(self, request: MapRequest) -> None:
        """Refuse maps that the head cannot give; raises ModelBundleError."""
        require_statistics(self._card, request, self._statistics)

    def is_full(self, error: BaseException) -> bool:
        """Say whether an error means that there is no memory left."""
        return self._memory.is_full(error)

    def halve(self) -> bool:
        """Give the head half as many passes from now on; say whether that was possible."""
        self._plans = {}
        if self._card.chunk or self.chunk <= 1:
            return False
        self.chunk //= 2
        return True

    def close(self) -> None:
        """Release everything: what was recorded, engines, buffers."""
        for plan in self._plans.values():
            plan.clear()
        self._trunk_call.clear()
        self._head.close()
        self._trunk.close()
        # One by one, because an exception that is kept keeps this object by its traceback.
        for name in ('_image', '_scale', '_host_image', '_host_scale', '_reduction'):
            delattr(self, name)
        self._plans, self._statistics, self._fixed = {}, {}, {}
        self._memory.close()

    def _plan(self, passes: int) -> _HeadCalls:
        """Return the calls for T passes, which replace those for another T."""
        if passes not in self._plans:
            self._plans = {}
            parts = split_passes(passes, self.chunk, self._card.chunk)
            bank = MaskBank(self._card, parts, self._memory)
            # A context has one shape at a time, and what was recorded holds for that shape.
            is_uniform = len({part.size for part in parts}) == 1
            recording = self.recording if is_uniform else Recording(False)
            calls = [_Call(self._head, {**self._fixed, **buffers}, recording)
                     for buffers in bank.buffers]
            self._plans[passes] = _HeadCalls(parts, bank, calls)
            _log.info('T=%d in calls of %s passes%s', passes, '+'.join(str(p.size) for p in parts),
                      '' if recording.is_on else ', not recorded')
        return self._plans[passes]

    def _require_engines(self, names: GraphNames) -> None:
        sites = {site.name for site in self._card.dropout_sites}
        require_tensors(self._trunk, 'the trunk', {IMAGE}, set(names.trunk_outputs), {}, set())
        require_tensors(self._head, 'the head', sites, set(self._reduction.shapes),
                        self._reduction.shapes,
                        {IMAGE, INV_TEMPERATURE, *names.frontier})


class _HeadCalls:
    """The calls of the head for T passes, and the masks they read."""

    def __init__(self, parts: tuple[Part, ...], bank: MaskBank, calls: list[_Call]) -> None:
        self.parts, self.bank, self.calls = parts, bank, calls
        self.has_run = False

    def clear(self) -> None:
        for call in self.calls:
            call.clear()
        self.bank.clear()


class _Call:
    """An engine with buffers; recorded when it has run once, if it may be."""

    def __init__(self, engine: Engine, buffers: Mapping[str, Any], recording: Recording) -> None:
        self._engine, self._buffers, self._recording = engine, buffers, recording
        self._replay: Replay | None = None

    def enqueue(self) -> None:
        if self._replay is not None:
            self._replay()
            return
        self._engine.bind(self._buffers)
        self._engine.enqueue()
        if self._recording.is_due:
            # An error of this run belongs to the frame and not to the recording.
            self._engine.wait()
            try:
                self._replay = self._engine.capture()
            except Exception as err:  # torch's and TensorRT's errors derive from nothing narrower
                self._recording.fail(err)

    def clear(self) -> None:
        self._buffers, self._replay = {}, None


class Recording:
    """
    Whether calls are recorded as CUDA graphs.

    A call that could not be recorded is tried again in later frames, because what was in the way
    may have been another thread's work; after `_RETRY_FRAMES` it is off for good.

    """

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self._failures = self._pause = 0

    @property
    def is_due(self) -> bool:
        """Whether calls are recorded; false during the pause after a failure."""
        return self.is_on and self._pause == 0

    def begin_frame(self) -> None:
        """Count a frame of the pause after a failure."""
        self._pause = max(0, self._pause - 1)

    def fail(self, reason: object) -> None:
        """Enqueue calls from now on, until it is tried again; log why."""
        if self._failures == len(_RETRY_FRAMES):
            self.is_on = False
            _log.warning('no CUDA graphs, which only costs time: %s', reason)
            return
        self._pause = _RETRY_FRAMES[self._failures]
        self._failures += 1
        _log.info('a CUDA graph could not be recorded, to be tried again in %d frames: %s',
                  self._pause, reason)


def require_tensors(
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
        self, runtime: Runtime, engine: tensorrt.ICudaEngine, memory: DeviceMemory, role: str,
        kernels: Kernels | None = None,
    ) -> None:
        self._runtime, self._memory, self._role = runtime, memory, role
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _tensors(runtime.trt, engine)
        self._kernels = kernels
        self._opened = self._new_context(engine)
        if self._opened is None:
            raise MemoryError(f'no context for {role}: {runtime.messages.reason()}')
        self._bound: dict[str, Any] = {}
        self._shapes: dict[str, Shape] = {}
        self._scratch: Any = None
        self._has_scratch = False  # for these shapes

    def bind(self, tensors: Mapping[str, Any]) -> None:
        """
        Set where the engine reads and writes.

        Each contiguous buffer is kept until another is bound in its place, because the
        engine knows its address only.

        """
        for name, tensor in tensors.items():
            if self._bound.get(name) is not tensor:
                self._bind(name, tensor)
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
        if self._scratch is None or self._scratch.shape[0] < size:
            self._scratch = None  # before as much again is asked for
            self._scratch = self._memory.empty((max(size, 1),), np.uint8)
        self._context.set_device_memory(self._scratch.data_ptr(), size)
        self._has_scratch = True

    @property
    def _context(self) -> tensorrt.IExecutionContext:
        if self._opened is None:
            raise BackendError(f'{self._role} is closed')
        return self._opened

    def _bind(self, name: str, tensor: Any) -> None:
        if name not in self.inputs and name not in self.outputs:
            raise BackendError(f'{self._role} has no tensor {name!r}')
        self._require_fit(name, tensor)
        shape = tuple(tensor.shape)
        if name in self.inputs and self._shapes.get(name) != shape:
            is_set = self._context.set_input_shape(name, shape)
            self._require(is_set, f'takes no {name} of shape {shape}')
            self._shapes[name] = shape
            self._has_scratch = False
        is_set = self._context.set_tensor_address(name, tensor.data_ptr())
        self._require(is_set, f'takes no address for {name}')
        self._bound[name] = tensor

    def _require_fit(self, name: str, tensor: Any) -> None:
        wanted, dtype = {**self.inputs, **self.outputs}[name]
        shape, kind = tuple(tensor.shape), str(tensor.dtype).removeprefix('torch.')
        is_shape = len(shape) == len(wanted) and all(
            n in (-1, m) for n, m in zip(wanted, shape, strict=True))
        if not is_shape or kind != dtype.name:
            raise BackendError(f'{self._role}: buffer {name} is {kind} {shape}',
                               f'{dtype.name} {wanted}')
        if not tensor.is_contiguous() or tensor.data_ptr() % ALIGNMENT:
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
        assert self._runtime is not None, 'open_plan of a closed runtime'
        return self._runtime.deserialize_cuda_engine(plan)

    def close(self) -> None:
        """Release the runtime; engines first."""
        self._runtime = None
