# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How a build is configured and how far it is.

The weak types of TensorRT 8.6 are set on a network of plain objects: no such TensorRT runs here.

"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.backends.gpu.engine_build import (
    build_engine,
    configure,
    EngineSpec,
    limit_memory,
    PhaseTracker,
)
from uncertainty_seg.backends.gpu.tensorrt_api import TensorRt
from uncertainty_seg.errors import BackendError, BackendUnavailableError, GraphError

FLAGS = SimpleNamespace(FP16='FP16', INT8='INT8', TF32='TF32', OBEY_PRECISION_CONSTRAINTS='OBEY')
TYPES = SimpleNamespace(FLOAT='FLOAT', HALF='HALF', INT32='INT32', BOOL='BOOL')


class Layer:
    """A layer with tensors as (name, type)."""

    def __init__(self, inputs: list[Any], outputs: list[Any]) -> None:
        self._inputs = [one and SimpleNamespace(name=one[0], dtype=one[1]) for one in inputs]
        self._outputs = [SimpleNamespace(name=name, dtype=dtype) for name, dtype in outputs]
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision = None
        self.types: dict[int, str] = {}

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: str) -> None:
        self.types[index] = dtype


class Config:
    """Remembers flags; TF32 is on, as in TensorRT."""

    def __init__(self) -> None:
        self.flags = {'TF32'}

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)


def module_86(**more: Any) -> Any:
    class Logger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    return SimpleNamespace(
        __name__='tensorrt', __version__='8.6.1', BuilderFlag=FLAGS, DataType=TYPES,
        ILogger=Logger, NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0), **more)


def head() -> dict[str, Layer]:
    f, h, i, b = 'FLOAT', 'HALF', 'INT32', 'BOOL'
    return {
        'conv': Layer([('x', h), ('w', h)], [('z', h)]),
        'cast': Layer([('z', h)], [('logits', f)]),
        'resize': Layer([('logits', f), None], [('full', f)]),
        'softmax': Layer([('full', h)], [('p', h)]),
        'shape': Layer([('p', f)], [('size', i)]),
        'slice': Layer([('size', i)], [('part', i)]),
        'winner': Layer([('p', f)], [('top', f), ('class', i)]),
        'equal': Layer([('class', i), ('ids', i)], [('vote', b)]),
        'count': Layer([('vote', b)], [('votes', f)]),
        'aside': Layer([('x', h)], [('side', h)]),
    }


def configured(spec: EngineSpec, layers: dict[str, Layer]) -> Config:
    config, made = Config(), list(layers.values())
    network = SimpleNamespace(num_layers=len(made), get_layer=made.__getitem__, num_inputs=0)
    configure(TensorRt(module_86()), None, config, network, spec, 'head_stats.onnx')
    return config


def weak(precision: str, **more: Any) -> EngineSpec:
    return EngineSpec(precision, {}, False, **more)


def test_everything_behind_the_logits_is_held_in_float32_on_8() -> None:
    layers = head()
    config = configured(weak('fp16', float32_behind='logits'), layers)
    assert config.flags == {'FP16', 'OBEY'}
    assert {name for name, layer in layers.items() if layer.precision == 'FLOAT'} == {
        'resize', 'softmax', 'shape', 'winner'}
    assert {name: layer.types for name, layer in layers.items() if layer.types} == {
        'resize': {0: 'FLOAT'}, 'softmax': {0: 'FLOAT'}, 'winner': {0: 'FLOAT'},
        'count': {0: 'FLOAT'}}


def test_a_head_whose_reduction_cannot_be_found_is_refused() -> None:
    layers = head()
    del layers['cast']
    with pytest.raises(GraphError, match="head_stats.onnx has no tensor 'logits'"):
        configured(weak('fp16', float32_behind='logits'), layers)


def test_a_trunk_has_no_reduction() -> None:
    layers = head()
    configured(weak('int8'), layers)
    assert not any(layer.types or layer.precision for layer in layers.values())


@pytest.mark.parametrize(('precision', 'flags'), [('tf32', {'TF32'}), ('fp32', set())])
def test_factors_are_rounded_where_tf32_was_asked_for_and_nowhere_else(
    precision: str, flags: set[str]
) -> None:
    assert configured(weak(precision, float32_behind='logits'), {}).flags == flags


@pytest.mark.parametrize(('pools', 'limits'), [
    (('WORKSPACE', 'TACTIC_DRAM'), {'WORKSPACE': 2**30, 'TACTIC_DRAM': 2**31}),
    (('WORKSPACE',), {'WORKSPACE': 2**30})])
def test_memory_that_is_shared_is_left_to_the_rest_of_the_machine(
    pools: tuple[str, ...], limits: dict[str, int]
) -> None:
    set_to: dict[str, int] = {}
    config: Any = SimpleNamespace(set_memory_pool_limit=set_to.__setitem__)
    trt = TensorRt(module_86(MemoryPoolType=SimpleNamespace(**{name: name for name in pools})))
    limit_memory(trt, config, 2**32)
    assert set_to == limits
    limit_memory(trt, config, 0)
    assert set_to == limits


def test_bf16_and_other_gpus_are_refused_on_8() -> None:
    with pytest.raises(BackendError, match='8.6.1 does not compute in bf16.*fp32 or fp16'):
        configured(weak('bf16'), {})
    with pytest.raises(BackendError, match='builds for the GPU of this machine only'):
        configured(weak('fp32', compute_capabilities=('8.7',)), {})


def graph(opset: int) -> bytes:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in 'xy']
    made = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'g', info[:1], info[1:])
    model: onnx.ModelProto = helper.make_model(
        made, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    return model.SerializeToString()


class Builder86:
    """Parses anything, builds what it is told."""

    memory: bytes | None = b'plan'

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        assert flags == 1
        return SimpleNamespace(num_layers=0, num_inputs=0)

    def create_builder_config(self) -> Any:
        config = Config()
        cache = SimpleNamespace(serialize=lambda: b'measured')
        config.create_timing_cache = lambda data: cache  # type: ignore[attr-defined]
        # What is given fits no more; a new one does.
        config.set_timing_cache = lambda cache, ignore: True  # type: ignore[attr-defined]
        return config

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        if self.memory is None:
            self.logger.log(1, 'no kernel for node 7')
        return self.memory


def build(opset: int = 17, builder: Any = Builder86, parser: Any = None, **more: Any) -> Any:
    parser = parser or SimpleNamespace(parse=lambda data: True)
    module = module_86(Builder=builder, OnnxParser=lambda network, logger: parser)
    return build_engine(TensorRt(module), graph(opset), weak('fp32'), **more)


def test_opset_18_is_refused_on_8_where_it_reduces_over_all_axes() -> None:
    assert build(17).plan == b'plan'
    with pytest.raises(GraphError, match='opset 18, of which TensorRT 8.6.1 computes some'):
        build(18)


def test_8_tells_start_and_end_and_gives_back_its_measurements() -> None:
    told: list[tuple[float, str]] = []
    built = build(progress=lambda share, phase: told.append((share, phase)))
    assert told == [(0, 'build'), (1, 'built')] and built.timing_cache == b'measured'


def test_what_raises_before_the_build_spares_it() -> None:
    class Never(Builder86):

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            raise AssertionError

    def stop(share: float, phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(builder=Never, progress=stop)


def test_a_failed_build_says_what_tensorrt_said() -> None:
    class Failing(Builder86):
        memory = None

    with pytest.raises(BackendError, match=r'cannot build the graph in fp32 \(no kernel for node'):
        build(builder=Failing)


def test_a_machine_without_a_builder_is_told_so() -> None:
    def none(logger: Any) -> Any:
        raise TypeError('pybind11::init(): factory function returned nullptr')

    with pytest.raises(BackendUnavailableError, match='8.6.1 has no builder here'):
        build(builder=none)


def test_the_parser_of_8_gives_a_number_and_the_name_is_found() -> None:
    error = SimpleNamespace(node=lambda: 0, desc=lambda: 'no\n importer')
    parser = SimpleNamespace(parse=lambda data: False, num_errors=1, get_error=[error].__getitem__)
    with pytest.raises(GraphError, match=r'node 0 \(Relu\): no importer\)'):
        build(parser=parser)


def test_a_phase_inside_another_counts_as_part_of_its_step() -> None:
    told: list[tuple[float, str]] = []
    tracker = PhaseTracker(lambda share, phase: told.append((share, phase)))
    tracker.start('build', None, 4)
    assert tracker.step('build', 0)
    tracker.start('tactics', 'build', 2)
    tracker.step('tactics', 0)
    tracker.start('timing', 'tactics', 5)
    tracker.step('timing', 3)
    tracker.finish('timing')
    tracker.finish('tactics')
    tracker.step('build', 1)
    assert told == [(0, 'build'), (0.25, 'build'), (pytest.approx(0.375), 'tactics'),
                    (pytest.approx(0.475), 'timing'), (0.5, 'build')]


def test_the_share_never_falls_nor_reaches_one() -> None:
    told: list[float] = []
    tracker = PhaseTracker(lambda share, _: told.append(share))
    for name in ('first', 'second'):
        tracker.start(name, None, 2)
        for step in range(2):
            tracker.step(name, step)
        tracker.finish(name)
    assert told == sorted(told) and told[-1] == 0.99


def test_an_interrupt_stops_the_build_and_is_kept() -> None:
    def interrupt(share: float, phase: str) -> None:
        if share > 0:
            raise KeyboardInterrupt

    tracker = PhaseTracker(interrupt)
    tracker.start('build', None, 3)
    assert tracker.error is None
    assert tracker.step('build', 0) is False and tracker.step('build', 1) is False
    assert isinstance(tracker.error, KeyboardInterrupt)


def test_a_phase_that_never_started_is_no_harm() -> None:
    tracker = PhaseTracker(lambda share, phase: None)
    assert tracker.step('ghost', 3)
    tracker.finish('ghost')
