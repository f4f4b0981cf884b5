# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A `cuda.bindings.runtime` without a GPU: memory of the host, and a stream that works late.

What is enqueued is done when the stream is waited for, in its order, so that what is read or
written too early shows. What CUDA answers by a code is answered so; what it does not notice is
written to `violations` and raised. test_cuda_memory holds names, arguments and values against the
real package. `CudartGpu` lets the stand-in for TensorRT run on it.

"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
from enum import IntEnum
from typing import Any, NoReturn

from fake_tensorrt import FakeGpu, Faults, ViolationError
import numpy as np

ALIGNMENT = 512
Work = Callable[[], None]


class Handle:
    """An object of CUDA: a stream, an event, a graph."""

    def __init__(self, kind: str, work: list[Work] | None = None) -> None:
        self.kind, self.work = kind, work or []

    def __int__(self) -> int:
        return FakeGpu.stream


class FakeCudart:
    """
    The module.

    Parameters
    ----------
    room : int
        Bytes that can be allocated.

    """

    cudaError_t = IntEnum('cudaError_t', [
        ('cudaSuccess', 0), ('cudaErrorInvalidValue', 1), ('cudaErrorMemoryAllocation', 2),
        ('cudaErrorNoDevice', 100), ('cudaErrorIllegalAddress', 700),
        ('cudaErrorStreamCaptureUnsupported', 900), ('cudaErrorStreamCaptureInvalidated', 901)])
    cudaMemcpyKind = IntEnum('cudaMemcpyKind', [('cudaMemcpyDefault', 4)])
    cudaStreamCaptureMode = IntEnum('cudaStreamCaptureMode', [
        ('cudaStreamCaptureModeThreadLocal', 1)])
    cudaStreamNonBlocking, cudaHostAllocDefault, cudaHostAllocMapped = 1, 0, 2

    def __init__(self, room: int = 2**30) -> None:
        self.room, self.devices = room, 1
        self.live: dict[int, tuple[Any, int, int]] = {}  # address -> memory, bytes, flags or -1
        self.handles: list[Handle] = []
        self.pending: list[Work] = []
        self.recorded: list[Work] | None = None
        self.is_invalid = False
        self.failing: dict[str, int] = {}  # function -> code that it gives
        self.captured = self.launched = 0
        self.violations: list[str] = []

    def violation(self, text: str) -> NoReturn:
        """Note what a test must not do, and stop."""
        self.violations.append(text)
        raise ViolationError(text)

    def submit(self, work: Work) -> None:
        """Enqueue, or record."""
        (self.pending if self.recorded is None else self.recorded).append(work)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer('cudaSetDevice', self.devices <= device and 100)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made('stream')

    def cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        return self._gone(stream)

    def cudaStreamSynchronize(self, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        if self.recorded is not None:
            self.is_invalid = True
            return (self.cudaError_t.cudaErrorStreamCaptureUnsupported,)
        while self.pending:
            self.pending.pop(0)()
        return self._answer('cudaStreamSynchronize')

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self._allocate(size, -1)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._allocate(size, flags)

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:  # noqa: N802,N803
        return self._free(devPtr, False)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:  # noqa: N802
        return self._free(ptr, True)

    def cudaMemcpyAsync(  # noqa: N802
        self, dst: int, src: int, count: int, kind: Any, stream: Handle
    ) -> tuple[Any, ...]:
        assert kind == self.cudaMemcpyKind.cudaMemcpyDefault
        for address in (dst, src):
            self.require(address, count, 'a copy')

        def copy() -> None:
            for address in (dst, src):
                self.require(address, count, 'a copy')
            ctypes.memmove(dst, src, count)

        self.submit(copy)
        return self._answer('cudaMemcpyAsync')

    def cudaEventCreate(self) -> tuple[Any, ...]:  # noqa: N802
        return self._made('event')

    def cudaEventRecord(self, event: Handle, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        self.submit(lambda: event.work.append(int))
        return self._answer('cudaEventRecord')

    def cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Any, ...]:  # noqa: N802
        if not start.work or not end.work:
            self.violation('time between events that were not waited for')
        return (*self._answer('cudaEventElapsedTime'), 0.25)

    def cudaEventDestroy(self, event: Handle) -> tuple[Any, ...]:  # noqa: N802
        return self._gone(event)

    def cudaStreamBeginCapture(self, stream: Handle, mode: Any) -> tuple[Any, ...]:  # noqa: N802
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        answer = self._answer('cudaStreamBeginCapture')
        if answer[0]:
            return answer
        if self.pending:
            self.violation('recording begins while work is enqueued')
        self.recorded, self.is_invalid = [], False
        return answer

    def cudaStreamEndCapture(self, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        recorded, self.recorded = self.recorded, None
        if recorded is None or self.is_invalid:
            return self.cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return self._made('graph', recorded)

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, ...]:  # noqa: N802
        self.captured += 1
        return self._made('exec', graph.work)

    def cudaGraphLaunch(  # noqa: N802
        self, graphExec: Handle, stream: Handle  # noqa: N803
    ) -> tuple[Any, ...]:
        if graphExec not in self.handles:
            self.violation('a graph is launched that was destroyed')
        self.launched += 1
        for work in graphExec.work:
            self.submit(work)
        return self._answer('cudaGraphLaunch')

    def cudaGraphDestroy(self, graph: Handle) -> tuple[Any, ...]:  # noqa: N802
        return self._gone(graph)

    def cudaGraphExecDestroy(self, graphExec: Handle) -> tuple[Any, ...]:  # noqa: N802,N803
        return self._gone(graphExec)

    def cudaGetLastError(self) -> tuple[Any, ...]:  # noqa: N802
        return self._answer('cudaGetLastError')

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:  # noqa: N802
        text = {2: 'out of memory', 100: 'no CUDA-capable device is detected',
                700: 'an illegal memory access was encountered'}.get(int(error), 'some error')
        return self.cudaError_t.cudaSuccess, text.encode()

    def require(self, address: int, size: int, what: str) -> None:
        """Stop if memory that is used was not allocated, or was freed."""
        if not any(start <= address and address + size <= start + length
                   for start, (_, length, _) in self.live.items()):
            self.violation(f'{what} reaches {size} bytes of memory that is not allocated')

    def _answer(self, name: str, code: int = 0) -> tuple[Any, ...]:
        return (self.cudaError_t(self.failing.get(name, 0) or int(code)),)

    def _made(self, kind: str, work: list[Work] | None = None) -> tuple[Any, ...]:
        self.handles.append(Handle(kind, work))
        return self.cudaError_t.cudaSuccess, self.handles[-1]

    def _gone(self, handle: Handle) -> tuple[Any, ...]:
        self.handles.remove(handle)
        return (self.cudaError_t.cudaSuccess,)

    def _allocate(self, size: int, flags: int) -> tuple[Any, ...]:
        assert size > 0
        if self.recorded is not None:
            self.is_invalid = True
            return self.cudaError_t.cudaErrorStreamCaptureUnsupported, None
        if sum(length for _, length, _ in self.live.values()) + size > self.room:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # what is surely wrong
        address = raw.ctypes.data + -raw.ctypes.data % ALIGNMENT
        self.live[address] = raw, size, flags
        return self.cudaError_t.cudaSuccess, address

    def _free(self, address: int, is_host: bool) -> tuple[Any, ...]:
        if (self.live.pop(address)[2] >= 0) != is_host:
            self.violation('memory was freed by the function for the other kind')
        return (self.cudaError_t.cudaSuccess,)


class CudartGpu(FakeGpu):
    """What the stand-in for TensorRT runs on, where cuda-python holds the buffers."""

    def __init__(self, faults: Faults, cudart: FakeCudart) -> None:
        super().__init__(faults)
        self.cudart = cudart
        self.violations = cudart.violations

    @property
    def is_capturing(self) -> bool:
        """Whether work is recorded."""
        return self.cudart.recorded is not None

    def submit(self, stream: int, work: Work) -> None:
        """Enqueue work of an engine, or record it."""
        if stream != self.stream:
            self.violation(f'stream {stream}')
        self.cudart.submit(work)

    def require_room(self, name: str, address: int, size: int) -> None:
        """Stop if so many bytes are not allocated at an address."""
        self.cudart.require(address, size, name)

    def at(self, name: str, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return what lies at an address, which has to be allocated and large enough."""
        size = int(np.prod(shape)) * dtype.itemsize
        self.cudart.require(address, size, name)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return raw.view(dtype).reshape(shape)
