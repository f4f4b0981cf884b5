# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The driver is asked for a GPU before anything else, and each way it can fail has its words."""

from __future__ import annotations

import ctypes
from pathlib import Path
import shutil
import subprocess

import pytest

from uncertainty_seg.backends.gpu import device as cuda_device
from uncertainty_seg.backends.gpu.device import available_bytes, CudaDevice, find_device
from uncertainty_seg.errors import BackendUnavailableError

ATTRIBUTES = {16: 14, 18: 1, 75: 8, 76: 7}
ORIN = CudaDevice('Orin', '8.7', '12.6', 14, 30 * 2**30, True)
# The functions of the driver that are called, in C, with the types of cuda.h.
STUB = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)30 << 30; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 16 ? 14 : attribute == 18 ? 1 : attribute == 75 ? 8 : 7; return 0; }
"""


class Driver:
    """A driver with one GPU; `failing` names the call that fails, and its code."""

    def __init__(self, count: int = 1, failing: tuple[str, int] = ('', 0)) -> None:
        self.count, self.failing = count, failing
        self.calls: list[str] = []

    def _give(self, call: str, pointer: object, value: object) -> int:
        self.calls.append(call)
        if call == self.failing[0]:
            return self.failing[1]
        if pointer is not None:
            pointer._obj.value = value
        return 0

    def cuInit(self, flags: int) -> int:
        return self._give('cuInit', None, flags)

    def cuDeviceGetCount(self, pointer: object) -> int:
        return self._give('cuDeviceGetCount', pointer, self.count)

    def cuDeviceGet(self, pointer: object, index: int) -> int:
        return self._give('cuDeviceGet', pointer, index + 40)

    def cuDriverGetVersion(self, pointer: object) -> int:
        return self._give('cuDriverGetVersion', pointer, 12060)

    def cuDeviceGetName(self, text: ctypes.Array, size: int, device: int) -> int:
        text.value = b'Orin'
        return self._give('cuDeviceGetName', None, device)

    def cuDeviceTotalMem_v2(self, pointer: object, device: int) -> int:
        return self._give('cuDeviceTotalMem_v2', pointer, 30 * 2**30)

    def cuDeviceGetAttribute(self, pointer: object, attribute: int, device: int) -> int:
        assert device >= 40  # the handle, not the index
        return self._give('cuDeviceGetAttribute', pointer, ATTRIBUTES[attribute])

    def cuGetErrorString(self, code: int, pointer: object) -> int:
        pointer._obj.value = b'system has unsupported display driver'
        return 0


def test_what_the_driver_says_is_what_is_given() -> None:
    assert find_device(Driver()) == ORIN


def test_the_types_are_those_of_the_drivers_header(tmp_path: object) -> None:
    if shutil.which('gcc') is None:
        pytest.skip('gcc is not here')
    source, library = tmp_path / 'stub.c', tmp_path / 'libcuda.so.1'
    source.write_text(STUB)
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', library, source], check=True)
    assert find_device(ctypes.CDLL(str(library))) == ORIN


def test_no_library_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, '_LIBRARY', 'libcuda_that_is_not_there.so.1')
    with pytest.raises(BackendUnavailableError, match='no NVIDIA driver on this machine'):
        find_device()


def test_a_driver_that_does_not_start_says_what_it_said() -> None:
    with pytest.raises(BackendUnavailableError,
                       match=r'cuInit gave 803: system has unsupported display driver'):
        find_device(Driver(failing=('cuInit', 803)))


@pytest.mark.parametrize('driver', [Driver(failing=('cuInit', 100)), Driver(count=0)])
def test_a_driver_without_a_gpu_is_told_from_no_driver(driver: Driver) -> None:
    with pytest.raises(BackendUnavailableError, match='driver is here, but no GPU'):
        find_device(driver)
    assert 'cuDeviceGet' not in driver.calls


def test_a_gpu_beyond_the_last_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match='but 1 GPU'):
        find_device(Driver(), index=1)


@pytest.mark.parametrize('call', ['cuDeviceGetName', 'cuDeviceGetAttribute', 'cuDriverGetVersion',
                                  'cuDeviceTotalMem_v2', 'cuDeviceGet', 'cuDeviceGetCount'])
def test_no_call_that_fails_is_passed_over(call: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f'{call} gave 999'):
        find_device(Driver(failing=(call, 999)))


@pytest.mark.parametrize(('content', 'found'), [
    (b'MemTotal:       32000000 kB\nMemAvailable:    5000000 kB\nBuffers: 7 kB\n', 5_120_000_000),
    (b'MemTotal:       32000000 kB\n', 0), (b'\xff\xfe', 0), (None, 0)])
def test_free_memory_is_what_the_system_says_or_nothing(
    tmp_path: Path, content: bytes | None, found: int
) -> None:
    if content is not None:
        (tmp_path / 'meminfo').write_bytes(content)
    assert available_bytes(tmp_path / 'meminfo') == found
