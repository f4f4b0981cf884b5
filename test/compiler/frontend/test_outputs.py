# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The single output is logits (1, C, h, w), whose softmax is the network's output."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx_front_end_helpers import make, make_static, N, ops, run, values
import pytest

from uncertainty_seg.compiler.frontend.outputs import to_logits
from uncertainty_seg.compiler.onnx_tools import types_of
from uncertainty_seg.errors import GraphError

I64 = np.int64


def net(nodes: list[onnx.NodeProto], tensors: dict[str, Any] | None = None, classes: int = 4,
        outputs: tuple[str, ...] = ('y',), made: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Make a net of 3 -> 8 -> C channels to `z` (1, C, 8, 16), followed by the nodes."""
    weights = {'w1': values(8, 3, 3, 3), 'b1': values(8), 'w2': values(classes, 8, 1, 1),
               'b2': values(classes)}
    body = [N('Conv', ['x', 'w1', 'b1'], ['c'], pads=[1] * 4), N('Relu', ['c'], ['r']),
            N('Conv', ['r', 'w2', 'b2'], ['z'], name='last'), *nodes]
    model = make(body, {**weights, **(tensors or {})}, outputs=outputs, made=made)
    return make_static(model, 8, 16)


def softmax(z: np.ndarray, axis: int = 1) -> np.ndarray:
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def logits_of(model: onnx.ModelProto, classes: int = 4, output: str | None = None) -> np.ndarray:
    before = model.SerializeToString()
    result = to_logits(model, output, classes)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert len(result.graph.output) == 1
    value, = run(result)
    assert types_of(result)[result.graph.output[0].name].shape == value.shape
    return value


PLANES = N('Softmax', ['z'], ['y'], axis=1)
ENDS: dict[str, list[onnx.NodeProto]] = {
    'softmax': [PLANES],
    'softmax of a negative axis': [N('Softmax', ['z'], ['y'], axis=-3)],
    'softmax of the older exporter': [
        N('Transpose', ['z'], ['t'], perm=[0, 2, 3, 1]), N('Softmax', ['t'], ['s'], axis=3),
        N('Transpose', ['s'], ['y'], perm=[0, 3, 1, 2])],
    'softmax of planes last': [N('Transpose', ['z'], ['t'], perm=[0, 2, 3, 1]),
                               N('Softmax', ['t'], ['y'], axis=-1)],
    'softmax, squeezed': [N('Softmax', ['z'], ['s'], axis=1), N('Squeeze', ['s', 'zero'], ['y'])],
    'softmax of a list of pixels': [
        N('Reshape', ['z', 'pixels'], ['p'], name='flat'), N('Softmax', ['p'], ['s'], axis=1),
        N('Reshape', ['s', 'planes'], ['y'])],
    'squeezed, softmax': [N('Squeeze', ['z', 'zero'], ['s']), N('Softmax', ['s'], ['y'], axis=0)],
}
NUMBERS = {'zero': np.array([0], I64), 'pixels': np.array([1, 4, 128], I64),
           'planes': np.array([1, 4, 8, 16], I64)}


@pytest.mark.parametrize('name', ENDS)
def test_the_softmax_of_the_logits_is_what_the_network_gave(name: str) -> None:
    model = net(ENDS[name], NUMBERS)
    said = run(model)[0]
    if 'last' in name:
        said = said.transpose(0, 3, 1, 2)
    logits = logits_of(model)
    np.testing.assert_allclose(softmax(logits), said.reshape(1, 4, 8, 16), atol=1e-6)
    assert logits.min() < 0
    assert 'Softmax' not in ops(to_logits(model, None, 4))


def test_a_log_softmax_is_taken_off_too() -> None:
    model = net([N('LogSoftmax', ['z'], ['y'], axis=1)])
    np.testing.assert_allclose(np.log(softmax(logits_of(model))), run(model)[0], atol=1e-5)
    assert ops(to_logits(model, None, 4)) == ['Conv', 'Relu', 'Conv']


def test_a_softmax_inside_the_network_stays() -> None:
    model = net([N('Softmax', ['z'], ['s'], axis=1), N('Conv', ['s', 'w3'], ['y'])],
                {'w3': values(4, 4, 1, 1)})
    assert ops(to_logits(model, None, 4)) == ops(model)


@pytest.mark.parametrize('scaled', [True, False])
def test_a_last_upsampling_of_planes_last_becomes_one_of_planes(scaled: bool) -> None:
    tensors = {'s': np.array([1, 2, 2, 1], np.float32), 'n': np.array([1, 16, 32, 4], I64)}
    inputs = ['t', '', 's'] if scaled else ['t', '', '', 'n']
    model = net([N('Transpose', ['z'], ['t'], perm=[0, 2, 3, 1]),
                 N('Resize', inputs, ['y'], mode='linear')], tensors)
    np.testing.assert_allclose(logits_of(model), run(model)[0].transpose(0, 3, 1, 2), atol=1e-5)
    assert ops(to_logits(model, None, 4))[-2:] == ['Conv', 'Resize']


BINARY: dict[str, list[onnx.NodeProto]] = {
    'sigmoid': [N('Sigmoid', ['z'], ['y'])],
    'sigmoid, squeezed': [N('Sigmoid', ['z'], ['s']), N('Squeeze', ['s', 'both'], ['y'])],
    'sigmoid of planes last': [N('Transpose', ['z'], ['t'], perm=[0, 2, 3, 1]),
                               N('Sigmoid', ['t'], ['y'])],
    'sigmoid of an activation': [N('Tanh', ['z'], ['t']), N('Sigmoid', ['t'], ['y'])],
}


@pytest.mark.parametrize('name', BINARY)
def test_the_softmax_of_two_classes_is_the_sigmoid_of_one_channel(name: str) -> None:
    model = net(BINARY[name], {'both': np.array([0, 1], I64)}, classes=1)
    said = run(model)[0].reshape(8, 16)
    np.testing.assert_allclose(softmax(logits_of(model, 2))[0, 1], said, atol=1e-6)


@pytest.mark.parametrize('stated', ['scales', 'sizes'])
def test_two_classes_are_made_before_the_last_upsampling(stated: str) -> None:
    tensors = {'s': np.array([1, 1, 2, 2], np.float32), 'n': np.array([1, 1, 16, 32], I64)}
    inputs = ['z', '', 's'] if stated == 'scales' else ['z', '', '', 'n']
    model = net([N('Resize', inputs, ['y'], mode='linear')], tensors, classes=1)
    logits = logits_of(model, 2)
    np.testing.assert_allclose(logits[:, 1:] - logits[:, :1], run(model)[0], atol=1e-5)
    assert ops(to_logits(model, None, 2)) == ['Conv', 'Relu', 'Conv', 'Resize']


def two_outputs(names: tuple[str, str], second: onnx.NodeProto) -> onnx.ModelProto:
    return net([N('Identity', ['z'], [names[0]]), second], outputs=names)


def test_the_output_called_out_is_the_one() -> None:
    model = two_outputs(('out', 'aux'), N('Neg', ['z'], ['aux']))
    np.testing.assert_array_equal(logits_of(model), run(model)[0])
    assert 'Neg' not in ops(to_logits(model, None, 4))


def test_the_output_with_as_many_channels_as_classes_is_the_one() -> None:
    model = two_outputs(('a', 'b'), N('Identity', ['r'], ['b']))
    np.testing.assert_array_equal(logits_of(model), run(model)[0])
    np.testing.assert_array_equal(logits_of(model, 8), run(model)[1])


def test_an_output_is_chosen_by_name() -> None:
    model = two_outputs(('out', 'aux'), N('Neg', ['z'], ['aux']))
    np.testing.assert_array_equal(logits_of(model, 4, 'aux'), run(model)[1])


def test_several_outputs_that_fit_are_listed_with_their_shapes() -> None:
    model = two_outputs(('a', 'b'), N('Neg', ['z'], ['b']))
    with pytest.raises(GraphError, match=r'2 outputs \(a \(1, 4, 8, 16\), b '):
        to_logits(model, None, 4)


def test_a_wrong_name_is_answered_with_a_near_one() -> None:
    model = two_outputs(('out', 'auxiliary'), N('Neg', ['z'], ['auxiliary']))
    with pytest.raises(GraphError, match="no output 'auxilary'.*did you mean auxiliary"):
        to_logits(model, 'auxilary', 4)


RESIZED = {'s': np.array([1, 1, 2, 2], np.float32), 'n': np.array([1, 16, 32], I64)}


@pytest.mark.parametrize('nodes, classes, words', [
    ([N('ArgMax', ['z'], ['y'], name='best', axis=1)], 4,
     "ArgMax 'best', which keeps no probabilities.*output.z"),
    ([N('ArgMax', ['z'], ['i'], axis=1), N('Cast', ['i'], ['y'], to=1)], 4, 'ArgMax'),
    ([N('Softmax', ['z'], ['p'], name='soft', axis=1),
      N('Resize', ['p', '', 's'], ['y'], mode='linear')], 4, "'soft'.*output=z"),
    ([N('Sigmoid', ['z'], ['y'])], 4, 'sigmoid of 4 channels'),
    ([N('Softmax', ['z'], ['y'], name='soft', axis=3)], 4, "'soft' runs along axis 3"),
    ([N('Flatten', ['z'], ['f'], axis=1), N('Softmax', ['f'], ['p'], name='soft'),
      N('Reshape', ['p', 'k'], ['y'])], 4, "'soft' runs along"),
    ([N('Identity', ['z'], ['y'])], 3, '4 channels, expected 3 classes'),
    ([N('Reshape', ['z', 'n'], ['y'])], 4, r'\(1, 1, 16, 32\) has 1 channel'),
    ([N('Reshape', ['z', 'n'], ['y'])], 1, r'\(1, 1, 16, 32\) has 1 channel.*two classes'),
    ([N('Unsqueeze', ['z', 'a'], ['y'])], 4, r'shape \(1, 1, 4, 8, 16\)'),
])
def test_what_has_no_exact_way_back_to_logits_is_refused(
    nodes: list[onnx.NodeProto], classes: int, words: str
) -> None:
    tensors = {**RESIZED, 'k': np.array([1, 4, 8, 16], I64), 'a': np.array([0], I64)}
    made = TensorProto.INT64 if nodes[-1].op_type == 'ArgMax' else TensorProto.FLOAT
    with pytest.raises(GraphError, match=words):
        to_logits(net(nodes, tensors, made=made), None, classes)


# --- flattened planes with as many pixels as classes, and a vector ---

PLACES_8 = [N('Resize', ['z', '', '', 'size'], ['s']), N('Reshape', ['s', 'list'], ['f']),
            N('Transpose', ['f'], ['y'], perm=[0, 2, 1])]
EIGHT = {'size': np.array([1, 8, 2, 4], I64), 'list': np.array([1, 8, 8], I64)}


def test_a_list_of_as_many_places_as_classes_is_a_question() -> None:
    with pytest.raises(GraphError, match='8 classes first or last'):
        to_logits(net(PLACES_8, EIGHT, classes=8), None, 8)


def test_one_channel_of_log_sigmoid_is_refused_with_what_is_before() -> None:
    model = net([N('Sigmoid', ['z'], ['s']), N('Log', ['s'], ['y'])], classes=1)
    with pytest.raises(GraphError, match='logarithm of a sigmoid of one channel.*output.z'):
        to_logits(model, None, 2)
    assert logits_of(model, 2, 'z').shape == (1, 2, 8, 16)


@pytest.mark.parametrize('classes', [2, 4])
def test_a_vector_of_classes_is_no_map(classes: int) -> None:
    model = net([N('GlobalAveragePool', ['z'], ['g']), N('Flatten', ['g'], ['y'])],
                classes=classes)
    with pytest.raises(GraphError, match='expected .1, C, h, w.'):
        to_logits(model, None, classes)
