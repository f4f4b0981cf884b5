# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The GPU: what the driver says of it, and its memory, a stream and CUDA graphs.

An engine is given addresses and the handle of a stream. torch allocates both where it is a build
with CUDA, and computes on them; otherwise NVIDIA's cuda-python does, which only allocates and
copies, so that masks are drawn and sums are added up on the host. The driver is asked before
TensorRT is touched: where it is missing, the runtime of TensorRT 11 returns an object that ends
the process when it is used. `find_device` needs neither CUDA's toolkit nor torch.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
import ctypes
from dataclasses import dataclass
from functools import partial
import importlib
import logging
import math
import os
from pathlib import Path
import re
from typing import Any, Protocol
import weakref

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uncertainty_seg.errors import BackendError, BackendUnavailableError

_LIBRARY = 'libcuda.so.1'
_NAME_BYTES = 256
# Of enum CUdevice_attribute, which CUDA never renumbers.
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# 1 names the stages of a frame for Nsight Systems.
NVTX_VARIABLE = 'UNCERTAINTY_SEG_NVTX'
ALIGNMENT = 256  # bytes, which TensorRT wants of every address
Replay = Callable[[], None]
_log = logging.getLogger(__name__)
# How torch, CUDA and TensorRT say that memory is full, where no class of exception does.
_FULL = ('out of memory', 'outofmemory', 'could not be allocated')


@dataclass(frozen=True)
class CudaDevice:
    """
    A GPU, as far as engines and buffers depend on it.

    Attributes
    ----------
    name : str
        As the driver gives it, 'Orin' or 'NVIDIA GeForce RTX 4070'.
    compute_capability : str
        '8.7'.
    driver : str
        The CUDA version that the driver supports, '12.6'.
    multiprocessors : int
        Boards of one name are sold with different numbers of them.
    memory_bytes : int
        Of the whole device; what is free is less.
    is_integrated : bool
        It shares its memory with the processor, as on a Jetson.

    """

    name: str
    compute_capability: str
    driver: str
    multiprocessors: int
    memory_bytes: int
    is_integrated: bool


def find_device(library: Any = None, index: int = 0) -> CudaDevice:
    """
    Ask the driver for a GPU.

    Parameters
    ----------
    library : Any, optional
        The opened library of the driver, or a substitute for tests.
    index : int
        Which GPU of those that CUDA_VISIBLE_DEVICES leaves.

    Returns
    -------
    CudaDevice
        That GPU.

    Raises
    ------
    BackendUnavailableError
        If the driver is not installed or does not start, or there is no such GPU.

    """
    driver = _Driver(library if library is not None else _open_library())
    driver.start()
    driver.require(index)
    device = driver.number('cuDeviceGet', index)
    major, minor, multiprocessors, integrated = (
        driver.attribute(attribute, device)
        for attribute in (_MAJOR, _MINOR, _MULTIPROCESSORS, _INTEGRATED))
    version = driver.number('cuDriverGetVersion')
    return CudaDevice(
        driver.name(device), f'{major}.{minor}', f'{version // 1000}.{version % 1000 // 10}',
        multiprocessors, driver.memory_bytes(device), bool(integrated))


def available_bytes(meminfo: Path = Path('/proc/meminfo')) -> int:
    """Return the memory that processes can still get; 0 where the system does not say."""
    try:
        found = re.search(r'^MemAvailable:\s*(\d+) kB', meminfo.read_text(encoding='ascii'),
                          re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found[1]) * 1024 if found else 0


def _open_library() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as err:
        raise BackendUnavailableError(
            f'no NVIDIA driver on this machine ({_LIBRARY} cannot be loaded: {err})',
            fix='install the driver; in a container, start it with the NVIDIA runtime') from err


class _Driver:
    """The calls of the driver that are needed, each checked."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def start(self) -> None:
        code = self._library.cuInit(0)
        if code == _NO_DEVICE:
            raise _no_device(0)
        self._require_success('cuInit', code)

    def require(self, index: int) -> None:
        count = self.number('cuDeviceGetCount')
        if index >= count:
            raise _no_device(count)

    def number(self, call: str, *arguments: int) -> int:
        value = ctypes.c_int()
        code = getattr(self._library, call)(ctypes.byref(value), *arguments)
        self._require_success(call, code)
        return value.value

    def attribute(self, attribute: int, device: int) -> int:
        return self.number('cuDeviceGetAttribute', attribute, device)

    def name(self, device: int) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        code = self._library.cuDeviceGetName(text, _NAME_BYTES, device)
        self._require_success('cuDeviceGetName', code)
        return text.value.decode(errors='replace')

    def memory_bytes(self, device: int) -> int:
        size = ctypes.c_size_t()
        code = self._library.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        self._require_success('cuDeviceTotalMem_v2', code)
        return size.value

    def _require_success(self, call: str, code: int) -> None:
        if code:
            raise BackendUnavailableError(
                f'the NVIDIA driver does not start ({call} gave {self._meaning(code)})',
                fix='after an update of the driver, restart; nvidia-smi shows more')

    def _meaning(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return f'{code}: {text.value.decode(errors="replace")}' if text.value else str(code)


def _no_device(count: int) -> BackendUnavailableError:
    return BackendUnavailableError(
        f'the NVIDIA driver is here, but {count or "no"} GPU', 'one that may be used',
        'see CUDA_VISIBLE_DEVICES and, in a container, NVIDIA_VISIBLE_DEVICES')


class DeviceMemory(Protocol):
    """
    What a backend needs of a device.

    A buffer has shape, dtype, `is_contiguous` and `data_ptr`, and on the host `numpy`, as torch's
    tensors have. If `computes`, it is one, and torch computes on it where it is.

    """

    computes: bool

    @property
    def device(self) -> Any:
        """Name of the device, torch's where that computes."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream that everything is enqueued on; not the default one."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate on the device; where it is full, the error raised is one that `is_full`."""
        ...

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate on the host, where copies to and from the device need not wait."""
        ...

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Any, Any]:
        """Allocate what engines read and what the host fills for them; may be the same buffer."""
        ...

    def copy(self, target: Any, source: Any) -> None:
        """Enqueue a copy in either direction; does nothing if both are the same buffer."""
        ...

    def active(self) -> Any:
        """Return a context in which this thread works on the device, and torch on the stream."""
        ...

    def wait(self) -> None:
        """Wait for everything that was enqueued; errors of the device are raised here."""
        ...

    def mark(self) -> Any:
        """Enqueue a mark of time."""
        ...

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks that were waited for."""
        ...

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record what `work` enqueues without running it; return a function that runs it."""
        ...

    def is_full(self, error: BaseException) -> bool:
        """Say whether an error means that there is no memory left."""
        ...

    def close(self) -> None:
        """Release cached memory; buffers belong to their holders."""
        ...


class TorchCuda:
    """
    `DeviceMemory` of a GPU, through torch.

    Parameters
    ----------
    index : int
        Which GPU.
    is_mapped : bool
        Whether it shares its memory with the processor, as on a Jetson: engines then read pinned
        memory in place. CUDA maps it at the same address on every 64-bit system.

    Raises
    ------
    BackendUnavailableError
        If torch is not installed, or is one without CUDA.

    """

    computes = True

    def __init__(self, index: int = 0, is_mapped: bool = False) -> None:
        self._is_mapped = is_mapped
        self._torch: Any = _cuda_torch()
        self.device: Any = self._torch.device('cuda', index)
        self._stream: Any = self._torch.cuda.Stream(self.device)

    @property
    def stream(self) -> int:
        """Handle of a stream of its own."""
        return int(self._stream.cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate on the device; torch aligns to 512 bytes."""
        with self.active():
            return self._torch.empty(shape, dtype=torch_dtype(dtype), device=self.device)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Allocate pinned memory."""
        return self._torch.empty(shape, dtype=torch_dtype(dtype), pin_memory=True)

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Any, Any]:
        """Allocate one pinned buffer where memory is mapped, else one on each side."""
        filled = self.host(shape, dtype)
        return (filled if self._is_mapped else self.empty(shape, dtype)), filled

    def copy(self, target: Any, source: Any) -> None:
        """Enqueue a copy."""
        if target is source:
            return
        with self.active():
            target.copy_(source, non_blocking=True)

    def active(self) -> Any:
        """Return a context in which torch enqueues on the stream."""
        return self._torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def mark(self) -> Any:
        """Enqueue an event."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two events."""
        return float(start.elapsed_time(end))

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record a CUDA graph; what it needs must have been enqueued once before."""
        graph = self._torch.cuda.CUDAGraph()
        self.wait()
        # Another thread may allocate meanwhile; only this thread's calls belong to the graph.
        with self._torch.cuda.graph(graph, stream=self._stream,
                                    capture_error_mode='thread_local'):
            work()

        def replay() -> None:
            with self.active():
                graph.replay()

        return replay

    def is_full(self, error: BaseException) -> bool:
        """Recognise torch's own class too."""
        is_torch = isinstance(error, self._torch.cuda.OutOfMemoryError)
        return is_torch or is_memory_full(error)

    def close(self) -> None:
        """Release torch's cached memory."""
        self._torch.cuda.empty_cache()


class CudaBuffer:
    """
    Memory of a GPU, or pinned memory of the host, as much of a tensor as engines need.

    It is freed with the object.

    """

    def __init__(
        self, shape: tuple[int, ...], dtype: DTypeLike, address: int,
        free: Callable[[int], object], is_host: bool,
    ) -> None:
        self.shape, self.dtype, self._address, self._is_host = (
            shape, np.dtype(dtype), address, is_host)
        self.nbytes = _bytes_of(shape, dtype)
        # At the end of the process CUDA may have ended before.
        weakref.finalize(self, free, address).atexit = False

    def data_ptr(self) -> int:
        """Return the address."""
        return self._address

    def is_contiguous(self) -> bool:
        """Return True."""
        return True

    def numpy(self) -> NDArray[Any]:
        """Return the memory as an array, which must not outlive the buffer; of the host only."""
        if not self._is_host:
            raise BackendError('memory of the GPU was read by the host', 'a copy of it')
        raw = (ctypes.c_uint8 * self.nbytes).from_address(self._address)
        return np.ctypeslib.as_array(raw).view(self.dtype).reshape(self.shape)


class CudaMemory:
    """
    `DeviceMemory` of a GPU through cuda-python, where there is no torch with CUDA.

    Parameters
    ----------
    index, is_mapped : int, bool
        As `TorchCuda`.
    runtime : module, optional
        By default `cuda.bindings.runtime`; tests pass a stand-in.

    Raises
    ------
    BackendUnavailableError
        If cuda-python is not installed, or finds no GPU.

    """

    computes = False

    def __init__(self, index: int = 0, is_mapped: bool = False, runtime: Any = None) -> None:
        self._cuda: Any = runtime or _cuda_python()
        self._is_mapped, self._index = is_mapped, index
        self.device = f'cuda:{index}'
        try:
            self._call('cudaSetDevice', index)
            self._handle: Any = self._call('cudaStreamCreateWithFlags',
                                           self._cuda.cudaStreamNonBlocking)
        except BackendError as err:
            raise BackendUnavailableError(f'cuda-python finds no GPU that works ({err})') from err
        weakref.finalize(self, self._cuda.cudaStreamDestroy, self._handle).atexit = False

    @property
    def stream(self) -> int:
        """Handle of a stream of its own."""
        return int(self._handle)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> CudaBuffer:
        """Allocate on the device; CUDA aligns to 256 bytes at least."""
        with self.active():
            address = int(self._call('cudaMalloc', max(1, _bytes_of(shape, dtype))))
        return CudaBuffer(shape, dtype, address, self._cuda.cudaFree, False)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> CudaBuffer:
        """Allocate pinned memory, which engines may read where it is mapped."""
        kind = self._cuda.cudaHostAllocMapped if self._is_mapped else \
            self._cuda.cudaHostAllocDefault
        with self.active():
            address = int(self._call('cudaHostAlloc', max(1, _bytes_of(shape, dtype)), kind))
        return CudaBuffer(shape, dtype, address, self._cuda.cudaFreeHost, True)

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[CudaBuffer, CudaBuffer]:
        """Allocate one pinned buffer where memory is mapped, else one on each side."""
        filled = self.host(shape, dtype)
        return (filled if self._is_mapped else self.empty(shape, dtype)), filled

    def copy(self, target: CudaBuffer, source: CudaBuffer) -> None:
        """Enqueue a copy; CUDA sees by the addresses which way it goes."""
        if target is source:
            return
        if target.nbytes != source.nbytes:
            raise BackendError(f'a copy of {source.nbytes} bytes into {target.nbytes}')
        self._call('cudaMemcpyAsync', target.data_ptr(), source.data_ptr(), source.nbytes,
                   self._cuda.cudaMemcpyKind.cudaMemcpyDefault, self._handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device that of this thread."""
        self._call('cudaSetDevice', self._index)
        yield

    def wait(self) -> None:
        """Wait for the stream."""
        self._call('cudaStreamSynchronize', self._handle)

    def mark(self) -> Any:
        """Enqueue an event."""
        event = _Handle(self._call('cudaEventCreate'), self._cuda.cudaEventDestroy)
        self._call('cudaEventRecord', event.value, self._handle)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two events."""
        return float(self._call('cudaEventElapsedTime', start.value, end.value))

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record a CUDA graph; what it needs must have been enqueued once before."""
        self.wait()
        # Another thread may allocate meanwhile; only this thread's calls belong to the graph.
        self._call('cudaStreamBeginCapture', self._handle,
                   self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            # So that the stream can be used again; what went wrong is raised already.
            self._cuda.cudaStreamEndCapture(self._handle)
            self._cuda.cudaGetLastError()
            raise
        graph = _Handle(self._call('cudaStreamEndCapture', self._handle),
                        self._cuda.cudaGraphDestroy)
        made = _Handle(self._call('cudaGraphInstantiate', graph.value, 0),
                       self._cuda.cudaGraphExecDestroy)

        def replay() -> None:
            self._call('cudaGraphLaunch', made.value, self._handle)

        return replay

    def is_full(self, error: BaseException) -> bool:
        """Recognise Python's error, and what CUDA says."""
        return is_memory_full(error)

    def close(self) -> None:
        """Do nothing: memory is freed with its buffers."""

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CUDA's runtime and return what it gives besides its code."""
        code, *given = getattr(self._cuda, name)(*arguments)
        if code != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(code)
            words = text.decode(errors='replace') if isinstance(text, bytes) else str(text)
            if code == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
                raise MemoryError(f'{name}: {words}')
            raise BackendError(f'{name} gave {int(code)}: {words}')
        return given[0] if given else None


class _Handle:
    """An object of CUDA that is destroyed with this one."""

    def __init__(self, value: Any, destroy: Callable[[Any], object]) -> None:
        self.value = value
        weakref.finalize(self, destroy, value).atexit = False


def open_memory(index: int = 0, is_mapped: bool = False) -> DeviceMemory:
    """
    Open the memory of a GPU: through torch, and otherwise through cuda-python.

    Raises BackendUnavailableError, with both reasons, if neither is here.

    """
    try:
        return TorchCuda(index, is_mapped)
    except BackendUnavailableError as err:
        reason = err
    try:
        memory = CudaMemory(index, is_mapped)
    except BackendUnavailableError as err:
        raise BackendUnavailableError(
            f'neither torch nor cuda-python can hold buffers ({reason}; {err})',
            fix='pip install torch, or the smaller cuda-bindings of your CUDA; on a Jetson take '
                'the torch that NVIDIA builds for its JetPack') from err
    _log.info('buffers by cuda-python, masks and sums on the host: %s', reason)
    return memory


def work_ranges() -> Callable[[str], AbstractContextManager[object]]:
    """
    Return what names a stretch of work for NVIDIA's profilers.

    It does nothing unless $UNCERTAINTY_SEG_NVTX is 1, nor where neither the package nvtx nor a
    torch with CUDA is here, which is logged.

    """
    if os.environ.get(NVTX_VARIABLE) != '1':
        return nullcontext
    try:
        return partial(importlib.import_module('nvtx').annotate, domain='uncertainty_seg')
    except ImportError:
        pass
    try:
        return partial(_cuda_torch().cuda.nvtx.range)
    except BackendUnavailableError as err:
        _log.warning('%s=1 names nothing: pip install nvtx (%s)', NVTX_VARIABLE, err)
    return nullcontext


def says_full(text: str) -> bool:
    """Say whether a message of CUDA or TensorRT means that there is no memory left."""
    return any(words in text.lower() for words in _FULL)


def is_memory_full(error: BaseException) -> bool:
    """Say whether an error of Python, torch or CUDA means that there is no memory left."""
    # Pinned memory that is full is a bare RuntimeError in torch.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and says_full(str(error)))


def torch_dtype(dtype: DTypeLike) -> Any:
    """Return torch's type of the same name."""
    import torch

    return getattr(torch, np.dtype(dtype).name)


def _bytes_of(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _cuda_python() -> Any:
    try:
        return importlib.import_module('cuda.bindings.runtime')
    except ImportError as err:
        raise BackendUnavailableError(
            f'cuda-python cannot be imported ({err})', fix='pip install cuda-bindings') from err


def _cuda_torch() -> Any:
    try:
        import torch
    except ImportError as err:
        raise BackendUnavailableError(
            f'torch cannot be imported ({err})', 'torch with CUDA, which holds the buffers',
            'pip install torch; on a Jetson take the wheel that NVIDIA builds for its JetPack',
        ) from err
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f'torch {torch.__version__} finds no CUDA', 'torch built with CUDA',
            'on a Jetson take the wheel that NVIDIA builds for its JetPack')
    return torch
