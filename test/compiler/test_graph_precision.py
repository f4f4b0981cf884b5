# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Graphs in 16 bits and back compute what the float32 graph does, to their rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graph_samples import net, run, run_split, SPEC, tensor
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx.reference import ReferenceEvaluator
import onnxruntime
import pytest

from uncertainty_seg.backends.cpu.openvino import core_of_process
from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.fold_masks import fold_masks
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.compile import compile_graph
from uncertainty_seg.compiler.frontend.lint import lint
from uncertainty_seg.compiler.frontend.static_input import take_bytes
from uncertainty_seg.compiler.head_graphs import add_statistics
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.compiler.precision import (
    halve_weights,
    restore_weights,
    to_float32,
    to_precision,
)
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.errors import GraphError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (1, 8, 16, 3), np.uint8)
LOW = {'fp16': TensorProto.FLOAT16, 'bf16': TensorProto.BFLOAT16}
# Largest change of a logit against the largest logit. Measured: 1.1e-3 (numpy sums in float16) and
# 4e-3.
TOLERANCE = {'fp16': 2e-3, 'bf16': 1e-2}


def parts(kind: str = 'element') -> tuple[onnx.ModelProto, onnx.ModelProto, dict]:
    masked, sites = dropout_to_masks(take_bytes(net(kind), SPEC))
    trunk, head = split_trunk_head(masked, sites)
    return trunk, fold_masks(head)[0], make_masks(sites, 5, 3)


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
    """Put a 1x1 convolution `x` -> `c` before some nodes."""
    weights = np.random.default_rng(1).normal(size=(4, 3, 1, 1)).astype(np.float32)
    first = helper.make_node('Conv', ['x', 'w'], ['c'], kernel_shape=[1, 1])
    return build_model('net', [first, *nodes], [float_info('x', (1, 3, 6, 6))],
                       [float_info(output, shape)], [tensor('w', weights), *tensors])


def reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Ask the evaluator of ONNX itself, which knows bfloat16; ONNX Runtime on a CPU does not."""
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


@pytest.mark.parametrize('kind', ['element', 'channel'])
def test_onnx_runtime_runs_float16_graphs(kind: str) -> None:
    trunk, head, masks = parts(kind)
    right = run_split(trunk, head, masks, IMAGE)
    found = run_split(to_precision(trunk, 'fp16'), to_precision(head, 'fp16'), masks, IMAGE)
    error = np.abs(found - right).max() / np.abs(right).max()
    assert 0 < error < TOLERANCE['fp16']


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_openvino_runs_both(precision: str) -> None:
    pytest.importorskip('openvino')
    trunk, _, _ = parts()
    right = run(trunk, {'image': IMAGE})[0]
    core = core_of_process()
    model = core.read_model(to_precision(trunk, precision).SerializeToString())
    config = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    found = core.compile_model(model, 'CPU', config)([IMAGE])[0]
    assert np.abs(found - right).max() < TOLERANCE[precision] * np.abs(right).max()


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_the_border_keeps_its_types_and_the_files_stay_clean(precision: str) -> None:
    for model in parts('channel')[:2]:
        low = to_precision(model, precision)
        assert border(low) == border(model)
        assert lint(low) == []


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_each_convolution_has_weights_of_its_inputs_type(precision: str) -> None:
    trunk, head, _ = parts()
    convolutions = 0
    for model in (trunk, head):
        low = to_precision(model, precision)
        kinds = types(low)
        for node in low.graph.node:
            if node.op_type == 'Conv':
                convolutions += 1
                assert [kinds[n] for n in (*node.input, *node.output)] == [LOW[precision]] * 4
    assert convolutions == 2


def test_the_image_is_normalised_in_float32() -> None:
    low = to_precision(parts()[0], 'bf16')
    kinds = types(low)
    assert kinds['image_scale'] == kinds['image_shift'] == TensorProto.FLOAT
    assert kinds['input'] == TensorProto.FLOAT  # the network's, behind the normalisation


def test_the_reduction_of_a_head_stays_in_float32() -> None:
    _, head, _ = parts()
    low = to_precision(add_statistics(head, SPEC), 'fp16')
    kinds = types(low)
    statistics = [name for name in kinds if name.startswith(('stats_', 'sum_', 'votes'))]
    assert len(statistics) > 12
    assert TensorProto.FLOAT16 not in {kinds[name] for name in statistics}
    assert kinds['logits'] == TensorProto.FLOAT
    assert kinds['logits_fp16'] == TensorProto.FLOAT16


def test_a_mask_meets_the_weights_it_is_folded_into_in_float32() -> None:
    _, head, _ = parts('channel')
    kinds = types(to_precision(head, 'fp16'))
    assert kinds['logits_masked'] == TensorProto.FLOAT
    assert kinds['logits_stack_fp16'] == kinds['logits_product'] == TensorProto.FLOAT16


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_a_network_compiles_to_three_graphs_of_a_precision(precision: str) -> None:
    compiled = compile_graph(net('element'), SPEC, CompileOptions(precision=precision))
    for data in compiled.files.values():
        model = onnx.load_from_string(data)
        assert LOW[precision] in types(model).values()
        assert {i.type.tensor_type.elem_type for i in model.graph.output} == {TensorProto.FLOAT}


def test_a_softmax_and_what_makes_a_layer_norm_stay_in_float32() -> None:
    nodes = [
        helper.make_node('Softmax', ['c'], ['s'], axis=-1),
        helper.make_node('MatMul', ['s', 'c'], ['m']),
        helper.make_node('ReduceMean', ['m'], ['mean'], axes=[1]),
        helper.make_node('Sub', ['m', 'mean'], ['d']),
        helper.make_node('Pow', ['d', 'two'], ['square']),
        helper.make_node('ReduceMean', ['square'], ['var'], axes=[1]),
        helper.make_node('Add', ['var', 'eps'], ['safe']),
        helper.make_node('Sqrt', ['safe'], ['std']),
        helper.make_node('Div', ['d', 'std'], ['normal']),
        helper.make_node('Identity', ['normal'], ['y']),
    ]
    model = float_net(nodes, tensors=[tensor('two', np.array(2, np.float32)),
                                      tensor('eps', np.array(1e-12, np.float32))])
    low = to_precision(model, 'fp16')
    kinds = types(low)
    kept = ('s', 'mean', 'square', 'var', 'eps', 'safe', 'std', 'normal')
    assert {kinds[name] for name in kept} == {TensorProto.FLOAT}
    assert {kinds[name] for name in ('c', 'm', 'd')} == {TensorProto.FLOAT16}
    x = RNG.normal(size=(1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(low, {'x': x})[0], run(model, {'x': x})[0], atol=2e-2)


def over_length(kind: str) -> onnx.ModelProto:
    """Return a net that makes vectors over the channels of length 1, as a network may write it."""
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
        'norm': [make('ReduceL2', ['c'], ['n'], axes=[1], keepdims=1), end[1]],
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


# From where squares are beyond float16, to where they are nothing in it; the second nearly fills
# its range.
@pytest.mark.parametrize('size', [400.0, 9000.0, 1.0, 1e-3])
@pytest.mark.parametrize('kind', [
    'product', 'sign', 'made twice', 'power', 'norm', 'reciprocal', 'negative power', 'einsum',
    'rows by columns'])
def test_vectors_of_length_1_have_it_whatever_their_length_was(kind: str, size: float) -> None:
    x = (size * RNG.normal(size=(1, 3, 6, 6))).clip(-3 * size, 3 * size).astype(np.float32)
    model = over_length(kind)
    weights = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == 'w'))
    # By another road, in float64: the vectors as float16 has them, over their length.
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
    # The vectors have the rounding of float16's smallest numbers; their length is 1 nevertheless.
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)


def test_a_product_of_two_different_tensors_stays_in_16_bits() -> None:
    nodes = [helper.make_node('Sigmoid', ['c'], ['gate']),
             helper.make_node('Mul', ['c', 'gate'], ['swish']),
             helper.make_node('MatMul', ['swish', 'c'], ['y'])]
    kinds = types(to_precision(float_net(nodes), 'fp16'))
    assert kinds['swish'] == kinds['y_fp16'] == TensorProto.FLOAT16


def test_a_tensor_between_two_layers_is_not_cast_back_and_forth() -> None:
    nodes = [helper.make_node('Relu', ['c'], ['r']),
             helper.make_node('Clip', ['r', '', 'six'], ['k']),
             helper.make_node('MaxPool', ['k'], ['p'], kernel_shape=[1, 1]),
             helper.make_node('Add', ['p', 'r'], ['y'])]
    low = to_precision(float_net(nodes, tensors=[tensor('six', np.array(6, np.float32))]), 'fp16')
    ops = [node.op_type for node in low.graph.node]
    assert ops == ['Cast', 'Conv', 'Relu', 'Clip', 'MaxPool', 'Add', 'Cast']


def test_scales_of_a_resize_stay_in_float32() -> None:
    nodes = [helper.make_node('Resize', ['c', '', 'scales'], ['y'], mode='linear')]
    model = float_net(nodes, shape=(1, 4, 12, 12),
                      tensors=[tensor('scales', np.array([1, 1, 2, 2], np.float32))])
    low = to_precision(model, 'fp16')
    assert types(low)['scales'] == TensorProto.FLOAT
    assert [node.op_type for node in low.graph.node] == ['Cast', 'Conv', 'Resize', 'Cast']
    x = RNG.normal(size=(1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(low, {'x': x})[0], run(model, {'x': x})[0], atol=1e-2)


def test_halved_weights_are_stored_once_and_without_a_cast() -> None:
    big = RNG.normal(size=(64, 3, 1, 1)).astype(np.float32)
    node = helper.make_node('Conv', ['x', 'big'], ['y'], kernel_shape=[1, 1])
    model = build_model('net', [node], [float_info('x', (1, 3, 6, 6))],
                        [float_info('y', (1, 64, 6, 6))], [tensor('big', big)])
    model.graph.initializer.append(tensor('unused', RNG.normal(size=300).astype(np.float32)))
    low = to_precision(halve_weights(model), 'fp16')
    assert low.graph.initializer[0].data_type == TensorProto.FLOAT16
    assert [n.op_type for n in low.graph.node] == ['Cast', 'Conv', 'Cast']


def test_restoring_undoes_halving_but_for_the_rounding() -> None:
    model = net('none')
    big = RNG.normal(size=(64, 3, 3, 3)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(tensor('w1', big))
    restored = restore_weights(halve_weights(model))
    assert list(restored.graph.node) == list(model.graph.node)
    values = {t.name: numpy_helper.to_array(t) for t in restored.graph.initializer}
    assert set(values) == {t.name for t in model.graph.initializer}
    np.testing.assert_array_equal(values['w1'], big.astype(np.float16).astype(np.float32))
    assert restore_weights(model) == model


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


def test_a_clip_without_an_upper_bound_keeps_none() -> None:
    bounds = [tensor('low', np.array(0, np.float32)), tensor('high', np.array(3e38, np.float32))]
    nodes = [helper.make_node('Clip', ['c', 'low', 'high'], ['y'])]
    low = to_precision(float_net(nodes, tensors=bounds), 'fp16')
    values = {t.name: numpy_helper.to_array(t) for t in low.graph.initializer}
    assert values['high_fp16'] == np.float16(65504)


def test_names_that_are_taken_get_another() -> None:
    nodes = [helper.make_node('Relu', ['c'], ['y_fp16']),
             helper.make_node('Neg', ['y_fp16'], ['y'])]
    model = float_net(nodes)
    x = RNG.normal(size=(1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(
        run(to_precision(model, 'fp16'), {'x': x})[0], run(model, {'x': x})[0], atol=1e-2)


def test_the_given_graph_is_left_alone() -> None:
    trunk, _, _ = parts()
    before = trunk.SerializeToString()
    to_precision(trunk, 'fp16')
    assert trunk.SerializeToString() == before


def broken(fault: str) -> onnx.ModelProto:
    if fault == 'large':
        return float_net([helper.make_node('Mul', ['c', 'k'], ['y'])],
                         tensors=[tensor('k', np.array([7e4], np.float32))])
    if fault == 'half':
        return float_net([helper.make_node('Cast', ['c'], ['h'], to=TensorProto.FLOAT16),
                          helper.make_node('Cast', ['h'], ['y'], to=TensorProto.FLOAT)])
    if fault == 'quantised':
        pair = [tensor('s', np.array(0.1, np.float32)), tensor('z', np.array(0, np.int8))]
        return float_net([helper.make_node('QuantizeLinear', ['c', 's', 'z'], ['q'], 'quant'),
                          helper.make_node('DequantizeLinear', ['q', 's', 'z'], ['y'])],
                         tensors=pair)
    branch = helper.make_graph([helper.make_node('Neg', ['c'], ['b'])], 'branch', [],
                               [float_info('b', (1, 4, 6, 6))])
    yes = tensor('yes', np.array(True))
    return float_net([helper.make_node('If', ['yes'], ['y'], 'choice', then_branch=branch,
                                       else_branch=branch)], tensors=[yes])


@pytest.mark.parametrize('fault, words', [
    ('large', "weight 'k_fp16' reaches 7e\\+04, expected at most 65504 in fp16: compile with"),
    ('half', "tensor 'h' is FLOAT16, expected FLOAT throughout"),
    ('quantised', "holds QuantizeLinear 'quant', expected float32 throughout"),
    ('branch', "node 'choice' \\(If\\) holds a graph of its own"),
])
def test_what_cannot_be_in_sixteen_bits_is_refused(fault: str, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        to_precision(broken(fault), 'fp16')


def test_bfloat16_takes_what_is_too_large_for_float16() -> None:
    assert to_precision(broken('large'), 'bf16').graph.name == 'net'


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(GraphError, match="precision 'fp8', expected one of fp16, bf16"):
        to_precision(net('none'), 'fp8')


# -------------------------------------------------------------------------------------------------
# A graph of 16 bits, taken back to float32, computes with the weights it has.

def trunk() -> onnx.ModelProto:
    return onnx.load_from_string(compile_graph(net('element'), SPEC).files['trunk.onnx'])


def run_plain(model: onnx.ModelProto) -> np.ndarray:
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
    for weight in model.graph.initializer:
        if weight.name in weights:
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(round_to(values, kind), weight.name))
    return model


def round_to(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == 'fp16':
        return values.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_only_the_rounding_of_the_weights_stays(kind: str) -> None:
    found = run_plain(to_float32(to_precision(trunk(), kind)))
    np.testing.assert_allclose(found, run_plain(rounded(trunk(), kind)), rtol=0, atol=1e-6)
    assert np.abs(found - run_plain(trunk())).max() > 1e-5


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_nothing_of_16_bits_is_left_and_the_given_graph_is_left_alone(kind: str) -> None:
    low = to_precision(trunk(), kind)
    before = low.SerializeToString()
    wide = to_float32(low)
    onnx.checker.check_model(wide, full_check=True)
    assert not [t.name for t in wide.graph.initializer if t.data_type in LOW.values()]
    assert not [a.i for n in wide.graph.node for a in n.attribute
                if a.name == 'to' and a.i in LOW.values()]
    assert low.SerializeToString() == before


def test_weights_stored_in_half_are_widened_too() -> None:
    halved = halve_weights(trunk())
    np.testing.assert_array_equal(run_plain(to_float32(halved)), run_plain(halved))
