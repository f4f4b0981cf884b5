# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What is folded into weights, masks and batch norms, computes the same; so do weights by mask."""

from graph_samples import (
    drop,
    masked,
    network,
    node,
    ops,
    parts,
    run,
    run_split,
    TOLERANCE,
    weights,
    X,
)
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.fold_masks import dynamic_conv, fold_batch_norm, fold_masks
from uncertainty_seg.compiler.algebra.free_passes import find_passes, PassesAxis
from uncertainty_seg.compiler.algebra.masked_graph import view_of
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

W1, W3 = weights(4, 6, 1, 1), weights(4, 6, 3, 3)
RELU = node('Relu', 'x', 'r')
D = drop('r', 'd')
OUT = node('Tanh', 'c', 'output')


def folded(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> tuple[
        list[str], tuple]:
    plain, sites = masked(nodes, constants)
    trunk, head, masks, expected = parts(plain, sites)
    result, decisions = fold_masks(head)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)
    return ops(result), decisions


@pytest.mark.parametrize('bias', [True, False])
def test_a_1x1_convolution_becomes_one_matrix_product(bias: bool) -> None:
    conv = node('Conv', 'd w b' if bias else 'd w', 'c', kernel_shape=[1, 1])
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W1, 'b': weights(4)})
    assert 'MatMul' in found and 'Conv' not in found and ('Add' in found) == bias
    assert decision.is_applied and decision.where == 'mask_d' and decision.saved > 0


@pytest.mark.parametrize('attributes', [
    {'pads': [1, 1, 1, 1]}, {'strides': [2, 2]}, {'dilations': [2, 2], 'pads': [2, 1, 0, 1]},
    {'auto_pad': 'SAME_UPPER'}])
def test_a_larger_kernel_becomes_one_convolution_at_batch_1(attributes: dict) -> None:
    conv = node('Conv', 'd w b', 'c', kernel_shape=[3, 3], **attributes)
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W3, 'b': weights(4)})
    assert found.count('Conv') == 1 and found.count('Mul') == 1
    assert decision.is_applied and "Conv 'c'" in decision.reason


def test_a_1x1_convolution_with_strides_is_a_convolution_still() -> None:
    conv = node('Conv', 'd w', 'c', kernel_shape=[1, 1], strides=[2, 2])
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W1})
    assert 'Conv' in found and decision.is_applied


def test_a_mask_before_several_convolutions_folds_into_each() -> None:
    nodes = [RELU, D, node('Conv', 'd w', 'a', kernel_shape=[1, 1]),
             node('Conv', 'd v', 'b', kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             node('Add', 'a b', 'c'), OUT]
    found, (decision,) = folded(nodes, {'w': W1, 'v': W3})
    assert decision.is_applied and found.count('MatMul') == found.count('Conv') == 1


@pytest.mark.parametrize('rank', [3, 4])
def test_a_mask_over_columns_folds_into_a_product(rank: int) -> None:
    """No dropout makes such a mask by itself; a product of rows and columns does."""
    rows = [1, 1, 16, 30] if rank == 4 else [1, 16, 30]
    plain, sites = masked([node('Reshape', 'x rows', 'r'), drop('r', 'd'),
                           node('MatMul', 'd w', 'output')],
                          {'rows': np.array(rows), 'w': weights(30, 8)})
    trunk, head, _, _ = parts(plain, sites)
    del head.graph.input[-1]
    head.graph.input.append(onnx.helper.make_tensor_value_info(
        'mask_d', onnx.TensorProto.FLOAT, ['T', *[1] * (rank - 2), 30]))
    rng = np.random.default_rng(2)
    masks = {'mask_d': rng.uniform(size=(5, *[1] * (rank - 2), 30)).astype(np.float32)}
    result, (decision,) = fold_masks(head)
    assert decision.is_applied
    np.testing.assert_allclose(run_split(trunk, result, masks), run_split(trunk, head, masks),
                               atol=TOLERANCE)


@pytest.mark.parametrize('nodes, constants, words', [
    ([drop('r', 'd', 'element'), node('Conv', 'd w', 'c')], {'w': W1}, 'no mask over whole'),
    ([D, node('Sigmoid', 'd', 'c')], {}, "Sigmoid 'c' follows"),
    ([D, node('Conv', 'd w', 'c', group=2)], {'w': weights(4, 3, 1, 1)}, 'works in groups'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[3, 3])], {'w': weights(24, 6, 3, 3)},
     '216 weights an input channel for 80 pixels'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[1, 1])], {'w': weights(81, 6, 1, 1)},
     '81 weights an input channel for 80 pixels'),
    ([D, node('Exp', 'w', 'e'), node('Conv', 'd e', 'c')], {'w': W1}, 'computed weights'),
    ([D, node('Conv', 'd w', 'a'), node('Abs', 'd', 'b'), node('Conv', 'b w', 'e'),
      node('Add', 'a e', 'c')], {'w': W1}, "Abs 'b' follows"),
])
def test_what_is_not_folded_stays_and_says_why(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], words: str
) -> None:
    plain, sites = masked([RELU, *nodes, OUT], constants)
    _, head, _, _ = parts(plain, sites)
    result, (decision,) = fold_masks(head)
    assert not decision.is_applied and words in decision.reason
    assert ops(result) == ops(head)


def test_many_weights_of_a_large_kernel_stay_in_the_batch() -> None:
    """On a large image 32 outputs of 3x3 are within the pixels, and still slower."""
    nodes = [node('Resize', 'x - scale', 'r', mode='nearest'), D,
             node('Conv', 'd w', 'c', kernel_shape=[3, 3]), OUT]
    plain, sites = masked(nodes, {'w': weights(32, 6, 3, 3),
                                  'scale': np.array([1, 1, 4, 4], np.float32)})
    _, head, _, _ = parts(plain, sites)
    _, (decision,) = fold_masks(head)
    assert not decision.is_applied and '288 weights an input channel: above 200' in decision.reason


def test_a_mask_on_what_differs_between_the_passes_is_not_considered() -> None:
    nodes = [D, node('Sigmoid', 'd', 's'), drop('s', 'e'), node('Conv', 'e w', 'c'), OUT]
    found, decisions = folded([RELU, *nodes], {'w': W1})
    assert [d.where for d in decisions] == ['mask_d'] and 'Conv' in found


@pytest.mark.parametrize('kernel, is_folded', [(3, False), (1, True)])
def test_no_convolution_of_a_symbolic_number_of_outputs_is_made_where_none_is_wanted(
    kernel: int, is_folded: bool
) -> None:
    """Such a one is refused by TensorRT; products with computed weights it takes."""
    conv = node('Conv', 'd w', 'c', kernel_shape=[kernel] * 2)
    plain, sites = masked([RELU, D, conv, OUT], {'w': weights(4, 6, kernel, kernel)})
    trunk, head, masks, expected = parts(plain, sites)
    result, (decision,) = fold_masks(head, into_kernels=False)
    assert decision.is_applied == is_folded and ('Conv' in ops(result)) != is_folded
    assert 'MatMul' in ops(result) or ops(result) == ops(head)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)


# -------------------------------------------------------------------------------------------------
# A batch normalisation moves into the weights before it, and nowhere else.

STATISTICS = 'gain shift mean variance'


def norm(data: str, output: str, channels: int, **attributes: object) -> tuple[
        onnx.NodeProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(channels)
    names = [f'{output}_{name}' for name in STATISTICS.split()]
    values = [rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=channels),
              rng.uniform(0.5, 2, channels)]
    made = node('BatchNormalization', ' '.join([data, *names]), output, **attributes)
    return made, {k: v.astype(np.float32) for k, v in zip(names, values, strict=True)}


LINEAR = {
    'conv': (node('Conv', 'x w b', 'c', pads=[1, 1, 1, 1]),
             {'w': weights(4, 6, 3, 3), 'b': weights(4)}, 4),
    'conv_without_bias': (node('Conv', 'x w', 'c', strides=[2, 2]), {'w': weights(4, 6, 3, 3)}, 4),
    'depthwise': (node('Conv', 'x w', 'c', group=6), {'w': weights(6, 1, 3, 3)}, 6),
    'transposed': (node('ConvTranspose', 'x w b', 'c', strides=[2, 2]),
                   {'w': weights(6, 4, 2, 2), 'b': weights(4)}, 4),
    'transposed_groups': (node('ConvTranspose', 'x w', 'c', group=2), {'w': weights(6, 4, 2, 2)},
                          8),
}


@pytest.mark.parametrize('kind', LINEAR)
def test_a_norm_behind_a_convolution_is_folded(kind: str) -> None:
    linear, constants, channels = LINEAR[kind]
    bn, statistics = norm('c', 'n', channels, epsilon=1e-3)
    model = network([linear, bn, node('Relu', 'n', 'output')], {**constants, **statistics})
    folded, (decision,) = fold_batch_norm(model)
    assert ops(folded) == [linear.op_type, 'Relu']
    assert decision.is_applied and decision.saved > 0
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


@pytest.mark.parametrize('is_transposed', [0, 1])
def test_a_norm_behind_gemm_is_folded(is_transposed: int) -> None:
    for beta, bias in ((1.0, 5), (0.5, 5), (0.0, 5), (2.0, 1)):
        bn, statistics = norm('c', 'output', 5)
        w = weights(6, 5)
        constants = {'w': w.T.copy() if is_transposed else w, 'b': weights(bias), **statistics}
        model = network([
            node('GlobalAveragePool', 'x', 'g'), node('Flatten', 'g', 'f'),
            node('Gemm', 'f w b', 'c', transB=is_transposed, alpha=0.7, beta=beta), bn], constants)
        folded, _ = fold_batch_norm(model)
        assert ops(folded)[-1] == 'Gemm', beta
        np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0],
                                   atol=TOLERANCE, err_msg=f'beta {beta}')


def test_two_convolutions_that_share_weights_keep_their_own() -> None:
    first, one = norm('a', 'na', 4)
    second, two = norm('b', 'nb', 4)
    two = {k: v + 1 for k, v in two.items()}
    model = network([node('Conv', 'x w', 'a'), node('Conv', 'x w', 'b'), first, second,
                     node('Sub', 'na nb', 'output')], {'w': weights(4, 6, 3, 3), **one, **two})
    folded, decisions = fold_batch_norm(model)
    assert [d.is_applied for d in decisions] == [True, True]
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


@pytest.mark.parametrize('why, words', [
    ('before', 'stands behind an input'), ('shared', "Conv 'c' has other users"),
    ('activation', 'stands behind Relu'), ('computed', 'computed weights')])
def test_a_norm_that_cannot_move_stays_and_says_why(why: str, words: str) -> None:
    bn, statistics = norm({'before': 'x', 'activation': 'r'}.get(why, 'c'), 'n',
                          6 if why == 'before' else 4)
    constants = {'w': weights(4, 6, 3, 3), 'w2': weights(5, 6, 3, 3), **statistics}
    last = node('Add', 'n c', 'output') if why == 'shared' else node('Relu', 'n', 'output')
    nodes = {'before': [bn], 'shared': [node('Conv', 'x w', 'c'), bn],
             'activation': [node('Conv', 'x w', 'c'), node('Relu', 'c', 'r'), bn],
             'computed': [node('Exp', 'w', 'e'), node('Conv', 'x e', 'c'), bn]}[why]
    model = network([*nodes, last], constants)
    folded, (decision,) = fold_batch_norm(model)
    assert not decision.is_applied and words in decision.reason
    assert ops(folded) == ops(model)


@pytest.mark.parametrize('way', ['attribute', 'outputs'])
def test_a_norm_in_training_mode_is_refused_by_name(way: str) -> None:
    bn, statistics = norm('x', 'output', 6, training_mode=1)
    if way == 'outputs':
        bn.attribute[0].i = 0
        bn.output.append('running_mean')
    with pytest.raises(GraphError, match="'output' is in training mode, expected eval mode"):
        fold_batch_norm(network([bn], statistics))


def test_folding_before_the_masks_leaves_the_passes_as_they_were() -> None:
    bn, statistics = norm('c', 'n', 4)
    last, more = norm('h', 'output', 3)
    model = network(
        [node('Conv', 'x w', 'c'), bn, drop('n', 'd'), node('Conv', 'd v', 'h'), last],
        {'w': weights(4, 6, 3, 3), 'v': weights(3, 4, 3, 3), **statistics, **more})
    folded, decisions = fold_batch_norm(model)
    assert [d.is_applied for d in decisions] == [True, True]
    plain, sites = dropout_to_masks(model)
    trunk, head, masks, expected = parts(plain, sites)
    trunk, head, masks, _ = parts(*dropout_to_masks(folded))
    np.testing.assert_allclose(run_split(trunk, head, masks), expected, atol=TOLERANCE)


# -------------------------------------------------------------------------------------------------
# A convolution with generated weights runs for T passes as for each of them alone.

def generator(*shape: int, bias: bool = False) -> tuple[
        list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Pool the image, drop, and generate weights of a shape (and a bias) from it."""
    size = int(np.prod(shape))
    nodes = [node('GlobalAveragePool', 'x', 'g'), node('Flatten', 'g', 'f'),
             drop('f', 'd', 'element'), node('MatMul', 'd make', 'flat'),
             node('Reshape', 'flat shape', 'w')]
    constants = {'make': weights(6, size), 'shape': np.array(shape)}
    if bias:
        nodes += [node('MatMul', 'd make_b', 'flat_b'), node('Reshape', 'flat_b shape_b', 'b')]
        constants |= {'make_b': weights(6, shape[0], seed=2), 'shape_b': np.array(shape[:1])}
    return nodes, constants


def every_pass(model: onnx.ModelProto, sites: tuple[DropoutSite, ...],
               masks: dict[str, np.ndarray]) -> np.ndarray:
    """Run the graph as exported, once a pass."""
    passes = len(next(iter(masks.values())))
    return np.concatenate([
        run(model, {'x': X, **{k: v[t:t + 1] for k, v in masks.items()}})[0]
        for t in range(passes)])


def with_free_passes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Free the first axis of the reshape that makes the weights, as `free_passes` does."""
    for tensor in model.graph.initializer:
        if tensor.name in ('shape', 'shape_b'):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


CASES = {
    '1x1': ((4, 6, 1, 1), {}),
    '3x3': ((4, 6, 3, 3), {'pads': [1, 1, 1, 1]}),
    '3x3_strides': ((4, 6, 3, 3), {'strides': [2, 3]}),
    '1x1_strides': ((4, 6, 1, 1), {'strides': [2, 2]}),
    'dilated': ((2, 6, 3, 2), {'dilations': [2, 1], 'pads': [0, 1, 2, 0]}),
    'same_upper': ((2, 6, 2, 3), {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}),
    'same_lower': ((2, 6, 2, 3), {'auto_pad': 'SAME_LOWER'}),
    'groups': ((4, 3, 3, 3), {'group': 2}),
    'depthwise': ((6, 1, 3, 3), {'group': 6, 'pads': [1, 1, 1, 1]}),
    'depthwise_1x1': ((6, 1, 1, 1), {'group': 6}),
    'multiplier': ((12, 1, 3, 3), {'group': 6}),
}


@pytest.mark.parametrize('case', CASES)
def test_generated_weights_work_for_every_number_of_passes(case: str) -> None:
    for bias in ('none', 'fixed', 'generated'):
        for is_data_random in (True, False):
            require_same_passes(*CASES[case], bias, is_data_random)


def require_same_passes(
    shape: tuple[int, ...], attributes: dict, bias: str, is_data_random: bool
) -> None:
    what = f'bias {bias}, random data {is_data_random}'
    nodes, constants = generator(*shape, bias=bias == 'generated')
    if is_data_random:
        nodes += [drop('x', 'data')]
    data = 'data' if is_data_random else 'x'
    if bias == 'fixed':
        constants['b'] = weights(shape[0])
    conv = node('Conv', f'{data} w' + (' b' if bias != 'none' else ''), 'c', **attributes)
    plain, sites = masked([*nodes, conv, node('Tanh', 'c', 'output')], constants)
    masks = make_masks(sites, 5, 3)
    expected = every_pass(plain, sites, masks)
    result, (decision,) = dynamic_conv(plain, sites)
    assert decision.is_applied and 'Conv' not in ops(result), what
    np.testing.assert_allclose(every_pass(result, sites, masks), expected, atol=TOLERANCE,
                               err_msg=what)
    trunk, head = split_trunk_head(with_free_passes(result), sites)
    np.testing.assert_allclose(run_split(trunk, head, masks), expected, atol=TOLERANCE,
                               err_msg=what)


def test_the_axis_of_the_passes_is_found_behind_the_product() -> None:
    """What `passes_axis` needs to know: nothing of the rewritten graph loses the passes."""
    nodes, constants = generator(4, 6, 3, 3, bias=True)
    plain, sites = masked([*nodes, node('Conv', 'x w b', 'output')], constants)
    result, _ = dynamic_conv(plain, sites)
    view = view_of(result, sites)
    found = find_passes(result.graph.node, view.shapes, view.constants,
                        {site.name: PassesAxis(0) for site in sites})
    assert not found.lost and found.axes['output'] == PassesAxis(0)


def test_weights_that_are_the_same_in_all_passes_stay_a_convolution() -> None:
    nodes, constants = generator(4, 6, 3, 3)
    nodes[2] = helper.make_node('Identity', ['f'], ['d'])
    plain, sites = masked([*nodes, node('Conv', 'x w', 'c'), drop('c', 'output')], constants)
    result, decisions = dynamic_conv(plain, sites)
    assert decisions == () and ops(result) == ops(plain)


def test_a_transposed_convolution_with_generated_weights_is_refused_by_name() -> None:
    nodes, constants = generator(6, 4, 2, 2)
    plain, sites = masked([*nodes, node('ConvTranspose', 'x w', 'output')], constants)
    with pytest.raises(GraphError, match="ConvTranspose 'output' has weights that differ"):
        dynamic_conv(plain, sites)
