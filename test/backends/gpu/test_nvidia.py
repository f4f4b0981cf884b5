# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The package's calls of CUDA (cuda-python) and of TensorRT's versions, and their failures.

CUDA is a fake, whose names, arguments and values are compared with the real package if that is
installed. These tests were developed without a GPU.
"""

from enum import IntEnum
import inspect
import json
import logging
import os
from pathlib import Path
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt
import numpy as np
import pytest

from uncertainty_seg.backends.gpu import nvidia
from uncertainty_seg.backends.gpu.nvidia import (
    available_bytes,
    CudaDevice,
    CudaMemory,
    find_device,
    load_tensorrt,
    TensorRt,
)
from uncertainty_seg.errors import BackendError, BackendUnavailableError

VALUES = ('cudaError_t.cudaSuccess', 'cudaError_t.cudaErrorMemoryAllocation',
          'cudaError_t.cudaErrorStreamCaptureUnsupported', 'cudaHostAllocDefault',
          'cudaError_t.cudaErrorStreamCaptureInvalidated', 'cudaHostAllocMapped',
          'cudaError_t.cudaErrorInsufficientDriver', 'cudaStreamNonBlocking',
          'cudaMemcpyKind.cudaMemcpyDefault', 'cudaEventBlockingSync',
          'cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal')
LOOK = """
import json, sys
from functools import reduce
from cuda.bindings import runtime
names, values, fields = json.loads(sys.argv[1])
found = runtime.cudaDeviceProp()
print(json.dumps([{name: getattr(runtime, name).__doc__.split(chr(10))[0] for name in names},
                  {name: int(reduce(getattr, name.split('.'), runtime)) for name in values},
                  [name for name in fields if not hasattr(found, name)]]))
"""


def test_the_stand_in_is_what_cuda_python_is() -> None:
    folder = os.environ.get('UNCERTAINTY_SEG_RTX17', '')
    if not Path(folder, 'cuda', 'bindings').is_dir():
        pytest.skip('cuda-bindings is not in the folder of UNCERTAINTY_SEG_RTX17: scripts/test '
                    'installs it')
    ours = {name: kind for name, kind in inspect.getmembers(FakeCuda, inspect.isfunction)
            if name.startswith('cuda')}
    fields = list(vars(FakeCuda().cudaGetDeviceProperties(0)[1]))
    done = subprocess.run(
        [sys.executable, '-c', LOOK, json.dumps([list(ours), VALUES, fields])],
        capture_output=True, text=True, check=True, env={**os.environ, 'PYTHONPATH': folder})
    theirs, values, lacking = json.loads(done.stdout)
    assert len(ours) > 15 and not lacking
    for name, function in ours.items():
        inside = re.fullmatch(rf'{name}\((.*)\)', theirs[name])
        assert inside is not None, theirs[name]
        # 'size_t count', 'kind: cudaMemcpyKind', 'stream'
        taken = [part.split(':')[0].split()[-1] for part in inside[1].split(',') if part]
        assert taken == list(inspect.signature(function).parameters)[1:], theirs[name]
    for name, value in values.items():
        found: Any = FakeCuda
        for part in name.split('.'):
            found = getattr(found, part)
        assert int(found) == value, name


# The device -------------------------------------------------------------------------------------


def test_what_the_driver_says_is_what_is_given() -> None:
    cuda = FakeCuda()
    cuda.is_integrated = True
    assert find_device(cuda, []) == CudaDevice('Fake', '8.6', '12.6', 20, True)


@pytest.mark.parametrize(('texts', 'found'), [
    (['NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16 21:39:15 UTC 2024\n'
      'GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)'], '12.6 560.35.03'),
    (['NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build',
      '# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic'], '12.6 540.4.0 R36.4.3'),
    (['nothing of the kind'], '12.6')])
def test_an_update_of_the_driver_is_seen_where_cuda_stays_the_same(
    tmp_path: Path, texts: list[str], found: str
) -> None:
    paths = [tmp_path / str(index) for index in range(3)]  # the last is missing
    for path, text in zip(paths, texts, strict=False):
        path.write_text(text)
    assert find_device(FakeCuda(), paths).driver == found


def test_no_library_is_no_driver_and_no_package_is_another_thing(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, '_LIBRARY', 'libcuda_that_is_not_there.so.1')
    with pytest.raises(BackendUnavailableError, match='libcuda_that_is_not_there'):
        find_device()
    monkeypatch.setattr(nvidia, '_LIBRARY', 'libc.so.6')
    monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', None)
    with pytest.raises(BackendUnavailableError, match='pip install cuda-bindings'):
        find_device()


@pytest.mark.parametrize('call', ['cudaGetDeviceCount', 'cudaDriverGetVersion',
                                  'cudaGetDeviceProperties'])
def test_no_call_that_fails_is_passed_over(call: str) -> None:
    cuda = FakeCuda()
    cuda.failing[call] = 35
    with pytest.raises(BackendUnavailableError, match=f'{call} gave 35: .*insufficient'):
        find_device(cuda)


def test_a_driver_without_a_gpu_is_told_from_no_driver() -> None:
    cuda = FakeCuda()
    cuda.devices = 0
    with pytest.raises(BackendUnavailableError, match='no GPU.*CUDA_VISIBLE_DEVICES'):
        find_device(cuda)
    with pytest.raises(BackendUnavailableError, match='no CUDA-capable'):
        CudaMemory(cuda=cuda)


@pytest.mark.parametrize(('content', 'found'), [
    ('MemTotal: 32000000 kB\nMemAvailable:    5000000 kB\nBuffers: 7 kB\n', 5_120_000_000),
    ('MemTotal: 32000000 kB\n', 0), ('\xff', 0)])
def test_free_memory_is_what_the_system_says_or_nothing(
    tmp_path: Path, content: str, found: int
) -> None:
    assert available_bytes(tmp_path / 'meminfo') == 0
    (tmp_path / 'meminfo').write_text(content, encoding='latin-1')
    assert available_bytes(tmp_path / 'meminfo') == found


# Its memory -------------------------------------------------------------------------------------


def test_what_is_enqueued_is_done_later_and_a_stream_survives_a_failed_recording() -> None:
    cuda = FakeCuda()
    memory = CudaMemory(cuda=cuda)

    def allocate() -> None:
        memory.empty((4,), np.float32)

    with pytest.raises(BackendError, match='cudaMalloc gave 900'):
        memory.capture(allocate)
    assert cuda.recorded is None
    one, other = memory.host((4,), np.float32), memory.host((4,), np.float32)
    one.numpy()[:] = 7
    memory.copy(other, one)
    assert np.isnan(other.numpy()).all()  # not before the stream is synchronized
    memory.wait()
    assert (other.numpy() == 7).all()


def test_what_the_host_fills_is_what_engines_read_and_no_more_of_it_than_was_filled() -> None:
    for is_mapped in (False, True):
        cuda = FakeCuda()
        memory = CudaMemory(is_mapped, cuda)
        inlet = memory.inlet((3, 2), np.float32)
        inlet.fill(np.ones((2, 2), np.float32))
        memory.wait()
        found = cuda.at('x', inlet.buffer.address, (3, 2), np.dtype(np.float32))
        assert (found[:2] == 1).all() and np.isnan(found[2]).all()
        assert len(cuda.live) == (1 if is_mapped else 2) and cuda.copied == 16 * (not is_mapped)


def test_memory_that_is_full_is_told_from_other_errors() -> None:
    cuda = FakeCuda(room=1000)
    memory = CudaMemory(cuda=cuda)
    kept = memory.empty((200,), np.float32)
    with pytest.raises(MemoryError, match='cudaMalloc: out of memory'):
        memory.empty((200,), np.float32)
    del kept
    memory.empty((200,), np.float32)
    cuda.failing['cudaEventSynchronize'] = 700
    with pytest.raises(BackendError, match='cudaEventSynchronize gave 700: an illegal'):
        memory.wait()
    with pytest.raises(BackendError, match='read by the host'):
        memory.empty((2,), np.float32).numpy()
    with pytest.raises(BackendError, match=r'\(2,\) into float32 \(4,\)'):
        memory.copy(memory.host((4,), np.float32), memory.host((2,), np.float32))


# TensorRT ---------------------------------------------------------------------------------------

# Values of the real modules: the same bit is another flag in another version.
CREATION = {'10.3.0': {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1},
            '11.4.0.106': {'STRONGLY_TYPED': 0, 'PREFER_JIT_PYTHON_PLUGINS': 1}, '12.0': {'X': 0}}


def module_of(version: str, name: str = 'tensorrt') -> Any:
    return SimpleNamespace(
        __name__=name, __version__=version,
        NetworkDefinitionCreationFlag=IntEnum('Creation', CREATION.get(version, {'X': 0})))


@pytest.mark.parametrize(('version', 'bits'), [('10.3.0', 0b10), ('11.4.0.106', 1), ('12.0', 0)])
def test_networks_are_strongly_typed_in_every_version(version: str, bits: int) -> None:
    assert TensorRt(module_of(version)).creation_flags() == bits


@pytest.mark.parametrize('version', ['8.6.1', '10.0.1', '10.2.9'])
def test_a_version_before_jetpack_6_1_is_refused(version: str) -> None:
    with pytest.raises(BackendUnavailableError, match=rf'{version}, expected 10.3.*JetPack 6.1'):
        load_tensorrt(lambda _: module_of(version))


def test_errors_are_kept_for_the_exception_and_warnings_are_not(
    caplog: pytest.LogCaptureFixture
) -> None:
    module = fake_tensorrt(FakeCuda())
    logger = TensorRt(module).logger()
    with caplog.at_level(logging.DEBUG):
        for severity, text in (('ERROR', 'no room\n'), ('WARNING', 'slow'), ('INFO', 'chat'),
                               ('INTERNAL_ERROR', 'worse'), ('ERROR', 'no room')):
            logger.log(module.ILogger.Severity[severity], text)
    assert [record.levelname for record in caplog.records] == [
        'WARNING', 'INFO', 'DEBUG', 'WARNING', 'WARNING']
    assert logger.reason() == 'no room; worse'
    assert logger.reason() not in ('', 'no room; worse')


def test_tensorrt_comes_before_rtx_and_what_is_missing_is_said() -> None:
    modules = {'tensorrt': module_of('10.3.0'), 'tensorrt_rtx': module_of('1.7', 'tensorrt_rtx')}

    def load(*names: str) -> str:
        def find(name: str) -> Any:
            if name not in names:
                raise ModuleNotFoundError(f'No module named {name!r}', name=name)
            return modules[name]
        return load_tensorrt(find).name

    def broken(name: str) -> Any:
        raise OSError('libnvinfer.so.10: cannot open shared object file')

    assert load('tensorrt', 'tensorrt_rtx') == 'tensorrt'
    assert load('tensorrt_rtx') == 'tensorrt_rtx'
    rtx = TensorRt(module_of('1.7.1.116', 'tensorrt_rtx_bindings.tensorrt_rtx'))
    assert rtx.is_rtx and '.' not in rtx.name
    with pytest.raises(BackendUnavailableError, match='tensorrt_rtx.*JetPack'):
        load()
    with pytest.raises(BackendUnavailableError, match='libnvinfer.so.10'):
        load_tensorrt(broken)
