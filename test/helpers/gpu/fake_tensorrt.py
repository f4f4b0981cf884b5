# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A fake TensorRT without a GPU: the API that the backend uses, run by ONNX Runtime, rules enforced.

It follows TensorRT-RTX 1.7; test_tensorrt_interface compares it with the real module. Under the
name `tensorrt` it replaces full TensorRT, of which the backend uses a smaller API.

A plan is the ONNX graph with its profiles and a digest; addresses are those of `FakeCuda`. Where
TensorRT returns False or None or writes to its log, this does too. Errors that make TensorRT
compute garbage or crash are appended to `FakeCuda.violations` and raised. A captured graph keeps
the addresses at capture, as in CUDA: when it is replayed they must still be allocated, and the
context must be unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
import hashlib
import json
import threading
from types import SimpleNamespace
from typing import Any
import weakref

from fake_cuda import FakeCuda
import numpy as np
import onnx

Profiles = Mapping[str, tuple[tuple[int, ...], ...]]
RTX = '1.7.1.116'
ALIGNMENT = 256  # bytes, which TensorRT requires of every address
_MAGIC = b'fake plan'
_SCRATCH_BYTES = 1000  # working memory of a context for each pass
_NUMPY = {'FLOAT': np.float32, 'HALF': np.float16, 'INT8': np.int8, 'INT32': np.int32,
          'BOOL': np.bool_, 'UINT8': np.uint8, 'INT64': np.int64}
# ONNX's names of data types that TensorRT names differently.
_ONNX = {'FLOAT16': 'HALF', 'BFLOAT16': 'BF16'}
DataType = IntEnum('DataType', {'FLOAT': 0, 'HALF': 1, 'INT8': 2, 'INT32': 3, 'BOOL': 4,
                                'UINT8': 5, 'BF16': 7, 'INT64': 8})
BuilderFlag = IntEnum('BuilderFlag', {'TF32': 6, 'REQUIRE_USER_ALLOCATION': 28})
NetworkDefinitionCreationFlag = IntEnum('NetworkDefinitionCreationFlag', {'STRONGLY_TYPED': 0})


class ILogger:
    """Base class of every logger."""

    Severity = IntEnum('Severity', [('INTERNAL_ERROR', 0), ('ERROR', 1), ('WARNING', 2),
                                    ('INFO', 3), ('VERBOSE', 4)])

    def __init__(self) -> None:
        self._is_base_called = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(IntEnum):
    """Direction of a tensor."""

    NONE, INPUT, OUTPUT = 0, 1, 2


class Runtime:
    """Deserializes plans; `fake_tensorrt` sets `_module` and `_gpu` in a subclass."""

    _module: Any
    _gpu: FakeCuda

    def __init__(self, logger: ILogger) -> None:
        assert logger._is_base_called  # pybind11 needs it
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        start, stop = len(_MAGIC), len(_MAGIC) + 32
        digest, body = serialized_engine[start:stop], serialized_engine[stop:]
        if hashlib.sha256(body).digest() == digest:
            head, graph = body.split(b'\n', 1)
            facts = json.loads(head)
            if facts['version'] == self._module.__version__:
                return ICudaEngine(self, facts['profiles'], graph)
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
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][2]

    @property
    def device_memory_size_v2(self) -> int:
        return _SCRATCH_BYTES * self._most_passes

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext | None:
        if self._most_passes > self._runtime._gpu.faults.contexts_up_to:
            self._runtime._error('Error Code 1: Cuda Runtime (out of memory)')
            return None
        return IExecutionContext(self, runtime_config)

    @property
    def _most_passes(self) -> int:
        return max((shapes[-1][0] for shapes in self._profiles.values()), default=1)

    def _kind(self, info: Any) -> tuple[Any, tuple[int, ...]]:
        kind = info.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        shape = tuple(d.dim_value if d.HasField('dim_value') else -1 for d in kind.shape.dim)
        return DataType[_ONNX.get(name, name)], shape


class IExecutionContext:
    """Shapes and addresses of the tensors, and execution with kernels for these shapes."""

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self._config, self._scratch = config, (0, 0)
        # Weak, since TensorRT's C++ context does not keep its engine alive; the caller has to.
        self._owner = weakref.ref(engine)
        self._gpu, self._error = engine._runtime._gpu, engine._runtime._error
        self._shapes = {name: shape for name, (_, _, shape) in engine._tensors.items()
                        if -1 not in shape}
        self._addresses: dict[str, int] = {}
        self._ran: set[tuple[tuple[int, ...], ...]] = set()
        self._changes = 0
        self._lock = threading.Lock()
        self._gpu.contexts.add(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone() as engine:
            mode, _, declared = engine._tensors.get(name, (TensorIOMode.NONE, None, ()))
            low, _, high = engine._profiles.get(name, (declared,) * 3)
            is_in = mode == TensorIOMode.INPUT and len(shape) == len(low) and all(
                a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
            if not is_in:
                self._error(f'{name} {tuple(shape)} is not in the profile {low} to {high}')
                return False
            self._shapes[name] = tuple(shape)
            self._changes += 1
            return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone() as engine:
            if name not in engine._tensors or memory == 0 or memory % ALIGNMENT:
                self._error(f'address {memory:#x} of {name} is not valid')
                return False
            self._addresses[name] = memory
            self._changes += 1
            return True

    def infer_shapes(self) -> list[str]:
        with self._alone() as engine:
            return [name for name, (mode, _, _) in engine._tensors.items()
                    if mode == TensorIOMode.INPUT and name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = self._gpu
        with self._alone() as engine:
            gpu.enqueued += 1
            if self._config is not None:
                self._compile(engine, self._config)
            gpu.faults.meanwhile(gpu.enqueued)
            if gpu.enqueued in gpu.faults.raised:
                # A copy, because the traceback of the exception keeps this context alive.
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
            gpu.submit(self._work(engine), stream_handle)
            return True

    def update_device_memory_size_for_shapes(self) -> int:
        with self._alone() as engine:
            return self._needed(engine)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)
        self._changes += 1

    def is_stream_capturable(self, stream: int) -> bool:
        is_given = self._config is None or self._config._is_given
        return is_given and not self._gpu.faults.is_uncapturable

    def _needed(self, engine: ICudaEngine) -> int:
        passes = max((self._shapes[name][0] for name in engine._profiles), default=1)
        return _SCRATCH_BYTES * passes

    def _compile(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        eager = DynamicShapesKernelSpecializationStrategy.EAGER
        is_eager = config.dynamic_shapes_kernel_specialization_strategy == eager
        if self._gpu.recorded is not None and not is_eager:
            self._gpu.violation('recorded with kernels that are not those of these shapes')
        if config._is_given:
            address, size = self._scratch
            needed = self._needed(engine)
            if size < needed:
                self._gpu.violation(f'runs with {size} bytes to work in, of {needed}')
            self._gpu.require(address, size, 'the working memory')

    def _require_warm(self) -> None:
        shapes = tuple(self._shapes.values())
        if self._gpu.recorded is not None and shapes not in self._ran:
            self._gpu.violation('recorded before it ran with these shapes')
        self._ran = {shapes}

    def _work(self, engine: ICudaEngine) -> Callable[[], None]:
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        context, gpu, tensors = weakref.ref(self), self._gpu, engine._tensors
        changes = None if gpu.recorded is None else self._changes
        session = _session(engine._graph)

        def run() -> None:
            now = context()
            if now is None:
                gpu.violation('a graph is replayed whose context is gone')
            if changes not in (None, now._changes):
                gpu.violation('a graph is replayed whose context has changed')
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
    """Who allocates the working memory of a context."""

    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = 0, 1, 2


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    """When kernels are compiled for new shapes."""

    LAZY, EAGER, NONE = 0, 1, 2


class IRuntimeConfig:
    """Configuration of contexts; the last value set applies."""

    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self) -> None:
        self._allocation = ExecutionContextAllocationStrategy.STATIC

    @property
    def _is_given(self) -> bool:
        return self._allocation == ExecutionContextAllocationStrategy.USER_MANAGED

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self._allocation = strategy


def fake_tensorrt(gpu: FakeCuda, version: str = RTX) -> Any:
    """Return a fake module on a fake GPU; a version that begins with `1.` is TensorRT-RTX."""
    module = SimpleNamespace(
        __name__='tensorrt_rtx' if version.startswith('1.') else 'tensorrt', __version__=version,
        **{kind.__name__: kind for kind in (
            BuilderFlag, DataType, DynamicShapesKernelSpecializationStrategy,
            ExecutionContextAllocationStrategy, ICudaEngine, IExecutionContext, ILogger,
            IRuntimeConfig, NetworkDefinitionCreationFlag, TensorIOMode)})
    module.nptype = lambda kind: _NUMPY[kind.name]
    module.Runtime = type('Runtime', (Runtime,), {'_module': module, '_gpu': gpu})
    return module


def plan_of(graph: bytes, profiles: Profiles, version: str) -> bytes:
    """Return a plan that `Runtime` can deserialize, in place of a builder's."""
    head = json.dumps({'version': version, 'profiles': profiles}).encode()
    body = head + b'\n' + graph
    return _MAGIC + hashlib.sha256(body).digest() + body


@cache
def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
