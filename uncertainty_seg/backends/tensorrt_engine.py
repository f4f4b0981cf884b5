# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One engine with its context: tensors by name, and no answer of TensorRT left unread.

TensorRT says by False or None that something did not work, and goes on with what it has. Here each
of them is an exception with what TensorRT logged.

"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

import numpy as np

from uncertainty_seg.backends.device_memory import ALIGNMENT, DeviceMemory, Replay, says_full
from uncertainty_seg.backends.tensorrt_api import Messages, TensorRt
from uncertainty_seg.errors import BackendError, ModelBundleError

if TYPE_CHECKING:
    import tensorrt

EngineShape = tuple[int, ...]
Spec = tuple[EngineShape, 'np.dtype[Any]']


class Runtime:
    """
    TensorRT's runtime with its logger.

    Parameters
    ----------
    trt : TensorRt
        Its module.

    """

    def __init__(self, trt: TensorRt) -> None:
        self.trt, self.messages = trt, Messages()
        self._logger = trt.logger(self.messages)
        # TensorRT may give None for whatever it makes, which its own signatures do not say.
        self._runtime: tensorrt.Runtime | None = trt.module.Runtime(self._logger)
        if self._runtime is None:
            raise BackendError(f'TensorRT {trt.version} does not start ({self.messages.said()})')

    def open_plan(self, plan: bytes) -> tensorrt.ICudaEngine | None:
        """Return the engine of a plan, or None if this TensorRT and GPU cannot use it."""
        assert self._runtime is not None, 'open_plan of a closed runtime'
        return self._runtime.deserialize_cuda_engine(plan)

    def close(self) -> None:
        """Let go of the runtime; engines first."""
        self._runtime = None


class Engine:
    """
    An engine and its one context.

    Parameters
    ----------
    runtime : Runtime
        Kept as long as this.
    engine : ICudaEngine
        Opened by it.
    memory : DeviceMemory
        Gives the stream.
    role : str
        For messages.

    Raises
    ------
    MemoryError
        If there is no room for the context's own buffers.

    """

    def __init__(
        self, runtime: Runtime, engine: tensorrt.ICudaEngine, memory: DeviceMemory, role: str
    ) -> None:
        self._runtime, self._memory, self._role = runtime, memory, role
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _tensors(runtime.trt, engine)
        self._opened: tensorrt.IExecutionContext | None = engine.create_execution_context()
        if self._opened is None:
            raise MemoryError(f'no context for {role}: {runtime.messages.said()}')
        self._bound: dict[str, Any] = {}
        self._shapes: dict[str, EngineShape] = {}

    def bind(self, tensors: Mapping[str, Any]) -> None:
        """
        Say where the engine reads and writes.

        Parameters
        ----------
        tensors : mapping of str to torch.Tensor
            Contiguous; kept until another is bound, because the engine knows the address only.

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

    def enqueue(self) -> None:
        """Enqueue on the memory's stream."""
        is_done = self._context.execute_async_v3(stream_handle=self._memory.stream)
        self._require(is_done, 'refused to run')

    def wait(self) -> None:
        """Wait for all that was enqueued; errors of the device come out here."""
        self._memory.wait()

    def capture(self) -> Replay:
        """Record a graph of what `enqueue` does; it must have run once with what is bound."""
        is_capturable = getattr(self._context, 'is_stream_capturable', None)  # TensorRT-RTX only
        if is_capturable is not None and not is_capturable(self._memory.stream):
            raise BackendError(f'{self._role} cannot be recorded on a stream')
        return self._memory.capture(self.enqueue)

    def close(self) -> None:
        """Let go of context and engine, in this order."""
        self._opened = None
        self._engine = None
        self._bound = {}

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
        reason = self._runtime.messages.said()
        if says_full(reason):
            raise MemoryError(f'{self._role} {what}: {reason}')
        raise BackendError(f'{self._role} {what} ({reason})')


def _tensors(
    trt: TensorRt, engine: tensorrt.ICudaEngine
) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """Return shape and dtype of every input and output; -1 where an axis is open."""
    inputs: dict[str, Spec] = {}
    outputs: dict[str, Spec] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.module.TensorIOMode.INPUT
        spec = (tuple(engine.get_tensor_shape(name)),
                trt.numpy_dtype(engine.get_tensor_dtype(name)))
        (inputs if is_input else outputs)[name] = spec
    return inputs, outputs


def require_tensors(
    engine: Engine, role: str, inputs: set[str], outputs: set[str], shapes: Mapping[str, EngineShape],
    known: set[str],
) -> None:
    """
    Refuse an engine that does not fit the card.

    Parameters
    ----------
    engine : Engine
        Any.
    role : str
        For the message.
    inputs, outputs : set of str
        What it must take and give.
    shapes : mapping of str to shape
        Of the outputs that have to be float32 of a known shape.
    known : set of str
        What it may take besides.

    Raises
    ------
    ModelBundleError
        If it does not.

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
