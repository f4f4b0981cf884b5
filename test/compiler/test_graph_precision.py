# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Graphs converted to 16 bits and back equal the float32 graph up to rounding."""

from collections.abc import Iterable, Mapping

from graph_samples import net, run, run_split, SPEC, tensor
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx.reference import ReferenceEvaluator
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.move_masks import fold_masks
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.frontend.lint import lint
from uncertainty_seg.compiler.frontend.standard_form import take_bytes
from uncertainty_seg.compiler.head_graphs import add_sums
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.compiler.precision import (
    halve_weights,
    to_precision,
)
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.errors import GraphError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (1, 8, 16, 3), np.uint8)
# Largest change of a logit relative to the largest logit. Measured: 1.1e-3 (numpy sums in float16)
# and 4e-3.
TOLERANCE = {'fp16': 2e-3, 'bf16': 1e-2}


def parts(kind: str = 'element') -> tuple[onnx.ModelProto, onnx.ModelProto, dict]:
    masked, sites = dropout_to_masks(take_bytes(net(kind), SPEC))
    trunk, head = split_trunk_head(masked, sites)
    return trunk, fold_masks(head, sites, 5)[0], make_masks(sites, 5, 3)


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {t.name: t.data_type for t in graph.initializer}
    infos = (*graph.value_info, *graph.input, *graph.output)
    return {**found, **{i.name: i.type.tensor_type.elem_type for i in infos}}


def border(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


def float_net(nodes: Iterable[onnx.NodeProto], output: str = 'y',
              tensors: Iterable[onnx.TensorProto] = (), shape: tuple[int, ...] = (1, 4, 6, 6),
              ) -> onnx.ModelProto:
    """Make a net from a 1x1 convolution `x` -> `c` followed by the nodes."""
    weights = np.random.default_rng(1).normal(size=(4, 3, 1, 1)).astype(np.float32)
    first = helper.make_node('Conv', ['x', 'w'], ['c'], kernel_shape=[1, 1])
    return build_model('net', [first, *nodes], [float_info('x', (1, 3, 6, 6))],
                       [float_info(output, shape)], [tensor('w', weights), *tensors])


def reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run ONNX's reference evaluator, which supports bfloat16, unlike ONNX Runtime on CPUs."""
    return ReferenceEvaluator(model).run(None, dict(feeds))


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
@pytest.mark.parametrize('kind', ['element', 'channel'])
def test_logits_move_by_the_rounding_of_the_type_only(kind: str, precision: str) -> None:
    trunk, head, masks = parts(kind)
    right = run_split(trunk, head, masks, IMAGE)
    low_trunk, low_head = to_precision(trunk, precision), to_precision(head, precision)
    features = reference(low_trunk, {'image': IMAGE})
    names = [info.name for info in trunk.graph.output]
    found = reference(low_head, {**dict(zip(names, features, strict=True)), **masks})[0]
    assert found.dtype == np.float32
    error = np.abs(found - right).max() / np.abs(right).max()
    assert 0 < error < TOLERANCE[precision]


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_the_border_keeps_its_types_and_the_files_stay_clean(precision: str) -> None:
    for model in parts('channel')[:2]:
        low = to_precision(model, precision)
        assert border(low) == border(model)
        assert lint(low) == []


@pytest.mark.parametrize('offset', [(0.0, 0.0), (0.2, 0.2)])
def test_the_sums_over_the_passes_stay_in_float32(offset: tuple[float, float]) -> None:
    _, head, _ = parts()
    low = to_precision(add_sums(head, offset), 'fp16')
    kinds = types(low)
    sums = [name for name in kinds if name.startswith(('sums_', 'sum_', 'votes'))]
    assert len(sums) > 12
    assert TensorProto.FLOAT16 not in {kinds[name] for name in sums}
    assert kinds['logits'] == TensorProto.FLOAT
    assert kinds['logits_fp16'] == TensorProto.FLOAT16


def test_a_softmax_and_what_makes_a_layer_norm_stay_in_float32() -> None:
    nodes = [
        helper.make_node('Softmax', ['c'], ['s'], axis=-1),
        helper.make_node('MatMul', ['s', 'c'], ['m']),
        helper.make_node('ReduceMean', ['m', 'axis'], ['mean']),
        helper.make_node('Sub', ['m', 'mean'], ['d']),
        helper.make_node('Pow', ['d', 'two'], ['square']),
        helper.make_node('ReduceMean', ['square', 'axis'], ['var']),
        helper.make_node('Add', ['var', 'eps'], ['safe']),
        helper.make_node('Sqrt', ['safe'], ['std']),
        helper.make_node('Div', ['d', 'std'], ['normal']),
        helper.make_node('Identity', ['normal'], ['y']),
    ]
    model = float_net(nodes, tensors=[tensor('two', np.array(2, np.float32)),
                                      tensor('axis', np.array([1])),
                                      tensor('eps', np.array(1e-12, np.float32))])
    low = to_precision(model, 'fp16')
    kinds = types(low)
    kept = ('s', 'mean', 'square', 'var', 'eps', 'safe', 'std', 'normal')
    assert {kinds[name] for name in kept} == {TensorProto.FLOAT}
    assert {kinds[name] for name in ('c', 'm', 'd')} == {TensorProto.FLOAT16}
    x = RNG.normal(size=(1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(low, {'x': x})[0], run(model, {'x': x})[0], atol=2e-2)


def over_length(kind: str) -> onnx.ModelProto:
    """Return a net that normalises vectors over the channels, in one of several forms."""
    make = helper.make_node
    end = [make('Sqrt', ['sum'], ['n']), make('Div', ['c', 'n'], ['y'])]
    summed = [make('ReduceSum', ['s', 'axis'], ['sum'], keepdims=1)]
    inverse = [make('Mul', ['c', 'c'], ['s']), *summed]
    nodes = {
        'product': [make('Mul', ['c', 'c'], ['s']), *summed, *end],
        'sign': [make('Neg', ['c'], ['minus']), make('Mul', ['c', 'minus'], ['t']),
                 make('Abs', ['t'], ['s']), *summed, *end],
        'made twice': [make('Sub', ['c', 'zero'], ['a']), make('Sub', ['c', 'zero'], ['b']),
                       make('Mul', ['a', 'b'], ['s']), *summed, *end],
        'power': [make('Pow', ['c', 'two'], ['s']), *summed, *end],
        'norm': [make('ReduceL2', ['c', 'axis'], ['n'], keepdims=1), end[1]],
        'reciprocal': [*inverse, end[0], make('Reciprocal', ['n'], ['r']),
                       make('Identity', ['r'], ['i']), make('Mul', ['i', 'c'], ['y'])],
        'negative power': [*inverse, make('Pow', ['sum', 'minus_half'], ['r']),
                           make('Mul', ['c', 'r'], ['y'])],
        'einsum': [make('Einsum', ['c', 'c'], ['flat'], equation='bchw,bchw->bhw'),
                   make('Unsqueeze', ['flat', 'axis'], ['sum']), *end],
        'rows by columns': [
            make('Transpose', ['c'], ['p'], perm=[0, 2, 3, 1]),
            make('Unsqueeze', ['p', 'row'], ['rows']),
            make('Unsqueeze', ['p', 'column'], ['columns']),
            make('MatMul', ['rows', 'columns'], ['square']),
            make('Squeeze', ['square', 'column'], ['flat']),
            make('Transpose', ['flat'], ['sum'], perm=[0, 3, 1, 2]), *end],
    }[kind]
    tensors = {'axis': np.array([1]), 'row': np.array([-2]), 'column': np.array([-1]),
               'two': np.array(2, np.float32), 'zero': np.array(0, np.float32),
               'minus_half': np.array(-0.5, np.float32)}
    used = {name for node in nodes for name in node.input}
    return float_net(nodes, tensors=[tensor(n, v) for n, v in tensors.items() if n in used])


# From values whose squares overflow float16 to values whose squares underflow; 9000 nearly reaches
# the limit of the range.
@pytest.mark.parametrize('size', [400.0, 9000.0, 1.0, 1e-3])
@pytest.mark.parametrize('kind', [
    'product', 'sign', 'made twice', 'power', 'norm', 'reciprocal', 'negative power', 'einsum',
    'rows by columns'])
def test_vectors_of_length_1_have_it_whatever_their_length_was(kind: str, size: float) -> None:
    x = (size * RNG.normal(size=(1, 3, 6, 6))).clip(-3 * size, 3 * size).astype(np.float32)
    model = over_length(kind)
    weights = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == 'w'))
    # Computed independently in float64: the vectors rounded to float16, divided by their length.
    features = np.einsum('oi,bihw->bohw', weights[:, :, 0, 0].astype(np.float16).astype(float),
                         x.astype(np.float16).astype(float))
    wanted = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = reference(to_precision(model, 'fp16'), {'x': x})[0]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(found, wanted, atol=4e-3)


@pytest.mark.parametrize('kind', ['product', 'norm', 'reciprocal', 'negative power'])
def test_the_inverse_of_a_small_length_is_not_infinite(kind: str) -> None:
    x = RNG.normal(size=(1, 3, 6, 6)).astype(np.float32) * 5e-6
    found = reference(to_precision(over_length(kind), 'fp16'), {'x': x})[0]
    # The vectors are rounded as float16 subnormals; their length must still be 1.
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)


def test_halved_weights_are_stored_once_and_without_a_cast() -> None:
    big = RNG.normal(size=(64, 3, 1, 1)).astype(np.float32)
    node = helper.make_node('Conv', ['x', 'big'], ['y'], kernel_shape=[1, 1])
    model = build_model('net', [node], [float_info('x', (1, 3, 6, 6))],
                        [float_info('y', (1, 64, 6, 6))], [tensor('big', big)])
    model.graph.initializer.append(tensor('unused', RNG.normal(size=300).astype(np.float32)))
    low = to_precision(halve_weights(model), 'fp16')
    assert low.graph.initializer[0].data_type == TensorProto.FLOAT16
    assert [n.op_type for n in low.graph.node] == ['Cast', 'Conv', 'Cast']


@pytest.mark.parametrize('value, bits', [
    (1.0, 0x3F80), (-2.5, 0xC020), (1 + 2**-8, 0x3F80), (1 + 3 * 2**-8, 0x3F82),
    (1 + 2**-8 + 2**-20, 0x3F81), (0.0, 0x0000), (float('-inf'), 0xFF80),
])
def test_bfloat16_weights_are_rounded_to_nearest_even(value: float, bits: int) -> None:
    nodes = [helper.make_node('Add', ['c', 'k'], ['y'])]
    low = to_precision(float_net(nodes, tensors=[tensor('k', np.array([value], np.float32))]),
                       'bf16')
    stored = next(t for t in low.graph.initializer if t.name == 'k_bf16')
    assert np.frombuffer(stored.raw_data, np.uint16).tolist() == [bits]


def broken(fault: str) -> onnx.ModelProto:
    if fault == 'large':
        return float_net([helper.make_node('Mul', ['c', 'k'], ['y'])],
                         tensors=[tensor('k', np.array([7e4], np.float32))])
    if fault == 'half':
        return float_net([helper.make_node('Cast', ['c'], ['h'], to=TensorProto.FLOAT16),
                          helper.make_node('Cast', ['h'], ['y'], to=TensorProto.FLOAT)])
    pair = [tensor('s', np.array(0.1, np.float32)), tensor('z', np.array(0, np.int8))]
    return float_net([helper.make_node('QuantizeLinear', ['c', 's', 'z'], ['q'], 'quant'),
                      helper.make_node('DequantizeLinear', ['q', 's', 'z'], ['y'])], tensors=pair)


@pytest.mark.parametrize('fault, words', [
    ('large', "weight 'k_fp16' reaches 7e\\+04, expected at most 65504 in fp16: compile with"),
    ('half', "tensor 'h' is FLOAT16, expected FLOAT throughout"),
    ('quantised', "holds QuantizeLinear 'quant', expected float32 throughout"),
])
def test_what_cannot_be_in_sixteen_bits_is_refused(fault: str, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        to_precision(broken(fault), 'fp16')
