# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Buffers by cuda-python in the place of torch: the same maps, nothing leaked, errors in words.

The backend runs on stand-ins for TensorRT and for `cuda.bindings.runtime`; names, arguments and
values of the latter are compared with the real package where it is installed. No GPU was there.

"""

from __future__ import annotations

import gc
import inspect
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

from fake_cudart import CudartGpu, FakeCudart
from fake_tensorrt import fake_tensorrt, ViolationError
import numpy as np
import pytest
from tensorrt_rig import assert_close, bundles, IMAGE, reference, Rig, Rigs, rigs

from uncertainty_seg.backends.gpu import device as cuda_device
from uncertainty_seg.backends.gpu.device import CudaMemory, open_memory
from uncertainty_seg.backends.gpu.device_passes import SeededMasks
from uncertainty_seg.backends.gpu.tensorrt_api import TensorRt
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_probabilities,
    maps_from_sums,
    MORE_MAPS,
)
from uncertainty_seg.errors import BackendError, BackendUnavailableError

__all__ = ['bundles', 'rigs']  # fixtures
VALUES = ('cudaError_t.cudaSuccess', 'cudaError_t.cudaErrorMemoryAllocation',
          'cudaError_t.cudaErrorStreamCaptureUnsupported', 'cudaHostAllocDefault',
          'cudaError_t.cudaErrorStreamCaptureInvalidated', 'cudaHostAllocMapped',
          'cudaMemcpyKind.cudaMemcpyDefault', 'cudaStreamNonBlocking',
          'cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal')
LOOK = """
import json, sys
from functools import reduce
from cuda.bindings import runtime
names, values = json.loads(sys.argv[1])
print(json.dumps([{name: getattr(runtime, name).__doc__.split(chr(10))[0] for name in names},
                  {name: int(reduce(getattr, name.split('.'), runtime)) for name in values}]))
"""


def on_cudart(rig: Rig) -> FakeCudart:
    """Let a rig's engines run on the stand-in for cuda-python."""
    cudart = FakeCudart()
    rig.gpu = CudartGpu(rig.faults, cudart)
    rig.trt = TensorRt(fake_tensorrt(rig.gpu, rig.trt.version))
    return cudart


@pytest.mark.release
@pytest.mark.torch
@pytest.mark.parametrize('is_mapped', [False, True])
@pytest.mark.parametrize(('kind', 'version'), [
    ('channels', '10.3.0'), ('channels', '1.7.1.116'), ('chunk', '10.3.0'), ('elements', '8.6.1'),
    ('ensemble', '11.4.0.106'), ('both', '10.3.0')])
def test_maps_are_those_of_onnxruntime_and_nothing_is_leaked(
    rigs: Rigs, bundles: dict[str, Path], kind: str, version: str, is_mapped: bool
) -> None:
    rig = rigs(bundles[kind], version=version)
    cudart = on_cudart(rig)
    rig.build()
    with rig.open(memory=CudaMemory(0, is_mapped, cudart)) as backend:
        for seed in (3, 3, 4):
            wanted = reference(rig, pass_inputs(rig.card, rig.passes, seed), 1.5)
            for masks in (pass_inputs(rig.card, rig.passes, seed),
                          SeededMasks(rig.card, rig.passes, seed)):
                assert_close(backend.run(IMAGE, masks, 1.5), wanted, rig.passes)
        assert backend.is_recorded
        assert backend.timings_ms['trunk'] == 0.25
    assert cudart.captured >= 2 and cudart.launched > cudart.captured
    del backend
    gc.collect()
    assert cudart.live == {} and cudart.handles == []


@pytest.mark.torch
@pytest.mark.parametrize('reduction', ['exact', 'coarse'])
def test_every_map_on_request_is_the_one_of_torch(
    rigs: Rigs, bundles: dict[str, Path], reduction: str
) -> None:
    request = MapRequest(frozenset(MORE_MAPS) & {'margin', 'unknown', 'energy', 'max_logit'})
    found = []
    for is_cudart in (False, True):
        rig = rigs(bundles['channels'], reduction=reduction)
        memory = CudaMemory(runtime=on_cudart(rig)) if is_cudart else rig.gpu
        rig.build()
        with rig.open(memory=memory) as backend:
            found.append(backend.run(IMAGE, pass_inputs(rig.card, rig.passes, 0), 1.0, request))
    assert found[0].present == found[1].present
    for name in found[0].present:
        one, other = (np.asarray(getattr(maps, name), np.float64) for maps in found)
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.torch
def test_a_graph_that_could_not_be_recorded_leaves_a_stream_that_works(
    rigs: Rigs, bundles: dict[str, Path]
) -> None:
    rig = rigs(bundles['channels'], version='1.7.1.116')
    cudart = on_cudart(rig)
    rig.build()
    masks = pass_inputs(rig.card, rig.passes, 0)
    with rig.open(memory=CudaMemory(runtime=cudart)) as backend:
        cudart.failing['cudaStreamBeginCapture'] = 901
        assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
        assert not backend.is_recorded
        del cudart.failing['cudaStreamBeginCapture']
        for _ in range(2):
            assert_close(backend.run(IMAGE, masks, 1.0), reference(rig, masks), rig.passes)
        assert backend.is_recorded


def test_work_that_fails_while_it_is_recorded_ends_the_recording() -> None:
    cudart = FakeCudart()
    memory = CudaMemory(runtime=cudart)

    def allocate() -> None:
        memory.empty((4,), np.float32)

    with pytest.raises(BackendError, match='cudaMalloc gave 900: some error'):
        memory.capture(allocate)
    assert cudart.recorded is None
    one, other = memory.host((4,), np.float32), memory.host((4,), np.float32)
    one.numpy()[:] = 7
    memory.copy(other, one)
    assert np.isnan(other.numpy()).all()  # not before the stream was waited for
    memory.wait()
    assert (other.numpy() == 7).all()


def test_memory_that_is_full_is_told_from_other_errors() -> None:
    cudart = FakeCudart(room=1000)
    memory = CudaMemory(runtime=cudart)
    kept = memory.empty((200,), np.float32)
    with pytest.raises(MemoryError, match='cudaMalloc: out of memory') as full:
        memory.empty((200,), np.float32)
    assert memory.is_full(full.value)
    del kept
    memory.empty((200,), np.float32)
    cudart.failing['cudaStreamSynchronize'] = 700
    with pytest.raises(BackendError, match='cudaStreamSynchronize gave 700: an illegal') as other:
        memory.wait()
    assert not memory.is_full(other.value)
    with pytest.raises(BackendError, match='memory of the GPU was read by the host'):
        memory.empty((2,), np.float32).numpy()
    with pytest.raises(BackendError, match='a copy of 8 bytes into 16'):
        memory.copy(memory.host((4,), np.float32), memory.host((2,), np.float32))


def test_memory_that_was_freed_must_not_be_copied() -> None:
    cudart = FakeCudart()
    memory = CudaMemory(runtime=cudart)
    one, other = memory.empty((4,), np.float32), memory.host((4,), np.float32)
    memory.copy(other, one)
    del one
    with pytest.raises(ViolationError, match='a copy reaches 16 bytes of memory that is not'):
        memory.wait()


def unavailable(reason: str) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise BackendUnavailableError(reason)

    return refuse


def test_cuda_python_is_taken_where_torch_has_no_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_device, 'TorchCuda', unavailable('torch finds no CUDA'))
    monkeypatch.setattr(cuda_device, '_cuda_python', FakeCudart)
    with caplog.at_level('INFO'):
        memory = open_memory(is_mapped=True)
    assert isinstance(memory, CudaMemory) and not memory.computes
    assert 'buffers by cuda-python, masks and sums on the host: torch finds no CUDA' in caplog.text
    device, host = memory.inlet((3,), np.float32)
    assert device is host


def test_without_either_both_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, 'TorchCuda', unavailable('torch finds no CUDA'))
    monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', None)
    words = r'neither torch nor cuda-python .*torch finds no CUDA.*cuda-python cannot be imported'
    with pytest.raises(BackendUnavailableError, match=words):
        open_memory()
    cudart = FakeCudart()
    cudart.devices = 0
    with pytest.raises(BackendUnavailableError, match='finds no GPU that works .*no CUDA-capable'):
        CudaMemory(runtime=cudart)


@pytest.mark.parametrize('is_broken', [False, True])
def test_maps_from_sums_are_those_of_the_passes(is_broken: bool) -> None:
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.3), (7, 12, 9)).transpose(0, 3, 1, 2)
    if is_broken:
        p[3, :, 4, 5] = np.nan
    votes = p.argmax(1)[:, None] == np.arange(5)[:, None, None]
    with np.errstate(invalid='ignore', divide='ignore'):
        entropy = np.where(p == 0, 0, -p * np.log(p)).sum(1)
    sums = {'sum_p': p.sum(0), 'sum_entropy': entropy.sum(0), 'sum_p2': (p * p).sum((0, 1)),
            'votes': votes.sum(0).astype(float)}
    request = MapRequest(frozenset({'margin', 'unknown'}))
    found = maps_from_sums(sums, 7, (12, 9), request=request)
    wanted = maps_from_probabilities(p, request=request)
    assert found.present == wanted.present
    for name in wanted.present:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0,
                                   atol=1e-6, err_msg=name)
    assert np.isnan(found.entropy).sum() == is_broken


def test_maps_from_coarse_sums_are_those_of_coarse_logits() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (6, 4, 5, 7))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sums = {'sum_p': p.sum(0), 'sum_entropy': -(p * np.log(p)).sum((0, 1)),
            'sum_p2': (p * p).sum((0, 1)), 'sum_logits': logits.sum(0),
            'votes': (p == p.max(1, keepdims=True)).sum(0).astype(float)}
    request = MapRequest.of(MORE_MAPS)
    found = maps_from_sums(sums, 6, (20, 28), request=request)
    wanted = maps_from_coarse_logits(logits, 20, 28, request=request)
    assert found.present == wanted.present
    for name in wanted.present:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0,
                                   atol=1e-6, err_msg=name)


def test_the_stand_in_is_what_cuda_python_is() -> None:
    folder = os.environ.get('UNCERTAINTY_SEG_RTX17', '')
    if not Path(folder, 'cuda', 'bindings').is_dir():
        pytest.skip('cuda-bindings is not in the folder of UNCERTAINTY_SEG_RTX17: scripts/test '
                    'installs it')
    ours = {name: kind for name, kind in inspect.getmembers(FakeCudart, inspect.isfunction)
            if name.startswith('cuda')}
    done = subprocess.run(
        [sys.executable, '-c', LOOK, json.dumps([list(ours), VALUES])], capture_output=True,
        text=True, check=True, env={**os.environ, 'PYTHONPATH': folder})
    theirs, values = json.loads(done.stdout)
    assert len(ours) > 15
    for name, function in ours.items():
        inside = re.fullmatch(rf'{name}\((.*)\)', theirs[name])
        assert inside is not None, theirs[name]
        # 'size_t count', 'kind: cudaMemcpyKind', 'stream'
        taken = [part.split(':')[0].split()[-1] for part in inside[1].split(',') if part]
        assert taken == list(inspect.signature(function).parameters)[1:], theirs[name]
    for name, value in values.items():
        found: Any = FakeCudart
        for part in name.split('.'):
            found = getattr(found, part)
        assert int(found) == value, name
