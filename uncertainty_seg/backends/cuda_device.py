# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Whether there is an NVIDIA GPU, asked of the driver alone.

It comes before TensorRT is touched: where the driver is missing, the runtime of TensorRT 11 gives
an object that ends the process when it is used. Neither CUDA's toolkit nor torch is needed.

"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from uncertainty_seg.errors import BackendUnavailableError

_LIBRARY = 'libcuda.so.1'
_NAME_BYTES = 256
# Of enum CUdevice_attribute, which CUDA never renumbers.
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


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
        The driver's library, opened; a test's stands in for it.
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


def _open_library() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as err:
        raise BackendUnavailableError(
            f'no NVIDIA driver on this machine ({_LIBRARY} cannot be loaded: {err})',
            fix='install the driver; in a container, start it with the NVIDIA runtime') from err


class _Driver:
    """The few calls that are needed, each checked."""

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
                fix='after an update of the driver, restart; nvidia-smi tells more')

    def _meaning(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return f'{code}: {text.value.decode(errors="replace")}' if text.value else str(code)


def _no_device(count: int) -> BackendUnavailableError:
    return BackendUnavailableError(
        f'the NVIDIA driver is here, but {count or "no"} GPU', 'one that may be used',
        'see CUDA_VISIBLE_DEVICES and, in a container, NVIDIA_VISIBLE_DEVICES')
