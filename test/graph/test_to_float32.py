# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A graph of 16 bits, taken back to float32, computes with the weights it has."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, TensorProto
import onnxruntime
import pytest
from test_passes import net, SPEC

from uncertainty_seg.graph.compile import compile_graph
from uncertainty_seg.graph.precision import halve_weights, to_float32, to_precision

LOW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def trunk() -> onnx.ModelProto:
    return onnx.load_from_string(compile_graph(net('element'), SPEC).files['trunk.onnx'])


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=['CPUExecutionProvider'])
    image = np.random.default_rng(0).integers(0, 256, (1, SPEC.height, SPEC.width, 3), np.uint8)
    return session.run(None, {'image': image})[0]


def rounded(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Round the weights of the convolutions as `kind` does, in float32."""
    weights = {node.input[1] for node in model.graph.node if node.op_type == 'Conv'}
    weights |= {node.input[2] for node in model.graph.node
                if node.op_type == 'Conv' and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(round_to(values, kind), tensor.name))
    return model


def round_to(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == 'fp16':
        return values.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_only_the_rounding_of_the_weights_stays(kind: str) -> None:
    found = run(to_float32(to_precision(trunk(), kind)))
    np.testing.assert_allclose(found, run(rounded(trunk(), kind)), rtol=0, atol=1e-6)
    assert np.abs(found - run(trunk())).max() > 1e-5


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_nothing_of_16_bits_is_left_and_the_given_graph_is_left_alone(kind: str) -> None:
    low = to_precision(trunk(), kind)
    before = low.SerializeToString()
    wide = to_float32(low)
    onnx.checker.check_model(wide, full_check=True)
    assert not [t.name for t in wide.graph.initializer if t.data_type in LOW]
    assert not [a.i for n in wide.graph.node for a in n.attribute if a.name == 'to' and a.i in LOW]
    assert low.SerializeToString() == before


def test_weights_stored_in_half_are_widened_too() -> None:
    halved = halve_weights(trunk())
    np.testing.assert_array_equal(run(to_float32(halved)), run(halved))
