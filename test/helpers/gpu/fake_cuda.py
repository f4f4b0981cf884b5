# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A fake `cuda.bindings.runtime` without a GPU: host memory, and a stream that runs late.

Enqueued work runs, in order, only when the stream is synchronized, so that reading or writing too
early gives wrong values. Errors that CUDA reports are returned as its error codes; errors that it
does not detect are appended to `violations` and raised. test_nvidia compares names, arguments and
values with the real package. The fake TensorRT runs on this module.
"""

from collections.abc import Callable
import ctypes
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, NoReturn
import weakref

import numpy as np

ALIGNMENT = 512
STREAM = 0x5EED
Work = Callable[[], None]


class ViolationError(Exception):
    """Raised for an error that the real CUDA or TensorRT would not detect."""


@dataclass
class Faults:
    """Faults of TensorRT; the keys count calls of `execute_async_v3` from 1."""

    contexts_up_to: int = 10**6  # passes of a profile; more of them give no context
    refused: dict[int, str] = field(default_factory=dict)  # calls that return False -> message
    raised: dict[int, Exception] = field(default_factory=dict)
    is_uncapturable: bool = False  # the stream refuses graph capture
    meanwhile: Callable[[int], object] = int  # called in each call, with its number


class Handle:
    """A CUDA object: a stream, an event or a graph."""

    def __init__(self, kind: str, work: list[Work] | None = None) -> None:
        self.kind, self.work = kind, work or []

    def __int__(self) -> int:
        return STREAM


class FakeCuda:
    """The module together with a GPU of `room` bytes of memory."""

    cudaError_t = IntEnum('cudaError_t', [
        ('cudaSuccess', 0), ('cudaErrorInvalidValue', 1), ('cudaErrorMemoryAllocation', 2),
        ('cudaErrorInsufficientDriver', 35), ('cudaErrorNoDevice', 100),
        ('cudaErrorIllegalAddress', 700), ('cudaErrorStreamCaptureUnsupported', 900),
        ('cudaErrorStreamCaptureInvalidated', 901)])
    cudaMemcpyKind = IntEnum('cudaMemcpyKind', [('cudaMemcpyDefault', 4)])
    cudaStreamCaptureMode = IntEnum('cudaStreamCaptureMode', [
        ('cudaStreamCaptureModeThreadLocal', 1)])
    cudaStreamNonBlocking, cudaHostAllocDefault, cudaHostAllocMapped = 1, 0, 2
    cudaEventBlockingSync = 1

    def __init__(self, room: int = 2**30) -> None:
        self.room, self.devices, self.is_integrated = room, 1, False
        self.faults = Faults()
        self.live: dict[int, tuple[Any, int, int]] = {}  # address -> memory, bytes, flags or -1
        self.handles: list[Handle] = []
        self.pending: list[Work] = []
        self.recorded: list[Work] | None = None
        self.is_invalid = False
        self.failing: dict[str, int] = {}  # function -> error code that it returns
        self.captured = self.launched = self.copied = 0
        # Used by the fake TensorRT.
        self.enqueued = 0
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.violations: list[str] = []

    def violation(self, text: str) -> NoReturn:
        """Record an error that the real library would not detect, and raise it."""
        self.violations.append(text)
        raise ViolationError(text)

    def live_bytes(self) -> int:
        """Return the total size of all buffers that are not freed."""
        return sum(size for _, size, _ in self.live.values())

    def submit(self, work: Work, stream: int = STREAM) -> None:
        """Enqueue work, or add it to the graph while one is captured."""
        if stream != STREAM:
            self.violation(f'stream {stream}')
        (self.pending if self.recorded is None else self.recorded).append(work)

    def require(self, address: int, size: int, what: str) -> None:
        """Raise `ViolationError` if memory in use is not allocated, or was freed."""
        if not any(start <= address and address + size <= start + length
                   for start, (_, length, _) in self.live.items()):
            self.violation(f'{what} reaches {size} bytes of memory that is not allocated')

    def at(self, name: str, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return the array at an address; raises if it is not within an allocated buffer."""
        size = int(np.prod(shape)) * dtype.itemsize
        self.require(address, size, name)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return raw.view(dtype).reshape(shape)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:  # noqa: N802
        return (*self._answer('cudaGetDeviceCount'), self.devices)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return (*self._answer('cudaDriverGetVersion'), 12060)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return (*self._answer('cudaGetDeviceProperties'), SimpleNamespace(
            name=b'Fake', major=8, minor=6, multiProcessorCount=20,
            integrated=int(self.is_integrated)))

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer('cudaSetDevice', self.devices <= device and 100)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made('stream')

    def cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        return self._gone(stream)

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

        self.copied += count
        self.submit(copy)
        return self._answer('cudaMemcpyAsync')

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made(f'event {flags}')

    def cudaEventRecord(self, event: Handle, stream: Handle) -> tuple[Any, ...]:  # noqa: N802
        event.work.clear()
        self.submit(lambda: event.work.append(int))
        return self._answer('cudaEventRecord')

    def cudaEventSynchronize(self, event: Handle) -> tuple[Any, ...]:  # noqa: N802
        if event.kind != f'event {self.cudaEventBlockingSync}':
            self.violation('a core spins until an event')
        if self.recorded is not None:
            self.is_invalid = True
            return (self.cudaError_t.cudaErrorStreamCaptureUnsupported,)
        while not event.work and self.pending:
            self.pending.pop(0)()
        return self._answer('cudaEventSynchronize')

    def cudaMemGetInfo(self) -> tuple[Any, ...]:  # noqa: N802
        return (*self._answer('cudaMemGetInfo'), self.room - self.live_bytes(), self.room)

    def cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Any, ...]:  # noqa: N802
        if not start.work or not end.work:
            self.violation('time between events that were not waited for')
        return (*self._answer('cudaEventElapsedTime'), 0.25)

    def cudaEventDestroy(self, event: Handle) -> tuple[Any, ...]:  # noqa: N802
        return self._gone(event)

    def cudaStreamBeginCapture(self, stream: Handle, mode: Any) -> tuple[Any, ...]:  # noqa: N802
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        answer = self._answer('cudaStreamBeginCapture', 900 * self.faults.is_uncapturable)
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
        text = {2: 'out of memory', 35: 'CUDA driver version is insufficient',
                100: 'no CUDA-capable device is detected',
                700: 'an illegal memory access was encountered'}.get(int(error), 'some error')
        return self.cudaError_t.cudaSuccess, text.encode()

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
        if self.live_bytes() + size > self.room:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # NaN as floats, 255 as bytes
        address = raw.ctypes.data + -raw.ctypes.data % ALIGNMENT
        self.live[address] = raw, size, flags
        return self.cudaError_t.cudaSuccess, address

    def _free(self, address: int, is_host: bool) -> tuple[Any, ...]:
        if (self.live.pop(address)[2] >= 0) != is_host:
            self.violation('memory was freed by the function for the other kind')
        return (self.cudaError_t.cudaSuccess,)
