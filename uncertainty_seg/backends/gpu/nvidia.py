# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Access to NVIDIA's libraries: CUDA through cuda-python, and the supported versions of TensorRT.

An engine needs addresses and a stream handle; `CudaMemory` allocates both, copies data and records
CUDA graphs. Nothing is computed here. The driver is queried before TensorRT is used: without a
driver, TensorRT 11's runtime returns an object that crashes the process when it is used.

TensorRT 10.3 to 11 and TensorRT-RTX use the same names with different numbers: bit 1 of the
network's creation flags means "strongly typed" in 10.x and something else in 11.x. So every flag
is looked up by name, and missing features are detected by attribute. Only `load_tensorrt` and
`load_cuda` import these libraries; tests pass substitutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import ctypes
from dataclasses import dataclass
import importlib
import logging
import math
from pathlib import Path
import re
from typing import Any, TypeAlias
import weakref

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uncertainty_seg.errors import BackendError, BackendUnavailableError

_LIBRARY = 'libcuda.so.1'
# Files with the driver's release: the kernel module's on desktops, the system's on a Jetson.
RELEASES = (Path('/proc/driver/nvidia/version'), Path('/etc/nv_tegra_release'))
# '... Kernel Module  560.35.03 ...', '# R36 (release), REVISION: 4.3, ...'
_RELEASE = re.compile(r'Module.*?\s\s+(\d[\d.]+)|(R\d+) \(release\), REVISION: ([\d.]+)')
Replay: TypeAlias = Callable[[], None]
# Texts by which CUDA and TensorRT report full memory without a specific exception class.
_FULL = ('out of memory', 'outofmemory', 'could not be allocated')


@dataclass(frozen=True)
class CudaDevice:
    """Properties of a GPU that engines and buffers depend on."""

    name: str  # The driver's name of the GPU, such as 'Orin' or 'NVIDIA GeForce RTX 4070'.
    compute_capability: str  # '8.7'
    # The CUDA version that the driver supports, and the driver's release if the system reports
    # it: '12.6', '12.6 560.35.03'.
    driver: str
    multiprocessors: int  # Differs between boards of the same name.
    is_integrated: bool  # Whether it shares memory with the CPU, as on a Jetson.


def find_device(cuda: Any = None, releases: Sequence[Path] = RELEASES) -> CudaDevice:
    """
    Return the first GPU that CUDA_VISIBLE_DEVICES permits.

    `cuda` is by default `load_cuda()`; `releases` are files in which the system names the release
    of the driver. Raises BackendUnavailableError if the driver or cuda-python is not installed,
    the driver does not start, or there is no GPU.
    """
    cuda = cuda or load_cuda()
    try:
        count = call_cuda(cuda, 'cudaGetDeviceCount')
        version = call_cuda(cuda, 'cudaDriverGetVersion')
        found = call_cuda(cuda, 'cudaGetDeviceProperties', 0) if count else None
    except BackendError as err:
        raise BackendUnavailableError(
            f'the NVIDIA driver does not start ({err})',
            fix='after an update of the driver, restart; nvidia-smi shows more') from err
    if found is None:
        raise BackendUnavailableError(
            'the NVIDIA driver finds no GPU', 'at least one visible GPU',
            'see CUDA_VISIBLE_DEVICES and, in a container, NVIDIA_VISIBLE_DEVICES')
    driver = (f'{version // 1000}.{version % 1000 // 10}', *_driver_releases(releases))
    return CudaDevice(
        found.name.decode(errors='replace').rstrip('\0'), f'{found.major}.{found.minor}',
        ' '.join(driver), found.multiProcessorCount, bool(found.integrated))


def _driver_releases(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the driver's releases; a driver update may not change the CUDA version."""
    for path in paths:
        try:
            found = _RELEASE.search(path.read_text(encoding='ascii', errors='replace'))
        except OSError:  # no system has all of these files
            continue
        if found:
            yield '.'.join(filter(None, found.groups()))


def available_bytes(meminfo: Path = Path('/proc/meminfo')) -> int:
    """Return the memory available to processes in bytes; 0 if the system does not report it."""
    try:
        found = re.search(r'^MemAvailable:\s*(\d+) kB', meminfo.read_text(encoding='ascii'),
                          re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found[1]) * 1024 if found else 0


def load_cuda() -> Any:
    """Import `cuda.bindings.runtime`; raises BackendUnavailableError without driver or package."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as err:
        raise BackendUnavailableError(
            f'no NVIDIA driver on this machine ({_LIBRARY} cannot be loaded: {err})',
            fix='install the driver; in a container, start it with the NVIDIA runtime') from err
    try:
        return importlib.import_module('cuda.bindings.runtime')
    except ImportError as err:
        raise BackendUnavailableError(
            f'cuda-python cannot be imported ({err})', 'cuda-bindings of the installed CUDA',
            "pip install cuda-bindings; with CUDA 12, as on a Jetson, 'cuda-bindings<13'",
        ) from err


def call_cuda(cuda: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; MemoryError if memory is full, else BackendError."""
    code, *given = getattr(cuda, name)(*arguments)
    if code != cuda.cudaError_t.cudaSuccess:
        _, text = cuda.cudaGetErrorString(code)
        words = text.decode(errors='replace') if isinstance(text, bytes) else str(text)
        if code == cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError(f'{name}: {words}')
        raise BackendError(f'{name} gave {int(code)}: {words}')
    return given[0] if given else None


def says_full(text: str) -> bool:
    """Return whether a message of CUDA or TensorRT means that memory is full."""
    return any(words in text.lower() for words in _FULL)


class CudaBuffer:
    """GPU memory, or pinned host memory, that is freed with the object."""

    def __init__(
        self, shape: tuple[int, ...], dtype: DTypeLike, address: int,
        free: Callable[[int], object], is_host: bool,
    ) -> None:
        self.shape, self.dtype, self.address = shape, np.dtype(dtype), address
        self.nbytes = _bytes_of(shape, dtype)
        self._is_host = is_host
        # Not called at exit, since CUDA may already have shut down.
        weakref.finalize(self, free, address).atexit = False

    def numpy(self) -> NDArray[Any]:
        """Return host memory as an array, which must not outlive the buffer."""
        if not self._is_host:
            raise BackendError('memory of the GPU was read by the host', 'a copy of it')
        raw = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        return np.ctypeslib.as_array(raw).view(self.dtype).reshape(self.shape)


class CudaMemory:
    """
    Buffers and one non-default stream of the first GPU, through cuda-python.

    `is_mapped` means that the GPU shares memory with the CPU, as on a Jetson: engines then read
    pinned memory in place, which CUDA maps at the same address on every 64-bit system. Raises
    BackendUnavailableError if cuda-python is not installed, or finds no GPU.
    """

    def __init__(self, is_mapped: bool = False, cuda: Any = None) -> None:
        self._cuda: Any = cuda or load_cuda()
        self._is_mapped = is_mapped
        try:
            self._call('cudaSetDevice', 0)
            self._handle: Any = self._call('cudaStreamCreateWithFlags',
                                           self._cuda.cudaStreamNonBlocking)
        except BackendError as err:
            raise BackendUnavailableError(f'cuda-python finds no GPU that works ({err})') from err
        weakref.finalize(self, self._cuda.cudaStreamDestroy, self._handle).atexit = False
        self._end = self.event()

    @property
    def stream(self) -> int:
        """Handle of the stream on which all work is enqueued; not the default stream."""
        return int(self._handle)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> CudaBuffer:
        """Allocate device memory; CUDA aligns it to at least 256 bytes."""
        address = int(self._call('cudaMalloc', max(1, _bytes_of(shape, dtype))))
        return CudaBuffer(shape, dtype, address, self._cuda.cudaFree, False)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> CudaBuffer:
        """Allocate pinned host memory, which engines can read if it is mapped."""
        kind = self._cuda.cudaHostAllocMapped if self._is_mapped else \
            self._cuda.cudaHostAllocDefault
        address = int(self._call('cudaHostAlloc', max(1, _bytes_of(shape, dtype)), kind))
        return CudaBuffer(shape, dtype, address, self._cuda.cudaFreeHost, True)

    def inlet(self, shape: tuple[int, ...], dtype: DTypeLike) -> Inlet:
        """Allocate memory that the host fills and engines read."""
        host = self.host(shape, dtype)
        return Inlet(self, host, host if self._is_mapped else self.empty(shape, dtype))

    def copy(self, target: CudaBuffer, source: CudaBuffer, rows: int | None = None) -> None:
        """
        Enqueue a copy of all or the first rows between buffers of equal shape and dtype.

        CUDA infers the direction, host or device, from the addresses.
        """
        if target is source:
            return
        if (target.shape, target.dtype) != (source.shape, source.dtype):
            raise BackendError(f'a copy of {source.dtype} {source.shape} into '
                               f'{target.dtype} {target.shape}')
        shape = source.shape if rows is None else (rows, *source.shape[1:])
        self._call('cudaMemcpyAsync', target.address, source.address,
                   _bytes_of(shape, source.dtype),
                   self._cuda.cudaMemcpyKind.cudaMemcpyDefault, self._handle)

    def activate(self) -> None:
        """Select the device for the calling thread, whose default device may be another."""
        self._call('cudaSetDevice', 0)

    def wait(self) -> None:
        """
        Wait for all enqueued work; errors of the device are raised here.

        The thread sleeps while it waits; by default CUDA would spin and occupy a core.
        """
        self.mark(self._end)
        self._call('cudaEventSynchronize', self._end.value)

    def event(self) -> Handle:
        """Return a reusable event for time measurement."""
        return Handle(self._call('cudaEventCreateWithFlags', self._cuda.cudaEventBlockingSync),
                      self._cuda.cudaEventDestroy)

    def mark(self, event: Handle) -> None:
        """Enqueue the recording of an event."""
        self._call('cudaEventRecord', event.value, self._handle)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Return the milliseconds between two completed events."""
        return float(self._call('cudaEventElapsedTime', start.value, end.value))

    def capture(self, work: Callable[[], None]) -> Replay:
        """
        Record the work that `work` enqueues as a CUDA graph, without running it; return a replay.

        The same work must have run once before.
        """
        self.wait()
        # Thread-local, since another thread may allocate memory during the capture.
        self._call('cudaStreamBeginCapture', self._handle,
                   self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            # Makes the stream usable again; the original error is raised below.
            self._cuda.cudaStreamEndCapture(self._handle)
            self._cuda.cudaGetLastError()
            raise
        graph = Handle(self._call('cudaStreamEndCapture', self._handle),
                       self._cuda.cudaGraphDestroy)
        made = Handle(self._call('cudaGraphInstantiate', graph.value, 0),
                      self._cuda.cudaGraphExecDestroy)
        return lambda: self._call('cudaGraphLaunch', made.value, self._handle)

    def _call(self, name: str, *arguments: Any) -> Any:
        return call_cuda(self._cuda, name, *arguments)


class Inlet:
    """Memory that the host fills and engines read: one buffer if memory is mapped, else two."""

    def __init__(self, memory: CudaMemory, host: CudaBuffer, buffer: CudaBuffer) -> None:
        self._memory, self._host, self.buffer = memory, host, buffer

    def fill(self, rows: NDArray[Any]) -> None:
        """Fill the first rows and enqueue their copy; earlier content must have been read."""
        self._host.numpy()[:len(rows)] = rows
        self._memory.copy(self.buffer, self._host, len(rows))


class Handle:
    """A CUDA object that is destroyed together with this one."""

    def __init__(self, value: Any, destroy: Callable[[Any], object]) -> None:
        self.value = value
        weakref.finalize(self, destroy, value).atexit = False


def _bytes_of(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


# -------------------------------------------------------------------------------------------------

Shape: TypeAlias = tuple[int, ...]
# Full TensorRT first; the last is the module that TensorRT-RTX wheels install.
MODULES = ('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings')
OLDEST = (10, 3)  # in JetPack 6.1; before 10, types are weak and opset 17 is the newest
_KEPT = 20  # errors kept for the message of an exception
# TensorRT's severity -> log level. Errors are only warnings here, since the caller raises them or
# recovers (from a stale engine).
_LEVELS = {'INTERNAL_ERROR': logging.WARNING, 'ERROR': logging.WARNING, 'WARNING': logging.INFO,
           'INFO': logging.DEBUG, 'VERBOSE': logging.DEBUG}
_log = logging.getLogger(__name__)


class TensorRt:
    """
    A TensorRT module and the features of its version.

    `module` is `tensorrt`, `tensorrt_rtx`, `tensorrt_rtx_bindings`, or an object with the same
    names; `version` includes the build number: '10.3.0', '1.7.1.116'. `is_rtx` is true for
    TensorRT-RTX, which numbers its versions from 1, builds for GPUs of other machines, and
    compiles kernels when an engine first runs. Raises BackendUnavailableError if TensorRT is older
    than `OLDEST`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.name: str = module.__name__.split('.')[0]
        self.version: str = str(module.__version__)
        self.is_rtx = self.name.startswith('tensorrt_rtx')
        number = tuple(int(part) for part in re.findall(r'\d+', self.version)[:2])
        if not self.is_rtx and number < OLDEST:
            raise BackendUnavailableError(
                f'TensorRT is {self.version}', '10.3 or newer', 'on a Jetson update to JetPack '
                '6.1 or newer; on a desktop: pip install --upgrade tensorrt')

    def creation_flags(self) -> int:
        """Return the bits for `Builder.create_network`: strongly typed, as the graph says."""
        # From 11 on, networks are always strongly typed, and the flag may be missing.
        flag = getattr(self.module.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
        return 0 if flag is None else 1 << int(flag)

    def logger(self) -> Any:
        """
        Return a logger for `Builder`, `OnnxParser` or `Runtime`; it must outlive that object.

        It receives messages from any of TensorRT's threads. Its `reason()` returns the errors
        since the last call as one text for an exception.
        """
        base = self.module.ILogger
        names = {getattr(base.Severity, name): name for name in _LEVELS}

        class Logger(base):  # type: ignore[misc, valid-type]

            def __init__(self) -> None:
                base.__init__(self)  # by name: pybind11 advises against super()
                self._errors: deque[str] = deque(maxlen=_KEPT)

            def log(self, severity: Any, msg: str) -> None:
                name = names.get(severity, 'ERROR')
                if name in ('INTERNAL_ERROR', 'ERROR'):
                    self._errors.append(msg.strip())
                _log.log(_LEVELS[name], 'TensorRT: %s', msg.strip())

            def reason(self) -> str:
                text = '; '.join(dict.fromkeys(self._errors))
                self._errors.clear()
                return text or 'TensorRT gave no reason'

        return Logger()


def load_tensorrt(import_module: Callable[[str], Any] = importlib.import_module) -> TensorRt:
    """
    Import TensorRT, or else TensorRT-RTX; call `find_device` first, since no GPU is checked here.

    Raises BackendUnavailableError with every reason if none can be imported, or if the first that
    can be imported is too old.
    """
    reasons = []
    for name in MODULES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as err:
            # Reported only if the module is installed and lacks a dependency.
            if err.name != name:
                reasons.append(f'{name}: {err}')
        except Exception as err:  # a missing driver library may raise anything
            reasons.append(f'{name}: {err}')
        else:
            return TensorRt(module)
    came = '; '.join(reasons) or f'none of {", ".join(MODULES)} is installed'
    raise BackendUnavailableError(
        f'TensorRT cannot be imported ({came})',
        fix='on a Jetson it comes with JetPack (apt install python3-libnvinfer) and a virtual '
        'environment needs --system-site-packages; on a desktop: pip install tensorrt')
