# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Graphs rewritten for OpenVINO give equal results; only forms that run faster are rewritten."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

openvino = pytest.importorskip('openvino')
from uncertainty_seg.backends.cpu.openvino import (  # noqa: E402
    core_of_process,
    import_openvino,
    transpose_upsampled,
)

OV = import_openvino()
RNG = np.random.default_rng(0)
C, O, H, W = 8, 12, 5, 6  # noqa: E741
ASYMMETRIC = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
SAME = {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1]}


def network(resize: dict[str, Any], conv: dict[str, Any], *, channels: int = C,
            scales: tuple[float, ...] = (1, 1, 2, 2), has_half: bool = False,
            is_computed: bool = False) -> Any:
    """Make a Resize of x and a convolution; its weights are computed, 16-bit, or plain."""
    rows, columns = conv['kernel_shape']
    weights = RNG.normal(size=(O, channels // conv.get('group', 1), rows, columns))
    kind = np.float16 if has_half else np.float32
    tensors = [numpy_helper.from_array(np.array(scales, np.float32), 'scales'),
               numpy_helper.from_array(RNG.normal(size=O).astype(np.float32), 'bias')]
    inputs = [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, channels, H, W])]
    if is_computed:
        inputs.append(helper.make_tensor_value_info('w', TensorProto.FLOAT, weights.shape))
    else:
        name = 'stored' if has_half else 'w'
        tensors.append(numpy_helper.from_array(weights.astype(kind), name))
    nodes = [helper.make_node('Resize', ['x', '', 'scales'], ['up'], **resize)]
    if has_half:
        nodes.append(helper.make_node('Cast', ['stored'], ['w'], to=TensorProto.FLOAT))
    nodes += [helper.make_node('Conv', ['up', 'w', 'bias'], ['c'], 'conv', **conv),
              helper.make_node('Relu', ['c'], ['y'])]
    output = helper.make_tensor_value_info('y', TensorProto.FLOAT, [None] * 4)
    model = helper.make_model(
        helper.make_graph(nodes, 'net', inputs, [output], tensors),
        opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    return core_of_process().read_model(model.SerializeToString())


def run(model: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    options = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    compiled = core_of_process().compile_model(model, 'CPU', options)
    result = compiled.create_infer_request().infer(list(inputs))
    return [np.array(result[port]) for port in compiled.outputs]


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize('resize', [
    ASYMMETRIC,
    {'coordinate_transformation_mode': 'half_pixel', 'nearest_mode': 'round_prefer_floor'},
])
@pytest.mark.parametrize('has_half', [False, True])
def test_a_convolution_behind_a_doubling_is_one_transposed_convolution(
    resize: dict[str, Any], has_half: bool
) -> None:
    model = network({'mode': 'nearest', **resize}, SAME, has_half=has_half)
    image = RNG.normal(size=(1, C, H, W)).astype(np.float32)
    before, = run(model.clone(), image)
    assert transpose_upsampled(OV, model) == 1
    assert 'ConvolutionBackpropData' in kinds(model)
    assert not {'Interpolate', 'Convolution'} & set(kinds(model))
    after, = run(model, image)
    assert after.shape == before.shape == (1, O, 2 * H, 2 * W)
    np.testing.assert_allclose(after, before, atol=2e-5)
    assert before.std() > 1


@pytest.mark.parametrize('resize, conv, more', [
    ({'mode': 'linear'}, SAME, {}),
    (ASYMMETRIC, SAME, {'scales': (1, 1, 3, 3)}),
    (ASYMMETRIC, SAME, {'scales': (1, 1, 2, 1)}),
    # These modes select a neighbour of some pixels.
    ({'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'ceil'}, SAME, {}),
    ({'coordinate_transformation_mode': 'align_corners', 'nearest_mode': 'floor'}, SAME, {}),
    (ASYMMETRIC, {'kernel_shape': [1, 1]}, {}),
    (ASYMMETRIC, {'kernel_shape': [5, 5], 'pads': [2] * 4}, {}),
    (ASYMMETRIC, {'kernel_shape': [3, 3]}, {}),
    (ASYMMETRIC, {**SAME, 'strides': [2, 2]}, {}),
    (ASYMMETRIC, {'kernel_shape': [3, 3], 'pads': [2] * 4, 'dilations': [2, 2]}, {}),
    (ASYMMETRIC, {**SAME, 'group': 4}, {}),
    (ASYMMETRIC, SAME, {'channels': 4}),
    (ASYMMETRIC, SAME, {'is_computed': True}),
])
def test_everything_else_is_left_alone(
    resize: dict[str, Any], conv: dict[str, Any], more: dict[str, Any]
) -> None:
    model = network({'mode': 'nearest', **resize}, conv, **more)
    assert transpose_upsampled(OV, model) == 0
    assert 'Interpolate' in kinds(model) and 'ConvolutionBackpropData' not in kinds(model)
