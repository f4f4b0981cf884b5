# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The stand-in for TensorRT has no name, argument or value that the real one has not, and its teeth.

The real module of TensorRT-RTX is imported (see tensorrt_interface). Then every rule that the
stand-in enforces is broken once.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import EnumMeta
import gc
import inspect
import re
import threading
from typing import Any

from fake_cuda import FakeCuda, STREAM, ViolationError
from fake_tensorrt import fake_tensorrt, plan_of, RTX
import numpy as np
from onnx import helper, numpy_helper, TensorProto
import pytest
from tensorrt_interface import INTERFACES

from uncertainty_seg.backends.gpu.nvidia import CudaBuffer, CudaMemory, MODULES, TensorRt


def surface() -> dict[str, Any]:
    """Every public name of the stand-in -> what it is there."""
    found: dict[str, Any] = {}
    for name, kind in vars(fake_tensorrt(FakeCuda())).items():
        if isinstance(kind, type):
            found[name] = kind
            found.update(members(name, kind))
    return found


def members(owner: str, kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(kind, EnumMeta):
        values: Mapping[str, Any] = kind.__members__
        return {f'{owner}.{name}': one for name, one in values.items()}
    for name in dir(kind):
        if not name.startswith('_') or (name == '__init__' and owner == 'Runtime'):
            found[f'{owner}.{name}'] = value = getattr(kind, name)
            if isinstance(value, type):
                found.update(members(f'{owner}.{name}', value))
    return found


@pytest.fixture(scope='module')
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what the real module has of the stand-in's names."""
    return INTERFACES[RTX].facts(sorted(surface()), tmp_path_factory.mktemp('libraries'))


def test_every_name_and_value_of_the_stand_in_is_real(real: dict[str, Any]) -> None:
    ours = surface()
    assert {'Runtime.deserialize_cuda_engine', 'ICudaEngine.num_io_tensors', 'DataType.FLOAT',
            'IExecutionContext.execute_async_v3', 'ILogger.Severity.ERROR'} <= set(ours)
    assert [name for name in ours if real[name] is None] == []
    values = {name: int(one) for name, one in ours.items()
              if isinstance(type(one), EnumMeta) and type(one).__name__ in name.split('.')}
    assert values == {name: real[name]['value'] for name in values}
    trt = TensorRt(fake_tensorrt(FakeCuda()))
    assert trt.name in MODULES and trt.is_rtx


def test_methods_take_and_give_what_the_real_ones_do(real: dict[str, Any]) -> None:
    checked = 0
    for name, ours in surface().items():
        theirs = real[name]
        if not inspect.isfunction(ours):
            # A property: the real one must not be called either.
            assert not isinstance(ours, property) or not theirs['is_callable'], name
            continue
        signature, short = inspect.signature(ours), name.rsplit('.', 1)[1]
        forms = re.findall(rf'^(?:\d+\. )?{short}\(self: ?[^,)]*(.*)\) -> (.*)$', theirs['doc'],
                           re.MULTILINE)
        wanted = list(signature.parameters)[1:]
        taken = [re.findall(r', (\w+):', form)[:len(wanted)] for form, _ in forms]
        assert wanted in taken, (name, theirs['doc'])
        if signature.return_annotation in ('bool', 'int', 'str', 'list[str]'):
            given = {kind.lower() for _, kind in forms}
            assert given == {signature.return_annotation}, name
        checked += 1
    assert checked >= 11


# Its teeth --------------------------------------------------------------------------------------


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
        self.plan = plan_of(model.SerializeToString(), {'x': ((1, 2), (4, 2), (4, 2))}, version)
        self.gpu = FakeCuda()
        self.memory = CudaMemory(cuda=self.gpu)
        self.module = fake_tensorrt(self.gpu, version)

        class Logger(self.module.ILogger):  # type: ignore[name-defined,misc]

            def log(logger, severity: Any, msg: str) -> None:  # noqa: N805
                pass

        self.runtime = self.module.Runtime(Logger())
        self.engine: Any = self.runtime.deserialize_cuda_engine(self.plan)
        self.context: Any = self.engine.create_execution_context()
        self.x: Any = self.memory.empty((3, 2), np.float32)
        self.y: Any = self.memory.empty((2,), np.float32)

    def bind(self) -> None:
        assert self.context.set_input_shape('x', (3, 2))
        assert self.context.set_tensor_address('x', self.x.address)
        assert self.context.set_tensor_address('y', self.y.address)

    def recorded(self) -> Callable[[], None]:
        return self.memory.capture(self.run)

    def run(self) -> None:
        assert self.context.execute_async_v3(stream_handle=STREAM)

    def at(self, buffer: CudaBuffer) -> np.ndarray:
        """Return what a buffer holds when all is done."""
        self.memory.wait()
        return self.gpu.at('a buffer', buffer.address, buffer.shape, buffer.dtype)


@pytest.fixture
def summer() -> Summer:
    return Summer()


def test_it_computes_and_a_graph_runs_when_it_is_replayed(summer: Summer) -> None:
    summer.bind()
    summer.at(summer.x)[:] = 14
    summer.run()
    assert (summer.at(summer.y) == 42).all()
    replay = summer.recorded()
    summer.at(summer.x)[:] = 4
    assert (summer.at(summer.y) == 42).all()  # recorded, and not run
    replay()
    assert (summer.at(summer.y) == 12).all()


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


def use_two_threads(summer: Summer) -> None:
    raised: list[Exception] = []

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
    raise raised[0]


@pytest.mark.parametrize(('harm', 'says'), [
    (free_a_buffer, 'not allocated'),
    (free_the_engine, 'engine is gone'),
    (record_cold, 'before it ran'),
    (change_after_recording, 'has changed'),
    (use_two_threads, 'two threads'),
])
def test_what_would_crash_is_a_violation(
    summer: Summer, harm: Callable[[Summer], None], says: str
) -> None:
    summer.bind()
    with pytest.raises(ViolationError, match=says):
        harm(summer)
    assert len(summer.gpu.violations) == 1


def test_rtx_works_in_the_memory_that_it_is_given_and_lazy_kernels_are_not_recorded() -> None:
    summer = Summer(RTX)
    config = summer.engine.create_runtime_config()
    summer.context = summer.engine.create_execution_context(config)
    assert not summer.context.is_stream_capturable(STREAM)  # it would allocate
    config.set_execution_context_allocation_strategy(
        summer.module.ExecutionContextAllocationStrategy.USER_MANAGED)
    assert summer.context.is_stream_capturable(STREAM)
    summer.bind()
    with pytest.raises(ViolationError, match='0 bytes to work in, of 3000'):
        summer.run()
    kept = summer.memory.empty((summer.context.update_device_memory_size_for_shapes(),), np.uint8)
    summer.context.set_device_memory(kept.address, kept.nbytes)
    summer.run()
    with pytest.raises(ViolationError, match='kernels that are not those of these shapes'):
        summer.recorded()
