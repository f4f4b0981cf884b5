# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A TensorRT without a GPU: what the backend asks of it, with ONNX Runtime behind and rules enforced.

A plan is the ONNX graph with its profiles and a digest; addresses are those of buffers in the
host's memory. What TensorRT answers with False, with None or by an entry in its log is answered
so. What it does not notice, and computes nonsense or crashes on, is written to
`FakeGpu.violations` and raised. A graph is recorded as CUDA does it: with the addresses of that
moment, which must be alive when it is replayed. test_backends_tensorrt_fake holds names, arguments
and values against the real modules.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import ctypes
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
import hashlib
import json
import threading
from types import SimpleNamespace
from typing import Any, NoReturn
import weakref

from host_memory import HostMemory
import numpy as np
from numpy.typing import DTypeLike
import onnx

from uncertainty_seg.backends.gpu.device import ALIGNMENT, Replay

Profiles = Mapping[str, tuple[tuple[int, ...], ...]]
_MAGIC = b'fake plan'
_SCRATCH_BYTES = 1000  # that a context of TensorRT-RTX needs for a pass
_TYPES = {'FLOAT': 0, 'HALF': 1, 'INT8': 2, 'INT32': 3, 'BOOL': 4, 'UINT8': 5}
_NUMPY = {'FLOAT': np.float32, 'HALF': np.float16, 'INT8': np.int8, 'INT32': np.int32,
          'BOOL': np.bool_, 'UINT8': np.uint8, 'INT64': np.int64}
# Of ONNX, where it has another name.
_ONNX = {'FLOAT16': 'HALF', 'BFLOAT16': 'BF16'}
# Version -> members that differ between versions, with their values there.
_NEW_TYPES = {'BF16': 7, 'INT64': 8}
VERSIONS: dict[str, dict[str, dict[str, int]]] = {
    '8.6.1': {'types': {}, 'creation': {'EXPLICIT_BATCH': 0},
              'flags': {'FP16': 0, 'INT8': 1, 'TF32': 7}},
    '10.3.0': {'types': _NEW_TYPES, 'creation': {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1},
               'flags': {'FP16': 0, 'INT8': 1, 'BF16': 17, 'TF32': 6}},
    '10.16.1.11': {'types': _NEW_TYPES, 'creation': {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1},
                   'flags': {'FP16': 0, 'INT8': 1, 'BF16': 17, 'TF32': 6}},
    '11.4.0.106': {'types': _NEW_TYPES, 'creation': {'STRONGLY_TYPED': 0}, 'flags': {'TF32': 6}},
    '1.4.0.76': {'types': _NEW_TYPES, 'creation': {'STRONGLY_TYPED': 1}, 'flags': {'TF32': 6}},
    '1.7.1.116': {'types': _NEW_TYPES, 'creation': {'STRONGLY_TYPED': 0}, 'flags': {'TF32': 6}},
}


class ViolationError(Exception):
    """What a real TensorRT would not have noticed."""


@dataclass
class Faults:
    """
    What goes wrong.

    Attributes
    ----------
    contexts_up_to : int
        Passes in the profile of an engine for which there is memory; None is returned beyond.
    rows_up_to : int
        Passes in a buffer for masks for which there is memory.
    refused : dict of int to str
        Which calls of `execute_async_v3` return False, counted from 1, and what is logged.
    raised : dict of int to Exception
        Which of them raise.
    is_uncapturable : bool
        Nothing can be recorded on the stream.
    driver : str
        Of the GPU; compiled kernels hold for one.
    meanwhile : callable
        Called in each call of `execute_async_v3`, with its number.

    """

    contexts_up_to: int = 10**6
    rows_up_to: int = 10**6
    refused: dict[int, str] = field(default_factory=dict)
    raised: dict[int, Exception] = field(default_factory=dict)
    is_uncapturable: bool = False
    driver: str = '12.6'
    meanwhile: Callable[[int], object] = int


class FakeGpu(HostMemory):
    """
    Buffers in the host's memory that are known by their address, and a stream.

    Parameters
    ----------
    faults : Faults
        Looked at in each call, so that a test may change it.
    is_mapped : bool
        Engines may read what the host fills, as on a Jetson.

    """

    stream = 0x5EED

    def __init__(self, faults: Faults, is_mapped: bool = False) -> None:
        self.faults, self.is_mapped = faults, is_mapped
        self.copied = 0
        self.violations: list[str] = []
        self.enqueued = self.replayed = self.captured = self.closed = self.compiled = 0
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most_contexts = 0
        self._buffers: dict[int, weakref.ref[Any]] = {}
        self._graph: list[Callable[[], None]] | None = None

    def violation(self, text: str) -> NoReturn:
        """Note what a test must not do, and stop."""
        self.violations.append(text)
        raise ViolationError(text)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate what engines can be bound to."""
        if len(shape) == 4 and shape[0] > self.faults.rows_up_to:
            raise MemoryError(f'no room for {shape}')
        tensor = super().empty(shape, dtype)
        self._buffers[tensor.data_ptr()] = weakref.ref(tensor)
        return tensor

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate what they cannot be bound to."""
        return super().empty(shape, dtype)

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Any, Any]:
        """Allocate one buffer for both sides, if memory is mapped."""
        if not self.is_mapped:
            return super().inlet(shape, dtype)
        shared = self.empty(shape, dtype)
        return shared, shared

    def copy(self, target: Any, source: Any) -> None:
        """Copy, and count bytes."""
        if target is not source:
            self.copied += source.numel() * source.element_size()
        super().copy(target, source)

    def close(self) -> None:
        """Count."""
        self.closed += 1

    def live_bytes(self) -> int:
        """Return the size of all buffers that somebody holds."""
        tensors = [one() for one in self._buffers.values()]
        return sum(one.numel() * one.element_size() for one in tensors if one is not None)

    def at(self, name: str, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return what lies at an address, which has to be a buffer of exactly that kind."""
        found = self._buffers.get(address, lambda: None)()
        if found is None:
            self.violation(f'{name} is bound to an address where no buffer is (any more)')
        kind = str(found.dtype).removeprefix('torch.')
        if (tuple(found.shape), kind) != (shape, dtype.name):
            self.violation(f'{name} is bound to {kind} {tuple(found.shape)} and not to '
                           f'{dtype.name} {shape}')
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return raw.view(dtype).reshape(shape)

    def require_room(self, name: str, address: int, size: int) -> None:
        """Stop if there is no buffer of so many bytes at an address."""
        found = self._buffers.get(address, lambda: None)()
        if found is None:
            self.violation(f'{name} is bound to an address where no buffer is (any more)')
        if found.numel() * found.element_size() < size:
            self.violation(f'{name} has fewer bytes than {size}')

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        """Run work of an engine, or record it."""
        if stream != self.stream:
            self.violation(f'stream {stream}')
        if self._graph is not None:
            self._graph.append(work)
        else:
            work()

    @property
    def is_capturing(self) -> bool:
        """Whether work is recorded."""
        return self._graph is not None

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record the calls of engines in `work`, without running them."""
        if self.faults.is_uncapturable:
            raise RuntimeError('CUDA error: operation not permitted when stream is capturing')
        self.wait()
        recorded: list[Callable[[], None]] = []
        self._graph = recorded
        try:
            work()
        finally:
            self._graph = None
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            for call in recorded:
                call()

        return replay


class ILogger:
    """Base of every logger."""

    Severity = IntEnum('Severity', [('INTERNAL_ERROR', 0), ('ERROR', 1), ('WARNING', 2),
                                    ('INFO', 3), ('VERBOSE', 4)])

    def __init__(self) -> None:
        self._is_base_called = True

    def log(self, severity: Any, msg: str) -> None:
        """Overridden."""
        raise NotImplementedError


class TensorIOMode(IntEnum):
    """Which way a tensor goes."""

    NONE, INPUT, OUTPUT = 0, 1, 2


class Runtime:
    """Opens plans; `_module` and `_gpu` are set in a subclass for each module."""

    _module: Any
    _gpu: FakeGpu

    def __init__(self, logger: ILogger) -> None:
        if not getattr(logger, '_is_base_called', False):
            self._gpu.violation('the base of the logger was not initialised')
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """Return an engine; None, and a message, for what is no plan of this version."""
        start, stop = len(_MAGIC), len(_MAGIC) + 32
        digest, body = serialized_engine[start:stop], serialized_engine[stop:]
        if hashlib.sha256(body).digest() == digest:
            head, graph = body.split(b'\n', 1)
            facts = json.loads(head)
            if facts['version'] == self._module.__version__:
                return self._module.ICudaEngine(self, facts['profiles'], graph)
        self._error('Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed')
        return None

    def _error(self, text: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, text)


class ICudaEngine:
    """A graph with its profiles."""

    def __init__(self, runtime: Runtime, profiles: Profiles, graph: bytes) -> None:
        self._runtime, self._profiles, self._graph = runtime, profiles, graph
        model = onnx.load_model_from_string(graph).graph
        weights = {weight.name for weight in model.initializer}
        inputs = [info for info in model.input if info.name not in weights]
        self._tensors = {info.name: (mode, *self._kind(info))
                         for mode, infos in ((TensorIOMode.INPUT, inputs),
                                             (TensorIOMode.OUTPUT, model.output))
                         for info in infos}

    @property
    def num_io_tensors(self) -> int:
        """How many tensors go in and out."""
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        """Return the name of one."""
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Say which way it goes."""
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        """Return its type."""
        return self._tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return its shape; -1 where an axis is open."""
        return self._tensors[name][2]

    def create_execution_context(self) -> IExecutionContext | None:
        """Return a context; None, and a message, where memory is full."""
        largest = max((shapes[-1][0] for shapes in self._profiles.values()), default=1)
        if largest > self._runtime._gpu.faults.contexts_up_to:
            self._runtime._error('Error Code 1: Cuda Runtime (out of memory)')
            return None
        return self._runtime._module.IExecutionContext(self)

    def _kind(self, info: Any) -> tuple[Any, tuple[int, ...]]:
        kind = info.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        shape = tuple(d.dim_value if d.HasField('dim_value') else -1 for d in kind.shape.dim)
        return self._runtime._module.DataType[_ONNX.get(name, name)], shape


class IExecutionContext:
    """Shapes and addresses, and what runs on them."""

    def __init__(self, engine: ICudaEngine) -> None:
        # The owner has to keep the engine: the C++ of TensorRT does not.
        self._owner = weakref.ref(engine)
        self._gpu, self._error = engine._runtime._gpu, engine._runtime._error
        self._shapes = {name: shape for name, (_, _, shape) in engine._tensors.items()
                        if -1 not in shape}
        self._addresses: dict[str, int] = {}
        self._ran: set[tuple[tuple[int, ...], ...]] = set()
        self._lock = threading.Lock()
        self._gpu.contexts.add(self)
        self._gpu.most_contexts = max(self._gpu.most_contexts, len(self._gpu.contexts))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Take the shape of an input, if it is in the profile."""
        with self._alone() as engine:
            mode, _, declared = engine._tensors.get(name, (TensorIOMode.NONE, None, ()))
            low, _, high = engine._profiles.get(name, (declared,) * 3)
            is_in = mode == TensorIOMode.INPUT and len(shape) == len(low) and all(
                a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
            if not is_in:
                self._error(f'{name} {tuple(shape)} is not in the profile {low} to {high}')
                return False
            self._shapes[name] = tuple(shape)
            return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Take an address, if it is aligned."""
        with self._alone() as engine:
            if name not in engine._tensors or memory == 0 or memory % ALIGNMENT:
                self._error(f'address {memory:#x} of {name} is not valid')
                return False
            self._addresses[name] = memory
            return True

    def infer_shapes(self) -> list[str]:
        """Return the names of inputs without a shape."""
        with self._alone() as engine:
            return [name for name, (mode, _, _) in engine._tensors.items()
                    if mode == TensorIOMode.INPUT and name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run, or say no."""
        gpu = self._gpu
        with self._alone() as engine:
            gpu.enqueued += 1
            gpu.faults.meanwhile(gpu.enqueued)
            if gpu.enqueued in gpu.faults.raised:
                # A new one: its traceback holds this context, which C++ would not.
                error = gpu.faults.raised[gpu.enqueued]
                raise type(error)(*error.args)
            if gpu.enqueued in gpu.faults.refused:
                self._error(gpu.faults.refused[gpu.enqueued])
                return False
            lacking = [name for name in engine._tensors
                       if name not in self._shapes or name not in self._addresses]
            if lacking:
                self._error(f'no shape or address for {lacking}')
                return False
            self._require_warm()
            gpu.submit(stream_handle, self._work(engine))
            return True

    def _require_warm(self) -> None:
        shapes = tuple(self._shapes.values())
        if self._gpu.is_capturing and shapes not in self._ran:
            self._gpu.violation('recorded before it ran with these shapes')
        self._ran = {shapes}

    def _work(self, engine: ICudaEngine) -> Callable[[], None]:
        """Return a call with the shapes and addresses of now."""
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        context, gpu, tensors = weakref.ref(self), self._gpu, engine._tensors
        session = _session(engine._graph)

        def run() -> None:
            if context() is None:
                gpu.violation('a graph is replayed whose context is gone')
            views = {name: gpu.at(name, addresses[name], shapes[name],
                                  np.dtype(_NUMPY[kind.name]))
                     for name, (_, kind, _) in tensors.items()}
            given = {name: view for name, view in views.items()
                     if tensors[name][0] == TensorIOMode.INPUT}
            outputs = [name for name in views if name not in given]
            for name, value in zip(outputs, session.run(outputs, given), strict=True):
                if value.shape != views[name].shape:
                    gpu.violation(f'{name} comes as {value.shape} into {views[name].shape}')
                np.copyto(views[name], value)

        return run

    @contextmanager
    def _alone(self) -> Iterator[ICudaEngine]:
        engine = self._owner()
        if engine is None:
            self._gpu.violation('a context is used whose engine is gone')
        if not self._lock.acquire(blocking=False):
            self._gpu.violation('a context is used by two threads at once')
        try:
            yield engine
        finally:
            self._lock.release()


class ExecutionContextAllocationStrategy(IntEnum):
    """Who gives a context the memory that it works in."""

    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = 0, 1, 2


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    """When kernels are compiled for new shapes."""

    LAZY, EAGER, NONE = 0, 1, 2


class IRuntimeCache:
    """The kernels that were compiled, here the shapes they are for."""

    def __init__(self, stamp: str) -> None:
        self._stamp = stamp
        self._kernels: set[str] = set()

    def serialize(self) -> bytes:
        """Return all of them."""
        return json.dumps([self._stamp, sorted(self._kernels)]).encode()

    def deserialize(self, blob: bytes) -> bool:
        """Take those of this version and driver."""
        try:
            stamp, kernels = json.loads(blob)
        except ValueError:
            return False
        if stamp == self._stamp:
            self._kernels = set(kernels)
        return stamp == self._stamp


class IRuntimeConfig:
    """How a context behaves; what is set last counts."""

    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, stamp: str) -> None:
        self._stamp = stamp
        self._allocation = ExecutionContextAllocationStrategy.STATIC
        self._cache = IRuntimeCache(stamp)

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        """Say who gives it memory."""
        self._allocation = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        """Return an empty one."""
        return IRuntimeCache(self._stamp)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        """Look for kernels there, and put new ones there."""
        self._cache = cache
        return True


class RtxCudaEngine(ICudaEngine):
    """That of TensorRT-RTX."""

    @property
    def device_memory_size_v2(self) -> int:
        """Return what a context needs for its largest shapes."""
        passes = max((shapes[-1][0] for shapes in self._profiles.values()), default=1)
        return _SCRATCH_BYTES * passes

    def create_runtime_config(self) -> IRuntimeConfig:
        """Return what `create_execution_context` takes."""
        gpu = self._runtime._gpu
        return IRuntimeConfig(f'{self._runtime._module.__version__} {gpu.faults.driver}')

    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext | None:
        """Return a context that follows the configuration."""
        made = super().create_execution_context()
        if isinstance(made, RtxExecutionContext) and runtime_config is not None:
            made._config = runtime_config
        return made


class RtxExecutionContext(IExecutionContext):
    """That of TensorRT-RTX, which compiles kernels for the shapes that it is given."""

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__(engine)
        self._config = IRuntimeConfig('')
        self._scratch = (0, 0)

    def update_device_memory_size_for_shapes(self) -> int:
        """Return what it needs for the shapes of now."""
        with self._alone() as engine:
            return self._needed(engine)

    def set_device_memory(self, memory: int, size: int) -> None:
        """Take the memory that it works in."""
        self._scratch = (memory, size)

    def is_stream_capturable(self, stream: int) -> bool:
        """Say whether it may be recorded: it must not allocate."""
        return self._is_given and not self._gpu.faults.is_uncapturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Compile kernels that were not found, and run."""
        with self._alone() as engine:
            self._compile(engine)
            if self._is_given:
                self._require_scratch(engine)
        return super().execute_async_v3(stream_handle)

    @property
    def _is_given(self) -> bool:
        return self._config._allocation == ExecutionContextAllocationStrategy.USER_MANAGED

    def _needed(self, engine: ICudaEngine) -> int:
        passes = max((self._shapes[name][0] for name in engine._profiles), default=1)
        return _SCRATCH_BYTES * passes

    def _compile(self, engine: ICudaEngine) -> None:
        eager = DynamicShapesKernelSpecializationStrategy.EAGER
        is_eager = self._config.dynamic_shapes_kernel_specialization_strategy == eager
        if self._gpu.is_capturing and not is_eager:
            self._gpu.violation('recorded with kernels that are not those of these shapes')
        graph = hashlib.sha256(engine._graph).hexdigest()
        kernel = f'{graph} {sorted(self._shapes.items())}'
        if kernel not in self._config._cache._kernels:
            self._config._cache._kernels.add(kernel)
            self._gpu.compiled += 1

    def _require_scratch(self, engine: ICudaEngine) -> None:
        address, size = self._scratch
        if size < self._needed(engine):
            self._gpu.violation(f'runs with {size} bytes to work in, of {self._needed(engine)}')
        self._gpu.require_room('the working memory', address, size)


def fake_tensorrt(gpu: FakeGpu, version: str = '10.3.0') -> Any:
    """
    Return what stands in for the module.

    Parameters
    ----------
    gpu : FakeGpu
        Where its engines run.
    version : str
        Of `VERSIONS`; those that begin with 1 are TensorRT-RTX.

    """
    own = VERSIONS[version]
    is_rtx = version.startswith('1.')
    module = SimpleNamespace(
        __name__='tensorrt_rtx' if is_rtx else 'tensorrt', __version__=version, ILogger=ILogger,
        TensorIOMode=TensorIOMode, DataType=IntEnum('DataType', {**_TYPES, **own['types']}),
        NetworkDefinitionCreationFlag=IntEnum('NetworkDefinitionCreationFlag', own['creation']),
        BuilderFlag=IntEnum('BuilderFlag', own['flags']),
        ICudaEngine=RtxCudaEngine if is_rtx else ICudaEngine,
        IExecutionContext=RtxExecutionContext if is_rtx else IExecutionContext)
    if is_rtx:
        for kind in (IRuntimeCache, IRuntimeConfig, ExecutionContextAllocationStrategy,
                     DynamicShapesKernelSpecializationStrategy):
            setattr(module, kind.__name__, kind)
    module.Runtime = type('Runtime', (Runtime,), {'_module': module, '_gpu': gpu})
    return module


def plan_of(graph: bytes, profiles: Profiles, version: str) -> bytes:
    """Return what a builder would: a plan that `Runtime` opens."""
    head = json.dumps({'version': version, 'profiles': profiles}).encode()
    body = head + b'\n' + graph
    return _MAGIC + hashlib.sha256(body).digest() + body


@cache
def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
