# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every name of TensorRT that the package uses is in five versions, and so is the stand-in's.

The real modules are imported (see tensorrt_interface). Used names are read from the package's
source: each attribute that some class of TensorRT-RTX 1.7 has, which builds for real
(test_tensorrt_build_gate). What a version lacks, and the package asks for first, is listed. The
stand-in has no name, argument or value that the real one has not, and its teeth are broken once.

"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from enum import EnumMeta
import gc
import inspect
from pathlib import Path
import re
import threading
from typing import Any

from fake_cuda import FakeCuda, STREAM, ViolationError
from fake_tensorrt import fake_tensorrt, plan_of, RTX
import numpy as np
from onnx import helper, numpy_helper, TensorProto
import pytest
from tensorrt_interface import INTERFACES

from uncertainty_seg.backends.gpu.nvidia import CudaMemory

BACKENDS = Path(__file__).resolve().parents[3] / 'uncertainty_seg' / 'backends'
# The files that touch TensorRT.
FILES = ('engine_build.py', 'nvidia.py', 'tensorrt.py')
CLASSES = ('Builder', 'OnnxParser', 'ParserError', 'IBuilderConfig', 'INetworkDefinition',
           'ITensor', 'IOptimizationProfile', 'Runtime', 'ICudaEngine', 'IExecutionContext',
           'IRuntimeConfig', 'IRuntimeCache')
# Names that the package looks up by string, or that are no attributes.
BY_STRING = {
    'BuilderFlag.TF32', 'BuilderFlag.REQUIRE_USER_ALLOCATION', 'ComputeCapability',
    'NetworkDefinitionCreationFlag.STRONGLY_TYPED',
    *(f'ILogger.Severity.{name}' for name in
      ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE')),
    'ILogger.log', 'TensorIOMode.INPUT', 'MemoryPoolType.WORKSPACE', 'MemoryPoolType.TACTIC_DRAM',
    *(f'IProgressMonitor.{name}' for name in ('phase_start', 'step_complete', 'phase_finish')),
    'DynamicShapesKernelSpecializationStrategy.EAGER',
    'ExecutionContextAllocationStrategy.USER_MANAGED', 'IExecutionContext.is_stream_capturable',
}
# Asked of TensorRT-RTX only; 10 declares some of it, and 11 most.
ONLY_RTX = {
    'ComputeCapability', 'IBuilderConfig.num_compute_capabilities',
    'IBuilderConfig.set_compute_capability', 'BuilderFlag.REQUIRE_USER_ALLOCATION',
    'DynamicShapesKernelSpecializationStrategy.EAGER', 'IRuntimeCache.serialize',
    'IRuntimeCache.deserialize', 'IRuntimeConfig.create_runtime_cache',
    'IRuntimeConfig.set_runtime_cache',
    'IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy',
    'IExecutionContext.is_stream_capturable'}
LACKS = {'1.7.1.116': set(), '1.4.0.76': set(), '11.4.0.106': ONLY_RTX, '10.16.1.11': ONLY_RTX,
         '10.3.0': ONLY_RTX | {'ICudaEngine.create_runtime_config',
                               'IRuntimeConfig.set_execution_context_allocation_strategy'}}
VERSIONS = [pytest.param(number, marks=[] if number == RTX else pytest.mark.release)
            for number in INTERFACES]


def used_names() -> list[str]:
    """Return Class.attribute for each attribute in the package's files."""
    attributes = {node.attr for name in FILES
                  for node in ast.walk(ast.parse((BACKENDS / 'gpu' / name).read_text()))
                  if isinstance(node, ast.Attribute) and not node.attr.startswith('_')}
    return sorted(BY_STRING | {f'{kind}.{name}' for kind in CLASSES for name in attributes})


@pytest.mark.parametrize('number', VERSIONS)
def test_what_is_used_exists(number: str, tmp_path: Path) -> None:
    here = INTERFACES[RTX].facts(used_names(), tmp_path)
    asked = [name for name, facts in here.items() if facts is not None]
    assert set(asked) >= BY_STRING and len(asked) > 55
    found = INTERFACES[number].facts(asked, tmp_path)
    assert {name for name in asked if found[name] is None} == LACKS[number]


def test_no_other_file_touches_tensorrt_and_no_bit_of_a_flag_is_written_down() -> None:
    for path in sorted(BACKENDS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        if path.name in FILES:
            assert re.findall(r'1 << \d', text) == []  # bits differ between versions
        else:
            found = re.findall(r'trt\.module|\.execute_async|create_execution_context', text)
            assert not found, path.name


# The stand-in -----------------------------------------------------------------------------------


def members(owner: str, kind: type) -> dict[str, Any]:
    """Return every public name of a class of the stand-in -> what it is there."""
    found: dict[str, Any] = {owner: kind}
    if isinstance(kind, EnumMeta):
        values: Mapping[str, Any] = kind.__members__
        return {**found, **{f'{owner}.{name}': one for name, one in values.items()}}
    for name in dir(kind):
        if not name.startswith('_') or (name == '__init__' and owner == 'Runtime'):
            value = getattr(kind, name)
            found |= members(f'{owner}.{name}', value) if isinstance(value, type) else {
                f'{owner}.{name}': value}
    return found


@pytest.mark.parametrize('number', VERSIONS)
def test_the_stand_in_takes_and_gives_what_the_real_one_does(number: str, tmp_path: Path) -> None:
    ours = {name: one for kind in vars(fake_tensorrt(FakeCuda())).values()
            if isinstance(kind, type) for name, one in members(kind.__name__, kind).items()}
    real = INTERFACES[number].facts(sorted(ours), tmp_path)
    if number == RTX:
        assert [name for name in ours if real[name] is None] == []
        values = {name: int(one) for name, one in ours.items()
                  if isinstance(type(one), EnumMeta) and type(one).__name__ in name.split('.')}
        assert values == {name: real[name]['value'] for name in values}
    checked = 0
    for name, one in ours.items():
        theirs = real[name]
        if theirs is None or not inspect.isfunction(one):
            # A property: the real one must not be called either.
            assert theirs is None or not isinstance(one, property) or not theirs['is_callable']
            continue
        signature, short = inspect.signature(one), name.rsplit('.', 1)[1]
        forms = re.findall(rf'^(?:\d+\. )?{short}\(self: ?[^,)]*(.*)\) -> (.*)$', theirs['doc'],
                           re.MULTILINE)
        wanted = list(signature.parameters)[1:]
        if number == RTX or not name.endswith('create_execution_context'):
            assert wanted in [re.findall(r', (\w+):', form)[:len(wanted)] for form, _ in forms], (
                name, theirs['doc'])
        if signature.return_annotation in ('bool', 'int', 'str', 'list[str]'):
            assert {kind.lower() for _, kind in forms} == {signature.return_annotation}, name
        checked += 1
    assert checked >= 11


class Summer:
    """An engine that sums float32 (T, 2) over T, of 1 to 4, with all that it needs."""

    def __init__(self, version: str = '10.3.0') -> None:
        info = [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['T', 2]),
                helper.make_tensor_value_info('y', TensorProto.FLOAT, [2])]
        nodes = [helper.make_node('ReduceSum', ['x', 'axes'], ['y'], keepdims=0)]
        graph = helper.make_graph(nodes, 'g', info[:1], info[1:], [
            numpy_helper.from_array(np.zeros(1, np.int64), 'axes')])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)],
                                  ir_version=8)
        plan = plan_of(model.SerializeToString(), {'x': ((1, 2), (4, 2), (4, 2))}, version)
        self.gpu = FakeCuda()
        self.memory, self.module = CudaMemory(cuda=self.gpu), fake_tensorrt(self.gpu, version)
        self.engine: Any = self.module.Runtime(
            type('Logger', (self.module.ILogger,), {'log': lambda *_: None})(),
        ).deserialize_cuda_engine(plan)
        self.config = self.engine.create_runtime_config() if version == RTX else None
        self.context: Any = self.engine.create_execution_context(self.config)
        self.x: Any = self.memory.empty((3, 2), np.float32)
        self.y: Any = self.memory.empty((2,), np.float32)
        assert self.context.set_input_shape('x', (3, 2))
        assert self.context.set_tensor_address('x', self.x.address)
        assert self.context.set_tensor_address('y', self.y.address)

    def recorded(self) -> Callable[[], None]:
        return self.memory.capture(self.run)

    def run(self) -> None:
        assert self.context.execute_async_v3(stream_handle=STREAM)


def free_a_buffer(summer: Summer) -> None:
    summer.x = None
    gc.collect()
    summer.run()
    summer.memory.wait()


def free_the_engine(summer: Summer) -> None:
    summer.engine = None
    gc.collect()
    summer.run()


def record_cold(summer: Summer) -> None:
    summer.recorded()


def change_after_recording(summer: Summer) -> None:
    summer.run()
    replay = summer.recorded()
    summer.context.set_tensor_address('y', summer.memory.empty((2,), np.float32).address)
    replay()
    summer.memory.wait()


def spin(summer: Summer) -> None:
    summer.gpu.cudaEventSynchronize(summer.gpu.cudaEventCreateWithFlags(0)[1])


@pytest.mark.parametrize(('harm', 'says'), [
    (free_a_buffer, 'not allocated'), (free_the_engine, 'engine is gone'),
    (record_cold, 'before it ran'), (change_after_recording, 'has changed'),
    (spin, 'spins')])
def test_what_would_crash_is_a_violation(harm: Callable[[Summer], None], says: str) -> None:
    summer = Summer()
    with pytest.raises(ViolationError, match=says):
        harm(summer)
    assert len(summer.gpu.violations) == 1


def test_two_threads_in_a_context_are_a_violation() -> None:
    summer, raised = Summer(), []

    def work() -> None:
        try:
            summer.context.infer_shapes()
        except ViolationError as err:
            raised.append(err)

    def meanwhile(_: int) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    summer.gpu.faults.meanwhile = meanwhile
    summer.run()
    assert len(raised) == 1


def test_rtx_works_in_the_memory_that_it_is_given_and_lazy_kernels_are_not_recorded() -> None:
    summer = Summer(RTX)
    assert not summer.context.is_stream_capturable(STREAM)  # it would allocate
    summer.config.set_execution_context_allocation_strategy(
        summer.module.ExecutionContextAllocationStrategy.USER_MANAGED)
    assert summer.context.is_stream_capturable(STREAM)
    with pytest.raises(ViolationError, match='0 bytes to work in, of 3000'):
        summer.run()
    kept = summer.memory.empty((summer.context.update_device_memory_size_for_shapes(),), np.uint8)
    summer.context.set_device_memory(kept.address, kept.nbytes)
    summer.run()
    with pytest.raises(ViolationError, match='kernels that are not those of these shapes'):
        summer.recorded()
